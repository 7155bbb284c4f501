"""UTKFace: aligned faces with age, gender and race."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from cfexplain.datasets.files import find, read_pictures
from cfexplain.datasets.packed import packed_named, read_packed
from cfexplain.foundation.exceptions import warn_caller

__all__ = ["load_utkface"]

LABELS = ("gender", "age", "race")
GENDERS, RACES = ("male", "female"), ("White", "Black", "Asian", "Indian", "Other")
FOLDERS = ("UTKFace", "utkface", "part1", "part2", "part3")
LAYOUT = "A folder with UTKFace's pictures ([age]_[gender]_[race]_[date].jpg.chip.jpg), or a packed utkface*_jpeg.npz,"
NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_\d+\.jpg(\.chip\.jpg)?$")


def load_utkface(path: str | os.PathLike | None = None, label: str = "gender", *, size: int = 200,
                 max_rows: int | None = None, random_state: int | None = 0, data_home: str | os.PathLike | None = None,
                 ) -> tuple[np.ndarray, np.ndarray]:
    """Faces of UTKFace (*Aligned&Cropped Faces*, 200×200 pixels) with one of their labels.

    Parameters
    ----------
    path : str or path, optional
        The folder of the pictures; or the folder above it, if it is named as published (``UTKFace``; ``part1`` to ``part3``
        are read together). Or one packed file ``utkface*_jpeg.npz``, or its folder: arrays ``jpeg`` and ``off`` (picture i
        is ``jpeg[off[i]:off[i + 1]]``), ``age``, ``female`` and ``race``.
    label : {"gender", "age", "race"}, default="gender"
        Ages are values, for a regressor. The data set knows two genders, and labels of all three come from a network that
        people checked: take none for the truth about a person.
    size : int, default=200
        Pixels a side.
    max_rows : int, optional
        Only the first rows in the random order.
    random_state : int or None, default=0
        Of the order. Names sort by age, and no split was published: the first rows for training, the last for testing. None:
        sorted by name, or as packed.
    data_home : str or path, optional
        See `get_data_home`.

    Returns
    -------
    X : ndarray of float32, shape (n, 3, size, size), in [0, 1]
    y : ndarray, shape (n,)
        "male" or "female"; years, float64; or one of five races.

    Raises
    ------
    FileNotFoundError
        With the layout that is expected and where to get it.
    ValueError
        An unknown label, or files that are damaged.

    Warns
    -----
    UserWarning
        Some pictures' names lack a label (of three, as published); they are left out.

    References
    ----------
    Zhang, Song, Qi: Age Progression/Regression by Conditional Adversarial Autoencoder, CVPR 2017. For non-commercial
    research only.
    """
    if label not in LABELS:
        raise ValueError(f"label={label!r} is not known; choose one of {LABELS}.")
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows={max_rows!r} must be at least 1.")
    packed = packed_named("utkface*_jpeg.npz")
    found = find(lambda place: place if _pictures_of(place) else packed(place), path, data_home, LAYOUT,
                 "https://susanqq.github.io/UTKFace")
    pictures, columns = _from_folder(found) if found.is_dir() else _from_packed(found)
    values = columns[:, LABELS.index(label)]
    if label != "age":
        words = np.array(GENDERS if label == "gender" else RACES)
        if values.min() < 0 or values.max() >= len(words):
            raise ValueError(f"{found} is damaged: expected {label} from 0 to {len(words) - 1}, got {values.max()}.")
    order = np.arange(len(values)) if random_state is None else np.random.RandomState(random_state).permutation(len(values))
    order = order[:max_rows]
    X = read_pictures([pictures[i] for i in order], size, colour=True, crop=True)
    return X, values[order].astype(float) if label == "age" else words[values[order]]


def _pictures_of(place: Path) -> list[Path]:
    """The pictures of a folder, or of its published subfolders."""
    for folders in ([place], [place / name for name in FOLDERS]):
        files = [file for folder in folders if folder.is_dir() for file in folder.glob("*_*.jpg")]
        if files:
            return sorted(files, key=lambda file: file.name)
    return []


def _from_folder(folder: Path) -> tuple[list[Path], np.ndarray]:
    files = _pictures_of(folder)
    labels = [NAME.match(file.name) for file in files]
    strange = [file.name for file, read in zip(files, labels, strict=True) if read is None]
    if len(strange) == len(files):
        raise ValueError(f"{folder}: expected names like 35_0_4_20170104181306061.jpg.chip.jpg, got {strange[0]!r}.")
    if strange:
        warn_caller(f"{len(strange)} of {len(files)} pictures in {folder} have no age, gender and race in their names and "
                      f"are left out, first {strange[:3]}.", UserWarning)
    known = [(file, read) for file, read in zip(files, labels, strict=True) if read is not None]
    return ([file for file, _ in known],
            np.array([[int(read[2]), int(read[1]), int(read[3])] for _, read in known]))


def _from_packed(file: Path) -> tuple[list[bytes], np.ndarray]:
    pictures, (age, female, race) = read_packed(file, ["age", "female", "race"])
    return pictures, np.stack([female, age, race], 1).astype(int)
