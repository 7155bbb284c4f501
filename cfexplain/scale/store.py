"""Folders of results: one file a block, read as one result without holding it in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors

from cfexplain.foundation.exceptions import StoreError
from cfexplain.foundation.optional import optional_import
from cfexplain.result import Counterfactuals
from cfexplain.scale.folder import LOG, read_manifest, shard_name, shards_in

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["CounterfactualStore", "load_results", "read_shard_header"]


class CounterfactualStore:
    """The results that `CounterfactualExplainer.explain_to` wrote: rows in the order of X, read block by block.

    ``len(store)``, ``store[rows]`` (any NumPy index of one dimension; gives `Counterfactuals`), iteration over rows,
    ``np.asarray(store)`` for X′. At most one block is in memory besides the requested rows.

    Parameters
    ----------
    path : str or path
        The folder.
    incomplete : bool, default=False
        Also open unfinished results: the rows before the first missing block.

    Attributes
    ----------
    path : Path
    manifest : dict
        The content of ``manifest.json``: which explainer, rows and options.
    complete : bool
        Every row is there.

    Raises
    ------
    FileNotFoundError
        There are no results.
    StoreError
        They are damaged, not finished, or of a newer version.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import REVISEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = REVISEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> store = explainer.explain_to(tempfile.mkdtemp(), X[:50], target=1, block_size=20)
    >>> len(store), [len(block) for block in store.blocks()], store[[49, 0]].x_cf.shape
    (50, [20, 20, 10], (2, 4))
    """

    def __init__(self, path: str | os.PathLike, *, incomplete: bool = False):
        self.path = Path(path)
        manifest = read_manifest(self.path) if self.path.is_dir() else None
        if manifest is None:
            raise FileNotFoundError(
                f"There are no results in {self.path}; expected a folder that explain_to() wrote."
                + (" One file is read by Counterfactuals.load()." if self.path.is_file() else ""))
        k = manifest.get("options", {}).get("k", 1)  # rows for each row of X
        self.manifest, self.complete, self.block_size = manifest, manifest["complete"], manifest["block_size"] * k
        there = shards_in(self.path)
        self._n_blocks = next((i for i, number in enumerate(there) if i != number), len(there))
        if not self.complete and not incomplete:
            rows = manifest["x"]["rows"]
            of = "" if rows is None else f" of {-(-rows * k // self.block_size)}"
            raise StoreError(f"{self.path} is not finished: {len(there)}{of} blocks are there. Call explain_to() again with "
                             "the same explainer and X to finish it, or read what is there with incomplete=True.")
        if self.complete:
            self._length = manifest["x"]["rows"] * k
            if self._n_blocks != -(-self._length // self.block_size):
                raise StoreError(f"{self._file(self._n_blocks)} is missing. Call explain_to() again with the same explainer "
                                 "and X to have it computed again.")
        else:
            last = read_shard_header(self._file(self._n_blocks - 1))["rows"] if self._n_blocks else 0
            self._length = max(self._n_blocks - 1, 0) * self.block_size + last
        self._cached: tuple[int, Counterfactuals] | None = None

    def _file(self, number: int) -> Path:
        return self.path / shard_name(number)

    def _block(self, number: int) -> Counterfactuals:
        if self._cached is None or self._cached[0] != number:
            self._cached = None  # before the next is read, so that only one is in memory
            block = Counterfactuals.load(self._file(number))
            expected = min(self.block_size, self._length - number * self.block_size)
            if len(block) != expected:
                raise StoreError(f"{self._file(number)} has {len(block)} rows instead of {expected}: it is of other "
                                 "results.")
            self._cached = number, block
        return self._cached[1]

    # ------------------------------------------------------------------ rows
    def __len__(self) -> int:
        return self._length

    def blocks(self) -> Iterator[Counterfactuals]:
        """The blocks, in the order of X."""
        return (self._block(number) for number in range(self._n_blocks))

    def __iter__(self) -> Iterator[Counterfactuals]:
        return (row for block in self.blocks() for row in block)

    def __getitem__(self, index: Any) -> Counterfactuals:
        rows = np.arange(self._length)[index]
        rows = rows[None] if np.ndim(rows) == 0 else rows
        if rows.ndim != 1:
            raise IndexError("Only rows can be indexed: pass an int, a slice, or one dimension of bools or ints.")
        if not self._n_blocks:
            raise StoreError(f"{self.path} holds no rows.")
        numbers = rows // self.block_size
        wanted = np.unique(numbers) if len(rows) else np.zeros(1, int)
        found = Counterfactuals.concatenate(
            [self._block(number)[rows[numbers == number] - number * self.block_size] for number in wanted.tolist()])
        order = np.argsort(numbers, kind="stable")
        return found if (np.diff(order) == 1).all() else found[np.argsort(order)]

    def concatenate(self) -> Counterfactuals:
        """All rows, in memory.

        Raises
        ------
        StoreError
            There are none.
        """
        return self[:]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("x_cf lies in files; an array of it has to be made. Pass copy=None.")
        if not self._n_blocks:
            raise StoreError(f"{self.path} holds no rows.")
        first = self._block(0)
        out = np.empty((self._length, *first.shape[1:]), dtype or first.dtype)
        for number, block in enumerate(self.blocks()):
            out[number * self.block_size :][: len(block)] = block.x_cf
        return out

    # ---------------------------------------------------------------- tables
    def frames(self, *, features: bool = False) -> Iterator[DataFrame]:
        """The table of each block, with the row's number in X as index; see `Counterfactuals.to_frame`."""
        for number, block in enumerate(self.blocks()):
            frame = block.to_frame(features=features)
            frame.index = range(number * self.block_size, number * self.block_size + len(block))
            yield frame

    def to_frame(self, *, features: bool = False) -> DataFrame:
        """One row for each counterfactual, as a pandas DataFrame, read block by block: see `Counterfactuals.to_frame`.

        Raises
        ------
        ImportError
            pandas is not installed.
        StoreError
            There are no rows.
        """
        pandas = optional_import("pandas", "to_frame()")
        if not self._n_blocks:
            raise StoreError(f"{self.path} holds no rows.")
        return pandas.concat(list(self.frames(features=features)))

    # ----------------------------------------------------------------- about
    @property
    def seconds(self) -> float:
        """Sum of the seconds of all blocks, from a log beside the results; 0 without it."""
        log, last = self.path / LOG, {}
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else ():
            try:
                entry = json.loads(line)
                last[int(entry["block"])] = float(entry["seconds"])
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                continue  # a line that was cut off: its block is computed again
        return sum(last.values())

    def __repr__(self) -> str:
        state = "complete" if self.complete else "not finished"
        return f"<CounterfactualStore: {self._length} rows in {self._n_blocks} blocks at {str(self.path)!r}, {state}>"


def load_results(path: str | os.PathLike, *, incomplete: bool = False) -> CounterfactualStore:
    """Open results of `explain_to`; see `CounterfactualStore`.

    Examples
    --------
    >>> load_results("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: There are no results in nowhere; expected a folder that explain_to() wrote.
    """
    return CounterfactualStore(path, incomplete=incomplete)


def read_shard_header(path: Path) -> dict[str, Any]:
    """Number of rows and metadata of a block, without reading its rows.

    Raises
    ------
    StoreError
        It is damaged.
    """
    try:
        with safetensors.safe_open(os.fspath(path), framework="numpy") as file:
            metadata = json.loads(file.metadata()["content"])["meta"]["metadata"]
            return {"rows": file.get_slice("x").get_shape()[0], "metadata": metadata}
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file can make the parser raise anything
        raise StoreError(f"{path} is damaged ({error}). Delete it, and call explain_to() again to have it computed "
                         "again.") from error
