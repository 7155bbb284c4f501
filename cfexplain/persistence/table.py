"""The classes that a file may name: none, until they register themselves where they are defined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Kind", "kind_named", "kind_of", "register"]


@dataclass(frozen=True)
class Kind:
    """How objects of one class are taken apart, and made again.

    Parameters
    ----------
    cls : type
        Of exactly this class, not of a subclass.
    take : callable ``(object, writer, where, slot) -> dict of str to node``
    make : callable ``(fields, reader) -> object``
        Must check what it reads: the fields come from a file that anybody may have written.
    declared : object
        What the class declares of itself; its subclasses may build on it.
    """

    cls: type
    take: Callable[..., dict[str, Any]]
    make: Callable[..., Any]
    declared: Any = None

    @property
    def name(self) -> str:
        """What files call the class."""
        return self.cls.__name__.lstrip("_")


_KINDS: dict[str, Kind] = {}


def register(kind: Kind) -> None:
    """Let files name the class of `kind`. A class that is defined again, as in a notebook, replaces the former one.

    Raises
    ------
    TypeError
        Another class has the name already.
    """
    known = _KINDS.get(kind.name)
    if known is not None and _place(known.cls) != _place(kind.cls):
        raise TypeError(f"{_place(kind.cls)} cannot be storable: a file names a class by its name alone, and {kind.name!r} "
                        f"is {_place(known.cls)} already. Give your class another name.")
    _KINDS[kind.name] = kind


def kind_of(cls: type) -> Kind | None:
    """How objects of exactly `cls` are stored; None if they are not."""
    kind = _KINDS.get(cls.__name__.lstrip("_"))
    return kind if kind is not None and kind.cls is cls else None


def kind_named(name: Any) -> Kind | None:
    """How objects are stored of which a file says that their class is `name`; None if no class has registered under it."""
    return _KINDS.get(name) if isinstance(name, str) else None


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
