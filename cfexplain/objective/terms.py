"""What makes a good counterfactual: the terms of the objective, each a small class ``Point -> (B,)``.

An `Objective` adds weighted terms (PLACE, eq. 1) and collects the conditions under which a row is done. A term may be
both: a hinge pulls towards its condition, and the condition says when to stop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cfexplain.foundation.ink import greyness
from cfexplain.foundation.numbers import log_odds_of, row_norm
from cfexplain.foundation.remainders import in_vectors
from cfexplain.foundation.tiles import in_tiles
from cfexplain.objective.point import Point, ValuePoint
from cfexplain.search import Evaluation

__all__ = [
    "CrossEntropy",
    "DecisionHinge",
    "Hinge",
    "InputDistance",
    "LatentDistance",
    "LogDensity",
    "LogOddsHinge",
    "Objective",
    "PerceptualDistance",
    "SecondOpinion",
    "TargetLogProbability",
    "TargetProbability",
    "TargetValue",
    "Term",
    "TypicalDensity",
    "TypicalFeatures",
    "TypicalInk",
    "greyness",
]

# How far beyond its condition a hinge aims
LOG_ODDS_SLACK = 0.02
LOG_DENSITY_SLACK = 0.5
FEATURE_SLACK = 0.01

# What is kept of x for a term that compares in features, in all rows that are searched together (2048 at most): enough
# for images of 64x64 in SqueezeNet. The peak is twice that. Where it would be more, every step computes them again.
REFERENCE_BYTES = 2**30


@dataclass(frozen=True)
class Term(ABC):
    """One weighted part of the objective."""

    weight: float = 1.0

    name = "term"

    @abstractmethod
    def loss(self, point: Point) -> Tensor:
        """The unweighted loss of each row, shape (B,)."""

    def holds(self, point: Point) -> Tensor | None:
        """Whether each row meets the term's condition, shape (B,); None if it sets none."""
        return None

    def reference(self, x: Tensor, tile: int) -> dict[str, Tensor]:
        """What the term wants to be kept in ``point.rows`` of the rows x (B, ...) while x′ moves: name -> (B, ...)."""
        return {}


@dataclass(frozen=True)
class Hinge(Term):
    """A condition, and a pull towards it: max(excess + slack, 0), until the excess is at most 0.

    The slack lets a hinge aim beyond its condition, so that a step lands inside and not on the edge.
    """

    slack = 0.0

    @abstractmethod
    def excess(self, point: Point) -> Tensor:
        """How far each row is from meeting the condition, shape (B,); at most 0 where it does."""

    def loss(self, point: Point) -> Tensor:
        return torch.relu(self.excess(point) + self.slack)

    def holds(self, point: Point) -> Tensor:
        return self.excess(point) <= 0


@dataclass(frozen=True)
class DecisionHinge(Hinge):
    """max(0.5 + ε − p(ỹ|x′), 0) (PLACE, eq. 2), with 0.5 + ε = `confidence`. Flat where p(ỹ|x′) ≈ 0.

    Without a `confidence` each row has its own, as log-odds: ``rows["needed"]``.
    """

    confidence: float | None = 0.55
    name = "decision"

    def _needed(self, point: Point) -> Any:
        return point.rows["needed"].sigmoid() if self.confidence is None else self.confidence

    def excess(self, point: Point) -> Tensor:
        return self._needed(point) - point.probability


@dataclass(frozen=True)
class LogOddsHinge(Hinge):
    """The hinge of eq. 2 on log-odds: the same boundary, and a gradient however sure the classifier is of another class.

    Without a `confidence` each row has its own, as log-odds: ``rows["needed"]``.
    """

    confidence: float | None = 0.99
    name = "decision"
    row_name = "needed"
    slack = LOG_ODDS_SLACK

    def _needed(self, point: Point) -> Any:
        return point.rows[self.row_name] if self.confidence is None else log_odds_of(self.confidence)

    def _log_odds(self, point: Point) -> Tensor:
        return point.log_odds

    def excess(self, point: Point) -> Tensor:
        return self._needed(point) - self._log_odds(point)


