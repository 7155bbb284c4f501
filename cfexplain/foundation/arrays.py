"""Arrays in, arrays out: the layouts that users hold, and the one that networks want.

A *sample* is a table row ``(d,)``, a grey image ``(H, W)``, an image ``(C, H, W)``, or an image flattened to ``(d,)``
with ``image_shape=(C, H, W)`` told beside it (what a scikit-learn pipeline can carry). Inside the package every image
is ``(n, C, H, W)`` and every table ``(n, d)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import validate_data

from cfexplain.foundation.exceptions import DataRangeError

__all__ = ["Layout", "read_samples", "restore_samples", "to_numpy"]

_FLOATS = (np.float64, np.float32)


@dataclass(frozen=True)
class Layout:
    """How one sample looks to the user (`user_shape`) and to the networks (`net_shape`)."""

    user_shape: tuple[int, ...]
    net_shape: tuple[int, ...]

    @property
    def is_image(self) -> bool:
        return len(self.net_shape) == 3

    @classmethod
    def of(cls, shape: tuple[int, ...], image_shape: tuple[int, ...] | None) -> Layout:
        """The layout of samples of `shape`; ``image_shape`` reads flat rows as images."""
        if image_shape is not None:
            image_shape = tuple(int(side) for side in image_shape)
            if len(image_shape) == 2:
                image_shape = (1, *image_shape)
            if len(image_shape) != 3 or math.prod(image_shape) != math.prod(shape):
                raise ValueError(
                    f"image_shape={image_shape} must be (C, H, W) with as many values as a sample has: "
                    f"a sample has shape {shape}, that is {math.prod(shape)} values."
                )
            return cls(shape, image_shape)
        if len(shape) == 2:
            return cls(shape, (1, *shape))
        return cls(shape, shape)


def to_numpy(X: Any) -> Any:
    """`X` as a NumPy array where it is a tensor; anything else comes back as it is.

    Raises
    ------
    ValueError
        If `X` is a tensor on another device than the CPU.
    TypeError
        If it is bfloat16.
    """
    if not isinstance(X, torch.Tensor):
        return X
    if X.device.type != "cpu":
        raise ValueError(
            f"X is on the device '{X.device}'; expected NumPy arrays or CPU tensors. Pass X.cpu(): the explainer moves "
            "one batch at a time to its own device (parameter device=)."
        )
    if X.dtype == torch.bfloat16:
        raise TypeError("X is bfloat16, which NumPy does not know. Pass X.float().")
    return X.detach().numpy()


def read_samples(
    estimator: Any,
    X: Any,
    y: Any = "no_validation",
    *,
    reset: bool,
    image_shape: tuple[int, ...] | None = None,
    data_range: tuple[float, float] | None = None,
) -> Any:
    """Validate `X` (and `y`) as scikit-learn does, for tables and images alike.

    Sets ``layout_``, ``n_features_in_`` (values in a sample) and ``feature_names_in_`` on `estimator` when `reset`,
    and checks against them otherwise.

    Returns
    -------
    X : ndarray of shape (n, d) or (n, C, H, W), float32 or float64, C-contiguous
        A float32 input stays float32, everything else numeric becomes float64.
    y : ndarray of shape (n,)
        Only if `y` was given.

    Raises
    ------
    ValueError
        Wrong shape, NaN, infinity, sparse, empty.
    DataRangeError
        An image of integers, or with values outside `data_range`.
    TypeError
        float16, or values that are not numbers.
    """
    X = to_numpy(X)
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) > 4:
        raise ValueError(f"Expected samples of at most 3 dimensions (C, H, W), got an array of shape {shape}.")
    many = shape is not None and len(shape) in (3, 4)
    if getattr(X, "dtype", None) == np.float16:
        raise TypeError(
            "X is float16, which has too few digits for a search by gradients. Pass X.astype('float32')."
        )
    if many or image_shape is not None:
        _refuse_integers(X, data_range)
    if many:
        X = np.asarray(X)
        sample_shape = tuple(X.shape[1:])
        if not reset and sample_shape != estimator.layout_.user_shape:
            raise ValueError(
                f"X has samples of shape {sample_shape}, but {type(estimator).__name__} was fitted on samples of shape "
                f"{estimator.layout_.user_shape}."
            )
        if 0 in X.shape[1:]:
            raise ValueError(f"X has an empty side: shape {X.shape}.")
        X = X.reshape(len(X), math.prod(sample_shape))
    elif not reset and len(estimator.layout_.user_shape) != 1 and shape is not None and len(shape) == 2:
        raise ValueError(
            f"X has shape {shape}, but {type(estimator).__name__} was fitted on samples of shape "
            f"{estimator.layout_.user_shape}. For one sample, pass X[None]."
        )
    out = validate_data(estimator, X, y, reset=reset, dtype=_FLOATS, order="C")
    X, rest = (out[0], out[1:]) if isinstance(out, tuple) else (out, ())
    if reset:
        estimator.layout_ = Layout.of(sample_shape if many else (X.shape[1],), image_shape)
    layout = estimator.layout_
    if layout.is_image and data_range is not None:
        _check_range(X, data_range)
    X = X.reshape(len(X), *layout.net_shape)
    if not X.flags.writeable:  # torch would warn, and share the memory
        X = X.copy()
    return (X, *rest) if rest else X


def restore_samples(array: np.ndarray, layout: Layout, like: Any = None) -> Any:
    """`array` in the user's layout, and in the container and dtype of `like` (floats only)."""
    array = np.ascontiguousarray(array).reshape(len(array), *layout.user_shape)
    if isinstance(like, torch.Tensor):
        tensor = torch.from_numpy(array)
        return tensor.to(like.dtype) if like.dtype.is_floating_point else tensor
    dtype = getattr(like, "dtype", None)
    return array.astype(dtype, copy=False) if dtype in _FLOATS else array


def _refuse_integers(X: Any, data_range: tuple[float, float] | None) -> None:
    if data_range is not None and getattr(X, "dtype", np.dtype(float)).kind in "iub":
        low, high = data_range
        raise DataRangeError(
            f"X holds integers ({X.dtype}), but images are expected as floats in data_range=({low:g}, {high:g}). "
            "For 8-bit images: X.astype('float32') / 255."
        )


def _check_range(X: np.ndarray, data_range: tuple[float, float]) -> None:
    low, high = data_range
    least, most = float(X.min()), float(X.max())
    slack = 1e-4 * (high - low)  # resizing and float rounding may step over the edge by a hair
    if least < low - slack or most > high + slack:
        raise DataRangeError(
            f"X has values in [{least:g}, {most:g}], outside data_range=({low:g}, {high:g}). Rescale X, or declare its "
            "range: data_range=(low, high)."
        )
