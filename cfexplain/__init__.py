"""Counterfactual explanations of neural networks that a person can trust.

Public names are imported when the first of them is asked for, all together, so that ``cfexplain --help`` need not wait for
torch, and ``load`` knows every class that a file may name.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cfexplain.evaluation.evaluation import Evaluation, Metric, evaluate
    from cfexplain.evaluation.frontier import Frontier, compare_frontier
    from cfexplain.explainers import (
        CLARITYExplainer,
        ClassDirectionExplainer,
        CounterfactualExplainer,
        DiffeomorphicExplainer,
        GradientExplainer,
        LeapExplainer,
        PLACEExplainer,
        PrototypeExplainer,
        REVISEExplainer,
        ScanExplainer,
    )
    from cfexplain.explainers.groups import summarize_group
    from cfexplain.explainers.pipeline import PipelineExplainer, explain_pipeline
    from cfexplain.foundation.exceptions import ClassifierOutputError, DataRangeError, StoreError, TargetError
    from cfexplain.persistence.persistent import load
    from cfexplain.result import Counterfactuals
    from cfexplain.scale import CounterfactualStore, load_results

__version__ = "0.1.0"

__all__ = [
    "CLARITYExplainer", "ClassDirectionExplainer", "ClassifierOutputError", "CounterfactualExplainer", "CounterfactualStore",
    "Counterfactuals", "DataRangeError", "DiffeomorphicExplainer", "Evaluation", "Frontier", "GradientExplainer",
    "LeapExplainer", "Metric", "PLACEExplainer", "PipelineExplainer", "PrototypeExplainer", "REVISEExplainer",
    "ScanExplainer", "StoreError", "TargetError", "compare_frontier", "evaluate", "explain_pipeline", "load", "load_results",
    "summarize_group", "__version__"]

_HOMES = {
    "evaluation.evaluation": ("Evaluation", "Metric", "evaluate"), "evaluation.frontier": ("Frontier", "compare_frontier"),
    "explainers": ("CLARITYExplainer", "ClassDirectionExplainer", "CounterfactualExplainer", "DiffeomorphicExplainer",
                   "GradientExplainer", "LeapExplainer", "PLACEExplainer", "PrototypeExplainer", "REVISEExplainer",
                   "ScanExplainer"),
    "explainers.groups": ("summarize_group",), "explainers.pipeline": ("PipelineExplainer", "explain_pipeline"),
    "foundation.exceptions": ("ClassifierOutputError", "DataRangeError", "StoreError", "TargetError"),
    "persistence.persistent": ("load",), "result": ("Counterfactuals",), "scale": ("CounterfactualStore", "load_results")}


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home, names in _HOMES.items():
            module = importlib.import_module(f"cfexplain.{home}")
            globals().update({known: getattr(module, known) for known in names})
        return globals()[name]
    if not name.startswith("_"):
        try:  # cfexplain.metrics, without an import of its own
            return importlib.import_module(f"cfexplain.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"cfexplain.{name}":
                raise
    raise AttributeError(f"module 'cfexplain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
