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
import torch

HERE = Path(__file__).parent
CACHE, RESULTS = HERE / ".cache", HERE / "results"


def trained(name: str, config: dict[str, Any], train: Callable[[], Any]) -> Any:
    """`train()`, or what it returned the last time that this name and configuration were asked for."""
    key = hashlib.sha256(json.dumps(config, sort_keys=True, default=repr).encode()).hexdigest()[:12]
    file = CACHE / f"{name}-{key}.joblib"
    if file.exists():
        print(f"[reusing {name} trained before: {file.name}]", flush=True)
        return joblib.load(file)
    print(f"[training {name} ...]", flush=True)
    started = time.perf_counter()
    made = train()
    print(f"[trained {name} in {time.perf_counter() - started:.0f} s]", flush=True)
    CACHE.mkdir(exist_ok=True)
    joblib.dump(made, file)
    return made


def machine() -> dict[str, Any]:
    """Versions and machine, stored beside every figure."""
    packages = ("cfexplain", "torch", "scikit-learn", "zuko", "skorch", "numpy")
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor())
    return {"versions": {name: version(name) for name in packages}, "python": platform.python_version(), "cpu": cpu,
            "cores": os.cpu_count(), "torch_threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def store(name: str, result: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps({"machine": machine(), **result}, indent=1, default=float) + "\n")
    print(f"[stored {file.relative_to(HERE.parent)}]")
