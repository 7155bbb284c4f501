"""SSIM against scikit-image, LPIPS and feature distances by hand."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from cfexplain.datasets import load_smiles
from cfexplain.foundation.random import seeded_torch
from cfexplain.metrics import (
    lpips,
    ssim,
)
from cfexplain.perceptual import LPIPS, FeatureDistance, squeezenet_features


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    x = ndimage.gaussian_filter(rng.uniform(size=(34, 3, 20, 17)), (0, 0, 1, 1))  # more than one tile
    return x, (x + 0.1 * rng.normal(size=x.shape)).clip(0, 1)


def test_ssim_is_scikit_images(images):
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity
    options = dict(gaussian_weights=True, use_sample_covariance=False, data_range=1.0)
    x, x_cf = images
    expected = [structural_similarity(a, b, channel_axis=0, sigma=1.5, **options) for a, b in zip(x, x_cf, strict=True)]
    values = ssim(x, x_cf)
    np.testing.assert_allclose(values, expected, rtol=1e-10)
    assert values.dtype == np.float64 and 0.2 < values.mean() < 0.9
    np.testing.assert_allclose(ssim(2 * x - 1, 2 * x_cf - 1, (-1, 1)), values, rtol=1e-10)
    np.testing.assert_allclose(ssim(255 * x, 255 * x_cf, (0, 255)), values, rtol=1e-10)
    grey = [structural_similarity(a, b, sigma=0.8, **options) for a, b in zip(x[:, 0], x_cf[:, 0], strict=True)]
    np.testing.assert_allclose(ssim(x[:, 0], x_cf[:, 0], sigma=0.8), grey, rtol=1e-10)


def test_ssim_row_by_row_and_of_equal_images(images):
    x, x_cf = images
    values = ssim(x, x_cf)
    np.testing.assert_array_equal(values[5:8], np.concatenate([ssim(x[i : i + 1], x_cf[i : i + 1]) for i in (5, 6, 7)]))
    np.testing.assert_array_equal(values, ssim(torch.from_numpy(x), torch.from_numpy(x_cf)))
    for equal in (x, np.zeros_like(x), np.ones_like(x)):
        np.testing.assert_allclose(ssim(equal, equal), 1, rtol=1e-12)


def test_small_images_are_told_which_window_fits():
    x = np.random.default_rng(0).uniform(size=(2, 8, 9))
    with pytest.raises(ValueError, match="8x9 pixels are smaller than the window of 11x11.*sigma=0.97"):
        ssim(x, x)
    np.testing.assert_allclose(ssim(x, x, sigma=0.97), 1)
    with pytest.raises(ValueError, match="Enlarge the images"):
        ssim(x[:, :1], x[:, :1])
    with pytest.raises(ValueError, match="sigma=0"):
        ssim(x, x, sigma=0)


def test_feature_distance_by_hand(images):
    with seeded_torch(0):
        first, second = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 3)
    distance = FeatureDistance(nn.Sequential(first, nn.ReLU(), second, nn.ReLU()), layers=(1, 3)).double()
    x, x_cf = images
    expected = np.zeros(len(x))
    a, b = torch.from_numpy(x), torch.from_numpy(x_cf)
    with torch.no_grad():
        for layer in (first.double(), second.double()):
            a, b = layer(a).relu(), layer(b).relu()
            f, g = (h.numpy() / np.sqrt((h.numpy() ** 2).sum(1, keepdims=True) + 1e-6) for h in (a, b))
            expected += ((f - g) ** 2).sum(1).mean((1, 2))
    values = lpips(x, x_cf, distance=distance)
    np.testing.assert_allclose(values, expected, rtol=1e-10)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(lpips(x, x, distance=distance), 0)
    np.testing.assert_array_equal(lpips(x[3:4], x_cf[3:4], distance=distance), values[3:4])


def test_lpips_maps_the_declared_range(images):
    package = pytest.importorskip("lpips")
    with seeded_torch(0):
        model = package.LPIPS(net="squeeze", pnet_rand=True, verbose=False)  # real heads, a random backbone: no download
    x, x_cf = (np.kron(image[:6], np.ones((1, 1, 2, 2))) for image in images)
    with torch.no_grad():
        expected = model(*(torch.from_numpy(2 * image - 1).float() for image in (x, x_cf))).flatten().numpy()
    for low, high in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        distance = LPIPS("squeeze", data_range=(low, high))
        distance._model = model.requires_grad_(False)
        values = lpips(low + (high - low) * x, low + (high - low) * x_cf, (low, high), distance=distance)
        np.testing.assert_allclose(values, expected, rtol=2e-4, atol=1e-7)
    np.testing.assert_array_equal(lpips(255 * x, 255 * x, (0.0, 255.0), distance=distance), 0)


@pytest.mark.data
def test_squeezenet_tells_a_blur_from_a_little_noise():
    distance = squeezenet_features(Path(os.environ["CFEXPLAIN_DATA"]) / "squeezenet1_1_caffe.pth")
    x = load_smiles()[0][:4]
    blurred = ndimage.gaussian_filter(x, (0, 2, 2))
    noisy = (x + 0.01 * np.random.default_rng(0).normal(size=x.shape)).clip(0, 1)
    apart = lpips(x, blurred, distance=distance)
    assert (apart > 3 * lpips(x, noisy, distance=distance)).all()
    with torch.no_grad():
        expected = distance(torch.from_numpy(x)[:, None], torch.from_numpy(blurred)[:, None])
    np.testing.assert_allclose(apart, expected.numpy(), rtol=1e-4)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No weights in the cache, and nothing behind the proxy."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # which keeps the proxies of its first call


def test_lpips_without_its_weights(offline, images):
    pytest.importorskip("lpips")
    with pytest.raises(OSError, match="could not be downloaded"):
        lpips(*images)
