"""Clip modes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cfexplain.coordinates.detail import CLIP_MODES, clipped


def test_clip_modes():
    x = torch.tensor([[-0.5, 0.2, 2.5]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    for mode, kept in zip(CLIP_MODES, ([1, 1, 1], [0, 1, 0], [1, 1, 1]), strict=True):
        y = clipped(x, mode, (0.0, 2.0))
        np.testing.assert_array_equal(y.detach(), np.clip(x.detach().numpy(), *((-9, 9) if mode == "none" else (0, 2))))
        (gradient,) = torch.autograd.grad((y * weight).sum(), x)
        assert torch.equal(gradient, weight * torch.tensor(kept))
    with pytest.raises(ValueError, match="clip='hard' is not known"):
        clipped(x, "hard", (0.0, 1.0))
