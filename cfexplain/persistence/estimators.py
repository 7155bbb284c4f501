"""Explainers, coordinates and densities: the parameters of their constructor, and what `fit` set."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, overload

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from cfexplain.persistence.hints import attribute_types, check_parameters, fits, parameter_names
from cfexplain.persistence.networks import State, make_network, take_network
from cfexplain.persistence.table import Kind, kind_of, register
from cfexplain.persistence.tree import Reader, Writer

__all__ = ["plain", "storable"]

Class = TypeVar("Class", bound=type)
_OF_SCIKIT_LEARN = ("_sklearn_output_config", "_metadata_request")
_METHODS = ("fit", "partial_fit", "predict", "predict_proba", "score", "transform", "inverse_transform")
_PLAIN = (bool, int, float, str, type(None), np.ndarray, np.generic, np.dtype, torch.device, Tensor)


def _no_network(estimator: Any, state: State) -> nn.Module:
    raise ValueError(f"a {type(estimator).__name__} with a network of its own")


@dataclass(frozen=True)
class Declaration:
    """What an estimator's class declares; see `storable`."""

    network: str = ""
    build: Callable[[Any, State], nn.Module] = _no_network
    made_from: Mapping[str, str] = field(default_factory=dict)
    left_out: Sequence[str] = ()


@overload
def storable(cls: Class) -> Class: ...


@overload
def storable(*, network: str | None = ..., build: Callable[[Any, State], nn.Module] | None = ...,
             made_from: Mapping[str, str] | None = ..., left_out: Sequence[str] | None = ...
             ) -> Callable[[Class], Class]: ...


def storable(cls: Any = None, *, network: str | None = None, build: Callable[[Any, State], nn.Module] | None = None,
             made_from: Mapping[str, str] | None = None, left_out: Sequence[str] | None = None) -> Any:
    """Class decorator: objects of this class, an explainer, coordinates or a density, can be in a file.

    Stored are the parameters of the constructor, and the fitted attributes, whose names end in an underscore. From a file,
    parameters must be of the types that the constructor declares, and fitted attributes of the types in the class's
    annotations (``directions_: np.ndarray``, its own or inherited); one without an annotation must be plain data: numbers,
    text, arrays, and lists, tuples and dicts of them. A file of an explainer must hold every annotated attribute that is not
    `MayBeAbsent`. Names that the annotations use must exist when the module runs, not only under ``TYPE_CHECKING``.

    Files name a class by its name alone, and only classes that this process has defined: define yours before you load.
    A subclass is stored only if it has the decorator, too; what it does not say is as its base says.

    Parameters
    ----------
    network : str, optional
        The fitted attribute that is a network, which parameters and sizes describe: only its weights are stored.
    build : callable ``(estimator, state) -> nn.Module``
        That network, untrained, of an estimator that has all but it; `state` holds the weights of the file by name.
    made_from : mapping of str to str, optional
        The parameter that a fitted attribute was made from, where it is not called the same without the underscore: a
        network of the user's in it is given to ``load`` under this name.
    left_out : sequence of str, optional
        Parameters that are not kept, because a file must not choose them.

    Raises
    ------
    TypeError
        The class is no estimator, or another class has its name.

    Examples
    --------
    >>> from cfexplain import PLACEExplainer
    >>> from cfexplain.persistence import storable
    >>> @storable
    ... class PatientPLACE(PLACEExplainer):
    ...     stall = None
    """
    declared: dict[str, Any] = {"network": network, "build": build, "made_from": made_from, "left_out": left_out}
    if cls is None:
        return functools.partial(storable, **declared)
    if not (isinstance(cls, type) and issubclass(cls, BaseEstimator)):
        raise TypeError(f"storable is for classes of estimators (scikit-learn's BaseEstimator), not for {cls!r}.")
    bases = (kind_of(base) for base in cls.__mro__[1:])
    inherited = next((kind.declared for kind in bases if kind is not None and isinstance(kind.declared, Declaration)),
                     Declaration())
    how = replace(inherited, **{name: value for name, value in declared.items() if value is not None})
    register(Kind(cls, functools.partial(_take, how), functools.partial(_make, cls, how), how))
    return cls


def plain(value: Any) -> bool:
    """Whether `value` is data and nothing else: numbers, text, arrays, and lists, tuples and dicts of them."""
    if isinstance(value, (list, tuple)):
        return all(map(plain, value))
    if isinstance(value, dict):
        return all(plain(key) and plain(item) for key, item in value.items())
    return isinstance(value, _PLAIN) and not isinstance(value, nn.Module)


