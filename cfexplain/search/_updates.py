"""How a row moves: one step of a first-order method, each row for itself.

Both are written for a tile of rows and keep two moments a row, so that the search need not know which one it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

__all__ = ["UPDATES", "Update"]

# (gradient, first moment, second moment, step count from 1) -> (move per unit of step size, moments)
Update = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def adam(gradient: Tensor, first: Tensor, second: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Adam (Kingma & Ba, 2014), element by element, with a step count a row."""
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient * gradient
    unbiased_first = first / (1 - 0.9**count)[:, None]
    unbiased_second = second / (1 - 0.999**count)[:, None]
    return unbiased_first / (unbiased_second.sqrt() + 1e-8), first, second


def normalized(gradient: Tensor, first: Tensor, second: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Momentum over each row's *unit* gradient; a step of 1 is as long as one standard deviation in every dimension.

    Normalising before averaging matters: the first density gradients are orders of magnitude larger than the last, and
    a running mean of raw gradients would follow them for dozens of steps.
    """
    length = gradient.square().sum(1, keepdim=True).sqrt()
    first = 0.8 * first + 0.2 * gradient / (length + 1e-8)
    move = first / (1 - 0.8**count)[:, None]
    return move * math.sqrt(gradient.shape[1]), first, second


UPDATES: dict[str, Update] = {"adam": adam, "normalized": normalized}
