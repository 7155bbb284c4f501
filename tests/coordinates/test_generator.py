"""Generators of the user's own: found again, and left as they were."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from skorch import NeuralNetRegressor
from torch import nn

from cfexplain.coordinates import Coordinates, GeneratorCoordinates, Inversion
from cfexplain.nets.resize import Resize


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def linear(latent=3, out=7):
    return seeded(lambda: nn.Linear(latent, out).double().requires_grad_(False))


class Draw(nn.Module):
    """A little dcGAN: z (B, d) or (B, d, 1, 1) -> (B, channels, 8, 8) in (-1, 1)."""

    def __init__(self, latent=4, channels=1, maps=False):
        super().__init__()
        self.nz, self.maps = latent, maps
        self.body = nn.Sequential(
            nn.ConvTranspose2d(latent, 8, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2),
            nn.ConvTranspose2d(8, channels, 4, 2, 1), nn.Tanh())

    def forward(self, z):
        if self.maps and z.ndim != 4:
            raise RuntimeError("expected (B, nz, 1, 1)")
        return self.body(z.view(len(z), -1, 1, 1))


@pytest.fixture(scope="module")
def draw():
    """A generator in training mode, with statistics of its own, and 45 images in (0, 1) that are nearly its own."""
    G = seeded(Draw).train()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for _ in range(20):
            G(torch.randn(50, 4))
        noise = 0.02 * torch.rand(45, 1, 8, 8)
        images = ((G.eval()(torch.randn(45, 4)) + 1) / 2 * 0.98 + noise).numpy()
    return G.train(), images


QUICK = Inversion(steps=15, restarts=3)
HELD = 10  # rows of X that `fit` sees: it inverts them


def test_the_image_of_a_generator_is_found_again(draw):
    G, images = draw
    coordinates = GeneratorCoordinates(
        G, output_range=(-1, 1), inversion=Inversion(steps=80), random_state=0).fit(images[:HELD])
    images = images[:HELD]
    assert isinstance(coordinates, Coordinates) and coordinates.encoder_kind_ == "inversion"
    assert coordinates.latent_dim_ == 4 and not coordinates.exact
    Z = coordinates.transform(images)
    back = coordinates.inverse_transform(Z)
    error = np.sqrt(np.square(back - images).mean((1, 2, 3)))
    np.testing.assert_allclose(coordinates.inversion_error_, error, rtol=1e-4)
    assert error.max() < 0.03
    assert Z.dtype == back.dtype == np.float32


def test_a_row_has_the_same_bits_in_any_company(draw):
    G, images = draw
    coordinates = GeneratorCoordinates(G, output_range=(-1, 1), inversion=QUICK, random_state=0).fit(images[:HELD])
    images = images[:40]
    Z, order = coordinates.transform(images), np.random.default_rng(1).permutation(40)
    np.testing.assert_array_equal(coordinates.transform(images[order]), Z[order])
    for i in (0, 5, 39):
        np.testing.assert_array_equal(coordinates.transform(images[i : i + 1]), Z[i : i + 1])
        x = torch.from_numpy(images[i : i + 1])
        np.testing.assert_array_equal(coordinates.encode(x), Z[i : i + 1])


def test_output_range_is_linear(draw):
    G, images = draw
    z = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    with torch.no_grad():
        raw = seeded_eval(G)(torch.from_numpy(z)).numpy()
    wide = GeneratorCoordinates(G, output_range=(-1, 1), data_range=(10, 30), inversion=QUICK, random_state=0)
    unit = GeneratorCoordinates(G, output_range=(-1, 1), inversion=QUICK, random_state=0).fit(images[:HELD])
    np.testing.assert_allclose(wide.fit(10 + 20 * images[:HELD]).inverse_transform(z), 20 + 10 * raw, rtol=1e-5)
    np.testing.assert_allclose(unit.inverse_transform(z), (raw + 1) / 2, atol=1e-6)
    np.testing.assert_allclose(wide.inversion_error_, unit.inversion_error_, atol=2e-3)  # in shares of the range


def seeded_eval(G):
    twin = pickle.loads(pickle.dumps(G))
    return twin.eval()


def test_latent_shape(draw):
    images = draw[1]
    G = seeded(lambda: Draw(maps=True))
    coordinates = GeneratorCoordinates(G, latent_shape=(4, 1, 1), output_range=(-1, 1), inversion=QUICK).fit(images[:HELD])
    assert coordinates.latent_dim_ == 4 and coordinates.transform(images[:2]).shape == (2, 4)
    with pytest.raises(ValueError, match=r"latent_shape=\(100, 1, 1\)"):
        GeneratorCoordinates(G, inversion=QUICK).fit(images[:HELD])
    with pytest.raises(ValueError, match="latent_dim=5"):
        GeneratorCoordinates(G, latent_dim=5, latent_shape=(4, 1, 1)).fit(images)


@pytest.mark.parametrize("name", ["z_dim", "latent_dim", "latent_size", "nz"])
def test_the_length_of_z_is_found(name):
    G, X = linear(), np.zeros((3, 7))
    setattr(G, name, 3)
    assert GeneratorCoordinates(G, inversion=QUICK).fit(X).latent_dim_ == 3
    with pytest.raises(ValueError, match="z_dim, latent_dim, latent_size, nz.*latent_dim=100"):
        GeneratorCoordinates(linear()).fit(X)


def test_an_encoder_is_used_where_there_is_one():
    G = linear()
    W, b = G.weight, G.bias
    inverse = nn.Linear(7, 3).double()
    with torch.no_grad():
        inverse.weight.copy_(torch.linalg.pinv(W))
        inverse.bias.copy_(-torch.linalg.pinv(W) @ b)
    X = np.random.default_rng(0).normal(size=(30, 7))
    exact = GeneratorCoordinates(G, inverse, latent_dim=3).fit(X)
    assert exact.encoder_kind_ == "encoder"
    np.testing.assert_allclose(exact.transform(X), inverse(torch.from_numpy(X)).detach(), atol=1e-12)
    back = exact.inverse_transform(exact.transform(X))
    np.testing.assert_allclose(exact.inversion_error_, np.sqrt(np.mean(((back - X) / X.std(0)) ** 2, 1)))
    x = torch.from_numpy(X).requires_grad_()
    (gradient,) = torch.autograd.grad(exact.encode(x).sum(), x)
    np.testing.assert_allclose(gradient, torch.linalg.pinv(W).sum(0).expand(30, -1), atol=1e-12)
    # an encoder that is off: refined, and no worse than it was
    with torch.no_grad():
        inverse.bias.add_(0.5)
    off = GeneratorCoordinates(G, inverse, latent_dim=3).fit(X)
    refined = GeneratorCoordinates(G, inverse, latent_dim=3, refine_steps=50).fit(X)
    assert refined.encoder_kind_ == "encoder+inversion"
    assert refined.inversion_error_.mean() < off.inversion_error_.mean()
    with pytest.raises(ValueError, match="holds as many|hold as many"):
        GeneratorCoordinates(G, nn.Linear(7, 2).double(), latent_dim=3).fit(X)
    with pytest.raises(ValueError, match="there is no encoder"):
        GeneratorCoordinates(G, latent_dim=3, refine_steps=5).fit(X)


def test_gradients_go_through_decode_and_leave_the_network_as_it_was(draw):
    G, images = draw
    G.body[0].weight.requires_grad_(False)
    state = {name: value.clone() for name, value in G.state_dict().items()}
    modes, flags = [m.training for m in G.modules()], [p.requires_grad for p in G.parameters()]
    rng = torch.random.get_rng_state()
    coordinates = GeneratorCoordinates(G, output_range=(-1, 1), inversion=QUICK, random_state=0).fit(images[:HELD])
    coordinates.inverse_transform(coordinates.transform(images[:3]))
    z = seeded(lambda: torch.randn(2, 4)).requires_grad_()
    (gradient,) = torch.autograd.grad(coordinates.decode(z).square().sum(), z)
    step = 1e-3 * torch.eye(4)[0]
    with torch.no_grad():
        twin = seeded_eval(G).double()
        value = [((twin((z + s).double()) + 1) / 2).square().flatten(1).sum(1) for s in (step, -step)]
    np.testing.assert_allclose(gradient[:, 0], (value[0] - value[1]) / 2e-3, rtol=1e-2, atol=1e-3)
    assert [m.training for m in G.modules()] == modes and [p.requires_grad for p in G.parameters()] == flags
    assert all(torch.equal(value, state[name]) for name, value in G.state_dict().items())
    assert all(p.grad is None for p in G.parameters()) and torch.equal(torch.random.get_rng_state(), rng)
    assert coordinates.module_.generator.network is G


def test_clone_and_pickle(draw):
    G, images = draw
    coordinates = GeneratorCoordinates(G, output_range=(-1, 1), inversion=QUICK, random_state=0).fit(images[:HELD])
    twin = clone(coordinates)
    assert twin.generator is G and twin.inversion is QUICK and not hasattr(twin, "module_")
    expected = coordinates.transform(images[:4])
    np.testing.assert_array_equal(twin.fit(images[:HELD]).transform(images[:4]), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(coordinates)).transform(images[:4]), expected)
    h = nn.Flatten()
    assert clone(GeneratorCoordinates(G, inversion=Inversion(feature_layer=h))).inversion.feature_layer is h


def test_a_skorch_net_is_a_generator():
    X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    net = NeuralNetRegressor(nn.Linear, module__in_features=2, module__out_features=4, max_epochs=1, verbose=0,
                             train_split=None)
    with pytest.raises(NotFittedError, match="generator"):
        GeneratorCoordinates(net, latent_dim=2).fit(X)
    net.fit(X[:, :2], X)
    coordinates = GeneratorCoordinates(net, latent_dim=2, inversion=QUICK).fit(X.astype(np.float64))
    np.testing.assert_allclose(coordinates.inverse_transform(X[:, :2]), net.predict(X[:, :2]), atol=1e-6)


class Noisy(nn.Linear):
    def forward(self, z):
        return super().forward(z) + torch.randn(len(z), self.out_features)


@pytest.mark.parametrize(("make", "error", "words"), [
    (lambda: GeneratorCoordinates("G"), TypeError, "nn.Module"),
    (lambda: GeneratorCoordinates(nn.Linear(3, 6), latent_dim=3), ValueError, r"shape \(6,\), but X has \(7,\).*Resize"),
    (lambda: GeneratorCoordinates(nn.Linear(3, 7), latent_dim=4), ValueError, "does not take z"),
    (lambda: GeneratorCoordinates(Noisy(3, 7), latent_dim=3), ValueError, "noise_mode"),
    (lambda: GeneratorCoordinates(nn.Linear(3, 7), latent_dim=0), ValueError, "latent_dim=0"),
    (lambda: GeneratorCoordinates(nn.Linear(3, 7), latent_dim=3, inversion="adam"), TypeError, "Inversion"),
    (lambda: GeneratorCoordinates(nn.Linear(3, 7), latent_dim=3, output_range=(-1, 1)), ValueError, "table"),
    (lambda: GeneratorCoordinates(nn.Linear(3, 7), latent_dim=3, latent_shape=()), ValueError, "latent_shape")])
def test_networks_that_do_not_fit_say_why(make, error, words):
    with pytest.raises(error, match=words):
        make().fit(np.zeros((3, 7)))


def test_a_large_generator_before_a_classifier_of_small_images():
    """512x512 drawn, 64x64 read: gradients reach z, and the inversion keeps to its tile."""
    G = seeded(lambda: nn.Sequential(nn.Linear(4, 3 * 64), nn.Unflatten(1, (3, 8, 8)), nn.Upsample(512), nn.Sigmoid()))
    classifier = seeded(lambda: nn.Sequential(Resize(64), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(192, 2)))
    with torch.no_grad():
        images = G(seeded(lambda: torch.randn(2, 4))).numpy()
    sizes = []
    G.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    options = Inversion(steps=8, restarts=2, tile=2, feature_layer=classifier[:3])
    coordinates = GeneratorCoordinates(G, latent_dim=4, inversion=options, random_state=0).fit(images)
    assert set(sizes) == {2, 4} and sizes.count(2) == 2 * 9 and sizes.count(4) == 2
    z = coordinates.encode(torch.from_numpy(images[:1])).requires_grad_()
    (gradient,) = torch.autograd.grad(classifier(coordinates.decode(z))[:, 0].sum(), z)
    assert gradient.shape == (1, 4) and (gradient != 0).all()
    with pytest.raises(ValueError, match=r"\(3, 512, 512\), but X has \(3, 64, 64\).*Resize"):
        GeneratorCoordinates(G, latent_dim=4).fit(images[:, :, ::8, ::8])
    small = GeneratorCoordinates(nn.Sequential(G, Resize(64)), latent_dim=4, inversion=options, random_state=0)
    assert small.fit(images[:, :, ::8, ::8]).decode(z).shape == (1, 3, 64, 64)
