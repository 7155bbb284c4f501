"""The registry: every class that a file can hold, how its objects are taken apart, and how they are made again, checked."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from torch import Tensor, nn

import cfexplain.explainers
from cfexplain.classifiers.adapter import AskedAdapter, ClassifierAdapter
from cfexplain.classifiers.features import ClassFeatures
from cfexplain.classifiers.latent import LatentEnsemble
from cfexplain.classifiers.outputs import ModuleScores
from cfexplain.classifiers.regressor import RegressorAdapter, _BlackBoxRegressor, _Scaled
from cfexplain.classifiers.surrogate import BlackBox
from cfexplain.coordinates import GAN, VAE, Autoencoder, Flow, GeneratorCoordinates, Identity, PretrainedCoordinates
from cfexplain.coordinates.generator import _Decoder, _Encoder
from cfexplain.coordinates.inversion import Inversion, Inverter
from cfexplain.coordinates.pretrained import _Borrowed
from cfexplain.density import ConditionalFlow, Prior
from cfexplain.explainers import CounterfactualExplainer
from cfexplain.explainers.task import Classification, Regression
from cfexplain.foundation.arrays import Layout
from cfexplain.nets.classifiers import ClassifierNet
from cfexplain.perceptual import LPIPS
from cfexplain.persistence.estimators import make_estimator, plain, take_estimator
from cfexplain.persistence.given import bare, is_skorch
from cfexplain.persistence.hints import fits
from cfexplain.persistence.networks import blank, take_network, weigh
from cfexplain.persistence.tree import Kind, Reader, Writer
from cfexplain.tables.rules import ColumnRules

__all__ = ["EXPLAINERS", "KINDS"]

EXPLAINERS: dict[str, type[CounterfactualExplainer]] = {
    name: cls for name, cls in vars(cfexplain.explainers).items()
    if isinstance(cls, type) and issubclass(cls, CounterfactualExplainer) and cls is not CounterfactualExplainer}


# --------------------------------------------------------------------- objects that are their attributes
def _by_attributes(cls: type, types: Mapping[str, Any], check: Callable[[Any], bool] | None = None) -> Kind:
    """A kind for objects that are what their attributes are: `types` says which they must have, and of which type."""

    def take(made: Any, out: Writer, where: str, slot: str) -> dict[str, Any]:
        return {name: out.value(value, f"{where}.{name}") for name, value in vars(made).items()}

    def make(fields: dict[str, Any], read: Reader) -> Any:
        made = cls.__new__(cls)
        for name, node in fields.items():
            value = read.value(node)
            if types.get(name) is nn.Module:
                value = _network(value)
            if not (fits(value, types[name]) if name in types else plain(value) and not hasattr(cls, name)):
                raise ValueError(f"{cls.__name__}.{name} as {type(value).__name__}")
            vars(made)[name] = value
        missing = set(types) - set(fields)
        if missing or (check is not None and not check(made)):
            raise ValueError(f"a {cls.__name__} whose parts are missing or do not fit each other")
        return made

    return Kind(cls, take, make)


def _network(value: Any) -> nn.Module:
    """The module of what the user gave where the explainer keeps a module."""
    value = bare(value)
    value = value.module_ if is_skorch(value) else value
    if not isinstance(value, nn.Module):
        raise ValueError(f"a {type(value).__name__} for a network")
    return value


def _black_box(value: Any) -> bool:
    value.estimator = bare(value.estimator)
    return callable(getattr(value.estimator, "predict", None))


def _rules(value: ColumnRules) -> bool:
    return value.held.dtype == bool and value.held.ndim == 1 and value.held.shape == value.low.shape == value.high.shape


_ADAPTER = {"_scores": ModuleScores, "_black_box": BlackBox | None, "device": torch.device,
            "surrogate_fidelity_": float | None}
_ASKED = {"estimator": Any, "name": str, "sample_shape": tuple[int, ...]}
_OBJECTS = [
    _by_attributes(ClassifierAdapter, {**_ADAPTER, "classes_": np.ndarray}),
    _by_attributes(AskedAdapter, {**_ADAPTER, "classes_": np.ndarray, "_scores": None, "_black_box": BlackBox}),
    _by_attributes(RegressorAdapter, {**_ADAPTER, "_black_box": _BlackBoxRegressor | None}),
    _by_attributes(ModuleScores, {"module": nn.Module, "sample_shape": tuple[int, ...], "kind": str,
                                  "nonlinearity": Callable | None, "first_of_tuple": bool},
                   lambda scores: scores.kind in ("logits", "probabilities")),
    _by_attributes(BlackBox, {**_ASKED, "classes_": np.ndarray, "asks": str, "factor": float},
                   lambda box: _black_box(box) and box.asks in ("predict_proba", "decision_function", "predict")),
    _by_attributes(_BlackBoxRegressor, _ASKED, _black_box),
    _by_attributes(ColumnRules, {"held": np.ndarray, "low": np.ndarray, "high": np.ndarray}, _rules),
    _by_attributes(Classification, {"classes": np.ndarray, "groups": np.ndarray, "counts": np.ndarray},
                   lambda task: task.classes.shape == task.counts.shape and task.classes.ndim == 1),
    _by_attributes(Regression, {"groups": np.ndarray, "counts": np.ndarray, "spread": float, "slack": float})]


# ------------------------------------------------------------------ objects that their constructor makes
def _by_constructor(cls: type, types: Mapping[str, Any]) -> Kind:
    """A kind for small objects that check themselves in their constructor; a function of the user's may be in them."""

    def take(made: Any, out: Writer, where: str, slot: str) -> dict[str, Any]:
        return {name: out.value(getattr(made, name), f"{where}.{name}", f"{slot}__{name}" if slot else "", strict=False)
                for name in types}

    def make(fields: dict[str, Any], read: Reader) -> Any:
        values = {name: read.value(node) for name, node in fields.items()}
        for name, value in values.items():
            if not fits(value, types[name]):
                raise ValueError(f"{cls.__name__}.{name} as {type(value).__name__}")
        return cls(**values)

    return Kind(cls, take, make)


