"""Latents of pictures, encoded once and kept: in memory, in a temporary file where they are many, or in a folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["KeptLatents", "row_digests"]

IN_MEMORY = 2**29  # bytes; more goes into a temporary file, and is memory-mapped
_TOGETHER = 256  # rows after which what is known is written down
_DIGEST = 16  # bytes


def row_digests(X: np.ndarray) -> list[bytes]:
    """By what each row of `X` is known again."""
    return [hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=_DIGEST).digest() for row in X]


class KeptLatents:
    """Latents (n, \\*shape) in half precision, by the content of the rows that they are of.

    Parameters
    ----------
    shape : tuple of int
        Of one row's latents.
    folder : path, optional
        Where to keep them for other processes, under `name`.
    name : str
        Must stand for the networks.

    Examples
    --------
    >>> kept, asked = KeptLatents((1,)), []
    >>> def encode(rows):
    ...     asked.append(len(rows))
    ...     return 2 * rows
    >>> X = np.arange(3.0)[:, None]
    >>> kept.of(X[:2], encode).ravel().tolist(), kept.of(X, encode).ravel().tolist(), asked
    ([0.0, 2.0], [0.0, 2.0, 4.0], [2, 1])
    """

    def __init__(self, shape: Sequence[int], folder: str | os.PathLike | None = None, name: str = ""):
        self.shape, self.size = tuple(shape), int(np.prod(shape))
        self._places: dict[bytes, int] = {}
        self._parts: list[np.ndarray] = []
        self._files: tuple[Path, Path] | None = None
        if folder is not None:
            place = Path(folder).expanduser()
            place.mkdir(parents=True, exist_ok=True)
            self._files = place / f"{name}.latents", place / f"{name}.rows"
            self._read()

    def of(self, X: np.ndarray, encode: Callable[[np.ndarray], np.ndarray],
           report: Callable[[int], Any] | None = None) -> np.ndarray:
        """The latents of the rows of `X`, float16; those that are not known yet are asked of ``encode(rows)``.

        Where they lie in a file in this very order, the array is a view of the file.
        """
        digests = row_digests(X)
        missing = {d: i for i, d in enumerate(digests) if d not in self._places}
        fresh = list(missing.items())
        for first in range(0, len(fresh), _TOGETHER):
            some = fresh[first : first + _TOGETHER]
            latents = encode(X[[i for _, i in some]]).reshape(len(some), self.size)
            self._append([d for d, _ in some], np.clip(latents, -60000, 60000).astype(np.float16))
            if report is not None:
                report(first + len(some))
        places = np.array([self._places[d] for d in digests], dtype=int)
        all_of_them = self._array()
        ordered = len(places) and (np.diff(places) == 1).all()
        found = all_of_them[places[0] : places[-1] + 1] if ordered else all_of_them[places]
        return found.reshape(len(X), *self.shape)

    def _append(self, digests: list[bytes], latents: np.ndarray) -> None:
        for d in digests:
            self._places[d] = len(self._places)
        if self._files is None and len(self._places) * self.size * 2 > IN_MEMORY:
            self._spill()
        if self._files is None:
            self._parts.append(latents)
            return
        for file, data in zip(self._files, (latents.tobytes(), b"".join(digests)), strict=True):
            with open(file, "ab") as out:
                out.write(data)

    def _spill(self) -> None:
        folder = tempfile.mkdtemp(prefix="cfexplain-latents-")
        self._files = Path(folder) / "latents", Path(folder) / "rows"
        weakref.finalize(self, _remove, *self._files, folder)
        parts, self._parts = self._parts, []
        with open(self._files[0], "wb") as out:
            for part in parts:
                out.write(part.tobytes())
        self._files[1].touch()

    def _array(self) -> np.ndarray:
        if self._files is None:
            self._parts = [np.concatenate(self._parts)] if self._parts else [np.zeros((0, self.size), np.float16)]
            return self._parts[0]
        return np.memmap(self._files[0], np.float16, "r", shape=(len(self._places), self.size))

    def _read(self) -> None:
        """What other processes left; of a file that was cut short, the rows that are whole."""
        assert self._files is not None
        if not all(file.is_file() for file in self._files):
            for file in self._files:
                file.write_bytes(b"")
            return
        known = self._files[1].read_bytes()
        count = min(len(known) // _DIGEST, self._files[0].stat().st_size // (2 * self.size))
        for file, width in zip(self._files, (2 * self.size, _DIGEST), strict=True):
            if file.stat().st_size != count * width:
                os.truncate(file, count * width)
        self._places = {known[i * _DIGEST : (i + 1) * _DIGEST]: i for i in range(count)}


def _remove(*paths: Any) -> None:
    *files, folder = paths
    for file in files:
        Path(file).unlink(missing_ok=True)
    Path(folder).rmdir()
