"""An estimator in one line: what of it is not the default."""

from __future__ import annotations

import re
from typing import Any

from sklearn.base import BaseEstimator
from torch import nn

from cfexplain.foundation.parameters import changed

__all__ = ["described"]

_LONGEST = 300  # characters of one value


def described(estimator: BaseEstimator) -> str:
    """Its class, and its parameters that are not the defaults; of networks the class alone, of functions the name.

    scikit-learn's ``repr`` prints networks layer by layer and cuts the middle out of what is long, and took longer than a
    step of a search.

    Examples
    --------
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn.linear_model import Ridge
    >>> described(FrozenEstimator(Ridge(alpha=0.5, max_iter=None)))
    'FrozenEstimator(estimator=Ridge(alpha=0.5))'
    """
    parameters = (f"{name}={_value(value)}" for name, value in changed(estimator).items())
    return f"{type(estimator).__name__}({', '.join(parameters)})"


def _value(value: Any) -> str:
    if isinstance(value, nn.Module):
        return type(value).__name__
    if isinstance(value, BaseEstimator):
        return described(value)
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    # the repr of an object without its own contains its address
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
