"""Pictures of what was found, as Display objects in scikit-learn's style. Matplotlib is imported when one is drawn."""

from cfexplain.plotting.answers import AnswersDisplay
from cfexplain.plotting.counterfactual import CounterfactualDisplay
from cfexplain.plotting.density import DensityDisplay
from cfexplain.plotting.evaluation import EvaluationDisplay, FrontierDisplay
from cfexplain.plotting.group import GroupDisplay
from cfexplain.plotting.manifold import ManifoldDisplay
from cfexplain.plotting.path import PathDisplay
from cfexplain.plotting.saliency import SaliencyDisplay
from cfexplain.plotting.shared_changes import SharedChangesDisplay

__all__ = [
    "AnswersDisplay", "CounterfactualDisplay", "DensityDisplay", "EvaluationDisplay", "FrontierDisplay", "GroupDisplay",
    "ManifoldDisplay", "PathDisplay", "SaliencyDisplay", "SharedChangesDisplay"]
