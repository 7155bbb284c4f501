"""The scan of few columns: the cheapest change that holds, beside every change that there is."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import cfexplain
from cfexplain import PipelineExplainer, PLACEExplainer, ScanExplainer
from cfexplain.density import KernelDensity

pytestmark = pytest.mark.usefixtures("quietly")


@pytest.fixture(scope="module")
def people():
    """A score of five columns with an interaction, none of them alike."""
    random = np.random.RandomState(0)
    X = np.column_stack([random.normal(40, 12, 800), random.lognormal(3, 0.5, 800), random.uniform(0, 1, 800),
                         random.randint(0, 6, 800), random.normal(0, 1, 800)])
    Z = (X - X.mean(0)) / X.std(0)
    y = (Z[:, 0] + 0.8 * Z[:, 1] + Z[:, 2] * Z[:, 3] - 0.5 * Z[:, 4] + 0.3 * random.normal(size=800) > 0.3).astype(int)
    return X, y


def cheapest(model, x, target, X, confidence):
    """The least cost, Σ 1 + |Δ|/std over changed columns, of all changes of one or two columns to a fine grid."""
    grid = [np.unique(np.quantile(X[:, k], np.linspace(0, 1, 41))) for k in range(X.shape[1])]
    best = np.inf
    for columns in itertools.chain.from_iterable(itertools.combinations(range(X.shape[1]), size) for size in (1, 2)):
        tried = np.repeat(x[None], np.prod([len(grid[k]) for k in columns]), axis=0)
        tried[:, columns] = np.stack(np.meshgrid(*(grid[k] for k in columns), indexing="ij"), -1).reshape(-1, len(columns))
        cost = len(columns) + (np.abs(tried - x) / X.std(0)).sum(1)
        fine = model.predict_proba(tried)[:, target] >= confidence
        best = min(best, cost[fine].min(initial=np.inf))
    return best


@pytest.mark.parametrize("model", [RandomForestClassifier(30, max_depth=6, random_state=0),
                                   GradientBoostingClassifier(n_estimators=40, random_state=0),
                                   make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=300, random_state=0))])
def test_no_change_of_two_columns_is_cheaper(people, model):
    X, y = people
    model.fit(X, y)
    rows = X[:400][model.predict(X[:400]) == 0][:15]
    cf = ScanExplainer(model, typical_quantile=None, confidence=0.55, random_state=0).fit(X, y).explain(rows, 1)
    assert cf.valid.all() and cf.complete.all()
    cost = (cf.x_cf != cf.x).sum(1) + (np.abs(cf.x_cf - cf.x) / X.std(0)).sum(1)
    optimum = np.array([cheapest(model, x, 1, X, 0.55) for x in rows])
    assert (cost <= 1.05 * optimum).mean() >= 0.85 and cost.sum() <= 1.05 * optimum.sum()


@pytest.mark.parametrize("model", [GradientBoostingClassifier(n_estimators=40, random_state=0),
                                   make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=300, random_state=0))])
def test_of_all_changes_of_all_columns_none_has_a_smaller_total_of_prices(people, model):
    X, y = people
    prices = np.array([1.0, 0.5, 2.0, 1.0, 1.5])
    model.fit(X, y)
    rows = X[:400][model.predict(X[:400]) == 0][:8]
    explainer = ScanExplainer(model, typical_quantile=None, confidence=0.55, random_state=0,
                              costs=dict(enumerate(prices.tolist())))
    cf = explainer.fit(X, y).explain(rows, 1)
    assert cf.complete.all()
    grid = [np.unique(np.quantile(X[:, k], np.linspace(0, 1, 13), method="nearest")) for k in range(5)]
    ratios = []
    for x, found in zip(rows, cf.cost, strict=True):
        tried = np.stack(np.meshgrid(*(np.append(values, own) for values, own in zip(grid, x, strict=True)),
                                     indexing="ij"), -1).reshape(-1, 5)
        cost = (prices * np.abs(tried - x) / X.std(0)).sum(1)
        cheaper = cost < found
        fine = model.predict_proba(tried[cheaper])[:, 1] >= 0.55 if cheaper.any() else np.zeros(0, dtype=bool)
        ratios.append(found / cost[cheaper][fine].min(initial=found))
    assert np.mean(ratios) <= 1.05 and np.max(ratios) <= 1.25


def total(explainer, x_cf, x, X, target):
    """What the scan minimises, computed anew: columns, crowded beyond two, changes, and how rare the answer is."""
    density = explainer.density_
    said, known = density.score_samples(x_cf, np.full(len(x_cf), target)), density.log_densities_[target]
    changed = (x_cf != x).sum(1)
    below = np.maximum(np.quantile(known, 0.05) - said, 0) / (np.median(known) - np.quantile(known, 0.05))
    rank = np.interp(said, known, np.linspace(0, 1, len(known)))
    return (changed + np.maximum(changed - 2, 0) ** 2 + (np.abs(x_cf - x) / X.std(0)).sum(1)
            + 10 * np.maximum(1 - rank / 0.6, 0) + np.sqrt(below))


def test_with_the_density_in_the_choice_no_change_of_two_columns_is_cheaper(people):
    X, y = people
    model = GradientBoostingClassifier(n_estimators=40, random_state=0).fit(X, y)
    rows = X[:400][model.predict(X[:400]) == 0][:12]
    explainer = ScanExplainer(model, random_state=0).fit(X, y)
    cf = explainer.explain(rows, 1)
    assert cf.valid.all() and np.median(cf.density_percentile) >= 50
    found, best = total(explainer, cf.x_cf, rows, X, 1), np.full(len(rows), np.inf)
    grid = [np.unique(np.quantile(X[:, k], np.linspace(0, 1, 21))) for k in range(X.shape[1])]
    for i, x in enumerate(rows):
        for columns in itertools.chain.from_iterable(itertools.combinations(range(5), size) for size in (1, 2)):
            tried = np.repeat(x[None], np.prod([len(grid[k]) for k in columns]), axis=0)
            tried[:, columns] = np.stack(np.meshgrid(*(grid[k] for k in columns), indexing="ij"), -1).reshape(
                -1, len(columns))
            fine = tried[model.predict_proba(tried)[:, 1] >= 0.55]
            best[i] = min(best[i], total(explainer, fine, x, X, 1).min(initial=np.inf))
    assert found.sum() <= 1.05 * best.sum()


def test_values_of_lumpy_columns_are_those_of_real_rows(people):
    X, y = people
    lumpy = X.copy()
    random = np.random.RandomState(1)
    lumpy[:, 1] = random.choice([0, 0, 0, 0, 310.0, 770.0, 1502.0], size=len(X))
    y = (lumpy[:, 1] + 400 * (X[:, 4] > 0) + 50 * random.normal(size=len(X)) > 500).astype(int)
    model = RandomForestClassifier(30, min_samples_leaf=3, random_state=0).fit(lumpy, y)
    rows = lumpy[model.predict(lumpy) == 0][:40]
    cf = ScanExplainer(model, random_state=0).fit(lumpy, y).explain(rows, 1)
    assert cf.valid.all() and np.isin(cf.x_cf[:, 1], lumpy[:, 1]).all() and (cf.x_cf[:, 1] != rows[:, 1]).any()


def test_kernels_tell_rows_from_such_with_columns_of_another_row():
    random = np.random.RandomState(0)
    Z = np.repeat(random.normal(size=(800, 4)), 4, axis=1) + 0.2 * random.normal(size=(800, 16))  # columns that go together
    density = KernelDensity(random_state=0).fit(Z[:400])
    swapped = Z[400:].copy()
    swapped[:, 3] = np.roll(swapped[:, 3], 1)
    assert (density.score_samples(Z[400:]) > density.score_samples(swapped)).mean() > 0.8


def test_no_more_columns_than_may_change_and_what_one_column_reaches_is_found(people):
    X, y = people
    model = RandomForestClassifier(30, random_state=0).fit(X, y)
    for kind in (ScanExplainer, PLACEExplainer):
        explainer = kind(model, max_changes=1, immutable=[4], training_budget=0.02, max_steps=5, random_state=0).fit(X, y)
        rows = X[:60]
        cf = explainer.explain(rows)
        changed = cf.x_cf != cf.x
        assert changed.sum(1).max() <= 1 and not changed[:, 4].any()
        for i in np.flatnonzero(~cf.valid):
            for k in range(4):
                tried = np.repeat(rows[i : i + 1], 60, axis=0)
                tried[:, k] = np.linspace(X[:, k].min(), X[:, k].max(), 60)
                assert (model.predict(tried) != cf.target[i]).mean() > 0.9


def test_a_category_is_one_change_and_rows_are_those_of_the_pipeline(people):
    X, y = people
    frame = pd.DataFrame(X, columns=list("abcde")).assign(
        d=np.array(["none", "school", "college", "bachelor", "master", "doctor"])[X[:, 3].astype(int)])
    prepare = make_column_transformer((StandardScaler(), list("abce")), (OneHotEncoder(), ["d"]))
    pipe = make_pipeline(prepare, LogisticRegression()).fit(frame, y)
    explainer = PipelineExplainer(pipe, ScanExplainer(), random_state=0).fit(frame, y)
    for most in (1, 2):
        cf = explainer.explain(frame[:40], max_changes=most)
        before, after = cf.to_frames()
        assert (before != after).sum(axis=1).max() <= most and (pipe.predict(after)[cf.valid] == cf.target[cf.valid]).all()
    assert cf.valid.mean() > 0.9
    alone = explainer.explain(frame[5:6], max_changes=2)
    np.testing.assert_array_equal(alone.x_cf[0], cf.x_cf[5])


def test_values_and_files(tmp_path):
    X, y = load_diabetes(return_X_y=True)
    model = RandomForestClassifier(20, random_state=0)
    explainer = ScanExplainer(None, task="regression", training_budget=0.1, random_state=0).fit(X, y)
    cf = explainer.explain(X[:10], (150.0, 180.0))
    assert cf.valid.all() and np.median((cf.x_cf != cf.x).sum(1)) <= 3
    X, y = load_iris(return_X_y=True)
    explainer = ScanExplainer(model.fit(X, y), random_state=0).fit(X, y)
    cf = explainer.explain(X[::10], 1)
    assert cf.valid.all() and not explainer.classifier_.is_surrogate
    explainer.save(tmp_path / "scan")
    again = cfexplain.load(tmp_path / "scan", classifier=model)
    np.testing.assert_array_equal(again.explain(X[::10], 1).x_cf, cf.x_cf)


def test_values_are_reached_by_the_columns_that_matter_among_many_that_do_not():
    random = np.random.RandomState(0)
    X = random.normal(size=(300, 24))
    y = X[:, 20] + X[:, 21] + X[:, 22] + 0.01 * X[:, :20].sum(1)
    explainer = ScanExplainer(LinearRegression().fit(X, y), task="regression", random_state=0).fit(X, y)
    rows = X[y < -1.5][:10]
    cf = explainer.explain(rows, (2.4, 2.6))
    changed = cf.x_cf != cf.x
    assert (cf.status == "converged").all() and (changed.sum(1) <= 3).all() and not changed[:, :20].any()


def test_kernel_density_is_the_mean_of_normal_densities():
    Z = np.random.RandomState(0).normal(size=(60, 3)) * [1, 5, 0.1]
    y = np.repeat([0, 1], 30)
    density = KernelDensity(random_state=0).fit(Z, y)
    z = Z[:4] + 0.1
    own = Z[y == 1]
    apart = torch.distributions.MultivariateNormal(torch.zeros(3).double(), torch.diag(torch.from_numpy(
        (Z.std(0) * density.widths_[1]) ** 2)))
    expected = torch.stack([apart.log_prob(torch.from_numpy(z - row)) for row in own]).logsumexp(0) - np.log(30)
    np.testing.assert_allclose(density.score_samples(z, np.ones(4, dtype=int)), expected, rtol=1e-9)


class Counted(ClassifierMixin, BaseEstimator):
    """A forest that keeps what it is asked about."""

    def fit(self, X, y):
        self.forest_, self.asked_ = RandomForestClassifier(20, random_state=0).fit(X, y), []
        self.classes_ = self.forest_.classes_
        return self

    def predict(self, X):
        self.asked_.append(np.array(X))
        return self.forest_.predict(X)

    def predict_proba(self, X):
        self.asked_.append(np.array(X))
        return self.forest_.predict_proba(X)


def test_a_model_that_may_be_slow_is_not_asked_again_and_again():
    X, y = load_iris(return_X_y=True)
    model = Counted().fit(X, y)
    explainer = ScanExplainer(model, random_state=0).fit(X, y)
    model.asked_.clear()
    assert explainer.explain(X[:6], 1).complete.all()
    asked = np.concatenate(model.asked_)  # once for its decision and once for its probabilities, and in the end once more
    assert len(asked) <= 3.5 * len(np.unique(asked, axis=0))
