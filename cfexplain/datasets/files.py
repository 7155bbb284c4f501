"""Where data lie, how they get there, and how files of them are read."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import os
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cfexplain.foundation.files import atomic_write
from cfexplain.foundation.optional import optional_import

__all__ = ["fetch", "find", "get_data_home", "read_idx", "read_npz", "read_pictures"]

TIMEOUT = 60  # seconds without an answer


def get_data_home(data_home: str | os.PathLike | None = None) -> Path:
    """The folder that downloads are kept in, and that loaders look at last.

    Parameters
    ----------
    data_home : str or path, optional
        Default: ``~/.cache/cfexplain``.

    Returns
    -------
    Path
        It need not exist.

    Examples
    --------
    >>> get_data_home("data").name
    'data'
    """
    return Path.home() / ".cache" / "cfexplain" if data_home is None else Path(data_home).expanduser()


def places(path: str | os.PathLike | None, data_home: str | os.PathLike | None) -> list[Path]:
    """Folders (or the file) to look at, in order."""
    if path is not None:
        return [Path(path).expanduser()]
    named = os.environ.get("CFEXPLAIN_DATA")
    return [*([Path(named)] if named else []), get_data_home(data_home)]


def find(look: Callable[[Path], Path | None], path: str | os.PathLike | None, data_home: str | os.PathLike | None,
         expected: str, source: str) -> Path:
    """What `look` finds in the first place that has it.

    Raises
    ------
    FileNotFoundError
        With what was `expected` where, and its `source`.
    """
    looked = places(path, data_home)
    for place in looked:
        found = look(place)
        if found is not None:
            return found
    raise FileNotFoundError(
        f"{expected} was not found in {', '.join(str(place) for place in looked)}. Get it from {source}, and pass path=, "
        f"set CFEXPLAIN_DATA to its folder, or put it into {get_data_home(data_home)}.")


def file_named(name: str) -> Callable[[Path], Path | None]:
    """For `find`: the place itself if it is a file, or the file of that name in it."""
    def look(place: Path) -> Path | None:
        file = place / name if place.is_dir() else place
        return file if file.is_file() else None
    return look


def folder_with(marks: Sequence[str], names: Iterable[str]) -> Callable[[Path], Path | None]:
    """For `find`: the place itself, or its subfolder of one of `names`, that has all of `marks`."""
    def look(place: Path) -> Path | None:
        for folder in (place, *(place / name for name in names)):
            if all((folder / mark).exists() for mark in marks):
                return folder
        return None
    return look


def fetch(url: str, file: Path, md5: str) -> Path:
    """Download `url` to `file`, whose folder is made; nothing is written unless all of it came, with its checksum.

    Raises
    ------
    OSError
        It cannot be downloaded or written.
    ValueError
        What came has another checksum than the published one.
    """
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            data = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise OSError(f"{url} could not be downloaded ({error}). Try again, or put the file at {file} yourself.") from error
    came = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if came != md5:
        raise ValueError(f"{url} sent {len(data)} bytes with the MD5 checksum {came}, but {md5} is published. Nothing was "
                         f"written. Try again, or put the file at {file} yourself.")
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, data)
    return file


# -------------------------------------------------------------------------------------------------------------- reading
def read_npz(file: Path, names: Sequence[str]) -> list[np.ndarray]:
    """The arrays `names` of an ``.npz`` file; nothing is unpickled.

    Raises
    ------
    ValueError
        The file is damaged, or has no such arrays.
    """
    try:
        with np.load(file, allow_pickle=False) as data:
            missing = [name for name in names if name not in data]
            if missing:
                raise ValueError(f"it has no arrays {missing}, only {list(data)}")
            return [data[name] for name in names]
    except (ValueError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file} is damaged, or not the file that is meant ({error}). Get it again.") from error


def read_idx(file: Path, dimensions: int) -> np.ndarray:
    """An array of bytes with `dimensions` axes from a file in MNIST's IDX format, gzipped or not.

    Raises
    ------
    ValueError
        The file is damaged, or of another kind.
    """
    try:
        with gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as opened:
            data = opened.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{file} is damaged ({error}). Get it again.") from error
    start = 4 + 4 * dimensions
    # two zeros, 8 for unsigned bytes, the number of axes, and the length of each
    if len(data) < start or data[:4] != bytes([0, 0, 8, dimensions]):
        raise ValueError(f"{file} begins with {data[:4]!r}; an IDX file of bytes with {dimensions} axes begins with "
                         f"{bytes([0, 0, 8, dimensions])!r}. It is damaged, or another file.")
    shape = tuple(np.frombuffer(data, ">u4", dimensions, 4).astype(int).tolist())
    if len(data) - start != np.prod(shape, dtype=int):
        raise ValueError(f"{file} says that it holds {shape} bytes, but has {len(data) - start}. It is damaged; get it "
                         "again.")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_pictures(files: Sequence[Path] | Sequence[bytes], size: int, *, colour: bool, crop: bool) -> np.ndarray:
    """Pictures (files, or their bytes) of any size as float32 in [0, 1]: (n, 3, size, size), or (n, size, size) in grey.

    With `crop` the shorter side is resized and the middle kept, as torchvision's Resize and CenterCrop do; without, both
    sides are resized.

    Raises
    ------
    FileNotFoundError, ValueError
        A file is missing, or no picture.
    """
    if size < 1:
        raise ValueError(f"size={size!r} must be at least 1.")
    image = optional_import("PIL.Image", "Reading pictures")
    out = np.empty((len(files), *((3, size, size) if colour else (size, size))), dtype=np.float32)
    for i, file in enumerate(files):
        try:
            with image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
                picture = opened.convert("RGB" if colour else "L")
        except FileNotFoundError as error:
            missing = sum(not Path(f).is_file() for f in files if not isinstance(f, bytes))
            raise FileNotFoundError(f"{file} is missing, and {missing - 1} more of the {len(files)} pictures that the lists "
                                    "name. Is the archive unpacked as a whole?") from error
        except (OSError, SyntaxError, ValueError) as error:
            name = f"Picture {i} of the file" if isinstance(file, bytes) else file
            raise ValueError(f"{name} cannot be read as a picture ({error}). Get it again.") from error
        array = np.asarray(resized(picture, size, crop), dtype=np.float32) / 255
        out[i] = array.transpose(2, 0, 1) if colour else array
    return out


def resized(picture: Any, size: int, crop: bool) -> Any:
    """A Pillow image of `size` × `size` pixels."""
    bilinear = optional_import("PIL.Image", "Reading pictures").Resampling.BILINEAR
    if not crop:
        return picture.resize((size, size), bilinear)
    picture = picture.resize(shorter_to(picture.size, size), bilinear)
    left, top = (round((side - size) / 2) for side in picture.size)
    return picture.crop((left, top, left + size, top + size))


def shorter_to(sides: tuple[int, int], size: int) -> tuple[int, int]:
    """Width and height when the shorter of them becomes `size`.

    >>> shorter_to((640, 480), 128)
    (170, 128)
    """
    width, height = sides
    return (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
