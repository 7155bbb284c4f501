"""Arrays and JSON in one file, written whole or not at all, and read without executing anything.

The file is a valid ``.safetensors`` file: numbers are tensors; strings are integer codes into a list of values, dates are
counts of their unit; that list, `meta`, the version of this format and a digest of everything are JSON in its header.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from cfexplain.foundation.digest import arrays_digest
from cfexplain.foundation.optional import optional_import

__all__ = ["atomic_write", "check_kind", "read_arrays", "read_kind", "sync_folder", "write_arrays"]

FORMAT = "cfexplain"
# The first version knows no dates, times and tuples; files without any are still written in it.
VERSION = 2
_NUMBERS = frozenset(["float64", "float32", "float16", "int64", "int32", "int16", "int8",
                      "uint64", "uint32", "uint16", "uint8", "bool"])
# Bytes of one array of text: a code of 4 bytes may stand for a long string, so that a small file could ask for any amount.
_MOST_TEXT = 2**30


def atomic_write(path: str | os.PathLike, data: bytes) -> None:
    """Write `data` to `path`; whatever goes wrong, `path` holds either all of it or what it held before.

    Raises
    ------
    OSError
        The folder does not exist or cannot be written, the disk is full, `path` is a folder, a device or a pipe.
    """
    target = Path(os.path.realpath(path))  # a link keeps pointing to the file that is replaced
    if not target.parent.is_dir():
        raise FileNotFoundError(f"The folder {target.parent} does not exist; create it before writing {target.name}.")
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; expected the name of a file to write.")
    if target.exists() and not target.is_file():
        raise FileExistsError(f"{target} exists and is no regular file (a device, a pipe or a socket), which a file would "
                              "replace. Pass another name.")
    # In the same folder, since only a rename within one file system is atomic.
    draft = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(draft, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def write_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write `arrays` and `meta` to one file, atomically.

    Parameters
    ----------
    path : str or path
    arrays : mapping of str to ndarray
        Floats, integers, bools, strings, dates, differences of dates, or objects that are str, int, float, bool, None,
        pandas' Timestamp, Timedelta, NaT or NA, or tuples of these; any shape and strides.
    meta : mapping
        JSON-able. NumPy scalars and arrays are written as numbers and lists; tuples come back as lists.

    Raises
    ------
    TypeError
        An array or a value of `meta` of another type.

    Examples
    --------
    >>> import tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "some.safetensors")
    >>> write_arrays(path, {"y": np.array(["cat", "dog", "cat"])}, {"kind": "labels"})
    >>> read_arrays(path)
    ({'y': array(['cat', 'dog', 'cat'], dtype='<U3')}, {'kind': 'labels'})
    """
    tensors, texts, times = {}, {}, {}
    for name, array in arrays.items():
        array = np.asarray(array)
        if name == "__metadata__":
            raise ValueError("'__metadata__' is a reserved name; call the array something else.")
        if array.dtype.kind in "UO":
            tensors[name], texts[name] = _encode_text(name, array)
        elif array.dtype.kind in "mM":
            times[name] = array.dtype.newbyteorder("=").str
            tensors[name] = np.array(array, dtype=times[name], order="C").view(np.int64)
        elif array.dtype.name in _NUMBERS:
            # safetensors stores the buffer as it lies in memory
            tensors[name] = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        else:
            raise TypeError(f"The array {name!r} has the dtype {array.dtype}; expected numbers, bools, str or dates.")
    content = json.dumps({"meta": dict(meta), "texts": texts, **({"times": times} if times else {})}, default=_plain)
    newer = times or any(isinstance(value, dict) for text in texts.values() for value in text["values"])
    header = {"format": FORMAT, "version": str(VERSION if newer else 1), "content": content,
              "digest": arrays_digest(content, tensors)}
    atomic_write(path, _in_order(safetensors.numpy.save(tensors, metadata=header)))


