"""Resizing keeps averages."""

from __future__ import annotations

import pytest
import torch

from cfexplain.nets.resize import Resize


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


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
