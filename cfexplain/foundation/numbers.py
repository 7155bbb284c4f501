"""Numbers of a row that keep their digits and their gradient: log-odds, and an L2 norm that may be 0."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cfexplain.foundation.exceptions import plain

__all__ = ["check_confidence", "log_odds", "log_odds_of", "probability", "row_norm"]


def check_confidence(confidence: Any) -> float | None:
    """`confidence` as a float, if it is a number strictly between 0 and 1, and None for "auto"; else ValueError."""
    if isinstance(confidence, str) and confidence == "auto":
        return None
    if not (isinstance(confidence, (int, float, np.number)) and 0 < confidence < 1):
        raise ValueError(f"confidence={plain(confidence)!r} must be 'auto' or a number strictly between 0 and 1.")
    return float(confidence)


def probability(p: float) -> str:
    """Two digits; what would round to 0 or 1 is written as < 0.01 or > 0.99.

    >>> probability(0.876), probability(0.9999), probability(1.0), probability(float("nan"))
    ('0.88', '> 0.99', '1.00', '–')
    """
    if not np.isfinite(p):
        return "–"
    return "> 0.99" if 0.995 <= p < 1 else "< 0.01" if 0 < p < 0.005 else f"{p:.2f}"


def log_odds(logits: Tensor, target: Tensor) -> Tensor:
    """log p(target) − log(1 − p(target)), shape (B,), from logits (..., B, K) without passing through p."""
    index = target[:, None].expand(*logits.shape[:-1], 1)
    own = logits.gather(-1, index)[..., 0]
    return own - logits.scatter(-1, index, -torch.inf).logsumexp(-1)


def log_odds_of(confidence: float) -> float:
    """log p − log(1 − p) of a probability strictly between 0 and 1, in float64.

    >>> log_odds_of(0.5)
    0.0
    """
    return math.log(confidence / (1 - confidence))


def row_norm(difference: Tensor) -> Tensor:
    """L2 norm of each row, whose gradient at 0 is 0: a search starts there.

    >>> import torch
    >>> v = torch.zeros(1, 3, requires_grad=True)
    >>> row_norm(v).sum().backward(); v.grad
    tensor([[0., 0., 0.]])
    """
    square = difference.flatten(1).square().sum(1)
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
