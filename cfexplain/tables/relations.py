"""What columns of a table have to do with each other: rules between them, and effects that follow their causes."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog

from cfexplain.persistence import stored_by_attributes
from cfexplain.tables.expressions import Rule, read_rule

__all__ = ["Relations"]

_BETTER = 0.95  # of the error of a straight line that a curve must have
_SLACK = 1e-9


@functools.lru_cache(maxsize=512)
def _read(text: str, columns: tuple[str, ...]) -> Rule:
    return read_rule(text, columns)


def _fit_each_other(relations: Relations) -> bool:
    return set(relations.models) == set(relations.causes) and len(relations.rules) == len(relations.constraints)


@stored_by_attributes(check=_fit_each_other)
class Relations:
    """Rules between columns and causal models of them.

    Cells are those of the columns by name, in their own units, categories by their positions: NumPy arrays or tensors of
    shape (n,). An equality makes its column of the others, wherever one of these changes. An effect is its cause's linear
    (or quadratic) function plus the row's own noise, and follows it: abduction, action, prediction.

    Parameters
    ----------
    constraints : iterable of str, or None
    causes : mapping of str to list of str, or None
        Cause to effects: ``{"education": ["income"]}``. Effects are numbers.
    columns : list of dict
        ``name``, ``kind`` ("number" or "category"), ``decimals``, and ``categories`` of categories.
    values : ndarray of shape (m, columns)
        Training rows, from which causal models are fitted.

    Examples
    --------
    >>> columns = [{"name": name, "kind": "number"} for name in ("debt", "income", "ratio")]
    >>> relations = Relations(["ratio == debt / income"], None, columns, np.ones((3, 3)))
    >>> before = {"debt": np.array([2.0]), "income": np.array([4.0]), "ratio": np.array([0.5])}
    >>> relations.complete({**before, "debt": np.array([1.0])}, before)["ratio"]
    array([0.25])
    """

    constraints: list[str]
    numbers: list[str]
    causes: dict[str, list[str]]  # of each effect
    kinds: dict[str, int]  # categories of each column; 0 of a number
    decimals: dict[str, int]  # of columns that are rounded
    models: dict[str, np.ndarray]
    order: list[str]  # what follows, causes before effects

    def __init__(self, constraints: Iterable[str] | None, causes: Mapping[str, Any] | None,
                 columns: Sequence[Mapping[str, Any]], values: np.ndarray):
        constraints = [constraints] if isinstance(constraints, str) else list(constraints or ())
        if causes is not None and not isinstance(causes, Mapping):
            raise TypeError(f"causes={causes!r} must be a dict of causes to lists of effects: {{'school': ['wage']}}.")
        self.kinds = {str(column["name"]): len(column.get("categories", ())) for column in columns}
        self.numbers = [str(column["name"]) for column in columns if column["kind"] == "number"]
        self.decimals = {str(column["name"]): column["decimals"] for column in columns if column.get("decimals") is not None}
        self.constraints = [read_rule(text, self.numbers).text for text in constraints]
        self.causes = _read_causes(causes or {}, self.kinds, self.numbers)
        follows = [rule.follows for rule in self.rules if rule.follows]
        twice = [name for name in follows if follows.count(name) > 1 or name in self.causes]
        if twice:
            raise ValueError(f"The column {twice[0]!r} is said to follow twice; leave one of the rules out.")
        made_of = {name: [other for other in rule.columns if other != name] for name, rule in self.equalities.items()}
        self.order = _in_order({**made_of, **self.causes})
        cells = dict(zip(self.kinds, values.T, strict=True))
        self.models = {effect: self._fitted(effect, cells) for effect in self.causes}

    def __bool__(self) -> bool:
        return bool(self.constraints or self.causes)

    @property
    def rules(self) -> list[Rule]:
        return [_read(text, tuple(self.numbers)) for text in self.constraints]

    @property
    def equalities(self) -> dict[str, Rule]:
        """Those rules, by the column that they make."""
        return {rule.follows: rule for rule in self.rules if rule.follows}

    # ----------------------------------------------------------------------- what follows
    def complete(self, cells: Mapping[str, Any], before: Mapping[str, Any], acted: Mapping[str, Any] | None = None,
                 effects: bool = True) -> dict[str, Any]:
        """`cells` with what follows from what changed since `before`; `acted` says on which effects was acted, by row."""
        cells, equalities = dict(cells), self.equalities
        for name in self.order:
            if name in equalities:
                rule = equalities[name]
                with np.errstate(all="ignore"):
                    made = self._rounded(name, rule.value(rule.made_of, cells) + 0 * before[name])
                changed = self._changed(cells, before, [column for column in rule.columns if column != name])
                cells[name] = _where(changed, made, before[name])
            elif effects:
                made = self._rounded(name, before[name] + self.shift(name, cells, before))
                changed = self._changed(cells, before, self.causes[name])
                made = _where(changed, made, before[name])
                cells[name] = made if acted is None else _where(acted[name], cells[name], made)
        return cells

    def broken(self, cells: Mapping[str, Any], before: Mapping[str, Any]) -> Any:
        """Whether a row breaks a rule, of which a column changed, (n,)."""
        out = None
        for rule in self.rules:
            with np.errstate(all="ignore"):
                held = cells[rule.follows] - cells[rule.follows] == 0 if rule.follows else rule.holds(cells)  # finite
            wrong = ~held & self._changed(cells, before, rule.columns)
            out = wrong if out is None else out | wrong
        first = next(iter(cells.values()))
        return first != first if out is None else out

    def unkept(self, cells: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Rows that break each rule, whatever they were before, bool (n,); equalities but for rounding."""
        out = {}
        for rule in self.rules:
            with np.errstate(all="ignore"):
                if rule.follows:
                    made = self._rounded(rule.follows, np.asarray(rule.value(rule.made_of, cells), dtype=float))
                    slack = 1e-6 * np.maximum(np.abs(cells[rule.follows]), 1) + 0.51 * 10.0 ** -self.decimals.get(
                        rule.follows, 12)
                    out[rule.text] = ~(np.abs(cells[rule.follows] - made) <= slack)
                else:
                    out[rule.text] = ~np.asarray(rule.holds(cells))
        return out

    def shift(self, effect: str, cells: Mapping[str, Any], before: Mapping[str, Any]) -> Any:
        """By how much an effect follows its causes."""
        then, now, total = self._features(effect, before), self._features(effect, cells), 0.0
        for weight, a, b in zip(self.models[effect].tolist(), then, now, strict=False):
            total = total + weight * (b - a)
        return total

    def _features(self, effect: str, cells: Mapping[str, Any]) -> list[Any]:
        """Numbers and categories of the causes; then squares and products of the numbers."""
        numbers = [cells[name] for name in self.causes[effect] if not self.kinds[name]]
        flags = [1.0 * (cells[name] == k) for name in self.causes[effect] for k in range(1, self.kinds[name])]
        return [*numbers, *flags, *(a * b for i, a in enumerate(numbers) for b in numbers[i:])]

    def _fitted(self, effect: str, cells: Mapping[str, np.ndarray]) -> np.ndarray:
        """Weights of the features: of a straight line, or of a curve where held-out rows say so."""
        features = np.column_stack(self._features(effect, cells))
        known = np.isfinite(features).all(1) & np.isfinite(cells[effect])
        features, y = features[known], cells[effect][known]
        straight = features.shape[1] - sum(range(1, 1 + sum(not self.kinds[name] for name in self.causes[effect])))
        if len(y) <= straight + 1:
            raise ValueError(f"causes: {len(y)} training rows are too few to learn how {effect!r} follows "
                             f"{self.causes[effect]}.")
        held_out = np.arange(len(y)) % 4 == 0
        error = []
        for width in (straight, features.shape[1]):
            weights = _least_squares(features[~held_out, :width], y[~held_out])
            error.append(np.square(y[held_out] - np.column_stack(
                [features[held_out, :width], np.ones(held_out.sum())]) @ weights).mean())
        width = features.shape[1] if error[1] < _BETTER * error[0] and len(y) > 4 * features.shape[1] else straight
        return _least_squares(features[:, :width], y)[:-1]

    def _rounded(self, name: str, made: Any) -> Any:
        places = self.decimals.get(name)
        if places is None:
            return made
        return torch.round(made, decimals=places) if isinstance(made, torch.Tensor) else np.round(made, places) + 0.0

    @staticmethod
    def _changed(cells: Mapping[str, Any], before: Mapping[str, Any], names: Iterable[str]) -> Any:
        out = None
        for name in names:
            other = (cells[name] != before[name]) & ((cells[name] == cells[name]) | (before[name] == before[name]))
            out = other if out is None else out | other
        return out

    # ---------------------------------------------------------------------------- what is wrong
    def check(self, low: Mapping[str, float], high: Mapping[str, float], held: Iterable[str]) -> None:
        """Raise ValueError where rules contradict each other, or what the columns may be."""
        for name in held:
            if name in self.order:
                how = "a rule makes it of others" if name in self.equalities else "it follows its causes"
                raise ValueError(f"immutable names {name!r}, but {how}. Leave it out of one of the two.")
        rows = [(rule.text, row) for rule in self.rules for row in rule.linear() or ()]
        if rows and not self._feasible([row for _, row in rows], low, high):
            texts = list(dict.fromkeys(text for text, _ in rows))
            for text in list(texts):  # those without which it is still impossible say nothing
                fewer = [row for other, row in rows if other in texts and other != text]
                if len(texts) > 1 and not self._feasible(fewer, low, high):
                    texts.remove(text)
            raise ValueError(f"No row can keep {' and '.join(map(repr, texts))} within the bounds of their columns: they "
                             "contradict each other. Leave one out, or widen bounds=.")

    def _feasible(self, rows: Sequence[tuple[dict[str, float], float, bool]], low: Mapping[str, float],
                  high: Mapping[str, float]) -> bool:
        names = sorted({name for coefficients, *_ in rows for name in coefficients})
        matrix = np.array([[coefficients.get(name, 0.0) for name in names] for coefficients, *_ in rows])
        limit, equal = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
        ends = [tuple(end[name] if np.isfinite(end.get(name, np.inf)) else None for end in (low, high)) for name in names]
        solved = linprog(np.zeros(len(names)), matrix[~equal] if (~equal).any() else None,
                         limit[~equal] + _SLACK if (~equal).any() else None, matrix[equal] if equal.any() else None,
                         limit[equal] if equal.any() else None, ends)
        return solved.status != 2


