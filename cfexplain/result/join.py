"""Several results as one: what they have in common is kept, and whether they fit together is checked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from cfexplain.tables.frames import common_columns

__all__ = ["joined_fields"]


def joined_fields(parts: list[Any]) -> dict[str, Any]:
    """Every field of the rows of `parts`, in order; see `Counterfactuals.concatenate`."""
    if not parts:
        raise ValueError("concatenate needs at least one result.")
    columns, carried = common_columns(parts)
    parts = [part if columns is part.metadata.get("columns") else replace(
        part, carried=cells, metadata={**part.metadata, "columns": columns})
        for part, cells in zip(parts, carried, strict=True)]
    first = parts[0]

    def signature(part: Any) -> tuple:
        return (part.x_cf.shape[1:], part.source.dtype.kind, part.target.dtype.kind, part.container, part.path is None,
                tuple(part.row_fields), frozenset(part.conditions))

    for part in parts[1:]:
        if signature(part) != signature(first):
            raise ValueError(
                "These results do not fit together: sample shape, kind of labels, container, path, columns and "
                f"conditions are {signature(first)} in the first and {signature(part)} in another.")
    metadata = {name: value for name, value in first.metadata.items() if name != "single"
                and all(name in part.metadata and part.metadata[name] == value for part in parts)}
    if all("seconds" in part.metadata for part in parts):
        metadata["seconds"] = sum(part.metadata["seconds"] for part in parts)
    return dict(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in first.row_fields},
        conditions={name: np.concatenate([part.conditions[name] for part in parts]) for name in first.conditions},
        path=None if first.path is None else [path for part in parts for path in part.path or ()],
        plans=None if any(part.plans is None for part in parts) else [
            plan for part in parts for plan in part.plans or ()],
        container=first.container, metadata=metadata)
