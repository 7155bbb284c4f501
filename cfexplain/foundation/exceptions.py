"""What can go wrong, in types that code can catch: each inherits the built-in error that it refines."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from cfexplain.foundation.in_words import count_rows

__all__ = ["ClassifierOutputError", "ConvergenceWarning", "DataRangeError", "NotFittedError", "StoreError",
           "TargetError", "plain", "warn_caller", "warn_of_statuses"]


class DataRangeError(ValueError):
    """Image values (or their dtype) do not fit the declared ``data_range``."""


class StoreError(ValueError):
    """A folder of results holds something else, is damaged or not finished, or is in use."""


class TargetError(ValueError):
    """The wanted target is not a class of the explained classifier, or does not fit the rows."""


class ClassifierOutputError(ValueError):
    """The explained classifier returns something that cannot be read as class scores."""


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, and show the line outside the package from which it was called, however deep the call went."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("cfexplain", "contextlib"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def warn_of_statuses(statuses: Mapping[str, int], max_steps: Any) -> None:
    """Warn once of each thing that `statuses`, how many rows have each, say went wrong."""
    count, n = Counter(statuses), sum(statuses.values())
    rows = count_rows(n)
    if count["model_failed"]:
        every = " That is every row: is X scaled as in the model's training?" if count["model_failed"] == n else ""
        warn_caller(f"The explained model gives NaN or infinity for {count['model_failed']} of {rows}: status "
                    f"'model_failed', not valid.{every}", ConvergenceWarning)
    told = [f"{count['not_found']} did not reach their target"] * (count["not_found"] > 0) + [
        f"{count['step_budget']} reached it without meeting every condition within max_steps={max_steps}"] * (
            count["step_budget"] > 0)
    if told:
        what = f"Of {rows} {' and '.join(told)}. Their" if n > 1 else (
            f"The row {told[0].removeprefix('1 ').replace('their', 'its')}. Its")
        warn_caller(f"{what} best effort is kept; see `status`.", ConvergenceWarning)
    if count["repeated"]:
        warn_caller(f"{count['repeated']} of {n} answers only repeat another: no more were found, status 'repeated', not "
                    "valid.", ConvergenceWarning)
    if count["time_limit"]:
        warn_caller(f"Not finished within time_limit: {count['time_limit']} of {rows}, status 'time_limit'. Their "
                    "best effort is kept.", ConvergenceWarning)
    if count["implausible"]:
        warn_caller(f"The target is reached only outside the data for {count['implausible']} of {rows}: nobody knows what "
                    "the model's answer is worth there, status 'implausible'. Ask for a value that the data have.",
                    ConvergenceWarning)


def plain(value: Any) -> Any:
    """`value` as a message shows it: NumPy's numbers and texts as Python's own, also inside tuples, lists and dicts.

    >>> plain((np.float64(25.0), [np.str_("a")], {np.int64(1): None}))
    (25.0, ['a'], {1: None})
    """
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (tuple, list):
        return type(value)(map(plain, value))
    return {plain(key): plain(held) for key, held in value.items()} if type(value) is dict else value
