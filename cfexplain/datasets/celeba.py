"""CelebA: aligned faces with forty attributes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from cfexplain.datasets.files import find, folder_with, read_pictures

__all__ = ["load_celeba"]

SPLITS = {"train": "0", "valid": "1", "test": "2"}
LISTS = ("list_attr_celeba.txt", "list_eval_partition.txt")
LAYOUT = "A folder with img_align_celeba/*.jpg, list_attr_celeba.txt and list_eval_partition.txt (or Img/, Anno/ and Eval/)"


def load_celeba(path: str | os.PathLike | None = None, attribute: str = "Smiling", *, size: int = 64, split: str = "train",
                crop: bool = True, max_rows: int | None = None, data_home: str | os.PathLike | None = None,
                ) -> tuple[np.ndarray, np.ndarray]:
    """Faces of CelebA (*Align&Cropped Images*, 178×218 pixels) with one of their attributes.

    Parameters
    ----------
    path : str or path, optional
        The folder that holds ``img_align_celeba/``, ``list_attr_celeba.txt`` and ``list_eval_partition.txt``, side by side
        as torchvision keeps them or in ``Img``, ``Anno`` and ``Eval`` as published; or the folder above it, if it is named
        ``celeba`` or ``CelebA``.
    attribute : str, default="Smiling"
        One of the forty: "Smiling" in PLACE, "Blond_Hair" in Diffeomorphic Counterfactuals.
    size : int, default=64
        Pixels a side; 256 in PLACE, 64 in Diffeomorphic Counterfactuals.
    split : {"train", "valid", "test"}, default="train"
        The published one.
    crop : bool, default=True
        The shorter side is scaled to `size` and the middle kept, as in Diffeomorphic Counterfactuals. False: both sides are
        scaled, which makes faces broader.
    max_rows : int, optional
        Only the first rows of the split. All 162,770 training images of 64×64 pixels take 8 GB.
    data_home : str or path, optional
        See `get_data_home`.

    Returns
    -------
    X : ndarray of float32, shape (n, 3, size, size), in [0, 1]
    y : ndarray of str, shape (n,)
        The attribute, or "not " and the attribute.

    Raises
    ------
    FileNotFoundError
        With the layout that is expected and where to get it.
    ValueError
        An unknown attribute or split, or files that are damaged.

    References
    ----------
    Liu, Luo, Wang, Tang: Deep Learning Face Attributes in the Wild, ICCV 2015. For research only.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is not known; choose one of {list(SPLITS)}.")
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows={max_rows!r} must be at least 1.")
    names = ("celeba", "CelebA")
    flat, nested = (folder_with(marks, names) for marks in (
        ("img_align_celeba", *LISTS), ("Img/img_align_celeba", f"Anno/{LISTS[0]}", f"Eval/{LISTS[1]}")))
    folder = find(lambda place: flat(place) or nested(place), path, data_home, LAYOUT,
                  "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, after agreeing to its terms")
    inner = ("", "", "") if (folder / "img_align_celeba").exists() else ("Img", "Anno", "Eval")
    images, attributes, partition = (
        folder / above / name for above, name in zip(inner, ("img_align_celeba", *LISTS), strict=True))
    has = _read_attribute(attributes, attribute)
    rows = [line.split() for line in partition.read_text().splitlines() if line.strip()]
    if any(len(row) != 2 for row in rows):
        raise ValueError(f"{partition} is damaged: expected lines of a file name and 0, 1 or 2.")
    wanted = [name for name, part in rows if part == SPLITS[split]][:max_rows]
    if not wanted:
        raise ValueError(f"{partition} names no image of the split {split!r}.")
    unknown = [name for name in wanted if name not in has]
    if unknown:
        raise ValueError(f"{attributes} has no line for {unknown[0]} and {len(unknown) - 1} more that {partition.name} "
                         "names.")
    X = read_pictures([images / name for name in wanted], size, colour=True, crop=crop)
    return X, np.where([has[name] for name in wanted], attribute, f"not {attribute}")


def _read_attribute(file: Path, attribute: str) -> dict[str, bool]:
    """Whether each image has the attribute."""
    lines = file.read_text().splitlines()
    known = lines[1].split() if len(lines) > 1 else []
    if attribute not in known:
        raise ValueError(f"attribute={attribute!r} is none of those that {file} names: {', '.join(known) or 'none'}.")
    column, has = known.index(attribute) + 1, {}
    for number, line in enumerate(lines[2:], 3):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != len(known) + 1 or cells[column] not in ("1", "-1"):
            raise ValueError(f"{file}, line {number}: expected a file name and {len(known)} times 1 or -1, got "
                             f"{line[:60]!r}.")
        has[cells[0]] = cells[column] == "1"
    return has
