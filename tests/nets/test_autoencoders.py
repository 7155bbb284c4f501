"""Networks of autoencoders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cfexplain.nets.autoencoders import AutoencoderNet, unit_scale


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
