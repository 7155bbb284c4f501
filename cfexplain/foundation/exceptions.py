"""What can go wrong, in types that code can catch: each inherits the built-in error that it refines."""

from __future__ import annotations

from sklearn.exceptions import ConvergenceWarning, NotFittedError

__all__ = ["ClassifierOutputError", "ConvergenceWarning", "DataRangeError", "NotFittedError", "StoreError",
           "TargetError"]


class DataRangeError(ValueError):
    """Image values (or their dtype) do not fit the declared ``data_range``."""


class StoreError(ValueError):
    """A folder of results holds something else, is damaged or not finished, or is in use."""


class TargetError(ValueError):
    """The wanted target is not a class of the explained classifier, or does not fit the rows."""


class ClassifierOutputError(ValueError):
    """The explained classifier returns something that cannot be read as class scores."""
