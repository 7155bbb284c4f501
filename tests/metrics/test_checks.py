"""What every metric refuses, and what is exported."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import ndimage
from torch import nn

from cfexplain import metrics
from cfexplain.foundation.exceptions import DataRangeError
from cfexplain.metrics import (
    identity_distance,
    lp_distance,
    lpips,
    region_locality,
    sharpness_ratio,
    sparsity,
    ssim,
)
from cfexplain.perceptual import FeatureDistance


def same(x):
    """Rows are their own features."""
    return np.asarray(x).reshape(len(x), -1)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    x = ndimage.gaussian_filter(rng.uniform(size=(34, 3, 20, 17)), (0, 0, 1, 1))  # more than one tile
    return x, (x + 0.1 * rng.normal(size=x.shape)).clip(0, 1)


def test_the_public_names_are_exported_and_documented():
    assert metrics.__all__ == sorted(metrics.__all__)
    for name in metrics.__all__:
        text = getattr(metrics, name).__doc__
        assert "Examples" in text and ("Returns" in text or name == "kid"), name


@pytest.mark.parametrize("metric", [lp_distance, sparsity, sharpness_ratio, ssim, lpips,
                                    lambda x, y: region_locality(x, y, np.ones((16, 16), bool)),
                                    lambda x, y: identity_distance(x, y, same)])
def test_pairs_of_bad_input(metric):
    x = np.full((4, 16, 16), 0.5)
    holes = x.copy()
    holes[[1, 3], 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"x_cf has NaN or infinite values in 2 rows, first \[1, 3\]"):
        metric(x, holes)
    with pytest.raises(ValueError, match=r"same shape, got \(4, 16, 16\) and \(3, 16, 16\)"):
        metric(x, x[:3])
    with pytest.raises(ValueError, match="same shape"):  # as many values in another order
        metric(np.zeros((2, 3, 16, 16)), np.zeros((2, 16, 16, 3)))
    with pytest.raises(ValueError, match="must be samples"):
        metric(x[:0], x[:0])


def test_distances_of_bad_arguments():
    x = np.zeros((3, 2, 2))
    for message, call in {
        "norm=3": lambda: lp_distance(x, x, 3),
        "does not broadcast": lambda: sparsity(x, x, [1, 2, 3]),
        "must not be negative": lambda: sparsity(x, x, -1),
        "must be boolean": lambda: region_locality(x, x, np.ones((2, 2))),
        "does not fit": lambda: region_locality(x, x, np.ones((3, 3), bool)),
        "region is empty": lambda: region_locality(x, x, np.zeros((2, 2), bool)),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("metric", [ssim, lpips])
def test_the_wrong_range_is_refused(metric, images):
    x, x_cf = images
    for bad, message in ((2 * x - 1, r"outside data_range=\(0, 1\)"), (255 * x, "rescale x_cf"),
                         ((255 * x).astype(np.uint8), "8-bit images: x_cf / 255")):
        with pytest.raises(DataRangeError, match=message):
            metric(x.astype(bad.dtype) if bad.dtype == np.float64 else x, bad)
    with pytest.raises(ValueError, match="low < high"):
        metric(x, x_cf, (1.0, 0.0))
    with pytest.raises(ValueError, match="must be images"):
        metric(x.reshape(34, -1), x_cf.reshape(34, -1))


def test_a_range_that_the_images_do_not_fill_is_doubted(images):
    x, x_cf = images
    for declared in ((-1.0, 1.0), (0.0, 255.0)):
        with pytest.warns(UserWarning, match=r"All values lie in \[0, 1\], but data_range"):
            ssim(x, x_cf, declared)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ssim(x, x_cf)
        ssim(2 * x - 1, x_cf, (-1.0, 1.0))
    distance = FeatureDistance(nn.Sequential(nn.Conv2d(3, 4, 3)), layers=(0,))
    with pytest.raises(ValueError, match=r"distance expects images in \(0.0, 1.0\), but data_range=\(-1.0, 1.0\)"):
        lpips(2 * x - 1, 2 * x_cf - 1, (-1.0, 1.0), distance=distance)
    with pytest.raises(ValueError, match="distance returned shape"):
        lpips(x, x_cf, distance=lambda a, b: (a - b).square().mean(1))
    with pytest.raises(ValueError, match="not known"):
        lpips(x, x_cf, net="resnet")
