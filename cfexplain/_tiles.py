"""Evaluate many rows in tiles of one fixed size, so that a row's bits do not depend on its company.

Kernels choose their order of summation by shape: the same row can come out a bit different alone and in a batch. Padding
the last tile (with copies of its last row) removes the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["TILE", "in_tiles"]

TILE = 32


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
