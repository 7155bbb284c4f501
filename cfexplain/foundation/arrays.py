"""Arrays in, arrays out: the layouts that users hold, and the one that networks want.

A *sample* is a table row ``(d,)``, a grey image ``(H, W)``, an image ``(C, H, W)`` or ``(H, W, C)``, or an image flattened
to ``(d,)`` with its shape told beside it as ``image_shape`` (what a scikit-learn pipeline can carry). Inside the package
every image is ``(n, C, H, W)`` and every table ``(n, d)``. torch puts the channels of an image first; Keras, Pillow,
matplotlib and TFDS put them last: `read_channels` tells which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import validate_data

from cfexplain.foundation.containers import stacked, where_missing, where_text
from cfexplain.foundation.exceptions import DataRangeError, warn_caller

__all__ = ["CHANNELS", "Layout", "channels_first", "in_container", "read_channels", "read_samples", "restore_samples",
           "to_numpy"]

CHANNELS = ("auto", "first", "last")
_FLOATS = (np.float64, np.float32)
_FEW = 4  # grey, grey and opacity, RGB, RGB and opacity


@dataclass(frozen=True)
class Layout:
    """How one sample looks to the user (`user_shape`) and to the networks (`net_shape`).

    `channels` are "first" or "last" to the user; in `net_shape`, (C, H, W), they are always first.

    >>> Layout.of((28, 28, 3), None)
    Layout(user_shape=(28, 28, 3), net_shape=(3, 28, 28), channels='last')
    """

    user_shape: tuple[int, ...]
    net_shape: tuple[int, ...]
    channels: str = "first"

    @property
    def is_image(self) -> bool:
        return len(self.net_shape) == 3

    @classmethod
    def of(cls, shape: tuple[int, ...], image_shape: tuple[int, ...] | None, channels: str = "auto") -> Layout:
        """The layout of samples of `shape`; ``image_shape`` reads flat rows as images.

        Raises
        ------
        ValueError
            `image_shape` does not fit, or `channels` is not known.

        Warns
        -----
        UserWarning
            ``channels="auto"`` cannot tell; they are read as first.
        """
        if channels not in CHANNELS:
            raise ValueError(f"channels={channels!r} is not known; choose 'auto', 'first' or 'last'.")
        if image_shape is not None:
            image_shape = tuple(int(side) for side in image_shape)
            if len(image_shape) == 2:
                image_shape = (1, *image_shape)
            if len(image_shape) != 3 or math.prod(image_shape) != math.prod(shape):
                raise ValueError(
                    f"image_shape={image_shape} must be (C, H, W) or (H, W, C) with as many values as a sample has: "
                    f"a sample has shape {shape}, that is {math.prod(shape)} values."
                )
            if len(shape) == 3 and image_shape != shape and image_shape == (shape[2], *shape[:2]):
                return cls(shape, image_shape, "last")
        elif len(shape) != 3:
            return cls(shape, (1, *shape) if len(shape) == 2 else shape)
        side = image_shape or shape
        if channels == "auto":
            channels, sure = read_channels(side)
            if not sure:
                c, h, w = side
                warn_caller(f"X holds images of shape {side}, which are read as (C, H, W): {c} channels of {h}×{w} pixels. "
                            f"If they are (H, W, C), {c}×{h} pixels of {w} channels, pass channels=\"last\"; if they are "
                            "read rightly, channels=\"first\" says so.")
        return cls(shape, (side[2], *side[:2]) if channels == "last" else side, channels)

    def to_net(self, samples: Any) -> Any:
        """Samples (n, *user_shape), an array or a tensor, as (n, *net_shape)."""
        if self.channels == "first":
            return samples.reshape(len(samples), *self.net_shape)
        samples = samples.reshape(len(samples), *self.net_shape[1:], self.net_shape[0])
        return _permuted(samples, (0, 3, 1, 2))

    def to_user(self, samples: Any) -> Any:
        """Samples (n, *net_shape), an array or a tensor, as (n, *user_shape)."""
        samples = samples.reshape(len(samples), *self.net_shape)
        if self.channels == "last":
            samples = _permuted(samples, (0, 2, 3, 1))
        return samples.reshape(len(samples), *self.user_shape)

    def either_to_net(self, samples: Any) -> Any:
        """Samples in the user's layout, or already in that of networks, as (n, *net_shape)."""
        return self.to_net(samples) if tuple(samples.shape[1:]) == self.user_shape else samples

    @property
    def fed(self) -> list[tuple[tuple[int, ...], bool]]:
        """Shapes in which a user's model may want its samples, the likeliest first, and whether with channels last.

        Channels that the user has last, a model of his may have last, too; if it has not, it refuses them.
        """
        last, flat = self.channels == "last", (math.prod(self.net_shape),)
        ways = [(self.user_shape, True), (self.net_shape, False), (flat, True)] if last else [
            (self.net_shape, False), (self.user_shape, False), (flat, False)]
        return list(dict.fromkeys(ways))


def _permuted(samples: Any, axes: tuple[int, ...]) -> Any:
    """With the sides in another order, in memory as well."""
    if isinstance(samples, torch.Tensor):
        return samples.permute(axes).contiguous()
    return np.ascontiguousarray(samples.transpose(axes))


