"""What people pass for an array: taken where it can be nothing else, and where not, told how to make one of it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from cfexplain.foundation.optional import is_instance

__all__ = ["flat_pictures", "stacked", "where_missing", "where_text"]

_SIDE, _BETWEEN = 14, 0.02  # pixels, and the share of cells between the least and the most, from which columns may be pixels


def stacked(X: Any) -> Any:
    """A list of equal arrays or tensors as one array; anything else as it is.

    Raises
    ------
    TypeError
        A DataLoader or Dataset of torch, pictures of Pillow, or text, such as a path.

    Examples
    --------
    >>> stacked([np.zeros((8, 8)), np.ones((8, 8))]).shape
    (2, 8, 8)
    """
    if isinstance(X, DataLoader):
        raise TypeError("X is a DataLoader; expected an array or tensor of all samples, and y of all labels: X, y = "
                        "(torch.cat(part) for part in zip(*loader)).")
    if isinstance(X, (Dataset, IterableDataset)):
        raise TypeError(f"X is a {type(X).__name__}; expected an array or tensor of all samples, and y of all labels: X = "
                        "torch.stack([sample for sample, _ in dataset]), y = [label for _, label in dataset].")
    several = isinstance(X, (list, tuple)) and len(X) > 0
    if isinstance(X[0] if several else X, (str, os.PathLike)):
        raise TypeError(f"X is {'a list of text' if several else 'text'}, {str(X[0] if several else X)!r}; expected an "
                        "array, tensor or DataFrame. Read files first, such as by pandas.read_csv, numpy.load or Pillow; a "
                        "folder of pictures is read by `cfexplain fit FOLDER` in a terminal.")
    if is_instance(X[0] if several else X, "PIL.Image", "Image"):
        what, made = ("a list of pictures", "np.stack(X)") if several else ("a picture", "np.asarray(X)[None]")
        raise TypeError(f"X is {what} of Pillow; expected an array of floats: X = {made} / np.float32(255).")
    if several and all(isinstance(part, (np.ndarray, Tensor)) and part.ndim > 1 and part.shape == X[0].shape for part in X):
        return np.stack([part.detach().cpu().numpy() if isinstance(part, Tensor) else part for part in X])
    return X


def where_missing(X: Any) -> str:
    """Where NaN is in X, an array or DataFrame, and what to do about it; nothing where there is none."""
    cells = np.asarray(X)
    if cells.dtype.kind not in "fO" or cells.ndim < 2:
        return ""
    bad = np.isnan(cells) if cells.dtype.kind == "f" else np.array([[cell != cell or cell is None for cell in row]
                                                                     for row in cells.reshape(len(cells), -1)])
    bad = bad.reshape(len(cells), -1)
    if not bad.any():
        return ""
    rows, columns = np.flatnonzero(bad.any(1)), np.flatnonzero(bad.any(0))
    names = [repr(name) for name in np.asarray(X.columns)[columns[:5]].tolist()] if hasattr(X, "columns") else []
    where = f" It is in {'column ' if len(names) == 1 else 'columns '}{', '.join(names)}, first in row" if names else (
        " It is first in row")
    advice = "Fill or drop these rows" + (
        " (SimpleImputer), or take explain_pipeline(), which leaves missing cells as they are." if cells.ndim == 2 else ".")
    return f"{where} {rows[0]}; {len(rows)} of {len(cells)} rows have it. {advice}"


def where_text(X: Any) -> str:
    """Which columns of a DataFrame hold text, or dates, and what takes them; nothing where none does, or X is no
    DataFrame."""
    if not hasattr(X, "columns"):
        return ""
    texts = [str(name) for name in X.columns if not np.issubdtype(np.asarray(X[name]).dtype, np.number)
             and np.asarray(X[name]).dtype.kind != "b"]
    return "" if not texts else (
        f" Columns {texts[:8]} hold no numbers. explain_pipeline(model, X, target, X_train=...) takes tables of numbers and "
        "categories as your pipeline does; this explainer takes numbers only.")


def flat_pictures(X: np.ndarray) -> tuple[int, int, int] | None:
    """The shape (C, H, W) that rows of X may have as images, if all looks as if they were flattened ones.

    >>> flat_pictures(np.random.RandomState(0).rand(9, 784).round(1)), flat_pictures(np.zeros((9, 30)))
    ((1, 28, 28), None)
    """
    for channels in (1, 3):
        side = round((X.shape[1] / channels) ** 0.5)
        if side >= _SIDE and channels * side**2 == X.shape[1]:
            some = X[:200]
            low, high = float(some.min()), float(some.max())
            between = float(((some > low) & (some < high)).mean())
            if low == 0 and (0.9 <= high <= 1 or 200 <= high <= 255) and between > _BETWEEN:
                return channels, side, side
    return None