def _make_layout(fields: dict[str, Any], read: Reader) -> Layout:
    shapes = {name: read.value(node) for name, node in fields.items()}
    if not all(fits(shape, tuple[int, ...]) and shape and min(shape) > 0 for shape in shapes.values()):
        raise ValueError(f"samples of the shapes {shapes}")
    layout = Layout(**{name: tuple(int(side) for side in shape) for name, shape in shapes.items()})
    if math.prod(layout.user_shape) != math.prod(layout.net_shape) or len(layout.net_shape) not in (1, 3):
        raise ValueError(f"samples of the shapes {shapes}")
    return layout


def _frozen(fields: dict[str, Any], read: Reader) -> FrozenEstimator:
    return FrozenEstimator(read.value(fields["estimator"]))


_SMALL = [
    _by_constructor(Inversion, {
        "steps": int, "restarts": int, "lr": float, "prior_weight": float, "feature_weight": float,
        "feature_layer": Callable | None, "start": str, "tile": int}),
    _by_constructor(LPIPS, {"net": str, "data_range": tuple[float, float]}),
    Kind(Layout, lambda layout, out, where, slot: {
        name: out.value(getattr(layout, name), where) for name in ("user_shape", "net_shape")}, _make_layout),
    Kind(FrozenEstimator, lambda frozen, out, where, slot: {
        "estimator": out.value(frozen.estimator, where, slot, strict=False)}, _frozen)]


# ------------------------------------------------------------------------------- networks by themselves
def _by_sizes(cls: type[nn.Module], sizes: Callable[[Any, Writer], dict[str, Any]],
              build: Callable[[dict[str, Any]], nn.Module]) -> Kind:
    """A kind for networks of the package that a few sizes describe."""

    def take(module: nn.Module, out: Writer, where: str, slot: str) -> dict[str, Any]:
        chosen = sizes(module, out)
        return {**chosen, "weights": take_network(module, lambda _: blank(lambda: build(chosen)), out, where)}

    def make(fields: dict[str, Any], read: Reader) -> nn.Module:
        chosen, weights = {name: value for name, value in fields.items() if name != "weights"}, fields["weights"]
        numbers = [n for value in chosen.values() for n in (value if isinstance(value, list) else [value])]
        if not all(type(n) is int and n > 0 for n in numbers) or len(numbers) > 8 + len(weights["state"]):
            raise ValueError(f"{cls.__name__} of the sizes {str(chosen)[:80]}")
        return weigh(weights, lambda _: blank(lambda: build(chosen)), read)

    return Kind(cls, take, make)


