"""Perceptual distances against their formulas and the package of their authors."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cfexplain.foundation.blur import gaussian_blur
from cfexplain.perceptual import LPIPS, FeatureDistance, squeezenet_features


def pictures(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(*shape, generator=generator, dtype=dtype) for _ in range(3)]


def backbone(channels=3, dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(inplace=True), nn.Conv2d(5, 5, 3)]
        return nn.Sequential(*layers).to(dtype)


def test_feature_distance_is_its_formula():
    x, y, _ = pictures(3, 3, 9, 8, dtype=torch.float64)
    net, mean, std = backbone(dtype=torch.float64), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    distance = FeatureDistance(net, (0, 2), mean, std, bgr=True, data_range=(-1.0, 1.0))
    expected = np.zeros(3)
    for count in (1, 3):
        unit = []
        for image in (x, y):
            h = ((image + 1) / 2)[:, [2, 1, 0]]
            h = (h - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
            h = net[:count](h).detach().numpy()
            unit.append(h / np.sqrt((h**2).sum(1, keepdims=True) + 1e-6))
        expected += ((unit[0] - unit[1]) ** 2).sum(1).mean((1, 2))
    np.testing.assert_allclose(distance(x, y).numpy(), expected, rtol=1e-6)
    assert distance(x, y).dtype == torch.float64


def test_feature_distance_is_a_symmetric_distance_with_a_finite_gradient():
    x, y, _ = pictures(4, 1, 12, 12)  # grey, for a backbone of three channels
    distance = FeatureDistance(backbone(), (1, 3))
    assert torch.equal(distance(x, x), torch.zeros(4))
    assert (distance(x, y) > 0).all()
    assert torch.equal(distance(x, y), distance(y, x))
    assert torch.equal(distance.distance(distance.features(x), distance.features(y)), distance(x, y))
    black = torch.zeros(1, 1, 12, 12, requires_grad=True)  # no feature may be active there
    for other in (black.detach(), y[:1]):
        (gradient,) = torch.autograd.grad(distance(other, black).sum(), black)
        assert torch.isfinite(gradient).all()


def test_feature_distance_leaves_the_backbone_alone():
    net = backbone().train()
    distance = FeatureDistance(net, (1,)).train()
    distance(*pictures(1, 3, 8, 8)[:2])
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert not distance.training and not any(p.requires_grad for p in distance.parameters())


@pytest.mark.parametrize(("make", "error", "words"), [
    (lambda: FeatureDistance(nn.Linear(2, 2), (0,)), TypeError, "Sequential"),
    (lambda: FeatureDistance(backbone(), (7,)), ValueError, "5 layers"),
    (lambda: FeatureDistance(backbone(), (1,), mean=(0.5,), std=(1.0, 1.0)), ValueError, "std has 2"),
    (lambda: FeatureDistance(backbone(), (1,)).features(torch.zeros(2, 4, 8, 8)), ValueError, r"\(B, 3, H, W\)"),
    (lambda: LPIPS("resnet"), ValueError, "squeeze"),
    (lambda: squeezenet_features("/nowhere/squeezenet.pth"), FileNotFoundError, "nowhere")])
def test_bad_perceptual_input_says_what_to_do(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_file_with_other_weights_is_refused(tmp_path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="SqueezeNet"):
        squeezenet_features(tmp_path / "weights.pth")


@pytest.mark.parametrize("net", ["squeeze", "alex"])
def test_lpips_has_the_numbers_of_the_package(net):
    lpips = pytest.importorskip("lpips")
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)  # real heads, a random backbone: no download
    distance = LPIPS(net, data_range=(0.0, 1.0))
    distance._model = model.requires_grad_(False)
    x, y, _ = pictures(2, 3, 64, 64)
    torch.testing.assert_close(distance(x, y), model(2 * x - 1, 2 * y - 1).flatten(), rtol=1e-4, atol=1e-7)
    assert torch.equal(distance(x, x), torch.zeros(2))
    grey = y[:, :1].double().requires_grad_()
    (gradient,) = torch.autograd.grad(distance(x[:, :1].double(), grey).sum(), grey)
    assert gradient.dtype == torch.float64 and torch.isfinite(gradient).all() and gradient.abs().sum() > 0
    with pytest.raises(ValueError, match="too small"):
        distance(x[..., :8, :8], y[..., :8, :8])


@pytest.mark.data
def test_squeezenet_sees_a_blurred_photograph_as_different():
    folder = os.environ.get("CFEXPLAIN_DATA")
    if not folder:
        pytest.skip("CFEXPLAIN_DATA is not set: the weights of SqueezeNet and real faces are there")
    distance = squeezenet_features(Path(folder) / "squeezenet1_1_caffe.pth")
    with np.load(Path(folder) / "smiles_64.npz") as file:
        faces = torch.from_numpy(file["x"][:16]).float()[:, None] / 255
    little, much = (distance(faces, gaussian_blur(faces, sigma)) for sigma in (0.6, 2.0))
    assert torch.equal(distance(faces, faces), torch.zeros(16))
    assert (little > 0).all() and (little < much).all()
