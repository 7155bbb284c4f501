"""An explainer as arrays and JSON, and back. Whoever wrote a file: it is whole, or a ValueError says that it is not."""

from __future__ import annotations

import math
import os
from importlib.metadata import version
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn

from cfexplain.persistence.answers import ask, check_answers, made_up_rows
from cfexplain.persistence.hints import needed_attributes
from cfexplain.persistence.table import kind_named, kind_of
from cfexplain.persistence.tree import Reader, Writer
from cfexplain.persistence.user_objects import LoadedObjects, RefusedError, SavedObjects

__all__ = ["FORMAT", "read", "write"]

FORMAT = 1


def write(explainer: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by name, and what else has to be known.

    Raises
    ------
    NotFittedError, TypeError
        See ``CounterfactualExplainer.save``.
    """
    check_is_fitted(explainer)
    cls = type(explainer)
    if kind_of(cls) is None:
        known = kind_named(cls.__name__.lstrip("_"))
        if known is not None and known.cls.__qualname__ == cls.__qualname__:
            raise TypeError(f"{cls.__qualname__} was defined again after this explainer was made. Make it anew, and fit it.")
        raise TypeError(f"{cls.__qualname__} is a class of your own, which load() could not make again. Write @storable "
                        "(from cfexplain.persistence) above its definition, or keep the explainer with pickle.")
    users = SavedObjects()
    out = Writer(users)
    tree = out.value(explainer, "")
    if "classifier" in users.objects:
        rows = made_up_rows(explainer)
        out.arrays |= {"compared/rows": rows, "compared/answers": ask(explainer, rows)}
    return out.arrays, {
        "kind": "explainer", "format": FORMAT, "class": cls.__name__.lstrip("_"), "device": str(explainer.device_),
        "given": users.described(), "tree": tree,
        "versions": {"torch": torch.__version__, "scikit-learn": sklearn.__version__, "zuko": version("zuko")}}


def read(path: str | os.PathLike, arrays: dict[str, np.ndarray], meta: dict[str, Any], cls: type, objects: dict[str, Any],
         device: Any, verify: bool) -> Any:
    """The explainer in `arrays` and `meta`, which came from `path`; see ``CounterfactualExplainer.load``."""
    name = os.fspath(path)
    kind = meta.get("kind", "something") if isinstance(meta, dict) else "something"
    if kind != "explainer":
        raise ValueError(f"{name} holds {kind!r}; expected an explainer. cfexplain.load() reads results, too.")
    version, known = meta.get("format"), kind_named(meta.get("class"))
    if type(version) is int and version > FORMAT:
        raise ValueError(f"{name} was written by a newer cfexplain (format {version} of explainers; this one reads up to "
                         f"{FORMAT}). Upgrade: pip install --upgrade cfexplain")
    if known is None:
        raise ValueError(f"{name} holds an explainer of the class {meta.get('class')!r}, which is unknown here. If it is "
                         "your own, define it before you load, with @storable (from cfexplain.persistence) above it.")
    if not issubclass(known.cls, cls):
        raise ValueError(f"{name} holds a {known.name}, not a {cls.__name__}. Load it with {known.name}.load, or "
                         "CounterfactualExplainer.load.")
    described = _described(name, meta)
    try:
        users = LoadedObjects(objects, described, verify)
    except RefusedError as error:
        raise ValueError(f"{name}: {error}") from None
    try:
        reader = Reader(arrays, users, meta["device"], device)
        made = reader.value(meta["tree"])
        if type(made) is not known.cls:
            raise ValueError(f"a {type(made).__name__} in place of a {known.name}")
        _check_whole(made)
        rows, answers = (arrays.pop(f"compared/{part}", None) for part in ("rows", "answers"))
        if unused := set(arrays) - reader.used:
            raise ValueError(f"{min(unused)}, which belongs to nothing")
        compared = rows is not None and answers is not None and rows.dtype.kind == answers.dtype.kind == "f"
        if "classifier" in described and not compared:
            raise ValueError("no rows to compare the classifier on")
    except RefusedError as error:
        raise ValueError(f"{name}: {error}") from None
    except ImportError as error:
        raise ImportError(f"{name}: {error}") from error
    except Exception as error:  # whatever a strange file makes happen, the user's problem is the same
        raise ValueError(f"{name} is not a whole explainer: it holds {error}. Nothing was loaded.") from error
    if "classifier" in described and verify and rows is not None and answers is not None:
        try:
            check_answers(made, rows, answers)
        except RefusedError as error:
            raise ValueError(f"{name}: {error}") from None
    return made


def _described(name: str, meta: dict[str, Any]) -> dict[str, Any]:
    """What the file says of the user's own objects."""
    described = meta.get("given")
    if not isinstance(described, dict) or not all(
            isinstance(about, dict) and isinstance(about.get("type"), str) for about in described.values()):
        raise ValueError(f"{name} is not a whole explainer: it does not say what has to be given. Nothing was loaded.")
    return described


def _check_whole(explainer: Any) -> None:
    """Raise ValueError if parts of an explainer are missing, or do not belong together."""
    missing = [name for name in needed_attributes(type(explainer)) if name not in vars(explainer)]
    if missing:
        raise ValueError(f"no {missing[0]}")
    layout, dtype = explainer.layout_, explainer.dtype_
    if dtype not in (np.float32, np.float64) or explainer.n_features_in_ != math.prod(layout.net_shape):
        raise ValueError(f"samples of {explainer.n_features_in_} numbers of {dtype} in the shape {layout.net_shape}")
    for part in [value for name, value in vars(explainer).items() if name.endswith("_") and hasattr(value, "layout_")]:
        if part.layout_.net_shape != layout.net_shape or not isinstance(getattr(part, "module_", None), nn.Module):
            raise ValueError(f"{type(part).__name__} of samples of another shape")
    count = len(explainer.task_.counts)
    densities = explainer.density_.log_densities_
    if len(densities) != count or any(own.ndim != 1 or not len(own) for own in densities):
        raise ValueError(f"densities of {len(densities)} classes for {count}")
    has_classes = "classes_" in vars(explainer)
    if has_classes == explainer.is_regression or has_classes and len(explainer.classes_) != count:
        raise ValueError("classes that do not fit the task")
    if explainer.column_rules_ is not None and explainer.column_rules_.held.size != explainer.n_features_in_:
        raise ValueError("rules of other columns")
    if explainer.scale_.shape != layout.net_shape:
        raise ValueError(f"scales of shape {explainer.scale_.shape}")
    explainer.check_parameters()
