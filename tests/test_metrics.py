"""Every metric against the same number had another way: by hand, by SciPy, by scikit-image, one row at a time."""

from __future__ import annotations

import importlib.util
import os
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import linalg, ndimage
from sklearn.base import BaseEstimator
from sklearn.linear_model import LinearRegression
from sklearn.svm import LinearSVC
from skorch import NeuralNetClassifier
from torch import nn

from cfexplain import DiffeomorphicExplainer, GradientExplainer, PLACEExplainer, metrics
from cfexplain.datasets import load_smiles
from cfexplain.foundation.exceptions import DataRangeError, NotFittedError, TargetError
from cfexplain.foundation.random import seeded_torch
from cfexplain.metrics import (
    confidence_gain,
    density_percentile_of,
    fid,
    identity_distance,
    kid,
    log_density_of,
    lp_distance,
    lpips,
    oracle_agreement,
    realism_percentile,
    region_locality,
    sharpness,
    sharpness_ratio,
    sparsity,
    ssim,
    stability,
    validity,
)
from cfexplain.perceptual import LPIPS, FeatureDistance, squeezenet_features

few = pytest.mark.filterwarnings("ignore:.*are few:UserWarning")
unfinished = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
pairs = st.integers(1, 5).flatmap(lambda n: st.tuples(*[arrays(
    np.float64, (n, 2, 3), elements=st.floats(-1e6, 1e6).map(lambda value: round(value, 3)))] * 2))


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


@pytest.fixture(scope="module")
def tabular(table):
    X, y, X_test, y_test = table
    return PLACEExplainer(random_state=0, training_budget=0.02, max_steps=15).fit(X, y), X_test, y_test


def test_the_public_names_are_exported_and_documented():
    assert metrics.__all__ == sorted(metrics.__all__)
    for name in metrics.__all__:
        text = getattr(metrics, name).__doc__
        assert "Examples" in text and ("Returns" in text or name == "kid"), name


# ---------------------------------------------------------------------- distances


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


# ----------------------------------------------------------------------- decision


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_validity_of_any_labels(rows):
    said, wanted = zip(*rows, strict=True)
    expected = [float(a == b) for a, b in rows]
    names = np.array(["no", "yes", "maybe", "none"])
    assert validity(said, wanted).tolist() == validity(names[list(said)], names[list(wanted)]).tolist() == expected
    assert validity(torch.tensor(said), 2).tolist() == [float(a == 2) for a in said]
    assert validity(names[list(said)].astype(object), "maybe").tolist() == [float(a == 2) for a in said]
    assert validity(said, 2).dtype == np.float64


def test_confidence_gain_by_hand():
    before, after = np.array([0.1, 0.5, 1.0], dtype=np.float32), np.array([0.9, 0.5, 0.0])
    gain = confidence_gain(torch.from_numpy(before), after)
    np.testing.assert_allclose(gain, [0.8, 0, -1], atol=1e-7)
    assert gain.dtype == np.float64


def test_oracles_of_every_kind(digits, network):
    X, y, x, _ = digits
    svm = LinearSVC(C=0.01, random_state=0).fit(X.reshape(len(X), -1), y)
    flat = x.reshape(len(x), -1)
    expected = (svm.predict(flat) == 4).astype(float)
    for rows in (x, x[:, None], flat, torch.from_numpy(x)):
        np.testing.assert_array_equal(oracle_agreement(svm, rows, 4), expected)
    targets = np.arange(len(x)) % 10
    np.testing.assert_array_equal(oracle_agreement(svm, x, targets), svm.predict(flat) == targets)

    module = nn.Sequential(network, nn.Linear(12, 10)).train()
    with torch.no_grad():
        logits = module.eval()(torch.from_numpy(x)[:, None]).numpy()
    module.train()
    np.testing.assert_array_equal(oracle_agreement(module, x, targets), logits.argmax(1) == targets)
    names = np.array([f"digit {k}" for k in range(10)])
    np.testing.assert_array_equal(
        oracle_agreement(module, x.astype(np.float64), names[targets], classes=names), logits.argmax(1) == targets)
    assert module.training and all(p.requires_grad for p in module.parameters())
    one = nn.Linear(64, 1)
    with torch.no_grad():
        expected = one(torch.from_numpy(flat))[:, 0].numpy() > 0
    np.testing.assert_array_equal(oracle_agreement(one, flat, 1), expected)
    column = nn.Sequential(one, nn.Flatten(0))
    np.testing.assert_array_equal(oracle_agreement(column, flat, "b", classes=["a", "b"]), expected)

    net = NeuralNetClassifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), criterion=nn.CrossEntropyLoss, max_epochs=1,
                              verbose=0).fit(X, y.astype(np.int64))
    np.testing.assert_array_equal(oracle_agreement(net, x, targets), net.predict(x) == targets)


