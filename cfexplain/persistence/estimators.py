"""Explainers, coordinates and densities: the parameters of their constructor, and what `fit` set."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cfexplain.classifiers.adapter import ClassifierAdapter
from cfexplain.classifiers.features import ClassFeatures
from cfexplain.classifiers.latent import LatentEnsemble
from cfexplain.classifiers.regressor import RegressorAdapter
from cfexplain.coordinates import GAN, VAE, Autoencoder, Coordinates, Flow, Identity
from cfexplain.density import ClassDensity, ConditionalFlow
from cfexplain.explainers.task import Classification, Regression
from cfexplain.foundation.arrays import Layout
from cfexplain.persistence.hints import check_parameters, fits, parameter_names
from cfexplain.persistence.networks import take_network, untrained, weigh
from cfexplain.persistence.tree import Reader, Writer
from cfexplain.tables.rules import ColumnRules

__all__ = ["make_estimator", "plain", "take_estimator"]

# Attributes that are networks, which their estimator builds from its own parameters
_BUILT = {VAE: "module_", Autoencoder: "module_", Flow: "module_", GAN: "module_", Identity: "module_",
          ConditionalFlow: "flow_"}
# Which parameter a fitted part was made from
_MADE_FROM = {"coordinates_": ("coordinates", "generator"), "autoencoder_": ("autoencoder",), "density_": ("density",)}
# Not kept: a file could choose by it where a later fit writes
_LEFT_OUT = {(Flow, "checkpoint")}
_OF_SCIKIT_LEARN = ("_sklearn_output_config", "_metadata_request")
# What some attributes must be, whichever class has them; all others are plain data
_TYPES: dict[str, Any] = {
    "layout_": Layout, "dtype_": np.dtype, "device_": torch.device, "n_features_in_": int, "latent_dim_": int, "seed_": int,
    "feature_names_in_": np.ndarray, "column_rules_": ColumnRules | None, "region_": Tensor | None,
    "classifier_": ClassifierAdapter | RegressorAdapter, "task_": Classification | Regression, "classes_": np.ndarray,
    "class_counts_": np.ndarray, "class_prior_": np.ndarray, "coordinates_": Coordinates, "autoencoder_": Coordinates,
    "density_": ClassDensity, "opinions_": LatentEnsemble | None, "class_features_": ClassFeatures | None,
    "greyness_": list[np.ndarray] | None, "scale_": np.ndarray, "loc_": np.ndarray, "directions_": np.ndarray,
    "prototype_codes_": list[np.ndarray], "log_densities_": list[np.ndarray], "module_": nn.Module,
    "inversion_error_": np.ndarray, "encoder_kind_": str, "flow_name_": str, "latent_shape_": tuple[int, ...],
    "history_": list, "_sklearn_output_config": dict}
_NEEDED = ("layout_", "dtype_", "device_", "classifier_", "task_", "coordinates_", "density_", "opinions_",
           "class_features_", "greyness_", "scale_", "column_rules_", "region_", "n_features_in_")
_PLAIN = (bool, int, float, str, type(None), np.ndarray, np.generic, np.dtype, torch.device, Tensor)


def plain(value: Any) -> bool:
    """Whether `value` is data and nothing else: numbers, text, arrays, and lists, tuples and dicts of them."""
    if isinstance(value, (list, tuple)):
        return all(map(plain, value))
    if isinstance(value, dict):
        return all(plain(key) and plain(item) for key, item in value.items())
    return isinstance(value, _PLAIN) and not isinstance(value, nn.Module)


def take_estimator(estimator: Any, out: Writer, where: str, slot: str) -> dict[str, Any]:
    """Parameters, what else the constructor set, what `fit` set, and the weights of the network.

    Raises
    ------
    TypeError
        Naming the first attribute that a file cannot hold.
    """
    cls, own = type(estimator), dict(vars(estimator))
    parameters = {name: own.pop(name) for name in parameter_names(cls)}
    check_parameters(cls, parameters)
    untouched = vars(cls(**parameters))
    kept = {name: value for name, value in parameters.items() if (cls, name) not in _LEFT_OUT}
    dotted = f"{where}." if where else ""
    fields: dict[str, Any] = {
        "parameters": {name: out.value(value, f"{dotted}{name}", f"{slot}__{name}" if slot else name, strict=False)
                       for name, value in kept.items()}, "set": {}, "fitted": {}}
    for name, value in own.items():
        if name in untouched:
            if value is not untouched[name] and not np.array_equal(value, untouched[name]):
                fields["set"][name] = out.value(value, f"{dotted}{name}")
        elif name == "_metadata_request":
            fields["requests"] = {method: dict(wanted) for method, wanted in value._serialize().items()}
        elif name == _BUILT.get(cls):
            fields["network"] = take_network(value, untrained(estimator), out, f"{dotted}{name}")
        elif name in _OF_SCIKIT_LEARN or (name.endswith("_") and not name.startswith("_")):
            source = next((name for name in _MADE_FROM.get(name, ()) if name in parameters), "")
            fields["fitted"][name] = out.value(value, f"{dotted}{name}", source)
            if name not in _TYPES and not plain(value):
                raise TypeError(f"{dotted}{name} is a {type(value).__qualname__}, which save() does not expect there; "
                                "nothing was written.")
        else:
            raise TypeError(f"{dotted}{name} is an attribute that the file format of save() does not know (fitted ones end "
                            "in an underscore), so that nothing was written. Remove it, or use pickle.")
    return fields


def make_estimator(cls: type, fields: dict[str, Any], read: Reader) -> Any:
    """The estimator that `take_estimator` took apart; whatever the file says, nothing but data is set.

    Raises
    ------
    ValueError, TypeError, LookupError
        The fields are not those of a `cls`.
    """
    known = parameter_names(cls)
    parameters = {name: read.value(node) for name, node in fields["parameters"].items()}
    strange = (set(parameters) - set(known)) | {name for owner, name in _LEFT_OUT if owner is cls and name in parameters}
    if strange:
        raise ValueError(f"{cls.__name__} with the parameter {min(strange)!r}")
    if read.moved and parameters.get("device") is not None:
        parameters["device"] = str(read.device)
    check_parameters(cls, parameters)
    made = cls(**parameters)
    for name, node in fields["set"].items():
        value = read.value(node)
        if name not in vars(made) or name in known or not plain(value):
            raise ValueError(f"{cls.__name__}.{name} as {type(value).__name__}")
        setattr(made, name, value)
    for name, node in fields["fitted"].items():
        value = read.value(node)
        _check_attribute(cls, name, value)
        vars(made)[name] = value
    built = _BUILT.get(cls)
    if "network" in fields:
        vars(made)[built] = weigh(fields["network"], untrained(made), read)
    if "requests" in fields:
        requests = made._get_metadata_request()
        for method, wanted in fields["requests"].items():
            for name, alias in wanted.items():
                if not isinstance(alias, (bool, str, type(None))) or method not in _METHODS:
                    raise ValueError(f"the metadata request {method!r}")
                getattr(requests, method).add_request(param=name, alias=alias)
        made._metadata_request = requests
    return made


_METHODS = ("fit", "partial_fit", "predict", "predict_proba", "score", "transform", "inverse_transform")


def _check_attribute(cls: type, name: str, value: Any) -> None:
    """A file sets what `fit` sets: no method, no property, no parameter, and each of the type that it has."""
    allowed = name == "_sklearn_output_config" or (name.endswith("_") and not name.startswith("_") and name.isidentifier())
    if not allowed or hasattr(cls, name) or name == _BUILT.get(cls):
        raise ValueError(f"{cls.__name__} with an attribute {name!r}")
    if not (fits(value, _TYPES[name]) if name in _TYPES else plain(value)):
        raise ValueError(f"{cls.__name__}.{name} as {type(value).__name__}")


def check_whole(explainer: Any) -> None:
    """Raise ValueError if parts of an explainer are missing, or do not belong together."""
    missing = [name for name in _NEEDED if name not in vars(explainer)]
    if missing:
        raise ValueError(f"no {missing[0]}")
    layout, dtype = explainer.layout_, explainer.dtype_
    if dtype not in (np.float32, np.float64) or explainer.n_features_in_ != int(np.prod(layout.net_shape)):
        raise ValueError(f"samples of {explainer.n_features_in_} numbers of {dtype} in the shape {layout.net_shape}")
    for part in (explainer.coordinates_, getattr(explainer, "autoencoder_", explainer.coordinates_)):
        if part.layout_.net_shape != layout.net_shape or not isinstance(getattr(part, "module_", None), nn.Module):
            raise ValueError(f"{type(part).__name__} of samples of another shape")
    count = len(explainer.task_.counts)
    densities = explainer.density_.log_densities_
    if len(densities) != count or any(own.ndim != 1 or not len(own) for own in densities):
        raise ValueError(f"densities of {len(densities)} classes for {count}")
    labels = hasattr(explainer, "classes_")
    if labels != isinstance(explainer.task_, Classification) or labels and len(explainer.classes_) != count:
        raise ValueError("classes that do not fit the task")
    if explainer.column_rules_ is not None and explainer.column_rules_.held.size != explainer.n_features_in_:
        raise ValueError("rules of other columns")
    if explainer.scale_.shape != layout.net_shape:
        raise ValueError(f"scales of shape {explainer.scale_.shape}")
    explainer.check_parameters()
