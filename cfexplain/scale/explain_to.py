"""Write results to a folder block by block: if a process dies, another can finish its work."""

from __future__ import annotations

import itertools
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cfexplain.foundation.deadline import Deadline
from cfexplain.foundation.digest import digest
from cfexplain.foundation.exceptions import ConvergenceWarning, StoreError, warn_caller, warn_of_statuses
from cfexplain.foundation.progress import new_bar
from cfexplain.foundation.protocols import FittedExplainer
from cfexplain.result import Counterfactuals
from cfexplain.scale.blocks import Block, BlockSource, Targets
from cfexplain.scale.folder import FORMAT, VERSION, Writer, shard_name
from cfexplain.scale.regions import Regions
from cfexplain.scale.store import CounterfactualStore

__all__ = ["check_block_size", "read_ranks", "write_results"]

# The manifest holds the digest of so many rows of X
N_SAMPLED = 64
# Parameters that do not change the results
_NOT_CONTENT = ("verbose",)


def check_block_size(block_size: Any) -> int:
    if isinstance(block_size, bool) or not isinstance(block_size, (int, np.integer)) or block_size < 1:
        raise ValueError(f"block_size={block_size!r} must be a whole number of rows, at least 1.")
    return int(block_size)


def read_ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Rank and number of processes: as passed, else from the environment of torchrun and accelerate, else 0 and 1.

    Raises
    ------
    ValueError
        Only one of the two, or a rank that is not below the world size.
    """
    if (rank is None) != (world_size is None):
        raise ValueError(f"rank={rank!r} and world_size={world_size!r} belong together; pass both, or neither.")
    given: tuple[int | str, int | str] = (os.environ.get("RANK") or 0, os.environ.get("WORLD_SIZE") or 1)
    if rank is not None and world_size is not None:
        given = (rank, world_size)
    try:
        rank, world_size = map(int, given)
    except ValueError as error:
        raise ValueError(f"RANK={given[0]!r} and WORLD_SIZE={given[1]!r} must be whole numbers.") from error
    if not 0 <= rank < world_size:
        raise ValueError(f"rank={rank} must be at least 0 and less than world_size={world_size}.")
    return rank, world_size


def write_results(explainer: FittedExplainer, folder: Path, source: BlockSource, target: Any, *, block_size: int,
                  resume: bool, progress: bool | Callable[[int, int | None], None], ranks: tuple[int, int],
                  options: dict[str, Any], deadline: Deadline, regions: Regions) -> CounterfactualStore:
    """See `ScaleMixin.explain_to`."""
    explainer.search_options()  # whose parameters are checked before a folder is begun
    targets = Targets(explainer, target, source.length)
    blocks = source.blocks(block_size)
    first = next(blocks, None)
    blocks = itertools.chain([] if first is None else [first], blocks)
    manifest = _manifest(explainer, source, first, targets, block_size, {**options, **regions.described()})
    del first  # frees its rows
    length, statuses, stopped = 0, Counter[str](), False
    rank, world_size = ranks
    with Writer(folder, rank, world_size) as writer, _Progress(progress, source.length, rank) as bar:
        manifest = writer.begin(manifest, resume, _check_same)
        for block in blocks:
            if deadline.passed:
                stopped = True
                break
            here = {**options, **regions.of(block.first, block.length)}
            if block.number % world_size == rank and not _write_block(
                    explainer, writer, block, targets, here, manifest, statuses, deadline):
                stopped = True
                break
            length = block.first + block.length
            bar.update(length)
        if not stopped:
            targets.check_length(length)
        complete = not stopped and writer.finish(manifest, length)
    if stopped:
        warn_caller(f"The time limit was over after {length} rows, which are kept. Call explain_to() again with the same "
                    "explainer, X and options to go on.", ConvergenceWarning)
    warn_of_statuses(statuses, explainer.max_steps)
    return CounterfactualStore(folder, incomplete=not complete)


def _write_block(explainer: FittedExplainer, writer: Writer, block: Block, targets: Targets, options: dict[str, Any],
                 manifest: dict[str, Any], statuses: Counter[str], deadline: Deadline) -> bool:
    """Explain a block and write it; whether there was time enough."""
    name, X = shard_name(block.number), block.read()
    try:
        read = digest(explainer.read_samples(X))
        place = {"number": block.number, "first_row": block.first, "x": read}
        there = _there(writer.folder / name)
        if there is not None:
            if there.metadata.get("block") != place:
                raise StoreError(f"{writer.folder / name} was made of other rows than {_span(block)} of X. X is not what "
                                 "these results were made of; use another folder.")
            return True
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # there is one warning at the end
            cf = explainer.explain(X, targets.of(block.first, block.length), **options, **deadline.as_option())
        seconds = time.perf_counter() - started
    except (ValueError, TypeError) as error:
        if hasattr(error, "add_note"):  # Python 3.11
            error.add_note(f"This happened with {_span(block)} of X. The blocks before are kept.")
        raise
    if cf.metadata.get("interrupted"):  # unfinished rows are not written
        raise KeyboardInterrupt
    if (cf.status == "time_limit").any():  # to be done whole, the next time
        return False
    if cf.row is not None:
        cf.row = cf.row + block.first
    metadata = {key: value for key, value in cf.metadata.items() if key != "seconds"}
    cf.metadata = {**metadata, "parameters": manifest["explainer"]["parameters"], "block": place}
    writer.put(name, cf.save)
    writer.note({"block": block.number, "rows": block.length, "seconds": round(seconds, 6)})
    statuses.update(cf.status.tolist())
    return True


def _there(path: Path) -> Counterfactuals | None:
    """The block in the file `path`, whole to the last bit; None if it has to be computed."""
    if not path.exists():
        return None
    try:
        return Counterfactuals.load(path)
    except ValueError as error:
        warn_caller(f"{error} The block is computed again.", RuntimeWarning)
        return None


def _span(block: Block) -> str:
    return f"the rows {block.first}–{block.first + block.length - 1}"


def _manifest(explainer: FittedExplainer, source: BlockSource, first: Block | None, targets: Targets, block_size: int,
              options: dict[str, Any]) -> dict[str, Any]:
    """All that determines the results; not when, where, or by how many processes they are computed."""
    sampled = None
    if first is not None:
        sampled = source.sample(N_SAMPLED) if source.sample else first.read()
    dtype = None if sampled is None else str(getattr(sampled, "dtype", type(sampled).__name__))
    described = targets.described()
    about = explainer.metadata()
    return {
        "format": FORMAT, "version": VERSION, "complete": False, "block_size": block_size,
        "explainer": {
            "class": type(explainer).__name__, "digest": digest(explainer, without=_NOT_CONTENT), "device": about["device"],
            "versions": about["versions"],
            "parameters": about["parameters"]},
        "x": {"rows": source.length, "dtype": dtype, "sample_shape": list(explainer.layout_.user_shape),
              "digest": None if sampled is None else digest(explainer.read_samples(sampled))},
        "target": {"per_row": digest(described)} if targets.per_row else described,
        "options": {name: value for name, value in options.items() if name != "n_jobs"},
    }


def _check_same(there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raise an error that names the differences if the manifest `there` is of other results than `here`."""
    def differing(key: str, names: list[str]) -> list[str]:
        return [name for name in names if there.get(key, {}).get(name) != here[key][name]]

    wrong: list[str] = []
    if differing("explainer", ["versions"]):
        wrong.append(f"the versions ({_words(there['explainer'].get('versions'))} there, "
                     f"{_words(here['explainer']['versions'])} here), whose numbers need not be the same to the last bit")
    if differing("explainer", ["class", "digest", "device"]):
        wrong.append(f"the explainer, its parameters or its weights ({_which(there['explainer'])} there, "
                     f"{_which(here['explainer'])} here)")
    changed = differing("x", ["dtype", "sample_shape", "digest"])
    lengths = {there["x"]["rows"], here["x"]["rows"]} - {None}
    if changed or len(lengths) > 1:
        described = ", ".join(f"{name} {there['x'].get(name)} there, {here['x'][name]} here"
                              for name in ("rows", *changed) if name != "digest")
        wrong.append(f"X ({described}{', other values' if 'digest' in changed else ''})")
    for name in ("target", "block_size", "options"):
        if there.get(name) != here[name]:
            wrong.append(f"{name} ({there.get(name)!r} there, {here[name]!r} here)")
    if wrong:
        raise StoreError("The folder holds results of something else. Different: " + "; ".join(wrong)
                         + ". Pass what it was begun with, or another folder.")


def _which(about: dict[str, Any]) -> str:
    return f"a {about.get('class')} on {about.get('device')} of digest {str(about.get('digest'))[:8]}…"


def _words(versions: Any) -> str:
    return ", ".join(f"{name} {version}" for name, version in (versions or {}).items())


class _Progress:
    """Progress in rows: as a bar with the time left, or to a callable ``(rows done, rows of X or None)``."""

    def __init__(self, wanted: bool | Callable[[int, int | None], None], length: int | None, rank: int):
        self.report, self.length, self.bar = wanted if callable(wanted) else None, length, None
        if wanted and self.report is None:
            self.bar = new_bar(total=length, desc="explaining", unit="row", position=rank)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    def update(self, done: int) -> None:
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
        if self.report is not None:
            self.report(done, self.length)
