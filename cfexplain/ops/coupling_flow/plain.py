"""Affine couplings of zuko as training computes them: the same numbers in fewer operations, differentiable in the weights.

zuko picks the columns that a coupling reads and moves out of z, and puts them back, with every coupling; gradients of that
scatter. Where couplings only take turns between two halves, the halves stay apart from the first to the last.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cfexplain.ops.coupling_flow.packed_flow import NotPackable
from cfexplain.ops.coupling_flow.structure import read_couplings, read_slope

__all__ = ["PlainCouplings"]


class PlainCouplings:
    """The base code, and log |det ∂u/∂z|, of a chain of affine couplings that take turns; weights are read as they are.

    Parameters
    ----------
    transform : nn.Module
        Of a zuko flow, such as NICE.
    features : int

    Raises
    ------
    NotPackable
        Another kind of flow, or couplings of more than two halves.

    Examples
    --------
    >>> import zuko
    >>> flow = zuko.flows.NICE(3, transforms=2)
    >>> z = torch.randn(5, 3)
    >>> u, ladj = PlainCouplings(flow.transform, 3)(z, None)
    >>> expected, expected_ladj = flow().transform.call_and_ladj(z)
    >>> torch.allclose(u, expected, atol=1e-6), torch.allclose(ladj, expected_ladj, atol=1e-6)
    (True, True)
    """

    def __init__(self, transform: nn.Module, features: int):
        couplings, after = read_couplings(transform, list(range(features)))
        _, *self.halves = couplings[0]
        self.turns: list[bool] = []  # whether the coupling reads the second half
        for i, (_, reads, moves) in enumerate(couplings):
            if [reads, moves] not in (self.halves, self.halves[::-1]):
                raise NotPackable(f"layer {i} couples other columns than layer 0 does.")
            self.turns.append(reads != self.halves[0])
        self.networks = [coupling.hyper for coupling, *_ in couplings]
        self.bounds = [-math.log(read_slope(i, coupling)) for i, (coupling, *_) in enumerate(couplings)]
        places = torch.argsort(torch.tensor([*self.halves[0], *self.halves[1]]))
        self.after = places[torch.tensor(after)]

    def __call__(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """u (B, d) and log |det| (B,) of `z` (B, d); `context` (B, K) is what every network reads beside its half."""
        halves = [z[:, half] for half in self.halves]
        ladj = z.new_zeros(len(z))
        for network, second, bound in zip(self.networks, self.turns, self.bounds, strict=True):
            read, moved = halves[second], halves[not second]
            given = read if context is None else torch.cat([read, context], 1)
            shift, scale = network(given).unflatten(1, (-1, 2)).unbind(2)
            log_scale = scale / (1 + (scale / bound).abs())
            halves[not second] = torch.addcmul(shift, moved, log_scale.exp())
            ladj = ladj + log_scale.sum(1)
        return torch.cat(halves, 1).index_select(1, self.after), ladj
