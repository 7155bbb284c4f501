"""What a class's own rows reach, against a computation by hand; and what is asked for by it."""

import warnings

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from cfexplain import DiffeomorphicExplainer, PLACEExplainer
from cfexplain.classifiers.confidence import ClassConfidence


def of(proba, y):
    odds = logit(np.stack([1 - np.asarray(proba), proba], 1))
    return ClassConfidence(odds, np.asarray(y))


def test_the_median_of_the_rows_that_the_model_takes_for_the_class():
    confidence = of([0.1, 0.3, 0.2, 0.9, 0.6, 0.8, 0.7, 0.2], [0, 0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_allclose(expit(confidence.usual()), [0.8, 0.7])  # without the 0.9 of class 0 and the 0.2 of class 1
    np.testing.assert_allclose(confidence.own, 0.75)
    np.testing.assert_allclose(confidence.shares(0.75), [2 / 3, 1 / 3])


@pytest.mark.parametrize(("proba", "asked"), [
    ([0.9999, 0.99999, 0.999], 0.99), ([0.51, 0.52, 0.8], 0.55), ([0.51, 0.52, 0.53, 0.51, 0.54], 0.52),
    ([0.2, 0.4, 0.3], 0.55)])
def test_neither_certainty_nor_less_than_a_majority_is_asked_unless_nothing_has_one(proba, asked):
    confidence = of([0.001] * 3 + proba, [0] * 3 + [1] * len(proba))
    assert expit(confidence.usual()[1]) == pytest.approx(asked)


def test_of_several_members_the_least_sure_counts_and_a_thousand_rows_a_class_are_asked():
    X = np.repeat([[2.0], [-1.0]], 3000, axis=0)
    asked = []

    def scores(rows):
        asked.append(len(rows))
        z = torch.from_numpy(rows)
        return torch.stack([torch.cat([z, 0 * z], 1), torch.cat([3 * z, 0 * z], 1)])

    confidence = ClassConfidence.measure(scores, X, np.repeat([0, 1], 3000), 0)
    assert asked == [2000] and [len(own) for own in confidence.log_odds] == [1000, 1000]
    np.testing.assert_allclose([own[0] for own in confidence.log_odds], [2.0, 1.0])


@pytest.fixture(scope="module")
def unsure():
    """A model that is sure of hardly any row of two of three kinds of iris."""
    X, y = load_iris(return_X_y=True)
    model = LogisticRegression(C=0.02).fit(X, y)
    return PLACEExplainer(model, training_budget=0.3, random_state=0).fit(X, y), X, y, model


def test_rows_are_asked_for_what_is_usual_and_search_ends_there(unsure):
    explainer, X, y, model = unsure
    proba = model.predict_proba(X)
    # of class 1 hardly a row is as sure as 0.55; what is searched is a surrogate that is a little off
    for sparse, quantile in ((False, 0.5), (True, 0.1)):
        own = [np.quantile(proba[(y == k) & (proba.argmax(1) == k), k], quantile) for k in range(3)]
        own = [own[0], own[1], max(own[2], 0.55)]
        limits = explainer.set_params(sparse=sparse).class_limits()
        np.testing.assert_allclose(expit(limits["needed"]), own, atol=5e-3)
    cf = explainer.explain(X[y == 0][:20], 2)
    assert (cf.status == "converged").mean() >= 0.9
    assert (cf.proba_after[cf.status == "converged"] >= own[2] - 0.01).all()


def test_a_number_still_means_that_number_and_a_rare_one_is_told(unsure):
    explainer, X, y, model = unsure
    sure = PLACEExplainer(**{**explainer.get_params(deep=False), "confidence": 0.95})
    sure.__dict__.update({name: value for name, value in vars(explainer).items() if name.endswith("_")})
    share = (model.predict_proba(X)[y == 2, 2] >= 0.95).mean()
    assert share < 0.2
    with pytest.warns(UserWarning, match=r"confidence=0\.95 is reached by few real rows: 0\.0% of those of 2\."):
        sure.explain(X[y == 0][:3], 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer.explain(X[y == 0][:3], 0)


def test_a_class_that_the_model_never_says_is_named_at_fit():
    X, y = load_iris(return_X_y=True)

    class Never(torch.nn.Module):
        def forward(self, x):
            return torch.stack([3 - x[:, 2], x[:, 2] - 3, torch.full_like(x[:, 0], -5.0)], 1)

    with pytest.warns(UserWarning, match="takes no row of 2 for what it is labelled"):
        DiffeomorphicExplainer(Never(), generator="identity", random_state=0).fit(X, y)


def test_what_was_measured_is_saved(unsure, tmp_path):
    explainer, X, y, _ = unsure
    tree = DiffeomorphicExplainer(training_budget=0.05, random_state=0).fit(X, y)
    tree.save(tmp_path / "explainer")
    again = DiffeomorphicExplainer.load(tmp_path / "explainer")
    np.testing.assert_array_equal(again.class_limits()["needed"], tree.class_limits()["needed"])
