"""Evaluate many rows so that the bits of a row do not depend on its company.

Two things make a row come out a bit different alone, in a batch, and at another place of a batch. Kernels choose their
order of summation by shape: so rows are evaluated in tiles of one fixed size, the last one padded. And matrix products
take rows that start at an aligned address by another path than rows that do not: so the widths of linear layers are
padded with zeros to a multiple of eight numbers while a tile is evaluated (`aligned`). Kernels also share a sum out among
torch's threads: so a tile is evaluated with one (`cfexplain.foundation.threads.one_thread`).

Most kernels choose the same order for many shapes, though. `TileSizes` finds out for which, so that many small samples need
fewer tiles, and few rows no whole one; where only some of the networks allow that, see `cfexplain.foundation.partial_tiles`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from functools import cache
from threading import RLock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, handle_torch_function

from cfexplain.foundation.remainders import Remainders
from cfexplain.foundation.threads import one_thread

__all__ = ["TILE", "TileSizes", "aligned", "baddbmm", "has_rows_of", "in_tiles", "least_rows", "linear", "padded", "probes",
           "tile_for"]

TILE = 32
_LARGE, _FEW = 2**15, 4  # numbers of a large picture, and how many of them are a tile
_WIDTH = 8
# Widths, in and out, of matrix products by which `least_rows` is found
_PRODUCTS = ((40, 8), (168, 8), (256, 256), (512, 64), (1152, 16))
# How often a part of a tile is tried, on other rows each time: of two logits, one trial would often agree by chance
_TRIALS = 8
# Numbers of a sample, times rows, above which rows gain nothing from more company: what a tile leaves behind fills the cache
_ROOM = 2**16


def tile_for(shape: Sequence[int]) -> int:
    """Rows of a tile of samples of this shape: few large pictures, of which one keeps a core busy, and what only fills
    a tile up would cost as much as what is asked.

    >>> tile_for((16,)), tile_for((3, 64, 64)), tile_for((3, 112, 112))
    (32, 32, 4)
    """
    return TILE if math.prod(shape) <= _LARGE else _FEW


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
        return _ALIGNED.get(function, function)(*args, **(kwargs or {}))


@cache
def least_rows() -> int:
    """Rows of a matrix product below which other kernels are chosen than for `TILE` rows: 4 on an EPYC, 16 on a Xeon.

    Found out by this processor once; kernels that the trial does not see are seen where a whole computation is tried.
    """
    generator = torch.Generator().manual_seed(0)

    def agree(rows: int) -> bool:
        for dtype in (torch.float32, torch.float64):
            for wide, narrow in _PRODUCTS:
                x, back, weight, bias = (torch.randn(*shape, generator=generator, dtype=dtype, device="cpu")
                                         for shape in ((TILE, wide), (TILE, narrow), (narrow, wide), (narrow,)))
                for some, product in ((x, lambda x: F.linear(x, weight, bias)), (back, lambda x: x @ weight)):  # noqa: B023
                    if not torch.equal(product(some), torch.cat([product(part) for part in some.split(rows)])):
                        return False
        return True

    with torch.no_grad(), one_thread():
        return next((rows for rows in (4, 8, 16) if agree(rows)), TILE)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` that treats every row alike of its own accord, without the mode `aligned`.

    >>> import torch
    >>> linear(torch.ones(1, 3), torch.ones(2, 3))
    tensor([[3., 3.]])
    """
    if torch._C._is_torch_function_mode_enabled():  # a mode sees this function, and not what it does
        return handle_torch_function(linear, (input,), input, weight, bias)
    n, ndim = len(input), input.ndim
    more_out, more_in = (-side % _WIDTH for side in weight.shape) if weight.ndim == 2 else (0, 0)
    few = max(least_rows() - n, 0) if ndim == 2 and n else 0
    if not (more_out or more_in or few):
        return F.linear(input, weight, bias)
    if more_in or few:
        input = F.pad(input, (0, more_in, 0, few) if few else (0, more_in))
    if more_out or more_in:
        width, weight = len(weight), F.pad(weight, (0, more_in, 0, more_out))
        bias = None if bias is None else F.pad(bias, (0, more_out))
    out = F.linear(input, weight, bias)
    out = out[..., :width] if more_out else out
    return out[:n] if few else out


