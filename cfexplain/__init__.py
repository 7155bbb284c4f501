"""Counterfactual explanations of neural networks that a person can trust."""

from cfexplain.explainers import CounterfactualExplainer, DiffeomorphicExplainer, GradientExplainer, PLACEExplainer
from cfexplain.result import Counterfactuals

__version__ = "0.1.0"

__all__ = [
    "CounterfactualExplainer", "Counterfactuals", "DiffeomorphicExplainer", "GradientExplainer", "PLACEExplainer",
    "__version__"]
