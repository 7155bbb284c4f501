"""Stability of a row whatever follows it, and of a linear explainer, where it is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.svm import LinearSVC

from cfexplain import PLACEExplainer
from cfexplain.foundation.exceptions import NotFittedError, TargetError
from cfexplain.metrics import (
    density_percentile_of,
    log_density_of,
    stability,
)

unfinished = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def tabular(table):
    X, y, X_test, y_test = table
    return PLACEExplainer(random_state=0, training_budget=0.02, max_steps=15).fit(X, y), X_test, y_test


@unfinished
def test_stability_of_a_row_whatever_follows_it(tabular):
    explainer, x, _ = tabular
    x = x[:4]
    target = np.where(explainer.predict(x) == explainer.classes_[0], explainer.classes_[1], explainer.classes_[0])
    scale = np.linspace(0.01, 0.05, x.shape[1])
    values = stability(explainer, x, target, noise=scale, n_repeats=2, random_state=3)
    again = stability(explainer, torch.from_numpy(x[:2]), target[:2], noise=scale, n_repeats=2, random_state=3)
    np.testing.assert_array_equal(values[:2], again)
    assert (again != stability(explainer, x[:2], target[:2], noise=scale, n_repeats=2, random_state=4)).any()
    assert values.dtype == np.float64 and (values >= 0).all()


class Straight(BaseEstimator):
    """An explainer whose counterfactual is A x: its stability is known."""

    def __init__(self, matrix, image=False):
        self.matrix_, self.dtype_, self.data_range = matrix, np.dtype(np.float64), (0.0, 1.0)
        self.classes_, self.calls_, self.layout_ = np.array([0, 1]), [], type("Layout", (), {"is_image": image})

    def fit(self, X, y):
        return self

    def explain(self, X, target):
        self.calls_.append((X, target))
        return (X.reshape(len(X), -1) @ self.matrix_.T).reshape(X.shape)


def test_stability_of_a_linear_explainer_is_known():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(5, 3))
    np.testing.assert_allclose(stability(Straight(2.5 * np.eye(3)), x, 1), 2.5, rtol=1e-9)
    np.testing.assert_array_equal(stability(Straight(np.zeros((3, 3))), x, 1), 0)
    explainer = Straight(rng.normal(size=(3, 3)))
    values = stability(explainer, x, [0, 1, 1, 0, 1], n_repeats=7, noise=0.3)
    ((X, targets),) = explainer.calls_  # one call for everything
    X = X.reshape(5, 8, 3)
    np.testing.assert_array_equal(X[:, 0], x)
    np.testing.assert_array_equal(targets, np.repeat([0, 1, 1, 0, 1], 8))
    steps = X[:, 1:] - x[:, None]
    ratios = [[np.linalg.norm(explainer.matrix_ @ e) / np.linalg.norm(e) for e in row] for row in steps]
    np.testing.assert_allclose(values, np.mean(ratios, 1), rtol=1e-9)
    many = Straight(np.eye(3))
    stability(many, np.zeros((400, 3)), 0, noise=[0.1, 1.0, 0.0], n_repeats=5)
    spread = many.calls_[0][0].reshape(400, 6, 3)[:, 1:].reshape(-1, 3).std(0)
    np.testing.assert_allclose(spread, [0.1, 1, 0], rtol=0.05)


def test_noisy_images_stay_in_their_range():
    explainer = Straight(3 * np.eye(16), image=True)
    x = np.random.default_rng(0).integers(0, 2, size=(6, 4, 4)).astype(float)  # every value at an end
    np.testing.assert_allclose(stability(explainer, x, 1, noise=0.2), 3, rtol=1e-9)  # by the noise that is left
    sent = explainer.calls_[0][0]
    assert sent.min() == 0 and sent.max() == 1 and sent.shape == (30, 4, 4)


def test_explainers_of_bad_input(tabular):
    explainer, x, _ = tabular
    label = explainer.classes_[0]
    holes = np.where(np.arange(len(x))[:, None] == 4, np.nan, x)
    for metric in (log_density_of, density_percentile_of, stability):
        with pytest.raises(ValueError, match=r"NaN or infinite values in 1 rows, first \[4\]"):
            metric(explainer, holes, label)
        with pytest.raises(NotFittedError):
            metric(PLACEExplainer(), x, label)
        with pytest.raises(TargetError):
            metric(explainer, x[:3], "neither")
        with pytest.raises(ValueError, match=r"target must be one label or one label a row, of shape \(3,\)"):
            metric(explainer, x[:3], [label] * 2)
        with pytest.raises(ValueError, match="features"):
            metric(explainer, x[:3, :4], label)
    with pytest.raises(TypeError, match="must be a fitted explainer"):
        log_density_of(LinearSVC(), x, label)
    for message, options in {"does not broadcast": {"noise": [1, 2]}, "not negative": {"noise": -1},
                             "n_repeats=0": {"n_repeats": 0}, "leaves 3 rows as they were": {"noise": 0}}.items():
        with pytest.raises(ValueError, match=message):
            stability(explainer, x[:3], label, **options)
    with pytest.raises(ValueError, match="Name the target"):
        stability(explainer, x[:3], None)
