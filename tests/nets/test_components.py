"""Principal components against scikit-learn's, and what codes that begin near them are good for."""

import numpy as np
import torch
from sklearn.decomposition import PCA

from cfexplain.coordinates import VAE
from cfexplain.nets.components import principal_components


def tinted(n):
    """Grey pictures (n, 3, 12, 12) of smooth random shapes, each with a faint tint of its own."""
    rng = np.random.default_rng(0)
    shapes = np.kron(rng.random((n, 1, 3, 3)), np.ones((4, 4)))
    hues = rng.uniform(-0.1, 0.1, (n, 1, 1, 1)) * np.array([1.0, 0.0, -1.0])[None, :, None, None]
    return np.clip(0.15 + 0.7 * shapes + hues, 0, 1).astype(np.float32)


def test_components_are_scikit_learns_of_mean_0_and_variance_1():
    X = tinted(200)
    found = principal_components(torch.from_numpy(X), 6, seed=0).numpy()
    expected = PCA(6, whiten=True).fit_transform(X.reshape(200, -1)) * np.sqrt(200 / 199)
    np.testing.assert_allclose(np.abs((found * expected).mean(0)), 1, atol=1e-3)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-4)


def test_of_pictures_that_are_all_alike_or_few_there_are_as_many_components_as_they_have():
    assert principal_components(torch.ones(20, 3, 8, 8), 6, seed=0).shape == (20, 0)
    assert principal_components(torch.rand(4, 3, 8, 8), 6, seed=0).shape[0] == 4


def test_a_vae_draws_faint_hues():
    X = tinted(600)
    vae = VAE(16, critic=False, training_budget=0.2, random_state=0).fit(X)
    drawn = vae.inverse_transform(vae.transform(X))
    hue, again = ((images[:, 0] - images[:, 2]).mean((1, 2)) for images in (X, drawn))
    assert np.corrcoef(hue, again)[0, 1] > 0.8
