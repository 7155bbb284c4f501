"""Columns that a search of a table changed go back, least needed first, and numbers come nearer to what they were."""

from __future__ import annotations

import numpy as np

from cfexplain.explainers.candidates import rank_of
from cfexplain.explainers.columns import Columns
from cfexplain.explainers.found import Found
from cfexplain.explainers.verdict import Asked, Judged, Verdict

__all__ = ["Fewer"]

_BACK = 12
_JUDGED = 12  # candidates a row of which the density is asked
_HALVINGS = 5
_TOGETHER = (0, 1, 2, 3, 5, 7, 11, 15, 23, 31, 47, 63, 95, 127, 191, 255)
_FURTHER = np.array((1.0, 1.2, 1.5, 2.0, 3.0))  # times the way that the other columns went


class Fewer:
    """Takes changes back where no verdict and no condition is lost by it.

    Parameters
    ----------
    verdict : Verdict
    columns : Columns
    """

    def __init__(self, verdict: Verdict, columns: Columns):
        self.verdict, self.columns, self.X = verdict, columns, verdict.X

    def __call__(self, found: Found, rows: np.ndarray) -> None:
        """Change `found` in place, for some of `rows`, which the model accepts."""
        self.held = np.zeros((len(self.X), len(found.conditions)), dtype=bool)
        for k, met in enumerate(found.conditions.values()):
            self.held[:, k] = met
        # where it was not typical before, it must not become less so
        self.floor = np.minimum(np.nan_to_num(found.log_density, nan=-np.inf), self.verdict.wanted)
        before = found.x_cf.copy()
        for some in self.verdict.parts(rows, len(self.columns.places)):
            self._take_back(found, some)
        for some in self.verdict.parts(rows[(found.x_cf[rows] != before[rows]).any(1)], 1):
            self._draw_back(found, some)

    def _fine(self, flat: np.ndarray, rows: np.ndarray, asked: Asked) -> tuple[np.ndarray, Judged]:
        """Which candidates lose nothing, of those that the model accepts, and what is said of them."""
        judged = self.verdict.judge(flat, rows, asked)
        return (judged.conditions | ~self.held[rows]).all(1) & ~(judged.log_density < self.floor[rows]), judged

    def _take_first(self, found: Found, rows: np.ndarray, owner: np.ndarray, flat: np.ndarray, order: np.ndarray,
                    asked: Asked) -> np.ndarray:
        """Write, for each of `rows`, the first of its candidates, in `order`, that loses nothing; which rows have none."""
        left = np.ones(len(rows), dtype=bool)
        if not len(flat):
            return left
        fine, judged = self._fine(flat, rows[owner], asked)
        good = np.flatnonzero(fine)
        good = good[np.lexsort([order[good], owner[good]])]
        who, first = np.unique(owner[good], return_index=True)
        self.verdict.write(found, rows[who], flat[good[first]], judged[good[first]])
        left[who] = False
        return left

    def _further(self, found: Found, rows: np.ndarray, owner: np.ndarray, flat: np.ndarray, order: np.ndarray) -> np.ndarray:
        """As `_take_first`, of candidates whose numbers go further, as little as will do: a search ends where the model is
        just sure enough, so that a column less asks more of the others.
        """
        owner, order = np.repeat(owner, len(_FURTHER)), np.repeat(order, len(_FURTHER))
        x, end = self.X[rows[owner]], np.repeat(flat, len(_FURTHER), axis=0)
        times, columns = np.tile(_FURTHER, len(flat)), self.columns
        # within the range of real rows, where it was in it
        low, high = np.minimum(columns.low, np.minimum(x, end)), np.maximum(columns.high, np.maximum(x, end))
        further = np.clip(x + times[:, None] * (end - x), low, high)
        flat = columns.ruled(np.where(columns.free, further, end).astype(x.dtype), x)
        asked = self.verdict.asked(flat, rows[owner])
        fit = asked.gap == 0
        return self._take_first(found, rows, owner[fit], flat[fit], order[fit] + times[fit] / 10, asked[fit])

    def _need(self, flat: np.ndarray, rows: np.ndarray, needed: np.ndarray | None) -> np.ndarray:
        """How far candidates are from what is asked for, to rank them by."""
        asked = self.verdict.asked(flat, rows)
        judged = self.verdict.judge(flat, rows, asked)
        lost = (self.held[rows] & ~judged.conditions).sum(1) + np.log1p(np.nan_to_num(np.maximum(
            self.floor[rows] - judged.log_density, 0), nan=1e6, posinf=1e6))
        if needed is None:
            return np.round(asked.gap + lost, 4)
        short = np.maximum(needed - asked.score, 0) + 10 * asked.gap
        return np.round(short + lost - 1e-3 * asked.score, 4)

    def _take_back(self, found: Found, rows: np.ndarray) -> None:
        for _ in range(_BACK):
            rows = rows[self.columns.changed(found.x_cf[rows], self.X[rows]).sum(1) > 1]
            if not len(rows):
                break
            x, now = self.X[rows], found.x_cf[rows]
            needed = self.verdict.needed(rows) if self.verdict.is_class else None
            changed = self.columns.changed(now, x)
            owner, column = np.nonzero(changed)
            without = changed[owner].copy()
            without[np.arange(len(owner)), column] = False
            single = self.columns.only(now[owner], x[owner], without)
            cost = self._need(single, rows[owner], None if needed is None else needed[owner])
            rank = rank_of(owner, cost)
            # the least needed k together, for some k; else another one alone
            place = np.full(changed.shape, len(changed[0]))
            place[owner, column] = rank
            some = np.flatnonzero(np.isin(rank, _TOGETHER) & (rank < changed.sum(1)[owner] - 1))
            kept = changed[owner[some]] & (place[owner[some]] > rank[some][:, None])
            fewer = self.columns.mixed(now[owner[some]], x[owner[some]], kept)
            left = self._further(found, rows, owner[some], fewer, -rank[some])
            alone = np.flatnonzero(left[owner] & (rank > 0) & (rank < _JUDGED))
            left &= self._further(found, rows, owner[alone], single[alone], rank[alone])
            rows = rows[~left]

    def _draw_back(self, found: Found, rows: np.ndarray) -> None:
        """By bisection, changed numbers as near to what they were as loses nothing."""
        x, end = self.X[rows], found.x_cf[rows].copy()
        near, far = np.zeros(len(rows)), np.ones(len(rows))
        for _ in range(_HALVINGS):
            share = (near + far) / 2
            between = self.columns.ruled(np.where(self.columns.free, x + share[:, None] * (end - x), end).astype(x.dtype), x)
            asked = self.verdict.asked(between, rows)
            fine, judged = self._fine(between, rows, asked)
            fine &= asked.gap == 0
            self.verdict.write(found, rows[fine], between[fine], judged[fine])
            near, far = np.where(fine, near, share), np.where(fine, share, far)
