"""Data that nobody would train on, and somebody will: clear words, and no collapse without a warning."""

import warnings

import numpy as np
import pytest
import torch

from cfexplain import PLACEExplainer


def small(classifier=None, **parameters):
    return PLACEExplainer(classifier, random_state=0, training_budget=0.05, **parameters)


def test_rows_that_are_all_equal_are_refused_before_anything_is_trained():
    with pytest.raises(ValueError, match="All 60 rows of X are equal"):
        small().fit(np.zeros((60, 8, 8), dtype="float32"), np.arange(60) % 3)
    with pytest.raises(ValueError, match="All 10 rows of X are equal"):
        small().fit(np.ones((10, 3)), np.arange(10) % 2)


@pytest.mark.usefixtures("quietly")
def test_a_class_of_blank_images_sets_no_limits_that_nothing_can_keep(digits):
    """Neither the share of grey in no ink nor the distance to features that are all alike is a limit."""
    X, y = digits[0][digits[1] < 2][:120].copy(), digits[1][digits[1] < 2][:120]
    X[y == 1] = 0
    explainer = small().fit(X, y)
    cf = explainer.explain(X[y == 0][:8], 1)
    assert (cf.n_steps > 0).all() and np.isfinite(cf.log_density).all() and np.isfinite(np.asarray(cf)).all()
    assert cf.conditions["ink"].all() and cf.conditions["features"].all()
    assert explainer.class_features_.quantiles(0.5)[1] == np.inf


@pytest.mark.usefixtures("quietly")
def test_a_class_of_three_rows_is_told_of_even_if_everything_converged(digits):
    X, y = digits[:2]
    rows = np.concatenate([np.flatnonzero(y == 4)[:60], np.flatnonzero(y == 9)[:3]])
    cf = small().fit(X[rows], y[rows]).explain(X[y == 4][60:72], 9)
    assert "the data are few for the target 9: 3 of the 63 training rows" in cf.summary()
    assert "look alike" in cf.summary()


@pytest.mark.usefixtures("quietly")
def test_a_model_that_is_never_sure_is_told_of_and_not_asked_for_more(digits):
    X, y = digits[0][:400], digits[1][:400]
    means = torch.from_numpy(np.stack([X[y == k].mean(0) for k in range(10)]).reshape(10, 64))

    class Unsure(torch.nn.Module):
        def forward(self, x):
            return -0.1 * torch.cdist(x.flatten(1), means.to(x.dtype))

    with pytest.warns(UserWarning, match=r"hardly ever sure of 0 \(0\.1"):
        explainer = small(Unsure()).fit(X, y)
    cf = explainer.explain(X[y == 4][:8], 9)
    assert cf.conditions["decision"].any() and (cf.proba_after < 0.5).all()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        explainer.explain(X[y == 4][:8], 9)
    assert not any("few real rows" in str(w.message) for w in caught)
