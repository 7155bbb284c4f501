"""Networks that somebody else has trained, from where they are: files on disk, a folder of diffusers, or a hub."""

from __future__ import annotations

import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from cfexplain.foundation.optional import optional_import
from cfexplain.nets.of_diffusers import OfDiffusers, is_autoencoder
from cfexplain.nets.taesd import tiny_autoencoder

__all__ = ["read_networks"]

_OF_HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # owner/model
_WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


def read_networks(encoder: str | os.PathLike, decoder: str | os.PathLike | None, *, subfolder: str | None = None,
                  download: bool = False) -> tuple[nn.Module, nn.Module | None]:
    """An encoder and a decoder, or one module with ``encode`` and ``decode`` and None.

    Parameters
    ----------
    encoder, decoder : path or str
        Two files of weights in the TAESD family's layout; or, without `decoder`, one file with both, a folder that
        diffusers has written, or the name that a model has on the hub.
    subfolder : str, optional
        Of the folder or of the hub's model: ``"vae"`` in a whole pipeline.
    download : bool
        Whether the hub may be asked for what this machine has not got.

    Raises
    ------
    FileNotFoundError
        There is no such file, or no such model on this machine while `download` is False.
    ValueError
        Weights of another layout, or half a pair.
    ImportError
        A folder or a name of the hub without the package diffusers.
    ConnectionError
        The hub cannot be reached, or does not give the model.
    """
    path = Path(encoder).expanduser()
    if decoder is not None:
        for role, half in (("encoder", path), ("decoder", Path(decoder).expanduser())):
            if half.is_dir():
                raise ValueError(f"The {role} {half} is a folder. A folder of diffusers holds both halves: pass it alone, "
                                 "PretrainedAutoencoder(folder). Of two files of weights, pass the files.")
        return _tiny((_stamp(path), _stamp(Path(decoder).expanduser())))
    if path.is_dir():
        parts = path / (subfolder or "")
        stamps = tuple(_stamp(file) for file in sorted(parts.glob("*")) if file.is_file())
        return _of_diffusers(str(path), subfolder, False, stamps), None
    if path.is_file() or path.suffix in _WEIGHTS:
        return _tiny((_stamp(path),))
    if not _OF_HUB.fullmatch(str(encoder)):
        raise FileNotFoundError(f"There is nothing at {path}: neither a file of weights ({', '.join(_WEIGHTS[:3])}) nor a "
                                "folder of diffusers, and no name of a model on the hub ('owner/model').")
    return _of_diffusers(str(encoder), subfolder, download), None


