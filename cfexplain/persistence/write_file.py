"""From an explainer to arrays and JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
import sklearn
import torch
import zuko
from sklearn.utils.validation import check_is_fitted

from cfexplain.persistence.given import Brought, ask, made_up_rows
from cfexplain.persistence.kinds import EXPLAINERS, KINDS
from cfexplain.persistence.tree import Writer

__all__ = ["FORMAT", "write"]

FORMAT = 1


def write(explainer: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by name, and what else has to be known.

    Raises
    ------
    NotFittedError, TypeError
        See ``CounterfactualExplainer.save``.
    """
    check_is_fitted(explainer)
    if type(explainer) not in EXPLAINERS.values():
        raise TypeError(f"{type(explainer).__qualname__} is a class of your own, which load() could not make again; pickle "
                        f"holds it. save() knows {', '.join(sorted(EXPLAINERS))}.")
    brought = Brought()
    out = Writer(KINDS, brought, explainer.layout_)
    tree = out.value(explainer, "")
    if "classifier" in brought.objects:
        rows = made_up_rows(explainer)
        out.arrays |= {"compared/rows": rows, "compared/answers": ask(explainer, rows)}
    return out.arrays, {
        "kind": "explainer", "format": FORMAT, "class": type(explainer).__name__, "device": str(explainer.device_),
        "given": brought.described(), "tree": tree,
        "versions": {"torch": torch.__version__, "scikit-learn": sklearn.__version__, "zuko": zuko.__version__}}
