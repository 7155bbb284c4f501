"""Rules between columns as text, read without running it: ``hours_part <= hours_total``, ``ratio == debt / income``."""

from __future__ import annotations

import ast
import functools
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Rule", "read_rule"]

_ARITHMETIC: dict[type, Any] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_SIGNS: dict[type, Any] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_COMPARED: dict[type, Any] = {ast.LtE: operator.le, ast.GtE: operator.ge, ast.Lt: operator.lt, ast.Gt: operator.gt,
                              ast.Eq: operator.eq}
_LONGEST = 1000


@dataclass(frozen=True)
class Rule:
    """One rule between columns.

    Attributes
    ----------
    text : str
        As it was given.
    sides : tuple of ast.expr
        a, b, … of ``a <= b <= …``.
    compared : tuple of type
        The operators between them.
    names : Mapping of str to str
        Columns by the names that they have in `sides`.
    follows : str, optional
        The column that an equality makes of the others.
    """

    text: str
    sides: tuple[ast.expr, ...]
    compared: tuple[type, ...]
    names: Mapping[str, str]
    follows: str | None = None

    @property
    def columns(self) -> list[str]:
        """Those that it names."""
        return list(dict.fromkeys(self.names[node.id] for side in self.sides for node in ast.walk(side)
                                  if isinstance(node, ast.Name)))

    @property
    def made_of(self) -> ast.expr:
        """What an equality makes its column of."""
        first = self.sides[0]
        return self.sides[1] if isinstance(first, ast.Name) and self.names[first.id] == self.follows else first

    def value(self, side: ast.expr, cells: Mapping[str, Any]) -> Any:
        """What a side is, of the columns in `cells`."""
        if isinstance(side, ast.Constant):
            return side.value
        if isinstance(side, ast.Name):
            return cells[self.names[side.id]]
        if isinstance(side, ast.UnaryOp):
            return _SIGNS[type(side.op)](self.value(side.operand, cells))
        assert isinstance(side, ast.BinOp)
        return _ARITHMETIC[type(side.op)](self.value(side.left, cells), self.value(side.right, cells))

    def holds(self, cells: Mapping[str, Any]) -> Any:
        """Whether it holds, of each row."""
        values = [self.value(side, cells) for side in self.sides]
        met = [_COMPARED[how](a, b) for how, a, b in zip(self.compared, values, values[1:], strict=False)]
        return functools.reduce(operator.and_, met)

    def linear(self) -> list[tuple[dict[str, float], float, bool]] | None:
        """Rows of Σ coefficient · column <= or == constant: coefficients, constant, whether equal; None if not linear."""
        rows = []
        for how, a, b in zip(self.compared, self.sides, self.sides[1:], strict=False):
            left, right = self._linear(a), self._linear(b)
            if left is None or right is None:
                return None
            sign = -1.0 if how in (ast.GtE, ast.Gt) else 1.0
            names = {*left[0], *right[0]}
            rows.append(({name: sign * (left[0].get(name, 0.0) - right[0].get(name, 0.0)) for name in names},
                         sign * (right[1] - left[1]), how is ast.Eq))
        return rows

    def _linear(self, side: ast.expr) -> tuple[dict[str, float], float] | None:
        if isinstance(side, ast.Constant):
            return {}, float(side.value)  # type: ignore[arg-type]
        if isinstance(side, ast.Name):
            return {self.names[side.id]: 1.0}, 0.0
        if isinstance(side, ast.UnaryOp):
            inner = self._linear(side.operand)
            sign = -1.0 if isinstance(side.op, ast.USub) else 1.0
            return inner and ({name: sign * k for name, k in inner[0].items()}, sign * inner[1])
        assert isinstance(side, ast.BinOp)
        left, right = self._linear(side.left), self._linear(side.right)
        if left is None or right is None:
            return None
        if isinstance(side.op, (ast.Add, ast.Sub)):
            sign = 1.0 if isinstance(side.op, ast.Add) else -1.0
            return ({name: left[0].get(name, 0.0) + sign * right[0].get(name, 0.0) for name in {*left[0], *right[0]}},
                    left[1] + sign * right[1])
        if isinstance(side.op, ast.Mult) and not (left[0] and right[0]):
            scaled, by = (left, right[1]) if left[0] else (right, left[1])
            return {name: k * by for name, k in scaled[0].items()}, scaled[1] * by
        if isinstance(side.op, ast.Div) and not right[0] and right[1]:
            return {name: k / right[1] for name, k in left[0].items()}, left[1] / right[1]
        return None


