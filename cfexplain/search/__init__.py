"""The one batched search that every explainer runs. It knows rows, steps and stopping, and no paper."""

from cfexplain.search.gradient import Evaluation, SearchOptions, SearchResult, search
from cfexplain.search.path import search_path
from cfexplain.search.slots import search_in_slots

__all__ = ["Evaluation", "SearchResult", "SearchOptions", "search", "search_path", "search_in_slots"]
