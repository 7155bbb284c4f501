"""After the search of a mixed table: rows that the pipeline does not accept are repaired, needless changes taken back.

Every candidate is a row that can exist (`MixedRules`), and the pipeline itself is asked about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cfexplain.classifiers.pipeline import PipelineModel
from cfexplain.explainers.attributes import ExplainerParameters
from cfexplain.explainers.found import Found
from cfexplain.explainers.run import Run
from cfexplain.explainers.task import Classification, Goal, Regression
from cfexplain.foundation.labels import class_indices
from cfexplain.foundation.tiles import in_tiles
from cfexplain.tables.mixed import TableRows
from cfexplain.tables.rules import MixedRules

__all__ = ["Repair"]

_ROUNDS = 3
_TOGETHER = 256  # rows whose neighbours are looked at at once: bounds memory
_STEPS = (-0.5, -0.25, 0.25, 0.5)  # standard deviations
_FURTHER = (1.25, 1.5, 2.0, 3.0)  # times the way that the search went
_TOWARDS = (0.25, 0.5, 0.75, 1.0)  # of the way to a real row
_REAL_ROWS = 5
_REAL_POINTS = 256  # real rows that are asked about where the search has failed
_COLUMNS_IN_TURN = 8
_LEVELS = 9  # of a number
_HALVINGS = 10


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
    explainer : CounterfactualExplainer
        Fitted, with `MixedRules` as its `column_rules_`.
    model : PipelineModel
    real, predicted : ndarray of shape (n, width), (n,)
        Codes of training rows, and the class indices, or values, that the pipeline gives them.
    """

    def __init__(self, explainer: ExplainerParameters, model: PipelineModel, real: np.ndarray, predicted: np.ndarray):
        self.run, self.explainer, self.model = Run(explainer), explainer, model
        rules: Any = explainer.column_rules_
        self.rules: MixedRules = rules
        self.real, self.predicted = real, predicted

    def __call__(self, found: Found, rows: TableRows, goal: Goal, sparse: bool) -> dict[str, int]:
        """Change `found`, what the search of `rows` found, in place; returns how many rows were changed how."""
        self.rows, self.goal, X = rows, goal, rows.codes
        with self.explainer.classifier_.frozen():
            prepared, _ = self.run.prepare(X, goal)
            # of what has no end to reach, nothing is taken back and nothing is nearer
            moved = np.flatnonzero(goal.moving & ~goal.unbounded)
            if not len(moved):
                return {"repaired": 0, "tidied": 0}
            # rounding may have made another row of what the point of the search decodes to: the row counts
            self._write(found, moved, found.x_cf[moved], self._judge(found.x_cf[moved], prepared, moved))
            valid = np.zeros(len(X), dtype=bool)
            valid[moved] = self._accepts(found.x_cf[moved], moved)
            repaired = self._repair(found, valid, X, prepared, moved)
            reached = self._reach(found, valid, X, prepared, moved[~valid[moved]])
            repaired[reached] = True
            self._repair(found, valid, X, prepared, reached)
            tidied = self._take_back(found, X, prepared, moved[valid[moved]]) if sparse else np.zeros(len(X), dtype=bool)
        return {"repaired": int(repaired.sum()), "tidied": int(tidied.sum())}

    def _accepts(self, codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Whether the pipeline itself says of `codes` what is wanted of those rows."""
        said = self.model.predict(codes, self.rows[rows])
        task = self.explainer.task_
        if isinstance(task, Classification):
            return class_indices(said, self.explainer.classes_) == self.goal.rows["target"][rows]
        return task.judge(said, self.goal[rows])["valid"]

    def _judge(self, x_cf: np.ndarray, prepared: dict[str, Any], rows: np.ndarray) -> _Judged:
        """What the search says of given x′ of those rows of `prepared`."""
        explainer, names = self.explainer, list(prepared)
        x = torch.from_numpy(np.ascontiguousarray(x_cf)).to(explainer.device_)

        def judged(x: torch.Tensor, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            z = explainer.coordinates_.encode(x)
            # x itself, not what its code decodes to
            return z, *self.run.judge.judged(z, dict(zip(names, values, strict=True)), x)[1:]

        index = torch.from_numpy(rows).to(explainer.device_)
        with torch.no_grad():
            z, log_density, valid, opinion, *met = (
                part.cpu().numpy() for part in in_tiles(judged, x, *(values[index] for values in prepared.values()),
                                                     tile=_TOGETHER))
        return _Judged(z, log_density, valid, opinion,
                       np.array(met, dtype=bool).reshape(len(self.run.judge.conditions), len(rows)).T)

    def _write(self, found: Found, rows: np.ndarray, x_cf: np.ndarray, judged: _Judged) -> None:
        found.x_cf[rows] = x_cf
        found.z[rows], found.log_density[rows] = judged.z, judged.log_density
        found.valid[rows], found.second_opinion[rows] = judged.valid, judged.second_opinion
        for name, met in zip(self.run.judge.conditions, judged.conditions.T, strict=True):
            found.conditions[name][rows] = met
        found.finished[rows] = True
        found.done[rows] = judged.conditions.all(1)

    # ---------------------------------------------------------------- repair
    def _repair(self, found: Found, valid: np.ndarray, X: np.ndarray, prepared: dict[str, Any], rows: np.ndarray,
                ) -> np.ndarray:
        """Give each row that is not valid, or misses a condition, the best of its neighbours; which rows were changed."""
        touched = np.zeros(len(X), dtype=bool)
        for _ in range(_ROUNDS):
            left = rows[~(valid[rows] & found.done[rows])]
            changed = [self._better(found, valid, X, prepared, left[i : i + _TOGETHER])
                       for i in range(0, len(left), _TOGETHER)]
            if not sum(map(len, changed)):
                break
            rows = np.concatenate(changed)
            touched[rows] = True
        return touched

    # ----------------------------------------------------------------- where the search has failed
    def _reach(self, found: Found, valid: np.ndarray, X: np.ndarray, prepared: dict[str, Any], rows: np.ndarray,
               ) -> np.ndarray:
        """For rows that are not valid, ask the pipeline itself more widely: real rows, one column after the other, and the
        way between; returns the rows that are valid now.

        The search may have followed another function than the pipeline: a surrogate, or the pipeline without what codes
        do not say of this row.
        """
        for first in range(0, len(rows), _TOGETHER):
            some = rows[first : first + _TOGETHER]
            points = np.concatenate([self._real_point(found.x_cf[some[i : i + 8]], X[some[i : i + 8]], some[i : i + 8])
                                     for i in range(0, len(some), 8)])
            for _ in range(_COLUMNS_IN_TURN):
                left = np.flatnonzero(self._gap(points, some) > 0)
                if not len(left):
                    break
                options = self._coordinates(points[left], X[some[left]])  # (c, left, width), the first as it is
                gaps = self._gap(options.reshape(-1, X.shape[1]), np.tile(some[left], len(options)))
                best = gaps.reshape(len(options), -1).argmin(0)
                points[left] = options[best, np.arange(len(left))]
                if not best.any():
                    break
            points = self._nearer(points, X[some], some)
            good = self._accepts(points, some)
            if good.any():
                self._write(found, some[good], points[good], self._judge(points[good], prepared, some[good]))
                valid[some[good]] = True
        return rows[valid[rows]]

    def _gap(self, codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """How far the pipeline is from what is wanted of those rows: 0 where it says so."""
        like, goal = self.rows[rows], self.goal.rows
        frame = self.model.table.whole_frame(codes, like)
        said = self.model.predict_frame(frame)
        if isinstance(self.explainer.task_, Regression):
            gap = np.maximum(np.maximum(goal["low"][rows] - said, said - goal["high"][rows]), 0)
            return np.where(np.isfinite(said), gap, np.inf)
        target = goal["target"][rows]
        missed = class_indices(said, self.explainer.classes_) != target
        if not self.model.gives_probabilities:
            return missed.astype(float)
        proba = np.nan_to_num(self.model.predict_proba_frame(frame)[np.arange(len(rows)), target])
        return np.where(missed, 1.0 + 1e-9 - proba, 0.0)

    def _real_point(self, x_cf: np.ndarray, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """For each row what was found, or of the real rows next to it the first that is wanted, else the least far off."""
        distance = (self.real**2).sum(1) - 2 * x @ self.real.T
        order = np.argsort(distance, axis=1, kind="stable")[:, :_REAL_POINTS].T
        points = np.stack([x_cf, *(self._ruled(self.real[near], x) for near in order)])
        gaps = self._gap(points.reshape(-1, x.shape[1]), np.tile(rows, len(points))).reshape(len(points), -1)
        return points[gaps.argmin(0), np.arange(len(rows))]

    def _coordinates(self, points: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Points with another category or number in one column, within the rules."""
        options, numbers = [points], np.ones(points.shape[1], dtype=bool)
        for first, last, _, _ in self.rules.groups:
            numbers[first:last] = False
            for k in range(first, last):
                other = points.copy()
                other[:, first:last] = 0
                other[:, k] = 1
                options.append(other)
        low, high = np.maximum(self.rules.low, self.real.min(0)), np.minimum(self.rules.high, self.real.max(0))
        for place in np.flatnonzero(numbers & ~self.rules.held):
            for share in np.linspace(0, 1, _LEVELS):
                other = points.copy()
                other[:, place] = low[place] + share * (high[place] - low[place])
                options.append(other)
        return np.stack([points, *(self._ruled(other, x) for other in options[1:])])

    def _nearer(self, points: np.ndarray, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """By bisection, the point of the way from x that is wanted and nearest to x; a value may lie beyond its interval."""
        values = isinstance(self.explainer.task_, Regression)
        middle = np.clip(0.0, self.goal.rows["low"][rows], self.goal.rows["high"][rows]) if values else 0.0
        near, far, best = np.zeros(len(points)), np.ones(len(points)), points.copy()
        rising = self._said(points, rows) > middle if values else None
        for _ in range(_HALVINGS):
            share = (near + far) / 2
            between = self._ruled(x + share[:, None] * (points - x), x)
            there = self._gap(between, rows) == 0
            best[there] = between[there]
            if values:
                there = there | ((self._said(between, rows) > middle) == rising)
            near, far = np.where(there, near, share), np.where(there, share, far)
        return best

    def _said(self, codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return self.model.predict(codes, self.rows[rows])

    def _better(self, found: Found, valid: np.ndarray, X: np.ndarray, prepared: dict[str, Any], rows: np.ndarray,
                ) -> np.ndarray:
        candidates = self._candidates(found.x_cf[rows], X[rows], rows)  # (c, rows, width), the first as it is
        owner = np.tile(np.arange(len(rows)), len(candidates))
        itself = np.repeat(np.arange(len(candidates)) == 0, len(rows))
        flat = candidates.reshape(-1, X.shape[1])
        good = np.flatnonzero(self._accepts(flat, rows[owner]))
        if not len(good):
            return rows[:0]
        owner, itself, flat = owner[good], itself[good], flat[good]
        judged = self._judge(flat, prepared, rows[owner])
        # most conditions, then most typical as far as that is asked for, then nearest
        wanted = prepared["typical"].cpu().numpy()[rows[owner]]
        typical = np.minimum(np.nan_to_num(judged.log_density, nan=-np.inf), wanted)
        order = np.lexsort([np.linalg.norm(flat - X[rows[owner]], axis=1), -typical, -judged.conditions.sum(1), owner])
        _, first = np.unique(owner[order], return_index=True)
        best = order[first]
        best = best[~itself[best]]
        changed = rows[owner[best]]
        self._write(found, changed, flat[best], judged[best])
        valid[changed] = True
        return changed

    def _candidates(self, x_cf: np.ndarray, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Other categories, other numbers, further along the way, and towards the nearest real rows of the target class."""
        candidates, numbers = [x_cf], np.ones(x_cf.shape[1], dtype=bool)
        for first, last, _, _ in self.rules.groups:
            numbers[first:last] = False
            for k in range(first, last):
                other = x_cf.copy()
                other[:, first:last] = 0
                other[:, k] = 1
                candidates.append(other)
        for place in np.flatnonzero(numbers & ~self.rules.held):
            for step in _STEPS:
                other = x_cf.copy()
                other[:, place] += step
                candidates.append(other)
        candidates += [x + share * (x_cf - x) for share in _FURTHER]
        for rank in range(_REAL_ROWS):
            real = self._nearest(x_cf, rows, rank)
            candidates += [x_cf + share * (real - x_cf) for share in _TOWARDS]
        return np.stack([x_cf, *(self._ruled(other, x) for other in candidates[1:])])

    def _nearest(self, x_cf: np.ndarray, rows: np.ndarray, rank: int) -> np.ndarray:
        """The real row next to each x′ (but `rank`) of which the pipeline says what is wanted."""
        out, goal = x_cf.copy(), self.goal.rows
        if isinstance(self.explainer.task_, Classification):
            wanted = {(label, label): self.predicted == label for label in np.unique(goal["target"][rows])}
            ends = np.stack([goal["target"][rows]] * 2, axis=1)
        else:
            ends = np.stack([goal["low"][rows], goal["high"][rows]], axis=1)
            wanted = {(low, high): (self.predicted >= low) & (self.predicted <= high)
                      for low, high in np.unique(ends, axis=0)}
        for (low, high), those in wanted.items():
            own, some = self.real[those], np.flatnonzero((ends == (low, high)).all(1))
            if len(own):
                distance = ((own**2).sum(1) - 2 * x_cf[some] @ own.T)
                out[some] = own[np.argsort(distance, axis=1, kind="stable")[:, min(rank, len(own) - 1)]]
        return out

    def _ruled(self, codes: np.ndarray, x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.rules.apply(torch.from_numpy(codes), torch.from_numpy(x)).numpy()

    # ------------------------------------------------------------------ needless changes
    def _take_back(self, found: Found, X: np.ndarray, prepared: dict[str, Any], rows: np.ndarray) -> np.ndarray:
        """Take back one column after the other, least change first, where no condition and no verdict is lost by it.

        Returns which rows were changed.
        """
        places = list(self.model.table.places.values())
        change = np.stack([np.linalg.norm((found.x_cf - X)[:, a:b], axis=1) for a, b in places], axis=1)
        order, touched = np.argsort(change, axis=1, kind="stable"), np.zeros(len(X), dtype=bool)
        for k in range(len(places)):
            changed = rows[change[rows, order[rows, k]] > 0]
            if not len(changed):
                continue
            back = found.x_cf[changed].copy()
            for i, row in enumerate(changed):
                a, b = places[order[row, k]]
                back[i, a:b] = X[row, a:b]
            fine = self._accepts(back, changed)
            changed, back = changed[fine], back[fine]
            if not len(changed):
                continue
            judged = self._judge(back, prepared, changed)
            # where it was not typical before, it must not become less so
            floor = np.minimum(found.log_density[changed], prepared["typical"].cpu().numpy()[changed])
            before = np.array([met[changed] for met in found.conditions.values()], dtype=bool)
            fine = (judged.conditions | ~before.reshape(-1, len(changed)).T).all(1) & ~(judged.log_density < floor)
            self._write(found, changed[fine], back[fine], judged[fine])
            touched[changed[fine]] = True
        return touched
