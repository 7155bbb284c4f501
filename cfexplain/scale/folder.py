"""One process that writes to a folder: its drafts, its lock, and leftovers of dead processes.

A file appears in the folder whole or not at all: it is written beside the others, in a folder of drafts of this process
alone, and moved. Whoever holds the lock of a writer knows that no other process is this writer. The kernel frees a lock when
its process dies, however it dies, so that drafts under a lock that is free are leftovers and can be removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cfexplain.foundation.exceptions import StoreError
from cfexplain.foundation.files import atomic_write, sync_folder
from cfexplain.foundation.optional import optional_import

__all__ = ["FORMAT", "LOG", "VERSION", "Writer", "read_manifest", "shard_name", "shards_in"]

FORMAT, VERSION = "cfexplain results", 1
MANIFEST, LOG, LOCK = "manifest.json", "seconds.jsonl", ".lock"
# Seconds to wait for a killed process to end: the workers of a data loader notice after five.
PATIENCE = 10.0
_WRITER = re.compile(r"\.writer-(\d+)-of-(\d+)\.lock")
_SHARD = re.compile(r"block-(\d{8})\.safetensors")


def shard_name(number: int) -> str:
    return f"block-{number:08d}.safetensors"


def shards_in(folder: Path) -> list[int]:
    """Numbers of the blocks that are there, in order."""
    found = (_SHARD.fullmatch(name) for name in os.listdir(folder))
    return sorted(int(match[1]) for match in found if match)


class Writer:
    """Writer `rank` of `world_size` in `folder`, as a context manager.

    Raises
    ------
    StoreError
        Another process is this writer, or a job of another number of processes writes here; or the folder holds
        something else.
    """

    def __init__(self, folder: Path, rank: int, world_size: int):
        self.folder, self.world_size = folder, world_size
        self.name = f".writer-{rank}-of-{world_size}"
        self.drafts = folder / self.name

    def _lock(self, name: str) -> Any:
        return optional_import("filelock", "explain_to()").FileLock(self.folder / name)

    def _turn(self) -> Any:
        """The lock under which one process at a time checks, begins or finishes the folder."""
        return self._lock(LOCK).acquire(timeout=60)

    def __enter__(self) -> Writer:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_folder()
        self.lock = self._lock(self.name + ".lock")
        deadline = time.monotonic() + PATIENCE
        while True:
            with self._turn():
                other = self._sweep()
                if other is None and self._taken(self.lock):
                    shutil.rmtree(self.drafts, ignore_errors=True)
                    self.drafts.mkdir()
                    (self.drafts / "owner").write_text(f"process {os.getpid()} on {socket.gethostname()}")
                    return self
                other = other or self.drafts
            if time.monotonic() > deadline:
                raise StoreError(f"{self.folder} is being written by {_owner(other)}. Wait until it is done, stop it, or "
                                 "use another folder. For several at once, tell each its rank= and the world_size=.")
            time.sleep(0.1)

    def __exit__(self, *_: Any) -> None:
        with self._turn():
            shutil.rmtree(self.drafts, ignore_errors=True)
            self.lock.release()
            (self.folder / f"{self.name}.lock").unlink(missing_ok=True)

    def begin(self, manifest: dict[str, Any], resume: bool, same: Callable[[dict, dict], None]) -> dict[str, Any]:
        """Write `manifest`, or compare it with the one that is there, which is returned, by ``same(there, manifest)``."""
        with self._turn():
            there = read_manifest(self.folder)
            if there is None:
                self._write_json(MANIFEST, manifest)
                return manifest
            if not resume:
                raise StoreError(f"{self.folder} holds results already. Pass resume=True to finish or keep them, or another "
                                 "folder.")
            same(there, manifest)
            return there

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        """``write(path)``, and move what it wrote into the folder under `name`."""
        write(self.drafts / name)
        os.replace(self.drafts / name, self.folder / name)
        sync_folder(self.folder)

    def note(self, entry: dict[str, Any]) -> None:
        """Append a line to the log, which is not part of the results."""
        with open(self.folder / LOG, "a", encoding="utf-8") as log:
            log.write("\n" * (log.tell() > 0 and not _ends_a_line(self.folder / LOG)) + json.dumps(entry) + "\n")

    def finish(self, manifest: dict[str, Any], length: int) -> bool:
        """Mark the results as complete if all blocks of `length` rows are there; returns whether they are."""
        expected = list(range(-(-length // manifest["block_size"])))
        with self._turn():
            there = shards_in(self.folder)
            if set(there) - set(expected):
                raise StoreError(f"{self.folder} holds {len(there)} blocks, but X has rows for {len(expected)} only. X is "
                                 "not what these results were made of; use another folder.")
            if there != expected:
                return False
            done = {**manifest, "complete": True, "x": {**manifest["x"], "rows": length}}
            if read_manifest(self.folder) != done:
                self._write_json(MANIFEST, done)
        return True

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        data = json.dumps(content, indent=1, sort_keys=True).encode()
        self.put(name, lambda path: atomic_write(path, data))

    def _check_folder(self) -> None:
        """Refuse a folder that is neither empty nor one of results, or in which a name leads elsewhere."""
        names = set(os.listdir(self.folder))
        for name in sorted(names):
            path, writers = self.folder / name, name.startswith(".writer-")
            if not writers and name not in (MANIFEST, LOG, LOCK) and not _SHARD.fullmatch(name):
                continue
            right = path.is_dir() if writers and not name.endswith(".lock") else path.is_file()
            if path.is_symlink() or not right and os.path.lexists(path):  # and not gone meanwhile
                what = "a symbolic link" if path.is_symlink() else "no regular file"
                raise StoreError(f"{path} is {what}, and nothing is written through it. Remove it, or use another folder.")
        if MANIFEST not in names and any(name != LOCK and not name.startswith(".writer-") for name in names):
            raise StoreError(f"{self.folder} holds files, but no results that were begun here. Pass a new or empty folder.")

    def _sweep(self) -> Path | None:
        """Remove leftovers of dead writers; returns the drafts of a living one that prevents writing."""
        for name in sorted(os.listdir(self.folder)):
            match = _WRITER.fullmatch(name)
            if match is None or name == self.name + ".lock":
                continue
            lock, drafts = self._lock(name), self.folder / name.removesuffix(".lock")
            if self._taken(lock):
                shutil.rmtree(drafts, ignore_errors=True)
                lock.release()
                (self.folder / name).unlink(missing_ok=True)
            elif int(match[2]) != self.world_size:
                return drafts
        return None

    @staticmethod
    def _taken(lock: Any) -> bool:
        try:
            lock.acquire(timeout=0)
        except TimeoutError:
            return False
        return True


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest, or None if there is none.

    Raises
    ------
    StoreError
        It is damaged, or of a newer version.
    """
    path = folder / MANIFEST
    try:
        if path.exists() and not path.is_file():
            raise StoreError(f"{path} is no regular file, and nothing that explain_to() wrote.")
        manifest = json.loads(path.read_bytes())
        known, version = manifest["format"] == FORMAT and _is_count(manifest["version"]), manifest["version"]
        if known and version <= VERSION:
            size, rows, complete = manifest["block_size"], manifest["x"]["rows"], manifest["complete"]
            options = manifest.get("options", {})
            known = _is_count(size) and size > 0 and isinstance(complete, bool) and (
                _is_count(rows) or (rows is None and not complete)) and all(isinstance(part, dict) for part in (
                    manifest["x"], manifest["explainer"], manifest["explainer"]["versions"], options)) and (
                _is_count(options.get("k", 1)) and options.get("k", 1) > 0)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{path} is damaged, or not what explain_to() wrote ({error!r}).") from error
    if not known:
        raise StoreError(f"{path} is damaged, or not what explain_to() wrote.")
    if version > VERSION:
        raise StoreError(f"{path} was written by a newer cfexplain (format {version}; this one reads up to {VERSION}). "
                         "Upgrade: pip install --upgrade cfexplain")
    return manifest


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _ends_a_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _owner(drafts: Path) -> str:
    with contextlib.suppress(OSError):
        return (drafts / "owner").read_text()
    return "another process"
