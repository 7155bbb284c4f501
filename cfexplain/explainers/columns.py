"""The columns of a table as a search moves them: where they lie, what they may do, what a change of them costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from cfexplain.tables.costs import Costs

__all__ = ["FINE_LEVELS", "LEVELS", "Columns"]

LEVELS = 17  # of a number: quantiles of the training rows, from the least to the largest
FINE_LEVELS = 65  # where one column changes alone, or the model alone is asked: a tree may accept what lies between

_GAPS = 8  # no further apart than such a share of their range


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
    prices : Costs, optional
    names : list of str
        Of the columns.
    """

    places: list[tuple[int, int]]
    groups: list[tuple[int, int]]
    held: np.ndarray
    low: np.ndarray
    high: np.ndarray
    scale: np.ndarray
    rules: Any = None
    real: Any = None
    prices: Costs | None = None
    names: list[str] = field(default_factory=list)
    free: np.ndarray = field(init=False)  # bool, (width,): numbers that may change
    numbers: np.ndarray = field(init=False)  # their places

    def __post_init__(self) -> None:
        self.free = ~self.held
        for first, last in self.groups:
            self.free[first:last] = False
        self.numbers = np.flatnonzero(self.free)

    @classmethod
    def of_numbers(cls, real: np.ndarray, scale: np.ndarray, *rules: Any, prices: Costs | None = None,
                   names: Any = ()) -> Columns:
        """A table of numbers; `rules` are `ColumnRules` or None."""
        width, given = real.shape[1], [rule for rule in rules if rule is not None]
        held = np.logical_or.reduce([rule.held for rule in given], initial=False) | np.zeros(width, dtype=bool)
        open_ended = np.full(width, np.inf)
        ends = (real.min(0), real.max(0)) if len(real) else (-open_ended, open_ended)
        low, high = (np.maximum.reduce([ends[0], *(rule.low for rule in given)]),
                     np.minimum.reduce([ends[1], *(rule.high for rule in given)]))
        scale = np.where(scale > 0, scale, 1.0)
        return cls([(i, i + 1) for i in range(width)], [], held, low, high, scale, given[0] if given else None, real,
                   prices, list(names))

    @classmethod
    def of_mixed(cls, table: Any, rules: Any, real: np.ndarray, prices: Costs | None = None) -> Columns:
        """The codes of a `MixedTable`, within `MixedRules`."""
        return cls(list(table.places.values()), [(first, last) for first, last, *_ in rules.groups], rules.held,
                   np.maximum(rules.low, real.min(0)), np.minimum(rules.high, real.max(0)), np.ones(table.width), rules,
                   real, prices, list(table.places))

    # ------------------------------------------------------------------ what rows may be
    @property
    def relations(self) -> Any:
        """Rules between columns, or None."""
        return getattr(self.rules, "relations", None)

    def ruled(self, codes: np.ndarray, x: np.ndarray, acted: np.ndarray | None = None) -> np.ndarray:
        """Rows within the rules, of which `x` are the rows before; `acted` (n, columns) says what was changed, and not by
        another column.
        """
        if self.rules is None:
            return codes
        on = None
        if acted is not None and self.relations is not None:
            codes, on = self.mixed(codes, x, acted), torch.from_numpy(acted)
        with torch.no_grad():
            return self.rules.apply(torch.from_numpy(np.ascontiguousarray(codes)),
                                    torch.from_numpy(np.ascontiguousarray(x)), on).numpy()

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
        """Of each column's change, (n, columns): by default 1 for a standard deviation of a number, and for a category."""
        groups, out = set(self.groups), np.zeros((len(codes), len(self.places)))
        for k, (first, last) in enumerate(self.places):
            changed = (codes[:, first:last] != x[:, first:last]).any(1)
            if (first, last) in groups:
                step = None if self.prices is None else self.prices.steps[self.names[k]]
                out[changed, k] = 1.0 if step is None else step[x[changed, first:last].argmax(1),
                                                                codes[changed, first:last].argmax(1)]
            else:
                price = 1.0 if self.prices is None else self.prices.prices[k]
                out[changed, k] = price * np.abs(codes[changed, first] - x[changed, first]) / self.scale[first]
        return out

    def acted(self, codes: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Which columns were changed, and did not follow from others, (n, columns)."""
        changed, relations = self.changed(codes, x), self.relations
        if relations is None:
            return changed
        places = {name: k for k, name in enumerate(relations.kinds)}
        itself = changed.copy()
        for name in relations.order:
            itself[:, places[name]] = False
        followed = self.ruled(codes, x, itself)
        for name in relations.causes:
            first = self.places[places[name]][0]
            off = np.abs(codes[:, first] - followed[:, first]) > 1e-6 * self.scale[first]
            itself[:, places[name]] = changed[:, places[name]] & off
        return itself

    # ---------------------------------------------------------------------- what is tried
    def values(self, levels: int = LEVELS) -> list[np.ndarray]:
        """What is tried in each column, (values, numbers of the column): quantiles of numbers, every category."""
        groups, out = set(self.groups), []
        for first, last in self.places:
            if (first, last) in groups:
                out.append(np.eye(last - first))
            elif not self.free[first] or not len(self.real):
                out.append(np.empty((0, 1)))
            else:
                cells = np.unique(np.quantile(self.real[:, first], np.linspace(0, 1, levels), method="nearest"))
                inside = cells[(cells >= self.low[first]) & (cells <= self.high[first])]
                ends = [end for end in (self.low[first], self.high[first]) if np.isfinite(end)]
                out.append(_filled(np.unique([*inside, *ends]))[:, None])
        return out


def _filled(cells: np.ndarray) -> np.ndarray:
    """Sorted values, with others between those that lie far apart."""
    if len(cells) < 2:
        return cells
    steps = np.ceil(_GAPS * np.diff(cells) / (cells[-1] - cells[0])).astype(int)
    return np.concatenate([*(np.linspace(a, b, count, endpoint=False) for a, b, count in zip(
        cells, cells[1:], steps, strict=False)), cells[-1:]])
