"""After the search of a mixed table: rows that the pipeline does not accept are repaired, needless changes taken back.

Every candidate is a row that can exist (`MixedRules`), and the pipeline itself is asked about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cfexplain.classifiers.labels import class_indices
from cfexplain.classifiers.pipeline import PipelineModel
from cfexplain.foundation.tiles import in_tiles
from cfexplain.tables.rules import MixedRules

if TYPE_CHECKING:
    from cfexplain.explainers.run import Run
    from cfexplain.explainers.task import Goal

__all__ = ["Polish"]

_ROUNDS = 3
_TOGETHER = 256  # rows whose neighbours are looked at at once: bounds memory
_STEPS = (-0.5, -0.25, 0.25, 0.5)  # standard deviations
_FURTHER = (1.25, 1.5, 2.0, 3.0)  # times the way that the search went
_TOWARDS = (0.25, 0.5, 0.75, 1.0)  # of the way to a real row
_REAL_ROWS = 5


class Polish:
    """Changes what a search has found, row by row; whatever it changes is judged anew at the code of the new row.

    Parameters
    ----------
    run : Run
        Of a fitted explainer whose `column_rules_` are `MixedRules`.
    model : PipelineModel
    real, said : ndarray of shape (n, width), (n,)
        Codes of training rows, and the class indices that the pipeline gives them.
    """

    def __init__(self, run: Run, model: PipelineModel, real: np.ndarray, said: np.ndarray):
        self.run, self.explainer, self.model = run, run.explainer, model
        self.rules: MixedRules = run.explainer.column_rules_
        self.real, self.said = real, said

    def __call__(self, found: dict[str, Any], X: np.ndarray, goal: Goal, sparse: bool) -> dict[str, int]:
        """Polish `found`, what the search of the codes `X` found, in place; returns how many rows were changed how."""
        wanted = {**goal.rows, "still": goal.still}
        with self.explainer.classifier_.frozen():
            prepared, _ = self.run.prepare(X, wanted)
            moved = np.flatnonzero(~goal.still)
            if not len(moved):
                return {"repaired": 0, "tidied": 0}
            # rounding may have made another row of what the point of the search decodes to: the row counts
            self._write(found, moved, found["x_cf"][moved], self._judge(found["x_cf"][moved], prepared, moved))
            found["valid"] = self._accepts(found["x_cf"], goal.rows["target"])
            repaired = self._repair(found, X, prepared, moved)
            tidied = self._tidy(found, X, prepared, moved[found["valid"][moved]]) if sparse else np.zeros(len(X), dtype=bool)
        return {"repaired": int(repaired.sum()), "tidied": int(tidied.sum())}

    def _accepts(self, codes: np.ndarray, target: np.ndarray) -> np.ndarray:
        return class_indices(self.model.predict(codes), self.explainer.classes_) == target

    def _judge(self, x_cf: np.ndarray, prepared: dict[str, Any], rows: np.ndarray) -> dict[str, np.ndarray]:
        """What `Run` says of a found point, for given x′ of those rows of `prepared`."""
        ex, run, names = self.explainer, self.run, list(prepared)
        x_cf = torch.from_numpy(np.ascontiguousarray(x_cf)).to(ex.device_)
        conditions = run._conditions()

        def judged(x: torch.Tensor, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            z = ex.coordinates_.encode(x)
            point = run.point(z, dict(zip(names, values, strict=True)))
            point.x = x  # the row itself, not what its code decodes to
            opinion = torch.zeros_like(point.log_density) if ex.opinions_ is None else point.opinion
            held = run.objective.conditions(point)
            return z, point.log_density, point.valid, opinion > 0, *(held[name] for name in conditions)

        index = torch.from_numpy(rows).to(ex.device_)
        with torch.no_grad():
            z, log_density, valid, opinion, *held = (
                part.cpu().numpy() for part in in_tiles(judged, x_cf, *(values[index] for values in prepared.values()),
                                                     tile=_TOGETHER))
        return {"z": z, "log_density": log_density, "search_valid": valid, "opinion": opinion,
                "held": np.array(held, dtype=bool).reshape(len(conditions), len(rows)).T}

    def _write(self, found: dict[str, Any], rows: np.ndarray, x_cf: np.ndarray, judged: dict[str, np.ndarray]) -> None:
        found["x_cf"][rows] = x_cf
        for name in ("z", "log_density", "search_valid", "opinion"):
            found[name][rows] = judged[name]
        for name, held in zip(self.run._conditions(), judged["held"].T, strict=True):
            found["held"][name][rows] = held
        found["finished"][rows] = True
        found["done"][rows] = judged["held"].all(1)

    # ---------------------------------------------------------------- repair
    def _repair(self, found: dict[str, Any], X: np.ndarray, prepared: dict[str, Any], rows: np.ndarray) -> np.ndarray:
        """Give each row that is not valid, or misses a condition, the best of its neighbours; which rows were changed."""
        touched = np.zeros(len(X), dtype=bool)
        for _ in range(_ROUNDS):
            left = rows[~(found["valid"][rows] & found["done"][rows])]
            changed = [self._better(found, X, prepared, left[i : i + _TOGETHER]) for i in range(0, len(left), _TOGETHER)]
            if not sum(map(len, changed)):
                break
            rows = np.concatenate(changed)
            touched[rows] = True
        return touched

    def _better(self, found: dict[str, Any], X: np.ndarray, prepared: dict[str, Any], rows: np.ndarray) -> np.ndarray:
        target = prepared["target"].cpu().numpy()[rows]
        candidates = self._candidates(found["x_cf"][rows], X[rows], target)  # (c, rows, width), the first as it is
        owner = np.tile(np.arange(len(rows)), len(candidates))
        itself = np.repeat(np.arange(len(candidates)) == 0, len(rows))
        flat = candidates.reshape(-1, X.shape[1])
        good = np.flatnonzero(self._accepts(flat, target[owner]))
        if not len(good):
            return rows[:0]
        owner, itself, flat = owner[good], itself[good], flat[good]
        judged = self._judge(flat, prepared, rows[owner])
        # most conditions, then most typical as far as that is asked for, then nearest
        wanted = prepared["typical"].cpu().numpy()[rows[owner]]
        typical = np.minimum(np.nan_to_num(judged["log_density"], nan=-np.inf), wanted)
        order = np.lexsort([np.linalg.norm(flat - X[rows[owner]], axis=1), -typical, -judged["held"].sum(1), owner])
        _, first = np.unique(owner[order], return_index=True)
        best = order[first]
        best = best[~itself[best]]
        changed = rows[owner[best]]
        self._write(found, changed, flat[best], {name: values[best] for name, values in judged.items()})
        found["valid"][changed] = True
        return changed

    def _candidates(self, x_cf: np.ndarray, x: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Other categories, other numbers, further along the way, and towards the nearest real rows of the target class."""
        some, numbers = [x_cf], np.ones(x_cf.shape[1], dtype=bool)
        for first, last, _, _ in self.rules.groups:
            numbers[first:last] = False
            for k in range(first, last):
                one = x_cf.copy()
                one[:, first:last] = 0
                one[:, k] = 1
                some.append(one)
        for place in np.flatnonzero(numbers & ~self.rules.held):
            for step in _STEPS:
                one = x_cf.copy()
                one[:, place] += step
                some.append(one)
        some += [x + share * (x_cf - x) for share in _FURTHER]
        for rank in range(_REAL_ROWS):
            real = self._nearest(x_cf, target, rank)
            some += [x_cf + share * (real - x_cf) for share in _TOWARDS]
        return np.stack([some[0], *(self._ruled(one, x) for one in some[1:])])

    def _nearest(self, x_cf: np.ndarray, target: np.ndarray, rank: int) -> np.ndarray:
        out = x_cf.copy()
        for label in np.unique(target):
            own, rows = self.real[self.said == label], np.flatnonzero(target == label)
            if len(own):
                distance = ((own**2).sum(1) - 2 * x_cf[rows] @ own.T)
                out[rows] = own[np.argsort(distance, axis=1, kind="stable")[:, min(rank, len(own) - 1)]]
        return out

    def _ruled(self, codes: np.ndarray, x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.rules.apply(torch.from_numpy(codes), torch.from_numpy(x)).numpy()

    # ------------------------------------------------------------------ tidy
    def _tidy(self, found: dict[str, Any], X: np.ndarray, prepared: dict[str, Any], rows: np.ndarray) -> np.ndarray:
        """Take back one column after the other, least change first, where no condition and no verdict is lost by it.

        Returns which rows were changed.
        """
        places = list(self.model.table.places.values())
        target = prepared["target"].cpu().numpy()
        change = np.stack([np.linalg.norm((found["x_cf"] - X)[:, a:b], axis=1) for a, b in places], axis=1)
        order, touched = np.argsort(change, axis=1, kind="stable"), np.zeros(len(X), dtype=bool)
        for k in range(len(places)):
            some = rows[change[rows, order[rows, k]] > 0]
            if not len(some):
                continue
            back = found["x_cf"][some].copy()
            for i, row in enumerate(some):
                a, b = places[order[row, k]]
                back[i, a:b] = X[row, a:b]
            fine = self._accepts(back, target[some])
            some, back = some[fine], back[fine]
            if not len(some):
                continue
            judged = self._judge(back, prepared, some)
            # where it was not typical before, it must not become less so
            floor = np.minimum(found["log_density"][some], prepared["typical"].cpu().numpy()[some])
            before = np.array([found["held"][name][some] for name in self.run._conditions()], dtype=bool)
            fine = (judged["held"] | ~before.reshape(-1, len(some)).T).all(1) & ~(judged["log_density"] < floor)
            self._write(found, some[fine], back[fine], {name: values[fine] for name, values in judged.items()})
            touched[some[fine]] = True
        return touched
