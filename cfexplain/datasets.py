"""Data to try things on: bundled, or read from a folder of yours. Nothing is ever downloaded behind your back.

A loader looks at its ``path`` argument, then at ``$CFEXPLAIN_DATA``, then at ``~/.cache/cfexplain``.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

__all__ = ["load_digits_images", "load_mnist", "load_smiles"]


def load_digits_images() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 digits of 8×8 pixels that come with scikit-learn.

    Returns
    -------
    X : ndarray of float32, shape (1797, 8, 8), in [0, 1]
    y : ndarray of int, shape (1797,)

    Examples
    --------
    >>> X, y = load_digits_images()
    >>> X.shape, float(X.max())
    ((1797, 8, 8), 1.0)
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images / 16).astype(np.float32), digits.target


def load_mnist(path: str | Path | None = None, *, size: int = 32) -> tuple[np.ndarray, ...]:
    """MNIST from ``mnist.npz`` (arrays x_train, y_train, x_test, y_test, uint8).

    Parameters
    ----------
    path : str or Path, optional
        The file, or the folder that holds it.
    size : {28, 32}, default=32
        32 pads with background, as both papers do.

    Returns
    -------
    X_train, y_train, X_test, y_test : ndarray
        Images of float32 in [0, 1], shape (n, size, size).

    Raises
    ------
    FileNotFoundError
        With where to put the file.
    """
    if size not in (28, 32):
        raise ValueError(f"size={size!r} must be 28 or 32.")
    source = "Keras (keras.datasets.mnist.load_data() keeps it under ~/.keras/datasets)"
    with np.load(_find("mnist.npz", path, source)) as data:
        margin = (size - 28) // 2
        images = [np.pad(data[name], ((0, 0), (margin, margin), (margin, margin))).astype(np.float32) / 255
                  for name in ("x_train", "x_test")]
        return images[0], data["y_train"].astype(int), images[1], data["y_test"].astype(int)


def load_smiles(path: str | Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Grey faces of 64×64 pixels with the label "smile" from ``smiles_64.npz`` (arrays x uint8, y).

    Returns
    -------
    X : ndarray of float32, shape (n, 64, 64), in [0, 1]
    y : ndarray of str, shape (n,)
        "smile" or "no smile".
    """
    with np.load(_find("smiles_64.npz", path, "your copy of the data set")) as data:
        return data["x"].astype(np.float32) / 255, np.where(data["y"] == 1, "smile", "no smile")


def _find(name: str, path: str | Path | None, source: str) -> Path:
    """The file `name`: given, in ``$CFEXPLAIN_DATA``, or in the user's cache."""
    places = [Path(path)] if path is not None else []
    if not places:
        places = [Path(os.environ["CFEXPLAIN_DATA"])] if os.environ.get("CFEXPLAIN_DATA") else []
        places.append(Path.home() / ".cache" / "cfexplain")
    for place in places:
        file = place / name if place.is_dir() else place
        if file.is_file():
            return file
    raise FileNotFoundError(
        f"{name} was not found in {', '.join(str(place) for place in places)}. Get it from {source} and pass path=, "
        "set CFEXPLAIN_DATA to its folder, or put it into ~/.cache/cfexplain.")
