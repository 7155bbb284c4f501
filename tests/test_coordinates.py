"""Coordinates: scikit-learn's contract, shapes, scale, gradients, and networks of the user's own left as they were."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks
from skorch import NeuralNetRegressor
from torch import nn

from cfexplain.coordinates import VAE, Autoencoder, Coordinates, Identity, PretrainedCoordinates
from cfexplain.foundation.exceptions import DataRangeError
from cfexplain.foundation.tiles import aligned
from cfexplain.nets.autoencoders import AutoencoderNet, unit_scale

QUICK = {"training_budget": 0.02, "random_state": 0}


@parametrize_with_checks([Identity(), VAE(**QUICK), Autoencoder(**QUICK)])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    images = (load_digits().images / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[:1200]], images[order[1200:1400]]


@pytest.fixture(scope="module")
def trained(digits):
    """One of each kind on images, and on a table whose columns have wild units."""
    table, _ = load_iris(return_X_y=True)
    table = table * [1e-8, 1.0, 1e6, 1.0] + [0.0, -40.0, 1e9, 0.0]
    table = np.column_stack([table, np.full(len(table), 7.25)])
    networks = (nn.Linear(5, 3).double(), nn.Linear(3, 5).double())
    return {
        "identity": (Identity().fit(digits[0]), digits[0]),
        "vae": (VAE(training_budget=0.1, random_state=0).fit(digits[0]), digits[0]),
        "autoencoder": (Autoencoder(training_budget=0.1, random_state=0).fit(digits[0]), digits[0]),
        "vae of a table": (VAE(training_budget=0.1, hidden=(64,), random_state=0).fit(table), table),
        "autoencoder of a table": (Autoencoder(training_budget=0.1, hidden=(64,), random_state=0).fit(table), table),
        "the user's": (PretrainedCoordinates(*networks).fit(table), table),
    }


KINDS = ["identity", "vae", "autoencoder", "vae of a table", "autoencoder of a table", "the user's"]


# ----------------------------------------------------------------- networks


@pytest.mark.parametrize("variational", [True, False])
@pytest.mark.parametrize("net_shape", [
    (1, 8, 8), (2, 8, 9), (1, 12, 16), (1, 28, 28), (3, 32, 32), (1, 33, 45), (4, 64, 64), (3, 100, 60), (1, 256, 256),
    (1, 8, 256), (1, 2, 3), (1,), (2,), (30,)], ids=str)
def test_networks_of_any_shape(net_shape, variational):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = AutoencoderNet(net_shape, 5, variational=variational, width=4, hidden=(8,), data_range=(-1.0, 3.0))
        x = 4 * torch.rand(2, *net_shape) - 1
        assert net.train().decode(net.encode(x[:1])).shape == x[:1].shape  # a batch of one can be trained on
    mean, std = net.eval().posterior(x)
    assert mean.shape == std.shape == (2, 5)
    assert (std > 0).all() if variational else (std == 0).all()
    back = net.decode(mean)
    assert back.shape == x.shape
    if len(net_shape) == 3:
        assert back.min() >= -1 and back.max() <= 3


@pytest.mark.parametrize(("side", "count"), [(8, 1), (28, 3), (32, 3), (64, 4), (128, 5), (256, 6)])
def test_strided_stages_grow_with_the_image(side, count):
    net = AutoencoderNet((1, side, side), 8, variational=True)
    strided = [m for m in net.encoder if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert len(strided) == count == sum(isinstance(m, nn.ConvTranspose2d) for m in net.decoder)


@pytest.mark.parametrize("net_shape", [(2, 6, 7), (3,)], ids=str)
def test_gradients_are_those_of_finite_differences(net_shape):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = AutoencoderNet(net_shape, 3, variational=True, width=2, hidden=(6,)).double().eval()
        x, z = torch.rand(2, *net_shape, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    net.set_codes(np.random.default_rng(0).normal(2, 3, size=(20, 3)))
    assert torch.autograd.gradcheck(net.posterior, (x.requires_grad_(),))
    assert torch.autograd.gradcheck(net.decode, (z.requires_grad_(),))


def test_unit_scale_knows_a_constant_column_from_a_small_one():
    rng = np.random.default_rng(0)
    values = np.column_stack([np.full(50, 0.1), 1e9 + rng.normal(size=50), 1e-9 * rng.normal(size=50), np.zeros(50)])
    mean, std, inverse = unit_scale(values)
    np.testing.assert_allclose(mean, values.mean(0))
    assert (std[[0, 3]] == 0).all() and (inverse[[0, 3]] == 0).all()
    np.testing.assert_allclose((std * inverse)[[1, 2]], 1)


# --------------------------------------------------------- what all of them do


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_and_tensors_agree(trained, kind):
    coordinates, X = trained[kind]
    assert isinstance(coordinates, Coordinates)
    Z = coordinates.transform(X)
    back = coordinates.inverse_transform(Z)
    assert Z.shape == (len(X), coordinates.latent_dim_) and Z.dtype == X.dtype == coordinates.dtype_
    assert back.shape == X.shape and back.dtype == X.dtype
    assert len(coordinates.get_feature_names_out()) == Z.shape[1]
    mean, std = coordinates.encode_dataset(X.reshape(-1, *coordinates.layout_.net_shape))
    np.testing.assert_array_equal(mean, Z)
    assert std.shape == Z.shape
    assert ("vae" in kind) == bool((std > 0).any())
    x = torch.from_numpy(X[:4]).reshape(-1, *coordinates.layout_.net_shape)
    z = coordinates.encode(x).detach().requires_grad_()
    np.testing.assert_allclose(z.detach().numpy(), Z[:4], rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(coordinates.decode(z).sum(), z)
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_bits_in_any_company(trained, kind):
    coordinates, X = trained[kind]
    X = X[:75]
    Z = coordinates.transform(X)
    order = np.random.default_rng(1).permutation(len(X))
    np.testing.assert_array_equal(coordinates.transform(X[order]), Z[order])
    np.testing.assert_array_equal(np.concatenate([coordinates.transform(X[i : i + 1]) for i in range(9)]), Z[:9])
    back = coordinates.inverse_transform(Z)
    np.testing.assert_array_equal(coordinates.inverse_transform(Z[order]), back[order])
    np.testing.assert_array_equal(coordinates.inverse_transform(Z[40:41]), back[40:41])


@pytest.mark.parametrize("kind", KINDS[1:5])
def test_a_rows_gradient_has_the_same_bits_at_any_place_of_a_tile(trained, kind):
    coordinates, X = trained[kind]
    z = torch.from_numpy(coordinates.transform(X[:32])).requires_grad_()
    order = torch.from_numpy(np.random.default_rng(2).permutation(32))
    weight = torch.linspace(-1, 1, X[0].size, dtype=z.dtype).view(coordinates.layout_.net_shape)
    with aligned():
        straight, shuffled = (
            torch.autograd.grad((coordinates.decode(rows) * weight).sum(), z)[0] for rows in (z, z[order]))
    assert torch.equal(straight, shuffled)


@pytest.mark.parametrize("kind", KINDS)
def test_pickle_gives_the_same_codes(trained, kind):
    coordinates, X = trained[kind]
    again = pickle.loads(pickle.dumps(coordinates))
    np.testing.assert_array_equal(again.transform(X), coordinates.transform(X))


@pytest.mark.parametrize("kind", KINDS)
def test_networks_rest(trained, kind):
    module = trained[kind][0].module_
    assert not module.training
    if kind != "the user's":
        assert not any(p.requires_grad for p in module.parameters())


def test_identity_is_exact(digits):
    colour = np.stack([digits[0][:5]] * 3, axis=1)
    coordinates = Identity().fit(colour)
    assert coordinates.exact and not VAE.exact and not Autoencoder.exact
    np.testing.assert_array_equal(coordinates.inverse_transform(coordinates.transform(colour)), colour)


# ------------------------------------------------------------ trained networks


@pytest.mark.parametrize("kind", ["vae", "autoencoder"])
def test_held_out_digits_are_reconstructed(trained, digits, kind):
    coordinates, (train, test) = trained[kind][0], digits
    error = np.square(coordinates.inverse_transform(coordinates.transform(test)) - test).mean()
    assert error < 0.5 * np.square(train.mean(0) - test).mean()


@pytest.mark.parametrize("kind", ["vae of a table", "autoencoder of a table"])
def test_columns_of_any_unit_are_reconstructed(trained, kind):
    coordinates, X = trained[kind]
    back = coordinates.inverse_transform(coordinates.transform(X))
    assert (np.square(back - X).mean(0)[:4] < 0.3 * X.var(0)[:4]).all()
    assert (back[:, 4] == 7.25).all()


@pytest.mark.parametrize("kind", ["autoencoder", "autoencoder of a table", "the user's"])
def test_latents_have_unit_scale(trained, kind):
    coordinates, X = trained[kind]
    Z = coordinates.transform(X)
    np.testing.assert_allclose(Z.mean(0), 0, atol=1e-4)
    alive = Z.std(0) > 0
    assert alive.any()
    np.testing.assert_allclose(Z.std(0)[alive], 1, rtol=1e-3)


def test_training_follows_the_seed_and_leaves_the_global_generators_alone():
    X, _ = load_iris(return_X_y=True)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    Z = [VAE(training_budget=0.02, hidden=(8,), random_state=seed).fit(X).transform(X) for seed in (0, 0, 1, None)]
    assert (np.random.get_state()[1] == numpy_state).all()
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    np.testing.assert_array_equal(Z[0], Z[1])
    assert not np.allclose(Z[0], Z[2])


def test_flat_rows_with_an_image_shape_are_the_images(digits):
    images = digits[0][:100]
    flat = VAE(**QUICK, image_shape=(1, 8, 8)).fit(images.reshape(100, -1))
    square = VAE(**QUICK).fit(images)
    np.testing.assert_array_equal(flat.transform(images.reshape(100, -1)), square.transform(images))
    assert flat.inverse_transform(flat.transform(images.reshape(100, -1))).shape == (100, 64)


def test_data_range_is_only_a_matter_of_units(digits):
    images = digits[0][:100].astype(np.float64)
    one, other = VAE(**QUICK).fit(images), VAE(**QUICK, data_range=(-2.0, 6.0)).fit(8 * images - 2)
    np.testing.assert_allclose(other.transform(8 * images - 2), one.transform(images), atol=1e-5)
    np.testing.assert_allclose(other.inverse_transform(one.transform(images)),
                               8 * one.inverse_transform(one.transform(images)) - 2, atol=1e-4)


@pytest.mark.parametrize("make", [
    lambda: VAE(**QUICK, likelihood="gaussian", augment="mirror"),
    lambda: VAE(**QUICK, perceptual=lambda x, y: (x - y).abs().mean((1, 2, 3)), weight_decay=1e-3),
    lambda: Autoencoder(**QUICK, reconstruction="mse", augment="mirror", latent_dim=7)])
def test_choices_of_training(digits, make):
    coordinates = make().fit(digits[0][:60])
    assert np.isfinite(coordinates.transform(digits[1])).all()
    assert all(np.isfinite(row["train_loss"]) for row in coordinates.history_)


@pytest.mark.parametrize(("make", "image", "words"), [
    (lambda: VAE(latent_dim=0), True, "latent_dim=0"), (lambda: VAE(latent_dim="big"), True, "'auto'"),
    (lambda: VAE(beta=-1), True, "beta"), (lambda: VAE(sigma=0), True, "sigma"),
    (lambda: VAE(likelihood="poisson"), True, "'bernoulli'"), (lambda: VAE(likelihood="bernoulli"), False, "gaussian"),
    (lambda: VAE(perceptual=max), False, "table"), (lambda: VAE(augment="mirror"), False, "table"),
    (lambda: VAE(augment="rotate"), True, "'mirror'"), (lambda: VAE(training_budget=0), True, "training_budget"),
    (lambda: Autoencoder(reconstruction="l1"), True, "'mse'"), (lambda: Autoencoder(reconstruction="bce"), False, "mse"),
    (lambda: Autoencoder(lr=0), True, "lr"), (lambda: Identity(data_range=(1.0, 0.0)), True, "low < high")])
def test_bad_parameters_say_what_is_expected(digits, make, image, words):
    X = digits[0][:20] if image else load_iris().data
    with pytest.raises(ValueError, match=words):
        make().fit(X)


def test_bad_arrays_say_what_is_expected(digits, trained):
    with pytest.raises(DataRangeError, match="data_range"):
        Identity().fit(16 * digits[0])
    with pytest.raises(NotFittedError):
        VAE().transform(digits[0])
    coordinates = trained["vae"][0]
    with pytest.raises(ValueError, match="fitted on samples of shape"):
        coordinates.transform(digits[0][:, :5])
    with pytest.raises(ValueError, match="columns"):
        coordinates.inverse_transform(np.zeros((2, 5)))
    with pytest.raises(ValueError, match="NaN"):
        coordinates.inverse_transform(np.full((2, coordinates.latent_dim_), np.nan))


# --------------------------------------------------- networks of the user's own


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
