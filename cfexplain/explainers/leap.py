"""LeapFactual (Cao et al., 2025) by an exact flow: no gradient of the classifier at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cfexplain.explainers.path import PathExplainer
from cfexplain.persistence import storable

__all__ = ["LeapExplainer"]


@storable
@dataclass(kw_only=True, eq=False, repr=False)
class LeapExplainer(PathExplainer):
    """Counterfactuals by a leap: the class that a conditional flow is told moves from y to ỹ, by a fraction a,

        z(a) = f⁻¹(f(z₀ | y) | (1 − a) y + a ỹ)

    and every row stops at the smallest a at which the classifier says the target. Nothing is differentiated: what is
    explained may be a forest, a remote model, or anything else that has ``predict``; it is asked itself, not a surrogate.
    The published method integrates a flow-matching field instead; a coupling flow makes the same move exactly, in one pass.

    Parameters
    ----------
    classifier : nn.Module, fitted skorch net, fitted estimator or any object with ``predict``, or None
        What is explained; never trained, never differentiated. None trains a network on (X, y).
    coordinates, density, target
        See `PLACEExplainer`. The density is what leaps.
    confidence : float in (0, 1), default=0.5
        p(ỹ|x′) to reach.
    typical_quantile : float in (0, 1), optional
        Also ask that log p(z′|ỹ) reach this quantile of the target class's own. None: only the classifier is asked.
    max_fraction : float, default=3.0
        The longest leap; above 1 it goes beyond the target class, which weakly separated classes need.
    max_steps : int, default=30
        Equal steps in which the way is tried.
    refine : int, default=4
        Bisections between the last fraction that failed and the first that did not.
    detail : {"auto", "decoder", "residual", "blend"}, default="auto"
    tau, sparse, immutable, bounds, image_shape, channels, data_range, classifier_output, batch_size, training_budget, \
random_state, verbose, device
        See `PLACEExplainer`.

    References
    ----------
    Cao et al.: LeapFactual: Reliable Visual Counterfactual Explanation Using Conditional Flow Matching, NeurIPS 2025.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> forest = RandomForestClassifier(random_state=0).fit(X, y)
    >>> explainer = LeapExplainer(forest, training_budget=0.2, random_state=0).fit(X, y)
    >>> forest.predict(np.asarray(explainer.explain(X[:3], target=1))).tolist()
    [1, 1, 1]
    """

    coordinates: Any = "vae"
    density: Any = None
    confidence: float = 0.5
    typical_quantile: float | None = None
    max_fraction: float = 3.0
    max_steps: int = 30
    refine: int = 4
    detail: str = "auto"
    tau: float | str = "auto"
    sparse: bool = True

    def path_point(self, fraction: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        moved = self.density_.swap_codes(rows["z0"], rows["source"], rows["target"], fraction)
        # f⁻¹(f(z)) is z but for rounding; at 0 it is z itself
        return moved.where(fraction[:, None] > 0, rows["z0"])