def test_an_explainer_can_be_the_oracle(image_oracle, digits):
    x = digits[2][:40]
    np.testing.assert_array_equal(oracle_agreement(image_oracle, x, 4), image_oracle.predict(x) == 4)


@pytest.fixture(scope="module")
def image_oracle(digits):
    X, y, _, _ = digits
    return GradientExplainer(LinearDigits(), random_state=0, training_budget=0.01).fit(X[:200], y[:200])


class LinearDigits(nn.Module):
    """Ten templates: something to explain that needs no training."""

    def __init__(self):
        super().__init__()
        with seeded_torch(1):
            self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1))


def test_decisions_of_bad_input():
    x, module = np.zeros((3, 4)), nn.Linear(4, 3)
    for message, call in {
        r"predictions must be one label a row.*\(3, 1\)": lambda: validity(np.zeros((3, 1)), 0),
        r"target must be one label or one label a row, of shape \(3,\)": lambda: validity([0, 1, 2], [0, 1]),
        r"predictions has NaN in the rows \[1\]": lambda: validity([0.0, np.nan], 0),
        "pass labels, not indices": lambda: validity(["a", "b"], 0),
        "proba_before has 2 rows, proba_after 1": lambda: confidence_gain([0.5, 0.5], [1.0]),
        r"proba_after.*\[1\].*softmax": lambda: confidence_gain([0.5, 0.5], [1.0, 7.3]),
        "proba_before has NaN": lambda: confidence_gain([np.nan], [1.0]),
        "one probability a row": lambda: confidence_gain([[0.5, 0.5]], [1.0]),
        "x_cf has NaN": lambda: oracle_agreement(module, x * np.nan, 0),
        "not among the oracle's classes": lambda: oracle_agreement(module, x, 7),
        "must name the oracle's 3 classes": lambda: oracle_agreement(module, x, 0, classes=[0, 1]),
        "expected logits": lambda: oracle_agreement(nn.Unflatten(1, (2, 2)), x, 0),
        "returned 1 labels for 3": lambda: oracle_agreement(LinearRegressionOfOne(), x, 0),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="oracle must have a method predict"):
        oracle_agreement("svm", x, 0)


class LinearRegressionOfOne:
    def predict(self, X):
        return np.zeros(1)


# --------------------------------------------------------------------- similarity


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


# ------------------------------------------------------------------- distribution


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


# ------------------------------------------------------------------------ realism


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


# ------------------------------------------------------------- density, stability


def test_density_of_one_common_explainer(tabular):
    explainer, x, _ = tabular
    codes = explainer.coordinates_.encode_dataset(x)[0]
    for label in explainer.classes_:
        index = explainer.classes_.tolist().index(label)
        expected = explainer.density_.score_samples(codes, np.full(len(x), index))
        values = log_density_of(explainer, x, label)
        np.testing.assert_array_equal(values, expected.astype(np.float64))
        own = explainer.density_.log_densities_[index]
        np.testing.assert_allclose(density_percentile_of(explainer, x, label), [100 * np.mean(own <= v) for v in expected])
        assert values.dtype == np.float64 and values.shape == (len(x),)
    targets = explainer.classes_[np.arange(len(x)) % 2]
    each = np.stack([density_percentile_of(explainer, x, label) for label in explainer.classes_])
    np.testing.assert_array_equal(
        density_percentile_of(explainer, torch.from_numpy(x), targets), each[np.arange(len(x)) % 2, np.arange(len(x))])


@unfinished
def test_density_of_the_search_itself(tabular):
    """Where the code is the image's own (exact coordinates), the two densities agree."""
    _, x, y = tabular
    explainer = GradientExplainer(random_state=0, training_budget=0.02, max_steps=10).fit(x, y)
    cf = explainer.explain(x[:20])
    np.testing.assert_allclose(log_density_of(explainer, cf.x_cf, cf.target), cf.log_density, rtol=1e-4)
    np.testing.assert_allclose(density_percentile_of(explainer, cf.x_cf, cf.target), cf.density_percentile, atol=1)


@unfinished
def test_a_regression_has_one_density_and_values_as_targets(table):
    X, _, x, _ = table
    y = X[:, 0] - X[:, 1]
    explainer = DiffeomorphicExplainer(LinearRegression().fit(X, y), generator="vae", training_budget=0.02, max_steps=5,
                                       random_state=0).fit(X, y)
    values = log_density_of(explainer, x, None)
    np.testing.assert_array_equal(values, explainer.score_samples(x).astype(np.float64))
    own = explainer.density_.log_densities_[0]
    expected = [100 * np.mean(own <= value) for value in values]
    np.testing.assert_allclose(density_percentile_of(explainer, x, "whatever"), expected)
    for target in (1.5, (0.5, 2.0), "maximize", [0.5, 1.0, 1.5]):
        assert np.isfinite(stability(explainer, x[:3], target, n_repeats=2)).all()
    one, each = (stability(explainer, x[:3], target, n_repeats=2) for target in (0.5, [0.5] * 3))
    np.testing.assert_array_equal(one, each)