def baddbmm(bias: Tensor, input: Tensor, weight: Tensor, **options: Any) -> Tensor:
    """``torch.baddbmm``, as `linear` is ``F.linear``."""
    if torch._C._is_torch_function_mode_enabled():
        return handle_torch_function(baddbmm, (input,), bias, input, weight, **options)
    more_in, more_out = (-side % _WIDTH for side in weight.shape[-2:])
    n, width = input.shape[1], weight.shape[-1]
    few = max(least_rows() - n, 0) if n and (bias.ndim < 2 or bias.shape[-2] == 1) else 0
    if options or not (more_out or more_in or few):
        return torch.baddbmm(bias, input, weight, **options)
    if more_in or few:
        input = F.pad(input, (0, more_in, 0, few))
    if more_out or more_in:
        weight = F.pad(weight, (0, more_out, 0, more_in))
        bias = F.pad(bias.expand(*bias.shape[:-1], width), (0, more_out))  # a bias of one column stands for all
    return torch.baddbmm(bias, input, weight)[:, :n, :width]


_ALIGNED: dict[Any, Callable[..., Tensor]] = {F.linear: linear, torch.baddbmm: baddbmm}


def in_tiles(function: Callable[..., Any], *rows: Tensor, tile: int = TILE, places: Callable[[int], int] | None = None,
             ) -> Any:
    """``function(*rows)``, computed tile by tile and joined; tensors and tuples of tensors may come back.

    Parameters
    ----------
    places : callable ``rows left -> places of the next tile``, optional
        See `TileSizes.choice`. By default `tile`, always.

    Examples
    --------
    >>> import torch
    >>> in_tiles(lambda a: a + 1, torch.arange(5.0), tile=4)
    tensor([1., 2., 3., 4., 5.])
    """
    n, first = len(rows[0]), 0
    parts: list[Any] = []
    with one_thread(), aligned():
        while first < n or not parts:
            size = tile if places is None or not n else places(n - first)
            cut = [r[first : first + size] for r in rows]
            keep = len(cut[0])
            out = function(*([padded(r, size) for r in cut] if n else cut))
            parts.append(tuple(o[:keep] for o in out) if isinstance(out, tuple) else out[:keep])
            first += size
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))
    return torch.cat(parts)


def padded(rows: Tensor, n: int) -> Tensor:
    """`rows`, and behind them the last of them again until there are `n`; none if there is none."""
    more = n - len(rows) if len(rows) else 0
    return torch.cat([rows, rows[-1:].expand(more, *rows.shape[1:])]) if more > 0 else rows


