"""Rows of a pipeline, searched within their rules: those of each set of rules together, on what the pipeline itself says."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cfexplain.classifiers.pipeline import PipelineModel
from cfexplain.explainers.base import CounterfactualExplainer
from cfexplain.explainers.binding import scanned
from cfexplain.explainers.columns import Columns
from cfexplain.explainers.found import Found
from cfexplain.explainers.neighbourhood import Neighbourhood
from cfexplain.explainers.table import Table
from cfexplain.explainers.task import Goal
from cfexplain.tables.build import build_frame
from cfexplain.tables.mixed import TableRows
from cfexplain.tables.row_rules import rules_of

__all__ = ["AskedPipeline", "Within", "scan_within", "search_within"]


@dataclass
class Within:
    """What the counterfactuals of one call keep to.

    Attributes
    ----------
    rules : dict
        For columns of all rows, by the names of the parameters.
    own : list of dict
        For cells of each row.
    sparse, max_changes
        As `PipelineExplainer.explain` takes them.
    """

    rules: dict[str, Any]
    own: list[dict[str, Any]]
    sparse: bool
    max_changes: int | None

    @property
    def scans(self) -> bool:
        """Whether columns are scanned for few that are enough."""
        return self.sparse or self.max_changes is not None


@dataclass
class AskedPipeline:
    """What the pipeline itself says of codes in place of `rows`, with what codes do not say of them."""

    model: PipelineModel
    rows: TableRows
    values: bool

    def __getitem__(self, index: Any) -> AskedPipeline:
        return AskedPipeline(self.model, self.rows[index], self.values)

    def __call__(self, codes: np.ndarray, which: np.ndarray) -> Any:
        table, rows = self.model.table, self.rows[which]
        values = rows.completed(table.decode(codes, (rows.codes, rows.values)))
        frame, broken = build_frame(rows.columns, values, rows.carried), rows.broken(values)
        if self.values:
            return np.where(broken, np.nan, self.model.predict_frame(frame))
        predicted, proba = self.model.answers_frame(frame)
        # what breaks a rule is no answer, whatever the model says of it
        return np.where(broken, -1, predicted), None if proba is None else np.where(broken[:, None], 0.0, proba)


def search_within(whole: Any, rows: TableRows, goal: Goal, within: Within, options: dict[str, Any],
                  ) -> tuple[CounterfactualExplainer, Found]:
    """What the fitted `PipelineExplainer` `whole` finds, and by which explainer; `options` are those of its search."""
    parts, places = [], []
    for explainer, place, table in _tables(whole, rows, within):
        some = rows if len(place) == len(rows.codes) else rows[place]
        parts.append(explainer.search(some.codes, goal[place], table=table, **options))
        places.append((place[:, None] * options["k"] + np.arange(options["k"])).reshape(-1))
    return explainer, parts[0] if len(parts) == 1 else Found.concatenate(parts)[np.argsort(np.concatenate(places))]


def scan_within(whole: Any, rows: TableRows, goal: Goal, within: Within) -> np.ndarray:
    """Which rows a scan finds something for, bool (n,)."""
    _, rows.relations, _ = rules_of(whole.table_, whole.table_.decode(whole.codes_), within.rules)
    out = np.zeros(len(rows.codes), dtype=bool)
    for explainer, place, table in _tables(whole, rows, within):
        out[place] = scanned(explainer, table, rows.codes[place], goal[place])
    return out


def _tables(whole: Any, rows: TableRows, within: Within) -> Iterator[tuple[CounterfactualExplainer, np.ndarray, Table]]:
    """For each set of rules, and of columns held because of strange cells: an explainer, the rows, and their table."""
    told = [repr(sorted(own.items())) for own in within.own]
    patterns = np.unique([f"{strange.tobytes()!r}{own}" for strange, own in zip(rows.strange, told, strict=True)],
                         return_inverse=True)[1].reshape(-1)
    values, classes = whole.table_.decode(whole.codes_), 0 if whole.explainer_.is_regression else len(whole.classes_)
    for k in range(patterns.max() + 1):
        place = np.flatnonzero(patterns == k)
        held = [name for name, strange in zip(whole.table_.names, rows.strange[place[0]], strict=True) if strange]
        explainer = copy.copy(whole.explainer_)
        column_rules, _, costs = rules_of(whole.table_, values, within.rules, held, within.own[place[0]])
        explainer.column_rules_ = column_rules
        explainer.sparse, explainer.max_changes = within.sparse, within.max_changes
        columns = Columns.of_mixed(whole.table_, column_rules, whole.codes_, costs)
        around = Neighbourhood.of(whole, columns, whole.codes_, whole.predicted_, classes)
        yield explainer, place, Table(
            columns, whole.codes_, whole.predicted_, around,
            within.scans, within.max_changes, whole.asked_of(rows if len(place) == len(rows.codes) else rows[place]))
