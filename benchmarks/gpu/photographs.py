"""Photographs on a device: what a step and a whole search cost in the latents of an autoencoder of TAEF2's sizes.

Time and memory depend on sizes and on the number of steps alone, so that pictures and classifier are made up and the
autoencoder's weights are random: no data has to be brought to the machine.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torchvision.models import resnet34

from benchmarks.cost_256 import peak_mib, step_of
from cfexplain import PLACEExplainer
from cfexplain.coordinates import PretrainedAutoencoder
from cfexplain.foundation.random import seeded_torch
from cfexplain.nets.taesd import TinyDecoder, TinyEncoder

__all__ = ["measured"]

# (kind, channels before, after) of TAEF2's layers, as its published weights say
_PLAIN, _POOLED, _HALVED = (3, 64, 64), (256, 64, 64), (2, 64, 64)
ENCODER = sum(((1, 3, 64), _PLAIN, _HALVED, *[_PLAIN] * 3, _HALVED, *[_PLAIN] * 3, _HALVED, *[_POOLED] * 3, (1, 64, 32)), ())
DECODER = sum(((1, 32, 64), *[_POOLED] * 3, _HALVED, *[_PLAIN] * 3, _HALVED, *[_PLAIN] * 3, _HALVED, _PLAIN, (1, 64, 3)), ())


def measured(device: str, *, side: int = 112, rows: int = 64, learned: int = 512, repeats: int = 7) -> dict[str, Any]:
    """Seconds of `fit`, of a step of `rows` pictures together, and of a picture in a whole search; highest memory."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, learned)
    X = (rng.random((learned, 3, side, side)) * 0.5 + 0.4 * y[:, None, None, None]).astype(np.float32)
    with seeded_torch(0):
        net, encoder, decoder = resnet34(num_classes=2), TinyEncoder(ENCODER), TinyDecoder(DECODER)
    halves = [half.to(device, memory_format=torch.channels_last).eval() for half in (encoder, decoder)]
    place = PLACEExplainer(net.to(device).eval(), coordinates=PretrainedAutoencoder(*halves), training_budget=0.02,
                           device=device, random_state=0, max_steps=16, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing here can draw well, or reach a target of a network that knows nothing
        fit = timed(lambda: place.fit(X, y), device)
        with place.classifier_.frozen():
            step = step_of(place, X[:rows])
            steps = [timed(step, device) for _ in range(repeats + 1)][1:]
        found: list[Any] = []
        whole = timed(lambda: found.append(place.explain(X[:rows])), device)
    return {"device": torch.cuda.get_device_name() if device == "cuda" else device, "side": side, "rows_together": rows,
            "fit_seconds": fit, "fit_rows": learned, "milliseconds_a_step": 1000 * statistics.median(steps),
            "seconds_a_picture": whole / rows, "steps": float(found[0].n_steps.mean()), "peak_mib": peak_mib(device)}


def timed(function: Callable[[], Any], device: str) -> float:
    started = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
