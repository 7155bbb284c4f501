"""Autoencoders: scikit-learn's contract, shapes, scale and bits."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from cfexplain.coordinates import VAE, Autoencoder, Coordinates, Identity, PretrainedCoordinates
from cfexplain.foundation.exceptions import DataRangeError
from cfexplain.foundation.tiles import aligned
from cfexplain.metrics import sharpness_ratio
from cfexplain.nets.autoencoders import AutoencoderNet

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


@pytest.mark.parametrize("kind", ["vae", "autoencoder"])
def test_held_out_digits_are_reconstructed(trained, digits, kind):
    coordinates, (train, test) = trained[kind][0], digits
    error = np.square(coordinates.inverse_transform(coordinates.transform(test)) - test).mean()
    assert error < 0.5 * np.square(train.mean(0) - test).mean()


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


@pytest.mark.slow
def test_contrast_makes_ink_as_sharp_as_it_is(digits):
    """By the metric itself, on rows that nothing was chosen by; and it multiplies logits, nothing else."""
    plain, chosen = (VAE(training_budget=0.3, random_state=0, contrast=contrast).fit(digits[0]) for contrast in (1, "auto"))
    assert plain.likelihood_ == "bernoulli" and plain.contrast_ == 1 < chosen.contrast_ < 3
    codes = plain.transform(digits[1])
    np.testing.assert_array_equal(codes, chosen.transform(digits[1]))
    drawn = [vae.inverse_transform(codes[:20]).astype(float) for vae in (plain, chosen)]
    logits, raised = (np.log(u / (1 - u)) for u in drawn)
    inner = np.abs(raised) < 8  # beyond, float32 is coarse
    np.testing.assert_allclose(raised[inner], chosen.contrast_ * logits[inner], rtol=1e-2, atol=1e-2)
    sharp = [np.median(sharpness_ratio(digits[1], vae.inverse_transform(codes))) for vae in (plain, chosen)]
    assert sharp[0] < 0.93 < sharp[1] < 1.1
    assert VAE(training_budget=0.02, random_state=0).fit(digits[0] * 0.3 + 0.3).contrast_ == 1  # no ink: no cross-entropy
    assert pickle.loads(pickle.dumps(chosen)).contrast_ == chosen.contrast_


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
    (lambda: VAE(perceptual=max), False, "table"), (lambda: VAE(contrast=2), False, "table"),
    (lambda: VAE(contrast=0), True, "contrast"),
    (lambda: VAE(augment="mirror"), False, "table"),
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
