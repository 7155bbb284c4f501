"""What a counterfactual costs at 256×256: PLACE with ResNet-34 and a SqueezeNet perceptual term, a step and a search.

    python -m benchmarks.cost_256 [--device cuda] [--repeats 7]

Needs ``smiles_64.npz`` and ``squeezenet1_1_caffe.pth`` in ``$CFEXPLAIN_DATA``. Faces are enlarged; the classifier is the one
that ``benchmarks.baselines faces`` trained at 64×64, the autoencoder is trained for minutes: time and memory are measured
here, not quality. They depend on sizes only; how many steps a search takes depends on the weights, so it is stored too.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score

from benchmarks._common import store, trained
from benchmarks.place_faces import smile_split
from benchmarks.resnet import EPOCHS, train_smile_resnet
from cfexplain import PLACEExplainer
from cfexplain.coordinates import VAE
from cfexplain.explainers.run import Run
from cfexplain.perceptual import squeezenet_features

SIDE, ROWS, SEED = 256, 400, 0
TILES = (1, 8, 32)
UPDATES = 100


def enlarged(images: np.ndarray) -> np.ndarray:
    found = F.interpolate(torch.from_numpy(images)[:, None], size=SIDE, mode="bicubic", antialias=True).clamp(0, 1)
    return found[:, 0].numpy()


def explainer(X: np.ndarray, y: np.ndarray, device: str) -> PLACEExplainer:
    """PLACE on ResNet-34 with the perceptual term of eq. 5, on `X` (n, 256, 256)."""
    distance = squeezenet_features(Path(os.environ.get("CFEXPLAIN_DATA", ".")) / "squeezenet1_1_caffe.pth")
    faces, smiles = smile_split()[:2]
    net = trained("faces-resnet34", {"n": len(faces), "epochs": EPOCHS}, lambda: train_smile_resnet(faces, smiles))
    config = {"n": len(X), "side": SIDE, "device": device, "updates": UPDATES}
    vae = VAE(64, beta=1.0, likelihood="gaussian", sigma=0.1, batch_size=32, training_budget=UPDATES / 900, verbose=1)
    return trained("cost-256-place", config, lambda: PLACEExplainer(
        net.to(device), coordinates=vae, perceptual=distance, perceptual_weight=1.0, detail="blend", confidence=0.9,
        training_budget=0.2, device=device, random_state=SEED, verbose=1).fit(X, np.where(y == 1, "smile", "no smile")))


def step_of(place: PLACEExplainer, x: np.ndarray) -> Callable[[], None]:
    """One value and gradient of the whole objective for the rows `x`, together."""
    run, x = Run(place), place.read_samples(x)
    rows, z = run.prepare(x, place.goal(x, None))
    searching = run.evaluator(run.engine(x))

    def step() -> None:
        found = searching.evaluate(z.requires_grad_(), rows)
        torch.autograd.grad(found.loss.sum(), z)
        if z.is_cuda:
            torch.cuda.synchronize()

    return step


def peak_mib(device: str) -> float:
    """Highest memory so far: of the device, or resident."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rows", type=int, default=16, help="images of the whole search")
    options = parser.parse_args()
    X, y, X_test, y_test = smile_split()
    rows = np.sort(np.random.RandomState(SEED).choice(len(X), ROWS, replace=False))
    place, X_test, y_test = explainer(enlarged(X[rows]), y[rows], options.device), enlarged(X_test[:200]), y_test[:200]
    said = place.predict(X_test)
    accuracy = balanced_accuracy_score(y_test, said == "smile")
    x = X_test[said == "no smile"]
    result: dict[str, Any] = {
        "device": options.device, "side": SIDE, "balanced_accuracy_at_this_size": float(accuracy),
        "before_mib": peak_mib(options.device), "step": []}
    with place.classifier_.frozen():
        steps = {tile: step_of(place, x[:tile]) for tile in TILES}
        seconds: dict[int, list[float]] = {tile: [] for tile in TILES}
        peaks = {}
        for repeat in range(options.repeats + 1):
            for tile, step in steps.items():  # interleaved; the first round warms up
                started = time.perf_counter()
                step()
                if repeat:
                    seconds[tile].append(time.perf_counter() - started)
                peaks.setdefault(tile, peak_mib(options.device))
    alone = statistics.median(seconds[1])
    for tile in TILES:
        median = statistics.median(seconds[tile])
        row = {"rows": tile, "images_per_second": tile / median, "times_one_by_one": tile * alone / median,
               "peak_mib": peaks[tile]}
        print(row, flush=True)
        result["step"].append(row)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cf = place.set_params(batch_size=8, verbose=0).explain(x[: options.rows], target="smile")
    took = time.perf_counter() - started
    result["search"] = {
        "rows": len(cf), "rows_together": 8, "seconds_an_image": took / len(cf), "valid": float(cf.valid.mean()),
        "steps_median": float(np.median(cf.n_steps)), "steps_total": int(cf.n_steps.sum()),
        "peak_mib": peak_mib(options.device)}
    print(result["search"], flush=True)
    store("cost_256" if options.device == "cpu" else "cost_256_gpu", result)


if __name__ == "__main__":
    main()
