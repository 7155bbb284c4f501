"""Metrics with direction and unit: the `Metric` class, and the built-in ones, which read the fields of a result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cfexplain.foundation.arrays import to_numpy
from cfexplain.metrics import sharpness_ratio
from cfexplain.metrics.of_result import grey_of_real, outside_training, specks_of
from cfexplain.plotting.pictures import layout_of
from cfexplain.result import Counterfactuals
from cfexplain.tables.frames import changed_cells

__all__ = ["BUILT_IN", "Metric", "comparable", "find_metric", "measure", "read_metrics"]


@dataclass(frozen=True)
class Metric:
    """A measure of counterfactuals, and how to read it.

    Parameters
    ----------
    name : str
    function : callable ``(cf, explainer) -> ndarray of shape (n,), float, or None``
        One value for each row; or one value of the whole set (such as FID), which is shown without an interval; or None if
        the method has nothing to measure.
    better : {"up", "down", "none"}, default="none"
        Which way is better; with "none" no method is called best.
    unit : str
    only_valid : bool, default=False
        Mean over the valid rows alone; the heading says so. Needs one value for each row.
    description : str
    measured_by : {"", "coordinates", "density", "conditions", "opinions"}, default=""
        The part of the explainer that the metric is measured by: methods are compared only if they share it.
    range : (low, high), optional
        The ends of a bounded scale: 0 and 1 for a share.

    Raises
    ------
    ValueError
        `better` or `measured_by` is not known.

    Examples
    --------
    >>> changed = Metric("changed", lambda cf, explainer: (cf.x_cf != cf.x).reshape(len(cf), -1).sum(1), "down", "columns")
    >>> changed.heading
    'changed (columns)'
    """

    name: str
    function: Callable[[Counterfactuals, Any], Any]
    better: str = "none"
    unit: str = ""
    only_valid: bool = False
    description: str = ""
    measured_by: str = ""
    range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.better not in ("up", "down", "none"):
            raise ValueError(f"better={self.better!r} is not known; choose 'up', 'down' or 'none'.")
        if self.measured_by not in _PARTS:
            raise ValueError(f"measured_by={self.measured_by!r} is not known; choose one of {sorted(_PARTS)}.")

    @property
    def heading(self) -> str:
        """Name, unit, and whether only valid rows count."""
        of = ", ".join(part for part in (self.unit, "valid rows only" if self.only_valid else "") if part)
        return f"{self.name} ({of})" if of else self.name

    @property
    def sign(self) -> int:
        """1 where up is better, −1 where down is, 0 for neither."""
        return {"up": 1, "down": -1, "none": 0}[self.better]


def _density_of_x(cf: Counterfactuals, explainer: Any) -> np.ndarray | None:
    return explainer.score_samples(cf.x) if hasattr(explainer, "score_samples") else None


def _opinions(_: Counterfactuals, explainer: Any) -> int | None:
    opinions = getattr(explainer, "opinions_", None)
    return None if opinions is None else id(opinions)


# By each part that a metric can be measured by: a function whose results differ between methods if their parts differ.
_PARTS: dict[str, Callable[[Any, Any], Any] | None] = {
    "": None, "coordinates": lambda cf, _: cf.z, "density": _density_of_x, "opinions": _opinions,
    "conditions": lambda cf, _: sorted(cf.conditions)}


def _change(cf: Counterfactuals) -> np.ndarray:
    return (cf.x_cf.astype(float) - cf.x).reshape(len(cf), -1)


def _complete(cf: Counterfactuals, _: Any) -> np.ndarray:
    return np.where(cf.status == "already_target", np.nan, cf.complete)


def _gain(cf: Counterfactuals, _: Any) -> np.ndarray | None:
    gain = cf.proba_after.astype(float) - cf.proba_before
    return None if len(cf) and cf.is_regression else gain


def _seconds(cf: Counterfactuals, _: Any) -> float | None:
    return cf.metadata["seconds"] / len(cf) if len(cf) and "seconds" in cf.metadata else None


def _sharpness(cf: Counterfactuals, _: Any) -> np.ndarray | None:
    if not len(cf) or not cf.is_image:
        return None
    ratio = sharpness_ratio(*(layout_of(cf).to_net(images) for images in (cf.x, cf.x_cf)))
    return np.where(np.isfinite(ratio), ratio, np.nan)


def _of_the_set(name: str) -> Callable[[Any, Any], float | None]:
    def value(cf: Counterfactuals, _: Any) -> float | None:
        found = float(getattr(cf.measures(), name))
        return None if np.isnan(found) else found
    return value


_SHARE: dict[str, Any] = {"unit": "share", "range": (0.0, 1.0)}
BUILT_IN: dict[str, Metric] = {metric.name: metric for metric in (
    Metric("validity", lambda cf, _: cf.valid, "up", **_SHARE, description="the explained model gives x′ its target"),
    Metric("complete", _complete, "up", **_SHARE, measured_by="conditions",
           description="valid, and every condition of the method's own search met; none where nothing was searched"),
    Metric("confidence_gain", _gain, "up", "probability", range=(-1.0, 1.0),
           description="probability of the target after, minus before"),
    Metric("l1", lambda cf, _: np.abs(_change(cf)).sum(1), "down", "of x", description="‖x′ − x‖₁"),
    Metric("l2", lambda cf, _: np.linalg.norm(_change(cf), axis=1), "down", "of x", description="‖x′ − x‖₂"),
    Metric("linf", lambda cf, _: np.abs(_change(cf)).max(1), "down", "of x", description="the largest change of a value"),
    Metric("l2_z", lambda cf, _: cf.distance, "down", "of z", measured_by="coordinates", description="‖z′ − z₀‖₂"),
    Metric("log_density", lambda cf, _: cf.log_density, "up", "nats", measured_by="density",
           description="log p(z′|target) under the method's own density"),
    Metric("density_percentile", lambda cf, _: cf.density_percentile, "up", "plausibility", measured_by="density",
           range=(0.0, 100.0), description="percentile of the log density among real rows of the target class, 0–100"),
    Metric("reconstruction_error", lambda cf, _: cf.reconstruction_error, "down", "of x", measured_by="coordinates",
           description="‖x − decode(z₀)‖₂: what the coordinates lose, no part of the explanation"),
    Metric("steps", lambda cf, _: cf.n_steps, "down", "steps", description="evaluations of the search after the first"),
    Metric("seconds_per_row", _seconds, "down", "s", description="time of the whole call over its rows"),
    Metric("second_opinion", lambda cf, _: cf.second_opinion, "up", **_SHARE, measured_by="opinions",
           description="small classifiers of the latent agree"),
    Metric("spread", _of_the_set("spread"), unit="of the originals'",
           description="mean distance of two x′ over that of their originals, a pair of classes at a time; near 0: all look "
                       "alike"),
    Metric("shade_kept", _of_the_set("shade_kept"), "up", "r", range=(-1.0, 1.0),
           description="correlation of the mean brightness (or of the worst channel) of x and x′, a pair of classes at a "
                       "time"),
    Metric("sharpness", _sharpness, unit="of x", description="variance of the Laplacian of x′ over that of x"),
    Metric("specks", lambda cf, _: specks_of(cf), "down", **_SHARE, description="ink that strays where x has none"),
    Metric("grey", lambda cf, _: grey_of_real(cf), "down", "of real ones",
           description="greyness of the ink over that of the median real image of the target class"),
    Metric("columns_changed", lambda cf, _: None if cf.is_image else changed_cells(cf).sum(1), "down", "columns",
           description="columns of a table that changed"),
    Metric("outside_range", lambda cf, _: outside_training(cf), "down", **_SHARE,
           description="x′ has a value beyond those of training that x has not"),
)}
# Fields of `Counterfactuals` that are other names of these metrics.
_ALIASES = {"distance_x": "l2", "distance": "l2_z", "valid": "validity", "n_steps": "steps"}


def find_metric(metric: str | Metric) -> Metric:
    """The built-in of that name, or of that field of `Counterfactuals`; a `Metric` is itself.

    Raises
    ------
    ValueError
        The name is not known.
    """
    if isinstance(metric, Metric):
        return metric
    known = BUILT_IN.get(_ALIASES.get(metric, metric)) if isinstance(metric, str) else None
    if known is None:
        raise ValueError(f"metric {metric!r} is not known; choose from {list(BUILT_IN)}, or pass a Metric.")
    return known


def read_metrics(metrics: Mapping[str, Any] | Iterable[str | Metric] | str | Metric | None) -> list[Metric]:
    """The metrics that a user asked for.

    Raises
    ------
    ValueError
        A name that is not known or comes twice, or no metric at all.
    TypeError
        A value of a mapping that cannot be called.
    """
    if metrics is None:
        return list(BUILT_IN.values())
    if isinstance(metrics, Mapping):
        chosen = [_named(name, value) for name, value in metrics.items()]
    else:
        chosen = [find_metric(m) for m in ([metrics] if isinstance(metrics, (str, Metric)) else metrics)]
    names = [metric.name for metric in chosen]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"metrics={names!r} must be at least one metric, each of another name.")
    return chosen


def _named(name: str, value: Any) -> Metric:
    if isinstance(value, Metric):
        return replace(value, name=name)
    if not callable(value):
        raise TypeError(f"The metric {name!r} must be a function (cf, explainer) -> values, or a Metric; got "
                        f"{type(value).__name__}.")
    return Metric(name, value)


def measure(metric: Metric, cf: Counterfactuals, explainer: Any) -> np.ndarray | float | None:
    """Values of float64, shape (n,), or one value, or None if the method has nothing to measure.

    Raises
    ------
    ValueError
        The metric returns another shape, or one value although only valid rows shall count.
    """
    out = metric.function(cf, explainer)
    if out is None:
        return None
    values = np.array(to_numpy(out), dtype=np.float64)
    if values.ndim == 0:
        if metric.only_valid:
            raise ValueError("only_valid=True needs a value a row, but the metric returns one value")
        return float(values)
    if values.shape != (len(cf),):
        raise ValueError(f"the metric returns the shape {values.shape}; expected ({len(cf)},), a value a row, or a float")
    return values


def comparable(metric: Metric, results: Iterable[Counterfactuals], explainers: Iterable[Any]) -> bool:
    """Whether all methods share the part that the metric is measured by: it gives the same values on the same rows."""
    measured_by = _PARTS[metric.measured_by]
    if measured_by is None:
        return True
    values = [measured_by(cf, explainer) for cf, explainer in zip(results, explainers, strict=True)]
    return all(other is not None and np.array_equal(values[0], other) for other in values)
