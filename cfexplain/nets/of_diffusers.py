"""Autoencoders of diffusers, with the configuration that says how each is made again."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from cfexplain.foundation.optional import optional_import
from cfexplain.persistence import stored_by_configuration

__all__ = ["OfDiffusers", "autoencoder_class", "is_autoencoder"]

_BEGIN = ("Autoencoder", "AsymmetricAutoencoder")


def is_autoencoder(name: Any) -> bool:
    """Whether `name` is that of a class of autoencoders in the installed diffusers."""
    return (isinstance(name, str) and name.isidentifier() and name.startswith(_BEGIN)
            and isinstance(getattr(optional_import("diffusers", name), name, None), type))


def autoencoder_class(name: Any) -> Any:
    """The class of this name.

    Raises
    ------
    ValueError
        It is no autoencoder of diffusers.
    ImportError
        diffusers is not installed.
    """
    diffusers = optional_import("diffusers", f"An explainer in the latents of diffusers' {name}")
    if not is_autoencoder(name):
        raise ValueError(f"the class {name!r}, which is no autoencoder of diffusers {diffusers.__version__}")
    return getattr(diffusers, name)


def _configuration(network: OfDiffusers) -> dict[str, Any]:
    """Name of the class and parameters of its constructor: what diffusers writes into ``config.json``."""
    model: Any = network.model
    known = inspect.signature(type(model).__init__).parameters
    chosen = {name: value for name, value in dict(model.config).items() if name in known}
    return {"class": type(model).__name__, "parameters": json.loads(json.dumps(chosen))}


def _of(configuration: Mapping[str, Any], tensors: int) -> OfDiffusers:
    """The network that `_configuration` describes, whose weights are so many tensors."""
    cls, parameters = autoencoder_class(configuration.get("class")), configuration.get("parameters")
    if not isinstance(parameters, dict) or set(parameters) - set(inspect.signature(cls.__init__).parameters):
        raise ValueError(f"parameters of {configuration['class']} that it does not take")
    for name, value in parameters.items():
        counts = value if isinstance(value, list) else [value]
        repeats = [n for n in counts if isinstance(n, (int, float))] if "block" in name and "channels" not in name else []
        if len(counts) > tensors or sum(repeats) > tensors:  # nothing long is built of a few bytes
            raise ValueError(f"{configuration['class']} of {name}={str(value)[:60]} in {tensors} tensors")
    return OfDiffusers(cls(**parameters))


@stored_by_configuration(_configuration, _of)
class OfDiffusers(nn.Module):
    """An autoencoder of diffusers: ``encode`` and ``decode`` are its own.

    Parameters
    ----------
    model : diffusers.AutoencoderTiny, diffusers.AutoencoderKL, …
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def encode(self, x: Tensor) -> Any:
        model: Any = self.model
        return model.encode(x)

    def decode(self, z: Tensor) -> Any:
        model: Any = self.model
        return model.decode(z)
