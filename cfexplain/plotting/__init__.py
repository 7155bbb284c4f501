"""Pictures of what was found, as Display objects in scikit-learn's style. Matplotlib is imported when one is drawn."""

from cfexplain.plotting.counterfactual import CounterfactualDisplay
from cfexplain.plotting.evaluation import EvaluationDisplay, FrontierDisplay

__all__ = ["CounterfactualDisplay", "EvaluationDisplay", "FrontierDisplay"]
