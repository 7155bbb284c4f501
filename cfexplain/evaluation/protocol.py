"""The field's protocol for visual counterfactuals as metrics of `evaluate`, each for all rows and for flips alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cfexplain.evaluation.metric import Metric
from cfexplain.foundation.labels import class_indices
from cfexplain.metrics import (
    attributes_changed,
    correlation_difference,
    cout,
    feature_cosine,
    oracle_agreement,
    sfid,
)
from cfexplain.result import Counterfactuals

__all__ = ["protocol_metrics"]

Measured = Callable[[Counterfactuals, Any], Any]  # as in `Metric`


def protocol_metrics(
    *,
    face: Any = None,
    face_threshold: float = 0.5,
    encoder: Any = None,
    oracle: Any = None,
    query: int | None = None,
    y_train: Any = None,
    fid_features: Any = None,
    student: Any = None,
    cout_steps: int = 50,
) -> list[Metric]:
    """FR, MAD and COUT, and with networks of yours FVA, FS, S³, MNAC, CD, sFID, NAFR and NA, for ``evaluate(metrics=...)``.

    Each comes twice, for all rows and, named "flips", for those alone whose x' the model gives its target: papers print FVA,
    MNAC, CD and FID of flips, COUT and S³ of all, and seldom say so.

    Parameters
    ----------
    face : nn.Module or callable images -> (n, f), optional
        A face recogniser: FVA and FS. Networks get images in the layout and range of `fit`; see `feature_cosine`.
    face_threshold : float, default=0.5
        Of FVA; see `verified`.
    encoder : nn.Module or callable images -> (n, f), optional
        The encoder of a self-supervised network: S³.
    oracle : nn.Module or callable images -> probabilities (n, K), optional
        Of attributes: MNAC and, with `query` and `y_train`, CD.
    query : int, optional
        Which attribute is asked to change.
    y_train : array-like of shape (m, K), optional
        Attributes of training images.
    fid_features : nn.Module or callable images -> (n, f), optional
        sFID. Images of other ranges than [0, 1] need features that know theirs.
    student : nn.Module giving logits, or estimator with ``predict``, optional
        Distilled from the explained model, and smoother: NAFR, the share of all rows that flip it, too, and NA = NAFR / FR.
    cout_steps : int, default=50

    Returns
    -------
    list of Metric

    Raises
    ------
    ValueError
        Only one of `query` and `y_train`, or these without an `oracle`.

    See Also
    --------
    cfexplain.metrics.lpips_diversity : σ_L, which needs several counterfactuals of one image.

    Examples
    --------
    >>> [metric.name for metric in protocol_metrics(encoder=lambda images: images.reshape(len(images), -1))]
    ['FR', 'MAD', 'MAD, flips', 'COUT', 'COUT, flips', 'S3', 'S3, flips']
    """
    if (query is None) != (y_train is None) or (query is not None and oracle is None):
        raise ValueError("CD needs all of oracle=, query= and y_train=; MNAC needs oracle= alone.")
    bounded: dict[str, Any] = {"range": (0.0, 1.0)}
    found = [Metric("FR", lambda cf, _: cf.valid, "up", "share", description="flips: x′ gets its target", **bounded)]

    def add(name: str, function: Measured, better: str, unit: str, description: str, **more: Any) -> None:
        once = _Once(function)
        found.append(Metric(name, once, better, unit, description=description, **more))
        found.append(Metric(f"{name}, flips", once, better, unit, only_valid=True, description=description, **more))

    def add_of_the_set(name: str, function: Measured, unit: str, description: str, fewest: int) -> None:
        def of(rows: Callable[[Counterfactuals], Counterfactuals]) -> Measured:
            return lambda cf, explainer: function(rows(cf), explainer) if len(rows(cf)) >= fewest else None

        found.append(Metric(name, of(lambda cf: cf), "down", unit, description=description))
        found.append(Metric(f"{name}, flips", of(lambda cf: cf[cf.valid.astype(bool)]), "down", unit,
                            description=f"{description}; of flips alone"))

    def difference(cf: Counterfactuals, _: Any) -> np.ndarray | None:
        return None if cf.is_regression else np.abs(cf.proba_after.astype(float) - cf.proba_before)

    def replaced(cf: Counterfactuals, explainer: Any) -> np.ndarray | None:
        if cf.is_regression or not cf.is_image:
            return None
        source, target = (class_indices(labels, explainer.classes_) for labels in (cf.source, cf.target))
        return cout(cf.x, cf.x_cf, explainer.predict_proba, source, target, steps=cout_steps)

    add("MAD", difference, "up", "probability", "|p(target|x′) − p(target|x)|", **bounded)
    add("COUT", replaced, "up", "", "the most changed pixels first: area under p(target) less that under p(source)",
        range=(-1.0, 1.0))
    if face is not None:
        same = _Once(lambda cf, _: feature_cosine(cf.x, cf.x_cf, face))
        add("FVA", lambda cf, explainer: same(cf, explainer) > face_threshold, "up", "share",
            f"cosine of the face recogniser above {face_threshold:g}", **bounded)
        add("FS", same, "up", "cosine", "mean cosine of the face recogniser", range=(-1.0, 1.0))
    if encoder is not None:
        add("S3", lambda cf, _: feature_cosine(cf.x, cf.x_cf, encoder), "up", "cosine", "cosine of the encoder's features",
            range=(-1.0, 1.0))
    if oracle is not None:
        add("MNAC", lambda cf, _: attributes_changed(cf.x, cf.x_cf, oracle), "down", "attributes",
            "attributes that the oracle sees changed, the asked one among them")
    if query is not None:
        add_of_the_set("CD", lambda cf, _: correlation_difference(cf.x, cf.x_cf, oracle, query, y_train), "",
                       "how far correlations of changes are from those of training labels", 2)
    if fid_features is not None:
        add_of_the_set("sFID", lambda cf, _: sfid(cf.x, cf.x_cf, fid_features), "",
                       "FID of one half's x and the other half's x′, both ways", 4)
    if student is not None:
        flips = _Once(lambda cf, explainer: oracle_agreement(student, cf.x_cf, cf.target, classes=explainer.classes_))
        add("NAFR", flips, "up", "share", "a distilled, smoother student gives x′ the target, too", **bounded)
        found.append(Metric("NA", lambda cf, explainer: float(flips(cf, explainer).mean() / cf.valid.mean())
                            if cf.valid.any() else None, "up", description="NAFR over FR"))
    return found


class _Once:
    """A measure that is asked for all rows and for flips computes its values of a result once."""

    def __init__(self, function: Measured):
        self.function = function
        self._last: tuple[Any, Any, Any] = (None, None, None)

    def __call__(self, cf: Counterfactuals, explainer: Any) -> Any:
        if self._last[0] is not cf or self._last[1] is not explainer:
            self._last = (cf, explainer, self.function(cf, explainer))
        return self._last[2]
