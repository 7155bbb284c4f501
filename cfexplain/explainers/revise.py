"""REVISE: individual recourse in the latent space of a VAE (Joshi et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cfexplain.explainers.base import CounterfactualExplainer
from cfexplain.foundation.parameters import Choice, Number
from cfexplain.objective import CrossEntropy, InputDistance, Term
from cfexplain.persistence import storable

__all__ = ["REVISEExplainer"]

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "carla": dict(distance_weight=0.5, step_size=0.1, max_steps=1500, stop="converged", patience=1500),
}


@storable
@dataclass(kw_only=True, eq=False, repr=False)
class REVISEExplainer(CounterfactualExplainer):
    """Counterfactuals by gradient descent in the latent space of a VAE, near in X.

    Minimises over z′, for every row by itself, from z₀ = encode(x),

        −log p(ỹ|g(z′)) + λ ‖x − g(z′)‖₁

    No density: nothing keeps z′ where the decoder has seen data. What a row loses to the decoder's blur counts as distance.

    Parameters
    ----------
    classifier, coordinates, target
        See `PLACEExplainer`.
    density : ConditionalFlow, FrozenEstimator, or None
        log p(z|y), by which plausibility is reported; the search does not see it. None is ``ConditionalFlow()``.
    distance_weight : float or "auto", default="auto"
        λ, of the sum over pixels or columns. "auto" is 0.5 for tables, as in the reference code, and 0.05 for images, of
        which with 0.5 every second row of MNIST never leaves its class.
    norm : {1, 2}, default=1
        ‖·‖₁, or ‖·‖₂².
    start : {"latent", "learned"}, default="latent"
        z₀, as published; "learned" as in `PLACEExplainer`.
    detail : {"decoder", "residual", "blend", "auto"}, default="decoder"
        "decoder" is as published; the others put back what the coordinates lost.
    tau : float or "auto", default="auto"
        See `PLACEExplainer`.
    update : {"adam", "normalized"}, default="adam"
    step_size : float, optional
        Default: 0.1 (both: Adam's learning rate, or standard deviations a dimension).
    max_steps : int, default=1500
    stop : {"conditions", "converged"}, default="conditions"
        A row is done when the classifier says its target (Joshi et al.); or when its objective has not fallen for
        `patience` steps, and the least objective among valid points is returned. ``preset("carla")`` runs all of 1500
        steps, as the reference code does.
    patience : int, default=100
    refine : int, default=0
    immutable, bounds, image_shape, channels, data_range, classifier_output, batch_size, training_budget, random_state, \
verbose, device
        See `PLACEExplainer`.

    References
    ----------
    Joshi, Koyejo, Vijitbenjaronk, Kim, Ghosh: Towards Realistic Individual Recourse and Actionable Explanations in
    Black-Box Decision Making Systems, 2019. Pawelczyk et al.: CARLA, NeurIPS 2021 (the settings of ``preset("carla")``).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = REVISEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> explainer.explain(X[:3], target=1).valid.tolist()
    [True, True, True]
    """

    step_sizes = {"normalized": 0.1, "adam": 0.1}

    parameter_rules = {
        "start": Choice(("latent", "learned")), "norm": Choice((1, 2)), "distance_weight": Number(0, words=("auto",))}

    coordinates: Any = "vae"
    density: Any = None
    distance_weight: float | str = "auto"
    norm: int = 1
    start: str = "latent"
    detail: str = "decoder"
    tau: float | str = "auto"
    update: str = "adam"
    step_size: float | None = None
    max_steps: int = 1500
    stop: str = "conditions"
    patience: int = 100

    @classmethod
    def preset(cls, name: str, **parameters: Any) -> REVISEExplainer:
        """``"default"``, or ``"carla"``: the settings of the reference implementation; `parameters` override.

        >>> REVISEExplainer.preset("carla").max_steps
        1500
        """
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is not known; choose one of {sorted(PRESETS)}.")
        return cls(**{**PRESETS[name], **parameters})

    def terms(self) -> list[Term]:
        weight = self.distance_weight
        if weight == "auto":
            weight = 0.05 if self.layout_.is_image else 0.5
        return [CrossEntropy(), InputDistance(float(weight), self.norm)]
