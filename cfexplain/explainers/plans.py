"""The changes of a row as an ordered list, with what the explained model says after each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cfexplain.explainers.columns import Columns
from cfexplain.explainers.task import Goal

__all__ = ["MOST", "ORDERS", "plans_of"]

MOST = 12  # columns that a row may have changed to have a plan
ORDERS = ("cheapest", "effective")
_TOGETHER = 2**14  # rows that the model is asked about at once


def plans_of(columns: Columns, X: np.ndarray, x_cf: np.ndarray, goal: Goal, ask: Callable[[np.ndarray, np.ndarray], Any],
             order: str = "cheapest", most: int = MOST) -> list[np.ndarray]:
    """A plan for each row: (changes, 2), the place of each column that changes and what the model says after it.

    Parameters
    ----------
    columns : Columns
    X, x_cf : ndarray of shape (n, width)
    goal : Goal
    ask : callable ``(codes, which) -> answers``
        What the model says of codes in place of the rows `which`, as ``task_.answers`` has it.
    order : {"cheapest", "effective"}
        The cheapest change first; or that which brings the model furthest, after those before it.
    most : int
        A row that changes more columns has no plan: (0, 2).
    """
    def said(codes: np.ndarray, which: np.ndarray) -> np.ndarray:
        """The probability of the target, or the value."""
        answers = ask(codes, which)
        if "low" in goal.rows:
            return np.asarray(answers, dtype=float)
        proba = answers[1]
        target = goal.rows["target"][which]
        return (answers[0] == target).astype(float) if proba is None else np.asarray(proba, dtype=float)[
            np.arange(len(which)), target]

    changed = columns.changed(x_cf, X)
    changed[changed.sum(1) > most] = False
    costs = np.where(changed, columns.costs(x_cf, X), np.inf)
    sequence, count = np.argsort(np.round(costs, 9), axis=1, kind="stable"), changed.sum(1)
    rows = np.repeat(np.arange(len(X)), count)
    step = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    if order == "effective":
        _most_effective_first(columns, X, x_cf, changed, sequence, said, goal)
    # made[i, c]: the column is among the first changes
    place = np.argsort(sequence, axis=1)
    after = np.empty(len(rows))
    for first in range(0, len(rows), _TOGETHER):
        some = slice(first, first + _TOGETHER)
        which, made = rows[some], (place[rows[some]] <= step[some][:, None]) & changed[rows[some]]
        after[some] = said(columns.mixed(x_cf[which], X[which], made), which)
    column = sequence[rows, step].astype(float)
    return np.split(np.column_stack([column, after]), np.cumsum(count)[:-1]) if len(X) else []


def _most_effective_first(columns: Columns, X: np.ndarray, x_cf: np.ndarray, changed: np.ndarray, sequence: np.ndarray,
                          said: Callable, goal: Goal) -> None:
    """Bring `sequence` into the order in which each change brings the model furthest, after those before it."""
    made = np.zeros_like(changed)
    for step in range(int(changed.sum(1).max(initial=0))):
        which, column = np.nonzero(changed & ~made)
        tried = made[which]
        tried[np.arange(len(which)), column] = True
        value = np.round(_worth(said(columns.mixed(x_cf[which], X[which], tried), which), goal, which), 9)
        best = np.lexsort([column, -value, which])
        who, first = np.unique(which[best], return_index=True)
        chosen = column[best[first]]
        made[who, chosen] = True
        # what was there goes to where the chosen one stood
        at = np.argmax(sequence[who] == chosen[:, None], axis=1)
        sequence[who, at], sequence[who, step] = sequence[who, step], chosen




def _worth(said: np.ndarray, goal: Goal, which: np.ndarray) -> np.ndarray:
    """How near what the model says is to what is wanted; larger is better."""
    if "low" not in goal.rows:
        return said
    low, high = goal.rows["low"][which], goal.rows["high"][which]
    gap = np.maximum(np.maximum(low - said, said - high), 0)
    return np.where(np.isposinf(low), said, np.where(np.isneginf(high), -said, -gap))
