"""Counterfactual explanations of neural networks that a person can trust."""

from cfexplain._persistence import load
from cfexplain.evaluation import Evaluation, Metric, evaluate
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
from cfexplain.frontier import Frontier, compare_frontier
from cfexplain.pipeline import PipelineExplainer, explain_pipeline
from cfexplain.result import Counterfactuals
from cfexplain.scale import CounterfactualStore, load_results

__version__ = "0.1.0"

__all__ = [
    "CLARITYExplainer", "ClassDirectionExplainer", "CounterfactualExplainer", "CounterfactualStore",
    "Counterfactuals", "DiffeomorphicExplainer", "Evaluation", "Frontier", "GradientExplainer", "LeapExplainer",
    "Metric", "PLACEExplainer", "PipelineExplainer", "PrototypeExplainer", "REVISEExplainer", "compare_frontier",
    "evaluate", "explain_pipeline", "load", "load_results", "__version__"]
