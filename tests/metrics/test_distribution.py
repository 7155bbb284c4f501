"""FID and KID against a matrix root, closed forms and a double loop."""

from __future__ import annotations

import importlib.util
import urllib.request
import warnings

import numpy as np
import pytest
import torch
from scipy import linalg, ndimage
from torch import nn

from cfexplain.foundation.exceptions import DataRangeError
from cfexplain.foundation.random import seeded_torch
from cfexplain.metrics import (
    fid,
    kid,
)

few = pytest.mark.filterwarnings("ignore:.*are few:UserWarning")


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


def frechet(a, b):
    """As in the paper: the principal square root of the product of the covariances."""
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(np.atleast_2d(first @ second))
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second) - 2 * np.trace(root.real)


def mmd(a, b):
    """Pair by pair."""
    def kernel(u, v):
        return (sum(s * t for s, t in zip(u, v, strict=True)) / len(u) + 1) ** 3

    within = [np.mean([kernel(u, v) for i, u in enumerate(s) for j, v in enumerate(s) if i != j]) for s in (a, b)]
    return sum(within) - 2 * np.mean([kernel(u, v) for u in a for v in b])


@few
@pytest.mark.parametrize("seed", range(3))
def test_fid_is_the_formula_with_a_matrix_root(seed):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12)) + 5
    b = rng.standard_t(5, size=(220, 12)) @ rng.normal(size=(12, 12)) + rng.normal(size=12)
    assert fid(a, b, same) == pytest.approx(frechet(a, b), rel=1e-9)
    assert fid(a, b, same) == pytest.approx(fid(b, a, same), rel=1e-12)


@few
def test_fid_of_gaussians_has_a_closed_form():
    # two sets whose means and diagonal covariances are exact: Σ (√v − √w)² + ‖μ − ν‖²
    corners = np.array([[i >> k & 1 for k in range(3)] for i in range(8)]) * 2.0 - 1
    scale = np.sqrt(7 / 8)  # variances over n − 1
    a, b = corners * scale * [1, 2, 3], corners * scale * [2, 2, 0] + [1, 0, 0]
    assert fid(a, b, same) == pytest.approx(1 + 0 + 9 + 1, rel=1e-12)


@few
def test_fid_of_identical_sets_is_zero_whatever_the_rank():
    rng = np.random.default_rng(0)
    for a in (rng.normal(size=(50, 8)), rng.normal(size=(5, 40)), 1e4 + rng.normal(size=(9, 3)) * [1, 0, 0],
              np.ones((4, 6))):
        value = fid(a, a[::-1], same)
        assert 0 <= value < 1e-9 * max(1.0, np.var(a)) and np.isfinite(value)
        assert np.isfinite(kid(a, a, same))
    # fewer samples than features: the matrix root of a singular product is only good to 1e-6
    a, b = rng.normal(size=(10, 30)), rng.normal(size=(12, 30))
    assert fid(a, b, same) == pytest.approx(frechet(a, b), rel=1e-4)


@few
def test_kid_is_a_double_loop():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(25, 4)), rng.normal(size=(18, 4)) * 1.3 + 0.4
    assert kid(a, b, same) == pytest.approx(mmd(a, b), rel=1e-10)
    assert kid(a, a, same) == pytest.approx(mmd(a, a), rel=1e-10) and kid(a, a, same) < 0
    big = rng.normal(size=(2500, 3))  # more than one block
    gram = (big @ big.T / 3 + 1) ** 3
    off = (gram.sum() - np.trace(gram)) / (2500 * 2499)
    assert kid(big, big, same) == pytest.approx(2 * off - 2 * gram.mean(), rel=1e-6)
    whole = kid(a, b, same, subsets=400, subset_size=12)
    assert whole == kid(a, b, same, subsets=400, subset_size=12)
    assert whole != kid(a, b, same, subsets=400, subset_size=12, random_state=1)
    assert whole == pytest.approx(mmd(a, b), abs=0.3 * mmd(a, b))  # subsets have the same expectation
    assert kid(a, b[:9], same, subsets=1, subset_size=9) != kid(a, b[:9], same)
    assert kid(a[:9], b[:9], same, subsets=2, subset_size=9) == pytest.approx(mmd(a[:9], b[:9]), rel=1e-10)


@few
def test_feature_networks_of_every_kind(digits, network):
    X, _, x, _ = digits
    network.train()
    with torch.no_grad():
        a, b = (network.eval()(torch.from_numpy(rows)[:, None]).double().numpy() for rows in (X[:90], x[:80]))
    network.train()
    expected = frechet(a, b)
    for rows in (X[:90], X[:90, None], torch.from_numpy(X[:90])):
        assert fid(rows, x[:80] if rows.ndim == 3 else x[:80, None], network) == pytest.approx(expected, rel=1e-3)
    assert network.training
    assert isinstance(fid(X[:90], x[:80], network), float) and isinstance(kid(X[:90], x[:80], network), float)
    by_function = fid(X[:90], x[:80], lambda rows: network.eval()(torch.from_numpy(rows)[:, None]))  # with a gradient
    assert by_function == pytest.approx(expected, rel=1e-3)
    half = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).to(torch.bfloat16)
    assert np.isfinite(fid(X[:90], x[:80], half))


def test_sets_of_bad_input():
    x = np.random.default_rng(0).uniform(size=(30, 4))
    with pytest.warns(UserWarning, match="30 real images and 20 counterfactuals.*are few.*too high"):
        fid(x, x[:20], same)
    with pytest.warns(UserWarning, match="are few.*variance"):
        kid(x, x, same)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        many = np.tile(x, (67, 1))
        assert fid(many, many, same) == pytest.approx(0, abs=1e-9)
    for metric in (fid, kid):
        with pytest.raises(ValueError, match="x_cf has 1 image; at least 2 are needed for a covariance"):
            metric(x, x[:1], same)
        with pytest.raises(ValueError, match=r"x_real has NaN or infinite values in 1 rows, first \[2\]"):
            metric(np.where(np.arange(30)[:, None] == 2, np.nan, x), x, same)
        with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"shape \(30,\) for the 30 samples of x_real"):
            metric(x, x, lambda rows: rows[:, 0])
        with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"features\(x_real\) has NaN"):
            metric(x, x, lambda rows: rows * np.nan)
        with pytest.warns(UserWarning), pytest.raises(TypeError, match="features must be a torch module or a function"):
            metric(x, x, 2048)
        with pytest.warns(UserWarning), pytest.raises(ValueError, match="4 values a real image, but 3 a counterfactual"):
            metric(x, x[:, :3], same)
    for message, options in {"subset_size=31 must lie in 2 … 30": {"subsets": 2, "subset_size": 31},
                             "subsets=0": {"subsets": 0}}.items():
        with pytest.warns(UserWarning), pytest.raises(ValueError, match=message):
            kid(x, x, same, **options)


@few
@pytest.mark.parametrize("metric", [fid, kid])
def test_the_inception_network_says_what_it_lacks(metric, images, offline):
    pytest.importorskip("torchmetrics")
    x, x_cf = images
    error = OSError if importlib.util.find_spec("torch_fidelity") else ImportError
    with pytest.raises(error, match="Or pass features="):
        metric(x, x_cf)
    with pytest.raises(DataRangeError, match="x_cf has values in"):
        metric(x, 255 * x_cf)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        metric(x[:, :2], x_cf[:, :2])
