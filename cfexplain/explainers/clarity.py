"""CLARITY: descent on an ensemble of classifiers of the latent (Theobald et al., 2022), re-implemented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cfexplain.explainers.base import CounterfactualExplainer
from cfexplain.foundation.numbers import log_odds, log_odds_of
from cfexplain.foundation.parameters import Number
from cfexplain.foundation.remainders import in_vectors
from cfexplain.objective import LatentDistance, Point, Term
from cfexplain.persistence import storable

__all__ = ["CLARITYExplainer"]


@dataclass(frozen=True)
class EnsembleCrossEntropy(Term):
    """−log p̄(ỹ|z′) of the mean p̄ of the members' probabilities, until p̄(ỹ|z′) reaches `confidence`."""

    confidence: float = 0.5
    name = "ensemble"

    @staticmethod
    def _log_odds(point: Point) -> Tensor:
        # the softmax of log p̄ is p̄
        return log_odds(torch.logsumexp(point.opinions.log_softmax(-1), 0), point.target)

    def loss(self, point: Point) -> Tensor:
        return in_vectors(torch.nn.functional.softplus, -self._log_odds(point))

    def holds(self, point: Point) -> Tensor:
        return self._log_odds(point) >= log_odds_of(self.confidence)


@storable
@dataclass(kw_only=True, eq=False, repr=False)
class CLARITYExplainer(CounterfactualExplainer):
    """Counterfactuals by descent of the cross-entropy of an ensemble of classifiers that read the latent of a VAE.

    A re-implementation: no code is public and the abstract leaves the recipe open; what it leaves open is a parameter here.
    The ensemble is trained on the labels, beside the classifier that is explained, and the search follows the ensemble
    alone: its gradient is smoother. Whether it is convinced is ``cf.conditions["ensemble"]``; whether the explained
    classifier is, ``cf.valid``, as for every explainer.

    Parameters
    ----------
    classifier, coordinates, target
        See `PLACEExplainer`. The classifier judges what was found, and takes no part in the search.
    density : ConditionalFlow, FrozenEstimator, or None
        log p(z|y), by which plausibility is reported; the search does not see it.
    members : int, default=5
        Classifiers in the ensemble; read at `fit`.
    confidence : float in (0, 1), default=0.9
        Mean probability of the target, over the members, at which a row is done.
    distance_weight : float, default=0.0
        Weight of ‖z − z′‖₂.
    detail, tau
        See `REVISEExplainer`.
    update : {"adam", "normalized"}, default="adam"
    step_size : float, optional
        Default: a learning rate of 0.05, or 0.1 standard deviations a dimension.
    max_steps : int, default=500
    stop, patience, refine
        See `REVISEExplainer`.
    immutable, bounds, image_shape, channels, data_range, classifier_output, batch_size, training_budget, random_state, \
verbose, device
        See `PLACEExplainer`.

    Attributes
    ----------
    opinions_ : nn.Module
        The ensemble: z (B, d) → logits (members, B, K).

    References
    ----------
    Theobald, Pennerath, Conan-Guez, Couceiro, Napoli: Clarity: an improved gradient method for producing quality visual
    counterfactual explanations, 2022.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = CLARITYExplainer(training_budget=0.3, random_state=0).fit(X, y)
    >>> explainer.explain(X[:3], target=1).conditions["ensemble"].tolist()
    [True, True, True]
    """

    start = "latent"
    # a row is done when the ensemble is convinced, whatever the explained classifier says
    needs_valid = False

    parameter_rules = {"members": Number(1, whole=True), "confidence": Number(0, 1, between=True)}

    coordinates: Any = "vae"
    density: Any = None
    members: int = 5
    confidence: float = 0.9
    distance_weight: float = 0.0
    detail: str = "decoder"
    tau: float | str = "auto"
    update: str = "adam"
    step_size: float | None = None
    max_steps: int = 500
    stop: str = "conditions"
    patience: int = 50

    @property
    def second_opinion(self) -> int:
        return int(self.members)

    def terms(self) -> list[Term]:
        return [EnsembleCrossEntropy(1.0, self.confidence), LatentDistance(self.distance_weight)]
