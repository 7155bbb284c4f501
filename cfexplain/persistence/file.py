"""From arrays and JSON to an explainer. Whoever wrote the file: either it is whole, or a ValueError says that it is not."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from cfexplain.persistence.estimators import check_whole
from cfexplain.persistence.given import Given, check_answers
from cfexplain.persistence.kinds import EXPLAINERS, KINDS
from cfexplain.persistence.tree import Reader, RefusedError
from cfexplain.persistence.write_file import FORMAT

__all__ = ["read"]

_BY_NAME = {kind.name: kind for kind in KINDS.values()}


def read(path: str | os.PathLike, arrays: dict[str, np.ndarray], meta: dict[str, Any], cls: type, objects: dict[str, Any],
         device: Any, verify: bool) -> Any:
    """The explainer in `arrays` and `meta`, which came from `path`; see ``CounterfactualExplainer.load``."""
    name = os.fspath(path)
    kind = meta.get("kind", "something") if isinstance(meta, dict) else "something"
    if kind != "explainer":
        raise ValueError(f"{name} holds {kind!r}; expected an explainer. cfexplain.load() reads results, too.")
    version, known = meta.get("format"), meta.get("class")
    if type(version) is int and version > FORMAT:
        raise ValueError(f"{name} was written by a newer cfexplain (format {version} of explainers; this one reads up to "
                         f"{FORMAT}). Upgrade: pip install --upgrade cfexplain")
    if isinstance(known, str) and known in EXPLAINERS and not issubclass(EXPLAINERS[known], cls):
        raise ValueError(f"{name} holds a {known}, not a {cls.__name__}. Load it with {known}.load, or "
                         "CounterfactualExplainer.load.")
    described = _described(name, meta)
    try:
        given = Given(objects, described, verify)
    except RefusedError as error:
        raise ValueError(f"{name}: {error}") from None
    try:
        reader = Reader(arrays, _BY_NAME, given, meta["device"], device)
        made = reader.value(meta["tree"])
        if type(made) is not EXPLAINERS[known]:
            raise ValueError(f"a {type(made).__name__} in place of a {known}")
        check_whole(made)
        compared = [arrays.pop(f"compared/{part}", None) for part in ("rows", "answers")]
        if unused := set(arrays) - reader.used:
            raise ValueError(f"{min(unused)}, which belongs to nothing")
        if "classifier" in described and any(part is None or part.dtype.kind != "f" for part in compared):
            raise ValueError("no rows to compare the classifier on")
    except RefusedError as error:
        raise ValueError(f"{name}: {error}") from None
    except Exception as error:  # whatever a strange file makes happen, the user's problem is the same
        raise ValueError(f"{name} is not a whole explainer: it holds {error}. Nothing was loaded.") from error
    if "classifier" in described and verify:
        try:
            check_answers(made, *compared)
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
