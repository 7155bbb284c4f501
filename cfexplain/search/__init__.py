"""The one batched search that every explainer runs. It knows rows, steps and stopping, and no paper."""

from cfexplain.search.gradient import Evaluation, Found, SearchOptions, search
from cfexplain.search.path import search_along
from cfexplain.search.slots import search_in_slots

__all__ = ["Evaluation", "Found", "SearchOptions", "search", "search_along", "search_in_slots"]
