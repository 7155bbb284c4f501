"""Codes of latents: one for each place, of sides of any length."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from cfexplain.nets.autoencoders import AutoencoderNet
from cfexplain.nets.latent_autoencoders import begin_at_components, code_shape


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
        net.decoder.linear.weight.mul_(1000)
        assert net.decode(torch.randn(2, 144)).abs().max() > 5


def test_a_code_belongs_to_places():
    with pytest.raises(ValueError, match="multiple of 9"):
        AutoencoderNet((4, 6, 6), 100, variational=False, data_range=None)


@pytest.mark.parametrize("sides", [(8, 12), (20, 18)])
def test_it_begins_at_the_principal_components_of_patches(sides):
    """Compared with scikit-learn's, of the patches as rows."""
    rng = np.random.default_rng(0)
    few = rng.normal(size=(60, 2, 5, 5)) @ rng.normal(size=(5, sides[1]))
    latents = (rng.normal(size=(sides[0], 5)) @ few + 0.3 * rng.normal(size=(60, 2, *sides))).astype(np.float32)
    shape, unit = (2, *sides), 2 if max(sides) <= 16 else 4
    _, height, across = code_shape(shape)
    net = AutoencoderNet(shape, 3 * height * across, variational=True, width=8, data_range=None).eval()
    begin_at_components(net.encoder, net.decoder, torch.from_numpy(latents))
    more = (height * unit - sides[0], across * unit - sides[1])
    padded = np.pad(latents, ((0, 0), (0, 0), (0, more[0]), (0, more[1])), mode="edge")
    rows = padded.reshape(60, 2, height, unit, across, unit).transpose(0, 2, 4, 1, 3, 5).reshape(60 * height * across, -1)
    pca = PCA(3).fit(rows)
    back = pca.inverse_transform(pca.transform(rows)) - rows.mean(0)
    back += np.repeat(rows.mean(0).reshape(2, -1).mean(1), unit**2)
    back = back.reshape(60, height, across, 2, unit, unit).transpose(0, 3, 1, 4, 2, 5).reshape(padded.shape)
    with torch.no_grad():
        mean, std = net.posterior(torch.from_numpy(latents))
        assert np.allclose(net.decode(mean), back[:, :, : sides[0], : sides[1]], atol=1e-3 * np.abs(back).max())
    codes = mean.reshape(60, 3, -1).swapaxes(1, 2).reshape(-1, 3)
    assert np.allclose(codes.std(0), 1, atol=0.02) and (std > 0.03).all() and (std < 0.72).all()
