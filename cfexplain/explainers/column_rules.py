"""The rules that an explainer's parameters say of the columns of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cfexplain.explainers.attributes import ExplainerParameters
from cfexplain.foundation.exceptions import warn_caller
from cfexplain.tables.costs import Costs
from cfexplain.tables.relations import Relations
from cfexplain.tables.rules import ColumnRules

__all__ = ["column_names_of", "read_column_rules", "read_costs", "warn_of_broken_rules"]

_RULES = ("immutable", "bounds", "monotone", "constraints", "causes", "costs", "max_changes")


def column_names_of(explainer: Any) -> list[str]:
    """The columns' names, ``x0``, ``x1``, … where X had none."""
    return [str(name) for name in getattr(explainer, "feature_names_in_", ())] or [
        f"x{i}" for i in range(explainer.n_features_in_)]


def read_column_rules(explainer: ExplainerParameters, X: np.ndarray, within: bool = False) -> ColumnRules | None:
    """What columns may do; `within` says that those without bounds stay in the range of the training rows `X`."""
    given = [name for name in _RULES if getattr(explainer, name) is not None]
    if explainer.layout_.is_image:
        if given:
            raise ValueError(f"{given[0]}= is for the columns of a table, but X holds images.")
        return None
    costs = read_costs(explainer, X.std(0))
    if not (set(given) - {"costs", "max_changes"} or within or np.isinf(costs.prices).any()):
        return None
    names, relations = column_names_of(explainer), None
    if explainer.constraints is not None or explainer.causes is not None:
        described = [{"name": name, "kind": "number"} for name in names]
        relations = Relations(explainer.constraints, explainer.causes, described, X)
    width, known = explainer.n_features_in_, getattr(explainer, "feature_names_in_", None)
    rules = ColumnRules(explainer.immutable, explainer.bounds, width, known, explainer.monotone, relations)
    if within:
        free = np.isinf(ColumnRules(None, dict.fromkeys(explainer.bounds or (), (0, 0)), width, known).low)
        rules.low, rules.high = np.where(free, X.min(0), rules.low), np.where(free, X.max(0), rules.high)
    follows = relations.order if relations else []
    rules.held = rules.held | (np.isinf(costs.prices) & ~np.isin(names, follows))
    return rules


def read_costs(explainer: Any, spread: np.ndarray) -> Costs:
    """What changes cost, of columns with those standard deviations."""
    return Costs(explainer.costs, [{"name": name, "kind": "number", "std": float(std) or 1.0} for name, std in zip(
        column_names_of(explainer), spread, strict=True)])


def warn_of_broken_rules(relations: Relations | None, cells: Mapping[str, np.ndarray], most: int = 3) -> None:
    """Say which rules rows break as they come."""
    unkept = relations.unkept(cells) if relations else {}
    broken = {text: int(wrong.sum()) for text, wrong in unkept.items() if wrong.any()}
    if broken:
        n = len(next(iter(cells.values())))
        told = ", ".join(f"{text!r} ({count} of {n} rows)" for text, count in list(broken.items())[:most])
        told += ", …" if len(broken) > most else ""
        warn_caller(f"Some rows break rules as they come: {told}. Where a counterfactual changes one of a rule's columns, "
                    "the rule holds afterwards; where none changes, it stays broken.")
