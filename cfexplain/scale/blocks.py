"""X as blocks of rows: of arrays, memory maps, tables, data loaders, Dask collections and iterables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from cfexplain.foundation.arrays import to_numpy
from cfexplain.foundation.exceptions import TargetError
from cfexplain.foundation.protocols import FittedExplainer

__all__ = ["Block", "BlockSource", "Targets", "is_dask", "one_for_each_row", "read_blocks"]


@dataclass(frozen=True)
class Block:
    """Rows `first` to ``first + length`` of X; `read` gets them."""

    number: int
    first: int
    length: int
    read: Callable[[], Any]


@dataclass(frozen=True)
class BlockSource:
    """X, to be read block by block.

    Attributes
    ----------
    blocks : callable ``size -> iterator of Block``
        Every block has `size` rows, except the last one. If X can be indexed, blocks that are not read cost nothing.
    length : int or None
        None if it is known only at the end.
    sample : callable ``n -> rows``, or None
        At most n rows, spread evenly over X; None if X cannot be indexed.
    """

    blocks: Callable[[int], Iterator[Block]]
    length: int | None = None
    sample: Callable[[int], Any] | None = None


class Targets:
    """The target of each block, from one target for all rows or one for each row.

    Raises
    ------
    TargetError
        There are more or fewer of them than rows.
    """

    def __init__(self, explainer: FittedExplainer, target: Any, length: int | None):
        self.target = explainer.target if target is None else to_numpy(target)
        self.per_row = one_for_each_row(self.target, explainer)
        if self.per_row:
            self.target = np.asarray(self.target)
            if length is not None:
                self.check_length(length)

    def of(self, first: int, length: int) -> Any:
        """The target of the rows `first` to ``first + length``."""
        if not self.per_row:
            return self.target
        if first + length > len(self.target):
            raise TargetError(f"target has {len(self.target)} labels, but X has more rows; expected one label, or one a "
                              "row.")
        return self.target[first : first + length]

    def check_length(self, length: int) -> None:
        """Raise an error if X, which has `length` rows, has not one target for each."""
        if self.per_row and len(self.target) != length:
            raise TargetError(f"target has {len(self.target)} labels for {length} rows; expected one label, or one a row.")

    def described(self) -> Any:
        """The target as JSON can hold it, or the array of them."""
        value = self.target.item() if isinstance(self.target, (np.generic, np.ndarray)) and not self.per_row else self.target
        return list(value) if isinstance(value, tuple) else value


def one_for_each_row(target: Any, explainer: FittedExplainer) -> bool:
    """Whether `target` has one entry for each row; a tuple for a regressor is an interval (low, high) for all rows."""
    interval = isinstance(target, tuple) and explainer.is_regression
    return not interval and np.ndim(target) == 1


def is_dask(X: Any) -> bool:
    """Whether `X` is a Dask collection; does not import Dask."""
    return hasattr(X, "__dask_graph__") and hasattr(X, "__dask_keys__")


def read_blocks(X: Any, sample_ndim: int, *, in_order: bool = False) -> BlockSource:
    """`X` as a source of blocks.

    Parameters
    ----------
    X : array, memory map, tensor, DataFrame, Dataset, DataLoader, Dask array or DataFrame, or iterable
        An iterable yields rows, of `sample_ndim` dimensions, or blocks of any number of rows. From pairs (x, y) of a Dataset
        or a DataLoader x is taken.
    sample_ndim : int
        Dimensions of one sample.
    in_order : bool, default=False
        Refuse a DataLoader that shuffles.

    Raises
    ------
    TypeError
        X is none of these.
    ValueError
        X shuffles, and `in_order`.
    """
    if is_dask(X):
        return _streamed(_dask_pieces(X), sample_ndim)
    if isinstance(X, DataLoader):
        if in_order and not isinstance(X.dataset, IterableDataset) and isinstance(X.sampler, RandomSampler):
            raise ValueError("X is a DataLoader with shuffle=True: its rows come in another order each time, so that the "
                             "work could not be resumed. Pass DataLoader(..., shuffle=False).")
        return _streamed((_first_of(batch) for batch in X), sample_ndim)
    if isinstance(X, IterableDataset):
        return _streamed((_first_of(sample) for sample in X), sample_ndim)
    if isinstance(X, Dataset) and hasattr(X, "__len__"):
        return _looked_up(len(X), lambda rows: _stacked([_first_of(X[int(i)]) for i in rows]))
    if isinstance(X, (list, tuple)) and len(X) and np.ndim(X[0]) == sample_ndim:
        X = np.asarray(X)
    if hasattr(X, "shape") and hasattr(X, "__getitem__") and not isinstance(X, Mapping):
        if len(X.shape) < 2:
            raise ValueError(f"X has shape {tuple(X.shape)}; expected rows of samples. For one sample, pass X[None].")
        return _looked_up(int(X.shape[0]), lambda rows: _cut(X, rows))
    if isinstance(X, Iterable) and not isinstance(X, (str, bytes, Mapping)):
        return _streamed(X, sample_ndim)
    raise TypeError(f"X is a {type(X).__name__}; expected an array, a memory map, a tensor, a DataFrame, a Dataset, a "
                    "DataLoader, a Dask array or DataFrame, or an iterable of blocks of rows.")


def _looked_up(length: int, take: Callable[[Any], Any]) -> BlockSource:
    def blocks(size: int) -> Iterator[Block]:
        for number, first in enumerate(range(0, length, size)):
            rows = range(first, min(first + size, length))
            yield Block(number, first, len(rows), partial(take, rows))

    def sample(n: int) -> Any:  # row by row, since not every kind of storage can be indexed by a list
        spread = np.unique(np.linspace(0, length - 1, min(n, length)).astype(int)).tolist()
        return _put_together([take(range(i, i + 1)) for i in spread])

    return BlockSource(blocks, length, sample)


def _streamed(pieces: Iterable[Any], sample_ndim: int) -> BlockSource:
    def blocks(size: int) -> Iterator[Block]:
        parts: list[Any] = []
        number = first = length = 0
        for piece in pieces:
            piece = _as_block(piece, sample_ndim)
            at = 0
            while at < len(piece):
                step = min(size - length, len(piece) - at)
                parts.append(_cut(piece, range(at, at + step)))
                at, length = at + step, length + step
                if length == size:
                    yield Block(number, first, length, partial(_put_together, parts))
                    number, first, length, parts = number + 1, first + size, 0, []
        if length:
            yield Block(number, first, length, partial(_put_together, parts))

    return BlockSource(blocks)


def _cut(X: Any, rows: range) -> Any:
    cut = slice(rows.start, rows.stop)
    return X.iloc[cut] if hasattr(X, "iloc") else X[cut]


def _as_block(piece: Any, sample_ndim: int) -> Any:
    if not hasattr(piece, "shape"):
        piece = np.asarray(piece)
    if len(piece.shape) == sample_ndim:
        return piece[None]
    if len(piece.shape) == sample_ndim + 1:
        return piece
    raise ValueError(f"X yields something of shape {tuple(piece.shape)}; expected rows, of {sample_ndim} dimensions, or "
                     f"blocks of rows, of {sample_ndim + 1}.")


def _put_together(parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], torch.Tensor):
        return torch.cat(parts)
    if hasattr(parts[0], "iloc"):
        import pandas  # it is a DataFrame, so pandas is there

        return pandas.concat(parts)
    return np.concatenate([np.asarray(part) for part in parts])


def _stacked(samples: list[Any]) -> Any:
    return torch.stack(samples) if isinstance(samples[0], torch.Tensor) else np.stack([np.asarray(s) for s in samples])


def _first_of(item: Any) -> Any:
    """x of a pair (x, y)."""
    if isinstance(item, Mapping):
        raise TypeError(f"X yields dicts with the keys {sorted(map(str, item))}; pass the images or rows themselves: "
                        "(batch['image'] for batch in X).")
    return item[0] if isinstance(item, (list, tuple)) else item


def _dask_pieces(X: Any) -> Iterator[Any]:
    """One chunk of rows at a time, computed by Dask's current scheduler."""
    if hasattr(X, "partitions") and not hasattr(X, "chunks"):
        for number in range(X.npartitions):
            yield X.partitions[number].compute()
    else:
        X = X.rechunk({axis: -1 for axis in range(1, X.ndim)})
        for number in range(X.numblocks[0]):
            yield X.blocks[number].compute()
