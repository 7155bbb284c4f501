"""The identity is exact."""

from __future__ import annotations

import numpy as np

from cfexplain.coordinates import VAE, Autoencoder, Identity


def test_identity_is_exact():
    colour = np.random.default_rng(0).random((5, 3, 8, 8), dtype=np.float32)
    coordinates = Identity().fit(colour)
    assert coordinates.exact and not VAE.exact and not Autoencoder.exact
    np.testing.assert_array_equal(coordinates.inverse_transform(coordinates.transform(colour)), colour)
