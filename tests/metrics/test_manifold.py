"""IM1 and IM2 against sums written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from cfexplain.coordinates import VAE, Autoencoder
from cfexplain.metrics import class_autoencoders, im1, im2


@pytest.fixture(scope="module")
def subspaces(digits):
    """PCA of each of two digits, and of all: the linear autoencoders."""
    X, y, _, _ = digits
    X = X.reshape(len(X), -1).astype(np.float64)
    return {name: PCA(6).fit(rows) for name, rows in {4: X[y == 4], 9: X[y == 9], "all": X}.items()}


def reconstruct(pca, x):
    return pca.mean_ + (x - pca.mean_) @ pca.components_.T @ pca.components_


@pytest.mark.parametrize("squared", [False, True])
def test_im1_and_im2_by_hand(digits, subspaces, squared):
    x = digits[2].reshape(len(digits[2]), -1)[:50].astype(np.float64)
    to_4, to_9, to_all = (reconstruct(subspaces[name], x) for name in (4, 9, "all"))
    power = 2 if squared else 1
    first, second, full = ((row**2).sum(1) ** (power / 2) for row in (x - to_9, x - to_4, to_9 - to_all))
    np.testing.assert_allclose(
        im1(x, subspaces[4], subspaces[9], squared=squared, epsilon=0.5), first / (second + 0.5), rtol=1e-10)
    np.testing.assert_allclose(
        im2(x, subspaces[9], subspaces["all"], squared=squared, epsilon=0.5), full / (np.abs(x).sum(1) + 0.5), rtol=1e-10)
    by_function = im1(x, lambda v: reconstruct(subspaces[4], v), lambda v: reconstruct(subspaces[9], v), squared=squared)
    np.testing.assert_allclose(by_function, im1(x, subspaces[4], subspaces[9], squared=squared), rtol=1e-10)


def test_coordinates_tensors_and_class_autoencoders(digits):
    X, y, X_test, y_test = digits
    chosen = np.isin(y, (4, 9))
    names = np.where(y == 4, "four", "nine")
    experts = class_autoencoders(
        X[chosen], names[chosen], Autoencoder(latent_dim=6, training_budget=0.05, width=8, random_state=0))
    assert list(experts) == ["four", "nine"]
    alone = Autoencoder(latent_dim=6, training_budget=0.05, width=8, random_state=0).fit(X[y == 4])
    np.testing.assert_array_equal(alone.transform(X_test), experts["four"].transform(X_test))
    values = im1(X_test, experts["four"], experts["nine"])
    parts = [np.linalg.norm((X_test.astype(np.float64) - experts[name].inverse_transform(experts[name].transform(X_test)))
                            .reshape(len(X_test), -1), axis=1) for name in ("nine", "four")]
    np.testing.assert_allclose(values, parts[0] / (parts[1] + 1e-5), rtol=1e-6)
    assert values.dtype == np.float64 and values.shape == (len(X_test),)
    assert np.median(values[y_test == 9]) < 1 < np.median(values[y_test == 4])
    np.testing.assert_array_equal(values, im1(torch.from_numpy(X_test), experts["four"], experts["nine"]))
    twins = class_autoencoders(X[:60], np.arange(60) % 2, VAE(training_budget=0.003, width=8))
    assert {type(twin) for twin in twins.values()} == {VAE}


def test_im_of_bad_input(subspaces):
    x = np.random.default_rng(0).normal(size=(5, 64))
    with pytest.raises(ValueError, match=r"NaN or infinite values in 2 rows, first \[1, 3\]"):
        im1(np.where(np.isin(np.arange(5), (1, 3))[:, None], np.nan, x), subspaces[4], subspaces[9])
    with pytest.raises(ValueError, match="target_autoencoder returned shape"):
        im1(x, subspaces[4], lambda v: v[:, :9])
    with pytest.raises(ValueError, match="full_autoencoder has NaN"):
        im2(x, subspaces[4], lambda v: v * np.inf)
    with pytest.raises(TypeError, match="source_autoencoder must be fitted"):
        im1(x, "four", subspaces[9])
    with pytest.raises(ValueError, match="epsilon"):
        im1(x, subspaces[4], subspaces[9], epsilon=0)
    with pytest.raises(ValueError, match="One sample"):
        im1(x[0], subspaces[4], subspaces[9])
    with pytest.raises(ValueError, match="must be numbers"):
        im1(np.array([["a"]]), subspaces[4], subspaces[9])
    with pytest.raises(ValueError, match="y must be one label or one label a row"):
        class_autoencoders(x, [0, 1])
