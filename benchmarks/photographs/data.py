"""The sets of the photographs' benchmark: which images train, which are held out, and which labels are asked."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cfexplain.datasets import CELEBA_ATTRIBUTES
from cfexplain.datasets.packed import read_packed

__all__ = ["SETS", "Goal", "Photographs", "PhotographSet", "goals", "read"]


@dataclass(frozen=True)
class PhotographSet:
    """What of a set is used: the file, its crop, the side, and the labels that are asked for.

    ``units`` names labels that are values, with what their share in [0, 1] is counted in.

    ``face`` is where a face recogniser must look, as left, top and side in shares of the picture's: dlib's was trained on
    chips that its landmarks cut out, and of whole CelebA squares it takes 9 of 10 strangers for one person.
    """

    file: str
    side: int
    labels: tuple[str, ...]
    asked: tuple[str, ...]
    crop: tuple[int, int, int, int] | None = None
    face: tuple[float, float, float] = (0.0, 0.0, 1.0)
    units: dict[str, float] = field(default_factory=dict)


SETS = {
    "celeba": PhotographSet("celeba_89x109_jpeg.npz", 112, ("attr",), ("Smiling", "Blond_Hair"), (0, 10, 89, 99),
                            (0.14, 0.36, 0.714)),
    "utkface": PhotographSet("utkface_200_jpeg.npz", 200, ("age", "female", "race"), ("female", "age"),
                             units={"age": 100.0}),
    "xray": PhotographSet("cxr_kermany_224_jpeg.npz", 224, ("pneumonia", "kind", "patient"), ("pneumonia",)),
}


@dataclass(frozen=True)
class Goal:
    """What is asked of whom: rows whose label is in `of`, to be given `asked`, which real ones have whose label is `wanted`.

    Intervals are in the label's unit; `slack` is by how much another network may differ.
    """

    words: str
    asked: int | tuple[float, float]
    of: tuple[float, float]
    wanted: tuple[float, float]
    slack: float = 0.0

    @property
    def short(self) -> str:
        """For names of files."""
        return str(self.asked) if isinstance(self.asked, int) else f"{sum(self.asked) / 2:.0f}"


AGES = {60: (20.0, 35.0), 25: (50.0, 75.0)}  # years that are asked for, of faces so old


@dataclass
class Photographs:
    """Images as bytes (n, 3, side, side), labels (n, K), and which rows train and which are held out.

    Labels are 0 and 1; a value, such as an age, is its share in [0, 1] of the unit that its set names.
    """

    name: str
    x: Tensor
    labels: np.ndarray
    names: list[str]
    train: np.ndarray
    test: np.ndarray

    @property
    def side(self) -> int:
        return self.x.shape[-1]

    def images(self, rows: np.ndarray) -> Tensor:
        """float32 in [0, 1]."""
        return self.x[torch.from_numpy(rows)].float() / 255

    def pixels(self, rows: np.ndarray, side: int) -> Tensor:
        """Bytes, made smaller by averaging where `side` is not the set's own."""
        whole = self.x[torch.from_numpy(rows)]
        if side == self.side:
            return whole
        return torch.cat([F.interpolate(part.float(), size=(side, side), mode="area").round().byte()
                          for part in whole.split(500)])


    def values(self, rows: np.ndarray, label: str) -> np.ndarray:
        """One label of some rows, in its unit."""
        return self.labels[rows, self.names.index(label)] * SETS[self.name].units.get(label, 1)


def goals(name: str, label: str) -> list[Goal]:
    """Both ways of a label: to have it and not to have it, or to be older and younger."""
    if label in SETS[name].units:
        return [Goal(f"to {years} years", (years - 3.0, years + 3.0), of, (years - 3.0, years + 3.0), 7.0)
                for years, of in AGES.items()]
    return [Goal(f"to {'not ' * (not k)}{label}", k, (1.0 - k, 1.0 - k), (float(k), float(k))) for k in (1, 0)]


def read(name: str) -> Photographs:
    """A set with its split.

    Of CelebA the first 8,000 train and the last 1,500 are held out; 500 between them are for choosing settings. Of UTKFace
    the last fifth is held out; of X-rays every fifth patient, so that nobody is on both sides; both
    sides in a random order, because the file is sorted.
    """
    chosen = SETS[name]
    place = Path(os.environ["CFEXPLAIN_DATA"]) / chosen.file
    pictures, columns = read_packed(place, chosen.labels)
    file = dict(zip(chosen.labels, columns, strict=True))
    n = len(pictures)
    x = np.empty((n, chosen.side, chosen.side, 3), np.uint8)  # bytes: a quarter of what the loaders give
    for i, written in enumerate(pictures):
        picture = Image.open(io.BytesIO(written)).convert("RGB")
        if chosen.crop:
            picture = picture.crop(chosen.crop)
        if picture.size != (chosen.side, chosen.side):
            picture = picture.resize((chosen.side, chosen.side), Image.Resampling.LANCZOS)
        x[i] = np.asarray(picture)
    rows = np.arange(n)
    if name == "celeba":
        labels, names, train, test = file["attr"], list(CELEBA_ATTRIBUTES), rows < 8000, rows >= 8500
    elif name == "utkface":
        groups = [("young", file["age"] < 25), ("old", file["age"] >= 50)] + [
            (f"race{k}", file["race"] == k) for k in range(5)]
        age = np.clip(file["age"] / chosen.units["age"], 0, 1)
        labels = np.stack([file["female"], age, *(g for _, g in groups)], 1).astype(np.float32)
        names, train, test = ["female", "age", *(g for g, _ in groups)], rows < n - n // 5, rows >= n - n // 5
    else:
        kind = file["kind"]
        labels = np.stack([file["pneumonia"], kind == "bacteria", kind == "virus"], 1).astype(np.uint8)
        test = np.isin(file["patient"], np.unique(file["patient"])[::5])
        rows = np.random.default_rng(0).permutation(rows)  # they lie by kind and by patient
        test = test[rows]
        names, train = ["pneumonia", "bacteria", "virus"], ~test
    return Photographs(name, torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), labels, names, rows[train], rows[test])
