"""Which rule keeps rows of a table from their target: each is left out in turn, and the rows are scanned again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from cfexplain.explainers.column_rules import read_column_rules
from cfexplain.explainers.run import Run
from cfexplain.explainers.table import Table
from cfexplain.explainers.task import Goal
from cfexplain.foundation.exceptions import warn_caller
from cfexplain.foundation.in_words import count_rows

__all__ = ["ROWS", "binding_of_explainer", "binding_rules", "scanned"]

ROWS, RULES = 8, 24  # that are tried at most
_BY_COLUMN = ("immutable", "bounds", "monotone", "transitions", "constraints")


def _without(rules: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each rule in words, and the rules without it."""
    if rules.get("max_changes") is not None:
        yield f"max_changes={rules['max_changes']}", {**rules, "max_changes": None}
    for name in _BY_COLUMN:
        given: Any = rules.get(name) or ()
        given = [given] if isinstance(given, (str, int)) else given
        for key in list(given):
            left = {k: v for k, v in given.items() if k != key} if isinstance(given, Mapping) else [
                k for k in given if k != key]
            words = f"the rule {key!r}" if name == "constraints" else f"{name} for {key!r}"
            yield words, {**rules, name: left or None}
    for key, price in (rules.get("costs") or {}).items():
        if price == np.inf:
            yield f"the infinite cost of {key!r}", {**rules, "costs": {k: v for k, v in rules["costs"].items() if k != key}}


def binding_rules(rules: Mapping[str, Any], scan: Callable[[dict[str, Any]], np.ndarray], n: int) -> dict[str, int]:
    """How many of `n` rows that were not found have an answer without each rule, which `scan` of the rules left says.

    A warning says so, too.
    """
    found = {}
    for words, left in list(_without(rules))[:RULES]:
        try:
            count = int(scan(left).sum())
        except ValueError:  # rules that need each other
            continue
        if count:
            found[words] = count
    if found:
        told = ", ".join(f"{count} without {words}" for words, count in found.items())
        warn_caller(f"There is no answer for {count_rows(n)} within the rules. There would be one for {told}.")
    elif any(True for _ in _without(rules)):
        warn_caller(f"There is no answer for {count_rows(n)} within the rules, and no single one of the rules is "
                    "what keeps it from being found.")
    return found


def scanned(explainer: Any, table: Table, X: np.ndarray, goal: Goal) -> np.ndarray:
    """Which rows the scan finds something for that the model accepts, bool (n,)."""
    run = Run(explainer)
    with explainer.classifier_.frozen():
        work = table.run(run, X, goal, run.prepare(X, goal)[0])
    out = np.zeros(len(X), dtype=bool)
    if work.answers is not None:
        out[work.rows] = work.answers.valid
    return out


def binding_of_explainer(explainer: Any, X: np.ndarray, goal: Goal, missed: np.ndarray) -> dict[str, int]:
    """`binding_rules` of a plain explainer, for the rows `missed` (bool) of `X`."""
    names = ("max_changes", "immutable", "bounds", "monotone", "constraints", "causes", "costs")
    rules = {name: getattr(explainer, name) for name in names}
    real = getattr(explainer, "real_rows_", None)
    if explainer.layout_.is_image or real is None or not explainer.changes_few() or not any(True for _ in _without(rules)):
        return {}
    rows = np.flatnonzero(missed)[:ROWS]

    def scan(left: dict[str, Any]) -> np.ndarray:
        freed = copy.copy(explainer)
        for name, rule in left.items():
            setattr(freed, name, rule)
        freed.column_rules_ = read_column_rules(freed, real, within=explainer.is_regression)
        table = Table.of(freed)
        return np.zeros(len(rows), dtype=bool) if table is None else scanned(freed, table, X[rows], goal[rows])

    return binding_rules(rules, scan, len(rows))
