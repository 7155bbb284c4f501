"""A result in one file: its arrays row by row, lists of unequal length one after the other, and the rest as JSON."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from cfexplain.foundation.files import check_kind, read_arrays, write_arrays

__all__ = ["read_result", "write_result"]

_RAGGED = {"path": "points", "plans": "steps"}  # fields with an array for each row, and what those hold


def write_result(cf: Any, path: str | os.PathLike) -> None:
    """See `Counterfactuals.save`."""
    arrays = {name: getattr(cf, name) for name in cf.row_fields}
    arrays.update({f"conditions/{name}": met for name, met in cf.conditions.items()})
    for (name, what), none in zip(_RAGGED.items(), (cf.z[:0], np.zeros((0, 2))), strict=True):
        lists = getattr(cf, name)
        if lists is not None:  # all one after another, and the end of each
            arrays[f"{name}/{what}"] = np.concatenate([none, *lists])
            arrays[f"{name}/ends"] = np.cumsum([len(own) for own in lists], dtype=np.int64)
    meta = {"kind": "counterfactuals", "container": cf.container, "conditions": list(cf.conditions), "metadata": cf.metadata}
    try:
        write_arrays(path, arrays, meta)
    except TypeError as error:
        raise TypeError(
            f"{error} Nothing was written. Make it text before you explain (of an index: X.index = X.index.astype(str)) "
            "or leave it out: dataclasses.replace(cf, index=None).save(path).") from error


def read_result(cls: Any, path: str | os.PathLike) -> Any:
    """See `Counterfactuals.load`; `cls` is what is made of the file."""
    arrays, meta = read_arrays(path)
    check_kind(path, meta, "counterfactuals")
    try:
        conditions = {name: arrays.pop(f"conditions/{name}") for name in meta["conditions"]}
        ragged = {name: np.split(arrays.pop(f"{name}/{what}"), arrays.pop(f"{name}/ends"))[:-1]
                  for name, what in _RAGGED.items() if f"{name}/ends" in arrays}
        cf = cls(**ragged, **arrays, conditions=conditions, container=meta["container"], metadata=meta["metadata"])
        _check_read(cf)
        return cf
    except Exception as error:  # whatever a strange file makes happen, the user's problem is the same
        raise ValueError(f"{os.fspath(path)} is not a whole result: {error}.") from error


def _check_read(cf: Any) -> None:
    """Raise ValueError where something else than a result has been read."""
    wide = {"x", "x_cf", "reconstruction", "z", "z_cf", "costs", "carried", "region"}
    for name in (*cf.row_fields, *cf.conditions):
        array = cf.conditions[name] if name in cf.conditions else getattr(cf, name)
        flags = name in cf.conditions or name in ("valid", "surrogate_valid", "second_opinion", "region")
        whole = name in ("row", "answer")
        free = name in ("source", "target", "prediction", "status", "index", "carried")
        if (array.ndim < 2 if name in wide else array.ndim != 1) or not (
                free or array.dtype.kind in ("iu" if whole else "b" if flags else "f" if name in wide else "iuf")):
            raise ValueError(f"{name} of shape {array.shape} and dtype {array.dtype}")
    for plan in cf.plans or ():
        if plan.ndim != 2 or plan.shape[1] != 2 or not np.isin(plan[:, 0], range(len(cf.feature_names))).all():
            raise ValueError(f"a plan of shape {plan.shape}")
    if not isinstance(cf.metadata, dict):
        raise ValueError("no metadata")
