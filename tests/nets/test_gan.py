"""Networks of a dcGAN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cfexplain.nets.gan import Discriminator, GANNet, refresh_statistics


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


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
