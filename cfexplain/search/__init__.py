"""The one batched search that every explainer runs. It knows rows, steps and stopping, and no paper."""

from cfexplain.search._along import search_along
from cfexplain.search._search import Evaluation, Found, SearchOptions, search

__all__ = ["Evaluation", "Found", "SearchOptions", "search", "search_along"]
