"""``cfexplain fit``'s config file, checked."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any

from cfexplain import explainers
from cfexplain.foundation.optional import optional_import

__all__ = ["METHODS", "make_explainer", "read_config"]

METHODS = {name.removesuffix("Explainer").lower().replace("classdirection", "class_direction"): getattr(explainers, name)
           for name in explainers.__all__ if name.endswith("Explainer") and name != "CounterfactualExplainer"}
_KEYS: dict[str, tuple[str, ...]] = {  # in [explainer] they are the parameters of the method
    "data": ("path", "size", "channels", "label"), "classifier": ("file", "import", "weights", "trust"), "explainer": ()}


def read_config(path: Path, overrides: list[str]) -> dict[str, dict[str, Any]]:
    """The sections of a TOML file, with ``section.key=value`` replaced.

    Raises
    ------
    ValueError
        Not TOML, or a section or key that is unknown or missing; the message names it.
    """
    toml: Any = optional_import("tomllib" if sys.version_info >= (3, 11) else "tomli", "reading config files")
    try:
        config = toml.loads(path.read_text(encoding="utf-8"))
    except (toml.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}.") from error
    for override in overrides:
        key, equals, value = override.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (equals and dot):
            raise ValueError(f"--set {override!r} must read SECTION.KEY=VALUE, for example explainer.training_budget=0.1.")
        try:
            config.setdefault(section, {})[name] = toml.loads(f"value = {value}")["value"]
        except toml.TOMLDecodeError:  # a bare word is a string
            config[section][name] = value.strip()
    for section, entries in config.items():
        _known(section, list(_KEYS), f"section of {path}")
        if not isinstance(entries, dict):
            raise ValueError(f"{section} in {path} must be a section: [{section}].")
        for key in entries if _KEYS[section] else ():
            _known(key, list(_KEYS[section]), f"entry of [{section}] in {path}")
    if "path" not in config.get("data", {}):
        raise ValueError(f'{path} does not say where the training data are. Add [data] with path = "folder".')
    if "classifier" in config and ("file" in config["classifier"]) == ("import" in config["classifier"]):
        raise ValueError(f'[classifier] in {path} needs either file = "net.pt2" or import = "module:name".')
    # paths in a config file are relative to its folder
    for section, key in (("data", "path"), ("classifier", "file"), ("classifier", "weights")):
        if key in config.get(section, {}):
            config[section][key] = str(path.parent / config[section][key])
    return config


def make_explainer(config: dict[str, Any], classifier: Any, verbose: int) -> Any:
    """The explainer that ``[explainer]`` describes, not fitted."""
    parameters = dict(config)
    method = parameters.pop("method", "place")
    _known(method, list(METHODS), "method of [explainer]")
    cls, preset = METHODS[method], parameters.pop("preset", None)
    for name in parameters:
        _known(name, cls._get_param_names(), f"parameter of {cls.__name__} in [explainer]")
    parameters = {"verbose": verbose, **{name: tuple(value) if name in ("data_range", "image_shape") else value
                                         for name, value in parameters.items()}}
    if preset is None:
        return cls(classifier=classifier, **parameters)
    if not hasattr(cls, "preset"):
        raise ValueError(f"{cls.__name__} has no presets; leave preset out of [explainer].")
    return cls.preset(preset, classifier=classifier).set_params(**parameters)


def _known(name: str, names: list[str], what: str) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"{name!r} is no {what}; {hint}Known: {', '.join(names)}.")
