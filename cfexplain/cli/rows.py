"""Rows from files: a folder of images, an .npz, a .csv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cfexplain.cli.pictures import picture_files, read_pictures
from cfexplain.foundation.optional import optional_import

__all__ = ["FileRows", "read_rows"]


@dataclass
class FileRows:
    """Samples, their labels if the files have them, a name for each, and what a person should know of how they were read."""

    X: Any
    y: np.ndarray | None
    names: list[str]
    notes: list[str] = field(default_factory=list)


def read_rows(path: Path, *, size: tuple[int, int] | None = None, channels: int | None = None, label: str | None = None,
              ignore: Sequence[str] = (), columns: Sequence[str] | None = None,
              data_range: tuple[float, float] = (0.0, 1.0), resize: bool = True) -> FileRows:
    """Read `path`.

    Parameters
    ----------
    path : Path
        A folder of pictures, whose subfolders, if any, are the labels (hidden ones are left out); an .npz with ``X`` (and
        ``y``), whose images are floats in `data_range` or bytes; or a .csv with a header.
    size : (H, W), optional
        Of images. Default: their own size, which must be the same for all.
    channels : {1, 3}, optional
        Grey or colour. Default: grey where all pictures are grey.
    label : str, optional
        The column of a .csv that holds the labels.
    ignore : sequence of str
        Columns of a .csv that are left out.
    columns : sequence of str, optional
        Columns of a .csv that are wanted: the others are left out, and named in the notes.
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
    if path.suffix.lower() == ".npz":
        return _npz(path, data_range)
    if path.suffix.lower() == ".csv":
        return _csv(path, label, ignore, columns)
    raise ValueError(f"{path} is no folder, .npz or .csv file. Put images into a folder (one subfolder a label, to train).")


def _folder(path: Path, size: tuple[int, int] | None, channels: int | None, data_range: tuple[float, float],
            resize: bool) -> FileRows:
    files = picture_files(path)
    folders = [file.parent.relative_to(path).as_posix() for file in files]
    if "." in folders and set(folders) != {"."}:
        raise ValueError(f"{path} holds images both in subfolders, which are labels, and beside them. Move those away.")
    X, resized = read_pictures(files, size=size, channels=channels, resize=resize)
    notes = [f"{resized} of {len(files)} pictures had another size, and were brought to {X.shape[-2]}×{X.shape[-1]} "
             "(height×width)."] if resized else []
    return FileRows(_scaled(X, data_range), None if "." in folders else np.array(folders),
                    [file.relative_to(path).as_posix() for file in files], notes)


def _scaled(pictures: np.ndarray, data_range: tuple[float, float]) -> np.ndarray:
    """Pictures in [0, 1] in `data_range`."""
    low, high = data_range
    return np.ascontiguousarray(low + (high - low) * pictures, dtype=np.float32)


def _npz(path: Path, data_range: tuple[float, float]) -> FileRows:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("X", "y") if name in file.files}
            names = file.files
    except Exception as error:  # NumPy, zipfile and zlib raise whatever a damaged file makes happen in them
        raise ValueError(f"{path} cannot be read as .npz: {error}. Expected np.savez(path, X=..., y=...) of plain "
                         "arrays.") from error
    if "X" not in arrays:
        raise ValueError(f"{path} has no array 'X', only {sorted(names)}. Write it with np.savez(path, X=..., y=...).")
    X, y = arrays["X"], arrays.get("y")
    if X.ndim < 2 or X.dtype.kind not in "fiub":
        raise ValueError(f"{path} has an 'X' of {X.dtype} in the shape {X.shape}; expected numbers, one row a sample: (n, "
                         "d), (n, H, W) or (n, C, H, W).")
    if y is not None and y.shape != X.shape[:1]:
        raise ValueError(f"{path} has {len(X)} rows in 'X' but 'y' has the shape {y.shape}; expected one label a row: "
                         f"({len(X)},).")
    if X.dtype == np.uint8 and X.ndim > 2:
        X = _scaled(X.astype(np.float32) / 255, data_range)
    return FileRows(X, y, [str(i) for i in range(len(X))])


