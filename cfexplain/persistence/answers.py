"""A model of the user's that has no weights to compare is known again by its answers to a few made-up rows."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from cfexplain.foundation.arrays import Layout
from cfexplain.persistence.user_objects import RefusedError

__all__ = ["Explainer", "ask", "check_answers", "made_up_rows"]

_ROWS, _VALUES = 16, 1_000_000  # rows on which the user's model is compared, and the numbers in them, at most


class Explainer(Protocol):
    """What of a fitted explainer is read here."""

    layout_: Layout
    dtype_: np.dtype
    scale_: np.ndarray
    classifier_: Any
    coordinates_: Any
    density_: Any
    data_range: tuple[float, float]

    @property
    def is_regression(self) -> bool: ...


def made_up_rows(explainer: Explainer) -> np.ndarray:
    """Some rows like those of training, of which none is one: on them a model of the user's is known again.

    Decoded from codes of the density, or of the prior; where a code is the sample itself, around the middle of X.
    """
    coordinates, layout = explainer.coordinates_, explainer.layout_
    low, high = explainer.data_range
    count = max(2, min(_ROWS, _VALUES // max(1, math.prod(layout.net_shape))))

    def decode(z: np.ndarray) -> np.ndarray:
        return coordinates.in_tiles(coordinates.decode, z.astype(explainer.dtype_))

    z = np.random.RandomState(0).standard_normal((count, coordinates.latent_dim_))
    if hasattr(explainer.density_, "loc_"):
        z = explainer.density_.loc_ + explainer.density_.scale_ * z
    rows = decode(z)
    if not hasattr(explainer.density_, "loc_") and np.array_equal(rows.reshape(count, -1), z.astype(rows.dtype)):
        mean, spread = _column_scale(explainer)
        rows = decode(low + (high - low) * (z / 6 + 0.5).clip(0, 1) if layout.is_image else z * spread + mean)
    return rows.clip(low, high).astype(explainer.dtype_) if layout.is_image else rows


def check_answers(explainer: Any, rows: np.ndarray, answers: np.ndarray) -> None:
    """Raise `RefusedError` where the given model does not answer `rows` as it did when the explainer was saved."""
    shape = explainer.layout_.net_shape
    if rows.shape[1:] != shape or rows.dtype != explainer.dtype_ or len(rows) != len(answers):
        raise RefusedError(f"The file's rows of shape {rows.shape[1:]} do not fit the explainer's {shape}.")
    now = ask(explainer, rows)
    # other kernels and versions round otherwise; another model does more than that
    slack = 1e-3 if now.ndim == 2 else 1e-3 * (np.std(answers) + np.abs(answers).mean())
    if now.shape != answers.shape or not np.allclose(now, answers, rtol=0, atol=slack):
        wrong = len(now) if now.shape != answers.shape else int(
            (np.abs(now - answers) > slack).reshape(len(now), -1).any(1).sum())
        raise RefusedError(f"classifier= answers otherwise on {wrong} of {len(now)} rows than when this explainer was "
                           "saved: it is another model, or changed since. Give the one that was explained; or, if you mean "
                           "it, load(..., verify=False).")


def ask(explainer: Any, rows: np.ndarray) -> np.ndarray:
    """Probabilities (n, K), or values (n,), of the explained model."""
    model = explainer.classifier_
    return model.predict(rows) if explainer.is_regression else model.predict_proba(rows)


def _column_scale(explainer: Explainer) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of a table's columns, as far as the explainer knows them."""
    net = getattr(explainer.classifier_, "module", None)
    net = getattr(net, "net", net)
    mean = getattr(net, "mean", None)
    if isinstance(mean, Tensor) and mean.numel() == explainer.scale_.size:
        return mean.cpu().numpy(), explainer.scale_
    return np.zeros_like(explainer.scale_), explainer.scale_
