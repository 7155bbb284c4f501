"""`valid` is what the model's own predict says, and a row without an answer fails alone."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

from cfexplain import (
    ClassDirectionExplainer,
    Counterfactuals,
    DiffeomorphicExplainer,
    LeapExplainer,
    PipelineExplainer,
    PLACEExplainer,
    evaluate,
)
from cfexplain.classifiers.surrogate import decision_bias
from cfexplain.foundation.exceptions import ClassifierOutputError

pytestmark = [pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
              pytest.mark.filterwarnings("ignore:The surrogate"), pytest.mark.filterwarnings("ignore::FutureWarning")]
QUICK = {"training_budget": 0.02, "random_state": 0}
X, Y = load_breast_cancer(return_X_y=True)
X = StandardScaler().fit_transform(X)[:, :6].astype(np.float32)


class Costly(ClassifierMixin, BaseEstimator):
    """Decides for the least expected cost."""

    def __init__(self, cost=((0, 1), (8, 0))):
        self.cost = cost

    def fit(self, X, y):
        self.inner_ = LogisticRegression().fit(X, y)
        self.classes_ = self.inner_.classes_
        return self

    def predict_proba(self, X):
        return self.inner_.predict_proba(X)

    def predict(self, X):
        return self.classes_[(self.predict_proba(X) @ np.array(self.cost)).argmin(1)]


class Unrelated(Costly):
    """Decides by a column, and not by its probabilities."""

    def predict(self, X):
        return (X[:, 1] < 0.2).astype(int)


MODELS = {"threshold": FixedThresholdClassifier(LogisticRegression(), threshold=0.9),
          "low threshold": FixedThresholdClassifier(LogisticRegression(), threshold=0.1), "costs": Costly(),
          "svc": SVC(probability=True, random_state=0), "unrelated": Unrelated(),
          "inside": make_pipeline(StandardScaler(), FixedThresholdClassifier(LogisticRegression(), threshold=0.9))}


@pytest.mark.parametrize(("kind", "name"), [
    *((LeapExplainer, name) for name in ("low threshold", "svc", "unrelated")), (PLACEExplainer, "threshold"),
    *(pytest.param(kind, name, marks=pytest.mark.slow) for kind, name in (
        (LeapExplainer, "threshold"), (LeapExplainer, "inside"), (LeapExplainer, "costs"),
        (ClassDirectionExplainer, "costs"), (DiffeomorphicExplainer, "svc"), (PLACEExplainer, "unrelated")))])
def test_the_verdict_is_predict(kind, name):
    model = MODELS[name].fit(X, Y)
    more = {"confidence": 0.5, "max_steps": 30} if kind is PLACEExplainer else {}
    explainer = kind(classifier=model, **QUICK, **more).fit(X, Y)
    rows = X[:16]
    np.testing.assert_array_equal(explainer.predict(rows), model.predict(rows))
    for target in (0, 1, None):
        cf = explainer.explain(rows, target)
        np.testing.assert_array_equal(cf.source, model.predict(rows))
        np.testing.assert_array_equal(cf.prediction, model.predict(cf.x_cf))
        np.testing.assert_array_equal(cf.valid, model.predict(cf.x_cf) == cf.target)
        np.testing.assert_array_equal(cf.status == "already_target", model.predict(rows) == cf.target)
        assert (cf.target != cf.source).all() or target is not None
        assert set(cf.status[~cf.valid]) <= {"not_found"}
        if kind in (LeapExplainer, ClassDirectionExplainer) and name != "unrelated":  # they go on to where predict changes
            assert cf.valid.mean() >= 0.9
    assert explainer.score(rows) >= 0


def test_a_bias_explains_thresholds_and_costs_of_several_classes():
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(4), size=500)
    for wanted in ([0, 0.7, -1.2, 0.3], [0, 0, 0, 2.0]):
        predicted = (np.log(proba) + wanted).argmax(1)
        bias, share = decision_bias(proba, predicted)
        assert share >= 0.98 and ((np.log(proba) + bias).argmax(1) == predicted).mean() == share
    assert decision_bias(proba, proba.argmax(1)) == (None, 1.0)
    bias, share = decision_bias(proba, rng.integers(4, size=500))
    assert bias is None and share < 0.5


@pytest.mark.parametrize("form", [
    lambda said, classes: said[:, None], lambda said, classes: (said[:, None] == classes).astype(np.float32),
    lambda said, classes: said.astype(object), lambda said, classes: list(said),
    lambda said, classes: said[:, None].astype(object)], ids=["column", "one-hot", "object", "list", "object column"])
def test_predict_may_say_it_in_any_form(form):
    class Model(RandomForestClassifier):
        def predict(self, X):
            return form(super().predict(X), self.classes_)

    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    model = Model(10, random_state=0).fit(x, names)
    explainer = LeapExplainer(classifier=model, **QUICK).fit(x, names)
    truth = RandomForestClassifier.predict(model, x)
    np.testing.assert_array_equal(explainer.predict(x), truth)
    cf = explainer.explain(x[:5], "virginica")
    np.testing.assert_array_equal(cf.prediction, RandomForestClassifier.predict(model, cf.x_cf))
    wrapped = PipelineExplainer(model, PLACEExplainer(second_opinion=0, **QUICK)).fit(x, names)
    np.testing.assert_array_equal(wrapped.predict(x), truth)
    assert len(wrapped.explain(x[:3], "virginica")) == 3


def test_numbers_as_text_and_one_column_of_probabilities():
    model = LogisticRegression().fit(X, Y)

    class Text:
        def predict(self, X):
            return model.predict(X).astype(str)

    class Keras:
        def predict(self, X):
            return model.predict_proba(X)[:, 1:]

    for bare in (Text(), Keras()):
        explainer = LeapExplainer(classifier=bare, **QUICK).fit(X, Y)
        np.testing.assert_array_equal(explainer.predict(X), model.predict(X))
        assert explainer.explain(X[:5], 1).target.tolist() == [1] * 5


def test_several_targets_at_once_are_refused_by_name():
    class Several:
        def predict(self, X):
            return np.zeros((len(X), 3), dtype=int)

    forest = RandomForestClassifier(3, random_state=0).fit(X, np.column_stack([Y, Y > 0]))
    for model in (forest, Several()):
        with pytest.raises(ClassifierOutputError, match="several targets at once"):
            PLACEExplainer(classifier=model, **QUICK).fit(X, Y)
    with pytest.raises(ClassifierOutputError, match="several targets at once"):
        PipelineExplainer(forest, PLACEExplainer(**QUICK)).fit(X, Y)


# ------------------------------------------------------------------------------------------------------ without an answer
def asked(x):
    return torch.where(x[:, :1] > 20, torch.nan, x)


class Net(nn.Module):
    """A classifier, or a regressor, that gives NaN where the first column is above 20."""

    def __init__(self, outputs):
        super().__init__()
        self.linear = nn.Linear(6, outputs)
        model = LogisticRegression().fit(X, Y)
        weight = torch.tensor(model.coef_, dtype=torch.float32)
        with torch.no_grad():
            self.linear.weight.copy_(weight if outputs == 1 else torch.cat([-weight, weight]) / 2)
            self.linear.bias.zero_()

    def forward(self, x):
        return self.linear(asked(x))


class Failing(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        self.inner_ = LogisticRegression().fit(X, y)
        self.classes_ = self.inner_.classes_
        return self

    def predict(self, X):
        return self.inner_.predict(X)

    def predict_proba(self, X):
        return np.where(X[:, :1] > 20, np.nan, self.inner_.predict_proba(X))


class FailingValues(LinearRegression):
    def predict(self, X):
        return np.where(X[:, 0] > 20, np.inf, super().predict(X))


ROWS = X[:12].copy()
ROWS[3, 0], ROWS[7, 0] = 30, 50
FAILED = np.isin(np.arange(12), [3, 7])
REGRESSION = {"task": "regression", **QUICK}
CASES = {
    "place": lambda: PLACEExplainer(classifier=Net(2), **QUICK).fit(X, Y),
    "leap": lambda: LeapExplainer(classifier=Failing().fit(X, Y), **QUICK).fit(X, Y),
    "surrogate": lambda: PLACEExplainer(classifier=Failing().fit(X, Y), **QUICK).fit(X, Y),
    "regressor": lambda: DiffeomorphicExplainer(classifier=Net(1), **REGRESSION).fit(X, Y.astype(float)),
    "regressor by a surrogate": lambda: DiffeomorphicExplainer(
        classifier=FailingValues().fit(X, Y), **REGRESSION).fit(X, Y.astype(float)),
    "pipeline": lambda: PipelineExplainer(Failing().fit(X, Y), PLACEExplainer(**QUICK)).fit(X, Y)}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * ("surrogate" in name)) for name in CASES])
def test_a_row_without_an_answer_fails_alone(name, tmp_path):
    explainer = CASES[name]()
    target = 0.6 if "regressor" in name else None
    with pytest.warns(ConvergenceWarning, match="NaN or infinity for 2 of 12 rows"):
        cf = explainer.explain(ROWS, target)
    np.testing.assert_array_equal(cf.status == "model_failed", FAILED)
    assert not cf.valid[FAILED].any() and not any(met[FAILED].any() for met in cf.conditions.values())
    np.testing.assert_array_equal(cf.x_cf[FAILED], cf.x[FAILED])
    np.testing.assert_array_equal(np.isnan(cf.prediction if "regressor" in name else cf.proba_after), FAILED)
    if "regressor" not in name:
        assert (cf.prediction != cf.target)[FAILED].all() and np.isnan(cf.proba_before[FAILED]).all()
    alone = explainer.explain(ROWS[~FAILED], target)
    for field in ("x_cf", "z_cf", "status", "n_steps", "log_density"):
        np.testing.assert_array_equal(getattr(cf, field)[~FAILED], getattr(alone, field), err_msg=field)
    # what the user's own model says of a row may depend, in its last bit, on the rows that it is asked about together
    if "regressor" in name:
        np.testing.assert_allclose(cf.prediction[~FAILED], alone.prediction, rtol=1e-6)
    else:
        np.testing.assert_array_equal(cf.prediction[~FAILED], alone.prediction)
    np.testing.assert_allclose(cf.proba_after[~FAILED], alone.proba_after, rtol=1e-5)
    assert cf.backend == alone.backend
    cf.save(tmp_path / "cf.safetensors")
    assert Counterfactuals.load(tmp_path / "cf.safetensors").status.tolist() == cf.status.tolist()
    assert "model_failed 2" in cf.summary() and len(cf.to_frame()) == 12
    cf.to_html(tmp_path / "cf.html")
    assert "Model failed" in (tmp_path / "cf.html").read_text(encoding="utf-8") and "model_failed" in cf._repr_html_()
    with pytest.warns(ConvergenceWarning, match="That is every row"):
        assert (explainer.explain(ROWS[FAILED], target).status == "model_failed").all()


def test_the_way_of_a_failed_row_is_shown_and_methods_are_compared(tmp_path):
    explainer = CASES["place"]()
    cf = explainer.explain(ROWS, record_path=True)
    paths = explainer.decode_path(cf)
    assert np.isnan(paths[3].proba).all() and (paths[3].x[0] == cf.x_cf[3]).all() and not np.isnan(paths[2].proba).any()
    report = evaluate({"PLACE": explainer}, ROWS)
    assert report.statuses["PLACE"]["model_failed"] == 2 and report.table["PLACE"]["confidence_gain"].missing == 2
    store = explainer.explain_to(tmp_path / "folder", ROWS, block_size=5)
    assert (np.concatenate([part.status for part in store]) == cf.status).all()


def test_a_best_effort_without_an_answer_is_not_valid():
    explainer = CASES["place"]()
    x = explainer.read_samples(ROWS[:2])
    goal = explainer.goal(x, None)
    found = explainer.search(x, goal)
    found.x_cf[1, 0] = 30
    cf = explainer.result(x, goal, found)
    assert cf.status[1] == "model_failed" and not cf.valid[1] and np.isnan(cf.proba_after[1])
    assert cf.proba_before[1] > 0 and cf.prediction[1] != cf.target[1] and cf.status[0] != "model_failed"


def test_some_rows_of_training_may_be_without_an_answer():
    x = np.concatenate([X, ROWS[FAILED]])
    y = np.concatenate([Y, [0, 1]])
    with pytest.warns(UserWarning, match="2 of 571 rows looked at|for 2 of"):
        explainer = PLACEExplainer(classifier=Net(2), **QUICK).fit(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (explainer.explain(x[:3]).status != "model_failed").all()
