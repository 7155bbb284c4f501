"""How long `fit` takes, stage by stage, and what a learned start saves: 10,000 images of MNIST.

    python -m benchmarks.fitting [--rows 10000] [--explained 10000] [--part fit start]

Seconds of processor time (all threads together) and of the wall clock, with the load of the machine beside them; on a busy
machine only ratios within one run mean anything. Results: benchmarks/results/fitting.json.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from benchmarks._common import RESULTS, store, trained
from benchmarks.held_out_defaults import KNOWN, classifier
from cfexplain import PLACEExplainer
from cfexplain.datasets import load_digits_images
from cfexplain.foundation.precision import computes_in_bfloat16
from cfexplain.nets import training
from cfexplain.nets.classifiers import cnn


@contextmanager
def clock(times: dict[str, Any], name: str) -> Iterator[None]:
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    times[name] = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "load": os.getloadavg()[0]}


def fitted(make: Callable[[], Any], X: np.ndarray, y: np.ndarray) -> tuple[Any, dict[str, Any]]:
    """An explainer, and seconds of each training of its `fit`; stages that run side by side count each other's."""
    times: dict[str, Any] = {}
    plain = training.train_network

    @functools.wraps(plain)
    def timed(*args: Any, **options: Any) -> Any:
        with clock(times, options["name"]):
            return plain(*args, **options)

    training.train_network = timed
    try:
        with clock(times, "whole"):
            explainer = make().fit(X, y)
    finally:
        training.train_network = plain
    return explainer, times


def of_fit(rows: int) -> dict[str, Any]:
    data, (digits, labels) = KNOWN["mnist"](), load_digits_images()
    X, y = data.X[:rows], data.y[:rows]
    net = trained("fitting-net", {"rows": rows}, lambda: classifier(lambda: cnn((1, 28, 28), 10), X[:, None], y, 0, 1.0))
    cases = {"digits, nothing given": (None, digits, labels), "mnist, a network given": (net, X, y),
             "mnist, nothing given": (None, X, y)}
    out: dict[str, Any] = {}
    for name, (given, images, classes) in cases.items():
        explainer, out[name] = fitted(lambda given=given: PLACEExplainer(given, random_state=0, verbose=0), images, classes)
        density = [epoch["valid_loss"] for epoch in explainer.density_.history_]
        vae = [epoch["valid_loss"] for epoch in explainer.coordinates_.history_]
        out[name] |= {"reconstruction": explainer.reconstruction_, "vae_held_out": min(vae), "flow_held_out": min(density)}
        print(name, json.dumps(out[name], default=float), flush=True)
    return out


def of_start(rows: int, explained: int) -> dict[str, Any]:
    """The default search and a learned start on the same rows, one after the other, in turns."""
    data = KNOWN["mnist"]()
    X, y = data.X[:rows], data.y[:rows]
    net = trained("fitting-net", {"rows": rows}, lambda: classifier(lambda: cnn((1, 28, 28), 10), X[:, None], y, 0, 1.0))
    explainer = trained("fitting-place", {"rows": rows}, lambda: PLACEExplainer(net, random_state=0, verbose=0).fit(X, y))
    times: dict[str, Any] = {}
    with clock(times, "distil"):
        explainer.distil(X)
    x = data.X_test[:explained]
    for start in (0.3, "learned"):
        twin = copy.copy(explainer).set_params(start=start)
        with clock(times, f"start={start}"):
            cf = twin.explain(x)
        times[f"start={start}"] |= {
            "rows": len(x), "valid": cf.valid.mean(), "converged": (cf.status == "converged").mean(),
            "without_a_step": (cf.n_steps == 0).mean(), "steps": np.median(cf.n_steps),
            "percentile": np.median(cf.density_percentile), "distance": np.median(cf.distance),
            "distance_x": np.median(cf.distance_x)}
        print(start, json.dumps(times[f"start={start}"], default=float), flush=True)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--explained", type=int, default=10_000)
    parser.add_argument("--part", nargs="+", choices=("fit", "start"), default=["fit", "start"])
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    file = RESULTS / "fitting.json"
    result = json.loads(file.read_text()) if file.exists() else {}
    result |= {"bfloat16": computes_in_bfloat16("cpu"), "amx": bool(torch.cpu._is_amx_tile_supported())}
    if "fit" in given.part:
        result["fit"] = of_fit(given.rows)
    if "start" in given.part:
        result["start"] = of_start(given.rows, given.explained)
    store("fitting", {name: value for name, value in result.items() if name != "machine"})


if __name__ == "__main__":
    main()
