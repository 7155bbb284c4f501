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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from cfexplain.foundation.tiles import aligned, padded, probes

__all__ = ["PartialTiles", "TileRows"]

# The longest step of a vectorised loop, in numbers
_VECTOR = 32
# Operations that need no watching; one that is missing here costs speed, never a bit. Sums of products, whose order shows on
# random points; numbers that any code rounds alike; and memory that is not yet written to.
_SAFE = frozenset(["addmm", "baddbmm", "bmm", "convolution", "convolution_backward", "mean", "mm", "sum",
                   "add", "div", "mul", "sub", "relu", "threshold_backward", "where",
                   "empty_like", "new_empty", "new_empty_strided"])


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
            with aligned(), _Remainders(size) as seen:
                part = _with_gradient(function, self.gradient)(self.some[:size])
            self.equal[size] = not seen.found and all(
                torch.equal(a[:size], b) for a, b in zip(self.whole, part, strict=True))
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


class _Remainders(TorchDispatchMode):
    """Watches a computation of `rows` rows for operations that leave a remainder of their numbers; `found` names the last.

    Numbers that went in are moved and not computed, and so are zeros that are put beside them. A tensor whose length is no
    multiple of the rows does not depend on how many there are.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.found = rows, ""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given, name = tree_leaves((args, kwargs or {})), function.overloadpacket.__name__.rstrip("_")
        fused = (kwargs or {}).get("alpha", 1) != 1  # a multiplication and an addition that round once
        tensors = [leaf for leaf in given if isinstance(leaf, Tensor)]
        if not tensors or (name in _SAFE and not fused):
            return function(*args, **(kwargs or {}))
        known = [tensor.detach().flatten().double() for tensor in tensors]  # before they are written to
        if torch.Tag.pointwise not in function.tags:
            known.append(torch.zeros(1, dtype=torch.float64, device=known[0].device))
        out = function(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor) and made.is_floating_point() and made.numel() % _VECTOR \
                    and made.numel() % self.rows == 0 and not _among(made, torch.cat(known)):
                self.found = name
        return out


def _among(made: Tensor, known: Tensor) -> bool:
    """Whether each number of `made` is one of `known`, perhaps in another precision."""
    return bool(torch.isin(made.double(), torch.cat([known, known.to(made.dtype).double()])).all())


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
