"""How the search scales: seconds and memory against rows, latent size and image size.

The networks of the last two, but for the autoencoder, are trained for a tenth of the usual updates, and all of them for
fewer where images are large: a step costs what it costs whatever the weights, while the number of steps depends on them and
is not reported.
"""

from __future__ import annotations

import statistics
import threading
import time
import warnings
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F

from benchmarks._common import trained
from benchmarks.place_faces import smile_split
from benchmarks.speed.loops import flops_of_a_step, prepared, sgemm_peak
from cfexplain import PLACEExplainer
from cfexplain.coordinates import VAE
from cfexplain.datasets import load_mnist
from cfexplain.search.gradient import evaluate_tile

__all__ = ["against_latent", "against_rows", "against_side"]

BUDGET, TILE = 0.1, 32


def against_rows(ours: PLACEExplainer, X: np.ndarray, counts: tuple[int, ...], repeats: int) -> list[dict[str, float]]:
    """One call of ``explain`` for so many rows of `X`, over and over again where it has fewer."""
    ours.explain(X[:64])
    found = []
    for n in counts:
        x = np.concatenate([X] * -(-n // len(X)))[:n]
        taken = []
        with PeakMemory() as memory:
            for _ in range(repeats if n <= 1000 else 1):
                started = time.perf_counter()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    steps = int(ours.explain(x).n_steps.sum()) + n
                taken.append(time.perf_counter() - started)
        seconds = statistics.median(taken)
        found.append({
            "rows": n, "seconds": seconds, "repeats": len(taken), "milliseconds_a_row": 1e3 * seconds / n,
            "milliseconds_an_evaluation": 1e3 * seconds / steps, "input_mib": x.nbytes / 2**20, "peak_mib": memory.mib})
        print(found[-1], flush=True)
    return found


def against_latent(repeats: int, quick: bool) -> list[dict[str, float]]:
    """A step on MNIST, by the number of latents."""
    X, y, X_test, _ = load_mnist()
    n, found = 500 if quick else 10_000, []
    for latents in (16, 64) if quick else (16, 64, 256, 512):
        place = _briefly_trained(X[:n], y[:n], latents)
        found.append({"latents": latents, **_step(place, X_test[:TILE], repeats)})
        print(found[-1], flush=True)
    return found


def against_side(repeats: int, quick: bool) -> list[dict[str, float]]:
    """A step on faces, by the side of the image; 64 latents."""
    faces, smiles, test, _ = smile_split()
    found = []
    for side in (28, 64) if quick else (28, 64, 128, 256):
        X, x = (_resized(some, side) for some in (faces[:200 if quick else 1000], test[:TILE]))
        place = _briefly_trained(X, smiles[: len(X)], 64, 1.0 if side <= 64 else (32 / side) ** 2)
        found.append({"side": side, **_step(place, x, repeats)})
        print(found[-1], flush=True)
    return found


def _resized(images: np.ndarray, side: int) -> np.ndarray:
    found = F.interpolate(torch.from_numpy(images)[:, None], size=side, mode="bicubic", antialias=True)
    return found.clamp(0, 1)[:, 0].numpy()


def _briefly_trained(X: np.ndarray, y: np.ndarray, latents: int, budget: float = 1.0) -> PLACEExplainer:
    config = {"n": len(X), "shape": X.shape[1:], "latents": latents, "budget": BUDGET * budget}
    return trained("speed-scaling", config, lambda: PLACEExplainer(
        coordinates=VAE(latents, training_budget=budget), training_budget=BUDGET * budget, random_state=0,
        verbose=0).fit(X, y))


def _step(place: PLACEExplainer, x: np.ndarray, repeats: int) -> dict[str, float]:
    """Milliseconds a row of value and gradient in a full tile, and what the cost model says: operations over the machine's
    peak."""
    target = place.classes_[(np.searchsorted(place.classes_, place.predict(x)) + 1) % len(place.classes_)]
    run, rows, z = prepared(place, x, target, "packed")
    searching = run.evaluator(run.engine(place.read_samples(x)))
    engine = searching.engine
    parts = {"all": lambda z: searching.evaluate(z, rows).loss,
             "decoder_and_classifier": lambda z: engine.classifier.logits(engine.decoders[-1](z)),
             "density": lambda z: engine.log_density(z, rows["target"])}
    result: dict[str, float] = {}
    with place.classifier_.frozen(), PeakMemory() as memory:
        for name, part in parts.items():
            taken = []
            for _ in range(repeats + 2):
                started = time.perf_counter()
                if name == "all":
                    evaluate_tile(searching.evaluate, z, rows)
                else:
                    point = z.detach().requires_grad_()
                    torch.autograd.grad(part(point).sum(), point)
                taken.append(time.perf_counter() - started)
            result[f"milliseconds_{name}"] = 1e3 * statistics.median(taken[2:]) / len(x)
    flops, peak = flops_of_a_step(place, x, target), sgemm_peak()
    return {**result, "megaflops": flops / 1e6, "milliseconds_at_peak": 1e3 * flops / peak, "peak_mib": memory.mib}


class PeakMemory:
    """Most resident memory inside a block, in MiB, by a look every 50 ms: what the process held before counts too."""

    mib = 0.0

    def __enter__(self) -> PeakMemory:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.mib = max(self.mib, process.memory_info().rss / 2**20)
            if self._done.wait(0.05):
                break
