"""Training rows that an explainer keeps: what their model and their density say, to compare counterfactuals with."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata

from cfexplain.explainers.attributes import ExplainerParameters
from cfexplain.explainers.found import Found
from cfexplain.explainers.task import Goal

__all__ = ["RANKED", "density_percentile", "keep_rows", "outside_the_data"]

# Training rows a class that density percentiles are ranked among, where encoding is a search of its own.
RANKED = 200
# Training rows of a table that are kept, to look for counterfactuals among them
KEPT = 2000
# Percentile of density below which nearly no training row lies
UNLIKE_ANY = 1.0


def keep_rows(explainer: ExplainerParameters, X: np.ndarray, y: np.ndarray, seed: int, coded: np.ndarray,
              codes: np.ndarray) -> None:
    """Keep what the model says of some training rows, of all classes and values; of tables the rows themselves; of a
    regression their densities. `codes` are those of the rows `coded`.
    """
    for name in ("real_rows_", "real_answers_", "real_densities_"):
        explainer.__dict__.pop(name, None)
    table, values = not explainer.layout_.is_image, explainer.is_regression
    if not (table or values):
        return
    if len(coded) <= KEPT:
        kept = np.arange(len(coded))
    elif values:  # evenly from the lowest value to the highest
        kept = np.sort(np.argsort(y[coded], kind="stable")[np.unique(np.linspace(0, len(coded) - 1, KEPT).astype(int))])
    else:  # of each class as many, as far as there are
        order, groups = np.random.RandomState(seed).permutation(len(coded)), explainer.task_.groups[coded]
        place = np.empty(len(coded), dtype=int)
        for k in np.unique(groups):
            own = order[groups[order] == k]
            place[own] = np.arange(len(own))
        kept = np.sort(order[np.argsort(place[order], kind="stable")[:KEPT]])
    answers: Any = explainer.task_.answers(explainer.classifier_, X[coded[kept]])
    explainer.real_answers_ = answers if values else answers[0]
    if table:
        explainer.real_rows_ = X[coded[kept]]
    if values:
        explainer.real_densities_ = _as_ranked(explainer, codes)[kept]


def _as_ranked(explainer: ExplainerParameters, codes: np.ndarray) -> np.ndarray:
    """log p of training codes, each as its place among ``log_densities_`` has it: as if it had not been trained on."""
    density = explainer.density_
    own, known = density.score_samples(codes).astype(np.float64), density.log_densities_[0].astype(np.float64)
    if len(density.log_densities_) > 1 or len(known) != len(own):  # a density of the user's own, of other rows
        return own
    return known[rankdata(own, "ordinal") - 1]


def outside_the_data(explainer: ExplainerParameters, X: np.ndarray, x_cf: np.ndarray, found: Found) -> np.ndarray:
    """Rows whose x′ lies where there are hardly any data: beyond the range of a column, unless x does, too, or in less
    density than nearly all training rows; bool (n,).
    """
    outside = explainer.density_.percentile(found.log_density, np.zeros(len(X), dtype=int)) < UNLIKE_ANY
    feature_range = getattr(explainer, "training_", {}).get("feature_range")
    if feature_range is not None:
        low, high = np.asarray(feature_range)
        slack = 1e-6 * (high - low)
        outside |= ((x_cf < np.minimum(low, X) - slack) | (x_cf > np.maximum(high, X) + slack)).any(1)
    return outside


def density_percentile(explainer: ExplainerParameters, found: Found, goal: Goal) -> np.ndarray:
    """How typical x′ is: of a class, or of the training rows with values near the one that is asked for."""
    if not explainer.is_regression or "real_densities_" not in explainer.__dict__:
        return explainer.density_.percentile(found.log_density, goal.rows["target"])
    values, order = explainer.real_answers_, np.argsort(explainer.real_answers_, kind="stable")
    values, densities, some = values[order], explainer.real_densities_[order], max(20, min(RANKED, len(values) // 10))
    out = np.empty(len(goal.target))
    for i, (low, high) in enumerate(zip(goal.rows["low"], goal.rows["high"], strict=True)):
        # what is asked to be at least so much, or at most, is nearest there
        end = low if np.isneginf(high) or not np.isfinite(high) else high if not np.isfinite(low) else None
        off = np.abs(values - np.clip(end, values[0], values[-1])) if end is not None else np.maximum(
            np.maximum(low - values, values - high), 0)
        near = densities[np.argsort(off, kind="stable")[:some]]
        out[i] = 100 * (near <= found.log_density[i]).mean() if np.isfinite(found.log_density[i]) else 0.0
    return out
