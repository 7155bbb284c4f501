"""What parameters must be, as tables of rules by name: one check for every class, and one error for every mistake."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from cfexplain.foundation.exceptions import plain

__all__ = ["MOST", "TRAINING", "Choice", "Interval", "Number", "Rule", "Shape", "changed", "check_options",
           "check_parameters"]


class Rule:
    """What a parameter must be."""

    def error(self, value: Any) -> type[Exception] | None:
        """The kind of error that `value` is: TypeError, ValueError, or None."""
        raise NotImplementedError

    def __str__(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class Number(Rule):
    """A finite number from `low` to `high`, or between them.

    >>> print(Number(0, 1, between=True), "|", Number(1, whole=True, words=("auto",)), "|", Number(0, none=True))
    a number strictly between 0 and 1 | a whole number of at least 1 or 'auto' | a number of at least 0 or None
    >>> Number(0).error(float("nan")), Number(0).error("1"), Number(0, whole=True).error(1.5), Number(0).error(2)
    (<class 'ValueError'>, <class 'TypeError'>, <class 'ValueError'>, None)
    """

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    between: bool = False
    none: bool = False
    words: tuple[str, ...] = ()

    def error(self, value: Any) -> type[Exception] | None:
        if value is None or isinstance(value, str):
            return None if (value in self.words if value is not None else self.none) else (
                ValueError if self.words and value is not None else TypeError)
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
            return TypeError
        number: Any = value
        outside = not (self.low < number < self.high) if self.between else not (self.low <= number <= self.high)
        whole = isinstance(value, Integral) or (math.isfinite(value) and float(value).is_integer())
        return ValueError if outside or not math.isfinite(value) or (self.whole and not whole) else None

    def __str__(self) -> str:
        text, low, high = f"{'whole ' * self.whole}number", f"{self.low:,}", f"{self.high:,}"
        if math.isfinite(self.high):
            text = f"a {text} " + (f"strictly between {low} and {high}" if self.between else f"from {low} to {high}")
        elif math.isfinite(self.low):  # 0, where an end is left out
            text = f"positive: a {text} above 0" if self.between else f"a {text} of at least {low}"
        else:
            text = f"a {text}"
        return " or ".join([text, *map(repr, self.words), *["None"] * self.none])


@dataclass(frozen=True)
class Choice(Rule):
    """One of a few words or numbers."""

    among: tuple[Any, ...]

    def error(self, value: Any) -> type[Exception] | None:
        return None if any(value is known or (type(value) is type(known) and value == known) for known in self.among) \
            else ValueError

    def __str__(self) -> str:
        *first, last = map(repr, self.among)
        return f"{', '.join(first)} or {last}" if first else last


@dataclass(frozen=True)
class Interval(Rule):
    """A pair of finite numbers, the first below the second; None, too, if `none`."""

    none: bool = False

    def error(self, value: Any) -> type[Exception] | None:
        if value is None and self.none:
            return None
        if not isinstance(value, (tuple, list, np.ndarray)) or len(value) != 2:
            return ValueError if isinstance(value, (tuple, list, np.ndarray)) else TypeError
        wrong = Number().error(value[0]) or Number().error(value[1])
        return wrong or (None if value[0] < value[1] else ValueError)

    def __str__(self) -> str:
        return "(low, high) with low < high"


@dataclass(frozen=True)
class Shape(Rule):
    """The shape of an image, or None."""

    def error(self, value: Any) -> type[Exception] | None:
        if value is None:
            return None
        if not isinstance(value, (tuple, list)):
            return TypeError
        wrong = [side for side in value if Number(1, whole=True).error(side)]
        return ValueError if wrong or len(value) not in (2, 3) else None

    def __str__(self) -> str:
        return "(C, H, W) or (H, W) of whole numbers of at least 1, or None"


# The largest number of steps that torch counts everywhere
MOST = 2**31 - 1
# Of everything that is trained
TRAINING: Mapping[str, Rule] = {
    "data_range": Interval(), "image_shape": Shape(), "training_budget": Number(0, between=True),
    "batch_size": Number(1, 2**16, whole=True), "lr": Number(0, between=True), "weight_decay": Number(0),
}


def check_parameters(estimator: Any) -> None:
    """Hold the parameters of `estimator` to the ``parameter_rules`` of its class and of its bases; defaults always may be.

    Raises
    ------
    TypeError
        A parameter is of another type than its rule allows.
    ValueError
        It has another value.

    Examples
    --------
    >>> class Estimator:
    ...     parameter_rules = {"lr": TRAINING["lr"], "steps": Number(1, whole=True)}
    ...     def __init__(self, lr=0.1, steps="auto"):
    ...         self.lr, self.steps = lr, steps
    >>> check_parameters(Estimator(steps=3))
    >>> check_parameters(Estimator(lr=-1))
    Traceback (most recent call last):
    ValueError: lr=-1 must be positive: a number above 0.
    """
    rules = {name: rule for cls in reversed(type(estimator).__mro__)
             for name, rule in vars(cls).get("parameter_rules", {}).items()}
    check_options({name: value for name, value in changed(estimator).items() if name in rules}, rules)


def changed(estimator: Any) -> dict[str, Any]:
    """The parameters of `estimator` that are not the defaults of its class, by name.

    >>> class Estimator:
    ...     def __init__(self, lr=0.1, hidden=(8, 8)):
    ...         self.lr, self.hidden = lr, hidden
    >>> changed(Estimator(lr=1, hidden=(8, 8)))
    {'lr': 1}
    """
    return {name: value for name, default in _defaults(estimator.__class__).items()
            if not _same(value := getattr(estimator, name), default)}


@functools.cache
def _defaults(cls: Any) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)}


def check_options(options: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Raise an error that names the first of `options` that breaks its rule; see `check_parameters`."""
    for name, value in options.items():
        wrong = rules[name].error(value)
        if wrong is not None:
            raise wrong(f"{name}={plain(value)!r} must be {rules[name]}.")


def _same(value: Any, default: Any) -> bool:
    if value is default or type(value) is not type(default):
        return value is default
    if isinstance(value, tuple):
        return len(value) == len(default) and all(_same(*pair) for pair in zip(value, default, strict=True))
    return isinstance(value, (str, int, float)) and value == default
