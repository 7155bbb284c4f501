"""Chest X-rays of children, healthy or with pneumonia (Kermany et al.), by patient."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from cfexplain.datasets.files import find, folder_with, read_pictures
from cfexplain.datasets.packed import packed_named, read_packed

__all__ = ["load_chest_xray"]

SPLITS, LABELS = ("all", "train", "val", "test"), ("pneumonia", "kind")
CLASSES = ("NORMAL", "PNEUMONIA")
FOLDERS = ("chest_xray", "ChestXRay2017/chest_xray")
LAYOUT = "A folder with train/NORMAL, train/PNEUMONIA, test/NORMAL and test/PNEUMONIA, or a packed cxr_kermany*_jpeg.npz,"
PATIENT = re.compile(r"((?:NORMAL\d-)?IM-\d+)|(person\d+)_(bacteria|virus)")


def load_chest_xray(path: str | os.PathLike | None = None, label: str = "pneumonia", *, size: int = 224, split: str = "all",
                    max_rows: int | None = None, data_home: str | os.PathLike | None = None,
                    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chest X-rays of children by Kermany et al., healthy or with pneumonia, and whose they are.

    Split them by the patients that are returned: many have several X-rays, and a network that saw one of a child knows the
    others, too. Copies of this data set whose parts were mixed anew have children in all parts.

    Parameters
    ----------
    path : str or path, optional
        The folder that holds ``train`` and ``test`` (and, in Kaggle's copy, ``val``), with ``NORMAL`` and ``PNEUMONIA`` in
        each; or the folder above it, if it is named ``chest_xray``. Or one packed file ``cxr_kermany*_jpeg.npz``, or its
        folder: arrays ``jpeg`` and ``off`` (picture i is ``jpeg[off[i]:off[i + 1]]``), ``kind`` and ``patient``.
    label : {"pneumonia", "kind"}, default="pneumonia"
        "kind" tells bacteria from viruses.
    size : int, default=224
        Pixels a side: the shorter side is scaled and the middle kept.
    split : {"all", "train", "val", "test"}, default="all"
        A published part. A packed file has no parts.
    max_rows : int, optional
        Only the first rows of each class.
    data_home : str or path, optional
        See `get_data_home`.

    Returns
    -------
    X : ndarray of float32, shape (n, size, size), in [0, 1]
    y : ndarray of str, shape (n,)
        "normal" or "pneumonia"; "normal", "bacteria" or "virus".
    patient : ndarray of str, shape (n,)
        As in the files' names. The numbers of children with bacteria and with viruses overlap; whether they are the same
        children is not published, so that they count as the same here.

    Raises
    ------
    FileNotFoundError
        With the layout that is expected and where to get it.
    ValueError
        An unknown label or split, or files that are damaged.

    References
    ----------
    Kermany et al.: Identifying medical diagnoses and treatable diseases by image-based deep learning, Cell 2018 (CC BY 4.0).
    """
    for name, value, known in (("label", label, LABELS), ("split", split, SPLITS)):
        if value not in known:
            raise ValueError(f"{name}={value!r} is not known; choose one of {known}.")
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows={max_rows!r} must be at least 1.")
    marks = [f"{part}/{name}" for part in ("train", "test") for name in CLASSES]
    folder, packed = folder_with(marks, FOLDERS), packed_named("cxr_kermany*_jpeg.npz")
    found = find(lambda place: folder(place) or packed(place), path, data_home, LAYOUT,
                 "https://data.mendeley.com/datasets/rscbjbr9sj")
    pictures: list[Path] | list[bytes]
    if found.is_dir():
        pictures, kinds, patients = _from_folder(found, split)
    else:
        if split != "all":
            raise ValueError(f"split={split!r}: {found} has no parts. Take all, and split by the patients returned.")
        pictures, (kinds, patients) = read_packed(found, ["kind", "patient"])
    normal = kinds == "normal"
    rows = np.sort(np.concatenate([np.flatnonzero(of)[:max_rows] for of in (normal, ~normal)]))
    X = read_pictures([pictures[i] for i in rows], size, colour=False, crop=True)
    return X, (kinds if label == "kind" else np.where(normal, "normal", "pneumonia"))[rows], patients[rows]


def _from_folder(folder: Path, split: str) -> tuple[list[Path], np.ndarray, np.ndarray]:
    files, kinds, patients = [], [], []
    for part in SPLITS[1:] if split == "all" else [split]:
        for name in CLASSES:
            for file in sorted((folder / part / name).glob("*.jp*g")):
                read = PATIENT.match(file.name)
                if read is None or (read[1] is None) != (name == "PNEUMONIA"):
                    raise ValueError(f"{file}: expected names like IM-0115-0001.jpeg in NORMAL and "
                                     "person1_bacteria_1.jpeg in PNEUMONIA.")
                files.append(file)
                kinds.append(read[3] or "normal")
                patients.append(read[1] or read[2])
    if not files:
        raise ValueError(f"{folder} has no pictures in the part {split!r}.")
    return files, np.array(kinds), np.array(patients)
