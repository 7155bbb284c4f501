"""CelebA: aligned faces with forty attributes, in the published layout or in one packed file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from cfexplain.datasets.files import find, folder_with, read_npz, read_pictures
from cfexplain.datasets.packed import packed_named, read_packed

__all__ = ["CELEBA_ATTRIBUTES", "load_celeba"]

# in the published order, in which tables and networks of the field count them: Smiling is number 31
CELEBA_ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses", "Goatee",
    "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard",
    "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair",
    "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young")
SPLITS = {"train": "0", "valid": "1", "test": "2"}
LAST = (162_770, 182_637)  # numbers of the last training and the last validation image
LISTS = ("list_attr_celeba.txt", "list_eval_partition.txt")
LAYOUT = ("A folder with img_align_celeba/*.jpg, list_attr_celeba.txt and list_eval_partition.txt (or Img/, Anno/ and "
          "Eval/), or a packed celeba*_jpeg.npz,")


def load_celeba(path: str | os.PathLike | None = None, attribute: str = "Smiling", *, size: int = 64, split: str = "train",
                crop: bool = True, max_rows: int | None = None, data_home: str | os.PathLike | None = None,
                ) -> tuple[np.ndarray, np.ndarray]:
    """Faces of CelebA (*Align&Cropped Images*, 178×218 pixels, or made smaller) with one of their attributes, or all.

    Parameters
    ----------
    path : str or path, optional
        The folder that holds ``img_align_celeba/``, ``list_attr_celeba.txt`` and ``list_eval_partition.txt``, side by side
        as torchvision keeps them or in ``Img``, ``Anno`` and ``Eval`` as published; or the folder above it, if it is named
        ``celeba`` or ``CelebA``. Images may have been made smaller. Or one packed file ``celeba*_jpeg.npz``, or its folder:
        arrays ``jpeg`` and ``off`` (picture i is ``jpeg[off[i]:off[i + 1]]``), ``attr`` (n, 40) of 0 and 1, ``attr_names``
        and ``name``.
    attribute : str, default="Smiling"
        One of the forty: "Smiling" in PLACE, "Blond_Hair" in Diffeomorphic Counterfactuals; or "all" of them.
    size : int, default=64
        Pixels a side; 256 in PLACE, 64 in Diffeomorphic Counterfactuals.
    split : {"train", "valid", "test"}, default="train"
        The published one; of a packed file by the numbers of its images.
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
        The attribute, or "not " and the attribute. Of all attributes: ndarray of bool, shape (n, 40), columns as in
        ``CELEBA_ATTRIBUTES``.

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
    chosen = list(CELEBA_ATTRIBUTES) if attribute == "all" else [attribute]
    names = ("celeba", "CelebA")
    flat, nested = (folder_with(marks, names) for marks in (
        ("img_align_celeba", *LISTS), ("Img/img_align_celeba", f"Anno/{LISTS[0]}", f"Eval/{LISTS[1]}")))
    packed = packed_named("celeba*_jpeg.npz")
    found = find(lambda place: flat(place) or nested(place) or packed(place), path, data_home, LAYOUT,
                 "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, after agreeing to its terms")
    pictures, has = (_from_folder if found.is_dir() else _from_packed)(found, chosen, split, max_rows)
    X = read_pictures(pictures, size, colour=True, crop=crop)
    return X, has if attribute == "all" else np.where(has[:, 0], attribute, f"not {attribute}")


def _from_folder(folder: Path, chosen: list[str], split: str, max_rows: int | None) -> tuple[list[Path], np.ndarray]:
    """The files of a split, and whether each has the attributes, bool (n, k)."""
    inner = ("", "", "") if (folder / "img_align_celeba").exists() else ("Img", "Anno", "Eval")
    images, attributes, partition = (
        folder / above / name for above, name in zip(inner, ("img_align_celeba", *LISTS), strict=True))
    has = _read_attributes(attributes, chosen)
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
    return [images / name for name in wanted], np.array([has[name] for name in wanted])


def _from_packed(file: Path, chosen: list[str], split: str, max_rows: int | None) -> tuple[list[bytes], np.ndarray]:
    """The JPEG files of a split, and whether each has the attributes, bool (n, k)."""
    pictures, (attributes, names) = read_packed(file, ["attr", "name"])
    known = read_npz(file, ["attr_names"])[0].tolist()
    if attributes.shape != (len(pictures), len(known)):
        raise ValueError(f"{file} is damaged: 'attr' has shape {attributes.shape} for {len(pictures)} pictures and "
                         f"{len(known)} names of attributes. Get it again.")
    numbers = [Path(name).stem for name in names.tolist()]
    if not all(number.isdecimal() for number in numbers):
        raise ValueError(f"{file} is damaged: 'name' holds {names[0]!r}; expected names as published, like 000001.jpg.")
    parts = np.searchsorted(LAST, [int(number) for number in numbers])  # of the last of a part, its own
    rows = np.flatnonzero(parts == int(SPLITS[split]))[:max_rows]
    if not len(rows):
        raise ValueError(f"{file} holds no image of the split {split!r}: its images are {names[0]} to {names[-1]}, and "
                         f"training ends with {LAST[0]:06d}, validation with {LAST[1]:06d}. Split another one by yourself.")
    return [pictures[i] for i in rows], attributes[rows][:, _columns(chosen, known, file)] == 1


def _columns(chosen: list[str], known: list[str], file: Path) -> list[int]:
    for name in chosen:
        if name not in known:
            raise ValueError(f"attribute={name!r} is none of those that {file} names: {', '.join(known) or 'none'}.")
    return [known.index(name) for name in chosen]


def _read_attributes(file: Path, chosen: list[str]) -> dict[str, list[bool]]:
    """Whether each image has the attributes."""
    lines = file.read_text().splitlines()
    known = lines[1].split() if len(lines) > 1 else []
    columns, has = _columns(chosen, known, file), {}
    for number, line in enumerate(lines[2:], 3):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != len(known) + 1 or any(cells[column + 1] not in ("1", "-1") for column in columns):
            raise ValueError(f"{file}, line {number}: expected a file name and {len(known)} times 1 or -1, got "
                             f"{line[:60]!r}.")
        has[cells[0]] = [cells[column + 1] == "1" for column in columns]
    return has
