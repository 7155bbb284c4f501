"""An `Evaluation` in one file: its results as `Counterfactuals.save` writes them, its values, and its metrics' names."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cfexplain.evaluation.metric import Metric
from cfexplain.foundation.files import check_kind, read_arrays, write_arrays
from cfexplain.result import Counterfactuals

__all__ = ["load", "save"]

_PLAIN = ("n_bootstrap", "confidence_level", "comparable", "_seed")
_OF_METRIC = ("name", "better", "unit", "only_valid", "description", "measured_by", "range")


def save(state: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Write the attributes of an `Evaluation`, as `load` returns them."""
    arrays: dict[str, np.ndarray] = {}
    values, wrong = state["values"], state["_wrong"]
    meta: dict[str, Any] = {
        "kind": "evaluation", "results": {}, **{name: state[name] for name in _PLAIN},
        "metrics": [{key: getattr(metric, key) for key in _OF_METRIC} for metric in state["metrics"].values()],
        "scalars": [[*key, value] for key, value in values.items() if isinstance(value, float)],
        "failures": [[*key, message] for key, message in state["failures"].items()], "wrong": wrong is not None}
    with tempfile.TemporaryDirectory() as folder:
        for k, (name, cf) in enumerate(state["results"].items()):
            cf.save(Path(folder, "part"))
            part, meta["results"][name] = read_arrays(Path(folder, "part"))
            arrays.update({f"{k}/{key}": array for key, array in part.items()})
            arrays.update({f"values/{k}/{j}": values[name, metric] for j, metric in enumerate(state["metrics"])
                           if isinstance(values[name, metric], np.ndarray)})
            if wrong is not None:
                arrays[f"wrong/{k}"] = wrong[name]
    write_arrays(path, arrays, meta)


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Attributes of the `Evaluation` that `save` wrote."""
    arrays, meta = read_arrays(path)
    check_kind(path, meta, "evaluation")
    try:
        return _read(arrays, meta)
    except Exception as error:  # whatever a strange file makes happen, the user's problem is the same
        raise ValueError(f"{os.fspath(path)} is not a whole evaluation: {error}. Nothing was loaded.") from error


def _read(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> dict[str, Any]:
    metrics = {m["name"]: Metric(function=_not_kept, **{**m, "range": m["range"] and tuple(m["range"])})
               for m in meta["metrics"]}
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for k, (name, part) in enumerate(meta["results"].items()):
            own = {key.partition("/")[2]: array for key, array in arrays.items() if key.startswith(f"{k}/")}
            write_arrays(Path(folder, "part"), own, part)
            results[name] = Counterfactuals.load(Path(folder, "part"))
    scalars = {(name, metric): value for name, metric, value in meta["scalars"]}
    return {
        **{name: meta[name] for name in _PLAIN}, "metrics": metrics, "results": results,
        "values": {(name, metric): arrays.get(f"values/{k}/{j}", scalars.get((name, metric)))
                   for j, metric in enumerate(metrics) for k, name in enumerate(results)},
        "failures": {(name, metric): message for name, metric, message in meta["failures"]},
        "_wrong": {name: arrays[f"wrong/{k}"] for k, name in enumerate(results)} if meta["wrong"] else None}


def _not_kept(cf: Counterfactuals, explainer: Any) -> None:
    raise ValueError("This metric comes from a file, which keeps no functions; pass it anew to evaluate().")
