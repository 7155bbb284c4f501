"""What `fit` says of coordinates: figures against an independent computation, and a warning if they cannot draw the data."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.datasets import load_iris
from sklearn.frozen import FrozenEstimator
from torch import nn

import cfexplain
from cfexplain import PLACEExplainer
from cfexplain.coordinates import VAE, Identity
from cfexplain.datasets import load_digits_images
from cfexplain.density import ConditionalFlow

LITTLE = {"density": ConditionalFlow(transforms=1, hidden_features=(8,), training_budget=0.01), "second_opinion": 0,
          "training_budget": 0.05, "random_state": 0}


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits_images()
    return X[:400], y[:400]


@pytest.fixture(scope="module")
def fitted(digits):
    return PLACEExplainer(**LITTLE).fit(*digits)


def test_the_figures_are_those_of_the_rows_that_were_kept_from_training(fitted, digits):
    X, _ = digits
    coordinates, figures = fitted.coordinates_, fitted.reconstruction_
    x = X[coordinates.held_out_]
    back = coordinates.inverse_transform(coordinates.transform(x[:, None])).reshape(x.shape)
    assert figures["rows"] == len(x) == 40
    assert figures["error"] == pytest.approx(
        np.square(x - back, dtype=np.float64).sum() / np.square(x - x.mean(0, dtype=np.float64)).sum(), rel=1e-5)
    blur = [ndimage.laplace(b.astype(float)).var() / ndimage.laplace(a.astype(float)).var()
            for a, b in zip(x, back, strict=True)]
    assert figures["sharpness"] == pytest.approx(np.median(blur), rel=1e-3)
    assert figures["decisions_kept"] == np.mean(fitted.predict(x) == fitted.predict(back))


def test_figures_are_saved_and_exact_coordinates_have_none(fitted, tmp_path):
    fitted.save(tmp_path / "a")
    assert cfexplain.load(tmp_path / "a").reconstruction_ == fitted.reconstruction_
    X, y = load_iris(return_X_y=True)
    assert PLACEExplainer(coordinates=Identity(), **LITTLE).fit(X, y).reconstruction_ is None
    table = PLACEExplainer(**LITTLE).fit(X, y).reconstruction_
    assert table["sharpness"] is None and table["rows"] == 150, "fewer than 20 rows were kept, so that all are looked at"


class Mean(nn.Module):
    """Coordinates that draw the same for every row."""

    def encode(self, x):
        return x.flatten(1)[:, :2]

    def decode(self, z):
        return torch.full((len(z), 1, 8, 8), 0.3) + 0.0 * z.sum()


def test_coordinates_that_cannot_draw_the_data_are_warned_of(digits, fitted):
    options = {"coordinates": Mean(), "classifier": fitted.classifier_.module, **LITTLE}
    with pytest.warns(UserWarning, match=r"cannot draw this data.*tells one row from another and.*otherwise.*latent_dim=4"):
        explainer = PLACEExplainer(**{**options, "training_budget": 0.5}).fit(*digits)
    assert explainer.reconstruction_["error"] >= 1 and explainer.reconstruction_["decisions_kept"] < 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cf = explainer.explain(digits[0][:20], 3)
    assert "otherwise" in cf.metadata["badly_drawn"] and "cannot draw" in cf.summary()
    assert any("cannot draw" in line for line in cf.measures().warnings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PLACEExplainer(**options).fit(*digits)  # a quick try


def test_frozen_coordinates_are_judged_on_all_rows(digits, fitted):
    """Rows that they were not trained on are places in another data set."""
    X, y = digits
    again = PLACEExplainer(coordinates=FrozenEstimator(fitted.coordinates_), **LITTLE).fit(X[:100], y[:100])
    assert again.reconstruction_["rows"] == 100


def test_what_a_vae_learns_to_draw_is_chosen_by_what_the_images_look_like(digits):
    rng = np.random.default_rng(0)
    quick = {"training_budget": 0.002, "random_state": 0}
    chosen = {}
    grey = ndimage.gaussian_filter(rng.uniform(size=(40, 8, 8)), (0, 1, 1)).astype(np.float32)
    for name, X in {"ink": digits[0][:40], "paper": 1 - digits[0][:40], "grey": grey}.items():
        vae = VAE(**quick).fit(X)
        chosen[name] = vae.likelihood_, vae.latent_dim_
    assert chosen == {**dict.fromkeys(("ink", "paper"), ("bernoulli", 32)), "grey": ("edges", 64)}
