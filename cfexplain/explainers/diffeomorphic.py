"""Diffeomorphic Counterfactuals with Generative Models (Dombrowski, Gerken, Müller, Kessel)."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from cfexplain.coordinates import Flow
from cfexplain.explainers.base import CounterfactualExplainer
from cfexplain.explainers.judged import as_given
from cfexplain.explainers.task import Regression
from cfexplain.foundation.numbers import log_odds_of
from cfexplain.foundation.parameters import Choice, Number, check_options
from cfexplain.foundation.settings import with_own_modes
from cfexplain.objective import TargetLogProbability, TargetProbability, TargetValue, Term, TypicalDensity
from cfexplain.persistence import storable
from cfexplain.result import Counterfactuals
from cfexplain.search import SearchOptions

__all__ = ["DiffeomorphicExplainer"]


@storable(made_from={"coordinates_": "generator"})
@dataclass(kw_only=True, eq=False, repr=False)
class DiffeomorphicExplainer(CounterfactualExplainer):
    """Counterfactuals by gradient ascent on f∘g in the base space of a generator g, until confidence Λ (algorithm 1).

    With a flow the coordinates are exact: every x has one z, nothing is lost, and a step stays on the data manifold where
    a step in X leaves it (theorem 1). With a VAE, a GAN or any generator they are approximate (section 2.4). Explains
    classifiers, and regressors (section 2.2): the value is driven up or down until it reaches the target.

    Parameters
    ----------
    classifier : nn.Module, fitted skorch net or scikit-learn estimator, or None
        The classifier or regressor that is explained; used as it is and never trained. None trains a network on (X, y).
        What torch cannot differentiate is searched through a distilled surrogate, and both verdicts are reported.
    generator : {"flow", "vae", "gan", "identity"}, Coordinates, module, or (encoder, decoder), default="flow"
        g. "flow" is exact: `Flow` by its defaults (Glow for images). ``Flow(...)``, ``VAE(...)``, ``GAN(...)`` choose;
        ``FrozenEstimator(flow)`` reuses a fitted one; ``GeneratorCoordinates(G)`` takes any G(z).
    target : label, value, (low, high), "maximize", "minimize", or None
        What `transform` and `score` aim at. None: each row's runner-up class.
    task : {"auto", "classification", "regression"}, default="auto"
        "auto": regression for a regressor of scikit-learn or skorch, and for y of continuous numbers.
    confidence : float in (0, 1) or "auto", default="auto"
        Λ, which p(t|x′) has to exceed. "auto" is what is usual for each class: half of its training rows reach it; at least
        0.55 and at most 0.99.
    ascent : {"log_probability", "probability"}, default="log_probability"
        Whose gradient is followed. The probability is eq. 5 as printed; its gradient is p times that of the
        log-probability, and vanishes where a search begins, at p(t|x) ≈ 0. The log-probability is what the authors' code
        runs (cross-entropy), hence the default. Under ``update="normalized"`` both take the same steps.
    plausibility_weight : float or "auto", default="auto"
        Weight of a hinge on log p(z) at `typical_quantile` of the target class: beyond the paper. "auto" is 0.3 for values,
        for classes of images in the base space of a `Flow`, and where few columns of a table are to change (`sparse`), and
        0, as published, elsewhere. Without it the gradient can follow the few directions in which a flow is stiff, where a
        short way in Z ends in noise, and a change of few columns ends where no data are.
    typical_quantile : float in (0, 1), default=0.5
    clip : {"straight_through", "autograd", "none"}, default="straight_through"
        How images that leave `data_range` are brought back: a flow decodes to −0.056 … 1.056. See `clipped`.
    start : {"latent", "learned"}, default="latent"
        z₀, as algorithm 1 has it; "learned", of classes, as in `PLACEExplainer`.
    detail : {"auto", "decoder", "residual", "blend", "learned"}, default="decoder"
        "decoder" is the papers' x′ = g(z′). The others put back what approximate coordinates lost.
    tau : float or "auto", default="auto"
        See `PLACEExplainer`.
    update : {"auto", "normalized", "adam"}, default="auto"
        "adam" is as published. Normalised steps cross to the other class where small ones stop half-way; a row that gets
        no nearer for 20 of them starts again with steps of another length. "auto" is "adam" for values of images in the base
        space of a `Flow`, to which the way is long, and "normalized" elsewhere.
    step_size : float, optional
        In standard deviations a dimension. Default of "normalized": 1/28, or, where plausibility is weighed, 1.5/28, which
        is a length of 1.5 for 28×28 pixels, and no longer for larger images. Default of "adam": a learning rate of 0.005.
    max_steps : int, default=500
    stop : {"conditions", "converged"}, default="conditions"
    patience : int, default=50
    refine : int, optional
        Bisections back towards z₀ once the target is reached. Default: 0 for a class (algorithm 1 returns the first point
        that is confident), 8 for a value (so that 7 is not 7.4).
    sparse : bool, default=True
        See `PLACEExplainer`.
    immutable, bounds, image_shape, channels, data_range, classifier_output, batch_size, training_budget, random_state, \
