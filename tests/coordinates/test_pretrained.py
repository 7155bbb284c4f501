"""Networks of the user's own are left as they were."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import NotFittedError
from skorch import NeuralNetRegressor
from torch import nn

from cfexplain.coordinates import VAE, PretrainedCoordinates


@pytest.fixture(scope="module")
def digits():
    images = (load_digits().images / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[:1200]], images[order[1200:1400]]


class Codec(nn.Module):
    """One module with encode and decode; `style` is what they return."""

    def __init__(self, style="tensor"):
        super().__init__()
        self.style = style
        self.down = nn.Sequential(nn.Conv2d(1, 2, 2, 2), nn.BatchNorm2d(2), nn.Dropout(0.5))
        self.up = nn.ConvTranspose2d(2, 1, 2, 2)

    def encode(self, x):
        z = self.down(x)
        return {
            "tensor": z, "latents": SimpleNamespace(latents=z),
            "latent_dist": SimpleNamespace(latent_dist=SimpleNamespace(mean=z, std=z.exp(), mode=lambda: z)),
            "distribution": torch.distributions.Normal(z, z.exp()), "tuple": (z, None)}[self.style]

    def decode(self, z):
        x = self.up(z)
        return x if self.style == "tensor" else (x,) if self.style == "tuple" else SimpleNamespace(sample=x)


def make_codec(style="tensor"):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Codec(style).train()


@pytest.mark.parametrize("style", ["tensor", "latents", "latent_dist", "distribution", "tuple"])
def test_what_encode_and_decode_may_return(digits, style):
    images = digits[0][:50]
    coordinates = PretrainedCoordinates(make_codec(style), standardize=False).fit(images)
    net = make_codec().eval()
    with torch.no_grad():
        x = torch.from_numpy(images)[:, None]
        z, back = net.down(x), net.up(net.down(x))
    assert coordinates.latent_shape_ == (2, 4, 4) and coordinates.latent_dim_ == 32
    np.testing.assert_allclose(coordinates.transform(images), z.flatten(1), atol=1e-6)
    np.testing.assert_allclose(coordinates.inverse_transform(coordinates.transform(images)), back[:, 0], atol=1e-6)
    _, std = coordinates.encode_dataset(images[:, None])
    expected = z.exp().flatten(1) if style in ("latent_dist", "distribution") else torch.zeros(50, 32)
    np.testing.assert_allclose(std, expected, rtol=1e-5)


def test_standardised_latents_decode_to_the_same_samples(digits):
    images, net = digits[0][:50].astype(np.float64), make_codec("latent_dist")  # a float32 network, float64 images
    scaled, plain = PretrainedCoordinates(net).fit(images), PretrainedCoordinates(net, standardize=False).fit(images)
    back = scaled.inverse_transform(scaled.transform(images))
    assert back.dtype == np.float64
    np.testing.assert_allclose(back, plain.inverse_transform(plain.transform(images)), atol=1e-5)
    spread = plain.transform(images).std(0)
    alive = spread > 1e-4
    np.testing.assert_allclose(scaled.encode_dataset(images[:, None])[1][:, alive] * spread[alive],
                               plain.encode_dataset(images[:, None])[1][:, alive], rtol=1e-4)


def test_the_users_networks_stay_as_they_were(digits):
    net = make_codec()
    net.down[0].weight.requires_grad_(False)
    net.down[1].eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    modes, flags = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    coordinates = PretrainedCoordinates(net).fit(digits[0][:40])
    x = torch.from_numpy(digits[0][:4])[:, None]
    z = coordinates.encode(x.requires_grad_())
    torch.autograd.grad(coordinates.decode(z).sum(), x)
    coordinates.inverse_transform(coordinates.transform(digits[0][:4]))
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert coordinates.module_.encoder is net


def test_clone_neither_copies_nor_unfits():
    X = load_iris().data.astype(np.float32)
    encoder = NeuralNetRegressor(nn.Linear, module__in_features=4, module__out_features=2, verbose=0, max_epochs=1,
                                 train_split=None)
    encoder.fit(X, X[:, :2])
    decoder = nn.Linear(2, 4)
    twin = clone(PretrainedCoordinates(encoder, decoder, standardize=False))
    assert twin.encoder is encoder and twin.decoder is decoder and not twin.standardize
    expected = encoder.predict(X)
    np.testing.assert_allclose(twin.fit(X).transform(X), expected, atol=1e-5)
    assert clone(VAE(latent_dim=3, hidden=(5,))).get_params() == VAE(latent_dim=3, hidden=(5,)).get_params()


class Strange(nn.Module):
    def forward(self, x):
        return {"z": x}


@pytest.mark.parametrize(("make", "error", "words"), [
    (lambda: PretrainedCoordinates("vae"), TypeError, "nn.Module"),
    (lambda: PretrainedCoordinates(nn.Linear(4, 2)), TypeError, r"encode\(\)"),
    (lambda: PretrainedCoordinates(nn.Linear(4, 2), nn.Linear(2, 3)), ValueError, r"decode\(encode\(x\)\)"),
    (lambda: PretrainedCoordinates(Strange(), nn.Linear(2, 4)), TypeError, "latent_dist"),
    (lambda: PretrainedCoordinates(nn.Linear(4, 2), nn.Sequential(nn.Linear(2, 4), Strange())), TypeError, "sample"),
    (lambda: PretrainedCoordinates(nn.Flatten(0), nn.Linear(2, 4)), ValueError, r"\(B, ...\)"),
    (lambda: PretrainedCoordinates(NeuralNetRegressor(nn.Linear), nn.Linear(2, 4)), NotFittedError, "fit")])
def test_networks_that_do_not_fit_say_why(make, error, words):
    with pytest.raises(error, match=words):
        make().fit(load_iris().data)
