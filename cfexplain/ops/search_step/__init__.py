"""K1, the step of the search: everything between the gradient of a batch of points and the next points."""

from cfexplain.ops.search_step.reference import step, step_slots
from cfexplain.ops.search_step.state import ATTEMPTS, SearchState, Slots, StepOptions

__all__ = ["ATTEMPTS", "SearchState", "Slots", "StepOptions", "step", "step_slots"]
