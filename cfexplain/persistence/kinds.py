"""Ways to store what is no estimator: by its attributes, by its constructor, by a few sizes, or by the parts of a module.

Each is a class decorator, written above the class that is stored. What comes from a file is checked against the class's own
annotations before anything is made of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sklearn.frozen import FrozenEstimator
from torch import Tensor, nn

from cfexplain.foundation.arrays import Layout
from cfexplain.persistence.estimators import plain
from cfexplain.persistence.hints import attribute_types, check_parameters, fits, may_be_absent, parameter_names
from cfexplain.persistence.networks import make_network, on_meta, take_network
from cfexplain.persistence.table import Kind, register
from cfexplain.persistence.tree import Reader, Writer
from cfexplain.persistence.user_objects import is_skorch, without_frozen

__all__ = ["stored_by_attributes", "stored_by_configuration", "stored_by_constructor", "stored_by_parts", "stored_by_sizes"]

Class = TypeVar("Class", bound=type)
Decorator = Callable[[Class], Class]


def stored_by_attributes(*names: str, check: Callable[[Any], bool] | None = None) -> Decorator:
    """Objects that are their attributes; the constructor does not run again.

    Parameters
    ----------
    names : str
        Attributes that every object has, of the types in the annotations; default: all that are annotated. A file may lack
        those that are `MayBeAbsent`. Others must be plain data.
    check : callable, optional
        Whether the attributes of an object from a file fit each other. It may also put them in order.
    """

    def decorate(cls: Class) -> Class:
        def take(made: Any, out: Writer, where: str, slot: str) -> dict[str, Any]:
            return {name: out.value(value, f"{where}.{name}") for name, value in vars(made).items()}

        def make(fields: dict[str, Any], read: Reader) -> Any:
            made: Any = object.__new__(cls)
            types = attribute_types(cls)
            types = {name: types[name] for name in names or types}
            for name, node in fields.items():
                value = read.value(node)
                if types.get(name) is nn.Module:
                    value = _network(value)
                if not (fits(value, types[name]) if name in types else plain(value) and not hasattr(cls, name)):
                    raise ValueError(f"{cls.__name__}.{name} as {type(value).__name__}")
                vars(made)[name] = value
            if set(types) - may_be_absent(cls) - set(fields) or (check is not None and not check(made)):
                raise ValueError(f"a {cls.__name__} whose parts are missing or do not fit each other")
            return made

        register(Kind(cls, take, make))
        return cls

    return decorate


def stored_by_constructor(cls: Class) -> Class:
    """Small objects that keep the parameters of their constructor, which checks them; a parameter may be the user's."""

    def take(made: Any, out: Writer, where: str, slot: str) -> dict[str, Any]:
        return {name: out.value(getattr(made, name), f"{where}.{name}", f"{slot}__{name}" if slot else "", strict=False)
                for name in parameter_names(cls)}

    def make(fields: dict[str, Any], read: Reader) -> Any:
        parameters = {name: read.value(node) for name, node in fields.items()}
        check_parameters(cls, parameters)
        return cls(**parameters)

    register(Kind(cls, take, make))
    return cls


def stored_by_sizes(sizes: Callable[[Any], dict[str, Any]], build: Callable[..., nn.Module] | None = None) -> Decorator:
    """Networks that a few sizes describe: the sizes and the weights.

    Parameters
    ----------
    sizes : callable ``module -> dict of str to int or list of int``
        All of them positive.
    build : callable, optional
        The untrained network of these sizes, with tuples for lists; default: the class itself.
    """

    def decorate(cls: Class) -> Class:
        def untrained(chosen: Mapping[str, Any]) -> nn.Module:
            values = {name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()}
            return on_meta(lambda: (build or cls)(**values))

        def take(module: nn.Module, out: Writer, where: str, slot: str) -> dict[str, Any]:
            chosen = sizes(module)
            return {**chosen, "weights": take_network(module, lambda _: untrained(chosen), out, where)}

        def make(fields: dict[str, Any], read: Reader) -> nn.Module:
            chosen, weights = {name: value for name, value in fields.items() if name != "weights"}, fields["weights"]
            numbers = [n for value in chosen.values() for n in (value if isinstance(value, list) else [value])]
            if not all(type(n) is int and n > 0 for n in numbers) or len(numbers) > 8 + len(weights["state"]):
                raise ValueError(f"{cls.__name__} of the sizes {str(chosen)[:80]}")
            return make_network(weights, lambda _: untrained(chosen), read)

        register(Kind(cls, take, make))
        return cls

    return decorate


