"""What was found, judged by the explained model on the very array that is returned; what a result keeps of its explainer."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import sklearn
import torch

from cfexplain.explainers.answers import repeated_answers
from cfexplain.explainers.found import Found
from cfexplain.explainers.real_rows import density_percentile, outside_the_data
from cfexplain.explainers.task import Goal
from cfexplain.foundation.arrays import restore_samples, to_numpy
from cfexplain.foundation.described import described
from cfexplain.foundation.exceptions import warn_of_statuses
from cfexplain.result import Counterfactuals
from cfexplain.tables.build import read_columns

__all__ = ["as_given", "metadata_of", "result_of"]

_version = functools.cache(version)  # which reads a file


def result_of(explainer: Any, X: np.ndarray, goal: Goal, found: Found, answers: Any, container: str, seconds: float | None,
              k: int) -> Counterfactuals:
    """See `CounterfactualExplainer.result`."""
    x_cf, layout = np.ascontiguousarray(found.x_cf), explainer.layout_
    answers = explainer.task_.answers(explainer.classifier_, x_cf) if answers is None else answers
    judged: dict[str, Any] = explainer.task_.judge(answers, goal)
    failed = goal.failed | explainer.task_.failed(answers)
    judged["valid"] = valid = (judged["valid"] | goal.already_valid) & ~failed
    # of what has no end to reach, moving the right way is all that its value has to do
    conditions = {name: (met & ~failed) | (goal.unbounded & valid & (name == "value"))
                  for name, met in found.conditions.items()}
    done = found.done | (goal.unbounded & np.logical_and.reduce([valid, *conditions.values()]))
    reached = (found.finished | goal.unbounded) & (done | (explainer.stop != "conditions"))
    implausible = outside_the_data(explainer, X, x_cf, found) if explainer.is_regression else np.zeros(len(X), dtype=bool)
    repeated = np.zeros(len(X), dtype=bool)
    if k > 1:
        unit = 1.0 if layout.is_image else np.where(explainer.scale_ > 0, explainer.scale_, 1.0)
        repeated = repeated_answers(X, x_cf, k, valid & ~goal.already_valid, unit) & goal.moving
        judged["valid"] = valid = valid & ~repeated
    status = np.select(
        [failed, goal.already_valid, found.late, repeated, valid & implausible, valid & reached, valid],
        ["model_failed", "already_target", "time_limit", "repeated", "implausible", "converged", "step_budget"],
        "not_found")
    warn_of_statuses(Counter(status.tolist()), explainer.max_steps)

    def row_norm(difference: np.ndarray) -> np.ndarray:
        return np.linalg.norm(difference.reshape(len(difference), -1), axis=1)

    return Counterfactuals(
        x=restore_samples(X, layout), x_cf=restore_samples(x_cf, layout),
        reconstruction=restore_samples(found.reconstruction, layout), container=container,
        target=goal.target, status=status, **judged, n_steps=found.n_steps, z=found.z0, z_cf=found.z,
        distance=np.linalg.norm(found.z - found.z0, axis=1), distance_x=row_norm(x_cf - X),
        log_density=found.log_density,
        density_percentile=density_percentile(explainer, found, goal),
        reconstruction_error=row_norm(found.reconstruction - X),
        conditions=conditions, costs=found.costs,
        surrogate_valid=found.valid if explainer.classifier_.is_surrogate else None,
        second_opinion=found.second_opinion if explainer.opinions_ is not None else None, path=found.path,
        row=None if k == 1 else np.arange(len(X)) // k, answer=None if k == 1 else np.arange(len(X)) % k,
        metadata={**explainer.metadata(), **({} if seconds is None else {"seconds": seconds}), "backend": found.backend,
                  **({"priced": True} if getattr(explainer, "costs", None) else {}),
                  **({"interrupted": True} if found.interrupted.any() else {})})


def metadata_of(explainer: Any) -> dict[str, Any]:
    """What a result keeps of its explainer: JSON-able."""
    return {
        "explainer": type(explainer).__name__, "parameters": described(explainer),
        "n_train": int(explainer.task_.counts.sum()),
        **explainer.task_.metadata(),
        "data_range": list(explainer.data_range), "is_image": explainer.layout_.is_image,
        "user_shape": list(explainer.layout_.user_shape), "net_shape": list(explainer.layout_.net_shape),
        **({"channels": explainer.layout_.channels} if explainer.layout_.is_image else {}),
        "feature_names": [str(name) for name in getattr(explainer, "feature_names_in_", ())] or None,
        "feature_scale": None if explainer.layout_.is_image else explainer.scale_.tolist(), "device": str(explainer.device_),
        **getattr(explainer, "training_", {}),  # not in files of earlier versions
        "versions": {"torch": torch.__version__, "scikit-learn": sklearn.__version__, "zuko": _version("zuko")},
    }


def as_given(cf: Counterfactuals, X: Any) -> Counterfactuals:
    """A result with the names of the rows of `X`, and what its tables need to have the dtypes of `X`."""
    named = hasattr(X, "iloc")
    if cf.row is not None and named:  # several answers for each
        X = X.iloc[cf.row]
    index, columns, originals = X.index.to_numpy() if named else None, None, None
    if not cf.is_image:
        X = X if named else np.asarray(to_numpy(X))
        columns, originals = read_columns(X if named or cf.row is None else X[cf.row], cf.x, cf.feature_names)
    metadata = cf.metadata if columns is None else {**cf.metadata, "columns": columns}
    return replace(cf, index=index, carried=originals, metadata=metadata)
