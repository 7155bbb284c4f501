"""What the points of a recorded search look like, and what the explained model says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from cfexplain.explainers.attributes import ExplainerParameters
from cfexplain.explainers.regions import faded
from cfexplain.explainers.run import Run
from cfexplain.foundation.arrays import restore_samples
from cfexplain.foundation.labels import label_indices
from cfexplain.foundation.settings import own_modes
from cfexplain.foundation.tiles import in_tiles
from cfexplain.result import Counterfactuals

__all__ = ["DecodedPath", "decode_path"]


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


@own_modes()
def decode_path(explainer: ExplainerParameters, cf: Counterfactuals, *, frames: int | None = None) -> list[DecodedPath]:
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
    if cf.x_cf.shape[1:] != layout.user_shape or cf.z.shape[1:] != (explainer.coordinates_.latent_dim_,):
        raise ValueError(
            f"This result has samples of shape {cf.x_cf.shape[1:]} and codes of shape {cf.z.shape[1:]}, but the explainer "
            f"was fitted on {layout.user_shape} and has codes of {explainer.coordinates_.latent_dim_} numbers. Pass the "
            "explainer that made it.")
    # the returned point has distance 0; of points that came twice, the last
    returned = [len(path) - 1 - int(np.nan_to_num(((path - z) ** 2).sum(1), nan=np.inf)[::-1].argmin())
                for path, z in zip(cf.path, cf.z_cf, strict=True)]
    steps = [spread_points(len(path), best, frames) for path, best in zip(cf.path, returned, strict=True)]
    if not len(cf):
        return []
    z = np.concatenate([path[chosen] for path, chosen in zip(cf.path, steps, strict=True)])
    points = _decoded(explainer, cf, z, np.repeat(np.arange(len(cf)), [len(chosen) for chosen in steps]))
    ends = np.cumsum([len(chosen) for chosen in steps])
    paths = []
    for chosen, best, end in zip(steps, returned, ends, strict=True):
        row: dict[str, Any] = {name: None if values is None else values[end - len(chosen) : end]
                               for name, values in points.items()}
        paths.append(DecodedPath(step=chosen, returned=int(np.flatnonzero(chosen == best)[0]), **row))
    return paths


def spread_points(n: int, returned: int, frames: int | None) -> np.ndarray:
    """At most `frames` of `n` points, evenly, with the first and the returned one."""
    if frames is None or n <= frames:
        return np.arange(n)
    chosen = np.linspace(0, n - 1, frames).round().astype(int)
    nearest = 0 if returned == 0 else 1 + int(np.abs(chosen[1:] - returned).argmin())
    chosen[nearest] = returned
    return chosen


def _decoded(explainer: ExplainerParameters, cf: Counterfactuals, z: np.ndarray, rows: np.ndarray,
             ) -> dict[str, Any]:
    """The fields of `DecodedPath`, of points `z` (m, d) of the rows `rows` (m,) of `cf`."""
    run, layout, device = Run(explainer), explainer.layout_, explainer.device_
    target = np.zeros(len(cf), dtype=int) if explainer.is_regression else label_indices(cf.target, explainer.classes_)
    finite = np.isfinite(z).all(1)
    z = np.where(finite[:, None], z, cf.z[rows])
    original, found = (layout.to_net(a).astype(explainer.dtype_, copy=False) for a in (cf.x, cf.x_cf))
    with torch.no_grad():
        x0 = torch.from_numpy(np.ascontiguousarray(original)).to(device)
        known = {"x": x0, **run.judge.known(x0)}
        if not explainer.is_regression:
            classes = (torch.from_numpy(label_indices(labels, explainer.classes_)).to(device)
                       for labels in (cf.source, cf.target))
            known |= run.judge.directed(known, *classes)
    if cf.region is not None:
        share = faded(cf.region[:, None], bool(getattr(explainer, "ink_", 0)), original.dtype)
        known["region"] = torch.from_numpy(share).to(device)
    names = list(known)
    tensors = [torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (
        z.astype(explainer.dtype_, copy=False), target[rows])] + [values[rows] for values in known.values()]

    def tile(z: Tensor, target: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        point = run.judge.point(z, {"target": target, **dict(zip(names, values, strict=True))})
        return point.x.cpu(), point.log_density.cpu()

    with torch.no_grad():
        x, log_density = (a.numpy() for a in in_tiles(tile, *tensors, tile=run.options.tile))
    # what was changed after the search of a table is no longer what its code decodes to
    if not layout.is_image:
        ended = (z == cf.z_cf[rows]).all(1)
        x[ended] = found[rows][ended]
    # a row that had its target before, or for which the model has no answer, came back as it was
    before = cf.source if explainer.is_regression else cf.proba_before
    unchanged = ((cf.status == "already_target") | np.isnan(before.astype(float)))[rows]
    x[unchanged] = original[rows][unchanged]
    finite &= np.isfinite(x.reshape(len(x), -1)).all(1)
    samples = np.where(finite.reshape(-1, *[1] * (x.ndim - 1)), x, original[rows])
    proba, value = np.full(len(z), np.nan), None
    answers: Any = explainer.task_.answers(explainer.classifier_, samples)
    if explainer.is_regression:
        value = answers.astype(float)
    else:
        proba = answers[1][np.arange(len(z)), target[rows]].astype(float)
    percentile = explainer.density_.percentile(log_density, target[rows])
    log_density = log_density.astype(float)
    for a in (x, proba, log_density, percentile, *(() if value is None else (value,))):
        a[~finite] = np.nan
    return {"x": restore_samples(x, layout), "proba": proba, "value": value, "log_density": log_density,
            "density_percentile": percentile}
