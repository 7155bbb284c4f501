"""Codes of latents: one for each place, of sides of any length."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cfexplain.nets.autoencoders import AutoencoderNet
from cfexplain.nets.latent_autoencoders import code_shape


@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 6))
def test_any_sides_come_back(height, width, channels):
    shape = (channels, height, width)
    codes, *grid = code_shape(shape)
    assert max(grid) <= 8
    latent_dim = codes * grid[0] * grid[1]
    net = AutoencoderNet(shape, latent_dim, variational=True, width=8, data_range=None).eval()
    mean, std = net.posterior(torch.randn(2, *shape))
    assert mean.shape == std.shape == (2, latent_dim) and (std > 0).all()
    assert net.decode(mean).shape == (2, *shape)


def test_nothing_bounds_latents():
    net = AutoencoderNet((4, 6, 6), 16 * 9, variational=False, width=8, data_range=None).eval()
    with torch.no_grad():
        net.decoder[-1].weight.mul_(1000)
        assert net.decode(torch.randn(2, 144)).abs().max() > 5


def test_a_code_belongs_to_places():
    with pytest.raises(ValueError, match="multiple of 9"):
        AutoencoderNet((4, 6, 6), 100, variational=False, data_range=None)
