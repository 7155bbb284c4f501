"""Frozen copies of networks for a search: folded, fused, traced, in another precision."""

from cfexplain.ops.freezing.freeze import FrozenModule, freeze_for_search

__all__ = ["FrozenModule", "freeze_for_search"]
