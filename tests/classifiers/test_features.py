"""Distances of penultimate features."""

import numpy as np
import torch


def test_feature_distances_are_mahalanobis_and_quantiles_are_of_held_out_rows():
    from scipy.spatial.distance import mahalanobis
    from sklearn.covariance import LedoitWolf

    from cfexplain.classifiers.features import ClassFeatures

    rng = np.random.default_rng(0)
    h, y = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) + 3, np.arange(300) % 2
    made = ClassFeatures(h, y, 2)
    some, target = rng.normal(size=(9, 6)), np.arange(9) % 2
    got = made(torch.from_numpy(some), torch.from_numpy(target)).numpy()
    for row, k, value in zip(some, target, got, strict=True):
        covariance = LedoitWolf().fit(h[y == k]).covariance_
        covariance += np.eye(6) * 1e-3 * np.trace(covariance) / 6
        expected = mahalanobis(row, h[y == k].mean(0), np.linalg.inv(covariance))
        np.testing.assert_allclose(value, expected, rtol=1e-8)
    fresh = rng.normal(size=(20000, 6))
    wide = ClassFeatures(rng.normal(size=(60, 6)), np.zeros(60, dtype=int), 1)
    outside = wide(torch.from_numpy(fresh), torch.zeros(20000, dtype=torch.long)).numpy()
    assert abs((outside <= wide.quantiles(0.5)[0]).mean() - 0.5) < 0.15  # in-sample distances would be too small
