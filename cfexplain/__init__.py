"""Counterfactual explanations of neural networks that a person can trust."""

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
from cfexplain.result import Counterfactuals

__version__ = "0.1.0"

__all__ = [
    "CLARITYExplainer", "ClassDirectionExplainer", "CounterfactualExplainer", "Counterfactuals",
    "DiffeomorphicExplainer", "Evaluation", "Frontier", "GradientExplainer", "LeapExplainer", "Metric",
    "PLACEExplainer", "PrototypeExplainer", "REVISEExplainer", "compare_frontier", "evaluate", "__version__"]