class TileSizes:
    """Numbers of rows in which a function gives every row the bits that it has in a tile of `tile` rows.

    Multiples of a tile, so that many small samples need fewer tiles, and parts of one, where it would mostly be padding.
    A size is tried when it would first be of use, on random points beside rows of the call, and is used from then on if
    every bit of every answer agrees; and, of less than a tile, if no operation leaves a remainder
    (`cfexplain.foundation.remainders`). What was tried is remembered by name.

    Parameters
    ----------
    tile : int
        The size that defines a row's bits; always right.
    numbers : int
        Of a sample: the smaller, the more rows are worth being together, up to 16 tiles.

    Examples
    --------
    >>> import torch
    >>> sizes, x = TileSizes(8, numbers=4), torch.rand(40, 4)
    >>> places = sizes.choice("double", lambda a: 2 * a, x)
    >>> places(2), places(40), places(10**6)
    (2, 48, 128)
    >>> sizes.choice("centre", lambda a: a - a.mean(0), x)(40)  # rows that are not independent
    8
    """

    def __init__(self, tile: int, numbers: int):
        self.tile = tile
        self._sizes = [tile // k for k in (16, 8, 4, 2) if tile % k == 0 and tile // k > 1]
        self._sizes += [3 * tile // 4] if tile % 4 == 0 and tile > 4 else []
        self._sizes += [tile * k for k in (1, 2, 3, 4, 6, 8, 12, 16) if k == 1 or tile * k * numbers <= _ROOM]
        self._equal: dict[tuple[Hashable, int], bool] = {}
        self._whole: dict[Hashable, Any] = {}
        self._lock = RLock()

    @property
    def largest(self) -> int:
        """Rows of the largest tile that may be tried."""
        return self._sizes[-1]

    def alike(self, name: Hashable, one: Callable[..., Any], other: Callable[..., Any], *rows: Tensor) -> bool:
        """Whether two ways to compute the same, of which `name` is the name, give every row of a tile the same bits."""
        with self._lock:
            if (name, 0) not in self._equal:
                probe = probes(rows, self.tile)
                self._equal[name, 0] = _equal(*(in_tiles(function, *probe, tile=self.tile) for function in (one, other)))
            return self._equal[name, 0]

    def choice(self, name: Hashable, function: Callable[..., Any], *rows: Tensor) -> Callable[[int], int]:
        """How many places the next tile of `function` has, by the rows that are left.

        Parameters
        ----------
        name : hashable
            Of the function: the same name, of rows of the same shapes and types, must stand for the same computation.
        function : callable
            Of the tile's `rows`; returns a tensor or a tuple of tensors.
        rows : Tensor of shape (N, ...)
            N at least 1; the first is disturbed where its kernels are tried.
        """
        name = (name, *((r.shape[1:], r.dtype) for r in rows))

        def equal(size: int) -> bool:
            with self._lock:
                if (name, size) not in self._equal:
                    self._equal[name, size] = (self._is_part(name, size, function, rows) if size < self.tile else _equal(
                        *(in_tiles(function, *probes(rows, size), tile=tile) for tile in (self.tile, size))))
                return self._equal[name, size]

        def places(left: int) -> int:
            sizes = [size for size in self._sizes if self._equal.get((name, size), True)]
            while (size := _nearest(sizes, left, self.tile)) != self.tile and not equal(size):
                sizes.remove(size)
            return size

        return places

    def _is_part(self, name: Hashable, size: int, function: Callable[..., Any], rows: tuple[Tensor, ...]) -> bool:
        """Whether `size` rows, fewer than a tile, have the bits of a tile, and that not by chance."""
        if name not in self._whole:
            probe = probes(rows, self.tile)
            self._whole[name] = probe, in_tiles(function, *probe, tile=self.tile)
        probe, whole = self._whole[name]
        return has_rows_of(whole, lambda rows: in_tiles(function, *(r[rows] for r in probe), tile=size), size, self.tile)


def has_rows_of(whole: Any, part: Callable[[slice], Any], size: int, tile: int) -> bool:
    """Whether `part` of `size` neighbouring rows of a tile has the bits that these rows have in the `whole`, tried on
    several choices of them, and leaves no remainder of a vectorised loop.
    """
    for first in range(0, min(tile - size + 1, _TRIALS * size), size):
        rows = slice(first, first + size)
        with Remainders(size) if not first else nullcontext() as seen:  # what leaves one does so whatever the rows
            found = part(rows)
        if seen is not None and seen.found or not _equal(
                tuple(out[rows] for out in whole) if isinstance(whole, tuple) else whole[rows], found):
            return False
    return True


def _equal(some: Any, other: Any) -> bool:
    pairs = zip(*(a if isinstance(a, tuple) else (a,) for a in (some, other)), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _nearest(sizes: list[int], left: int, tile: int) -> int:
    """What holds all rows with few empty places, or else the largest that they fill; never two for less than a tile."""
    holding = next((size for size in sizes if size >= left), None)
    filled = max((size for size in sizes if size <= left), default=None)
    if holding is not None and (holding <= tile or filled is None or holding - left <= max(holding // 3, 8)):
        return holding
    assert filled is not None  # one of the two there is
    return filled


def probes(rows: tuple[Tensor, ...], n: int) -> list[Tensor]:
    """`n` rows, cycled, the first tensor at random points near by: a sum of zeros is the same in any order."""
    index = torch.arange(n, device="cpu") % len(rows[0])
    first, *others = (r[index.to(r.device)] for r in rows)
    noise = torch.randn(first.shape, generator=torch.Generator().manual_seed(0), dtype=first.dtype,
                        device="cpu")
    return [first + 0.1 * (1 + first.abs()) * noise.to(first.device), *others]
