"""Counterfactuals along one direction of a flow's base space (Hvilshøj et al., 2021; Sixt et al., 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from cfexplain.explainers.attributes import fitted
from cfexplain.explainers.path import PathExplainer
from cfexplain.foundation.parameters import Choice
from cfexplain.persistence import storable

__all__ = ["ClassDirectionExplainer"]


@storable(made_from={"coordinates_": "generator"})
@dataclass(kw_only=True, eq=False, repr=False)
class ClassDirectionExplainer(PathExplainer):
    """z(a) = z₀ + a Δ, with one Δ for each pair of classes, up to the first a at which the classifier says the target.

    The classifier gives no gradient; it only says when to stop. In the base space of a flow, Δ is the difference of two
    class centres (ECINN), or the normal of the hyperplane by which a linear classifier of codes separates them, as long as
    the centres are apart along it.

    Parameters
    ----------
    classifier, target
        See `LeapExplainer`.
    generator : {"flow", "vae", "identity"}, Coordinates, …, default="flow"
        See `DiffeomorphicExplainer`.
    direction : {"centres", "linear"}, default="centres"
        Read at `fit`.
    confidence, typical_quantile, max_steps, refine
        See `LeapExplainer`; the density is the generator's prior.
    max_fraction : float, default=10.0
        Largest a, in distances of the two centres.
    clip : {"straight_through", "autograd", "none"}, default="straight_through"
    detail : {"decoder", "residual", "blend", "auto"}, default="decoder"
    tau, immutable, bounds, image_shape, channels, data_range, classifier_output, batch_size, training_budget, \
random_state, verbose, device
        See `PLACEExplainer`.

    Attributes
    ----------
    directions_ : ndarray of shape (K, K, d)
        ``directions_[y, t]`` is Δ from class y to class t.

    References
    ----------
    Hvilshøj, Iosifidis, Assent: ECINN: Efficient Counterfactuals from Invertible Neural Networks, BMVC 2021. Sixt,
    Schuessler, Popescu, Weiß, Landgraf: Do Users Benefit From Interpretable Vision?, ICLR 2022.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = ClassDirectionExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> explainer.explain(X[:3], target=1).valid.tolist()
    [True, True, True]
    """

    directions_: np.ndarray = fitted()

    density = "prior"

    parameter_rules = {"direction": Choice(("centres", "linear"))}

    generator: Any = "flow"
    direction: str = "centres"
    confidence: float = 0.5
    typical_quantile: float | None = None
    max_fraction: float = 10.0
    max_steps: int = 40
    refine: int = 4
    clip: str = "straight_through"
    detail: str = "decoder"
    tau: float | str = "auto"

    @property
    def coordinates(self) -> Any:
        return self.generator

    def learn(self, X: np.ndarray, groups: np.ndarray, codes: np.ndarray, code_groups: np.ndarray,
               defaults: dict[str, Any]) -> None:
        count = len(self.classes_)
        centres = np.stack([codes[code_groups == k].mean(0) for k in range(count)])
        between = centres[None] - centres[:, None]
        if self.direction == "linear":
            linear = LogisticRegression(C=0.1, max_iter=200).fit(codes, code_groups)
            weights = np.concatenate([-linear.coef_, linear.coef_]) if count == 2 else linear.coef_
            normal = weights[None] - weights[:, None]
            length = np.maximum(np.square(normal).sum(-1, keepdims=True), np.finfo(float).tiny)
            between = normal * (between * normal).sum(-1, keepdims=True) / length
        self.directions_ = between.astype(codes.dtype)

    def path_point(self, fraction: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        z0 = rows["z0"]
        delta = torch.from_numpy(self.directions_).to(z0)[rows["source"], rows["target"]]
        return z0 + fraction[:, None] * delta
