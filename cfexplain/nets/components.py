"""Principal components of pictures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cfexplain.foundation.random import seeded_torch
from cfexplain.foundation.threads import one_thread

__all__ = ["principal_components"]

_MOST_ROWS, _SIDE = 10_000, 32  # that components are found from, and to which pictures are averaged down before
_BEYOND = 10  # components that are found and not used: the last of a randomised search are inexact


def principal_components(images: Tensor, most: int, seed: int) -> Tensor:
    """The first components of `images` (n, C, H, W), each of mean 0 and variance 1: (n, k) with k at most `most`.

    Of at most 10,000 rows, chosen by `seed`, and of pictures averaged down to 32 pixels a side.

    >>> tinted = torch.rand(50, 1, 1, 1, generator=torch.Generator().manual_seed(0)) * torch.ones(50, 3, 40, 40)
    >>> found = principal_components(tinted, 1, seed=0)[:, 0]
    >>> round(abs(torch.corrcoef(torch.stack([found, tinted[:, 0, 0, 0]]))[0, 1].item()), 4)
    1.0
    """
    height, width = images.shape[2:]
    sides = min(_SIDE, height), min(_SIDE, width)
    with seeded_torch(seed), one_thread(), torch.no_grad():
        chosen = torch.randperm(len(images))[:_MOST_ROWS]
        small = F.adaptive_avg_pool2d(images[chosen], sides).flatten(1)
        mean = small.mean(0)
        _, size, basis = torch.pca_lowrank(small - mean, min(most + _BEYOND, *small.shape), center=False, niter=4)
        basis, scale = basis[:, :most], size[:most] / len(small) ** 0.5
        basis, scale = basis[:, scale > 1e-6 * scale[0]], scale[scale > 1e-6 * scale[0]]
        return torch.cat([(F.adaptive_avg_pool2d(part, sides).flatten(1) - mean) @ basis / scale
                          for part in images.split(_MOST_ROWS)])
