"""Any classifier a user brings, seen as one differentiable function from samples to logits."""

from __future__ import annotations

from cfexplain.classifiers._adapter import ClassifierAdapter, adapt_classifier

__all__ = ["ClassifierAdapter", "adapt_classifier"]
