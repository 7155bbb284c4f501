"""Paths: explainers without a gradient, which move a row's code along one, and what the points of any search look like."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from cfexplain.explainers.base import CounterfactualExplainer
from cfexplain.explainers.run import Run
from cfexplain.foundation.arrays import restore_samples
from cfexplain.foundation.labels import label_indices
from cfexplain.foundation.tiles import in_tiles
from cfexplain.objective.terms import LogOddsHinge, Term, TypicalDensity
from cfexplain.result import Counterfactuals
from cfexplain.search import Found, SearchOptions, search_along

__all__ = ["AlongPath", "DecodedPath", "decode_path"]


@dataclass(frozen=True)
class DecodedPath:
    """Points of one row's search, in the order in which they were evaluated.

    Attributes
    ----------
    step : ndarray of int, shape (m,)
        Which points of ``cf.path`` they are: 0 is where the search began.
    x : ndarray of shape (m, …), in the user's layout
        Each as the explainer would have returned it: detail put back, column rules applied.
    proba : ndarray of shape (m,), in [0, 1]
        The explained classifier's probability of the target; NaN for a regressor.
    value : ndarray of shape (m,), or None
        What the explained regressor says; None for a classifier.
    log_density : ndarray of shape (m,)
        log p(z|target), in nats.
    density_percentile : ndarray of shape (m,), 0–100
        Its place among the training rows of the target class.
    returned : int
        Position, in these arrays, of the point that was returned as ``x_cf``.
    """

    step: np.ndarray
    x: np.ndarray
    proba: np.ndarray
    value: np.ndarray | None
    log_density: np.ndarray
    density_percentile: np.ndarray
    returned: int


def decode_path(explainer: CounterfactualExplainer, cf: Counterfactuals, *, frames: int | None = None) -> list[DecodedPath]:
    """What each point of the recorded searches looks like, and what the explained model says of it.

    Parameters
    ----------
    explainer : CounterfactualExplainer
        The fitted one that made `cf`.
    cf : Counterfactuals
        Made by ``explain(..., record_path=True)``.
    frames : int, optional
        At most so many points a row, at even distances; the first and the returned one are among them. Default: all.

    Returns
    -------
    list of DecodedPath, one a row
        The returned point has the bits of ``x_cf``. A point that is not finite, or does not decode to finite numbers, is
        NaN.

    Raises
    ------
    ValueError
        No path was recorded, `frames` is less than 2, or `cf` was not made by `explainer`.

    Notes
    -----
    A search does not end where it returns: it keeps its best point, and its last steps bisect the straight way back to z₀.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> cf = explainer.explain(X[:2], target=1, record_path=True)
    >>> path = decode_path(explainer, cf)[0]
    >>> len(path.x) - cf.n_steps[0], (path.x[path.returned] == cf.x_cf[0]).all()
    (np.int64(1), np.True_)
    """
    check_is_fitted(explainer)
    if cf.path is None:
        raise ValueError("This result has no path. Record it: explain(X, target, record_path=True).")
    if frames is not None and frames < 2:
        raise ValueError(f"frames={frames!r} must be at least 2: where the search began and what it returned.")
    layout = explainer.layout_
    if cf.shape[1:] != layout.user_shape or cf.z.shape[1:] != (explainer.coordinates_.latent_dim_,):
        raise ValueError(
            f"This result has samples of shape {cf.shape[1:]} and codes of shape {cf.z.shape[1:]}, but the explainer was "
            f"fitted on {layout.user_shape} and has codes of {explainer.coordinates_.latent_dim_} numbers. Pass the "
            "explainer that made it.")
    # the returned point has distance 0; of points that came twice, the last
    returned = [len(path) - 1 - int(np.nan_to_num(((path - z) ** 2).sum(1), nan=np.inf)[::-1].argmin())
                for path, z in zip(cf.path, cf.z_cf, strict=True)]
    steps = [_some(len(path), best, frames) for path, best in zip(cf.path, returned, strict=True)]
    if not len(cf):
        return []
    z = np.concatenate([path[some] for path, some in zip(cf.path, steps, strict=True)])
    rows = np.repeat(np.arange(len(cf)), [len(some) for some in steps])
    x, log_density, proba, value, percentile = _decoded(explainer, cf, z, rows)
    cuts = np.cumsum([len(some) for some in steps])[:-1]
    parts = [np.split(a, cuts) for a in (x, proba, log_density, percentile)]
    values = [None] * len(cf) if value is None else np.split(value, cuts)
    return [DecodedPath(step=some, x=x, proba=p, value=v, log_density=d, density_percentile=q,
                        returned=int(np.flatnonzero(some == best)[0]))
            for some, x, p, d, q, v, best in zip(steps, *parts, values, returned, strict=True)]


def _some(n: int, returned: int, frames: int | None) -> np.ndarray:
    """At most `frames` of `n` points, evenly, with the first and the returned one."""
    if frames is None or n <= frames:
        return np.arange(n)
    some = np.linspace(0, n - 1, frames).round().astype(int)
    nearest = 0 if returned == 0 else 1 + int(np.abs(some[1:] - returned).argmin())
    some[nearest] = returned
    return some


def _decoded(explainer: CounterfactualExplainer, cf: Counterfactuals, z: np.ndarray, rows: np.ndarray) -> tuple[Any, ...]:
    """x, log density, probability, value and percentile of points `z` (m, d) of the rows `rows` (m,) of `cf`."""
    run, layout, device = Run(explainer, False), explainer.layout_, explainer.device_
    labels = hasattr(explainer, "classes_")
    target = label_indices(cf.target, explainer.classes_) if labels else np.zeros(len(cf), dtype=int)
    finite = np.isfinite(z).all(1)
    z = np.where(finite[:, None], z, cf.z[rows])
    original, reconstruction = (
        a.reshape(len(a), *layout.net_shape).astype(explainer.dtype_, copy=False) for a in (cf.x, cf.reconstruction))
    tensors = [torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (
        z.astype(explainer.dtype_, copy=False), original[rows], reconstruction[rows], target[rows])]

    def tile(z: Tensor, x: Tensor, reconstruction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        point = run.point(z, {"x": x, "reconstruction": reconstruction, "target": target})
        return point.x.cpu(), point.log_density.cpu()

    with torch.no_grad():
        x, log_density = (a.numpy() for a in in_tiles(tile, *tensors, tile=run.options.tile))
    # a row that had its target before came back as it was
    still = (cf.status == "already_target")[rows]
    x[still] = original[rows][still]
    finite &= np.isfinite(x.reshape(len(x), -1)).all(1)
    asked = np.where(finite.reshape(-1, *[1] * (x.ndim - 1)), x, original[rows])
    proba, value = np.full(len(z), np.nan), None
    if labels:
        proba = explainer.classifier_.predict_proba(asked)[np.arange(len(z)), target[rows]].astype(float)
    else:
        value = explainer.classifier_.predict(asked).astype(float)
    percentile = explainer.density_.percentile(log_density, target[rows])
    log_density = log_density.astype(float)
    for a in (x, proba, log_density, percentile, *(() if value is None else (value,))):
        a[~finite] = np.nan
    return restore_samples(x, layout), log_density, proba, value, percentile


class AlongPath(CounterfactualExplainer):
    """Base of explainers that move codes along a path z(a), a ≥ 0; a subclass writes `_path`."""

    start, stop, update = "latent", "conditions", "normalized"
    step_size, patience = 1.0, 0

    @abstractmethod
    def _path(self, fraction: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        """z(a) of a tile of rows, (B, d), for a = `fraction` (B,); z₀ at 0."""

    def _find(self, evaluate: Callable, start: Tensor, rows: Mapping[str, Tensor], options: SearchOptions,
              report: Callable | None, search: Callable) -> Found:
        return search_along(self._path, evaluate, rows, float(self.max_fraction), options, report)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not self.max_fraction > 0:
            raise ValueError(f"max_fraction={self.max_fraction!r} must be positive: it is the end of the path.")
        if self.max_steps < 1:
            raise ValueError(f"max_steps={self.max_steps!r} must be at least 1: the path is tried in so many steps.")

    def _terms(self) -> list[Term]:
        self._check_confidence()
        wanted: list[Any] = [LogOddsHinge(1.0, self.confidence)]
        return wanted if self.typical_quantile is None else [*wanted, TypicalDensity(1.0)]

    def _typical_quantile(self) -> float:
        return 0.5 if self.typical_quantile is None else self.typical_quantile
