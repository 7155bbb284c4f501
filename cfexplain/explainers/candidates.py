"""Candidates of several rows together: some of them taken, joined, ranked among those of their row, and told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

__all__ = ["OfRows", "Pool", "once", "pairs_of", "rank_of", "same_change", "seen_before", "sets_of"]

# Changes nearer to each other than this share of the smaller one are the same
_SAME = 0.1
_Rows = TypeVar("_Rows", bound="OfRows")


class OfRows:
    """Arrays of as many rows each; ``some[rows]`` of some of them."""

    def __getitem__(self: _Rows, rows: np.ndarray) -> _Rows:
        return type(self)(*(values[rows] for values in vars(self).values()))

    def put(self: _Rows, rows: np.ndarray, others: _Rows) -> None:
        """Write `others` in place of `rows`."""
        for name, values in vars(self).items():
            values[rows] = getattr(others, name)

    @classmethod
    def concatenate(cls: type[_Rows], parts: Sequence[_Rows]) -> _Rows:
        return cls(*(np.concatenate(values) for values in zip(*(vars(part).values() for part in parts), strict=True)))


@dataclass
class Pool(OfRows):
    """Candidates: `owner` is the place of the row, `acted` (n, columns) what is changed."""

    owner: np.ndarray
    codes: np.ndarray
    acted: np.ndarray
    cost: np.ndarray
    score: np.ndarray
    gap: np.ndarray
    sure: np.ndarray
    density: np.ndarray  # log p, if that is a condition
    opinion: np.ndarray  # log-odds of the second opinion
    off: np.ndarray  # how far it is from the conditions that do not ask the model
    unusual: np.ndarray  # what it costs to be less typical than the median
    complete: np.ndarray  # all conditions hold

    def __len__(self) -> int:
        return len(self.owner)


def rank_of(owner: np.ndarray, *keys: Any) -> np.ndarray:
    """The place of each candidate among those of its owner, the smallest key first."""
    order = np.lexsort([*reversed(keys), owner])
    rank = np.empty(len(order), dtype=int)
    rank[order] = np.arange(len(order)) - np.searchsorted(owner[order], owner[order])
    return rank


def pairs_of(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions (i, j) with the same owner."""
    order = np.argsort(right, kind="stable")
    first, last = np.searchsorted(right[order], left, "left"), np.searchsorted(right[order], left, "right")
    i = np.repeat(np.arange(len(left)), last - first)
    j = np.arange(len(i)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
    return i, order[first[i] + j]


def sets_of(owner: np.ndarray, acted: np.ndarray) -> np.ndarray:
    """A number for each owner and set of columns."""
    if not len(owner):
        return owner
    return np.unique(np.column_stack([owner, acted]), axis=0, return_inverse=True)[1].reshape(-1)


def once(pool: Pool) -> Pool:
    _, once = np.unique(np.column_stack([pool.owner, pool.codes]), axis=0, return_index=True)
    return pool[np.sort(once)]


def same_change(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Which changes (…, d) are the same, but for little.

    >>> same_change(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[1.01, 0.0], [0.0, 1.0]])).tolist()
    [True, False]
    """
    size = np.minimum(np.linalg.norm(left, axis=-1), np.linalg.norm(right, axis=-1))
    return np.linalg.norm(left - right, axis=-1) <= _SAME * size


def seen_before(acted: np.ndarray, change: np.ndarray, used: Sequence[np.ndarray], changes: Sequence[np.ndarray],
                ) -> tuple[np.ndarray, np.ndarray]:
    """Which of some answers change all columns that one before them used, and which repeat one, bool (n,) each.

    Parameters
    ----------
    acted : ndarray of bool, shape (n, columns)
        What they change.
    change : ndarray of shape (n, width)
    used, changes
        The same of each answer before.

    Examples
    --------
    >>> acted = np.array([[True, True], [False, True]])
    >>> first = np.array([[True, False], [True, False]]), np.array([[1.0, 0.0], [1.0, 0.0]])
    >>> [seen.tolist() for seen in seen_before(acted, 2.0 * acted, [first[0]], [first[1]])]
    [[True, False], [False, False]]
    """
    inside, repeated = np.zeros((2, len(acted)), dtype=bool)
    for own, other in zip(used, changes, strict=True):
        inside |= (acted | ~own).all(1) & own.any(1)
        repeated |= same_change(change, other)
    return inside, repeated
