"""Many pictures in one ``.npz``: their JPEG files one behind the other, with labels beside them.

Array ``jpeg`` holds the bytes, ``off`` where each file begins and the last ends: picture i is ``jpeg[off[i]:off[i + 1]]``.
Every other array has a row a picture. One file of 10,000 photographs opens at once, where as many files take a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cfexplain.datasets.files import read_npz

__all__ = ["packed_named", "read_packed"]


def packed_named(pattern: str) -> Callable[[Path], Path | None]:
    """For `find`: the place itself if it is an ``.npz``, or the first file in it whose name fits `pattern`."""
    def look(place: Path) -> Path | None:
        if place.is_dir():
            return next(iter(sorted(place.glob(pattern))), None)
        return place if place.is_file() and place.suffix == ".npz" else None
    return look


def read_packed(file: Path, names: Sequence[str]) -> tuple[list[bytes], list[np.ndarray]]:
    """The JPEG files, for `read_pictures`, and the arrays `names`, each with a row a picture.

    Raises
    ------
    ValueError
        The file is damaged, has no such arrays, or they do not fit together.
    """
    jpeg, off, *labels = read_npz(file, ["jpeg", "off", *names])
    n = len(off) - 1
    if jpeg.dtype != np.uint8 or off.ndim != 1 or n < 1 or off[0] != 0 or off[-1] != len(jpeg) or (np.diff(off) < 1).any():
        raise ValueError(f"{file} is damaged: expected bytes in 'jpeg', and in 'off' where each picture begins, from 0 "
                         f"up to their number, {len(jpeg)}. Get it again.")
    for name, values in zip(names, labels, strict=True):
        if len(values) != n:
            raise ValueError(f"{file} is damaged: {n} pictures, but {len(values)} rows in {name!r}. Get it again.")
    whole = jpeg.tobytes()
    return [whole[a:b] for a, b in zip(off[:-1].tolist(), off[1:].tolist(), strict=True)], labels
