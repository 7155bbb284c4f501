"""What a machine may lack: imports made only where they are used, with an error that says what to install, and CUDA."""

from __future__ import annotations

import importlib
import re
import sys
from types import ModuleType
from typing import Any

import torch

__all__ = ["check_device", "import_triton", "is_instance", "no_cuda", "optional_import"]

_PACKAGES = {"PIL": "pillow", "sklearn": "scikit-learn", "torch_fidelity": "torch-fidelity"}  # as pip calls them

# The first with tensor descriptors made on the host
TRITON = (3, 4)


def no_cuda() -> str:
    """The end of a sentence on what asked for CUDA: whether this torch sees a device at all."""
    return "" if torch.cuda.is_available() else ", and torch sees no CUDA device"


def check_device(device: Any) -> torch.device:
    """`device` as torch knows it, if this machine has it.

    Raises
    ------
    ValueError
        There is no such device here.

    >>> check_device("cpu")
    device(type='cpu')
    >>> check_device("gpu")
    Traceback (most recent call last):
    ValueError: device='gpu' is no device that torch knows. Use 'cpu', 'cuda' or 'cuda:0'.
    """
    try:
        known = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r} is no device that torch knows. Use 'cpu', 'cuda' or 'cuda:0'.") from error
    if known.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={str(known)!r} was asked for, but this torch sees no CUDA device. Use device='cpu'.")
    try:
        torch.zeros(1, device=known).cpu()
    except Exception as error:  # each kind of device has its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"device={str(known)!r} cannot be used on this machine ({reason}). Use device='cpu'.") from error
    return known


def import_triton(purpose: str) -> ModuleType:
    """Triton, in a version that the kernels are written for.

    Raises
    ------
    ImportError
        If it is missing or older.
    """
    triton = optional_import("triton", purpose)
    version = getattr(triton, "__version__", "0")
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < TRITON:
        raise ImportError(f"{purpose} needs triton {TRITON[0]}.{TRITON[1]} or later, but {version} is installed. Each torch "
                          "comes with its own (torch 2.8 with 3.4): pip install --upgrade torch triton")
    return triton


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
        top = name.partition(".")[0]
        package = _PACKAGES.get(top, top)
        needs = f"{purpose} needs the package '{package}', which"
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == top:
            raise ImportError(f"{needs} is not installed: pip install {package}") from error
        fix = ("torch and torchvision must be built for each other: `cfexplain doctor` says how to get both"
               if "torchvision" in str(error) else f"try pip install --upgrade {package}; `cfexplain doctor` says what else "
               "does not work")
        raise ImportError(f"{needs} could not be imported ({error}). {fix[0].upper()}{fix[1:]}.") from error


def is_instance(value: Any, module: str, *names: str) -> bool:
    """Whether `value` is an instance of one of the classes `names` of `module`, which is not imported for it.

    Where the module was never imported, nobody can have made an instance.

    >>> is_instance(1, "a_package_that_is_not_loaded", "Class"), is_instance(1, "builtins", "int")
    (False, True)
    """
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, tuple(getattr(loaded, name) for name in names))
