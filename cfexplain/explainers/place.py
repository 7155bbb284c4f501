"""PLACE: plausible counterfactuals in the latent space of an autoencoder (Lenkiewicz et al.)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cfexplain.density import ConditionalFlow
from cfexplain.explainers.base import CounterfactualExplainer
from cfexplain.foundation.numbers import check_confidence
from cfexplain.foundation.parameters import Choice
from cfexplain.objective import (
    DecisionHinge,
    LatentDistance,
    LogDensity,
    LogOddsHinge,
    PerceptualDistance,
    SecondOpinion,
    Term,
    TypicalDensity,
    TypicalFeatures,
    TypicalInk,
)
from cfexplain.perceptual import LPIPS
from cfexplain.persistence import storable

__all__ = ["PLACEExplainer"]

# Of `feature_weight="auto"`, for images
FEATURE_WEIGHT = 20.0
INK_WEIGHT = 20.0  # of `ink_weight="auto"`, for near-binary images
_PUBLISHED: dict[str, Any] = dict(
    coordinates="autoencoder", density="attributes", decision="probability", confidence=0.55,
    plausibility="likelihood", second_opinion=0, feature_weight=0.0, ink_weight=0.0, detail="decoder", start="latent",
    update="adam",
    stop="converged", max_steps=2000, refine=0, sparse=False)
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "swap": dict(start="swap", refine=0),
    "closest": dict(start="latent", step_size=0.05, refine=8),
    "crisp": dict(start=0.4, feature_quantile=0.2, ink_weight=20.0, ink_quantile=0.5),
    "place-mnist": dict(**_PUBLISHED, step_size=0.01, decision_weight=10.0, distance_weight=1.0,
                        plausibility_weight=10.0, patience=100),
    "place-celeba": dict(**_PUBLISHED, step_size=0.005, decision_weight=1000.0, distance_weight=1.0,
                         plausibility_weight=2.0, perceptual_weight=1.0, patience=100),
    "classifier-only": dict(confidence=0.55, plausibility_weight=0.0, second_opinion=0, feature_weight=0.0, ink_weight=0.0,
                            start="latent", update="adam", step_size=0.1, refine=0, sparse=False),
}


@storable
@dataclass(kw_only=True, eq=False, repr=False)
class PLACEExplainer(CounterfactualExplainer):
    """Plausible counterfactuals by a search in latent space, under a flow's density of the target class.

    Minimises over z′, for every row by itself (eq. 1),

        λ_dec · decision + λ_dist · ‖z − z′‖₂ + λ_plaus · plausibility + λ_perc · LPIPS(x, x′),    x′ = g(z′)

    The defaults keep the published terms and mend what failed on real images: the decision hinge acts on log-odds
    (eq. 2 has no gradient where p(ỹ|x′) ≈ 0), the density is a hinge at the target class's own median (eq. 4 is
    unbounded and ends in one prototype for all), small classifiers of the latent must agree, an image must be typical of
    the target class in the classifier's own features too, the search starts a little towards the flow's swap of classes,
    and what meets every condition is drawn back towards z₀ while it does. The published setting is
    ``PLACEExplainer.preset("place-mnist")`` or ``"place-celeba"``.

    Parameters
    ----------
    classifier : nn.Module, fitted skorch net or scikit-learn estimator, or None
        What is explained; used as it is and never trained. None trains a network on (X, y). What torch cannot
        differentiate is searched through a distilled surrogate, and both verdicts are reported.
    coordinates : {"vae", "autoencoder", "identity"}, Coordinates, module, or (encoder, decoder), default="vae"
        The space to search. PLACE names the deterministic "autoencoder". ``FrozenEstimator(coordinates)`` reuses
        fitted ones.
    density : ConditionalFlow, FrozenEstimator, or None
        log p_F(z|y); None is ``ConditionalFlow()``.
    target : label or None
        What `transform` and `score` aim at; None is each row's runner-up class.
    decision : {"logit", "probability"}, default="logit"
        The hinge on log-odds, or on the probability as in eq. 2.
    confidence : float in (0, 1) or "auto", default="auto"
        p(ỹ|x′) to reach; 0.5 + ε in eq. 2. "auto" is what is usual for each class: half of its training rows reach it; at
        least 0.55, a clear majority, and at most 0.99. A number that few real rows reach draws all to one prototype.
    plausibility : {"typical", "likelihood"}, default="typical"
        A hinge at a quantile of the target class's own log densities, or eq. 4 as written.
    typical_quantile : float in (0, 1), default=0.5
    decision_weight, distance_weight, plausibility_weight, perceptual_weight : float
        λ_dec, λ_dist, λ_plaus, λ_perc. A term of weight 0 is not computed.
    perceptual : {"lpips"} or callable ``(x, x') -> (B,)``, default="lpips"
    second_opinion : int, default=3
        Small classifiers of the latent that must be convinced too; 0 for none. They are not the model that is explained:
        their verdict is reported apart.
    opinion_confidence : float or "auto", optional
        What they must reach; default `confidence`, where "auto" is what is usual for them.
    feature_weight : float or "auto", default="auto"
        Weight of a hinge on how typical x′ is in the classifier's own penultimate features (the input of its last linear
        layer). "auto" is 20 for images, and 0, which leaves it out, for tables and where the last layer is not linear.
        Must not be 0 at `fit` to be used later.
    feature_quantile : float in (0, 1), default=0.3
        x′ has to lie nearer to the target class than this share of its own training rows; smaller is stricter.
    ink_weight : float or "auto", default="auto"
        Weight of a hinge on the share of grey in x′, for images of ink on paper. "auto" is 20 where most pixels of most
        training images are black or white, and 0, which leaves it out, elsewhere.
    ink_quantile : float in (0, 1), default=0.7
        x′ may be as grey as this share of the target class's training images.
    detail : {"auto", "decoder", "residual", "blend", "learned"}, default="auto"
        How what the coordinates lost is put back; "auto" is "blend" for images and "residual" for tables. "learned" trains,
        at `fit`, a network that paints what belongs where a picture changed from what surrounds it: nothing of what was
        there shines through. Of a `TwoStage` it paints latents, of other coordinates pixels.
    tau : float or "auto", default="auto"
        Change, as a share of ``data_range``, at which "blend" gives up the original detail. "auto" is 0.15 for ink on paper
        and for what a `TwoStage` loses of pixels, and 0.25 for other pictures: a print stays on a garment that gets a little
        lighter. Where nothing but a plain background is left, less of a change is enough.
    start : {"auto", "latent", "swap", "learned"} or float in [0, 1], default="auto"
        z₀, the flow's base code of z₀ under the target class, or a share of the way from one to the other; "auto" is 0.6.
        Of a `TwoStage`, "auto" goes along what tells like pictures of the two classes apart, as far as every condition
        holds, and only what this is not enough for is searched by gradients; see `ClassDifference`. "learned", for
        thousands of rows: `fit`, or `distil`, trains a small network of the latent that stands in for decoder and
        classifier. Each row is searched on it; what is found is the answer after no step where it meets every condition,
        as the explained model judges it, and is where the search begins where it does not.
    update : {"normalized", "adam"}, default="normalized"
    step_size : float, optional
        Default 0.12 standard deviations a dimension ("normalized") or a learning rate of 0.05 ("adam").
    max_steps : int, default=100
    stop : {"conditions", "converged"}, default="conditions"
        A row is done when every condition holds, or, as published, when its objective has not fallen for `patience`
        steps.
    patience : int, default=50
    refine : int, default=4
        Bisections back towards z₀ after every condition holds.
    sparse : bool, default=True
        Rows of a table change few columns, by little: changes of one, two, … columns are tried on the model itself, and the
        cheapest that meets every condition is the answer; only rows that have none are searched, and there columns go back,
        least needed first. What stays cannot become more typical or surer, so a fifth of `typical_quantile` is asked, no
        more than x itself has in its own class, and with ``confidence="auto"`` what nine in ten rows of the class reach. A
        row that the search leaves without its target is looked for among real rows and between them. Images are as they are.
    max_changes : int, optional
        The most columns of a table that may change in a row. None: as many as it takes.
    immutable : list of column names or indices, optional
        Columns of a table that must stay as they are.
    bounds : dict of column -> (low, high), optional
        Intervals that columns must stay in, in X's units; None for an open side.
    monotone : dict of column -> {"increase", "decrease"}, optional
    constraints : list of str, optional
        Rules between columns of a table, such as ``"part <= whole"`` or ``"ratio == debt / income"`` (``x0``, ``x1``, …
        where X has no names), kept exactly; see `explain_pipeline`.
    causes : dict of column -> list of columns, optional
        Effects that follow their causes; see `explain_pipeline`.
    costs : dict of column -> number, or (number, "unit"), optional
        Prices of a standard deviation, or of a unit, of which the total is minimised; 1 by default. ``cf.cost`` has it.
    image_shape : (C, H, W), optional
        Reads rows of shape (d,) as images, for use in a scikit-learn pipeline.
    channels : {"auto", "first", "last"}, default="auto"
        Where images have their channels: (C, H, W), as in torch, or (H, W, C), as from Keras, Pillow, matplotlib and TFDS.
        "auto" tells by the shape and warns where it cannot; ``layout_.channels`` is what was read. Results come back in the
        layout of X. A classifier is fed what it takes: a torch module (C, H, W), an estimator the rows' own layout.
    data_range : (low, high), default=(0, 1)
        Of images.
    classifier_output : {"auto", "logits", "probabilities"}, default="auto"
    batch_size : int or "auto"
        Rows evaluated together; "auto" is 32 on a CPU, 4 of large pictures, and 512 on a GPU, halved when memory runs out.
    training_budget : float, default=1.0
        Multiplies the gradient updates of every network that `fit` trains.
    random_state : int, RandomState or None
    verbose : int or "auto", default="auto"
        "auto" shows what takes longer than two seconds, with the time left, in a terminal or a notebook, and is silent where
        the output goes into a file or a pipe; 0 is silent, 1 shows all.
    device : str, optional
        Default: the classifier's, else the CPU.

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
    coordinates_, density_, classifier_, opinions_
        The fitted parts.
    class_counts_ : ndarray of shape (K,)
        Training rows a class.
    reconstruction_ : dict or None
        How well the coordinates draw rows that they were not trained on: ``error`` as a share of the rows' variance,
        ``sharpness`` of images as a share of their own, ``decisions_kept`` of the classifier. None where they are exact.

    Notes
    -----
    Parameters of the search (weights, confidence, start, update, …) are read when `explain` runs, so
    ``explainer.set_params(start="swap")`` needs no new fit.

    References
    ----------
    Lenkiewicz, Musiałek, Furman, Zięba: Plausible Visual Counterfactual Explanations in Latent Space with Normalizing
    Flows.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> cf = explainer.explain(X[:3], target=1)
    >>> cf.x_cf.shape, len(cf)
    ((3, 4), 3)
    """

    parameter_rules = {"decision": Choice(("logit", "probability")), "plausibility": Choice(("typical", "likelihood"))}

    step_sizes = {"normalized": 0.12, "adam": 0.05}

    coordinates: Any = "vae"
    density: Any = None
    decision: str = "logit"
    confidence: float | str = "auto"
    plausibility: str = "typical"
    typical_quantile: float = 0.5
    decision_weight: float = 10.0
    distance_weight: float = 1.0
    plausibility_weight: float = 1.0
    perceptual_weight: float = 0.0
    perceptual: str | Callable = "lpips"
    second_opinion: int = 3
    opinion_confidence: float | str | None = None
    feature_weight: float | str = "auto"
    feature_quantile: float = 0.3
    ink_weight: float | str = "auto"
    ink_quantile: float = 0.7
    detail: str = "auto"
    tau: float | str = "auto"
    start: str | float = "auto"
    update: str = "normalized"
    step_size: float | None = None
    stop: str = "conditions"
    patience: int = 50
    refine: int = 4
    sparse: bool = True

    @classmethod
    def preset(cls, name: str, **parameters: Any) -> PLACEExplainer:
        """An explainer with the named setting; `parameters` add to it or override it.

        - ``"default"``
        - ``"swap"``: start from the flow's swap; 0–2 steps.
        - ``"closest"``: from z₀ by half steps, then back towards it.
        - ``"crisp"``: no greyer than half of real ink, and nearer to the class.
        - ``"place-mnist"``, ``"place-celeba"``: as published (section 4.1).
        - ``"classifier-only"``: no density, no second opinion; what REVISE does in the same space.

        >>> PLACEExplainer.preset("place-mnist").plausibility_weight
        10.0
        """
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is not known; choose one of {sorted(PRESETS)}.")
        chosen = {**PRESETS[name], **parameters}
        if chosen.get("density") == "attributes":
            chosen["density"] = ConditionalFlow(base="attributes")
        return cls(**chosen)

    def terms(self) -> list[Term]:
        """Eqs. 2–5 and the second opinion."""
        confidence = check_confidence(self.confidence)
        decision = {"probability": DecisionHinge, "logit": LogOddsHinge}[self.decision]
        density = {"typical": TypicalDensity, "likelihood": LogDensity}[self.plausibility]
        terms = [decision(self.decision_weight, confidence), LatentDistance(self.distance_weight),
                 density(self.plausibility_weight)]
        if self.perceptual_weight:
            distance = LPIPS(data_range=self.data_range) if self.perceptual == "lpips" else self.perceptual
            terms.append(PerceptualDistance(self.perceptual_weight, distance))
        if self.second_opinion and self.opinions_ is not None:
            needed = confidence if self.opinion_confidence is None else check_confidence(self.opinion_confidence)
            terms.append(SecondOpinion(self.decision_weight, needed))
        if self.class_features_ is not None:
            terms.append(TypicalFeatures(FEATURE_WEIGHT if self.feature_weight == "auto" else float(self.feature_weight)))
        ink = (INK_WEIGHT if getattr(self, "ink_", 0) else 0.0) if self.ink_weight == "auto" else self.ink_weight
        if ink:
            if self.greyness_ is None:
                raise ValueError("ink_weight= is for images, but the explainer was fitted on a table.")
            terms.append(TypicalInk(float(ink), self.ink_range()))
        return terms
