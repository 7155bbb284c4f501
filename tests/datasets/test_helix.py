"""The helix of the paper, and its distance against scipy's minimiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from cfexplain.datasets import helix_distance, make_helix


def test_make_helix_is_the_papers():
    X, y = make_helix(4000, random_state=0)
    np.testing.assert_allclose(X[:, 0], np.sin(X[:, 2]))
    np.testing.assert_allclose(X[:, 1], np.cos(X[:, 2]))
    assert X.dtype == np.float64 and np.abs(X[:, 2]).max() <= 4 and abs(X[:, 2].std() - 8 / np.sqrt(12)) < 0.05
    np.testing.assert_array_equal(y, X[:, 2] >= 0)
    np.testing.assert_allclose(helix_distance(X), 0, atol=1e-12)
    noisy, labels = make_helix(4000, noise=0.1, random_state=0)
    np.testing.assert_array_equal(labels, y)
    assert abs((noisy - X).std() - 0.1) < 0.005
    np.testing.assert_array_equal(make_helix(9, random_state=3)[0], make_helix(9, random_state=3)[0])
    for bad in ({"n": 0}, {"n": 5, "noise": -1}):
        with pytest.raises(ValueError):
            make_helix(**bad)


@pytest.mark.parametrize("bounds", [(-4.0, 4.0), (0.5, 1.5), (-1.0, 11.0), None], ids=str)
def test_helix_distance_against_scipy(bounds):
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(40, 3)) * [2, 2, 4], rng.normal(size=(20, 3)) * [9, 9, 9],
                        [[0, 0, 0], [0, 0, 7], [0, -1, 0], [0, 1, np.pi], [1, 0, -np.pi / 2], [-30, 0, np.pi / 2]]])

    def by_scipy(point):
        def squared(t):
            return (point[0] - np.sin(t)) ** 2 + (point[1] - np.cos(t)) ** 2 + (point[2] - t) ** 2

        low, high = bounds or (point[2] - 4, point[2] + 4)
        edges = np.linspace(low, high, 41)
        found = [minimize_scalar(squared, bounds=(a, b), method="bounded", options={"xatol": 1e-12}).fun
                 for a, b in zip(edges[:-1], edges[1:], strict=True)]
        return np.sqrt(min(*found, squared(low), squared(high)))

    np.testing.assert_allclose(helix_distance(X, bounds=bounds), [by_scipy(point) for point in X], atol=1e-7)


def test_helix_distance_far_out_and_bad_input():
    np.testing.assert_allclose(helix_distance([[0, 1, 1e6]], bounds=None), helix_distance(
        [[0, 1, 1e6 - 2 * np.pi * 159154]], bounds=None), atol=1e-6)
    np.testing.assert_allclose(helix_distance([[np.sin(4), np.cos(4), 9]]), 5)
    np.testing.assert_allclose(helix_distance(torch.tensor([[0.0, 2.0, 0.0]])), 1)
    for X in ([0, 1, 2], [[0, 1]], [[0, np.nan, 1]]):
        with pytest.raises(ValueError, match="finite points of shape"):
            helix_distance(X)
    with pytest.raises(ValueError, match="low < high"):
        helix_distance([[0, 1, 2]], bounds=(1, 1))
