"""`Counterfactuals`: the counterfactual of each row, with what a person needs to judge whether to trust it."""

from cfexplain.result.counterfactuals import STATUSES, Counterfactuals

__all__ = ["STATUSES", "Counterfactuals"]
