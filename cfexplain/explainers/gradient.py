"""Gradient ascent in X: the adversarial control of Diffeomorphic Counterfactuals (eq. 4)."""

from __future__ import annotations

from typing import Any

from cfexplain.explainers.diffeomorphic import DiffeomorphicExplainer

__all__ = ["GradientExplainer"]


class GradientExplainer(DiffeomorphicExplainer):
    """The same ascent as `DiffeomorphicExplainer`, in pixels or columns themselves: adversarial examples.

    Convincing for the classifier, and for nobody else: what to compare a counterfactual with. Steps of images are Adam's
    with a learning rate of 5e-4 a pixel, as published for MNIST.

    Parameters
    ----------
    classifier, target, task, confidence, ascent, clip, stop, patience, refine, immutable, bounds, image_shape, data_range, \
classifier_output, batch_size, training_budget, random_state, verbose, device
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

    def __init__(
        self,
        classifier: Any = None,
        *,
        target: Any = None,
        task: str = "auto",
        confidence: float = 0.99,
        ascent: str = "log_probability",
        clip: str = "straight_through",
        region: Any = None,
        update: str = "adam",
        step_size: float | None = None,
        max_steps: int = 2000,
        stop: str = "conditions",
        patience: int = 50,
        refine: int | None = None,
        immutable: list | None = None,
        bounds: dict | None = None,
        image_shape: tuple[int, ...] | None = None,
        data_range: tuple[float, float] = (0.0, 1.0),
        classifier_output: str = "auto",
        batch_size: int | str = "auto",
        training_budget: float = 1.0,
        random_state: Any = None,
        verbose: int = 0,
        device: str | None = None,
    ):
        super().__init__(
            classifier, generator="identity", target=target, task=task, confidence=confidence, ascent=ascent,
            plausibility_weight=0.0, clip=clip, update=update, step_size=step_size, max_steps=max_steps, stop=stop,
            patience=patience, refine=refine, immutable=immutable, bounds=bounds, image_shape=image_shape,
            data_range=data_range, classifier_output=classifier_output, batch_size=batch_size,
            training_budget=training_budget, random_state=random_state, verbose=verbose, device=device)
        self.region = region

    @property
    def step_sizes(self) -> dict[str, float]:
        """In units of X: images in [0, 1], columns that were standardised before."""
        return {"normalized": 0.01, "adam": 5e-4 if self.layout_.is_image else 5e-3}
