"""Gradient ascent in X: the adversarial control of Diffeomorphic Counterfactuals (eq. 4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cfexplain.explainers.diffeomorphic import DiffeomorphicExplainer
from cfexplain.persistence import storable

__all__ = ["GradientExplainer"]


@storable
@dataclass(kw_only=True, eq=False, repr=False)
class GradientExplainer(DiffeomorphicExplainer):
    """The same ascent as `DiffeomorphicExplainer`, in pixels or columns themselves: adversarial examples.

    Convincing for the classifier, and for nobody else: what to compare a counterfactual with. Steps of images are Adam's
    with a learning rate of 5e-4 a pixel, as published for MNIST.

    Parameters
    ----------
    classifier, target, task, confidence, ascent, clip, stop, patience, refine, immutable, bounds, image_shape, channels, \
data_range, classifier_output, batch_size, training_budget, random_state, verbose, device
        See `DiffeomorphicExplainer`.
    region : bool array of shape (H, W) or (C, H, W), optional
        The pixels that may change; all others stay as they are. Read at `fit`.
    update : {"adam", "normalized"}, default="adam"
    step_size : float, optional
        Default: a learning rate of 5e-4 for images and 5e-3 for tables ("adam"), or 0.01 a dimension ("normalized"); in
        X's own units, so standardise the columns of a table.
    max_steps : int, default=2000

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = GradientExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> explainer.explain(X[:3], target=1).valid.tolist()
    [True, True, True]
    """

    generator: Any = field(default="identity", init=False)
    plausibility_weight: float | str = field(default=0.0, init=False)
    typical_quantile: float = field(default=0.5, init=False)
    detail: str = field(default="decoder", init=False)
    tau: float = field(default=0.15, init=False)
    sparse: bool = field(default=False, init=False)

    region: Any = None
    update: str = "adam"
    max_steps: int = 2000

    @property
    def step_sizes(self) -> dict[str, float]:
        """In units of X: images in [0, 1], columns that were standardised before."""
        return {"normalized": 0.01, "adam": 5e-4 if self.layout_.is_image else 5e-3}
