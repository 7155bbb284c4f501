"""`PipelineExplainer` in a file: all that was learned, and how to know the pipeline again, which is given once more."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

import numpy as np
import sklearn
import torch
from torch import nn

from cfexplain.classifiers.pipeline import attach_last_step
from cfexplain.classifiers.pipeline_steps import steps_of
from cfexplain.foundation.files import read_arrays, write_arrays
from cfexplain.foundation.optional import is_instance
from cfexplain.persistence.tree import Reader, Writer
from cfexplain.persistence.user_objects import LoadedObjects, RefusedError, SavedObjects

__all__ = ["KIND", "read_file", "write_file"]

KIND, FORMAT = "pipeline explainer", 1
_LAST = "pipeline__last"  # a network at the end of the pipeline, which is known again by its weights
_ROWS = 16


def write_file(explainer: Any, path: str | os.PathLike) -> None:
    """See ``PipelineExplainer.save``."""
    users = SavedObjects()
    out = Writer(users)
    users.add("pipeline", explainer.model_.pipe, "pipeline")
    last = explainer.model_.final
    if _is_network(last) and last is not explainer.model_.pipe:
        users.add(_LAST, last, "pipeline")
    tree = out.value(explainer, "")
    out.arrays["compared/answers"] = _answers(explainer)
    write_arrays(path, out.arrays, {
        "kind": KIND, "format": FORMAT, "device": str(explainer.explainer_.device_), "given": users.described(),
        "tree": tree,
        "versions": {"torch": torch.__version__, "scikit-learn": sklearn.__version__, "zuko": version("zuko")}})


def read_file(path: str | os.PathLike, cls: Any, pipeline: Any, device: Any, verify: bool, given: dict[str, Any]) -> Any:
    """See ``PipelineExplainer.load``."""
    name = os.fspath(path)
    arrays, meta = read_arrays(path)
    kind = meta.get("kind", "something") if isinstance(meta, dict) else "something"
    if kind != KIND:
        raise ValueError(f"{name} holds {kind!r}; expected a {KIND}. cfexplain.load() reads all kinds.")
    if type(meta.get("format")) is int and meta["format"] > FORMAT:
        raise ValueError(f"{name} was written by a newer cfexplain. Upgrade: pip install --upgrade cfexplain")
    if pipeline is None:
        raise ValueError(f"{name}: the pipeline is not in the file. Give it again: load(path, pipeline=pipe).")
    described = meta.get("given")
    if not isinstance(described, dict) or not all(
            isinstance(about, dict) and isinstance(about.get("type"), str) for about in described.values()):
        raise ValueError(f"{name} is not a whole {KIND}: it does not say what has to be given. Nothing was loaded.")
    last = {_LAST: steps_of(pipeline)[1]} if _LAST in described else {}
    try:
        users = LoadedObjects({"pipeline": pipeline, **last, **given}, described, verify)
        reader = Reader(arrays, users, meta["device"], device)
        made: Any = reader.value(meta["tree"])
        answers = arrays.pop("compared/answers")
        if type(made) is not cls or set(arrays) - reader.used or made.codes_.shape[1:] != (made.table_.width,):
            raise ValueError(f"parts that do not belong to a {cls.__name__}")
        attach_last_step(made.explainer_.classifier_.module, made.model_)
        made.explainer_.check_parameters()
    except RefusedError as error:
        raise ValueError(f"{name}: {error}") from None
    except Exception as error:  # whatever a strange file makes happen, the user's problem is the same
        if isinstance(error, TypeError) and str(error).startswith("load() got"):
            raise
        raise ValueError(f"{name} is not a whole {KIND}: it holds {error}. Nothing was loaded.") from error
    if verify:
        try:
            now = _answers(made)
        except Exception as error:  # the pipeline's own
            raise ValueError(f"{name}: pipeline= does not take the rows of the one that was explained ({error}).") from error
        slack = 1e-3 * (1.0 if now.ndim == 2 else np.std(answers) + np.abs(answers).mean())
        if now.shape != answers.shape or not np.allclose(now, answers, rtol=0, atol=slack):
            raise ValueError(f"{name}: pipeline= answers otherwise than when this explainer was saved: it is another one, "
                             "or changed since. Give the one that was explained; or, if you mean it, load(..., "
                             "verify=False).")
    return made


def _answers(explainer: Any) -> np.ndarray:
    """What the pipeline says of some training rows: probabilities, labels as 0 and 1, or values."""
    model, codes = explainer.model_, explainer.codes_[:_ROWS]
    if model.reads == "values":
        return model.predict(codes)
    if model.gives_probabilities:
        return np.asarray(model.predict_proba(codes), dtype=np.float64)
    return (model.predict(codes)[:, None] == model.classes_).astype(np.float64)


def _is_network(value: Any) -> bool:
    return isinstance(value, nn.Module) or is_instance(value, "skorch", "NeuralNet")
