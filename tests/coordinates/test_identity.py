"""The identity is exact."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from torch import nn

from cfexplain.coordinates import VAE, Autoencoder, Identity, PretrainedCoordinates


@pytest.fixture(scope="module")
def digits():
    images = (load_digits().images / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[:1200]], images[order[1200:1400]]


@pytest.fixture(scope="module")
def trained(digits):
    """One of each kind on images, and on a table whose columns have wild units."""
    table, _ = load_iris(return_X_y=True)
    table = table * [1e-8, 1.0, 1e6, 1.0] + [0.0, -40.0, 1e9, 0.0]
    table = np.column_stack([table, np.full(len(table), 7.25)])
    networks = (nn.Linear(5, 3).double(), nn.Linear(3, 5).double())
    return {
        "identity": (Identity().fit(digits[0]), digits[0]),
        "vae": (VAE(training_budget=0.1, random_state=0).fit(digits[0]), digits[0]),
        "autoencoder": (Autoencoder(training_budget=0.1, random_state=0).fit(digits[0]), digits[0]),
        "vae of a table": (VAE(training_budget=0.1, hidden=(64,), random_state=0).fit(table), table),
        "autoencoder of a table": (Autoencoder(training_budget=0.1, hidden=(64,), random_state=0).fit(table), table),
        "the user's": (PretrainedCoordinates(*networks).fit(table), table),
    }


def test_identity_is_exact(digits):
    colour = np.stack([digits[0][:5]] * 3, axis=1)
    coordinates = Identity().fit(colour)
    assert coordinates.exact and not VAE.exact and not Autoencoder.exact
    np.testing.assert_array_equal(coordinates.inverse_transform(coordinates.transform(colour)), colour)


@pytest.mark.parametrize("kind", ["vae", "autoencoder"])
def test_held_out_digits_are_reconstructed(trained, digits, kind):
    coordinates, (train, test) = trained[kind][0], digits
    error = np.square(coordinates.inverse_transform(coordinates.transform(test)) - test).mean()
    assert error < 0.5 * np.square(train.mean(0) - test).mean()
