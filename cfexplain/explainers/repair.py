"""Where a search of a table has failed: rows end on the explained model itself, among what lies next to them.

A search may have followed another function than the model (a surrogate), or have got stuck. Every candidate is a row that
can exist (within the rules for columns), and the model itself is asked about it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from cfexplain.explainers.columns import Columns
from cfexplain.explainers.found import Found
from cfexplain.explainers.verdict import NUMBERS, Verdict

__all__ = ["Repair"]

HALVINGS = 10
_ROUNDS = 3
_STEPS = (-0.5, -0.25, 0.25, 0.5)  # standard deviations
_FURTHER = (1.25, 1.5, 2.0, 3.0)  # times the way that the search went
_TOWARDS = (0.25, 0.5, 0.75, 1.0)  # of the way to a real row
_REAL_ROWS = 5
_REAL_POINTS = 256  # real rows that are asked about where the search has failed
_COLUMNS_IN_TURN = 8
_LEVELS = 9  # of a number


class Repair:
    """Gives rows that are not valid, or miss a condition, what the model accepts next to what was found.

    Parameters
    ----------
    verdict : Verdict
    columns : Columns
    real, answers : ndarray of shape (m, width), (m,)
        Training rows, and the class indices, or values, that the model gives them.
    """

    def __init__(self, verdict: Verdict, columns: Columns, real: np.ndarray, answers: np.ndarray):
        self.verdict, self.columns, self.real, self.answers = verdict, columns, real, answers
        self.X, self.goal, self.is_class = verdict.X, verdict.goal, verdict.is_class

    def __call__(self, found: Found, valid: np.ndarray, rows: np.ndarray) -> None:
        """Change `found` in place, for some of `rows`; `valid` says which rows the model accepts, and is changed, too."""
        self._repair(found, valid, rows)
        self._repair(found, valid, self._reach(found, valid, rows[~valid[rows]]))

    # ---------------------------------------------------------------- repair
    def _repair(self, found: Found, valid: np.ndarray, rows: np.ndarray) -> None:
        """Give each row that is not valid, or misses a condition, the best of its neighbours."""
        columns = self.columns
        count = 1 + sum(last - first for first, last in columns.groups) + len(_STEPS) * len(columns.numbers) + len(
            _FURTHER) + _REAL_ROWS * len(_TOWARDS)
        for _ in range(_ROUNDS):
            left = rows[~(valid[rows] & found.done[rows])]
            changed = [self._better(found, valid, some) for some in self.verdict.parts(left, count)]
            if not sum(map(len, changed)):
                break
            rows = np.concatenate(changed)

    def _better(self, found: Found, valid: np.ndarray, rows: np.ndarray) -> np.ndarray:
        candidates = self._candidates(found.x_cf[rows], self.X[rows], rows)  # (c, rows, width), the first as it is
        owner = np.tile(np.arange(len(rows)), len(candidates))
        itself = np.repeat(np.arange(len(candidates)) == 0, len(rows))
        flat = candidates.reshape(-1, self.X.shape[1])
        asked = self.verdict.asked(flat, rows[owner])
        good = np.flatnonzero(asked.gap == 0)
        if not len(good):
            return rows[:0]
        owner, itself, flat = owner[good], itself[good], flat[good]
        judged = self.verdict.judge(flat, rows[owner], asked[good])
        # most conditions, then most typical as far as that is asked for, then nearest
        typical = np.minimum(np.nan_to_num(judged.log_density, nan=-np.inf), self.verdict.wanted[rows[owner]])
        order = np.lexsort([self.columns.distance(flat, self.X[rows[owner]]), -typical, -judged.conditions.sum(1), owner])
        _, first = np.unique(owner[order], return_index=True)
        best = order[first]
        best = best[~itself[best]]
        changed = rows[owner[best]]
        self.verdict.write(found, changed, flat[best], judged[best])
        valid[changed] = True
        return changed

    def _candidates(self, x_cf: np.ndarray, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Other categories, other numbers, further along the way, and towards the nearest real rows that are wanted."""
        candidates = [x_cf, *self._categories(x_cf)]
        for place in self.columns.numbers:
            for step in _STEPS:
                other = x_cf.copy()
                other[:, place] += step * self.columns.scale[place]
                candidates.append(other)
        candidates += [x + share * (x_cf - x) for share in _FURTHER]
        near = self._wanted_rows(x_cf, rows, _REAL_ROWS)
        candidates += [x_cf + share * (real - x_cf) for real in near for share in _TOWARDS]
        return np.stack([x_cf, *(self.columns.ruled(other.astype(x.dtype, copy=False), x) for other in candidates[1:])])

    def _categories(self, points: np.ndarray) -> Iterator[np.ndarray]:
        """`points` with another category in one column."""
        for first, last in self.columns.groups:
            for k in range(first, last):
                other = points.copy()
                other[:, first:last] = 0
                other[:, k] = 1
                yield other

    def _wanted_rows(self, points: np.ndarray, rows: np.ndarray, most: int) -> list[np.ndarray]:
        """The real rows next to each of `points` of which the model says what is wanted, nearest first; or nothing."""
        near = np.tile(points, (most, 1, 1))
        for own, some in self.verdict.real_of_goals(self.real, self.answers, rows):
            order = np.stack([np.argsort(far, kind="stable")[:most] for far in self._distances(own, points[some])])
            for rank in range(most):
                near[rank, some] = own[order[:, min(rank, order.shape[1] - 1)]]
        return list(near)

    def _distances(self, real: np.ndarray, points: np.ndarray) -> Iterator[np.ndarray]:
        """Squared distances, in standard deviations, of the rows of `real` to each of `points`."""
        own = real / self.columns.scale
        # one point at a time, and rounded: sums in other company would have other last bits
        return (np.round(np.square(own - one).sum(1), 9) for one in points / self.columns.scale)

    # ----------------------------------------------------------------- where the search has failed
    def _reach(self, found: Found, valid: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """For rows that are not valid, ask the model itself more widely: real rows, one column after the other, and the way
        between; returns the rows that are valid now.
        """
        for some in self.verdict.parts(rows, _REAL_POINTS):
            x = self.X[some]
            points = self._real_point(found.x_cf[some], x, some)
            for _ in range(_COLUMNS_IN_TURN):
                left = np.flatnonzero(self.verdict.gap(points, some) > 0)
                if not len(left):
                    break
                better = self._one_column(points[left], x[left], some[left])
                if (better == points[left]).all():
                    break
                points[left] = better
            points = self._nearer(points, x, some)
            good = self.verdict.gap(points, some) == 0
            if good.any():
                self.verdict.write(found, some[good], points[good], self.verdict.judge(points[good], some[good]))
                valid[some[good]] = True
        return rows[valid[rows]]

    def _real_point(self, x_cf: np.ndarray, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """For each row what was found, or of the real rows next to it the first that is wanted, else the least far off."""
        if not len(self.real):
            return x_cf.copy()
        goal = self.goal.rows
        if self.is_class:
            off = (self.answers[None] != goal["target"][rows][:, None]).astype(float)
        else:
            low, high = goal["low"][rows][:, None], goal["high"][rows][:, None]
            off = np.maximum(np.maximum(low - self.answers, self.answers - high), 0)
        order = np.stack([np.lexsort([far, miss])[:_REAL_POINTS]
                          for far, miss in zip(self._distances(self.real, x), off, strict=True)]).T
        points = np.stack([x_cf, *(self.columns.ruled(self.real[near], x) for near in order)])
        gaps = self.verdict.gap(points.reshape(-1, x.shape[1]), np.tile(rows, len(points))).reshape(len(points), -1)
        return points[gaps.argmin(0), np.arange(len(rows))]

    def _one_column(self, points: np.ndarray, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Each of `points` with the category or number in one column that brings it nearest to what is wanted."""
        best, least, columns = points.copy(), self.verdict.gap(points, rows), self.columns

        def options() -> Iterator[np.ndarray]:
            yield from self._categories(points)
            for place in columns.numbers:
                if not 0 < columns.high[place] - columns.low[place] < np.inf:
                    continue
                for share in np.linspace(0, 1, _LEVELS):
                    other = points.copy()
                    other[:, place] = columns.low[place] + share * (columns.high[place] - columns.low[place])
                    yield other

        rest = options()
        while some := list(itertools.islice(rest, max(1, NUMBERS // points.size))):
            tried = np.stack([columns.ruled(other, x) for other in some])
            gaps = self.verdict.gap(tried.reshape(-1, points.shape[1]), np.tile(rows, len(tried))).reshape(len(tried), -1)
            which = gaps.argmin(0)
            better = gaps[which, np.arange(len(rows))] < least
            best[better], least[better] = tried[which, np.arange(len(rows))][better], gaps.min(0)[better]
        return best

    def _nearer(self, points: np.ndarray, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """By bisection, the point of the way from x that is wanted and nearest to x; a value may lie beyond its interval."""
        values = not self.is_class
        middle = np.clip(0.0, self.goal.rows["low"][rows], self.goal.rows["high"][rows]) if values else 0.0
        near, far, best = np.zeros(len(points)), np.ones(len(points)), points.copy()
        rising = self.verdict.ask(points, rows) > middle if values else None
        for _ in range(HALVINGS):
            share = (near + far) / 2
            between = self.columns.ruled((x + share[:, None] * (points - x)).astype(x.dtype), x)
            there = self.verdict.gap(between, rows) == 0
            best[there] = between[there]
            if values:
                there = there | ((self.verdict.ask(between, rows) > middle) == rising)
            near, far = np.where(there, near, share), np.where(there, share, far)
        return best
