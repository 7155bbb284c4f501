"""At ``fit``: does a model that the user brings agree with y, and with itself when it is asked twice?"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom, spearmanr

from cfexplain.classifiers.labels import show
from cfexplain.foundation.exceptions import ClassifierOutputError, warn_caller

__all__ = ["check_agreement", "check_direction", "check_repeats", "spread_rows"]

_ROWS, _ROWS_A_CLASS = 256, 20
_REPEATED = 16
_SAME = 1e-4  # of a probability, or of the spread of values: far above rounding, far below what dropout does
_SURE, _ALARM = 1e-6, 1e-3
_ANOTHER_ORDER = 0.8  # agreement in another order that is no accident; a network that was never trained reaches less
_NEAR_CHANCE = 0.2  # of the way from chance to full agreement


def spread_rows(n: int, classes: int = 1) -> np.ndarray:
    """Places of a few of `n` rows, evenly spread, more of them for many classes."""
    return np.unique(np.linspace(0, n - 1, min(n, max(_ROWS, _ROWS_A_CLASS * classes))).astype(int))


def check_agreement(predicted: np.ndarray, given: np.ndarray, classes: np.ndarray, name: str = "The classifier") -> None:
    """Refuse a classifier that agrees with y less than by chance, and warn of one that knows little of y.

    Chance is the agreement e of predictions and labels with these frequencies that have nothing to do with each other.
    The tests are exact and binomial:

    - below chance, an error: P(Bin(n, e) ≤ agreements) < 1e-6;
    - another order, an error where 80 % of all rows or more agree in it, else a warning: some classes, predicted no better
      than by chance, are each other in another order, the best of all K!, in which they agree beyond doubt:
      K! · P(Bin(n, e′) ≥ agreements) < 1e-6;
    - near chance, a warning: less than a fifth of the way from e to full agreement,
      P(Bin(n, e + (1 − e) / 5) ≤ agreements) < 1e-3.

    A few rows, noise in y, rare classes, and a model that prefers a class, because it is rare or dear, pass; y that are the
    model's own predictions agree with it.

    Parameters
    ----------
    predicted, given : ndarray of int, shape (n,)
        Class indices; -1 in rows that the model has no answer for.
    classes : ndarray of shape (K,)

    Raises
    ------
    ClassifierOutputError

    Warns
    -----
    UserWarning
    """
    known = (predicted >= 0) & (given >= 0)
    predicted, given, count = predicted[known], given[known], len(classes)
    n = len(given)
    if not n:
        return
    table = np.zeros((count, count))
    np.add.at(table, (predicted, given), 1)
    chance = np.outer(table.sum(1), table.sum(0)) / n
    agreed, expected = int(np.trace(table)), np.trace(chance) / n
    order = linear_sum_assignment(table - chance, maximize=True)[1]
    other = any(_is_another_order(table, chance, cycle, order) for cycle in _cycles(order))
    share, better = table[np.arange(count), order].sum() / n, ""
    if other:
        better = f" Read in the order {show(np.asarray(classes)[order])} they would agree on {share:.0%}."
    said = f"{name} agrees with y on {agreed / n:.0%} of {n} rows"
    reordered = (f"its outputs seem to be in another order than the sorted labels {show(classes)}, or y are not the labels "
                 "that it was trained on. Output column k stands for the k-th label in sorted order."
                 f"{better} Pass y in labels whose order is that of the outputs, or put the outputs in order; if both are "
                 "as they should be, pass what the classifier says of X as y.")
    if binom.cdf(agreed, n, expected) < _SURE or (other and share >= _ANOTHER_ORDER):
        raise ClassifierOutputError(f"{said}, where chance would be {expected:.0%}: {reordered}")
    if other:
        warn_caller(f"{said}: {reordered}", UserWarning)
    elif binom.cdf(agreed, n, expected + _NEAR_CHANCE * (1 - expected)) < _ALARM:
        warn_caller(
            f"{said}, which is little more than chance, {expected:.0%}. What is learned of the classes of y will not be "
            "what the classifier goes by: is it trained, is X scaled as in training, and are its outputs in the order "
            f"of the sorted labels {show(classes)}?", UserWarning)


def _cycles(order: np.ndarray) -> list[list[int]]:
    """The classes that change places among themselves."""
    left, cycles = set(np.flatnonzero(order != np.arange(len(order))).tolist()), []
    while left:
        cycle = [left.pop()]
        while (following := int(order[cycle[-1]])) != cycle[0]:
            cycle.append(following)
            left.discard(following)
        cycles.append(cycle)
    return cycles


def _is_another_order(table: np.ndarray, chance: np.ndarray, cycle: list[int], order: np.ndarray) -> bool:
    rows, said = np.array(cycle), int(table[cycle].sum())
    if not said or (table - chance)[rows, rows].sum() > 0:
        return False
    agreed, expected = int(table[rows, order[rows]].sum()), chance[rows, order[rows]].sum() / said
    return bool(binom.logsf(agreed - 1, said, min(expected, 1.0)) + math.lgamma(len(order) + 1) < math.log(_SURE))


def check_direction(values: np.ndarray, y: np.ndarray, name: str = "The regressor") -> None:
    """Warn of a regressor whose values fall where y rises: Spearman's rank correlation is negative with p < 1e-6."""
    known = np.isfinite(values)
    if known.sum() < 3 or np.ptp(values[known]) == 0 or np.ptp(y[known]) == 0:
        return
    found = spearmanr(values[known], y[known])
    if found.statistic < 0 and found.pvalue < _SURE:
        warn_caller(f"{name}'s values fall where y rises (rank correlation {found.statistic:.2f} on {int(known.sum())} "
                      "rows): does it give −y, or was it trained on other rows or other columns than X?", UserWarning)


def check_repeats(ask: Callable[[np.ndarray], np.ndarray], X: np.ndarray, name: str, spread: float = 1.0) -> None:
    """Warn of a model that answers some rows of `X` differently when it is asked again, or in other company.

    Parameters
    ----------
    ask : callable
        Rows to answers (n,) or (n, K); rows that it has no answer for, NaN, are not compared.
    spread : float
        Differences up to 1e-4 of this are rounding.

    Warns
    -----
    UserWarning
    """
    rows, others = X[:_REPEATED], X[_REPEATED : 2 * _REPEATED]

    def apart(one: np.ndarray, other: np.ndarray) -> float:
        difference = np.abs(one.astype(float) - other[: len(one)])
        return float(np.nanmax(difference, initial=0.0)) / (spread or 1.0)

    first = ask(rows)
    again, company = apart(first, ask(rows)), apart(first, ask(np.concatenate([rows, others]))) if len(others) else 0.0
    if again > _SAME:
        warn_caller(
            f"{name} answers differently when it is asked twice: two answers to the same {len(rows)} rows differ by up to "
            f"{again:.2g}. Is dropout always on (F.dropout without training=self.training), or does it draw noise? No "
            "result can be repeated, and `valid` is what it happened to say. Make it deterministic in evaluation mode.",
            UserWarning)
    elif company > _SAME:
        warn_caller(
            f"{name} answers a row differently in other company: its answers to {len(rows)} rows differ by up to "
            f"{company:.2g} when {len(others)} others are beside them. Does it use the statistics of the batch (BatchNorm "
            "with track_running_stats=False, a mean over all rows)? What it says of a row, and `valid`, depend on the rows "
            "beside it. Make it answer each row by itself in evaluation mode.", UserWarning)
