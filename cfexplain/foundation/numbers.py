"""Numbers of a row that keep their digits and their gradient: log-odds, and an L2 norm that may be 0."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cfexplain.foundation.exceptions import plain
from cfexplain.foundation.remainders import in_vectors

__all__ = ["check_confidence", "fitting_width", "log_odds", "log_odds_of", "quantile_of_sorted", "row_norm"]


def check_confidence(confidence: Any) -> float | None:
    """`confidence` as a float, if it is a number strictly between 0 and 1, and None for "auto"; else ValueError."""
    if isinstance(confidence, str) and confidence == "auto":
        return None
    if not (isinstance(confidence, (int, float, np.number)) and 0 < confidence < 1):
        raise ValueError(f"confidence={plain(confidence)!r} must be 'auto' or a number strictly between 0 and 1.")
    return float(confidence)


def log_odds(logits: Tensor, target: Tensor) -> Tensor:
    """log p(target) − log(1 − p(target)), shape (..., B), from logits (..., B, K) without passing through p.

    Differentiable once in the logits. Functions such as exp leave no remainder, so that few rows have the bits of many.
    """
    return _LogOdds.apply(logits, target)


class _LogOdds(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        index = target[:, None].expand(*logits.shape[:-1], 1)
        others = logits.scatter(-1, index, -torch.inf)
        # where none is possible, not −∞ − (−∞)
        largest = others.amax(-1, keepdim=True).clamp_(-torch.finfo(logits.dtype).max)
        exponentials = in_vectors(torch.exp, others.sub_(largest))
        total = exponentials.sum(-1, keepdim=True)
        ctx.save_for_backward(exponentials, total, index)
        odds = logits.gather(-1, index).sub_(largest).sub_(in_vectors(torch.log, total))
        return odds[..., 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        exponentials, total, index = ctx.saved_tensors
        gradient = gradient[..., None]
        return (exponentials * (gradient / total)).neg_().scatter_(-1, index, gradient), None


def log_odds_of(confidence: float) -> float:
    """log p − log(1 − p) of a probability strictly between 0 and 1, in float64.

    >>> log_odds_of(0.5)
    0.0
    """
    return math.log(confidence / (1 - confidence))


def fitting_width(share: float, most: int) -> int:
    """Of hidden layers, in steps of 32 and at least 64: a `share` in [0, 1] of the `most` that large data fill.

    >>> [fitting_width(share, 256) for share in (1.0, 0.5, 0.01)]
    [256, 128, 64]
    """
    return max(64, 32 * round(most / 32 * share))


def quantile_of_sorted(values: np.ndarray, q: float, higher: bool = False) -> float:
    """``np.quantile`` of one or more values that are sorted already, in a fiftieth of the time.

    >>> quantile_of_sorted(np.array([1.0, 2.0, 4.0]), 0.75), quantile_of_sorted(np.array([1.0, 2.0, 4.0]), 0.6, higher=True)
    (3.0, 4.0)
    """
    place = q * (len(values) - 1)
    if higher:
        return float(values[math.ceil(place)])
    below = math.floor(place)
    low, high = float(values[below]), float(values[min(below + 1, len(values) - 1)])
    return low if low == high else low + (high - low) * (place - below)


def row_norm(difference: Tensor) -> Tensor:
    """L2 norm of each row, whose gradient at 0 is 0: a search starts there.

    >>> import torch
    >>> v = torch.zeros(1, 3, requires_grad=True)
    >>> row_norm(v).sum().backward(); v.grad
    tensor([[0., 0., 0.]])
    """
    return _RowNorm.apply(difference)


class _RowNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, difference: Tensor) -> Tensor:
        norm = difference.flatten(1).square().sum(1).sqrt_()
        ctx.save_for_backward(difference, norm)
        return norm

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        difference, norm = ctx.saved_tensors
        share = torch.where(norm > 0, gradient / norm, 0.0)
        return difference * share.view(-1, *[1] * (difference.ndim - 1))
