"""The Mall data set: video frames with the head of everyone in them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from cfexplain.datasets.files import file_named, find, folder_with, read_npz, shorter_to
from cfexplain.foundation.optional import optional_import

__all__ = ["load_mall"]

# Diffeomorphic Counterfactuals, appendix B: the shorter side of a frame, and row, column and side of what is cut out
SHORTER, ROW, COLUMN, SIDE = 128, 64, 100, 64
LAYOUT = "mall_64.npz, or a folder with frames/seq_000001.jpg, … and mall_gt.mat,"


def load_mall(path: str | os.PathLike | None = None, *, data_home: str | os.PathLike | None = None,
              ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Crowd counting: 2,000 video frames of a mall, from the published files or from ``mall_64.npz``.

    The cut-out of *Diffeomorphic Counterfactuals* (appendix B): frames resized to a shortest side of 128 pixels, of which
    the 64×64 pixels from row 64 and column 100 are kept. In the order of the video.

    Parameters
    ----------
    path : str or path, optional
        The folder that holds ``frames/seq_000001.jpg`` to ``seq_002000.jpg`` and ``mall_gt.mat``, or the folder above it, if
        it is named ``mall_dataset`` or ``mall``; or the file ``mall_64.npz`` (arrays x uint8, count, heads, head_offset:
        the cut-outs made before), or its folder.
    data_home : str or path, optional
        See `get_data_home`.

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
    ValueError
        Files that are damaged, or frames and heads of different numbers.

    References
    ----------
    Chen, Loy, Gong, Xiang: Feature Mining for Localised Crowd Counting, BMVC 2012. For research only.
    """
    npz, published = file_named("mall_64.npz"), folder_with(("frames", "mall_gt.mat"), ("mall_dataset", "mall"))
    found = find(lambda place: npz(place) or published(place), path, data_home, LAYOUT,
                 "https://personal.ie.cuhk.edu.hk/~ccloy/downloads_mall_dataset.html (for research only)")
    if found.is_file():
        x, count, heads, offset = read_npz(found, ["x", "count", "heads", "head_offset"])
        images = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).astype(np.float32) / 255
        return images, count.astype(np.float32), np.split(heads, offset[1:-1])
    places = _head_places(found / "mall_gt.mat")
    X, scale = _cut_frames(found / "frames", len(places))
    kept: list[np.ndarray] = []
    for every, factor in zip(places, scale, strict=True):
        moved = every * factor - (COLUMN, ROW)
        kept.append(moved[((moved >= 0) & (moved < SIDE)).all(1)].astype(np.float32))
    return X, np.array([len(one) for one in kept], dtype=np.float32), kept


def _head_places(file: Path) -> list[np.ndarray]:
    """x and y of the heads of every frame, each (k, 2), in its pixels."""
    io = optional_import("scipy.io", "Reading mall_gt.mat")
    try:
        frames = io.loadmat(file, squeeze_me=True, struct_as_record=False)["frame"]
        return [np.asarray(frame.loc, dtype=float).reshape(-1, 2) for frame in np.atleast_1d(frames)]
    except Exception as error:  # whatever a strange file makes the parser raise
        raise ValueError(f"{file} is damaged, or not the published one: expected `frame`, of one `loc` (heads, 2) each "
                         f"({error}).") from error


def _cut_frames(folder: Path, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The cut-outs (n, 3, 64, 64), and by how much each frame was scaled, (n, 2): width, height."""
    image = optional_import("PIL.Image", "Reading frames")
    X, scale = np.empty((n, 3, SIDE, SIDE), np.float32), np.empty((n, 2))
    for i in range(n):
        file = folder / f"seq_{i + 1:06d}.jpg"
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: mall_gt.mat names the heads of {n} frames. Is the archive unpacked "
                                    "as a whole?")
        try:
            with image.open(file) as opened:
                frame = opened.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{file} cannot be read as a picture ({error}). Get it again.") from error
        small = shorter_to(frame.size, SHORTER)
        if small[0] < COLUMN + SIDE or small[1] < ROW + SIDE:
            raise ValueError(f"{file} has {frame.size[0]}×{frame.size[1]} pixels, of which the cut-out leaves the frame; "
                             "the published frames have 640×480.")
        scale[i] = np.divide(small, frame.size)
        box = (COLUMN, ROW, COLUMN + SIDE, ROW + SIDE)
        cut = np.asarray(frame.resize(small, image.Resampling.BILINEAR).crop(box), dtype=np.float32)
        X[i] = cut.transpose(2, 0, 1) / 255
    return X, scale
