"""Counterfactuals guided by prototypes (Van Looveren & Klaise, 2021), re-implemented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from cfexplain.coordinates import Coordinates
from cfexplain.coordinates.named import make_coordinates
from cfexplain.explainers.attributes import fitted
from cfexplain.explainers.base import CounterfactualExplainer
from cfexplain.explainers.task import Goal
from cfexplain.foundation.numbers import check_confidence
from cfexplain.foundation.parameters import Number
from cfexplain.objective import InputDistance, LogOddsHinge, Point, Term
from cfexplain.persistence import storable

__all__ = ["PrototypeExplainer"]


@dataclass(frozen=True)
class PrototypeDistance(Term):
    """‖ENC(x′) − proto‖₂² to ``rows["prototype"]``, a code of the target class (eq. 8 there)."""

    encode: Any = None
    name = "prototype"

    def loss(self, point: Point) -> Tensor:
        return (self.encode(point.x) - point.rows["prototype"]).square().sum(1)


@dataclass(frozen=True)
class AutoencoderError(Term):
    """‖x′ − AE(x′)‖₂²: what an autoencoder of real images cannot draw (eq. 4 there)."""

    reconstruct: Any = None
    name = "autoencoder"

    def loss(self, point: Point) -> Tensor:
        return (point.x - self.reconstruct(point.x)).flatten(1).square().sum(1)


@storable
@dataclass(kw_only=True, eq=False, repr=False)
class PrototypeExplainer(CounterfactualExplainer):
    """Counterfactuals in X itself, drawn towards a prototype of the target class in the latent space of an autoencoder.

    Minimises over x′, for every row by itself,

        c · decision + β ‖x′ − x‖₁ + ‖x′ − x‖₂² + γ ‖x′ − AE(x′)‖₂² + θ ‖ENC(x′) − proto(ỹ)‖₂²

    A re-implementation: Adam in place of FISTA, the decision's hinge on log-odds, and a c that is given, not searched.

    Parameters
    ----------
    classifier, target
        See `PLACEExplainer`.
    autoencoder : {"autoencoder", "vae"}, Coordinates, module or (encoder, decoder), default="autoencoder"
        ENC and AE; a `Coordinates` is cloned and fitted, ``FrozenEstimator`` keeps it as it is.
    confidence : float in (0, 1), default=0.55
        p(ỹ|x′) to reach.
    decision_weight : float, default=10.0
        c
    l1_weight, l2_weight : float, default=0.1 and 1.0
        β, and the weight of the squared distance.
    autoencoder_weight, prototype_weight : float, default=1.0 and 1.0
        γ and θ. The paper's 100 and 200 are for pixels of a smaller range and mean errors.
    k : int, optional
        The prototype is the mean of the `k` codes of the target class nearest to ENC(x). None: the mean of all.
    clip : {"straight_through", "autograd", "none"}, default="straight_through"
    update : {"adam", "normalized"}, default="adam"
    step_size : float, optional
        Default: a learning rate of 0.01, or 0.01 a dimension; in X's units.
    max_steps : int, default=1000
    stop : {"conditions", "converged"}, default="converged"
        See `REVISEExplainer`. A search in X meets its condition as an adversarial example, long before it has come near
        the prototype: by default it goes on until the objective falls no more.
    patience : int, default=50
    refine : int, default=0
    immutable, bounds, image_shape, channels, data_range, classifier_output, batch_size, training_budget, random_state, \
verbose, device
        See `PLACEExplainer`.

    Attributes
    ----------
    autoencoder_ : Coordinates
    prototype_codes_ : list of ndarray of shape (n_k, d)
        Codes of the training rows of each class.

    References
    ----------
    Van Looveren, Klaise: Interpretable Counterfactual Explanations Guided by Prototypes, ECML PKDD 2021.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = PrototypeExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> explainer.explain(X[:3], target=1).valid.tolist()
    [True, True, True]
    """

    autoencoder_: Coordinates = fitted()
    prototype_codes_: list[np.ndarray] = fitted()

    coordinates = "identity"
    density = "prior"
    start, detail, tau = "latent", "decoder", 0.15
    step_sizes = {"normalized": 0.01, "adam": 0.01}

    parameter_rules = {"k": Number(1, whole=True, none=True)}

    autoencoder: Any = "autoencoder"
    confidence: float = 0.55
    decision_weight: float = 10.0
    l1_weight: float = 0.1
    l2_weight: float = 1.0
    autoencoder_weight: float = 1.0
    prototype_weight: float = 1.0
    k: int | None = None
    clip: str = "straight_through"
    update: str = "adam"
    step_size: float | None = None
    max_steps: int = 1000
    stop: str = "converged"
    patience: int = 50

    def learn(self, X: np.ndarray, groups: np.ndarray, codes: np.ndarray, code_groups: np.ndarray,
               defaults: dict[str, Any]) -> None:
        self.autoencoder_, unfitted = make_coordinates(self.autoencoder, defaults)
        if unfitted:
            self.autoencoder_.fit(X)
        own = self.autoencoder_.encode_dataset(X)[0]
        self.prototype_codes_ = [own[groups == k] for k in range(len(self.classes_))]

    def goal(self, X: np.ndarray, target: Any) -> Goal:
        goal = super().goal(X, target)
        codes, wanted = self.autoencoder_.encode_dataset(X)[0], goal.rows["target"]
        prototypes = np.zeros_like(codes)
        for t in np.unique(wanted):
            rows, members = np.flatnonzero(wanted == t), self.prototype_codes_[t]
            if self.k is None:
                prototypes[rows] = members.mean(0)
            else:
                for i in rows:  # each by itself: its bits do not depend on the others
                    near = np.argsort(np.square(members - codes[i]).sum(1), kind="stable")[: self.k]
                    prototypes[i] = members[near].mean(0)
        goal.rows["prototype"] = prototypes
        return goal

    def terms(self) -> list[Term]:
        parts = self.autoencoder_
        return [
            LogOddsHinge(self.decision_weight, check_confidence(self.confidence)), InputDistance(self.l1_weight, 1),
            InputDistance(self.l2_weight, 2), PrototypeDistance(self.prototype_weight, parts.encode),
            AutoencoderError(self.autoencoder_weight, lambda x: parts.decode(parts.encode(x)))]

