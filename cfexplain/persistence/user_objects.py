"""What a file cannot hold: networks, estimators and functions of the user's own, and how to know them again."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from sklearn.frozen import FrozenEstimator
from torch import nn

from cfexplain.foundation.digest import named_weights, weights_digest

__all__ = ["LoadedObjects", "NotGiven", "RefusedError", "SavedObjects", "is_skorch", "without_frozen"]


class RefusedError(ValueError):
    """Says already what is wrong with the file, or with what was given beside it."""


class NotGiven:
    """Stands for a function that only training needs, and that was not given to ``load``."""

    def __init__(self, name: str, was: str):
        self.name, self.was = name, was

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise ValueError(f"{self.name} was a {self.was}, which the file could not hold, and was not given again. "
                         f"Load with {self.name}=... where it is needed.")

    def __repr__(self) -> str:
        return f"<{self.was}, not given>"


class SavedObjects:
    """The user's own objects that are met while an explainer is saved, by the names of the parameters that hold them."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self._places: dict[int, list[str]] = {}
        self._alive: list[Any] = []  # what an id stands for must not go away, or the id would be given to another

    def place_of(self, value: Any) -> list[str] | None:
        """``[name]`` or ``[name, part]`` of an object that was met before."""
        return self._places.get(id(value))

    def add(self, name: str, value: Any, where: str) -> list[str]:
        """Take `value` under `name`; a copy of what has that name already is taken for it."""
        if name in self.objects and not _alike(self.objects[name], value):
            raise TypeError(f"{where} and the parameter {name} hold two different objects of yours, of which load() could "
                            "be given only one. Fit the explainer again, or keep it with pickle.")
        self.objects.setdefault(name, value)
        for place, part in _parts(name, value):
            self._places.setdefault(id(part), place)
            self._alive.append(part)
        return self._places[id(value)]

    def described(self) -> dict[str, Any]:
        """For the file: of each object its type, and the digest of its weights if it has some."""
        return {name: describe(name, value) for name, value in self.objects.items()}


class LoadedObjects:
    """The user's own objects that came with ``load``, checked against what the file says of them.

    Parameters
    ----------
    objects : dict of str to object
    described : dict
        As :meth:`SavedObjects.described` wrote it.
    verify : bool
        Whether other weights are refused.

    Raises
    ------
    RefusedError
        An object is missing, or has other weights.
    TypeError
        Something was given that the file has no use for.
    """

    def __init__(self, objects: dict[str, Any], described: dict[str, Any], verify: bool):
        objects = {name: without_frozen(value) for name, value in objects.items() if value is not None}
        for name in [name for name, value in objects.items() if isinstance(value, (tuple, list)) and len(value) == 2]:
            if {f"{name}__encoder", f"{name}__decoder"} <= set(described):  # as the constructor takes them
                objects[f"{name}__encoder"], objects[f"{name}__decoder"] = objects.pop(name)
        strange = sorted(set(objects) - set(described))
        if strange:
            holds = f"it asks for {', '.join(sorted(described))}" if described else "it needs nothing beside it"
            raise TypeError(f"load() got {', '.join(strange)}, which the file does not ask for: {holds}.")
        missing = {name: about for name, about in described.items() if name not in objects and not _only_training(name)}
        if missing:
            listed = ", ".join(f"{name}=... (a {about['type']})" for name, about in missing.items())
            raise RefusedError(f"The explainer was made with objects of your own, which a file cannot hold without running "
                               f"code. Give them again: load(path, {listed}).")
        if verify:
            for name, value in objects.items():
                _check_weights(name, value, described[name])
        self._objects, self._described = objects, described

    def get(self, name: str, part: str | None = None) -> Any:
        if name not in self._objects:
            return NotGiven(name, str(self._described[name]["type"]))
        value = self._objects[name]
        if part is None or (part == "module" and isinstance(value, nn.Module)):
            return value
        for place, found in _parts(name, value):
            if place == [name, part]:
                return found
        raise RefusedError(f"{name}= was a skorch net, of which the explainer uses the {part}; the {type(value).__name__} "
                           "that was given has none. Give the skorch net.")


def describe(name: str, value: Any) -> dict[str, Any]:
    modules = _modules(value)
    about: dict[str, Any] = {"type": type(value).__qualname__}
    # the flow of a density is only a plan: its weights were trained in a copy, and are in the file
    if modules and name.rpartition("__")[2] != "flow":
        about |= {"digest": weights_digest(modules), "numbers": _count(modules)}
    return about


def _check_weights(name: str, value: Any, about: dict[str, Any]) -> None:
    modules, wanted = _modules(value), about.get("digest")
    if wanted is None:
        return
    if not modules:
        raise RefusedError(f"{name}= is a {type(value).__qualname__}; expected the {about['type']} that the "
                           "explainer was made with, a network.")
    if weights_digest(modules) != wanted:
        count = _count(modules)
        raise RefusedError(
            f"{name}= is another network than the one that the explainer was made with: the weights of this "
            f"{type(value).__qualname__} ({count:,} numbers) are not those of that {about['type']} "
            f"({about['numbers']:,} numbers). Give that one, with its weights loaded; or, if you mean it, "
            "load(..., verify=False).")


def _count(modules: list[nn.Module]) -> int:
    return sum(tensor.numel() for module in modules for tensor in named_weights(module).values())


def _alike(a: Any, b: Any) -> bool:
    """Whether one is the other, or may be the copy of it that scikit-learn's clone makes of a parameter."""
    if a is b or type(a) is not type(b):
        return a is b
    return not isinstance(a, nn.Module) or weights_digest([a]) == weights_digest([b])


def _only_training(name: str) -> bool:
    return name.endswith("__perceptual")


def without_frozen(value: Any) -> Any:
    """What is inside ``FrozenEstimator``."""
    while isinstance(value, FrozenEstimator):
        value = value.estimator
    return value


def is_skorch(value: Any) -> bool:
    """Whether `value` is a skorch net that has its module."""
    return (bool(getattr(value, "initialized_", False)) and hasattr(value, "predict_nonlinearity")
            and isinstance(getattr(value, "module_", None), nn.Module))


def _parts(name: str, value: Any) -> Iterator[tuple[list[str], Any]]:
    """The object itself, and what explainers take out of it: a skorch net's module and its function of outputs."""
    yield [name], value
    if is_skorch(value):
        yield [name, "module"], value.module_
        if callable(value.predict_nonlinearity):
            yield [name, "predict_nonlinearity"], value.predict_nonlinearity


def _modules(value: Any) -> list[nn.Module]:
    """The network that an object of the user's is, or holds, or is a method of."""
    if isinstance(value, nn.Module):
        return [value]
    if isinstance(getattr(value, "module_", None), nn.Module):  # a skorch net, or fitted coordinates of the user's class
        return [value.module_]
    if inspect.ismethod(value) and isinstance(value.__self__, nn.Module):
        return [value.__self__]
    return []
