"""A tile of points of the search: what the terms of an objective can ask of them, each computed at most once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cfexplain.foundation.numbers import log_odds
from cfexplain.foundation.remainders import in_vectors

__all__ = ["Point", "ValuePoint"]


def _not_given(*parts: Any) -> Tensor:
    raise TypeError("This point was made without a part that a term asks for.")


class Point:
    """One tile of points of the search, and what can be asked of them, computed at most once.

    Parameters
    ----------
    z : Tensor of shape (B, d)
    rows : mapping
        ``x`` (B, ...), ``z0`` (B, d), ``target`` (B,) class indices, and what single terms need.
    x : Tensor of shape (B, ...)
        x′, the decoded points.
    logits : Tensor of shape (B, K)
        Of x′; of a regressor its value, (B, 1).
    features : Tensor of shape (B, f), optional
        Of x′, in the classifier's penultimate layer.
    log_density : callable ``(z, target) -> (B,)``, optional
    opinions : callable ``z -> (M, B, K)``, optional
    class_features : callable ``(features, target) -> (B,)``, optional
    verdict : Tensor of shape (B, K), optional
        Scores of which the model's decision is the largest, where it is not the largest of `logits`: of a model that decides
        at a threshold, say.
    """

    def __init__(self, z: Tensor, rows: Mapping[str, Tensor], x: Tensor, logits: Tensor, features: Tensor | None = None,
                 log_density: Callable = _not_given, opinions: Callable | None = None,
                 class_features: Callable | None = None, verdict: Tensor | None = None):
        self.verdict = verdict
        self.z, self.rows, self.target, self.x, self.logits, self.features = z, rows, rows["target"], x, logits, features
        self._log_density, self._opinions, self._class_features = (
            log_density, opinions or _not_given, class_features or _not_given)

    @cached_property
    def log_odds(self) -> Tensor:
        """Of the target; where the model decides otherwise, at most how far it is from deciding for the target."""
        odds = log_odds(self.logits, self.target)
        if self.verdict is None:
            return odds
        own = self.verdict.gather(1, self.target[:, None])
        others = self.verdict.scatter(1, self.target[:, None], -torch.inf).amax(1)
        return torch.where(self.valid, odds, torch.minimum(odds, own[:, 0] - others))

    @cached_property
    def probability(self) -> Tensor:
        return in_vectors(torch.sigmoid, self.log_odds)

    @cached_property
    def valid(self) -> Tensor:
        """The model says the target, bool (B,)."""
        return (self.logits if self.verdict is None else self.verdict).argmax(1) == self.target

    @property
    def score(self) -> Tensor:
        """How near the model is to the target, (B,): ranks rows that are not valid."""
        return self.probability

    @cached_property
    def log_density(self) -> Tensor:
        return self._log_density(self.z, self.target)

    @cached_property
    def feature_distance(self) -> Tensor:
        """How far x′ is from the target class in the classifier's own features (`ClassFeatures`)."""
        return self._class_features(self.features, self.target)

    @cached_property
    def opinions(self) -> Tensor:
        """Logits of the small classifiers of the latent, (members, B, K)."""
        return self._opinions(self.z)

    @cached_property
    def opinion(self) -> Tensor:
        """Log-odds of the target, of the least convinced member of the second opinion."""
        return log_odds(self.opinions, self.target).amin(0)


class ValuePoint(Point):
    """A point of a search for a value: `rows` hold ``low`` and ``high``, the interval that is wanted, and ``before``."""

    @property
    def value(self) -> Tensor:
        """What the regressor says of x′, (B,)."""
        return self.logits[:, 0]

    @cached_property
    def gap(self) -> Tensor:
        """How far the value is from the wanted interval, (B,), 0 inside; −value or value where it has no end."""
        low, high = self.rows["low"], self.rows["high"]
        below = torch.where(torch.isinf(low), torch.zeros_like(low), torch.relu(low - self.value))
        above = torch.where(torch.isinf(high), torch.zeros_like(high), torch.relu(self.value - high))
        return torch.where(low == torch.inf, -self.value, torch.where(high == -torch.inf, self.value, below + above))

    @cached_property
    def valid(self) -> Tensor:
        """In the interval; moved the right way where there is no end to reach."""
        low, high, before = (self.rows[name] for name in ("low", "high", "before"))
        inside = (self.value >= low) & (self.value <= high)
        down_or_inside = torch.where(high == -torch.inf, self.value < before, inside)
        return torch.where(low == torch.inf, self.value > before, down_or_inside)

    @property
    def score(self) -> Tensor:
        return -self.gap
