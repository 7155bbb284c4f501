"""How rows of a table are explained: few columns are scanned, the search has what is left, and all end on the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cfexplain.explainers.column_rules import column_names_of, read_costs
from cfexplain.explainers.columns import Columns
from cfexplain.explainers.fewer import Fewer
from cfexplain.explainers.found import Found
from cfexplain.explainers.neighbourhood import Neighbourhood
from cfexplain.explainers.real_values import RealValues
from cfexplain.explainers.repair import Repair
from cfexplain.explainers.scan import Answers, Scan
from cfexplain.explainers.shape import Shape
from cfexplain.explainers.task import Goal
from cfexplain.explainers.verdict import Verdict

__all__ = ["Table", "TableRun"]


@dataclass
class Table:
    """What is known of a table; ``table[rows]`` for some of the rows that are explained.

    Attributes
    ----------
    columns : Columns
    real, answers : ndarray of shape (m, width), (m,)
        Training rows, and the class indices, or values, that the model gives them.
    around : Neighbourhood
        Those rows as candidates see them.
    sparse : bool
        Change few columns.
    most : int, optional
        Columns that may change at most.
    ask : callable ``(rows, which) -> answers``, with ``ask[rows]``, optional
        What the model says of rows in place of the rows `which` of those that are explained; by default the explainer's own
        classifier is asked.
    """

    columns: Columns
    real: np.ndarray
    answers: np.ndarray
    around: Neighbourhood
    sparse: bool = True
    most: int | None = None
    ask: Any = None

    def __getitem__(self, rows: Any) -> Table:
        return self if self.ask is None else replace(self, ask=self.ask[rows])

    @classmethod
    def of(cls, explainer: Any) -> Table | None:
        """Of a plain explainer; None where rows are images, or end as the search leaves them."""
        sparse = explainer.changes_few()
        if explainer.layout_.is_image or not explainer.coordinates_.encodes_at_once or not (
                sparse or explainer.classifier_.is_surrogate):
            return None
        real, answers = getattr(explainer, "real_rows_", None), getattr(explainer, "real_answers_", None)
        if real is None or answers is None:  # a file of an earlier version
            real, answers = np.empty((0, len(explainer.scale_)), dtype=explainer.dtype_), np.zeros(0)
        columns = Columns.of_numbers(real, explainer.scale_, explainer.column_rules_, names=column_names_of(explainer),
                                     prices=read_costs(explainer, explainer.scale_))
        classes = 0 if explainer.is_regression else len(explainer.classes_)
        around = Neighbourhood.of(explainer, columns, real, answers, classes)
        return cls(columns, real, answers, around, sparse, explainer.max_changes)

    def run(self, run: Any, X: np.ndarray, goal: Goal, prepared: dict[str, Any]) -> TableRun:
        """Begin with some rows, of which the search knows what is `prepared`: scan those that move."""
        return TableRun(self, Verdict(run, X, goal, prepared, self.ask))


class TableRun:
    """Some rows of a table on their way.

    Attributes
    ----------
    answered : ndarray of bool, shape (n,)
        Rows that the scan has answered, so that no search is needed.
    """

    def __init__(self, table: Table, verdict: Verdict):
        self.table, self.verdict = table, verdict
        # of what has no end to reach, nothing is few
        self.rows = np.flatnonzero(verdict.goal.moving & ~verdict.goal.unbounded)
        self.answered = np.zeros(len(verdict.X), dtype=bool)
        shape = Shape(verdict, table.real, table.answers)
        values = RealValues(verdict, table.columns, table.real, table.answers)
        self.scan = Scan(verdict, table.columns, shape, values, table.around, table.most) if table.sparse else None
        if self.scan is not None and verdict.run.k > 1:
            self.scan.kept = []
        self.answers: Answers | None = None if self.scan is None else self.scan(self.rows)
        if self.answers is not None:
            self.answered[self.rows[self.answers.complete]] = True

    def end(self, found: Found, searched: bool = True) -> None:
        """Change `found`, what the search found, in place: what was scanned, and the others on the model itself.

        `searched` says whether the search came to its end.
        """
        verdict, came, rows = self.verdict, found.x_cf.copy(), self.rows
        self._write(found, self.answered[rows])
        left = rows[~self.answered[rows]]
        if verdict.run.deadline.passed:  # what was scanned is the best effort
            self._write(found, ~self.answered[rows] & (False if self.answers is None else self.answers.valid))
        elif searched and len(left):
            valid = self._repaired(verdict, found, left)
            if self.table.sparse:
                self._rescan(found, left[valid[left]])
                Fewer(verdict, self.table.columns)(found, left[valid[left]])
                self._fall_back(found, valid, left)
        if verdict.run.deadline.passed:
            found.late[left] = True
        self.charge(found)
        changed = np.flatnonzero((found.x_cf != came).any(1))
        found.n_steps[changed] += 1  # one more, of another kind, which the path has, too
        if found.path is not None:
            for i in changed:
                found.path[i] = np.concatenate([found.path[i], found.z[i : i + 1]])

    def charge(self, found: Found) -> None:
        """Say what the changes that were found cost, column by column."""
        columns, X = self.table.columns, self.verdict.X
        found.costs = np.where(columns.acted(found.x_cf, X), columns.costs(found.x_cf, X), 0.0)

    def settle(self, verdict: Verdict, found: Found) -> np.ndarray:
        """End other answers, for the rows of `verdict`, on the model itself; which of them it accepts, bool (n,).

        In all their columns: what few columns can do has been scanned, and fewer would make one answer of several.
        """
        rows = np.flatnonzero(verdict.goal.moving & ~verdict.goal.unbounded)
        valid = self._repaired(verdict, found, rows)
        if verdict.run.deadline.passed:
            found.late[rows] = True
        return valid

    def _repaired(self, verdict: Verdict, found: Found, rows: np.ndarray) -> np.ndarray:
        """Rows on the explained model itself; which of them it accepts, bool (n,)."""
        # what was found may not be what its codes decode to: the row counts
        verdict.write(found, rows, found.x_cf[rows], verdict.judge(found.x_cf[rows], rows))
        valid = np.zeros(len(verdict.X), dtype=bool)
        valid[rows] = verdict.gap(found.x_cf[rows], rows) == 0
        Repair(verdict, self.table.columns, self.table.real, self.table.answers)(found, valid, rows)
        return valid

    def _rescan(self, found: Found, rows: np.ndarray) -> None:
        """Scan rows again, with the values that the search found."""
        assert self.scan is not None
        rows = rows[self.table.columns.changed(found.x_cf[rows], self.verdict.X[rows]).sum(1) > 1]
        answers = self.scan(rows, also=found.x_cf[rows])
        cheaper = self.scan.cost(answers.x_cf, rows) < self.scan.cost(found.x_cf[rows], rows)
        better = np.flatnonzero(answers.complete & cheaper)
        self.verdict.write(found, rows[better], answers.x_cf[better], answers.judged[better])

    def _write(self, found: Found, some: np.ndarray) -> None:
        assert self.answers is not None or not some.any()
        if self.answers is not None:
            self.verdict.write(found, self.rows[some], self.answers.x_cf[some], self.answers.judged[np.flatnonzero(some)])

    def _fall_back(self, found: Found, valid: np.ndarray, left: np.ndarray) -> None:
        """What was scanned, where nothing better was searched: not valid, of more columns than may change, or valid with
        no condition more.
        """
        answers, columns = self.answers, self.table.columns
        assert answers is not None
        place = np.flatnonzero(~self.answered[self.rows])
        met = np.array(list(found.conditions.values())).reshape(-1, len(found.x_cf)).sum(0)[left]
        count = columns.acted(found.x_cf[left], self.verdict.X[left]).sum(1)
        fewer = columns.acted(answers.x_cf[place], self.verdict.X[left]).sum(1) <= count
        worse = ~valid[left] | (fewer & (answers.judged.conditions[place].sum(1) >= met))
        take = answers.valid[place] & worse
        if self.table.most is not None:
            take |= count > self.table.most
        some = np.zeros(len(self.rows), dtype=bool)
        some[place[take]] = True
        self._write(found, some)

