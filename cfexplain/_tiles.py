"""Evaluate many rows so that the bits of a row do not depend on its company.

Two things make a row come out a bit different alone, in a batch, and at another place of a batch. Kernels choose their
order of summation by shape: so rows are evaluated in tiles of one fixed size, the last one padded. And matrix products
take rows that start at an aligned address by another path than rows that do not: so the widths of linear layers are
padded with zeros to a multiple of eight numbers while a tile is evaluated (`aligned`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["TILE", "aligned", "in_tiles"]

TILE = 32
_WIDTH = 8


class aligned(TorchFunctionMode):  # noqa: N801 - reads as a statement: `with aligned():`
    """Within the block every linear layer, of any network, treats every row alike wherever it lies in its batch.

    Values change by no more than float rounding; gradients go through.

    Examples
    --------
    >>> import torch
    >>> layer = torch.nn.Linear(5, 3)
    >>> with aligned():
    ...     layer(torch.zeros(2, 5)).shape
    torch.Size([2, 3])
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.linear:
            return _linear(*args, **(kwargs or {}))
        if function is torch.baddbmm and not kwargs:
            return _baddbmm(*args)
        return function(*args, **(kwargs or {}))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if weight.ndim != 2 or not any(side % _WIDTH for side in weight.shape):
        return F.linear(input, weight, bias)
    more_out, more_in = (-side % _WIDTH for side in weight.shape)
    padded_bias = None if bias is None else F.pad(bias, (0, more_out))
    out = F.linear(F.pad(input, (0, more_in)), F.pad(weight, (0, more_in, 0, more_out)), padded_bias)
    return out[..., : weight.shape[0]]


def _baddbmm(bias: Tensor, input: Tensor, weight: Tensor) -> Tensor:
    more_in, more_out = (-side % _WIDTH for side in weight.shape[-2:])
    if not (more_out or more_in):
        return torch.baddbmm(bias, input, weight)
    width = weight.shape[-1]
    bias = F.pad(bias.expand(*bias.shape[:-1], width), (0, more_out))  # a bias of one column stands for all
    return torch.baddbmm(bias, F.pad(input, (0, more_in)), F.pad(weight, (0, more_out, 0, more_in)))[..., :width]


def in_tiles(function: Callable[..., Any], *rows: Tensor, tile: int = TILE) -> Any:
    """``function(*rows)``, computed tile by tile and joined; tensors and tuples of tensors may come back.

    Examples
    --------
    >>> import torch
    >>> in_tiles(lambda a: a + 1, torch.arange(5.0), tile=4)
    tensor([1., 2., 3., 4., 5.])
    """
    n = len(rows[0])
    parts = []
    with aligned():
        for first in range(0, max(n, 1), tile):
            cut = [r[first : first + tile] for r in rows]
            short = tile - len(cut[0])
            if short and n:
                cut = [torch.cat([r, r[-1:].expand(short, *r.shape[1:])]) for r in cut]
            out = function(*cut)
            keep = min(tile, n - first)
            parts.append(tuple(o[:keep] for o in out) if isinstance(out, tuple) else out[:keep])
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))
    return torch.cat(parts)
