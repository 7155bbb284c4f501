"""``cfexplain fit``'s config file, checked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cfexplain import explainers
from cfexplain.foundation.names import check_known
from cfexplain.foundation.optional import optional_import

__all__ = ["METHODS", "make_explainer", "read_config"]

METHODS = {name.removesuffix("Explainer").lower().replace("classdirection", "class_direction"): getattr(explainers, name)
           for name in explainers.__all__ if name.endswith("Explainer") and name != "CounterfactualExplainer"}
_KEYS: dict[str, tuple[str, ...]] = {  # in [explainer] they are the parameters of the method
    "data": ("path", "size", "channels", "label", "ignore"), "classifier": ("file", "import", "weights", "trust"),
    "explainer": ()}


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(side) is int and 1 <= side <= _LARGEST for side in value)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


_LARGEST = 2**15  # pixels of a side
_EXPECTED: dict[tuple[str, str], tuple[Callable[[Any], bool], str]] = {  # of text: any
    ("data", "size"): (_is_size, f"[height, width], two whole numbers from 1 to {_LARGEST}"),
    ("data", "channels"): (lambda value: type(value) is int and value in (1, 3), "1 (grey) or 3 (colour)"),
    ("data", "ignore"): (_are_names, 'a list of columns, ["name", …]'),
    # a text would be true whatever it says: only a real true may let a pickle run
    ("classifier", "trust"): (lambda value: isinstance(value, bool), "true or false, without quotes")}


def read_config(path: Path, overrides: list[str]) -> dict[str, dict[str, Any]]:
    """The sections of a TOML file, with ``section.key=value`` replaced; of a folder or file of data the defaults for it.

    Raises
    ------
    ValueError
        Not TOML, or a section or key that is unknown or missing; the message names it.
    """
    toml: Any = optional_import("tomllib" if sys.version_info >= (3, 11) else "tomli", "reading config files")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}. Expected a config file in TOML (`cfexplain fit --help` shows "
                                "one), or training data: a folder of images with one subfolder a class, an .npz, or a .csv.")
    try:
        if path.is_dir() or path.suffix.lower() in (".npz", ".csv"):
            config: dict[str, Any] = {"data": {"path": path.resolve().name}}
            path = path.resolve()
        else:
            config = toml.loads(path.read_text(encoding="utf-8"))
    except (toml.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}.") from error
    for override in overrides:
        key, equals, value = override.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (equals and dot and name):
            raise ValueError(f"--set {override!r} must read SECTION.KEY=VALUE, for example explainer.training_budget=0.1.")
        entries = config.setdefault(section, {})
        if isinstance(entries, dict):
            entries[name] = _value(value)
    for section, entries in config.items():
        check_known(section, list(_KEYS), f"section of {path}")
        if not isinstance(entries, dict):
            raise ValueError(f"{section} in {path} must be a section: [{section}].")
        for key, value in entries.items() if _KEYS[section] else ():
            check_known(key, list(_KEYS[section]), f"entry of [{section}] in {path}")
            fits, expected = _EXPECTED.get((section, key), (_is_text, "a text in quotes"))
            if not fits(value):
                raise ValueError(f"{key} = {value!r} in [{section}] of {path}: expected {expected}.")
    if "path" not in config.get("data", {}):
        raise ValueError(f'{path} does not say where the training data are. Add [data] with path = "folder".')
    if "classifier" in config and ("file" in config["classifier"]) == ("import" in config["classifier"]):
        raise ValueError(f'[classifier] in {path} needs either file = "net.pt2" or import = "module:name".')
    # paths in a config file are relative to its folder
    for section, key in (("data", "path"), ("classifier", "file"), ("classifier", "weights")):
        if key in config.get(section, {}):
            config[section][key] = str(path.parent / config[section][key])
    return config


def _value(text: str) -> Any:
    """What is set on the command line, as TOML reads it; a bare word is a text."""
    toml: Any = optional_import("tomllib" if sys.version_info >= (3, 11) else "tomli", "reading config files")
    try:
        return toml.loads(f"value = {text}")["value"]
    except (toml.TOMLDecodeError, RecursionError):
        return text.strip()


def make_explainer(config: dict[str, Any], classifier: Any, verbose: int | str) -> Any:
    """The explainer that ``[explainer]`` describes, not fitted."""
    parameters = dict(config)
    method = parameters.pop("method", "place")
    check_known(method, list(METHODS), "method of [explainer]")
    cls, preset = METHODS[method], parameters.pop("preset", None)
    if "classifier" in parameters:
        raise ValueError('classifier is a section of its own: [classifier] with file = "net.pt2" or import = "module:name".')
    for name in parameters:
        check_known(name, ["method", "preset", *cls._get_param_names()], f"parameter of {cls.__name__} in [explainer]")
    parameters = {"verbose": verbose, **parameters}
    for name in ("data_range", "image_shape"):
        if isinstance(parameters.get(name), list):
            parameters[name] = tuple(parameters[name])
    if preset is None:
        return cls(classifier=classifier, **parameters)
    if not hasattr(cls, "preset"):
        raise ValueError(f"{cls.__name__} has no presets; leave preset out of [explainer].")
    return cls.preset(preset, classifier=classifier).set_params(**parameters)