@unfinished
def test_stability_of_a_row_whatever_follows_it(tabular):
    explainer, x, _ = tabular
    x = x[:4]
    target = np.where(explainer.predict(x) == explainer.classes_[0], explainer.classes_[1], explainer.classes_[0])
    scale = np.linspace(0.01, 0.05, x.shape[1])
    values = stability(explainer, x, target, noise=scale, n_repeats=2, random_state=3)
    again = stability(explainer, torch.from_numpy(x[:2]), target[:2], noise=scale, n_repeats=2, random_state=3)
    np.testing.assert_array_equal(values[:2], again)
    assert (again != stability(explainer, x[:2], target[:2], noise=scale, n_repeats=2, random_state=4)).any()
    assert values.dtype == np.float64 and (values >= 0).all()


class Straight(BaseEstimator):
    """An explainer whose counterfactual is A x: its stability is known."""

    def __init__(self, matrix, image=False):
        self.matrix_, self.dtype_, self.data_range = matrix, np.dtype(np.float64), (0.0, 1.0)
        self.classes_, self.calls_, self.layout_ = np.array([0, 1]), [], type("Layout", (), {"is_image": image})

    def fit(self, X, y):
        return self

    def explain(self, X, target):
        self.calls_.append((X, target))
        return (X.reshape(len(X), -1) @ self.matrix_.T).reshape(X.shape)


def test_stability_of_a_linear_explainer_is_known():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(5, 3))
    np.testing.assert_allclose(stability(Straight(2.5 * np.eye(3)), x, 1), 2.5, rtol=1e-9)
    np.testing.assert_array_equal(stability(Straight(np.zeros((3, 3))), x, 1), 0)
    explainer = Straight(rng.normal(size=(3, 3)))
    values = stability(explainer, x, [0, 1, 1, 0, 1], n_repeats=7, noise=0.3)
    ((X, targets),) = explainer.calls_  # one call for everything
    X = X.reshape(5, 8, 3)
    np.testing.assert_array_equal(X[:, 0], x)
    np.testing.assert_array_equal(targets, np.repeat([0, 1, 1, 0, 1], 8))
    steps = X[:, 1:] - x[:, None]
    ratios = [[np.linalg.norm(explainer.matrix_ @ e) / np.linalg.norm(e) for e in row] for row in steps]
    np.testing.assert_allclose(values, np.mean(ratios, 1), rtol=1e-9)
    many = Straight(np.eye(3))
    stability(many, np.zeros((400, 3)), 0, noise=[0.1, 1.0, 0.0], n_repeats=5)
    spread = many.calls_[0][0].reshape(400, 6, 3)[:, 1:].reshape(-1, 3).std(0)
    np.testing.assert_allclose(spread, [0.1, 1, 0], rtol=0.05)


def test_noisy_images_stay_in_their_range():
    explainer = Straight(3 * np.eye(16), image=True)
    x = np.random.default_rng(0).integers(0, 2, size=(6, 4, 4)).astype(float)  # every value at an end
    np.testing.assert_allclose(stability(explainer, x, 1, noise=0.2), 3, rtol=1e-9)  # by the noise that is left
    sent = explainer.calls_[0][0]
    assert sent.min() == 0 and sent.max() == 1 and sent.shape == (30, 4, 4)


def test_explainers_of_bad_input(tabular):
    explainer, x, _ = tabular
    label = explainer.classes_[0]
    holes = np.where(np.arange(len(x))[:, None] == 4, np.nan, x)
    for metric in (log_density_of, density_percentile_of, stability):
        with pytest.raises(ValueError, match=r"NaN or infinite values in 1 rows, first \[4\]"):
            metric(explainer, holes, label)
        with pytest.raises(NotFittedError):
            metric(PLACEExplainer(), x, label)
        with pytest.raises(TargetError):
            metric(explainer, x[:3], "neither")
        with pytest.raises(ValueError, match=r"target must be one label or one label a row, of shape \(3,\)"):
            metric(explainer, x[:3], [label] * 2)
        with pytest.raises(ValueError, match="features"):
            metric(explainer, x[:3, :4], label)
    with pytest.raises(TypeError, match="must be a fitted explainer"):
        log_density_of(LinearSVC(), x, label)
    for message, options in {"does not broadcast": {"noise": [1, 2]}, "not negative": {"noise": -1},
                             "n_repeats=0": {"n_repeats": 0}, "leaves 3 rows as they were": {"noise": 0}}.items():
        with pytest.raises(ValueError, match=message):
            stability(explainer, x[:3], label, **options)
    with pytest.raises(ValueError, match="Name the target"):
        stability(explainer, x[:3], None)
