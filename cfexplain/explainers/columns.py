"""The columns of a table as a search moves them: where they lie, what they may do, what a change of them costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

__all__ = ["Columns"]

LEVELS = 17  # of a number: quantiles of the training rows, from the least to the largest


@dataclass
class Columns:
    """How the columns of a table lie in the numbers that a search moves, and what they may do.

    Attributes
    ----------
    places : list of (first, last + 1)
        The numbers of each column.
    groups : list of (first, last + 1)
        Those of columns that are one category of several: zeros and a one.
    held : ndarray of bool, shape (width,)
    low, high : ndarray of shape (width,)
        Where numbers are tried.
    scale : ndarray of shape (width,)
        What counts as a step of each number.
    rules : ColumnRules or MixedRules, optional
    real : ndarray of shape (m, width)
        Training rows, of whose values numbers are tried.
    """

    places: list[tuple[int, int]]
    groups: list[tuple[int, int]]
    held: np.ndarray
    low: np.ndarray
    high: np.ndarray
    scale: np.ndarray
    rules: Any = None
    real: Any = None
    free: np.ndarray = field(init=False)  # bool, (width,): numbers that may change
    numbers: np.ndarray = field(init=False)  # their places

    def __post_init__(self) -> None:
        self.free = ~self.held
        for first, last in self.groups:
            self.free[first:last] = False
        self.numbers = np.flatnonzero(self.free)

    @classmethod
    def of_numbers(cls, real: np.ndarray, scale: np.ndarray, *rules: Any) -> Columns:
        """A table of numbers; `rules` are `ColumnRules` or None."""
        width, given = real.shape[1], [rule for rule in rules if rule is not None]
        held = np.logical_or.reduce([rule.held for rule in given], initial=False) | np.zeros(width, dtype=bool)
        open_ended = np.full(width, np.inf)
        ends = (real.min(0), real.max(0)) if len(real) else (-open_ended, open_ended)
        low, high = (np.maximum.reduce([ends[0], *(rule.low for rule in given)]),
                     np.minimum.reduce([ends[1], *(rule.high for rule in given)]))
        scale = np.where(scale > 0, scale, 1.0)
        return cls([(i, i + 1) for i in range(width)], [], held, low, high, scale, given[0] if given else None, real)

    @classmethod
    def of_mixed(cls, table: Any, rules: Any, real: np.ndarray) -> Columns:
        """The codes of a `MixedTable`, within `MixedRules`."""
        return cls(list(table.places.values()), [(first, last) for first, last, *_ in rules.groups], rules.held,
                   np.maximum(rules.low, real.min(0)), np.minimum(rules.high, real.max(0)), np.ones(table.width), rules,
                   real)

    # ------------------------------------------------------------------ what rows may be
    def ruled(self, codes: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Rows within the rules, which `x` are the rows before."""
        if self.rules is None:
            return codes
        with torch.no_grad():
            return self.rules.apply(torch.from_numpy(np.ascontiguousarray(codes)),
                                    torch.from_numpy(np.ascontiguousarray(x))).numpy()

    def changed(self, codes: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Which columns differ, (n, columns)."""
        other = codes != x
        return np.stack([other[:, first:last].any(1) for first, last in self.places], axis=1)

    def only(self, codes: np.ndarray, x: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """`x` with those `columns`, bool (n, columns), of `codes`."""
        return self.ruled(self.mixed(codes, x, columns), x)

    def mixed(self, codes: np.ndarray, x: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """As `only`, whatever the rules say."""
        places = np.zeros(codes.shape, dtype=bool)
        for k, (first, last) in enumerate(self.places):
            places[:, first:last] = columns[:, k : k + 1]
        return np.where(places, codes, x)

    # --------------------------------------------------------------------- what changes cost
    def distance(self, codes: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.linalg.norm((codes - x) / self.scale, axis=-1)

    def costs(self, codes: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Of each column's change, (n, columns): 1 for a standard deviation of a number, and for another category."""
        groups, out = set(self.groups), np.zeros((len(codes), len(self.places)))
        for k, (first, last) in enumerate(self.places):
            if (first, last) in groups:
                out[:, k] = (codes[:, first:last] != x[:, first:last]).any(1)
            else:
                out[:, k] = np.abs(codes[:, first] - x[:, first]) / self.scale[first]
        return out

    # ---------------------------------------------------------------------- what is tried
    def values(self) -> list[np.ndarray]:
        """What is tried in each column, (values, numbers of the column): quantiles of numbers, every category."""
        groups, out = set(self.groups), []
        for first, last in self.places:
            if (first, last) in groups:
                out.append(np.eye(last - first))
            elif not self.free[first] or not len(self.real):
                out.append(np.empty((0, 1)))
            else:
                cells = np.unique(np.quantile(self.real[:, first], np.linspace(0, 1, LEVELS), method="nearest"))
                inside = cells[(cells >= self.low[first]) & (cells <= self.high[first])]
                ends = [end for end in (self.low[first], self.high[first]) if np.isfinite(end)]
                out.append(np.unique([*inside, *ends])[:, None])
        return out
