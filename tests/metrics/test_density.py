"""Densities of one common explainer and of the search itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from cfexplain import DiffeomorphicExplainer, GradientExplainer, PLACEExplainer
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


def test_density_of_one_common_explainer(tabular):
    explainer, x, _ = tabular
    codes = explainer.coordinates_.encode_dataset(x)[0]
    for label in explainer.classes_:
        index = explainer.classes_.tolist().index(label)
        expected = explainer.density_.score_samples(codes, np.full(len(x), index))
        values = log_density_of(explainer, x, label)
        np.testing.assert_array_equal(values, expected.astype(np.float64))
        own = explainer.density_.log_densities_[index]
        np.testing.assert_allclose(density_percentile_of(explainer, x, label), [100 * np.mean(own <= v) for v in expected])
        assert values.dtype == np.float64 and values.shape == (len(x),)
    targets = explainer.classes_[np.arange(len(x)) % 2]
    each = np.stack([density_percentile_of(explainer, x, label) for label in explainer.classes_])
    np.testing.assert_array_equal(
        density_percentile_of(explainer, torch.from_numpy(x), targets), each[np.arange(len(x)) % 2, np.arange(len(x))])


@unfinished
def test_density_of_the_search_itself(tabular):
    """Where the code is the image's own (exact coordinates), the two densities agree."""
    _, x, y = tabular
    explainer = GradientExplainer(random_state=0, training_budget=0.02, max_steps=10).fit(x, y)
    cf = explainer.explain(x[:20])
    np.testing.assert_allclose(log_density_of(explainer, cf.x_cf, cf.target), cf.log_density, rtol=1e-4)
    np.testing.assert_allclose(density_percentile_of(explainer, cf.x_cf, cf.target), cf.density_percentile, atol=1)


@unfinished
def test_a_regression_has_one_density_and_values_as_targets(table):
    X, _, x, _ = table
    y = X[:, 0] - X[:, 1]
    explainer = DiffeomorphicExplainer(LinearRegression().fit(X, y), generator="vae", training_budget=0.02, max_steps=5,
                                       random_state=0).fit(X, y)
    values = log_density_of(explainer, x, None)
    np.testing.assert_array_equal(values, explainer.score_samples(x).astype(np.float64))
    own = explainer.density_.log_densities_[0]
    expected = [100 * np.mean(own <= value) for value in values]
    np.testing.assert_allclose(density_percentile_of(explainer, x, "whatever"), expected)
    for target in (1.5, (0.5, 2.0), "maximize", [0.5, 1.0, 1.5]):
        assert np.isfinite(stability(explainer, x[:3], target, n_repeats=2)).all()
    one, each = (stability(explainer, x[:3], target, n_repeats=2) for target in (0.5, [0.5] * 3))
    np.testing.assert_array_equal(one, each)
