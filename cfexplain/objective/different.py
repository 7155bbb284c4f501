"""A pull away from answers that a row has already: several counterfactuals of one row should differ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cfexplain.foundation.numbers import row_norm
from cfexplain.objective.point import Point
from cfexplain.objective.terms import Term

__all__ = ["Different", "alike"]


@dataclass(frozen=True)
class Different(Term):
    """Σ max(|cos(z′ − z₀, other − z₀)| − limit, 0) over the row's other answers, ``rows["others"]`` of shape (B, k − 1, d).

    It sets no condition: a row is done when it is a counterfactual, and whether it is another one is judged at the end.
    ``rows["alike"]``, of shape (B, k − 1), is the limit for each.
    """

    name = "different"

    def loss(self, point: Point) -> Tensor:
        change = point.z - point.rows["z0"]
        return torch.relu(alike(change[:, None], point.rows["others"])[:, 0] - point.rows["alike"]).sum(1)


def alike(changes: Tensor, others: Tensor) -> Tensor:
    """|cos| of each of `changes` (B, m, d) with each of `others` (B, k, d): shape (B, m, k); 0 where nothing changes.

    >>> alike(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 2.0], [-3.0, 0.0]]])).tolist()
    [[[0.0, 1.0]]]
    """
    unit = [part / row_norm(part.flatten(0, 1)).view(*part.shape[:2], 1).clamp(min=1e-12) for part in (changes, others)]
    # not by a matrix product, whose order of summation depends on shapes
    return (unit[0][:, :, None] * unit[1][:, None]).sum(-1).abs()