def _stamp(path: Path) -> tuple[str, int, int]:
    """A file by name and by when it was written, so that weights are read, and encoded with, once."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Expected weights of an encoder and of a decoder in the TAESD "
                                "family's layout, as two files or as one.")
    about = path.stat()
    return str(path.resolve()), about.st_mtime_ns, about.st_size


@lru_cache(maxsize=4)
def _tiny(files: tuple[tuple[str, int, int], ...]) -> tuple[nn.Module, nn.Module | None]:
    states: dict[str, Any] = {}
    for role, (name, _, _) in zip(("encoder", "decoder"), files, strict=False):
        state = _weights(name)
        if len(files) == 2 and not any(key.startswith(("encoder.", "decoder.")) for key in state):
            state = {f"{role}.{key}": value for key, value in state.items()}
        states |= state if len(files) == 1 else {k: v for k, v in state.items() if k.startswith(role)}
    try:
        encoder, decoder = tiny_autoencoder(states)
    except ValueError as error:
        turned = " It looks as if the files were the other way round: the encoder comes first." * _swapped(states)
        raise ValueError(f"{' and '.join(name for name, _, _ in files)}: {error}{turned}") from error
    # half again as fast on a CPU
    return encoder.to(memory_format=torch.channels_last), decoder.to(memory_format=torch.channels_last)  # type: ignore


def _swapped(states: dict[str, Any]) -> bool:
    """Whether the decoder's weights are an encoder's, and the encoder's a decoder's."""
    other = {"encoder": "decoder", "decoder": "encoder"}
    try:
        tiny_autoencoder({f"{other[role]}.{name}": value for role, _, name in (key.partition(".") for key in states)
                          if role in other for value in [states[f"{role}.{name}"]]})
    except ValueError:
        return False
    return True


def _weights(name: str) -> dict[str, Any]:
    try:
        if name.endswith(".safetensors"):
            return load_file(name)
        state = torch.load(name, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{name} is no state dict that can be read without running code ({type(error).__name__}). Save the "
                         "weights alone, torch.save(network.state_dict(), path), or as safetensors.") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        inside = f" of {', '.join(map(str, list(state)[:3]))}" if isinstance(state, dict) else ""
        raise ValueError(f"{name} holds a {type(state).__name__}{inside}; expected a state dict, tensors by name. Save that "
                         "alone: torch.save(network.state_dict(), path).")
    return state


@lru_cache(maxsize=4)
def _of_diffusers(name: str, subfolder: str | None, download: bool, files: tuple[Any, ...] = ()) -> nn.Module:
    """`AutoencoderTiny`, `AutoencoderKL` or another autoencoder, as its own configuration says; read once."""
    where = {"subfolder": subfolder} if subfolder else {}
    local = Path(name)
    if local.is_dir() and not (local / (subfolder or "") / "config.json").is_file():
        raise ValueError(f"{local / (subfolder or '')} has no config.json, so it is no autoencoder that diffusers has "
                         "written. Of a whole pipeline it is in a folder of its own: subfolder='vae'. Files of weights in "
                         "the TAESD family's layout are given as files.")
    diffusers = optional_import("diffusers", f"PretrainedAutoencoder({name!r})")
    try:
        config = diffusers.ConfigMixin.load_config.__func__(
            diffusers.AutoencoderTiny, name, local_files_only=not download, **where)
        kind = config.get("_class_name") if isinstance(config, dict) else None
        if not isinstance(kind, str) or not is_autoencoder(kind):
            raise ValueError(f"{name} is a {kind} of diffusers; expected an autoencoder, such as AutoencoderTiny or "
                             "AutoencoderKL. Of a whole pipeline it is in a folder: subfolder='vae'.")
        model, loaded = getattr(diffusers, kind).from_pretrained(
            name, local_files_only=not download, low_cpu_mem_usage=False, output_loading_info=True,
            use_safetensors=True, **where)  # never unpickled with code
    except (OSError, RuntimeError, json.JSONDecodeError) as error:
        reason = _reason(error)
        if local.is_dir():
            pickled = sorted(file.name for file in (local / (subfolder or "")).glob("*.bin"))
            advice = (f" {pickled[0]} is a pickle, which is not read: write safetensors, model.save_pretrained(folder)."
                      if pickled else " Write it again: model.save_pretrained(folder).")
            raise ValueError(f"{name} cannot be read as an autoencoder of diffusers: {reason}{advice}") from error
        if isinstance(error, RuntimeError):
            raise ValueError(f"{name} cannot be read as an autoencoder of diffusers: {reason}") from error
        if download:
            raise ConnectionError(f"The hub did not give {name!r}: {reason} Check the name and the network, or download it "
                                  "elsewhere and pass the folder.") from error
        raise FileNotFoundError(
            f"{name!r} is not on this machine, and nothing is downloaded unasked. Pass download=True to fetch it from the "
            "hub, or the folder or files where it is.") from error
    if absent := loaded["missing_keys"]:  # diffusers would leave them random
        raise ValueError(f"{name} lacks {len(absent)} of the weights of its {kind}, such as {min(absent)}: the file is not "
                         "whole, or of another network than config.json. Get both again from where they are published.")
    return OfDiffusers(model).eval().requires_grad_(False)


def _reason(error: BaseException) -> str:
    """The first line of an error and of what it began with, which libraries leave out of what they raise in the end."""
    said: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        lines = [line.strip() for line in str(cause).strip().splitlines()] or [type(cause).__name__]
        said.append(" ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(". ") + ".")
        cause = cause.__cause__ or cause.__context__
    first, last = said[0], said[-1]
    return first if last in first else f"{first} ({last})"
