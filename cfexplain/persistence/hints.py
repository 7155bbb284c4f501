"""Whether the parameters of a constructor are of the types that it declares."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

__all__ = ["check_parameters", "fits", "parameter_names"]


def parameter_names(cls: type) -> list[str]:
    """Of the constructor, without ``self``."""
    return list(inspect.signature(cls).parameters)


def check_parameters(cls: type, parameters: Mapping[str, Any]) -> None:
    """Raise TypeError for the first of `parameters` that is not of the type that the constructor of `cls` declares.

    >>> from cfexplain import PLACEExplainer
    >>> check_parameters(PLACEExplainer, {"max_steps": 10, "confidence": 0.9})
    >>> check_parameters(PLACEExplainer, {"max_steps": "many"})
    Traceback (most recent call last):
    ...
    TypeError: PLACEExplainer's max_steps='many' is no int
    """
    # a dataclass declares its parameters as fields, each in the module of its own class
    hints = typing.get_type_hints(cls if dataclasses.is_dataclass(cls) else cls.__init__)
    for name, value in parameters.items():
        if not fits(value, hints[name]):
            declared = getattr(hints[name], "__name__", None) or str(hints[name])
            shown = repr(value)
            raise TypeError(f"{cls.__name__}'s {name}={shown if len(shown) < 80 else shown[:80] + '…'} is no {declared}")


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` is what `hint` says, as generously as people write parameters: a list for a tuple, 100.0 for 100."""
    if hint is Any:
        return True
    if hint is None or hint is type(None):
        return value is None
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if hint is bool:
        return isinstance(value, (bool, np.bool_))
    if hint is int:
        return isinstance(value, (numbers.Integral, np.bool_)) or (isinstance(value, numbers.Real) and value == int(value))
    if hint is float:
        return isinstance(value, (numbers.Real, np.bool_))
    if hint is str:  # a device is one, too
        return isinstance(value, (str, torch.device))
    if (origin or hint) is collections.abc.Callable:
        return callable(value)
    if (origin or hint) in (tuple, list):
        if not isinstance(value, (tuple, list, np.ndarray)):
            return False
        if not parts:
            return True
        each = [parts[0]] * len(value) if (origin or hint) is list or parts[-1] is Ellipsis else list(parts)
        return len(each) == len(value) and all(fits(v, part) for v, part in zip(value, each, strict=True))
    return isinstance(value, origin or hint)