def _csv(path: Path, label: str | None, ignore: Sequence[str], columns: Sequence[str] | None) -> FileRows:
    frame = _read_csv(path)
    notes, names, head = [], [str(i) for i in range(len(frame))], frame.columns[0]
    if _has_no_name(head) and head not in (columns or ()):
        if not frame[head].is_unique or frame[head].dtype.kind == "f":
            raise ValueError(f"The first column of {path} has no name, and holds no names of rows, which would all be "
                             "different. Give it a name, or take it out of the file.")
        names = [str(cell) for cell in frame.pop(head)]
        notes.append(f"The first column of {path.name} has no name ('{head}' in pandas): it was read as names of the "
                     "rows, not as a measurement.")
    for name in [*([label] if label is not None else []), *ignore]:
        if name not in frame.columns:
            what = "for the labels" if name == label else "to ignore"
            raise ValueError(f"{path} has no column {name!r} {what}; it has {list(frame.columns)}.")
    frame, y = frame.drop(columns=list(ignore)), None
    if label is not None:
        y = frame.pop(label)
        if y.isna().any():
            raise ValueError(f"The column {label!r} of {path}, the labels, has {int(y.isna().sum())} empty cells. Fill them "
                             "in, or leave these rows out.")
        y = y.to_numpy()
    if columns is not None:
        absent = [name for name in columns if name not in frame.columns]
        if absent:
            raise ValueError(f"{path} lacks the columns {absent}, which were there in training; it has "
                             f"{list(frame.columns)}.")
        extra = [name for name in frame.columns if name not in set(columns)]
        if extra:
            notes.append(f"Columns of {path.name} that the explainer was not trained on are left out: "
                         f"{', '.join(map(str, extra))}.")
        frame = frame[list(columns)]
    _check_numbers(path, frame, columns is not None)
    if columns is None:
        for name in frame.columns:
            if len(frame) > 2 and (np.diff(frame[name].to_numpy(dtype=float)) == 1).all():
                notes.append(f"The column {name!r} counts the rows. If it is no measurement, leave it out: ignore = "
                             f"[{name!r}] in [data].")
    return FileRows(frame, y, names, notes)


def _read_csv(path: Path) -> Any:
    pandas = optional_import("pandas", "reading .csv files")
    try:
        frame = pandas.read_csv(path)
        first = pandas.read_csv(path, header=None, nrows=1, dtype=str).iloc[0].dropna()
    except OSError:
        raise
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}). Save it in that encoding.") from error
    except Exception as error:  # pandas raises many kinds for a damaged file
        raise ValueError(f"{path} cannot be read as .csv: {error}. Expected a header and one line a row, with commas "
                         "between the cells.") from error
    if first.duplicated().any():  # pandas would call it "age.1"
        raise ValueError(f"{path} has two columns called {first[first.duplicated()].iloc[0]!r}. Rename one.")
    if not frame.shape[0] or not frame.shape[1] or not isinstance(frame.index, pandas.RangeIndex):
        raise ValueError(f"{path} has no rows below its header, or rows with more cells than that. Expected one line a row.")
    if frame.shape[1] == 1 and any(mark in str(frame.columns[0]) for mark in ";\t|"):
        raise ValueError(f"{path} has one column, {frame.columns[0]!r}: its cells seem to be separated otherwise than by "
                         "commas. Save it with commas.")
    return frame


def _has_no_name(column: Any) -> bool:
    return str(column).startswith("Unnamed: ")  # what pandas calls it


def _check_numbers(path: Path, frame: Any, wanted: bool) -> None:
    for name in frame.columns:
        cells = frame[name]
        if cells.dtype.kind not in "fiub":
            raise ValueError(
                f"The column {name!r} of {path} holds {cells.dropna().iloc[0]!r}; expected numbers. Leave it out (ignore = "
                f"[{name!r}] in [data]), or write it as numbers; text is for cfexplain.explain_pipeline, in Python.")
        empty, endless = int(cells.isna().sum()), int(np.isinf(cells.to_numpy(dtype=float)).sum())
        if empty or endless:
            raise ValueError(f"The column {name!r} of {path} has {empty} empty and {endless} infinite cells. Fill them in, "
                             "or leave these rows out.")
        if _has_no_name(name) and not wanted:
            raise ValueError(f"A column of {path} has no name ({name!r}). Give it one, or take it out of the file.")
