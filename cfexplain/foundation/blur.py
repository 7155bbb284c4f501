"""A Gaussian blur of images."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from cfexplain.foundation.settings import own_modes

__all__ = ["gaussian_blur"]


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """G_σ ∗ images, (..., H, W): a separable Gaussian, cut off at 3σ, mirrored at the edges (without repeating them).

    The same as ``scipy.ndimage.gaussian_filter(..., mode="mirror", truncate=3)`` over the last two axes. As products
    with two matrices it needs no padding, takes images smaller than the kernel, and has a deterministic gradient on a
    GPU, which torch's padding has not.

    >>> import torch
    >>> gaussian_blur(torch.ones(1, 1, 3, 3), 1.0).round(decimals=4).unique()
    tensor([1.])
    """
    height, width = images.shape[-2:]
    rows, columns = (_blur_matrix(side, sigma, images.dtype, images.device) for side in (height, width))
    return rows @ images @ columns.T


@lru_cache(maxsize=64)
@own_modes()  # what is kept may be differentiated later
def _blur_matrix(side: int, sigma: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    radius = int(3 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    period = max(1, 2 * (side - 1))
    source = np.abs((np.arange(side)[:, None] + offsets) % period)
    source = np.minimum(source, period - source) if side > 1 else np.zeros_like(source)
    matrix = np.zeros((side, side))
    np.add.at(matrix, (np.arange(side)[:, None], source), kernel)
    return torch.tensor(matrix, dtype=dtype, device=device)