def stored_by_configuration(configuration: Callable[[Any], dict[str, Any]],
                            build: Callable[[dict[str, Any], int], nn.Module]) -> Decorator:
    """Networks that another library makes: its configuration of them, and the weights.

    Parameters
    ----------
    configuration : callable ``module -> dict`` of plain data
    build : callable ``(configuration, count of tensors) -> module``
        The untrained network. Must check what it is given, which comes from a file that anybody may have written.
    """

    def decorate(cls: Class) -> Class:
        def untrained(chosen: dict[str, Any], tensors: int) -> nn.Module:
            return on_meta(lambda: build(chosen, tensors))

        def take(module: nn.Module, out: Writer, where: str, slot: str) -> dict[str, Any]:
            chosen = configuration(module)
            return {"configuration": out.value(chosen, where),
                    "weights": take_network(module, lambda state: untrained(chosen, len(state)), out, where)}

        def make(fields: dict[str, Any], read: Reader) -> nn.Module:
            chosen = read.value(fields["configuration"])
            if not isinstance(chosen, dict) or not plain(chosen):
                raise ValueError(f"{cls.__name__} of the configuration {str(chosen)[:80]}")
            return make_network(fields["weights"], lambda state: untrained(chosen, len(state)), read)

        register(Kind(cls, take, make))
        return cls

    return decorate


def stored_by_parts(check: Callable[[Any], bool], types: Mapping[str, Any] | None = None) -> Decorator:
    """Modules that are made of their annotated parts: modules, buffers and plain attributes.

    A part that is annotated as ``nn.Module`` may be the user's own.

    Parameters
    ----------
    check : callable
        Whether the parts of a module from a file fit each other.
    types : mapping of str to type, optional
        Of parts that a file must hold more narrowly than the annotations say.
    """

    def decorate(cls: Class) -> Class:
        def parts() -> dict[str, Any]:
            return {**attribute_types(cls, above=nn.Module), **(types or {})}

        def take(module: nn.Module, out: Writer, where: str, slot: str) -> dict[str, Any]:
            known = parts()
            strange = {name for name in vars(module) if name not in vars(nn.Module()) and name not in known}
            if strange:
                raise TypeError(f"{where}.{min(strange)} is an attribute that the file format of save() does not know.")
            return {name: out.value(getattr(module, name), f"{where}.{name}") for name in known}

        def make(fields: dict[str, Any], read: Reader) -> nn.Module:
            module: Any = object.__new__(cls)
            nn.Module.__init__(module)
            for name, hint in parts().items():
                value = read.value(fields[name])
                if hint is nn.Module or (hint == (nn.Module | None) and value is not None):
                    value = _network(value)
                elif not fits(value, hint):
                    raise ValueError(f"{cls.__name__}.{name} as {type(value).__name__}")
                if isinstance(value, Tensor):
                    module.register_buffer(name, value)
                else:
                    setattr(module, name, value)
            if not check(module):
                raise ValueError(f"a {cls.__name__} whose parts do not fit each other")
            module.training = False  # of this one alone: the networks inside may be the user's
            return module

        register(Kind(cls, take, make))
        return cls

    return decorate


def _network(value: Any) -> nn.Module:
    """The module of what the user gave where the explainer keeps a module."""
    value = without_frozen(value)
    value = value.module_ if is_skorch(value) else value
    if not isinstance(value, nn.Module):
        raise ValueError(f"a {type(value).__name__} for a network")
    return value


# --------------------------------------------------------------- what the floor below and scikit-learn have
def _take_layout(layout: Layout, out: Writer, where: str, slot: str) -> dict[str, Any]:
    return {name: out.value(getattr(layout, name), where) for name in ("user_shape", "net_shape", "channels")}


def _make_layout(fields: dict[str, Any], read: Reader) -> Layout:
    shapes = {name: read.value(node) for name, node in fields.items()}
    channels = shapes.pop("channels", "first")
    if not all(fits(shape, tuple[int, ...]) and shape and min(shape) > 0 for shape in shapes.values()):
        raise ValueError(f"samples of the shapes {shapes}")
    layout = Layout(**{name: tuple(int(side) for side in shape) for name, shape in shapes.items()}, channels=channels)
    fitting = channels == "first" or channels == "last" and layout.is_image
    if math.prod(layout.user_shape) != math.prod(layout.net_shape) or len(layout.net_shape) not in (1, 3) or not fitting:
        raise ValueError(f"samples of the shapes {shapes}")
    return layout


def _take_frozen(frozen: FrozenEstimator, out: Writer, where: str, slot: str) -> dict[str, Any]:
    return {"estimator": out.value(frozen.estimator, where, slot, strict=False)}


def _make_frozen(fields: dict[str, Any], read: Reader) -> FrozenEstimator:
    return FrozenEstimator(read.value(fields["estimator"]))


register(Kind(Layout, _take_layout, _make_layout))
register(Kind(FrozenEstimator, _take_frozen, _make_frozen))
