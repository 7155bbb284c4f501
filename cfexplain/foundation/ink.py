"""Images of ink on paper: how much of the ink is grey, and whether a set of images is of that kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["greyness", "ink_sign"]

_BACKGROUND = 0.1  # of the range: what is no ink
_GREYEST = 0.3  # greyness of images of ink: MNIST has .15, digits of 8×8 pixels .23, X-rays and photographs .4 and more
# What the strongest tenth of the strokes reaches in nearly all images: of digits .88 of the range; of clothes, some of which
# are dark, .54
_STRONGEST, _NEARLY_ALL, _STRONG = 0.9, 0.05, 0.75


def greyness(x: Tensor, data_range: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Σ u(1 − u) / Σ u of each image with u in [0, 1]: how much of the ink is neither there nor not there. Shape (B,).

    >>> import torch
    >>> greyness(torch.tensor([[[[0.0, 1.0]]], [[[0.5, 0.5]]]]))
    tensor([0.0000, 0.5000])
    """
    return _Greyness.apply(x, *data_range)


class _Greyness(torch.autograd.Function):
    """With its gradient in closed form, ((1 − 2u) − greyness) / Σ u."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        u = ((x - low) / (high - low)).flatten(1)
        ink = u.sum(1).add_(1e-6)
        grey = (u * (1 - u)).sum(1).div_(ink)
        ctx.save_for_backward(u, ink, grey)
        ctx.shape, ctx.width = x.shape, high - low
        return grey

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        u, ink, grey = ctx.saved_tensors
        share = (gradient / (ink * ctx.width))[:, None]
        return (((1 - grey)[:, None] - 2 * u) * share).view(ctx.shape), None, None


def ink_sign(images: np.ndarray, data_range: tuple[float, float] = (0.0, 1.0)) -> int:
    """1 for images (n, C, H, W) of bright strokes on a dark background, −1 for dark ones on a bright one, 0 for others.

    Such images have more background than anything else, their strokes little that is neither black nor white, and one
    shade in all images: where one image is dark and the next bright, as of clothes, shades mean something.

    >>> strokes, photograph = np.eye(8)[None, None], np.linspace(0, 1, 64).reshape(1, 1, 8, 8)
    >>> ink_sign(strokes), ink_sign(1 - strokes), ink_sign(photograph)
    (1, -1, 0)
    """
    low, high = data_range
    u = ((images - low) / (high - low)).mean(1).reshape(len(images), -1)
    for sign, rows in ((1, u), (-1, 1 - u)):
        total = rows.sum(1)
        drawn = total > 0
        if not drawn.any() or np.median((rows < _BACKGROUND).mean(1)) < 0.4:
            continue
        if np.median((rows * (1 - rows)).sum(1)[drawn] / total[drawn]) > _GREYEST:
            continue
        strokes = np.where(rows > _BACKGROUND, rows, np.nan)[rows.max(1) > _BACKGROUND]
        if len(strokes) and np.quantile(np.nanquantile(strokes, _STRONGEST, axis=1), _NEARLY_ALL) >= _STRONG:
            return sign
    return 0