verbose, device
        See `PLACEExplainer`. Of a regressor, columns of a table that `bounds` does not name stay in the range of the
        training rows.

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
        Of a classifier.
    coordinates_, classifier_, density_
        The fitted parts; ``density_`` is the generator's prior, N(0, I).

    References
    ----------
    Dombrowski, Gerken, Müller, Kessel: Diffeomorphic Counterfactuals with Generative Models, IEEE TPAMI 2024.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = DiffeomorphicExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> explainer.explain(X[:3], target=1).valid.tolist()
    [True, True, True]
    >>> lengths = DiffeomorphicExplainer(task="regression", training_budget=0.1, random_state=0).fit(X[:, :3], X[:, 3])
    >>> lengths.explain(X[:2, :3], target=(1.0, 1.2)).prediction.round(1).tolist()
    [1.0, 1.0]
    """

    density = "prior"
    inner = "flow"

    parameter_rules = {
        "start": Choice(("latent", "learned")), "ascent": Choice(("log_probability", "probability")),
        "update": Choice(("auto", "adam", "normalized")),
        "plausibility_weight": Number(0, words=("auto",))}

    generator: Any = "flow"
    task: str = "auto"
    confidence: float | str = "auto"
    ascent: str = "log_probability"
    plausibility_weight: float | str = "auto"
    typical_quantile: float = 0.5
    clip: str = "straight_through"
    start: str = "latent"  # algorithm 1, line 1: z ← g⁻¹(x)
    detail: str = "decoder"
    tau: float | str = "auto"
    update: str = "auto"
    step_size: float | None = None
    max_steps: int = 500
    stop: str = "conditions"
    patience: int = 50
    refine: int | None = None
    sparse: bool = True

    @property
    def coordinates(self) -> Any:
        return self.generator

    @property
    def needs_valid(self) -> bool:  # type: ignore[override]
        """A row is done at p > Λ, also where a Λ that is given is below one half and another class more probable still."""
        return self.confidence == "auto"

    @property
    def step_sizes(self) -> dict[str, float]:
        """With a density to hold it, a step may be longer; in many dimensions one length is long enough."""
        length = 1.5 if self._plausibility_weight() else 1.0
        return {"normalized": length / max(28.0, self.coordinates_.latent_dim_**0.5), "adam": 5e-3}

    @property
    def stall(self) -> int | None:
        """A flow's landscape is rugged: a row in fifty gets stuck, and reaches its target by steps of another length."""
        return 20 if self._update() == "normalized" else None

    def search_options(self, record_path: bool = False, **options: Any) -> SearchOptions:
        refine = self.refine if self.refine is not None else 8 if self.is_regression else 0
        return super().search_options(record_path, **{"update": self._update(), "refine": refine, **options})

    def _update(self) -> str:
        if self.update != "auto":
            return self.update
        return "adam" if self._image_flow() and self.is_regression else "normalized"

    def _plausibility_weight(self) -> float:
        if self.plausibility_weight != "auto":
            return float(self.plausibility_weight)
        # a change of few columns does not follow the flow, so that only a density keeps it among the data
        return 0.3 if self.is_regression or self._image_flow() or self.changes_few() else 0.0

    def _image_flow(self) -> bool:
        return self.layout_.is_image and isinstance(self.coordinates_.stages[0], Flow)

    def terms(self) -> list[Term]:
        """Eq. 5, or its logarithm; for a regressor the way to the value."""
        if isinstance(self.task_, Regression):
            decision: Term = TargetValue(scale=max(self.task_.spread, 1e-12))
        else:
            decision = TargetLogProbability() if self.ascent == "log_probability" else TargetProbability()
        return [decision, TypicalDensity(self._plausibility_weight())]

    @with_own_modes
    def confidence_sweep(self, X: Any, target: Any = None,
                         confidences: Sequence[float] = (0.25, 0.5, 0.75, 0.9, 0.99)) -> list[Counterfactuals]:
        """`explain` at several Λ, in one batch (figure 18): a result for each of `confidences`, each of all rows of X.

        Every one has the bits that ``explain`` with that confidence returns. Below one half a row may have reached Λ while
        another class is more probable: it is `not_found` then, and ``conditions["decision"]`` is true.

        Raises
        ------
        ValueError
            A confidence is not strictly between 0 and 1, or the model is a regressor.
        """
        check_is_fitted(self)
        if self.is_regression:
            raise ValueError("A regressor has no confidence to sweep; pass one target value a row instead.")
        for confidence in confidences:
            check_options({"confidence": confidence}, {"confidence": Number(0, 1, between=True)})
        needed = [log_odds_of(confidence) for confidence in confidences]
        if not needed:
            raise ValueError("confidences is empty; pass at least one number strictly between 0 and 1.")
        started, container = time.perf_counter(), "torch" if isinstance(X, Tensor) else "numpy"
        given, X = X, self.read_samples(X)
        goal, n = self.goal(X, self.target if target is None else target).repeated(len(needed)), len(X)
        goal.rows["needed"] = np.repeat(needed, n).astype(X.dtype)
        X = np.concatenate([X] * len(needed))
        sweeping = copy.copy(self)
        sweeping.confidence = confidences[0]  # a number: rows have their own
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = self.result(X, goal, sweeping.search(X, goal), container=container,
                                seconds=time.perf_counter() - started)
        return [as_given(found[k * n : (k + 1) * n], given) for k in range(len(needed))]
