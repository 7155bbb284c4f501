"""How a row moves: the first-order updates that a step of the search is made of."""

from cfexplain.ops.search_step.reference import UPDATES, Update, adam, normalized

__all__ = ["UPDATES", "Update", "adam", "normalized"]
