"""After the search of a table: rows end on the explained model itself, and change no more columns than they must.

A search may have followed another function than the model (a surrogate), or have got stuck. Every candidate is a row that
can exist (within the rules for columns), and the model itself is asked about it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from cfexplain.explainers.found import Found
from cfexplain.explainers.task import Classification, Goal
from cfexplain.foundation.tiles import in_tiles

__all__ = ["Columns", "Repair"]

_ROUNDS = 3
_TOGETHER = 256  # rows that are judged at once
_NUMBERS = 2**22  # of candidates that are held at once: bounds memory
_STEPS = (-0.5, -0.25, 0.25, 0.5)  # standard deviations
_FURTHER = (1.25, 1.5, 2.0, 3.0)  # times the way that the search went
_TOWARDS = (0.25, 0.5, 0.75, 1.0)  # of the way to a real row
_REAL_ROWS = 5
_REAL_POINTS = 256  # real rows that are asked about where the search has failed
_COLUMNS_IN_TURN = 8
_LEVELS = 9  # of a number
_HALVINGS = 10
_QUANTILES = (0.02, 0.15, 0.3, 0.5, 0.7, 0.85, 0.98)  # values of a column that are tried beside what was found
_BUILT_MOST = 8  # columns of which small changes are built up
_BEAM = 8  # small changes that are made larger
_EXTENDED = 60  # changes of one column that are added to each
_JUDGED = 12  # candidates a row of which the density is asked
_BACK = 12
_SHAPED = 500  # codes of a class by which candidates are ranked
_TOGETHER_BACK = (0, 1, 2, 3, 5, 7, 11, 15, 23, 31, 47, 63, 95, 127, 191, 255)
_OF_THE_MODEL = ("decision", "value")  # terms that ask the model alone


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
    """

    places: list[tuple[int, int]]
    groups: list[tuple[int, int]]
    held: np.ndarray
    low: np.ndarray
    high: np.ndarray
    scale: np.ndarray
    rules: Any = None
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
        return cls([(i, i + 1) for i in range(width)], [], held, low, high, scale, given[0] if given else None)

    @classmethod
    def of_mixed(cls, table: Any, rules: Any, real: np.ndarray) -> Columns:
        """The codes of a `MixedTable`, within `MixedRules`."""
        return cls(list(table.places.values()), [(first, last) for first, last, _, _ in rules.groups], rules.held,
                   np.maximum(rules.low, real.min(0)), np.minimum(rules.high, real.max(0)), np.ones(table.width), rules)

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
        places = np.zeros(codes.shape, dtype=bool)
        for k, (first, last) in enumerate(self.places):
            places[:, first:last] = columns[:, k : k + 1]
        return self.ruled(np.where(places, codes, x), x)

    def distance(self, codes: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.linalg.norm((codes - x) / self.scale, axis=-1)


@dataclass
class _Judged:
    """What the search says of candidate rows; ``judged[rows]`` of some of them."""

    z: np.ndarray
    log_density: np.ndarray
    valid: np.ndarray
    second_opinion: np.ndarray
    conditions: np.ndarray  # (n, conditions)

    def __getitem__(self, rows: np.ndarray) -> _Judged:
        return _Judged(self.z[rows], self.log_density[rows], self.valid[rows], self.second_opinion[rows],
                       self.conditions[rows])


class Repair:
    """Changes what a search has found, row by row; whatever it changes is judged anew at the code of the new row.

    Parameters
    ----------
    run : Run
        Of the fitted explainer.
    columns : Columns
    real, answers : ndarray of shape (m, width), (m,)
        Training rows, and the class indices, or values, that the model gives them.
    ask : callable ``(rows, which) -> answers``, optional
        What the model says of rows in place of the rows `which` of those that are explained, as ``task_.answers`` has it.
    """

    def __init__(self, run: Any, columns: Columns, real: np.ndarray, answers: np.ndarray, ask: Callable | None = None):
        self.run, self.explainer, self.columns, self.real, self.answers = run, run.explainer, columns, real, answers
        self.ask = ask or (lambda codes, which: self.explainer.task_.answers(self.explainer.classifier_, codes))
        self.is_class = isinstance(self.explainer.task_, Classification)

    def __call__(self, found: Found, X: np.ndarray, goal: Goal, prepared: dict[str, Any], sparse: bool,
                 rejudge: bool = False) -> dict[str, int]:
        """Change `found`, what the search of `X` found, in place; returns how many rows were changed how.

        `prepared` is what the search knows of the rows; `rejudge` says that what was found is not what its codes decode to.
        """
        self.X, self.goal, self.prepared, came = X, goal, prepared, found.x_cf.copy()
        self.names = list(prepared)
        self.wanted = prepared["typical"].cpu().numpy()
        # of what has no end to reach, nothing is taken back and nothing is nearer
        moved = np.flatnonzero(goal.moving & ~goal.unbounded)
        if not len(moved):
            return {"repaired": 0, "tidied": 0}
        if rejudge:
            self._write(found, moved, found.x_cf[moved], self._judge(found.x_cf[moved], moved))
        valid = np.zeros(len(X), dtype=bool)
        valid[moved] = self._gap(found.x_cf[moved], moved) == 0
        repaired = self._repair(found, valid, moved)
        reached = self._reach(found, valid, moved[~valid[moved]])
        repaired[reached] = True
        self._repair(found, valid, reached)
        tidied = self._fewer(found, moved[valid[moved]]) if sparse else np.zeros(len(X), dtype=bool)
        changed = np.flatnonzero((found.x_cf != came).any(1))
        found.n_steps[changed] += 1  # one more, of another kind, which the path has, too
        path = found.path
        if path is not None:
            for i in changed:
                path[i] = np.concatenate([path[i], found.z[i : i + 1]])
        return {"repaired": int(repaired.sum()), "tidied": int(tidied.sum())}

    # ------------------------------------------------------------------ what is said of rows
    def _gap(self, codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """How far the model is from what is wanted of those rows: 0 where it says so.

        Rounded: the last bits of a model's answers may depend on the company that a row is asked about in.
        """
        answers, goal, task = self.ask(codes, rows), self.goal.rows, self.explainer.task_
        if not self.is_class:
            gap = np.maximum(np.maximum(goal["low"][rows] - answers, answers - goal["high"][rows]), 0)
            unit = max(task.spread, 1e-12) * 1e-7
            return np.where(np.isfinite(answers), np.round(gap / unit) * unit, np.inf)
        predicted, proba = answers
        missed = predicted != goal["target"][rows]
        if proba is None:
            return missed.astype(float)
        proba = np.nan_to_num(proba[np.arange(len(rows)), goal["target"][rows]].astype(float))
        return np.where(missed, np.round(1.0 + 1e-5 - proba, 6), 0.0)

    def _judge(self, x_cf: np.ndarray, rows: np.ndarray) -> _Judged:
        """What the search says of given x′ of those rows."""
        run, explainer, names = self.run, self.explainer, self.names
        x = torch.from_numpy(np.ascontiguousarray(x_cf)).to(explainer.device_)

        def judged(x: torch.Tensor, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            z = explainer.coordinates_.encode(x)
            # x itself, not what its code decodes to
            return z, *run.judge.judged(z, dict(zip(names, values, strict=True)), x)[1:]

        index = torch.from_numpy(rows).to(explainer.device_)
        with torch.no_grad():
            z, log_density, valid, opinion, *met = (
                part.cpu().numpy() for part in in_tiles(judged, x, *(values[index] for values in self.prepared.values()),
                                                     tile=_TOGETHER))
        return _Judged(z, log_density, valid, opinion,
                       np.array(met, dtype=bool).reshape(len(run.judge.conditions), len(rows)).T)

    def _write(self, found: Found, rows: np.ndarray, x_cf: np.ndarray, judged: _Judged) -> None:
        found.x_cf[rows] = x_cf
        found.z[rows], found.log_density[rows] = judged.z, judged.log_density
        found.valid[rows], found.second_opinion[rows] = judged.valid, judged.second_opinion
        for name, met in zip(self.run.judge.conditions, judged.conditions.T, strict=True):
            found.conditions[name][rows] = met
        found.finished[rows] = True
        found.done[rows] = judged.conditions.all(1)

    def _in_parts(self, rows: np.ndarray, candidates: int) -> Iterator[np.ndarray]:
        """Some of the rows at a time, of each of which there are so many candidates."""
        some = max(1, min(_TOGETHER, _NUMBERS // max(candidates * self.X.shape[1], 1)))
        return (rows[first : first + some] for first in range(0, len(rows), some))

    # ---------------------------------------------------------------- repair
    def _repair(self, found: Found, valid: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Give each row that is not valid, or misses a condition, the best of its neighbours; which rows were changed."""
        touched, columns = np.zeros(len(self.X), dtype=bool), self.columns
        count = 1 + sum(last - first for first, last in columns.groups) + len(_STEPS) * len(columns.numbers) + len(
            _FURTHER) + _REAL_ROWS * len(_TOWARDS)
        for _ in range(_ROUNDS):
            left = rows[~(valid[rows] & found.done[rows])]
            changed = [self._better(found, valid, some) for some in self._in_parts(left, count)]
            if not sum(map(len, changed)):
                break
            rows = np.concatenate(changed)
            touched[rows] = True
        return touched

    def _better(self, found: Found, valid: np.ndarray, rows: np.ndarray) -> np.ndarray:
        candidates = self._candidates(found.x_cf[rows], self.X[rows], rows)  # (c, rows, width), the first as it is
        owner = np.tile(np.arange(len(rows)), len(candidates))
        itself = np.repeat(np.arange(len(candidates)) == 0, len(rows))
        flat = candidates.reshape(-1, self.X.shape[1])
        good = np.flatnonzero(self._gap(flat, rows[owner]) == 0)
        if not len(good):
            return rows[:0]
        owner, itself, flat = owner[good], itself[good], flat[good]
        judged = self._judge(flat, rows[owner])
        # most conditions, then most typical as far as that is asked for, then nearest
        typical = np.minimum(np.nan_to_num(judged.log_density, nan=-np.inf), self.wanted[rows[owner]])
        order = np.lexsort([self.columns.distance(flat, self.X[rows[owner]]), -typical, -judged.conditions.sum(1), owner])
        _, first = np.unique(owner[order], return_index=True)
        best = order[first]
        best = best[~itself[best]]
        changed = rows[owner[best]]
        self._write(found, changed, flat[best], judged[best])
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
        for own, some in self._real_of_goals(rows):
            order = np.stack([np.argsort(far, kind="stable")[:most] for far in self._distances(own, points[some])])
            for rank in range(most):
                near[rank, some] = own[order[:, min(rank, order.shape[1] - 1)]]
        return list(near)

    def _real_of_goals(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each thing that is wanted of some of `rows`: the real rows, if any, that have it, and the places of those."""
        goal = self.goal.rows
        low, high = (goal["target"][rows],) * 2 if self.is_class else (goal["low"][rows], goal["high"][rows])
        for a, b in np.unique(np.stack([low, high], axis=1), axis=0):
            own = self.real[(self.answers >= a) & (self.answers <= b)]
            if len(own):
                yield own, np.flatnonzero((low == a) & (high == b))

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
        for some in self._in_parts(rows, _REAL_POINTS):
            x = self.X[some]
            points = self._real_point(found.x_cf[some], x, some)
            for _ in range(_COLUMNS_IN_TURN):
                left = np.flatnonzero(self._gap(points, some) > 0)
                if not len(left):
                    break
                better = self._one_column(points[left], x[left], some[left])
                if (better == points[left]).all():
                    break
                points[left] = better
            points = self._nearer(points, x, some)
            good = self._gap(points, some) == 0
            if good.any():
                self._write(found, some[good], points[good], self._judge(points[good], some[good]))
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
        gaps = self._gap(points.reshape(-1, x.shape[1]), np.tile(rows, len(points))).reshape(len(points), -1)
        return points[gaps.argmin(0), np.arange(len(rows))]

    def _one_column(self, points: np.ndarray, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Each of `points` with the category or number in one column that brings it nearest to what is wanted."""
        best, least, columns = points.copy(), self._gap(points, rows), self.columns

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
        while some := list(itertools.islice(rest, max(1, _NUMBERS // points.size))):
            tried = np.stack([columns.ruled(other, x) for other in some])
            gaps = self._gap(tried.reshape(-1, points.shape[1]), np.tile(rows, len(tried))).reshape(len(tried), -1)
            which = gaps.argmin(0)
            better = gaps[which, np.arange(len(rows))] < least
            best[better], least[better] = tried[which, np.arange(len(rows))][better], gaps.min(0)[better]
        return best

    def _nearer(self, points: np.ndarray, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """By bisection, the point of the way from x that is wanted and nearest to x; a value may lie beyond its interval."""
        values = not self.is_class
        middle = np.clip(0.0, self.goal.rows["low"][rows], self.goal.rows["high"][rows]) if values else 0.0
        near, far, best = np.zeros(len(points)), np.ones(len(points)), points.copy()
        rising = self.ask(points, rows) > middle if values else None
        for _ in range(_HALVINGS):
            share = (near + far) / 2
            between = self.columns.ruled((x + share[:, None] * (points - x)).astype(x.dtype), x)
            there = self._gap(between, rows) == 0
            best[there] = between[there]
            if values:
                there = there | ((self.ask(between, rows) > middle) == rising)
            near, far = np.where(there, near, share), np.where(there, share, far)
        return best

    # ------------------------------------------------------------------ few columns
    def _fewer(self, found: Found, rows: np.ndarray) -> np.ndarray:
        """Change fewer columns of x, where no verdict and no condition is lost by it; which rows were changed.

        A change of one, two, … columns is built up from x. Where there is none, columns go back, least needed first,
        until none can. Then numbers come as near to what they were as they may.
        """
        self.held = np.zeros((len(self.X), len(found.conditions)), dtype=bool)
        for k, met in enumerate(found.conditions.values()):
            self.held[:, k] = met
        # where it was not typical before, it must not become less so
        self.floor = np.minimum(np.nan_to_num(found.log_density, nan=-np.inf), self.wanted)
        before, touched = found.x_cf.copy(), np.zeros(len(self.X), dtype=bool)
        count = self.columns.changed(before[rows], self.X[rows]).sum(1)
        self._learn_shape()
        for some in self._in_parts(rows[count > 1], _BEAM * _EXTENDED):
            self._build_up(found, some)
            self._take_back(found, some[(found.x_cf[some] == before[some]).all(1)])
        changed = rows[(found.x_cf[rows] != before[rows]).any(1)]
        for some in self._in_parts(changed, 1):
            self._draw_back(found, some)
        touched[changed] = True
        return touched

    def _fine(self, flat: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, _Judged]:
        """Which candidates lose nothing, of those that the model accepts, and what is said of them."""
        judged = self._judge(flat, rows)
        return (judged.conditions | ~self.held[rows]).all(1) & ~(judged.log_density < self.floor[rows]), judged

    def _take_first(self, found: Found, rows: np.ndarray, owner: np.ndarray, flat: np.ndarray, order: np.ndarray,
                    ) -> np.ndarray:
        """Write, for each of `rows`, the first of its candidates, in `order`, that loses nothing; which rows have none."""
        left = np.ones(len(rows), dtype=bool)
        if not len(flat):
            return left
        fine, judged = self._fine(flat, rows[owner])
        good = np.flatnonzero(fine)
        good = good[np.lexsort([order[good], owner[good]])]
        who, first = np.unique(owner[good], return_index=True)
        self._write(found, rows[who], flat[good[first]], judged[good[first]])
        left[who] = False
        return left

    # what is cheap to know of many candidates
    def _learn_shape(self) -> None:
        """Where the codes of each class lie, roughly: a measure of typicality that costs little, to rank candidates."""
        self.shapes = {}
        labels = np.unique(self.answers) if self.is_class else [None]
        for label in labels:
            own = self.real if label is None else self.real[self.answers == label]
            if len(own) < 2:
                continue
            scaled = self.explainer.coordinates_.encode_dataset(own[:: max(1, len(own) // _SHAPED)])[0]
            mean, spread = scaled.mean(0), np.cov(scaled, rowvar=False).reshape(scaled.shape[1], -1)
            spread += (0.01 * np.trace(spread) / len(spread) + 1e-9) * np.eye(len(spread))
            inverse = np.linalg.inv(spread)
            off = ((scaled - mean) @ inverse * (scaled - mean)).sum(1)
            self.shapes[label] = mean, inverse, float(np.median(off))

    def _cost(self, flat: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far candidates seem to be from what is wanted; and which the model accepts, as sure as it has to be."""
        if not len(flat):
            return np.empty(0), np.zeros(0, dtype=bool)
        gap, run = self._gap(flat, rows), self.run
        asked = [(k, term) for k, term in enumerate(run.objective.terms) if term.name in _OF_THE_MODEL]

        def judged(x: torch.Tensor, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            known = dict(zip(self.names, values, strict=True))
            point = run.judge.point(known["z0"], known, x)
            loss = sum((term.weight * term.loss(point) for _, term in asked), torch.zeros(len(x), dtype=x.dtype))
            met = [term.holds(point) for _, term in asked]
            met = [torch.ones_like(point.valid), *(one for one in met if one is not None)]
            return self.explainer.coordinates_.encode(x), loss, torch.stack(met).all(0)

        index = torch.from_numpy(rows).to(self.explainer.device_)
        with torch.no_grad():
            z, loss, met = (part.cpu().numpy() for part in in_tiles(
                judged, torch.from_numpy(np.ascontiguousarray(flat)).to(self.explainer.device_),
                *(values[index] for values in self.prepared.values()), tile=_TOGETHER))
        cost = np.nan_to_num(loss.astype(float), nan=np.inf) + 10 * gap / (
            1 if self.is_class else max(self.explainer.task_.spread, 1e-12))
        target = self.goal.rows["target"][rows]
        for label, (mean, inverse, usual) in self.shapes.items():
            own = np.ones(len(rows), dtype=bool) if label is None else target == label
            away = z[own] - mean
            off = ((away @ inverse) * away).sum(1)
            cost[own] += np.maximum(off - usual, 0) / 2
        named = [k for k, name in enumerate(run.judge.conditions) if name in _OF_THE_MODEL]
        return np.round(cost, 6), (gap == 0) & (met | ~self.held[rows][:, named].all(1))

    def _build_up(self, found: Found, rows: np.ndarray) -> None:
        """Look for a change of one, two, … columns of x that loses nothing, and is of fewer than what was found."""
        x = self.X[rows]
        owner, column, single = self._singles(found, rows)
        cost, accepted = self._cost(single, rows[owner])
        count = self.columns.changed(found.x_cf[rows], x).sum(1)
        flat, sets = single, column[:, None]
        # the changes of one column that others are made of
        pool = np.flatnonzero(_rank(owner, cost) < _EXTENDED)
        pool_owner = owner[pool]
        left = np.ones(len(rows), dtype=bool)
        for size in range(1, _BUILT_MOST + 1):
            fit = np.flatnonzero(accepted & left[owner] & (count[owner] > size))
            fit = fit[_rank(owner[fit], cost[fit]) < _JUDGED]
            if len(fit):
                near = self.columns.distance(flat[fit], x[owner[fit]])
                left &= self._take_first(found, rows, owner[fit], flat[fit], near)
            left &= count > size + 1
            if size == _BUILT_MOST or not left.any():
                break
            best = np.flatnonzero(left[owner])
            best = best[_rank(owner[best], cost[best]) < _BEAM]
            first, second = _pairs(owner[best], pool_owner)
            first, second = best[first], pool[second]
            new = (sets[first] != column[second][:, None]).all(1)
            first, second = first[new], second[new]
            flat, owner_of = flat[first].copy(), owner[first]
            for k, (a, b) in enumerate(self.columns.places):
                at = np.flatnonzero(column[second] == k)
                flat[at, a:b] = single[second[at], a:b]
            sets = np.column_stack([sets[first], column[second]])
            # the same set of changes in another order
            _, once = np.unique(np.column_stack([owner_of, flat]), axis=0, return_index=True)
            once = np.sort(once)
            flat, sets, owner = flat[once], sets[once], owner_of[once]
            cost, accepted = self._cost(flat, rows[owner])

    def _take_back(self, found: Found, rows: np.ndarray) -> None:
        for _ in range(_BACK):
            rows = rows[self.columns.changed(found.x_cf[rows], self.X[rows]).sum(1) > 1]
            if not len(rows):
                break
            x, now = self.X[rows], found.x_cf[rows]
            changed = self.columns.changed(now, x)
            owner, column = np.nonzero(changed)
            without = changed[owner].copy()
            without[np.arange(len(owner)), column] = False
            single = self.columns.only(now[owner], x[owner], without)
            cost, _ = self._cost(single, rows[owner])
            rank = _rank(owner, cost)
            # the least needed k together, for some k
            place = np.full(changed.shape, len(changed[0]))
            place[owner, column] = rank
            some = np.flatnonzero(np.isin(rank, _TOGETHER_BACK) & (rank < changed.sum(1)[owner] - 1))
            flat = self.columns.only(now[owner[some]], x[owner[some]], changed[owner[some]] & (
                place[owner[some]] > rank[some][:, None]))
            _, accepted = self._cost(flat, rows[owner[some]])
            left = self._take_first(found, rows, owner[some][accepted], flat[accepted], -rank[some][accepted])
            alone = np.flatnonzero(left[owner] & (rank > 0) & (rank < _JUDGED))
            if len(alone):
                alone = alone[self._cost(single[alone], rows[owner[alone]])[1]]
                left &= self._take_first(found, rows, owner[alone], single[alone], rank[alone])
            rows = rows[~left]

    def _singles(self, found: Found, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows x with another value in one column: owner, column, and the rows."""
        x, columns = self.X[rows], self.columns
        end = found.x_cf[rows]
        quantiles, free = self._usual_values(rows), columns.free
        groups, every = set(columns.groups), np.arange(len(rows))
        owners, which, flat = [every[:0]], [every[:0]], [x[:0]]
        for k, (first, last) in enumerate(columns.places):
            if (first, last) in groups:
                values = [np.tile(one, (len(rows), 1)) for one in np.eye(last - first, dtype=x.dtype)]
            else:
                values = [end[:, first:last], *(q[:, first:last] for q in quantiles if free[first])]
            for value in values:
                other = x.copy()
                other[:, first:last] = value
                if (first, last) not in groups:
                    other[:, first:last] = np.clip(value, np.minimum(columns.low[first:last], x[:, first:last]),
                                                   np.maximum(columns.high[first:last], x[:, first:last]))
                other = columns.ruled(other, x)
                moved = (other != x).any(1)
                owners.append(every[moved])
                which.append(np.full(int(moved.sum()), k))
                flat.append(other[moved])
        return np.concatenate(owners), np.concatenate(which), np.concatenate(flat)

    def _usual_values(self, rows: np.ndarray) -> list[np.ndarray]:
        """Quantiles of each number among the real rows that are wanted, (rows, width) each."""
        near = np.tile(self.X[rows], (len(_QUANTILES), 1, 1))
        for own, some in self._real_of_goals(rows):
            near[:, some] = np.quantile(own, _QUANTILES, axis=0, method="nearest")[:, None]
        return list(near)

    def _draw_back(self, found: Found, rows: np.ndarray) -> None:
        """By bisection, changed numbers as near to what they were as loses nothing."""
        x, end = self.X[rows], found.x_cf[rows].copy()
        near, far = np.zeros(len(rows)), np.ones(len(rows))
        for _ in range(_HALVINGS // 2):
            share = (near + far) / 2
            between = self.columns.ruled(np.where(self.columns.free, x + share[:, None] * (end - x), end).astype(x.dtype), x)
            fine, judged = self._fine(between, rows)
            fine &= self._gap(between, rows) == 0
            self._write(found, rows[fine], between[fine], judged[fine])
            near, far = np.where(fine, near, share), np.where(fine, share, far)


def _rank(owner: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """The place of each candidate among those of its owner, cheapest first."""
    order = np.lexsort([cost, owner])
    rank = np.empty(len(order), dtype=int)
    rank[order] = np.arange(len(order)) - np.searchsorted(owner[order], owner[order])
    return rank


def _pairs(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions (i, j) with the same owner."""
    order = np.argsort(right, kind="stable")
    first, last = np.searchsorted(right[order], left, "left"), np.searchsorted(right[order], left, "right")
    i = np.repeat(np.arange(len(left)), last - first)
    j = np.arange(len(i)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
    return i, order[first[i] + j]
