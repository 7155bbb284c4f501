"""One paper, one thin class."""

from cfexplain.explainers._base import CounterfactualExplainer
from cfexplain.explainers.diffeomorphic import DiffeomorphicExplainer
from cfexplain.explainers.gradient import GradientExplainer
from cfexplain.explainers.place import PLACEExplainer

__all__ = ["CounterfactualExplainer", "DiffeomorphicExplainer", "GradientExplainer", "PLACEExplainer"]
