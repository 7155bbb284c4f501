"""How sure the explained model is of real rows: what a counterfactual can be asked to reach."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cfexplain.foundation.numbers import log_odds, log_odds_of, quantile_of_sorted
from cfexplain.persistence import stored_by_attributes

__all__ = ["ClassConfidence"]

# A clear majority, and what is as good as certain: more than this is not asked of anybody.
LEAST, MOST = log_odds_of(0.55), log_odds_of(0.99)
# Fewer of a class's rows than this share reach something: it is not usual for the class.
RARE = 0.2
_ROWS = 1000  # of a class are asked about


def _in_order(confidence: ClassConfidence) -> bool:
    return len(confidence.log_odds) == len(confidence.own) and all(
        own.ndim == 1 and not (np.diff(own) < 0).any() for own in confidence.log_odds)


@stored_by_attributes(check=_in_order)
class ClassConfidence:
    """Log-odds that a model gives to each class on that class's own training rows.

    Attributes
    ----------
    log_odds : list of K ndarrays
        Of the rows of class k that the model itself takes for k (of all its rows, if it takes none for it), sorted.
    own : ndarray of shape (K,)
        Share of the rows of class k that the model takes for k.

    Examples
    --------
    >>> odds = np.array([[3.0, -3.0], [0.1, -0.1], [-1.0, 1.0], [-9.0, 9.0]])
    >>> confidence = ClassConfidence(odds, np.array([0, 0, 1, 1]))
    >>> [f"{p:.2f}" for p in 1 / (1 + np.exp(-confidence.usual()))], confidence.shares(0.9).tolist()
    (['0.82', '0.99'], [0.5, 0.5])
    """

    log_odds: list[np.ndarray]
    own: np.ndarray

    def __init__(self, log_odds: np.ndarray, y: np.ndarray):
        decided = log_odds.argmax(1) == y
        self.own = np.array([decided[y == k].mean() for k in range(log_odds.shape[1])])
        self.log_odds = [np.sort(log_odds[(y == k) & (decided if self.own[k] else True), k].astype(np.float64))
                         for k in range(log_odds.shape[1])]

    @classmethod
    def measure(cls, scores: Callable[[np.ndarray], Tensor], X: np.ndarray, y: np.ndarray, seed: int) -> ClassConfidence:
        """Of a model that gives `scores`, logits (n, K) or (members, n, K), for rows of `X` (n, ...).

        At most 1,000 rows a class are asked about. Of several members the least sure one counts.
        """
        order = np.random.RandomState(seed).permutation(len(y))
        rows = np.sort(np.concatenate([order[y[order] == k][:_ROWS] for k in np.unique(y)]))
        logits, y = scores(X[rows]).double().cpu(), y[rows]
        each = torch.stack([log_odds(logits, torch.full((len(y),), k)) for k in range(logits.shape[-1])], -1)
        odds = each.reshape(-1, *each.shape[-2:]).amin(0).numpy()
        known = np.isfinite(odds).all(1)
        return cls(odds[known], y[known])

    def usual(self, quantile: float = 0.5) -> np.ndarray:
        """Log-odds that all but a share `quantile` of each class's own rows reach, (K,): 0.55, a clear majority, to 0.99.

        Less than a clear majority only for a class whose rows hardly ever have one.
        """
        median = np.array([quantile_of_sorted(own, quantile) if len(own) else LEAST for own in self.log_odds])
        least = np.where(self._shares(LEAST) < RARE, np.minimum(median, LEAST), LEAST)
        # of a class that the model never decides for, its own rows are no guide
        return np.where(self.own > 0, np.clip(median, least, MOST), LEAST)

    def shares(self, confidence: float) -> np.ndarray:
        """Share of each class's own rows that the model is as sure of as `confidence`, (K,)."""
        return self._shares(log_odds_of(confidence))

    def _shares(self, needed: float) -> np.ndarray:
        return np.array([float(np.mean(own >= needed)) if len(own) else 0.0 for own in self.log_odds])
