"""The user's own model, from a file or an import path."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

__all__ = ["load_classifier"]

_PICKLES = (".pkl", ".pickle", ".joblib", ".skops", ".pth", ".bin")


def load_classifier(spec: str, *, weights: Path | None = None, trust: bool = False) -> Any:
    """The model that `spec` names.

    Parameters
    ----------
    spec : str
        ``module:name``, of a model or of a function that makes one (the working folder is on the path); or a file of
        ``torch.export`` (.pt2) or TorchScript (.pt, .ts), which are programs: run only those that you trust. Any other
        file is a pickle, of a torch module, a skorch net or a scikit-learn estimator.
    weights : Path, optional
        A state dict for it: .safetensors, or a .pt that holds nothing but tensors.
    trust : bool
        Whether pickles may be read, which can run any code.

    Raises
    ------
    ValueError, OSError, ImportError
        There is no such model, it cannot be read, or it is a pickle that is not trusted.
    """
    if not isinstance(trust, bool):  # a text would be true whatever it says
        raise ValueError(f"trust={trust!r} must be True or False.")
    model = _imported(spec) if ":" in spec and not Path(spec).exists() else _read(Path(spec), trust)
    if weights is not None:
        if not isinstance(model, nn.Module):
            raise ValueError(f"Weights go into a torch module, but {spec} is a {type(model).__name__}.")
        if not weights.is_file():
            raise FileNotFoundError(f"There is no file {weights}. Expected a state dict: .safetensors, or a .pt of tensors.")
        try:
            tensors = weights.suffix.lower() == ".safetensors"
            state = load_file(weights) if tensors else torch.load(weights, weights_only=True)
            model.load_state_dict(state)
        except Exception as error:  # whatever a file of another kind makes the reader raise
            raise ValueError(f"The weights in {weights} do not fit {spec}, or are no state dict of tensors alone: "
                             f"{error}") from error
    return model


def _imported(spec: str) -> Any:
    module, _, name = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever the user's module makes happen
        raise ImportError(f"{spec!r} cannot be imported ({error}). Expected module:name, importable from "
                          f"{os.getcwd()}.") from error
    is_model = isinstance(found, nn.Module) or (hasattr(found, "predict") and not isinstance(found, type))
    if is_model:
        return found
    if not callable(found):
        raise TypeError(f"{spec!r} is a {type(found).__name__}; expected a model, or a function that makes one.")
    try:
        return found()
    except Exception as error:  # as above
        raise ValueError(f"{spec!r} was called without arguments to make the model, and raised {type(error).__name__}: "
                         f"{error}") from error


def _read(path: Path, trust: bool) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Expected a torch.export (.pt2) or TorchScript file, a pickle, or "
                                "module:name.")
    suffix = path.suffix.lower()
    try:
        if suffix == ".pt2":
            with _quiet("torch.export"):  # which logs a traceback beside the error that it raises
                return torch.export.load(path).module()
        if suffix not in _PICKLES:
            return torch.jit.load(path, map_location="cpu")
    except Exception as error:  # whatever a file of another kind makes the reader raise
        if suffix == ".pt2" or not trust:
            kind = "torch.export" if suffix == ".pt2" else "TorchScript"
            raise ValueError(f"{path} cannot be read as {kind}: {_first_line(error)}. A pickle needs --trust (in a "
                             "config file: trust = true); weights alone go into weights, beside an import path.") from error
    if not trust:
        raise ValueError(f"{path} is a pickle, and reading it can run any code. If you trust it, pass --trust (in a config "
                         "file: trust = true).")
    try:
        if suffix in (".pt", ".pth", ".bin"):
            model = torch.load(path, map_location="cpu", weights_only=False)
        else:
            model = importlib.import_module("joblib").load(path)
    except Exception as error:  # as above
        raise ValueError(f"{path} cannot be read as a pickle: {type(error).__name__}: {_first_line(error)}. It may be "
                         "damaged, or of classes that this Python cannot import.") from error
    if isinstance(model, dict):
        raise ValueError(f"{path} holds a state dict, not a model. Pass module:name of what makes the network, and this "
                         "file as weights.")
    return model


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
