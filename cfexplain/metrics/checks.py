"""What every metric asks of its arrays, and what it gets from a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cfexplain.foundation.arrays import channels_first, to_numpy
from cfexplain.foundation.borrowed import frozen
from cfexplain.foundation.exceptions import DataRangeError, plain, warn_caller
from cfexplain.foundation.settings import own_modes
from cfexplain.foundation.tiles import in_tiles

__all__ = ["Features", "as_features", "as_images", "as_labels", "as_pair", "as_rows", "check_count", "run_module"]

Features = nn.Module | Callable[[Any], Any]


def as_rows(X: Any, name: str, *, like: np.ndarray | None = None) -> np.ndarray:
    """`X` (n, ...) as float64 rows (n, p).

    Raises
    ------
    ValueError
        Not at least one row of at least one value, NaN or infinite values, or rows of another length than `like` has.
    """
    X = np.asarray(to_numpy(X))
    if X.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be numbers, got an array of dtype {X.dtype}.")
    if X.ndim < 2 or X.size == 0:
        raise ValueError(f"{name} must be samples of shape (n, ...), got shape {X.shape}. One sample: {name}[None].")
    rows = X.reshape(len(X), -1).astype(np.float64)
    if not np.isfinite(rows).all():
        bad = np.flatnonzero(~np.isfinite(rows).all(1))
        raise ValueError(
            f"{name} has NaN or infinite values in {len(bad)} rows, first {bad[:5].tolist()}. Leave these rows out.")
    if like is not None and rows.shape[1] != like.shape[1]:
        raise ValueError(f"{name} has {rows.shape[1]} values in a sample (shape {X.shape[1:]}), expected {like.shape[1]}.")
    return rows


def as_labels(labels: Any, n: int, name: str) -> np.ndarray:
    """One label, or one label a row, as an array of n labels.

    Raises
    ------
    ValueError
        Another number of labels than `n`.
    """
    labels = np.asarray(to_numpy(labels))
    if labels.ndim == 0:
        return np.repeat(labels, n)
    if labels.shape != (n,):
        raise ValueError(f"{name} must be one label or one label a row, of shape ({n},), got shape {labels.shape}.")
    return labels


def as_pair(x: Any, x_cf: Any) -> tuple[np.ndarray, np.ndarray]:
    """Originals and counterfactuals of one shape (n, ...), each as float64 rows (n, p).

    Raises
    ------
    ValueError
        Different shapes (also of equally many values: they may lie in another order), NaN or infinite values.
    """
    before, after = as_rows(x, "x"), as_rows(x_cf, "x_cf")
    if np.shape(to_numpy(x)) != np.shape(to_numpy(x_cf)):
        raise ValueError(f"x and x_cf must have the same shape, got {np.shape(to_numpy(x))} and {np.shape(to_numpy(x_cf))}.")
    return before, after


def as_images(arrays: dict[str, Any], data_range: tuple[float, float] | None = None) -> list[np.ndarray]:
    """Named arrays of images (n, H, W), (n, C, H, W) or (n, H, W, C), each as float64 (n, C, H, W).

    Raises
    ------
    ValueError
        Other shapes, NaN or infinite values.
    DataRangeError
        Integers, or values outside `data_range`.

    Warns
    -----
    UserWarning
        All values lie in [0, 1], although another range was declared.
    """
    found = []
    for name, X in arrays.items():
        rows, X = as_rows(X, name), np.asarray(to_numpy(X))
        if X.ndim not in (3, 4):
            raise ValueError(f"{name} must be images of shape (n, H, W) or (n, C, H, W), got shape {X.shape}.")
        if data_range is not None:
            _check_range(X, name, data_range)
        found.append(channels_first(rows.reshape(X.shape if X.ndim == 4 else (len(X), 1, *X.shape[1:]))))
    wider = data_range is not None and (data_range[0] < 0 or data_range[1] > 1)
    if wider and all(X.min() >= 0 and X.max() <= 1 for X in found) and any(X.max() > X.min() for X in found):
        warn_caller(f"All values lie in [0, 1], but data_range={plain(data_range)!r} is declared. If the images are "
                      "meant to fill [0, 1], pass data_range=(0, 1).", UserWarning)
    return found


def check_count(value: Any, name: str) -> int:
    """A positive integer.

    Raises
    ------
    ValueError
        Anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}={plain(value)!r} must be a positive integer.")
    return int(value)


@own_modes()
def as_features(features: Features, X: Any, name: str) -> np.ndarray:
    """What `features` sees in samples `X`: floats (n, f), in the dtype that it computes in.

    Raises
    ------
    ValueError
        Not one row of finite numbers a sample.
    TypeError
        `features` can neither be called nor is a module.
    """
    if isinstance(features, nn.Module):
        out = run_module(features, X)
    elif callable(features):
        with torch.no_grad():
            out = np.asarray(to_numpy(features(X)))
    else:
        raise TypeError(f"features must be a torch module or a function images -> (n, f), got {type(features).__name__}.")
    n = len(to_numpy(X))
    if out.ndim != 2 or len(out) != n:
        raise ValueError(f"features returned shape {out.shape} for the {n} samples of {name}; expected ({n}, f). Flatten "
                         "or average over positions.")
    as_rows(out, f"features({name})")
    return out if out.dtype.kind == "f" else out.astype(np.float64)


@own_modes()
def run_module(module: nn.Module, X: Any) -> np.ndarray:
    """A module's answer to samples `X`: evaluation mode, its own dtype and device, in tiles; grey images get a channel.

    The module is left as it was.
    """
    tensors = [*module.parameters(), *module.buffers()]
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
    device = tensors[0].device if tensors else torch.device("cpu")
    rows = torch.from_numpy(np.array(to_numpy(X))).to(dtype)
    rows = rows[:, None] if rows.ndim == 3 else channels_first(rows)

    def answer(part: Tensor) -> Tensor:
        out = module(part.to(device)).cpu()
        return out.float() if out.dtype == torch.bfloat16 else out

    with torch.no_grad(), frozen(module):
        return in_tiles(answer, rows).numpy()


def _check_range(X: np.ndarray, name: str, data_range: tuple[float, float]) -> None:
    low, high = data_range
    if not low < high:
        raise ValueError(f"data_range={data_range!r} must be (low, high) with low < high.")
    if X.dtype.kind != "f":
        raise DataRangeError(f"{name} holds {X.dtype}, but images are expected as floats in data_range=({low:g}, {high:g}). "
                             f"For 8-bit images: {name} / 255.")
    slack = 1e-4 * (high - low)  # of resizing and rounding
    least, most = float(X.min()), float(X.max())
    if least < low - slack or most > high + slack:
        raise DataRangeError(f"{name} has values in [{least:g}, {most:g}], outside data_range=({low:g}, {high:g}). Declare "
                             f"the range that it is in, data_range=(low, high), or rescale {name}.")
