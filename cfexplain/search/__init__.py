"""The one batched search that every explainer runs. It knows rows, steps and stopping, and no paper."""

from cfexplain.search._along import search_along
from cfexplain.search._search import Evaluation, Found, SearchOptions, search
from cfexplain.search._slots import search_in_slots
from cfexplain.search.freeze import freeze_for_search

__all__ = ["Evaluation", "Found", "SearchOptions", "freeze_for_search", "search", "search_along", "search_in_slots"]