def _take(how: Declaration, estimator: Any, out: Writer, where: str, slot: str) -> dict[str, Any]:
    """Parameters, what else the constructor set, what `fit` set, and the weights of the network.

    Raises
    ------
    TypeError
        Naming the first attribute that a file cannot hold.
    """
    cls, own, types = type(estimator), dict(vars(estimator)), attribute_types(type(estimator))
    parameters = {name: own.pop(name) for name in parameter_names(cls)}
    check_parameters(cls, parameters)
    untouched = vars(cls(**parameters))
    kept = {name: value for name, value in parameters.items() if name not in how.left_out}
    dotted = f"{where}." if where else ""
    fields: dict[str, Any] = {
        "parameters": {name: out.value(value, f"{dotted}{name}", f"{slot}__{name}" if slot else name, strict=False)
                       for name, value in kept.items()}, "set": {}, "fitted": {}}
    for name, value in own.items():
        if name in untouched or _is_setting(cls, name):
            before = untouched[name] if name in untouched else getattr(cls, name)
            if value is not before and not np.array_equal(value, before):
                fields["set"][name] = out.value(value, f"{dotted}{name}")
        elif name == "_metadata_request":
            fields["requests"] = {method: dict(wanted) for method, wanted in value._serialize().items()}
        elif name == how.network:
            fields["network"] = take_network(value, functools.partial(how.build, estimator), out, f"{dotted}{name}")
        elif name in _OF_SCIKIT_LEARN or (name.endswith("_") and not name.startswith("_")):
            source = how.made_from.get(name, name.removesuffix("_"))
            fields["fitted"][name] = out.value(value, f"{dotted}{name}", source if source in parameters else "")
            if name not in types and name not in _OF_SCIKIT_LEARN and not plain(value):
                raise TypeError(f"{dotted}{name} is a {type(value).__qualname__}, which save() does not expect there; "
                                "nothing was written.")
        else:
            raise TypeError(f"{dotted}{name} is an attribute that the file format of save() does not know (fitted ones end "
                            "in an underscore), so that nothing was written. Remove it, or use pickle.")
    return fields


def _make(cls: type, how: Declaration, fields: dict[str, Any], read: Reader) -> Any:
    """The estimator that `_take` took apart; whatever the file says, nothing but data is set.

    Raises
    ------
    ValueError, TypeError, LookupError
        The fields are not those of a `cls`.
    """
    known = parameter_names(cls)
    parameters = {name: read.value(node) for name, node in fields["parameters"].items()}
    strange = (set(parameters) - set(known)) | (set(parameters) & set(how.left_out))
    if strange:
        raise ValueError(f"{cls.__name__} with the parameter {min(strange)!r}")
    if read.moved and parameters.get("device") is not None:
        parameters["device"] = str(read.device)
    check_parameters(cls, parameters)
    made = cls(**parameters)
    for name, node in fields["set"].items():
        value = read.value(node)
        if not (name in vars(made) or _is_setting(cls, name)) or name in known or not plain(value):
            raise ValueError(f"{cls.__name__}.{name} as {type(value).__name__}")
        setattr(made, name, value)
    for name, node in fields["fitted"].items():
        value = read.value(node)
        _check_attribute(cls, how, name, value)
        vars(made)[name] = value
    if "network" in fields:
        vars(made)[how.network] = make_network(fields["network"], functools.partial(how.build, made), read)
    if "requests" in fields:
        requests = made._get_metadata_request()
        for method, wanted in fields["requests"].items():
            for name, alias in wanted.items():
                if not isinstance(alias, (bool, str, type(None))) or method not in _METHODS:
                    raise ValueError(f"the metadata request {method!r}")
                getattr(requests, method).add_request(param=name, alias=alias)
        made._metadata_request = requests
    return made


def _is_setting(cls: type, name: str) -> bool:
    """Whether the class itself has a public attribute of plain data under this name, which objects may have otherwise."""
    return not name.startswith("_") and plain(inspect.getattr_static(cls, name, cls))


def _check_attribute(cls: type, how: Declaration, name: str, value: Any) -> None:
    """A file sets what `fit` sets: no method, no property, no parameter, and each of the type that it has."""
    types = {**attribute_types(cls), "_sklearn_output_config": dict}
    allowed = name == "_sklearn_output_config" or (name.endswith("_") and not name.startswith("_") and name.isidentifier())
    if not allowed or hasattr(cls, name) or name == how.network:
        raise ValueError(f"{cls.__name__} with an attribute {name!r}")
    if not (fits(value, types[name]) if name in types else plain(value)):
        raise ValueError(f"{cls.__name__}.{name} as {type(value).__name__}")