@dataclass(frozen=True)
class TargetProbability(Term):
    """−p(t|x′) until p(t|x′) > Λ (Diffeomorphic Counterfactuals, eq. 5). Its gradient vanishes where p(t|x′) ≈ 0.

    ``rows["needed"]`` is Λ of each row, as log-odds: 1 − p of a float32 is all rounding near 1.
    """

    name = "decision"

    def loss(self, point: Point) -> Tensor:
        return -point.probability

    def holds(self, point: Point) -> Tensor:
        return point.log_odds > point.rows["needed"]


@dataclass(frozen=True)
class CrossEntropy(Term):
    """−log p(t|x′): never flat, and without a condition."""

    name = "decision"

    def loss(self, point: Point) -> Tensor:
        return in_vectors(torch.nn.functional.softplus, -point.log_odds)


@dataclass(frozen=True)
class TargetLogProbability(CrossEntropy, TargetProbability):
    """The cross-entropy that the authors' code descends, until p(t|x′) > Λ: the direction of eq. 5 in each row."""


@dataclass(frozen=True)
class TargetValue(Term):
    """Distance of a regressor's value to the wanted interval (Diffeomorphic Counterfactuals, section 2.2).

    "maximize" and "minimize" are ascent and descent of the value without end; their condition is never met.
    """

    scale: float = 1.0
    name = "value"

    def loss(self, point: Point) -> Tensor:
        assert isinstance(point, ValuePoint)
        return point.gap / self.scale

    def holds(self, point: Point) -> Tensor:
        assert isinstance(point, ValuePoint)
        return (point.value >= point.rows["low"]) & (point.value <= point.rows["high"])


@dataclass(frozen=True)
class LatentDistance(Term):
    """‖z − z′‖₂ (PLACE, eq. 3), not squared."""

    name = "distance"

    def loss(self, point: Point) -> Tensor:
        return row_norm(point.z - point.rows["z0"])


@dataclass(frozen=True)
class InputDistance(Term):
    """‖x − x′‖₁ or ‖x − x′‖₂², summed over pixels or columns."""

    norm: int = 1

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"l{self.norm}_distance"

    def loss(self, point: Point) -> Tensor:
        change = (point.x - point.rows["x"]).flatten(1)
        return change.abs().sum(1) if self.norm == 1 else change.square().sum(1)


@dataclass(frozen=True)
class LogDensity(Term):
    """−log p_F(z′|ỹ) (PLACE, eq. 4). Unbounded: it goes on past the real images towards a prototype."""

    name = "density"

    def loss(self, point: Point) -> Tensor:
        return -point.log_density


@dataclass(frozen=True)
class TypicalDensity(Hinge):
    """A hinge on log p_F(z′|ỹ) at ``rows["typical"]``, a quantile of the target class's own log densities, in nats."""

    name = "density"
    slack = LOG_DENSITY_SLACK

    def excess(self, point: Point) -> Tensor:
        return point.rows["typical"] - point.log_density


@dataclass(frozen=True)
class SecondOpinion(LogOddsHinge):
    """The log-odds hinge on the least convinced of several small classifiers of the latent."""

    name = "second_opinion"
    row_name = "opinion_needed"

    def _log_odds(self, point: Point) -> Tensor:
        return point.opinion


@dataclass(frozen=True)
class TypicalFeatures(Hinge):
    """A hinge on the Mahalanobis distance of x′ to the target class in the explained classifier's penultimate features.

    The unit is ``rows["feature_limit"]``, a quantile of the class's own distances. Sees what the density of latents does
    not: faint or broken strokes that the decoder draws from a typical code.
    """

    name = "features"
    slack = FEATURE_SLACK

    def excess(self, point: Point) -> Tensor:
        return point.feature_distance / point.rows["feature_limit"] - 1


@dataclass(frozen=True)
class TypicalInk(Hinge):
    """A hinge on the `greyness` of x′, in units of ``rows["ink_limit"]``, a quantile of the target class's own images.

    For ink on paper: a decoder draws what it is not sure of in grey, and neither the density of latents nor the
    classifier minds.
    """

    data_range: tuple[float, float] = (0.0, 1.0)
    name = "ink"
    slack = FEATURE_SLACK

    def excess(self, point: Point) -> Tensor:
        return greyness(point.x, self.data_range) / point.rows["ink_limit"] - 1


