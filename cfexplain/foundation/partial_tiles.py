"""Partial tiles: of a tile that is mostly padding, networks compute only the first rows, where that changes no bit.

Beside its own numbers, two things decide the bits of a row. Kernels that convolve and multiply are chosen by shape: whether
another number of rows changes a bit is tried on random points. And vectorised loops leave the last few numbers to other
code: no operation that computes numbers one by one may leave such a remainder.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import RLock
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from cfexplain.foundation.tiles import aligned, has_rows_of, padded, probes

__all__ = ["PartialTiles", "TileRows"]

class TileRows(dict):
    """What a search knows of the rows of a tile, by name; the rows from `live` on only fill it up."""

    def __init__(self, rows: Any, live: int):
        super().__init__(rows)
        self.live = live


class PartialTiles:
    """``function(x)`` on a tile of which only the first `live` rows matter.

    Examples
    --------
    >>> import torch
    >>> layer, x, partial = torch.nn.Conv2d(1, 8, 3), torch.rand(32, 1, 8, 8), PartialTiles()
    >>> out = partial("layer", layer, x, live=3)  # the other rows hold anything
    >>> out.shape, torch.equal(out[:3], layer(x)[:3])
    (torch.Size([32, 8, 6, 6]), True)
    """

    def __init__(self) -> None:
        self._tried: dict[tuple, _Trial] = {}
        self._lock = RLock()

    def __call__(self, name: Hashable, function: Callable[[Tensor], Any], x: Tensor, live: int) -> Any:
        """What `function` makes of `x` (B, ...), a tensor or a tuple; right in the first `live` rows.

        The same `name` must stand for the same computation.
        """
        key = (name, tuple(x.shape), x.dtype, x.requires_grad and torch.is_grad_enabled())
        with self._lock:
            if key not in self._tried:
                self._tried[key] = _Trial(function, x.detach(), key[-1])
            size = self._tried[key].smallest(function, live)
        if size == len(x):
            return function(x)
        return tree_map(lambda out: None if out is None else _Refilled.apply(out, len(x)), function(x[:size]))


class _Trial:
    """In which numbers of rows a function gives the bits that it gives in a whole tile; each is tried when it is of use."""

    def __init__(self, function: Callable, x: Tensor, gradient: bool) -> None:
        self.gradient, self.rows = gradient, len(x)
        (self.some,) = probes((x,), len(x))
        with aligned():
            self.whole = _with_gradient(function, gradient)(self.some)
        self.equal: dict[int, bool] = {0: False}

    def smallest(self, function: Callable, live: int) -> int:
        """The least number of rows that holds `live` of them; perhaps the whole tile."""
        for size in (*(self.rows // parts for parts in (32, 16, 8, 4, 2)), 3 * self.rows // 4):
            if size >= live and self._is_equal(function, size):
                return size
        return self.rows

    def _is_equal(self, function: Callable, size: int) -> bool:
        if size not in self.equal:
            answer = _with_gradient(function, self.gradient)
            with aligned():
                self.equal[size] = has_rows_of(self.whole, lambda rows: answer(self.some[rows]), size, self.rows)
        return self.equal[size]


def _with_gradient(function: Callable, wanted: bool) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """All outputs of `function`, and the gradient that flows back to its argument from all of them."""

    def answer(x: Tensor) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(wanted):
            x = x.detach().requires_grad_(wanted)
            outputs = tuple(out for out in tree_leaves(function(x)) if isinstance(out, Tensor))
            if not wanted:
                return outputs
            smooth = [out for out in outputs if out.requires_grad]
            weights = [torch.linspace(0.5, 1.5, out[0].numel(), dtype=out.dtype, device=out.device).reshape(
                out.shape[1:]).expand_as(out)
                       for out in smooth]
            gradient = torch.autograd.grad(smooth, x, weights, allow_unused=True)[0] if smooth else None
        return (*(out.detach() for out in outputs), *([] if gradient is None else [gradient]))

    return answer


class _Refilled(torch.autograd.Function):
    """Rows, and the last of them again up to `n`; no gradient comes from those."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, n: int) -> Tensor:
        ctx.live = len(rows)
        layout = torch.channels_last if rows.ndim == 4 and rows.is_contiguous(memory_format=torch.channels_last) \
            else torch.contiguous_format
        return padded(rows, n).contiguous(memory_format=layout)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[: ctx.live], None
