"""How long `fit` takes, stage by stage, and what a learned start saves: 10,000 images of MNIST.

    python -m benchmarks.fitting [--rows 10000] [--explained 10000] [--part updates fit start]

"updates" times one update of each network as it is made now, and as torch and zuko make it, in turns; "fit" whole fits;
"start" the default search and a learned start on the same rows.

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
import zuko

from benchmarks._common import RESULTS, store, trained
from benchmarks.held_out_defaults import KNOWN, classifier
from cfexplain import PLACEExplainer
from cfexplain.coordinates import VAE
from cfexplain.datasets import load_digits_images
from cfexplain.density.class_flow import ClassFlow
from cfexplain.foundation.precision import faster_in_bfloat16
from cfexplain.foundation.random import seeded_torch
from cfexplain.nets import training
from cfexplain.nets.autoencoders import AutoencoderNet
from cfexplain.nets.classifiers import cnn
from cfexplain.nets.training_parts import Parts
from cfexplain.ops.coupling_flow.plain import PlainCouplings


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


def of_updates(repeats: int = 15) -> dict[str, Any]:
    """Medians of processor seconds of one update, one thread: the whole batch in float32, and as `fit` makes it."""
    torch.set_num_threads(1)
    images = torch.rand(128, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    vae = VAE()
    vae.likelihood_, vae.beta_ = "bernoulli", 0.3
    with seeded_torch(0):
        nets = {"VAE": AutoencoderNet((1, 28, 28), 32, variational=True), "classifier": cnn((1, 28, 28), 10)}
        flow = ClassFlow(zuko.flows.NICE(32, 10, transforms=6, hidden_features=(160, 160)), 32, 10)
    losses = {"VAE": (vae._loss, {"u": images}), "classifier": (
        lambda net, rows, _: torch.nn.functional.cross_entropy(net(rows["x"]).float(), rows["y"], reduction="none"),
        {"x": images, "y": torch.arange(128) % 10})}
    ways: dict[str, Callable[[], Any]] = {}
    for name, net in nets.items():
        loss, batch = losses[name]
        net.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        parts = Parts(net, loss, 128, 0, faster_in_bfloat16("cpu"), 1)
        ways[f"{name}, float32"] = lambda net=net, loss=loss, batch=batch: torch.autograd.grad(
            loss(net, batch, 1.0).mean(), list(net.parameters()))
        ways[f"{name}, as fit makes it"] = lambda parts=parts, batch=batch: parts.backward(batch, 1.0)
    z, c = torch.randn(512, 32, generator=torch.Generator().manual_seed(0)), torch.arange(512) % 10
    plain, weights = PlainCouplings(flow.flow.transform, 32), list(flow.requires_grad_(True).parameters())
    ways["flow, zuko"] = lambda: torch.autograd.grad(-flow.log_prob(z, c).mean(), weights)

    def as_fit_does() -> Any:
        u, ladj = plain(z, flow.shares(c))
        return torch.autograd.grad(-(flow.base(c).log_prob(u) + ladj).mean(), weights)

    ways["flow, as fit makes it"] = as_fit_does
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 2):
        for name, way in ways.items():
            started = time.process_time()
            way()
            taken[name].append(time.process_time() - started)
    out: dict[str, Any] = {name: float(np.median(seconds[2:])) for name, seconds in taken.items()} | {
        "load": os.getloadavg()[0]}
    print(json.dumps(out), flush=True)
    return out


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
    parser.add_argument("--part", nargs="+", choices=("updates", "fit", "start"), default=["updates", "fit", "start"])
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    file = RESULTS / "fitting.json"
    result = json.loads(file.read_text()) if file.exists() else {}
    result |= {"bfloat16": faster_in_bfloat16("cpu"), "amx": bool(torch.cpu._is_amx_tile_supported())}
    if "updates" in given.part:
        result["updates"] = of_updates()
    if "fit" in given.part:
        result["fit"] = of_fit(given.rows)
    if "start" in given.part:
        result["start"] = of_start(given.rows, given.explained)
    store("fitting", {name: value for name, value in result.items() if name != "machine"})


if __name__ == "__main__":
    main()
