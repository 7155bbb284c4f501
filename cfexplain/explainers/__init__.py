"""One paper, one thin class."""

from cfexplain.explainers._base import CounterfactualExplainer
from cfexplain.explainers.place import PLACEExplainer

__all__ = ["CounterfactualExplainer", "PLACEExplainer"]
