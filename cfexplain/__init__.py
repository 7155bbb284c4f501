"""Counterfactual explanations of neural networks that a person can trust."""

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
)
from cfexplain.explainers.pipeline import PipelineExplainer, explain_pipeline
from cfexplain.foundation.exceptions import ClassifierOutputError, DataRangeError, StoreError, TargetError
from cfexplain.persistence.persistent import load
from cfexplain.result import Counterfactuals
from cfexplain.scale import CounterfactualStore, load_results

__version__ = "0.1.0"

__all__ = [
    "CLARITYExplainer", "ClassDirectionExplainer", "ClassifierOutputError", "CounterfactualExplainer", "CounterfactualStore",
    "Counterfactuals", "DataRangeError", "DiffeomorphicExplainer", "Evaluation", "Frontier", "GradientExplainer",
    "LeapExplainer", "Metric", "PLACEExplainer", "PipelineExplainer", "PrototypeExplainer", "REVISEExplainer", "StoreError",
    "TargetError", "compare_frontier", "evaluate", "explain_pipeline", "load", "load_results", "__version__"]
