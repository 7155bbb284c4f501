"""Distances by hand, in every shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from cfexplain.metrics import (
    lp_distance,
    region_locality,
    sparsity,
)

pairs = st.integers(1, 5).flatmap(lambda n: st.tuples(*[arrays(
    np.float64, (n, 2, 3), elements=st.floats(-1e6, 1e6).map(lambda value: round(value, 3)))] * 2))


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    x = ndimage.gaussian_filter(rng.uniform(size=(34, 3, 20, 17)), (0, 0, 1, 1))  # more than one tile
    return x, (x + 0.1 * rng.normal(size=x.shape)).clip(0, 1)


@given(pairs)
@settings(max_examples=30, deadline=None)
def test_distances_by_hand(pair):
    x, x_cf = pair
    change = [[a - b for a, b in zip(row, other, strict=True)]
              for row, other in zip(x_cf.reshape(len(x), -1).tolist(), x.reshape(len(x), -1).tolist(), strict=True)]
    np.testing.assert_allclose(lp_distance(x, x_cf, 1), [sum(map(abs, row)) for row in change])
    np.testing.assert_allclose(lp_distance(x, x_cf), [np.hypot.reduce(row) for row in change], atol=1e-150)
    np.testing.assert_array_equal(lp_distance(x, x_cf, np.inf), [max(map(abs, row)) for row in change])
    np.testing.assert_array_equal(sparsity(x, x_cf, 0.5), [sum(abs(v) > 0.5 for v in row) / 6 for row in change])
    region = np.array([[True, False, False], [False, True, False]])
    expected = [(row[0] ** 2 + row[4] ** 2) / sum(v**2 for v in row) if any(row) else 1 for row in change]
    np.testing.assert_allclose(region_locality(x, x_cf, region), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(region_locality(x, x_cf, region) + region_locality(x, x_cf, ~region),
                               1 + ~np.any(change, axis=1), rtol=1e-9)
    for values in (lp_distance(x, x_cf), sparsity(x, x_cf), region_locality(x, x_cf, region)):
        assert values.dtype == np.float64 and values.shape == (len(x),)
    np.testing.assert_array_equal(lp_distance(x, x), 0)
    np.testing.assert_array_equal(sparsity(x, x), 0)
    np.testing.assert_array_equal(region_locality(x, x, region), 1)
    np.testing.assert_array_equal(lp_distance(torch.from_numpy(x), torch.from_numpy(x_cf)), lp_distance(x, x_cf))


def test_regions_and_tolerances_in_every_shape(images):
    x, x_cf = images
    squares = (x_cf - x) ** 2
    rng = np.random.default_rng(1)
    for region in (rng.random((20, 17)) > 0.5, rng.random((3, 20, 17)) > 0.5, rng.random((34, 20, 17)) > 0.5,
                   rng.random(x.shape) > 0.5):
        full = np.broadcast_to(region[:, None] if region.shape == (34, 20, 17) else region, x.shape)
        expected = (squares * full).sum((1, 2, 3)) / squares.sum((1, 2, 3))
        np.testing.assert_allclose(region_locality(x, x_cf, region), expected, rtol=1e-12)
    tiny = np.full((1, 2), 1e-200)  # its square underflows
    np.testing.assert_array_equal(region_locality(np.zeros((1, 2)), tiny, np.array([True, False])), 0.5)
    np.testing.assert_array_equal(sparsity(np.zeros((2, 3)), np.ones((2, 3)), [0.5, 2, 0.5]), 2 / 3)
