"""Generators: inversion against closed forms, networks of the user's own left as they were, and a dcGAN of our own."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from skorch import NeuralNetRegressor
from torch import nn

from cfexplain.coordinates import GAN, Coordinates, GeneratorCoordinates, Inversion, invert
from cfexplain.foundation.exceptions import DataRangeError
from cfexplain.nets.gan import Discriminator, GANNet, refresh_statistics
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


# ------------------------------------------------------------------ inversion


@pytest.mark.parametrize("prior_weight", [0.0, 0.02])
@pytest.mark.parametrize("scale", [1.0, "columns"])
def test_inversion_of_a_linear_generator_is_least_squares(prior_weight, scale):
    G = linear()
    W, b = G.weight.numpy(), G.bias.numpy()
    x = np.random.default_rng(0).normal(size=(5, 7))
    unit = np.ones(7) if scale == 1.0 else np.linspace(0.5, 3, 7)
    A, residual = W / unit[:, None], (x - b) / unit
    # mean (G(z) - x)^2 / unit^2 + w |z|^2 / 2  =>  (2 A'A / D + w I) z = 2 A'r / D
    expected = np.linalg.solve(2 * A.T @ A / 7 + prior_weight * np.eye(3), 2 * A.T @ residual.T / 7).T
    options = Inversion(steps=300, prior_weight=prior_weight)
    z, error = invert(G, torch.from_numpy(x), 3, options, scale=torch.from_numpy(unit))
    np.testing.assert_allclose(z, expected, atol=1e-4)
    np.testing.assert_allclose(error, np.sqrt(np.mean((residual - expected @ A.T) ** 2, 1)), atol=1e-6)


def test_features_take_part_as_equation_11_says():
    """With a linear h the optimum is least squares in pixels and features together."""
    G, h = linear(), seeded(lambda: nn.Linear(7, 2).double(), 5)
    x = np.random.default_rng(1).normal(size=(4, 7))
    W, b, H = G.weight.numpy(), G.bias.numpy(), h.weight.detach().numpy()
    A = np.concatenate([W / np.sqrt(7), np.sqrt(3.0 / 2) * H @ W])
    r = np.concatenate([(x - b).T / np.sqrt(7), np.sqrt(3.0 / 2) * H @ (x - b).T])
    expected = np.linalg.lstsq(A, r, rcond=None)[0].T
    options = Inversion(steps=300, prior_weight=0.0, feature_weight=3.0, feature_layer=h)
    z, error = invert(G, torch.from_numpy(x), 3, options)
    np.testing.assert_allclose(z, expected, atol=1e-4)
    np.testing.assert_allclose(error, np.sqrt(np.mean((x - b - expected @ W.T) ** 2, 1)), atol=1e-6)
    assert h.training and h.weight.requires_grad and h.weight.grad is None


def bumpy(z):
    """Many local minima."""
    return torch.cat([torch.sin(3 * z) + z / 4, torch.cos(2 * z)], 1)


def test_the_best_restart_is_no_worse_than_any_of_them():
    x = bumpy(seeded(lambda: torch.randn(20, 2, dtype=torch.float64), 3))
    options = Inversion(steps=60, restarts=5, prior_weight=0.0)
    _, error = invert(bumpy, x, 2, options, seed=7)
    points = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    single = [invert(bumpy, x, 2, replace(options, restarts=1), p.expand(20, 2), seed=7)[1] for p in points]
    np.testing.assert_allclose(error, torch.stack(single).min(0).values, atol=1e-12)
    assert (error < torch.stack(single).max(0).values - 0.1).any()


def test_the_best_iterate_counts_not_the_last():
    """Steps that are far too long leave the optimum where they started."""
    G, z0 = linear(), torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64)
    z, error = invert(G, G(z0), 3, Inversion(steps=5, restarts=1, lr=50.0, prior_weight=0.0), z0)
    assert torch.equal(z, z0) and error.item() < 1e-12


def test_where_restarts_begin():
    x, none = linear()(torch.zeros(3, 3, dtype=torch.float64)), Inversion(steps=0, prior_weight=0.0)
    normal = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    z = invert(linear(), x, 3, none, seed=9)[0]
    assert (z == z[0]).all() and (z[0] == normal).all(1).any()
    assert (invert(linear(), x, 3, replace(none, start="mean"), seed=9)[0] == 0).all()
    mine = torch.full((3, 3), 1e-3, dtype=torch.float64)
    assert torch.equal(invert(linear(), x, 3, none, mine, seed=9)[0], mine)
    assert invert(linear().float(), x.float(), 3, none)[0].dtype == torch.float32


def test_inversion_is_a_constant_under_any_gradient_mode():
    x = linear()(torch.ones(2, 3, dtype=torch.float64)).requires_grad_()
    z, error = invert(linear(), x, 3, QUICK)
    with torch.no_grad():
        again, _ = invert(linear(), x, 3, QUICK)
    assert torch.equal(z, again) and not z.requires_grad and not error.requires_grad


def test_a_generator_that_is_not_finite_is_told_by_its_error():
    z, error = invert(lambda z: torch.where(z > 0, torch.nan, z), torch.full((2, 1), -1.0), 1, QUICK)
    assert torch.isfinite(z).all() and (error < 0.1).all()  # from a start where it is finite
    z, error = invert(lambda z: z * torch.nan, torch.zeros(2, 1), 1, QUICK)
    assert torch.isfinite(z).all() and torch.isinf(error).all()


@pytest.mark.parametrize(("bad", "error", "words"), [
    ({"steps": -1}, ValueError, "steps"), ({"restarts": 0}, ValueError, "restarts"), ({"tile": 0.5}, ValueError, "tile"),
    ({"lr": 0}, ValueError, "lr"), ({"prior_weight": -1}, ValueError, "prior_weight"),
    ({"start": "encoder"}, ValueError, "'mean'"), ({"feature_layer": "conv"}, TypeError, "callable")])
def test_bad_options_say_what_is_expected(bad, error, words):
    with pytest.raises(error, match=words):
        Inversion(**bad)


# ------------------------------------------------------- a generator of the user's


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
    assert set(sizes) == {2, 32} and sizes.count(2) == 2 * 9 and sizes.count(32) == 2
    z = coordinates.encode(torch.from_numpy(images[:1])).requires_grad_()
    (gradient,) = torch.autograd.grad(classifier(coordinates.decode(z))[:, 0].sum(), z)
    assert gradient.shape == (1, 4) and (gradient != 0).all()
    with pytest.raises(ValueError, match=r"\(3, 512, 512\), but X has \(3, 64, 64\).*Resize"):
        GeneratorCoordinates(G, latent_dim=4).fit(images[:, :, ::8, ::8])
    small = GeneratorCoordinates(nn.Sequential(G, Resize(64)), latent_dim=4, inversion=options, random_state=0)
    assert small.fit(images[:, :, ::8, ::8]).decode(z).shape == (1, 3, 64, 64)


def test_resize_keeps_averages_and_says_what_it_takes():
    x = seeded(lambda: torch.rand(2, 3, 32, 32, dtype=torch.float64))
    constant = torch.full((1, 2, 9, 13), 0.3)
    torch.testing.assert_close(Resize(5)(constant), torch.full((1, 2, 5, 5), 0.3))
    assert Resize(32)(x) is x
    # a linear map with rows of weight one whose columns weigh alike: the mean of the interior is kept
    assert abs(Resize(16)(x).mean() - x.mean()) < 5e-3
    assert torch.autograd.gradcheck(Resize((3, 4)), (x[:1, :1, :8, :8].clone().requires_grad_(),))
    with pytest.raises(ValueError, match="size=0"):
        Resize(0)
    with pytest.raises(ValueError, match="B, C, H, W"):
        Resize(4)(torch.zeros(3, 8, 8))


# ------------------------------------------------------------------------ GAN


@pytest.fixture(scope="module")
def digits():
    return (load_digits().images / 16).astype(np.float32)


@pytest.fixture(scope="module")
def gan(digits):
    return GAN(latent_dim=12, width=8, training_budget=0.12, inversion=Inversion(steps=20, restarts=2),
               random_state=0).fit(digits)


@pytest.mark.parametrize("net_shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 33, 45), (3, 64, 64)], ids=str)
def test_networks_of_any_shape(net_shape):
    net, critic = seeded(lambda: (GANNet(net_shape, 5, width=4, data_range=(-1, 3)), Discriminator(net_shape, width=4)))
    x = net.eval().decode(torch.randn(2, 5, generator=torch.Generator().manual_seed(0)))
    assert x.shape == (2, *net_shape) and x.min() >= -1 and x.max() <= 3
    assert net.encode(x).shape == (2, 5) and critic(net.to_units(x)).shape == (2,)
    assert isinstance(net.decoder[2], nn.BatchNorm2d)


def test_statistics_are_those_of_the_batches():
    norm = nn.Sequential(nn.BatchNorm2d(3))
    norm(torch.full((4, 3, 2, 2), 9.0))
    batches = [seeded(lambda k=k: torch.randn(6, 3, 4, 4), k) for k in range(3)]
    refresh_statistics(norm, batches)
    np.testing.assert_allclose(norm[0].running_mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0), atol=1e-6)
    np.testing.assert_allclose(norm[0].running_var, torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0), rtol=1e-5)
    assert not norm.training and norm[0].momentum == 0.1


def test_a_gan_learns_and_inverts_digits(gan, digits):
    samples = gan.sample(500, random_state=0)
    assert samples.shape == (500, 8, 8) and samples.min() >= 0 and samples.max() <= 1
    # pixel by pixel like the data, and not one picture
    assert np.abs(samples.mean(0) - digits.mean(0)).mean() < 0.08
    assert samples.std(0).mean() > 0.6 * digits.std(0).mean()
    held = digits[:60]
    back = gan.inverse_transform(gan.transform(held))
    assert np.square(back - held).mean() < 0.5 * np.square(digits.mean(0) - held).mean()
    assert gan.inversion_error_.shape == (256,)
    np.testing.assert_array_equal(gan.sample(2, random_state=1), gan.sample(2, random_state=1))
    assert {"generator_loss", "discriminator_loss"} <= set(gan.history_[-1])


def test_a_row_of_a_gan_has_the_same_bits_in_any_company(gan, digits):
    images = digits[:40]
    Z, order = gan.transform(images), np.random.default_rng(1).permutation(40)
    np.testing.assert_array_equal(gan.transform(images[order]), Z[order])
    np.testing.assert_array_equal(gan.transform(images[33:34]), Z[33:34])


def test_the_encoders_guess_is_where_the_inversion_begins(gan, digits):
    x = torch.from_numpy(digits[:20, None])
    guess = gan.module_.encoder(x)
    own = np.sqrt(np.square(gan.decode(guess).numpy() - x.numpy()).mean((1, 2, 3)))
    z, error = invert(gan.decode, x, 12, Inversion(steps=0, restarts=1), guess)
    torch.testing.assert_close(z, guess)
    np.testing.assert_allclose(error, own, rtol=1e-5)
    assert (gan.module_.invert(x)[1].numpy() < own).mean() > 0.9


def test_networks_rest_and_a_gan_can_be_stored(gan, digits):
    assert not any(p.requires_grad for p in gan.module_.parameters())
    assert not any(part.training for part in gan.module_.modules())
    again = pickle.loads(pickle.dumps(gan))
    np.testing.assert_array_equal(again.transform(digits[:2]), gan.transform(digits[:2]))
    assert clone(gan).get_params() == gan.get_params()
    rebuilt = gan._make_module()
    rebuilt.load_state_dict(gan.module_.state_dict())
    x = torch.from_numpy(digits[:2, None])
    assert torch.equal(rebuilt.encode(x), gan.module_.encode(x))


def test_training_follows_the_seed_and_leaves_the_global_generators_alone(digits):
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    quick = {"latent_dim": 3, "width": 4, "training_budget": 0.004, "inversion": Inversion(steps=2, restarts=1)}
    one, two, other = (GAN(**quick, random_state=seed).fit(digits[:70]).sample(2, 0) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert not np.allclose(one, other)
    assert (np.random.get_state()[1] == numpy_state).all() and torch.equal(torch.random.get_rng_state(), torch_state)
    flat = GAN(**quick, random_state=0, image_shape=(1, 8, 8), data_range=(-1.0, 1.0))
    flat.fit(2 * digits[:70].reshape(70, -1).astype(np.float64) - 1)
    np.testing.assert_allclose(flat.sample(2, 0).reshape(2, 8, 8), 2 * one - 1, atol=1e-3)
    assert flat.transform(np.zeros((2, 64))).dtype == np.float64


@pytest.mark.parametrize(("make", "error", "words"), [
    (lambda: GAN(latent_dim=0), ValueError, "latent_dim=0"), (lambda: GAN(lr=-1), ValueError, "lr"),
    (lambda: GAN(training_budget=0), ValueError, "training_budget"), (lambda: GAN(width=1.5), ValueError, "width"),
    (lambda: GAN(inversion=3), TypeError, "Inversion"), (lambda: GAN(data_range=(-3, -1)), DataRangeError, "data_range")])
def test_bad_parameters_of_a_gan(digits, make, error, words):
    with pytest.raises(error, match=words):
        make().fit(digits[:20])
    with pytest.raises(ValueError, match="table of 64 columns"):
        GAN().fit(digits[:20].reshape(20, -1))
