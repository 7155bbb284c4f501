"""Pictures of what was found, as Display objects in scikit-learn's style. Matplotlib is imported when one is drawn."""

from cfexplain.plotting.counterfactual import CounterfactualDisplay

__all__ = ["CounterfactualDisplay"]
