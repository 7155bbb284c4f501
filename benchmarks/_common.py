"""What the benchmarks share: networks kept between runs, versions, results."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

HERE = Path(__file__).parent
CACHE, RESULTS = HERE / ".cache", HERE / "results"


def trained(name: str, config: dict[str, Any], train: Callable[[], Any], folder: Path | None = None) -> Any:
    """`train()`, or what it returned the last time that this name and configuration were asked for."""
    key = hashlib.sha256(json.dumps(config, sort_keys=True, default=repr).encode()).hexdigest()[:12]
    folder = CACHE if folder is None else folder
    file = folder / f"{name}-{key}.joblib"
    if file.exists():
        print(f"[reusing {name} trained before: {file.name}]", flush=True)
        return joblib.load(file)
    print(f"[training {name} ...]", flush=True)
    started = time.perf_counter()
    made = train()
    print(f"[trained {name} in {time.perf_counter() - started:.0f} s]", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(made, file)
    return made


def encoder(X: Any) -> ColumnTransformer:
    """The first step of a pipeline for the DataFrame `X`: words as zeros and ones; numbers filled in and standardised."""
    words = [name for name, dtype in X.dtypes.items() if dtype.kind not in "iuf"]
    return make_column_transformer((OneHotEncoder(handle_unknown="ignore"), words),
                                   remainder=make_pipeline(SimpleImputer(), StandardScaler()))


def machine() -> dict[str, Any]:
    """Versions and machine, stored beside every figure."""
    packages = ("cfexplain", "torch", "scikit-learn", "zuko", "skorch", "numpy")
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor())
    return {"versions": {name: version(name) for name in packages}, "python": platform.python_version(), "cpu": cpu,
            "cores": os.cpu_count(), "torch_threads": torch.get_num_threads(), "load": os.getloadavg()[0],
            "bfloat16": {"amx": _can("_is_amx_tile_supported"), "avx512_bf16": _can("_is_avx512_bf16_supported")},
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}


def _can(check: str) -> bool | None:
    """What torch says that this processor can; None where it does not know."""
    return getattr(torch.cpu, check)() if hasattr(torch.cpu, check) else None


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def store(name: str, result: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps({"machine": machine(), **result}, indent=1, default=float) + "\n")
    print(f"[stored {file.relative_to(HERE.parent)}]")


def draw_strips(pictures: dict[str, list[tuple[str, np.ndarray]]], file: Path, dpi: int = 70) -> None:
    """A strip of images (n, H, W), or (n, H, W, 3), for each search, under the title of its direction."""
    lines = [(f"{title}\n{name}" if i == 0 else name, images) for title, strips in pictures.items()
             for i, (name, images) in enumerate(strips)]
    figure = Figure(figsize=(11, 0.85 * len(lines)))
    for axes, (name, images) in zip(np.atleast_1d(figure.subplots(len(lines))), lines, strict=True):
        axes.imshow(np.concatenate(list(images), 1), cmap="gray", vmin=0, vmax=1)
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.subplots_adjust(0.2, 0.0, 1.0, 1.0, hspace=0.04)
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=dpi, bbox_inches="tight")
    if all(images.ndim == 3 for _, images in lines):  # nothing is coloured: a third of the size
        Image.open(file).convert("L").save(file, optimize=True)
