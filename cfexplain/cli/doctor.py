"""``cfexplain doctor``: what this machine has, and what it lacks; for a bug report to quote."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from cfexplain import __version__
from cfexplain.foundation.precision import computes_in_bfloat16, faster_in_bfloat16, has_matrix_units

__all__ = ["run_doctor"]

_REQUIRED = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "skorch", "zuko", "lpips", "captum", "torchmetrics",
             "safetensors", "joblib", "matplotlib", "tqdm")
_OPTIONAL = {"pandas": "tables, to_frame(), pipelines of DataFrames", "diffusers": "pretrained autoencoders from its hub",
             "dask": "explain_to and transform of Dask arrays", "triton": "kernels of the search on a GPU",
             "tomli": "config files before Python 3.11"}


def run_doctor() -> int:
    """Print it; 1 if something that the package needs does not work."""
    print(f"cfexplain     {__version__} in {Path(__file__).parents[1]}")
    print(f"Python        {platform.python_version()} ({sys.executable}), {platform.platform()}")
    broken = []
    for name in _REQUIRED:
        problem = _problem(name)
        print(f"{name:13} {_version(name)}{'' if problem is None else f'   DOES NOT WORK: {problem}'}")
        broken += [] if problem is None else [name]
    for name, purpose in _OPTIONAL.items():
        if name != "tomli" or sys.version_info < (3, 11):
            print(f"{name:13} {_version(name, f'not installed ({purpose})')}")
    print(f"\nprocessor     {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads; {_bfloat16()}")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count()))
        print(f"CUDA          {torch.version.cuda}: {names}")
    else:
        built = f"torch is built for CUDA {torch.version.cuda}, and sees no device" if torch.version.cuda else (
            "torch is built for the CPU alone")
        print(f"CUDA          none: {built}. Everything runs on the CPU.")
    if "torchvision" in broken or "lpips" in broken:
        print("\ntorch and torchvision must be built for each other. With torch's CPU build from its own index, take both "
              "from there:\n  pip install --upgrade torch torchvision --index-url https://download.pytorch.org/whl/cpu\n"
              "Only perceptual distances (LPIPS) and FID need torchvision; all else works without it.")
    print("\nAll that cfexplain needs works." if not broken else f"\nNot all works: {', '.join(broken)}.")
    return int(bool(broken))


def _version(name: str, absent: str = "not installed") -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return absent


def _problem(name: str) -> str | None:
    """Why it cannot be imported, in one line."""
    try:
        importlib.import_module({"scikit-learn": "sklearn"}.get(name, name))
    except Exception as error:  # a binary of another torch raises what it likes
        return (str(error).splitlines() or [type(error).__name__])[0]
    return None


def _bfloat16() -> str:
    """What is computed in bfloat16 by itself here; tried, as `fit` and a search do."""
    if not computes_in_bfloat16("cpu"):
        return "no bfloat16: precision='bfloat16' would be slower"
    if has_matrix_units("cpu"):
        return "bfloat16 in matrix units (AMX): large images are searched and learned from in it"
    return "bfloat16, no matrix units (AMX): " + (
        "faster than float32, and images are learned from in it" if faster_in_bfloat16("cpu")
        else "slower than float32 here, and used only if asked for")
