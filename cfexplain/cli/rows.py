"""Rows from files (a folder of images, an .npz, a .csv), and tables of results as .csv, which need no pandas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cfexplain.foundation.files import atomic_write
from cfexplain.foundation.optional import optional_import
from cfexplain.result import Counterfactuals

__all__ = ["FileRows", "read_rows", "write_results", "write_table"]

_COLUMNS = ("source", "target", "prediction", "valid", "status", "proba_before", "proba_after", "density_percentile",
            "distance", "distance_x", "reconstruction_error", "n_steps")
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


@dataclass
class FileRows:
    """Samples, their labels if the files have them, and a name for each."""

    X: Any
    y: np.ndarray | None
    names: list[str]


def read_rows(path: Path, *, size: tuple[int, int] | None = None, channels: int | None = None, label: str | None = None,
              data_range: tuple[float, float] = (0.0, 1.0), resize: bool = True) -> FileRows:
    """Read `path`.

    Parameters
    ----------
    path : Path
        A folder of pictures, whose subfolders, if any, are the labels; an .npz with ``X`` (and ``y``), whose images are
        floats in `data_range` or bytes; or a .csv with a header.
    size : (H, W), optional
        Of images. Default: their own size, which must be the same for all.
    channels : {1, 3}, optional
        Grey or colour. Default: as the first picture.
    label : str, optional
        The column of a .csv that holds the labels.
    data_range : (low, high)
        Range of the returned floats.
    resize : bool
        Whether images of another size than `size` are resized, or refused.

    Raises
    ------
    ValueError, OSError
        The file or folder does not exist, is empty, or holds something else; the message names it.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}. Expected a folder of images, an .npz or a .csv file.")
    if path.is_dir():
        return _folder(path, size, channels, data_range, resize)
    if path.suffix == ".npz":
        return _npz(path, data_range)
    if path.suffix == ".csv":
        return _csv(path, label)
    raise ValueError(f"{path} is no folder, .npz or .csv file. Put images into a folder (one subfolder a label, to train).")


def _folder(path: Path, size: tuple[int, int] | None, channels: int | None, data_range: tuple[float, float],
            resize: bool) -> FileRows:
    image = optional_import("PIL.Image", "reading images")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _PICTURES and not file.name.startswith("."))
    if not files:
        raise ValueError(f"{path} holds no images; expected files ending in {', '.join(_PICTURES)}.")
    samples = []
    for file in files:
        try:
            with image.open(file) as picture:
                channels = channels or (1 if picture.mode in ("1", "L", "LA", "I", "I;16", "F") else 3)
                size = size or (picture.height, picture.width)
                picture = picture.convert("L" if channels == 1 else "RGB")
                if (picture.height, picture.width) != tuple(size):
                    if not resize:
                        raise ValueError(f"{file} is {picture.height}×{picture.width} (height×width), but the explainer was "
                                         f"trained on {size[0]}×{size[1]}. Pass --resize to bring it to that size.")
                    picture = picture.resize((size[1], size[0]), image.Resampling.BICUBIC)
                samples.append(np.asarray(picture))
        except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
            raise ValueError(f"{file} cannot be read as an image: {error}.") from error
    X = np.stack(samples)
    labels = {file.parent.relative_to(path).as_posix() for file in files}
    y = None if labels == {"."} else np.array([file.parent.relative_to(path).as_posix() for file in files])
    if y is not None and "." in labels:
        raise ValueError(f"{path} holds images both in subfolders, which are labels, and beside them. Move those away.")
    X = X if channels == 1 else X.transpose(0, 3, 1, 2)
    return FileRows(_scaled(X, data_range), y, [file.relative_to(path).as_posix() for file in files])


def _scaled(pictures: np.ndarray, data_range: tuple[float, float]) -> np.ndarray:
    low, high = data_range
    return np.ascontiguousarray(low + (high - low) * (pictures.astype(np.float32) / 255), dtype=np.float32)


def _npz(path: Path, data_range: tuple[float, float]) -> FileRows:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("X", "y") if name in file.files}
            names = file.files
    except (ValueError, OSError, KeyError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as .npz: {error}. Expected np.savez(path, X=..., y=...) of plain "
                         "arrays.") from error
    if "X" not in arrays:
        raise ValueError(f"{path} has no array 'X', only {sorted(names)}. Write it with np.savez(path, X=..., y=...).")
    X, y = arrays["X"], arrays.get("y")
    if X.dtype == np.uint8 and X.ndim > 2:
        X = _scaled(X, data_range)
    if y is not None and len(y) != len(X):
        raise ValueError(f"{path} has {len(X)} rows in 'X' but {len(y)} in 'y'.")
    return FileRows(X, y, [str(i) for i in range(len(X))])


def _csv(path: Path, label: str | None) -> FileRows:
    frame = optional_import("pandas", "reading .csv files").read_csv(path)
    if label is None:
        return FileRows(frame, None, [str(i) for i in frame.index])
    if label not in frame.columns:
        raise ValueError(f"{path} has no column {label!r} for the labels; it has {list(frame.columns)}.")
    return FileRows(frame.drop(columns=label), frame[label].to_numpy(), [str(i) for i in frame.index])


def write_results(path: Path, cf: Counterfactuals, **first: Iterable[Any]) -> None:
    """One line for each row; the column passed by its name comes first."""
    write_table(path, [*first, *_COLUMNS],
                zip(*first.values(), *(getattr(cf, column) for column in _COLUMNS), strict=True))


def write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write `rows` under `head`, atomically."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(head)
    writer.writerows(rows)
    atomic_write(path, text.getvalue().encode())
