"""CheXpert: chest X-rays with fourteen findings."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import numpy as np

from cfexplain.datasets.files import find, folder_with, read_pictures

__all__ = ["load_chexpert"]

LAYOUT = "A folder with train.csv, valid.csv and the images that they name (train/patient00001/study1/view1_frontal.jpg, …)"
FOLDERS = ("CheXpert-v1.0-small", "CheXpert-v1.0", "chexpert", "CheXpert")
# Diffeomorphic Counterfactuals, appendix B: so many patients are for testing
TEST_PATIENTS = 6500
SPLITS, UNCERTAIN, BLANK = ("train", "test", "valid"), ("ignore", "positive", "negative"), ("no_finding", "negative")


def load_chexpert(
    path: str | os.PathLike | None = None, finding: str = "Cardiomegaly", *, size: int = 128, split: str = "train",
    uncertain: str = "ignore", blank: str = "no_finding", max_rows: int | None = None,
    data_home: str | os.PathLike | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frontal chest X-rays of CheXpert with one of their findings, as Diffeomorphic Counterfactuals reads them (appendix B).

    Parameters
    ----------
    path : str or path, optional
        The folder that holds ``train.csv``, ``valid.csv`` and the folders of the patients; or the folder above it, if it is
        named as published (``CheXpert-v1.0-small``, ``CheXpert-v1.0``).
    finding : str, default="Cardiomegaly"
        A column of the lists.
    size : int, default=128
        Pixels a side: the shorter side is scaled and the middle kept.
    split : {"train", "test", "valid"}, default="train"
        As in the paper: "test" are the patients up to number 6,500 of ``train.csv``, "train" the others, "valid" is
        ``valid.csv``. No patient is in two of them.
    uncertain : {"ignore", "positive", "negative"}, default="ignore"
        What the label −1 means: the row is left out, as in the paper, or counted as one of the two.
    blank : {"no_finding", "negative"}, default="no_finding"
        What a missing label means. "no_finding", as in the paper: negative where the column "No Finding" is 1, and left out
        elsewhere. "negative": negative. Of the finding "No Finding" itself it is always negative.
    max_rows : int, optional
        Only the first rows that remain.
    data_home : str or path, optional
        See `get_data_home`.

    Returns
    -------
    X : ndarray of float32, shape (n, size, size), in [0, 1]
    y : ndarray of str, shape (n,)
        The finding, or "no " and the finding.
    patient : ndarray of str, shape (n,)
        Rows of one patient belong on one side of a split.

    Raises
    ------
    FileNotFoundError
        With the layout that is expected and where to get it.
    ValueError
        An unknown finding, split or policy, a list that is damaged, or no rows that remain.

    References
    ----------
    Irvin et al.: CheXpert, AAAI 2019. For research, after registration.
    """
    for name, value, known in (("split", split, SPLITS), ("uncertain", uncertain, UNCERTAIN), ("blank", blank, BLANK)):
        if value not in known:
            raise ValueError(f"{name}={value!r} is not known; choose one of {known}.")
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows={max_rows!r} must be at least 1.")
    folder = find(folder_with(("train.csv", "valid.csv"), FOLDERS), path, data_home, LAYOUT,
                  "https://stanfordmlgroup.github.io/competitions/chexpert, after registration")
    file = folder / ("valid.csv" if split == "valid" else "train.csv")
    files, labels, patients = [], [], []
    with open(file, newline="") as opened:
        lines = csv.DictReader(opened)
        columns = lines.fieldnames or []
        missing = [name for name in ("Path", "Frontal/Lateral", "No Finding", finding) if name not in columns]
        if missing:
            raise ValueError(f"{file} has no columns {missing}; it has {columns}.")
        for line in lines:
            if line["Frontal/Lateral"] != "Frontal":
                continue
            place, patient = _place(line["Path"], file)
            if split != "valid" and (int(patient.removeprefix("patient")) <= TEST_PATIENTS) != (split == "test"):
                continue
            label = _label(line, finding, uncertain, blank, file)
            if label is None:
                continue
            files.append(folder / place)
            labels.append(label)
            patients.append(patient)
            if len(files) == max_rows:
                break
    if not files:
        raise ValueError(f"No frontal row of the split {split!r} in {file} has a label of {finding!r} under uncertain="
                         f"{uncertain!r} and blank={blank!r}.")
    X = read_pictures(files, size, colour=False, crop=True)
    return X, np.where(labels, finding, f"no {finding}"), np.array(patients)


def _place(path: str, file: Path) -> tuple[Path, str]:
    """Where an image lies below the folder of the lists, and whose it is."""
    parts = re.match(r"(?:[^/]+/)?((?:train|valid)/(patient\d+)/[^/]+/[^/]+)$", path)
    if parts is None:
        raise ValueError(f"{file}: expected paths like CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg, got "
                         f"{path!r}.")
    return Path(parts[1]), parts[2]


def _label(line: dict[str, str], finding: str, uncertain: str, blank: str, file: Path) -> bool | None:
    """True, False, or None for a row that is left out."""
    cell = (line[finding] or "").strip()
    if not cell:
        if finding == "No Finding" or blank == "negative" or (line["No Finding"] or "").strip() in ("1", "1.0"):
            return False
        return None
    values = {"1": True, "1.0": True, "0": False, "0.0": False}
    if cell in ("-1", "-1.0"):
        return {"ignore": None, "positive": True, "negative": False}[uncertain]
    if cell not in values:
        raise ValueError(f"{file}: {finding} is {cell!r} for {line['Path']}; expected 1, 0, -1 or nothing.")
    return values[cell]