def read_arrays(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `write_arrays` wrote: arrays with the same dtypes and shapes, and `meta`.

    Raises
    ------
    ValueError
        The file is not one of cfexplain's, is damaged, or was written by a newer version. The digest finds damage and
        careless edits; it is no signature.
    OSError
        There is no such file, or it cannot be read.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {os.fspath(path)}.")
    try:
        with safetensors.safe_open(os.fspath(path), framework="numpy") as file:
            header = file.metadata() or {}
            _check_header(path, header)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if arrays_digest(header["content"], tensors) != header["digest"]:
            raise ValueError("its content does not match its digest")
        content = json.loads(header["content"], object_pairs_hook=_unique)
        arrays = dict(tensors)
        for name, text in content["texts"].items():
            arrays[name] = _decode_text(tensors[name], text)
        for name, dtype in content.get("times", {}).items():
            arrays[name] = _decode_times(tensors[name], dtype)
        return arrays, content["meta"]
    except (_UnreadableError, OSError, ImportError):
        raise
    except Exception as error:  # whatever a strange file makes the parsers raise, the user's problem is the same
        raise ValueError(
            f"{os.fspath(path)} is damaged, or is not a file that cfexplain wrote ({error}). Nothing was loaded. "
            "Write it again with save()."
        ) from error


def read_kind(path: str | os.PathLike) -> str:
    """What a file of `write_arrays` says that it holds (``meta["kind"]``), without reading its arrays.

    Raises
    ------
    ValueError, OSError
        As `read_arrays`; damage to the arrays is not seen.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {os.fspath(path)}.")
    try:
        with safetensors.safe_open(os.fspath(path), framework="numpy") as file:
            header = file.metadata() or {}
        _check_header(path, header)
        return str(json.loads(header["content"], object_pairs_hook=_unique)["meta"].get("kind", "something"))
    except (_UnreadableError, OSError):
        raise
    except Exception as error:  # as above
        raise ValueError(f"{os.fspath(path)} is damaged, or is not a file that cfexplain wrote ({error}).") from error


class _UnreadableError(ValueError):
    """Says already what is wrong with the file."""


def _check_header(path: str | os.PathLike, header: Mapping[str, str]) -> None:
    if header.get("format") != FORMAT:
        raise _UnreadableError(f"{os.fspath(path)} is a safetensors file, but not one that cfexplain wrote.")
    version = int(header["version"])
    if version < 1:
        raise ValueError(f"it has the version {version}")
    if version > VERSION:
        raise _UnreadableError(
            f"{os.fspath(path)} was written by a newer cfexplain (file format {version}; this one reads up to "
            f"{VERSION}). Upgrade: pip install --upgrade cfexplain"
        )


def _encode_text(name: str, array: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Codes, and the values that they stand for. Rows share values, so that a million labels fit a small header."""
    positions: dict[tuple[type, str], int] = {}
    values: list[Any] = []
    codes = np.empty(array.size, dtype=np.uint32)
    for i, value in enumerate(array.ravel().tolist()):
        value = value.item() if isinstance(value, np.generic) else value
        # by its text, since 0.0 == -0.0 and (1,) == (True,)
        key = (type(value), value if isinstance(value, str) else repr(value))
        if key not in positions:
            try:
                values.append(_encode_value(value))
            except TypeError as error:
                raise TypeError(f"The array {name!r} holds {error}; only str, int, float, bool, None, dates, times and "
                                "tuples of these can be stored.") from None
            positions[key] = len(positions)
        codes[i] = positions[key]
    if array.nbytes > _MOST_TEXT:
        raise TypeError(f"The array {name!r} holds {array.nbytes:,} bytes of text; {_MOST_TEXT:,} can be stored.")
    return codes.reshape(array.shape), {"dtype": array.dtype.newbyteorder("=").str, "values": values}


def _decode_text(codes: np.ndarray, text: Mapping[str, Any]) -> np.ndarray:
    dtype, listed = np.dtype(text["dtype"]), text["values"]
    if dtype.kind not in "UO" or codes.dtype != np.uint32 or not isinstance(listed, list):
        raise ValueError(f"text of dtype {dtype} from codes of {codes.dtype}")
    if dtype.kind == "U" and not all(isinstance(value, str) for value in listed):
        raise ValueError("text that holds something else")
    if dtype.itemsize * max(codes.size, len(listed)) > _MOST_TEXT:
        raise ValueError(f"{codes.size:,} strings of {dtype.itemsize:,} bytes each")
    values = np.empty(len(listed), dtype=dtype)
    for i, value in enumerate(listed):  # one by one: a tuple is one value
        values[i] = _decode_value(value)
    return values[codes]


def _decode_times(counts: np.ndarray, dtype: str) -> np.ndarray:
    times = np.dtype(dtype)
    if times.kind not in "mM" or counts.dtype != np.int64:
        raise ValueError(f"dates of dtype {times} from {counts.dtype}")
    return counts.view(times)


def _encode_value(value: Any) -> Any:
    """`value` as JSON: what is neither text nor a number is a dict with its kind. TypeError names another kind."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if type(value) is tuple:
        return {"tuple": [_encode_value(part.item() if isinstance(part, np.generic) else part) for part in value]}
    kind = type(value).__name__
    if type(value).__module__.partition(".")[0] == "pandas":
        if kind in ("NaTType", "NAType"):
            return {kind: None}
        if kind == "Timestamp":
            return {kind: [value.isoformat(), None if value.tz is None else str(value.tz), value.unit]}
        if kind == "Timedelta":
            return {kind: [value.isoformat(), None, value.unit]}
    raise TypeError(f"a {kind}")


def _decode_value(value: Any) -> Any:
    if value is None or type(value) in (str, int, float, bool):
        return value
    [(kind, content)] = value.items()
    if kind == "tuple":
        return tuple(_decode_value(part) for part in content)
    pandas = optional_import("pandas", "a file with dates")
    if kind in ("NaTType", "NAType"):
        return pandas.NaT if kind == "NaTType" else pandas.NA
    if kind not in ("Timestamp", "Timedelta"):
        raise ValueError(f"a {kind}")
    text, zone, unit = content
    made = getattr(pandas, kind)(text)
    return (made if zone is None else made.tz_convert(zone)).as_unit(unit)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which no name comes twice: of two values, no reader could say which was meant."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name that comes twice")
    return made


def check_kind(path: str | os.PathLike, meta: Any, kind: str) -> None:
    """Raise ValueError if a file, of which `read_arrays` gave `meta`, holds another kind of thing."""
    there = meta.get("kind", "something") if isinstance(meta, dict) else "something"
    if there != kind:
        raise ValueError(f"{os.fspath(path)} holds {there!r}; expected {kind!r}.")


def _in_order(data: bytes) -> bytes:
    """The same file with its header in alphabetical order: safetensors writes metadata in another order every time."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    head = json.dumps(dict(sorted(header.items())), separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)  # tensors begin at a multiple of eight
    return b"".join([len(head).to_bytes(8, "little"), head, memoryview(data)[end:]])


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"meta holds a {type(value).__name__}, which JSON cannot hold; pass numbers, str, lists, dicts.")


def sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system can; the file is whole either way."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
