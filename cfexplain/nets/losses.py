"""What the loss of a training is given, and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

__all__ = ["Loss", "Rows", "edges_loss"]

Rows = Mapping[str, Tensor]
Loss = Callable[[Any, Rows, float], Tensor]  # of a network of any class: a loss a row


def edges_loss(errors: Tensor) -> Tensor:
    """Loss of each of the `errors` (B, C, H, W) of images, (B,): −log density of pixels, and of edges, but for a constant.

    Pixels under the normal, edges (what a halving of the sides loses) under the Laplace distribution whose scale fits the
    batch best: neither outweighs the other, however bright or smooth the images are.
    """
    variance = errors.detach().square().mean().clamp_min(1e-6)
    loss = (errors.square() / variance + variance.log()).flatten(1).sum(1) / 2
    if min(errors.shape[2:]) < 4:
        return loss
    low = F.avg_pool2d(errors, 2, ceil_mode=True)
    edges = errors - F.interpolate(low, size=errors.shape[2:], mode="bilinear", align_corners=False)
    scale = edges.detach().abs().mean().clamp_min(1e-3)
    return loss + (edges.abs() / scale + scale.log()).flatten(1).sum(1)
