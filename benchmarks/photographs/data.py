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

__all__ = ["SETS", "Photographs", "PhotographSet", "read"]


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


def read(name: str) -> Photographs:
    """A set with its split.

    Of CelebA the first 8,000 train and the last 1,500 are held out; 500 between them are for choosing settings. Of UTKFace
    the last fifth is held out; of X-rays every fifth patient, so that nobody is on both sides.
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
        names, train = ["pneumonia", "bacteria", "virus"], ~test
    return Photographs(name, torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), labels, names, rows[train], rows[test])
