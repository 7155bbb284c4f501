"""Names that a person typed, and the known one that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = ["check_known", "meant"]


def meant(name: Any, names: Iterable[Any]) -> str:
    """``"Did you mean …? "`` with the nearest of `names`, or nothing where none is near; their kinds need not be the same.

    >>> meant("metod", ["method", "seed"]), meant("9", [8, 9]), meant("x", ["method"])
    ("Did you mean 'method'? ", 'Did you mean 9? ', '')
    """
    known = {str(one).lower(): one for one in names}
    near = difflib.get_close_matches(str(name).lower(), list(known), 1)
    return f"Did you mean {known[near[0]]!r}? " if near else ""


def check_known(name: Any, names: Iterable[Any], what: str) -> None:
    """Raise ValueError, with the nearest name and all of them, where `name` is none of `names`."""
    names = list(names)
    if name not in names:
        raise ValueError(f"{name!r} is no {what}. {meant(name, names)}Known: {', '.join(map(str, names))}.")