def _where(condition: Any, a: Any, b: Any) -> Any:
    return torch.where(condition, a, b) if isinstance(condition, torch.Tensor) else np.where(condition, a, b)


def _least_squares(features: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights, and the constant last."""
    mean, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    weights = np.linalg.lstsq((features - mean) / scale, y - y.mean(), rcond=None)[0] / scale
    return np.append(weights, y.mean() - mean @ weights)


def _read_causes(given: Mapping[str, Any], kinds: Mapping[str, int], numbers: Sequence[str]) -> dict[str, list[str]]:
    causes: dict[str, list[str]] = {}
    for cause, effects in given.items():
        for effect in [effects] if isinstance(effects, str) else list(effects):
            for name in (cause, effect):
                if name not in kinds:
                    raise ValueError(f"causes names the column {name!r}, but the columns are {list(kinds)}.")
            if effect not in numbers:
                raise ValueError(f"causes says that {effect!r} follows {cause!r}, but it holds categories: effects must "
                                 "be numbers.")
            causes.setdefault(effect, []).append(cause)
    return causes


def _in_order(made_of: Mapping[str, Sequence[str]]) -> list[str]:
    """What follows, after what it follows; ValueError if it goes in a circle."""
    order: list[str] = []
    left = dict(made_of)
    while left:
        ready = [name for name, others in left.items() if not any(other in left for other in others)]
        if not ready:
            raise ValueError(f"The rules go in a circle: each of {sorted(left)} follows another of them.")
        order += ready
        left = {name: others for name, others in left.items() if name not in ready}
    return order
