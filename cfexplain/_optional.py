"""What a machine may lack: imports made only where they are used, with an error that says what to install, and CUDA."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

__all__ = ["no_cuda", "optional_import"]


def no_cuda() -> str:
    """The end of a sentence on what asked for CUDA: whether this torch sees a device at all."""
    return "" if torch.cuda.is_available() else ", and torch sees no CUDA device"


def optional_import(name: str, purpose: str) -> ModuleType:
    """Import `name`, or say what it is needed for and how to get it.

    Raises
    ------
    ImportError
        If the module is missing or itself fails to import (a torchvision built for another torch, say).
    """
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        package = name.partition(".")[0]
        raise ImportError(
            f"{purpose} needs the package '{package}', which could not be imported ({error}). "
            f"Install a version that fits your torch: pip install --upgrade torch {package}"
        ) from error
