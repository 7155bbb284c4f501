"""Networks of autoencoders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_iris
from torch import nn

from cfexplain.coordinates import VAE, Autoencoder, Coordinates, Identity, PretrainedCoordinates
from cfexplain.nets.autoencoders import AutoencoderNet, unit_scale


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