@dataclass(frozen=True)
class PerceptualDistance(Term):
    """LPIPS(x, x′) (PLACE, eq. 5), or any distance ``(x, x') -> (B,)``.

    A distance with methods ``reference(x) -> features, one tensor (B, ...) a layer`` and ``distance_to(features, x')``
    (those of `cfexplain.perceptual` have them) sees x once a search, and not once a step: see :meth:`reference`.
    """

    distance: Any = None
    name = "perceptual"

    def reference(self, x: Tensor, tile: int) -> dict[str, Tensor]:
        """The features of x, computed `tile` rows at a time; none if they take more than `REFERENCE_BYTES` together."""
        if not all(callable(getattr(self.distance, name, None)) for name in ("reference", "distance_to")) or not len(x):
            return {}
        row = in_tiles(self.distance.reference, x[:1], tile=tile)
        if len(x) * sum(layer.numel() * layer.element_size() for layer in row) > REFERENCE_BYTES:
            return {}
        layers = row if len(x) == 1 else in_tiles(self.distance.reference, x, tile=tile)
        return dict(zip(self._keys(len(layers)), layers, strict=True))

    def _keys(self, count: int) -> list[str]:
        return [f"{self.name}:{id(self.distance)}:{layer}" for layer in range(count)]  # other terms have distances too

    def loss(self, point: Point) -> Tensor:
        features = tuple(point.rows[key] for key in self._keys(len(point.rows)) if key in point.rows)
        if features:
            return self.distance.distance_to(features, point.x)
        return self.distance(point.rows["x"], point.x)


class Objective:
    """Σₖ λₖ Lₖ (PLACE, eq. 1) and the conditions of its terms.

    A term of weight 0 is never computed; its condition is not asked for either.

    Parameters
    ----------
    terms : sequence of Term
    needs_valid : bool, default=True
        Whether a row that is done must also have the target for its most probable class: not where a confidence below
        one half is asked for.
    """

    def __init__(self, terms: Sequence[Term], needs_valid: bool = True):
        self.needs_valid = needs_valid
        self.terms = [term for term in terms if term.weight]
        for term in self.terms:
            if term.weight < 0:
                raise ValueError(f"The weight of the {term.name} term is {term.weight}; weights are not negative.")
        placed = list(enumerate(self.terms))
        self._hinges = [(k, term) for k, term in placed if isinstance(term, Hinge)]
        self._others = [(k, term) for k, term in placed if not isinstance(term, Hinge)]
        self._kept: dict[Any, tuple[Tensor, ...]] = {}

    def reference(self, x: Tensor, tile: int) -> dict[str, Tensor]:
        """What the terms want to be kept of the rows x: to be merged into the ``rows`` of their points."""
        return {name: values for term in self.terms for name, values in term.reference(x, tile).items()}

    def evaluate(self, point: Point) -> Evaluation:
        # one weight for all rows, or one a row: ``rows["weight:k"]``, of shape (B,), for the k-th of `terms`
        loss: Any = sum(point.rows.get(f"weight:{k}", term.weight) * term.loss(point) for k, term in self._others)
        met = [rows for _, term in self._others if (rows := term.holds(point)) is not None]
        if self._hinges:  # all together: a third of the operations
            excess = torch.stack([term.excess(point) for _, term in self._hinges], 1)
            weights, slack = self._constants(excess, point.rows)
            loss = loss + (torch.relu(excess + slack) * weights).sum(1)
            met.append((excess.detach() <= 0).all(1))
        done = point.valid if self.needs_valid else torch.ones_like(point.valid)
        for rows in met:
            done = done & rows
        return Evaluation(loss=loss, done=done, valid=point.valid, score=point.score.detach())

    def _constants(self, excess: Tensor, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Weights and slacks of the hinges, (hinges,) or (B, hinges)."""
        key, hinges = (excess.dtype, excess.device), self._hinges
        if key not in self._kept:
            self._kept[key] = tuple(excess.new_tensor(values) for values in (
                [term.weight for _, term in hinges], [term.slack for _, term in hinges]))
        weights, slack = self._kept[key]
        if any(f"weight:{k}" in rows for k, _ in hinges):
            weights = torch.stack([rows.get(f"weight:{k}", weights[i].expand(len(excess))).to(excess)
                                   for i, (k, _) in enumerate(hinges)], 1)
        return weights, slack

    def conditions(self, point: Point) -> dict[str, Tensor]:
        """Which condition each row meets: name -> bool tensor of shape (B,)."""
        met = {term.name: term.holds(point) for term in self.terms}
        return {name: rows for name, rows in met.items() if rows is not None}
