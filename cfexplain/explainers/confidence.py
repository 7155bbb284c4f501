"""How sure the explained model is of real rows, what is therefore asked of counterfactuals, and warnings in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cfexplain.classifiers.confidence import RARE, ClassConfidence
from cfexplain.explainers.attributes import SPARSE, ExplainerParameters
from cfexplain.explainers.task import Goal
from cfexplain.foundation.exceptions import warn_caller
from cfexplain.foundation.numbers import log_odds_of
from cfexplain.foundation.tiles import in_tiles, tile_for

__all__ = ["confidence_limits", "measure_confidence", "warn_of_rare_confidence"]

_TILES = 8  # of rows of which the model is asked together how sure it is


def measure_confidence(explainer: ExplainerParameters, X: np.ndarray, groups: np.ndarray, codes: np.ndarray,
                       std: np.ndarray, code_groups: np.ndarray, seed: int) -> None:
    """How sure the model that is searched, and the second opinion, are of each class's own rows.

    The second opinion was trained on draws around the codes, and is surer of the codes themselves than of any other.
    """
    explainer.__dict__.pop("class_confidence_", None)
    explainer.__dict__.pop("opinion_confidence_", None)
    if explainer.is_regression or not hasattr(explainer, "confidence"):
        return
    classifier: Any = explainer.classifier_

    def scores(function: Callable[[Tensor], Tensor], rows_at: int = 0) -> Callable[[np.ndarray], Tensor]:
        return lambda X: in_tiles(lambda rows: function(rows.to(explainer.device_)).cpu().movedim(rows_at, 0),
                                  torch.from_numpy(X), tile=_TILES * tile_for(X.shape[1:])).movedim(0, rows_at)

    with torch.no_grad(), classifier.frozen():
        explainer.class_confidence_ = ClassConfidence.measure(scores(classifier.logits), X, groups, seed)
        if explainer.opinions_ is not None:
            drawn = (codes + std * np.random.RandomState(seed).standard_normal(codes.shape)).astype(codes.dtype)
            explainer.opinion_confidence_ = ClassConfidence.measure(scores(explainer.opinions_, 1), drawn, code_groups, seed)
    _warn_of_unsure_classes(explainer)


def _warn_of_unsure_classes(explainer: Any) -> None:
    """Classes that the model never says, or is hardly ever sure of."""
    own = explainer.class_confidence_.own
    never = [str(label) for label, share in zip(explainer.classes_, own, strict=True) if not share]
    if never:
        warn_caller(
            f"The explained model takes no row of {', '.join(never)} for what it is labelled. Asked for such a class, "
            "most rows will not reach it, and what does may look like no row of the class. Train the model on more "
            "rows of the class, or ask for other classes.")
    usual = 1 / (1 + np.exp(-explainer.class_confidence_.usual()))
    unsure = [f"{label} ({p:.2f})" for label, p, share in zip(explainer.classes_, usual, own, strict=True)
              if p < 0.5 and share]
    if unsure and explainer.confidence == "auto":
        warn_caller(
            f"The explained model is hardly ever sure of {', '.join(unsure[:5])}{', …' if len(unsure) > 5 else ''}: "
            "that is how sure it is of the median row of the class, and no more is asked of counterfactuals. What such "
            "a model takes for the class may look like another to a person.")


def confidence_limits(explainer: Any) -> dict[str, np.ndarray]:
    """Log-odds that the model, and the second opinion, have to reach for each class: arrays of shape (K,)."""
    confidence = getattr(explainer, "confidence", None)
    if confidence is None or explainer.is_regression:
        return {}
    limits = {"needed": _usual(explainer, "class_confidence_") if confidence == "auto"
              else np.full(len(explainer.classes_), log_odds_of(confidence))}
    if explainer.opinions_ is not None and hasattr(explainer, "opinion_confidence_"):
        limits["opinion_needed"] = _usual(explainer, "opinion_confidence_")
    return limits


def _usual(explainer: Any, name: str) -> np.ndarray:
    if not hasattr(explainer, name):
        raise ValueError("confidence='auto' is measured at fit, and this explainer was fitted by a version that did not "
                         "measure it. Fit it again, or pass a number: set_params(confidence=0.9).")
    return getattr(explainer, name).usual(0.5 * SPARSE if explainer.changes_few() else 0.5)


def warn_of_rare_confidence(explainer: Any, goal: Goal) -> None:
    """A number that few real rows reach draws every row towards a prototype of the class."""
    confidence = getattr(explainer, "confidence", None)
    if confidence is None or confidence == "auto" or not hasattr(explainer, "class_confidence_"):
        return
    shares = explainer.class_confidence_.shares(confidence)
    rare = [k for k in np.unique(goal.rows["target"][goal.moving]) if shares[k] < RARE]
    if rare:
        told = ", ".join(f"{shares[k]:.1%} of those of {explainer.classes_[k]}" for k in rare[:5])
        warn_caller(
            f"confidence={confidence:g} is reached by few real rows: {told}{', …' if len(rare) > 5 else ''}. What must "
            "be surer than real rows looks like a prototype and not like one of them. Pass confidence='auto' for what "
            "is usual for each class, or a lower number.")
