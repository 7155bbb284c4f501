"""The types that a class declares, for its attributes and for its constructor, and whether values are of them."""

from __future__ import annotations

import collections.abc
import inspect
import numbers
import sys
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
import torch

__all__ = ["MayBeAbsent", "attribute_types", "check_parameters", "constructor_types", "fits", "may_be_absent",
           "needed_attributes", "parameter_names"]

T = TypeVar("T")
_ABSENT = "may be absent"
MayBeAbsent = Annotated[T, _ABSENT]
"""In the annotation of a fitted attribute: `fit` sets it in some cases only (``classes_: MayBeAbsent[np.ndarray]``)."""


def parameter_names(cls: type) -> list[str]:
    """Of the constructor, without ``self``."""
    return list(inspect.signature(cls).parameters)


def attribute_types(cls: type, above: type = object) -> dict[str, Any]:
    """The annotations of `cls` and of its bases, but for those of `above` and its bases; a subclass's own come first.

    >>> class Fitted:
    ...     scale_: np.ndarray
    ...     classes_: MayBeAbsent[np.ndarray]
    >>> list(attribute_types(Fitted)), needed_attributes(Fitted)
    (['scale_', 'classes_'], ['scale_'])
    """
    hints = _resolved(cls)  # first, since it says which annotation cannot be read
    names = [name for base in reversed(cls.__mro__) if base not in above.__mro__
             for name in inspect.get_annotations(base)]
    return {name: hints[name] for name in names if typing.get_origin(hints[name]) is not ClassVar}


def needed_attributes(cls: type) -> list[str]:
    """Fitted attributes that `cls` or a base annotates, without those that `fit` does not always set."""
    absent = may_be_absent(cls)
    return [name for name in _resolved(cls) if name.endswith("_") and not name.startswith("_") and name not in absent]


def may_be_absent(cls: type) -> set[str]:
    """Attributes that `cls` or a base annotates as `MayBeAbsent`."""
    return {name for name, hint in _resolved(cls, include_extras=True).items()
            if _ABSENT in getattr(hint, "__metadata__", ())}


def constructor_types(cls: type) -> dict[str, Any]:
    """What the constructor's parameters must be; Any where it does not say."""
    names, declared = parameter_names(cls), _resolved(cls)
    if not set(names) <= set(declared):  # not made of annotations by a dataclass
        declared = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    return {name: declared.get(name, Any) for name in names}


def check_parameters(cls: type, parameters: Mapping[str, Any]) -> None:
    """Raise TypeError for the first of `parameters` that is not of the type that the constructor of `cls` declares.

    >>> class Estimator:
    ...     def __init__(self, max_steps: int = 10, confidence: float = 0.9): ...
    >>> check_parameters(Estimator, {"max_steps": 10, "confidence": 0.9})
    >>> check_parameters(Estimator, {"max_steps": "many"})
    Traceback (most recent call last):
    ...
    TypeError: Estimator's max_steps='many' is no int
    """
    hints = constructor_types(cls)
    for name, value in parameters.items():
        if not fits(value, hints[name]):
            declared = hints[name].__name__ if isinstance(hints[name], type) else str(hints[name])
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
        whole = isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral) and float(value).is_integer()
        return whole or isinstance(value, (numbers.Integral, np.bool_))
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


def _resolved(cls: type, include_extras: bool = False) -> dict[str, Any]:
    # Python 3.10 refuses the mark of a dataclass for what it is: no type
    names = {"KW_ONLY": Any} if sys.version_info < (3, 11) else None
    try:
        return typing.get_type_hints(cls, localns=names, include_extras=include_extras)
    except NameError as error:
        raise TypeError(f"An annotation of {cls.__name__} or of a base of it cannot be read: {error}. A storable class is "
                        "annotated with names that its module has when it runs (not under TYPE_CHECKING).") from error
