"""Small grey pictures: digits, faces, chest X-rays."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from cfexplain.datasets.files import fetch, file_named, find, get_data_home, read_idx, read_npz

__all__ = ["load_digits_images", "load_mnist", "load_pneumonia", "load_smiles"]

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
# file, and the MD5 checksum that torchvision publishes for it
MNIST_FILES = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c"}
# MedMNIST's own
PNEUMONIA_URL = "https://zenodo.org/records/10519652/files/pneumoniamnist.npz?download=1"
PNEUMONIA_MD5 = "28209eda62fecd6e6a2d98b1501bb15f"


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


def load_mnist(path: str | os.PathLike | None = None, *, size: int = 32, download: bool = False,
               data_home: str | os.PathLike | None = None) -> tuple[np.ndarray, ...]:
    """MNIST from ``mnist.npz`` (arrays x_train, y_train, x_test, y_test, uint8), or from the four published IDX files.

    Parameters
    ----------
    path : str or path, optional
        The ``.npz`` file, or the folder that holds it or the IDX files (``train-images-idx3-ubyte``, …, gzipped or not; also
        in its subfolder ``mnist``, or ``MNIST/raw`` as torchvision keeps them).
    size : {28, 32}, default=32
        32 pads with background, as both papers do.
    download : bool, default=False
        Where there is none, download the IDX files (11 MB) into ``data_home/mnist`` and check them.
    data_home : str or path, optional
        See `get_data_home`.

    Returns
    -------
    X_train, y_train, X_test, y_test : ndarray
        Images of float32 in [0, 1], shape (n, size, size); labels of int.

    Raises
    ------
    FileNotFoundError
        With where to put the file.
    ValueError
        A file is damaged, or a download has another checksum than the published one.
    OSError
        The download failed.
    """
    if size not in (28, 32):
        raise ValueError(f"size={size!r} must be 28 or 32.")
    expected = f"mnist.npz, or {', '.join(name.removesuffix('.gz') for name in MNIST_FILES)} (with or without .gz),"
    source = ("Keras (keras.datasets.mnist.load_data() keeps mnist.npz under ~/.keras/datasets), or with "
              "load_mnist(download=True)")
    try:
        found = find(_mnist_in, path, data_home, expected, source)
    except FileNotFoundError:
        if not download:
            raise
        found = get_data_home(data_home) / "mnist"
        for name, md5 in MNIST_FILES.items():
            if not (found / name).is_file():
                fetch(MNIST_URL + name, found / name, md5)
    if found.is_file():
        X, y, X_test, y_test = read_npz(found, ["x_train", "y_train", "x_test", "y_test"])
    else:
        X, y, X_test, y_test = (read_idx(_idx_file(found, name), 3 if "images" in name else 1) for name in MNIST_FILES)
    for images, labels in ((X, y), (X_test, y_test)):
        if images.shape[1:] != (28, 28) or labels.shape != (len(images),):
            raise ValueError(f"{found} holds images of shape {images.shape} with labels of shape {labels.shape}; MNIST has "
                             "(n, 28, 28) and (n,).")
    margin = (size - 28) // 2
    X, X_test = (np.pad(a, ((0, 0), (margin, margin), (margin, margin))).astype(np.float32) / 255 for a in (X, X_test))
    return X, y.astype(int), X_test, y_test.astype(int)


def _mnist_in(place: Path) -> Path | None:
    """The file ``mnist.npz``, or the folder of the IDX files."""
    npz = file_named("mnist.npz")(place)
    if npz is not None:
        return npz
    for folder in (place, place / "mnist", place / "MNIST" / "raw", place / "raw"):
        if all(_idx_file(folder, name).is_file() for name in MNIST_FILES):
            return folder
    return None


def _idx_file(folder: Path, name: str) -> Path:
    """The file, under one of the names that it is known by; the last of them if there is none."""
    plain = name.removesuffix(".gz")
    files = [folder / known for known in (plain, name, plain.replace("-idx", ".idx"))]
    return next((file for file in files if file.is_file()), files[-1])


def load_smiles(path: str | os.PathLike | None = None, *, data_home: str | os.PathLike | None = None,
                ) -> tuple[np.ndarray, np.ndarray]:
    """Grey faces of 64×64 pixels with the label "smile" from ``smiles_64.npz`` (arrays x uint8, y).

    Returns
    -------
    X : ndarray of float32, shape (n, 64, 64), in [0, 1]
    y : ndarray of str, shape (n,)
        "smile" or "no smile".
    """
    name = "smiles_64.npz"
    x, y = read_npz(find(file_named(name), path, data_home, name, "your copy of the data set"), ["x", "y"])
    return x.astype(np.float32) / 255, np.where(y == 1, "smile", "no smile")


def load_pneumonia(path: str | os.PathLike | None = None, *, download: bool = False,
                   data_home: str | os.PathLike | None = None) -> tuple[np.ndarray, ...]:
    """Chest X-rays of 28×28 pixels, healthy or with pneumonia, from MedMNIST's ``pneumoniamnist.npz`` (CC BY 4.0).

    Parameters
    ----------
    path : str or path, optional
        The file, or the folder that holds it.
    download : bool, default=False
        Where there is none, download it (4 MB) into `data_home` and check it.
    data_home : str or path, optional
        See `get_data_home`.

    Returns
    -------
    X_train, y_train, X_test, y_test : ndarray
        Images of float32 in [0, 1], shape (n, 28, 28); the training rows hold the validation rows too. Labels: 1 is
        pneumonia.

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        As `load_mnist`.

    References
    ----------
    Yang et al.: MedMNIST v2, Scientific Data 2023.
    """
    name = "pneumoniamnist.npz"
    try:
        file = find(file_named(name), path, data_home, name, "https://medmnist.com, or with load_pneumonia(download=True)")
    except FileNotFoundError:
        if not download:
            raise
        file = fetch(PNEUMONIA_URL, get_data_home(data_home) / name, PNEUMONIA_MD5)
    parts = ("train", "val", "test")
    images = [x.astype(np.float32) / 255 for x in read_npz(file, [f"{part}_images" for part in parts])]
    labels = [y.reshape(-1).astype(int) for y in read_npz(file, [f"{part}_labels" for part in parts])]
    return np.concatenate(images[:2]), np.concatenate(labels[:2]), images[2], labels[2]
