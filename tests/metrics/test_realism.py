"""Realism, sharpness and identity by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from cfexplain.foundation.random import seeded_torch
from cfexplain.metrics import (
    identity_distance,
    realism_percentile,
    sharpness,
    sharpness_ratio,
)


def same(x):
    """Rows are their own features."""
    return np.asarray(x).reshape(len(x), -1)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    x = ndimage.gaussian_filter(rng.uniform(size=(34, 3, 20, 17)), (0, 0, 1, 1))  # more than one tile
    return x, (x + 0.1 * rng.normal(size=x.shape)).clip(0, 1)


@pytest.fixture(scope="module")
def network():
    with seeded_torch(0):
        return nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.GELU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(216, 12))


def old_realism(features, reference, held_out):
    """The benchmarks' own judges, before their measure became a metric."""
    def neighbours(rows):
        return torch.cdist(torch.from_numpy(rows), torch.from_numpy(reference)).topk(5, largest=False)[0].mean(1).numpy()

    real = np.sort(neighbours(held_out))
    return 100 * (1 - np.searchsorted(real, neighbours(features)) / len(real))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_realism_is_that_of_the_benchmarks(dtype):
    rng = np.random.default_rng(0)
    X_ref, X_real = rng.normal(size=(600, 20)).astype(dtype), rng.normal(size=(400, 20)).astype(dtype)
    y_ref, y_real = rng.integers(0, 3, 600), rng.integers(0, 3, 400)
    x = (rng.normal(size=(90, 20)) * rng.uniform(0, 2, size=(90, 1))).astype(dtype)
    for label in range(3):
        values = realism_percentile(x, label, same, X_ref, y_ref, X_real, y_real)
        np.testing.assert_array_equal(values, old_realism(x, X_ref[y_ref == label], X_real[y_real == label]))
        assert values.dtype == np.float64 and values.min() < 20 and values.max() > 80
    # one label a row, names for labels
    names = np.array(["a", "b", "c"])
    targets = np.arange(90) % 3
    mixed = realism_percentile(x, names[targets], same, X_ref, names[y_ref], X_real, names[y_real], k=2)
    for label in range(3):
        alone = realism_percentile(x, label, same, X_ref, y_ref, X_real, y_real, k=2)
        np.testing.assert_allclose(mixed[targets == label], alone[targets == label], atol=1)


def test_realism_by_hand_and_of_real_images():
    rng = np.random.default_rng(1)
    X_ref, X_real = rng.normal(size=(150, 3)), rng.normal(size=(80, 3))
    x = rng.normal(size=(12, 3)) * 1.5

    def mean_of_nearest(row):
        return np.mean(sorted(np.sqrt(((row - other) ** 2).sum()) for other in X_ref)[:5])

    real = np.array([mean_of_nearest(row) for row in X_real])
    expected = [100 * np.mean(real >= mean_of_nearest(row)) for row in x]
    np.testing.assert_allclose(realism_percentile(x, 0, same, X_ref, 0, X_real, 0), expected)
    assert realism_percentile(X_real, 0, same, X_ref, 0, X_real, 0).mean() == pytest.approx(50, abs=1)
    np.testing.assert_array_equal(realism_percentile(X_ref[:3], 0, same, X_ref, 0, X_real, 0, k=1), 100)


def test_sharpness_is_that_of_the_benchmarks(images, digits):
    x, x_cf = digits[2][:50], digits[0][:50]
    old = [np.array([ndimage.laplace(image.astype(float)).var() for image in rows]) for rows in (x, x_cf)]
    np.testing.assert_array_equal(sharpness(x), old[0])
    np.testing.assert_array_equal(sharpness_ratio(x, x_cf), old[1] / old[0])
    np.testing.assert_array_equal(sharpness(torch.from_numpy(x)[:, None]), old[0])
    # colours, with the five-point stencil written out
    padded = np.pad(images[0], ((0, 0), (0, 0), (1, 1), (1, 1)), mode="symmetric")
    stencil = (padded[:, :, :-2, 1:-1] + padded[:, :, 2:, 1:-1] + padded[:, :, 1:-1, :-2] + padded[:, :, 1:-1, 2:]
               - 4 * images[0])
    np.testing.assert_allclose(sharpness(images[0]), stencil.reshape(34, -1).var(1), rtol=1e-10)
    flat, edge = np.full((1, 5, 5), 0.3), np.eye(5)[None]
    two = [(flat, flat), (edge, edge), (flat, edge), (edge, flat)]
    assert [sharpness_ratio(a, b)[0] for a, b in two] == [1, 1, np.inf, 0]


def test_identity_by_hand(digits, network):
    x, x_cf = digits[2][:40], digits[0][:40]
    with torch.no_grad():
        a, b = (network.eval()(torch.from_numpy(rows)[:, None]).double().numpy() for rows in (x, x_cf))
    values = identity_distance(x, x_cf, network)
    np.testing.assert_allclose(values, [np.sqrt(((u - v) ** 2).sum()) for u, v in zip(a, b, strict=True)], rtol=1e-5)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(identity_distance(x, x, network), 0)
    np.testing.assert_array_equal(identity_distance(x[:3], x_cf[:3], network), values[:3])


def test_realism_of_bad_input():
    X, y, x = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2, np.zeros((2, 3))
    for message, call in {
        "X_ref has 2 values": lambda: realism_percentile(x, 0, same, X[:, :2], y, X, y),
        "y_real must be": lambda: realism_percentile(x, 0, same, X, y, X, y[:-1]),
        "class 7 has 0 images in X_ref and 0 in X_real": lambda: realism_percentile(x, 7, same, X, y, X, y),
        "class 1 has 10 images in X_ref.*k=11": lambda: realism_percentile(x, 1, same, X, y, X, y, k=11),
        "k=0": lambda: realism_percentile(x, 1, same, X, y, X, y, k=0),
        "k=2.5": lambda: realism_percentile(x, 1, same, X, y, X, y, k=2.5),
        "X_real has NaN": lambda: realism_percentile(x, 1, same, X, y, X * np.nan, y),
        "images must be images": lambda: sharpness(x),
        r"features returned shape \(2, 3, 1\)": lambda: identity_distance(x, x, lambda rows: rows[:, :, None]),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
