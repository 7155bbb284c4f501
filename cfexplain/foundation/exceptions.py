"""What can go wrong, in types that code can catch: each inherits the built-in error that it refines."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from sklearn.exceptions import ConvergenceWarning, NotFittedError

__all__ = ["ClassifierOutputError", "ConvergenceWarning", "DataRangeError", "NotFittedError", "StoreError",
           "TargetError", "warn_caller", "warn_of_misses"]


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


def warn_of_misses(rows: int, missed: int, short: int, max_steps: Any) -> None:
    """Warn if of `rows` rows some `missed` their target, or fell `short` of a condition."""
    told = [f"{missed} did not reach their target"] * (missed > 0) + [
        f"{short} reached it without meeting every condition within max_steps={max_steps}"] * (short > 0)
    if told:
        warn_caller(f"Of {rows} rows {' and '.join(told)}. Their best effort is kept; see `status`.", ConvergenceWarning)
