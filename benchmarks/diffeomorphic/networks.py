"""The networks of the benchmark, trained once and kept.

    python -m benchmarks.diffeomorphic.networks mnist-glow mnist-realnvp ...

trains those named, one after the other, without searching anything.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from benchmarks._common import CACHE, trained
from benchmarks.place_faces import smile_split
from cfexplain.coordinates import Flow
from cfexplain.datasets import load_mall, load_mnist, load_pneumonia

MALL_TRAIN, QUICK_ROWS = 1620, 600

# Architecture and budget of each flow; what is not named is the package's default.
FLOWS: dict[str, dict[str, Any]] = {
    "mnist-glow": dict(architecture="glow", training_budget=1.0),
    "mnist-realnvp": dict(architecture="realnvp", training_budget=1.0),
    "faces-glow": dict(architecture="glow", levels=3, steps=8, hidden=64, n_bits=5, batch_size=32, training_budget=0.5),
    "xray-glow": dict(architecture="glow", training_budget=0.4),
    "mall-glow": dict(architecture="glow", levels=3, steps=8, hidden=64, n_bits=5, batch_size=32, training_budget=0.3),
}


def training_images(data: str) -> np.ndarray:
    """float32 in [0, 1], (n, H, W) or (n, C, H, W): what the flow of `data` learns from."""
    if data == "mnist":
        return load_mnist(size=28)[0]
    if data == "faces":
        faces = smile_split()[0]
        return np.concatenate([faces, faces[..., ::-1]])  # a mirrored face is a face
    if data == "xray":
        return load_pneumonia()[0]
    return load_mall()[0][:MALL_TRAIN]


def flow(name: str, quick: bool = False) -> Flow:
    """The trained flow `name`; a small one that has seen little if `quick`."""
    config = dict(FLOWS[name])
    if quick:
        config |= {"training_budget": 0.003, "steps": 3, "hidden": 24}
    key = f"flow-{name}" + ("-quick" if quick else "")
    CACHE.mkdir(exist_ok=True)
    unfitted = Flow(**config, random_state=0, verbose=1, checkpoint=CACHE / f"{key}.checkpoint")
    return trained(key, config, lambda: unfitted.fit(training_images(name.split("-")[0])[:QUICK_ROWS if quick else None]))


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        made = flow(wanted)
        print(wanted, [round(float(epoch["valid_loss"]), 4) for epoch in made.history_], flush=True)
