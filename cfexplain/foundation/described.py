"""An estimator in one line: what of it is not the default."""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

from sklearn.base import BaseEstimator
from torch import nn

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
    changed = [f"{name}={_value(value)}" for name, default in _defaults(type(estimator)).items()  # type: ignore[arg-type]
               if not _is(value := getattr(estimator, name, default), default)]
    return f"{type(estimator).__name__}({', '.join(changed)})"


@functools.cache
def _defaults(cls: type) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)}


def _is(value: Any, default: Any) -> bool:
    plain = isinstance(value, (str, int, float, tuple)) and type(value) is type(default)
    return value is default or (plain and value == default)


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
