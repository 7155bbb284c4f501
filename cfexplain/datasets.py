"""Data to try things on: bundled, or read from a folder of yours. Nothing is ever downloaded behind your back.

A loader looks at its ``path`` argument, then at ``$CFEXPLAIN_DATA``, then at ``~/.cache/cfexplain``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from cfexplain._arrays import to_numpy
from cfexplain._random import draw_seed

__all__ = ["helix_distance", "load_digits_images", "load_mall", "load_mnist", "load_pneumonia", "load_smiles", "make_helix"]

HELIX_BOUNDS = (-4.0, 4.0)


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


def load_pneumonia(path: str | Path | None = None) -> tuple[np.ndarray, ...]:
    """Chest X-rays of 28×28 pixels, healthy or with pneumonia, from MedMNIST's ``pneumoniamnist.npz`` (CC BY 4.0).

    Returns
    -------
    X_train, y_train, X_test, y_test : ndarray
        Images of float32 in [0, 1], shape (n, 28, 28); the training rows hold the validation rows too. Labels: 1 is
        pneumonia.

    References
    ----------
    Yang et al.: MedMNIST v2, Scientific Data 2023.
    """
    with np.load(_find("pneumoniamnist.npz", path, "https://medmnist.com")) as data:
        parts = [(data[f"{part}_images"].astype(np.float32) / 255, data[f"{part}_labels"].reshape(-1).astype(int))
                 for part in ("train", "val", "test")]
    (X, y), (X_more, y_more), (X_test, y_test) = parts
    return np.concatenate([X, X_more]), np.concatenate([y, y_more]), X_test, y_test


def make_helix(n: int, *, noise: float = 0.0, random_state: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Points on a helix in R³ with two classes, the toy data of Diffeomorphic Counterfactuals (section 4.1.1, appendix B.1).

    x₃ ~ U(−4, 4), x₂ = cos x₃, x₁ = sin x₃; the classes are the lower and the upper half.

    Parameters
    ----------
    n : int
    noise : float, default=0.0
        Standard deviation of Gaussian noise that is added to every coordinate (the paper adds none).
    random_state : int, RandomState or None

    Returns
    -------
    X : ndarray of float64, shape (n, 3)
    y : ndarray of int, shape (n,)
        0 where the point of the helix has x₃ < 0, else 1.

    Examples
    --------
    >>> X, y = make_helix(500, noise=0.1, random_state=0)
    >>> X.shape, sorted(set(y.tolist())), bool((helix_distance(X) < 0.5).all())
    ((500, 3), [0, 1], True)
    """
    if n < 1 or not noise >= 0:
        raise ValueError(f"n={n!r} must be positive and noise={noise!r} must not be negative.")
    rng = check_random_state(draw_seed(random_state))
    height = rng.uniform(*HELIX_BOUNDS, size=n)
    X = np.column_stack([np.sin(height), np.cos(height), height])
    return X + noise * rng.normal(size=X.shape), (height >= 0).astype(int)


def helix_distance(X: ArrayLike, *, bounds: tuple[float, float] | None = HELIX_BOUNDS) -> np.ndarray:
    """Euclidean distance of points to the helix (sin t, cos t, t), exact to rounding.

    Parameters
    ----------
    X : array-like or tensor of shape (n, 3)
    bounds : (low, high) or None, default=(-4, 4)
        The piece of the helix, by t: by default the one that holds the data, so that a point beyond an end is off the
        manifold. None: the helix without ends.

    Returns
    -------
    distance : ndarray of float64, shape (n,)

    Notes
    -----
    With ρ and θ the radius and the angle of the point, the squared distance is ρ² + 1 − 2ρ cos(t − θ) + (t − x₃)². It has
    at most one local minimum within half a turn of each θ + 2πm, and between the two its derivative is concave (or convex):
    Newton's method from θ + 2πm approaches it from one side. Of these minima, each cut to the piece, and the ends of the
    piece the nearest counts.

    Examples
    --------
    >>> helix_distance([[0, 0, 0], [0, 3, 0], [0, 1, 5]], bounds=None).round(3).tolist()
    [1.0, 2.0, 0.899]
    """
    X = np.asarray(to_numpy(X), dtype=np.float64)
    if X.ndim != 2 or X.shape[1] != 3 or not np.isfinite(X).all():
        raise ValueError(f"X must be finite points of shape (n, 3), got shape {X.shape}.")
    radius, angle, height = np.hypot(X[:, :1], X[:, 1:2]), np.arctan2(X[:, :1], X[:, 1:2]), X[:, 2:]
    turn = 2 * np.pi
    if bounds is None:
        start, (low, high) = angle + turn * np.round((height - angle) / turn), (-np.inf, np.inf)
    else:
        low, high = bounds
        if not low < high:
            raise ValueError(f"bounds={bounds!r} must be (low, high) with low < high, or None.")
        start = angle + turn * np.arange(np.floor(low / turn) - 1, np.ceil(high / turn) + 2)
    s, away = np.zeros_like(start), height - start
    for _ in range(100):
        slope = 1 + radius * np.cos(s)
        step = np.where(slope > 0, (away - radius * np.sin(s) - s) / np.where(slope > 0, slope, 1), 0)
        before, s = s, np.clip(s + step, -np.pi, np.pi)
        if (np.abs(s - before) <= 1e-15 * np.pi).all():
            break
    t = np.clip(start + s, low, high)
    if bounds is not None:
        t = np.concatenate([t, np.broadcast_to(np.array(bounds, dtype=float), (len(X), 2))], 1)
    return np.sqrt((X[:, :1] - np.sin(t)) ** 2 + (X[:, 1:2] - np.cos(t)) ** 2 + (height - t) ** 2).min(1)


def load_mall(path: str | Path | None = None) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Crowd counting: 2,000 video frames of a mall from ``mall_64.npz`` (arrays x uint8, count, heads, head_offset).

    The cut-out of *Diffeomorphic Counterfactuals* (appendix B): frames resized to a shortest side of 128 pixels, of which
    the 64×64 pixels from row 64 and column 100 are kept. In the order of the video.

    Parameters
    ----------
    path : str or Path, optional
        The file, or the folder that holds it.

    Returns
    -------
    X : ndarray of float32, shape (2000, 3, 64, 64), in [0, 1]
    count : ndarray of float32, shape (2000,)
        Heads in the cut-out, 0 to 11.
    heads : list of 2000 ndarrays of float32, shape (count, 2)
        x and y of every head in pixels from the left and upper edge.

    Raises
    ------
    FileNotFoundError
        With where to put the file.
    """
    source = "the Mall data set (Chen, Loy et al., for research only), cut out as the docstring says,"
    with np.load(_find("mall_64.npz", path, source)) as data:
        images = np.ascontiguousarray(data["x"].transpose(0, 3, 1, 2)).astype(np.float32) / 255
        return images, data["count"].astype(np.float32), np.split(data["heads"], data["head_offset"][1:-1])


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