def read_channels(shape: tuple[int, ...]) -> tuple[str, bool]:
    """Whether the channels of an image of this shape are "first" or "last", and whether that is beyond doubt.

    Channels are few, sides are not; of two sides that could be channels, it is the one that leaves a square picture.

    >>> [read_channels(shape) for shape in ((3, 28, 28), (28, 28, 3), (60, 40, 1), (512, 4, 4), (4, 4, 1), (3, 28, 3))]
    [('first', True), ('last', True), ('last', True), ('first', True), ('last', True), ('first', False)]
    """
    first, middle, last = shape
    if last > _FEW:  # nobody has so many, unless they are spectra
        return "first", first <= _FEW or not first == middle > last
    if min(first, middle) > _FEW:
        return "last", True
    if (first == middle) != (middle == last):
        return ("last" if first == middle else "first"), True
    return "first", False


def channels_first(X: Any) -> Any:
    """Images (n, C, H, W), or (n, H, W, C) where that is beyond doubt, an array or a tensor, as (n, C, H, W)."""
    return _permuted(X, (0, 3, 1, 2)) if len(X.shape) == 4 and read_channels(X.shape[1:])[0] == "last" else X


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
    channels: str = "auto",
) -> Any:
    """Validate `X` (and `y`) as scikit-learn does, for tables and images alike; `channels` as in `Layout.of`.

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
    X = to_numpy(stacked(X))
    shape = np.shape(X) if isinstance(X, (list, tuple)) and X and np.ndim(X[0]) == 0 else getattr(X, "shape", None)
    if shape is not None and len(shape) == 1 and not reset and not estimator.layout_.is_image:
        raise ValueError(f"X has shape {shape}, but {type(estimator).__name__} was fitted on rows of "
                         f"{estimator.layout_.user_shape[0]} columns. Reshape your data: one row is X.reshape(1, -1).")
    if shape is not None and len(shape) == 1:
        raise ValueError(f"X has shape {shape}, one number a sample. Expected rows of a table, (n, columns), or images, (n, "
                         "H, W) or (n, C, H, W); in fit(X, y) the samples come first. Reshape your data: a single column "
                         "is X.reshape(-1, 1).")
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
                f"{estimator.layout_.user_shape}.{_moved_channels(sample_shape, estimator.layout_.user_shape)}"
            )
        if 0 in X.shape[1:]:
            raise ValueError(f"X has an empty side: shape {X.shape}.")
        X = X.reshape(len(X), math.prod(sample_shape))
    elif not reset and len(estimator.layout_.user_shape) != 1 and shape is not None and len(shape) == 2:
        fitted = estimator.layout_.user_shape
        fix = "For one sample, pass X[None]." if shape[-1] != math.prod(fitted) else (
            f"Its rows are flat: pass X.reshape(-1, {', '.join(map(str, fitted))}).")
        raise ValueError(
            f"X has shape {shape}, but {type(estimator).__name__} was fitted on samples of shape {fitted}. {fix}")
    try:
        out = validate_data(estimator, X, y, reset=reset, dtype=_FLOATS, order="C")
    except (ValueError, TypeError) as error:  # TypeError: of dates
        first = str(error).partition("\n")[0]
        text = isinstance(error, TypeError) or "could not convert" in first
        more = where_missing(X) if "NaN" in first else where_text(X) if text else (
            " Of one-hot labels pass y.argmax(1)." if "1d array" in first and np.ndim(y) == 2 else "")
        if not more:
            raise
        raise ValueError(f"{first.rstrip(chr(46))}.{more}") from error
    X, rest = (out[0], out[1:]) if isinstance(out, tuple) else (out, ())
    if reset:
        estimator.layout_ = Layout.of(sample_shape if many else (X.shape[1],), image_shape, channels)
    layout = estimator.layout_
    if layout.is_image and data_range is not None:
        _check_range(X, data_range)
    X = layout.to_net(X)
    if not X.flags.writeable:  # torch would warn, and share the memory
        X = X.copy()
    return (X, *rest) if rest else X


def restore_samples(array: np.ndarray, layout: Layout, like: Any = None) -> Any:
    """`array`, in the layout of networks, in the user's layout, and in the container and dtype of `like` (floats only)."""
    return in_container(layout.to_user(np.ascontiguousarray(array)), like)


def in_container(array: np.ndarray, like: Any) -> Any:
    """`array` in the container and dtype of `like` (floats only)."""
    array = np.ascontiguousarray(array)
    if isinstance(like, torch.Tensor):
        tensor = torch.from_numpy(array)
        return tensor.to(like.dtype) if like.dtype.is_floating_point else tensor
    dtype = getattr(like, "dtype", None)
    return array.astype(dtype, copy=False) if dtype in _FLOATS else array


def _moved_channels(shape: tuple[int, ...], fitted: tuple[int, ...]) -> str:
    """What to do where the channels of X are at the other end, or the axis of one channel is too many or lacks."""
    if shape == (1, *fitted):
        return " It has an axis for one channel: pass X[:, 0]."
    if (1, *shape) == fitted:
        return " It lacks the axis of the channel: pass X[:, None]."
    if len(shape) == len(fitted) == 3 and shape != fitted:
        if (shape[2], *shape[:2]) == fitted:
            return " Its channels come last: pass np.moveaxis(X, -1, 1)."
        if (*shape[1:], shape[0]) == fitted:
            return " Its channels come first: pass np.moveaxis(X, 1, -1)."
    return ""


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
        eight = " (8-bit values: X / 255)" if (low, high) == (0, 1) and least >= 0 and 2 < most <= 255 else ""
        raise DataRangeError(
            f"X has values in [{least:g}, {most:g}], outside data_range=({low:g}, {high:g}). Rescale X{eight}, or declare "
            "its range: data_range=(low, high)."
        )
