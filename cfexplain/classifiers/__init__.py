"""Any classifier or regressor a user brings, seen as one differentiable function of samples."""

from __future__ import annotations

from cfexplain.classifiers.adapter import ClassifierAdapter, adapt_classifier
from cfexplain.classifiers.regressor import RegressorAdapter, adapt_regressor
from cfexplain.classifiers.student import smooth_student

__all__ = ["ClassifierAdapter", "RegressorAdapter", "adapt_classifier", "adapt_regressor", "smooth_student"]