def _classifier_sizes(net: ClassifierNet, out: Writer) -> dict[str, Any]:
    shapes = [out.layout.net_shape, out.layout.user_shape, (math.prod(out.layout.net_shape),)]
    images = [shape for shape in shapes if (len(shape) == 3) == (net.mean.ndim == 3)]
    return {"net_shape": list((images or shapes)[0]), "n_classes": net.body[-1].out_features}


def _build_classifier(sizes: dict[str, Any]) -> ClassifierNet:
    return ClassifierNet(tuple(sizes["net_shape"]), sizes["n_classes"])


def _ensemble_sizes(ensemble: LatentEnsemble, out: Writer) -> dict[str, Any]:
    return {"members": ensemble.members, "sizes": [*(w.shape[1] for w in ensemble.weights), ensemble.weights[-1].shape[2]]}


def _build_ensemble(sizes: dict[str, Any]) -> LatentEnsemble:
    first, *hidden, last = sizes["sizes"]
    return LatentEnsemble(first, last, sizes["members"], tuple(hidden))


_NETWORKS = [
    _by_sizes(ClassifierNet, _classifier_sizes, _build_classifier),
    _by_sizes(_Scaled, lambda net, out: _classifier_sizes(net.net, out),
              lambda sizes: _Scaled(_build_classifier(sizes), 0.0, 1.0)),
    _by_sizes(LatentEnsemble, _ensemble_sizes, _build_ensemble)]


# -------------------------------------------------------------------------- modules around other things
def _by_parts(cls: type[nn.Module], parts: Mapping[str, Any], check: Callable[[Any], bool]) -> Kind:
    """A kind for modules that are made of `parts`: modules, buffers and plain attributes."""

    def take(module: nn.Module, out: Writer, where: str, slot: str) -> dict[str, Any]:
        strange = {name for name in vars(module) if name not in vars(nn.Module()) and name not in parts}
        if strange:
            raise TypeError(f"{where}.{min(strange)} is an attribute that the file format of save() does not know.")
        return {name: out.value(getattr(module, name), f"{where}.{name}") for name in parts}

    def make(fields: dict[str, Any], read: Reader) -> nn.Module:
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        for name, hint in parts.items():
            value = read.value(fields[name])
            if hint is _USERS or (hint is _USERS_OR_NONE and value is not None):
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

    return Kind(cls, take, make)


_USERS, _USERS_OR_NONE = nn.Module, nn.Module | None
_LENT = {"network": _USERS, "shape": tuple[int, ...], "loc": float, "gain": float}


def _class_features(module: ClassFeatures) -> bool:
    count, width = module.mean.shape
    return (module.whiten.shape == (count, width, width) and module.offset.shape == (count, width)
            and len(module.distances) == count and all(own.ndim == 1 and len(own) for own in module.distances))


def _borrowed(module: _Borrowed) -> bool:
    size = (math.prod(module.latent_shape),)
    return module.loc.shape == module.scale.shape == module.inverse.shape == size


_AROUND = [
    _by_parts(ClassFeatures, {"mean": Tensor, "whiten": Tensor, "offset": Tensor, "distances": list[np.ndarray]},
              _class_features),
    _by_parts(_Borrowed, {"encoder": _USERS, "decoder": _USERS_OR_NONE, "latent_shape": tuple[int, ...], "loc": Tensor,
                          "scale": Tensor, "inverse": Tensor}, _borrowed),
    _by_parts(_Decoder, _LENT, lambda part: min(part.shape) > 0),
    _by_parts(_Encoder, _LENT, lambda part: min(part.shape) > 0),
    _by_parts(Inverter, {"generator": _Decoder, "encoder": _Encoder | None, "latent_dim": int, "options": Inversion | None,
                         "seed": int, "scale": Tensor}, lambda part: part.latent_dim == math.prod(part.generator.shape))]

_ESTIMATORS = [
    Kind(cls, take_estimator, functools.partial(make_estimator, cls))
    for cls in (*EXPLAINERS.values(), VAE, Autoencoder, Flow, GAN, Identity, PretrainedCoordinates, GeneratorCoordinates,
                ConditionalFlow, Prior)]
KINDS: dict[type, Kind] = {kind.cls: kind for kind in (*_ESTIMATORS, *_OBJECTS, *_SMALL, *_NETWORKS, *_AROUND)}