def read_rule(text: Any, columns: Sequence[str]) -> Rule:
    """The rule that `text` says of `columns`.

    Names that are no words of Python stand in backticks: ``"`hours per week` <= 40"``. Nothing of it is run.

    Raises
    ------
    TypeError, ValueError
        It is no text, names no column, or says something else than comparisons of sums, products and ratios.

    Examples
    --------
    >>> rule = read_rule("part <= 0.5 * `whole day`", ["part", "whole day"])
    >>> rule.holds({"part": np.array([3.0, 9.0]), "whole day": np.array([8.0, 8.0])}).tolist()
    [True, False]
    >>> read_rule("__import__('os')", ["a"])
    Traceback (most recent call last):
    ValueError: The rule "__import__('os')" must compare columns, for example 'part <= whole' or 'ratio == debt / income'.
    """
    if not isinstance(text, str):
        raise TypeError(f"constraints hold {text!r}; expected texts such as 'part <= whole'.")
    quoted: dict[str, str] = {}

    def plain(found: re.Match) -> str:
        quoted[f"column_{len(quoted)}_"] = found.group(1)
        return f" {list(quoted)[-1]} "

    wrong = f"The rule {text!r} must compare columns, for example 'part <= whole' or 'ratio == debt / income'."
    try:
        parsed = ast.parse(re.sub(r"`([^`]*)`", plain, text[:_LONGEST]).strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"{wrong} Names that are no single word stand in backticks: '`hours per week` <= 40'.") from None
    if not isinstance(parsed, ast.Compare) or not all(type(how) in _COMPARED for how in parsed.ops) or len(text) > _LONGEST:
        raise ValueError(wrong)
    sides, names = (parsed.left, *parsed.comparators), {}
    for side in sides:
        for node in ast.walk(side):
            if isinstance(node, ast.Name):
                name = quoted.get(node.id, node.id)
                if name not in columns:
                    raise ValueError(f"The rule {text!r} names the column {name!r}, but the columns of numbers are "
                                     f"{list(columns)}.")
                names[node.id] = name
            elif isinstance(node, ast.Constant):
                if isinstance(node.value, bool) or not isinstance(node.value, (int, float)) or not np.isfinite(node.value):
                    raise ValueError(f"The rule {text!r} holds {node.value!r}; expected numbers.")
            elif not (isinstance(node, (ast.BinOp, ast.UnaryOp, ast.Load, *_ARITHMETIC, *_SIGNS))
                      and type(getattr(node, "op", ast.Add())) in (*_ARITHMETIC, *_SIGNS)):
                raise ValueError(f"The rule {text!r} holds {type(node).__name__}; expected sums, differences, products and "
                                 "ratios of columns and numbers.")
    if not names:
        raise ValueError(wrong)
    compared = tuple(type(how) for how in parsed.ops)
    follows = None
    if ast.Eq in compared:
        alone = [names[side.id] for side in sides if isinstance(side, ast.Name)]
        if len(compared) > 1 or not alone:
            raise ValueError(f"The rule {text!r} must have one column alone on a side: an equality makes that column of the "
                             "others.")
        follows = alone[0]
        other = sides[1] if isinstance(sides[0], ast.Name) and names[sides[0].id] == follows else sides[0]
        if any(isinstance(node, ast.Name) and names[node.id] == follows for node in ast.walk(other)):
            raise ValueError(f"The rule {text!r} makes {follows!r} of itself.")
    return Rule(text, sides, compared, names, follows)
