"""The batched search against what it replaces, interleaved in one process: medians of ratios.

    python -m benchmarks.speed [digits published table diffeomorphic scaling] [--repeats 7] [--quick]

The loop is what published code does: one image, a look at the numbers every step. It runs on the first images of the batch
and is scaled by gradient steps, which both count. All compute with one thread, but where the name says with how many.
What is stored says whether the processor has matrix units for bfloat16 (AMX), and how busy it was. Needs ``mnist.npz``
in ``$CFEXPLAIN_DATA``; networks are kept.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.datasets import make_classification
from sklearn.frozen import FrozenEstimator

from benchmarks._common import machine, store, trained
from benchmarks.diffeomorphic.images import load_case
from benchmarks.diffeomorphic.networks import flow
from benchmarks.speed.loops import flops_of_a_step, one_image_loop, sgemm_peak, whole_batch_loop
from benchmarks.speed.scaling import against_latent, against_rows, against_side
from cfexplain import DiffeomorphicExplainer, PLACEExplainer
from cfexplain.datasets import load_mnist

CORES = os.cpu_count() or 1
BACKENDS: dict[str, dict[str, Any]] = {"eager": {"backend": "eager"}, "packed": {"backend": "packed"},
                                       "packed, bfloat16": {"backend": "packed", "precision": "bfloat16"}}
ON_ALL_CORES = {f"{name}, {CORES} threads": {**options, "threads": CORES} for name, options in BACKENDS.items()
                if name != "eager"}


def batched(explainer: Any, x: np.ndarray, target: Any, threads: int = 1, **options: str) -> tuple[float, int, Any]:
    """Seconds, evaluations and results of one call of ``explain``, which may use so many threads."""
    torch.set_num_threads(threads)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cf = explainer.explain(x, target, **options)
    seconds = time.perf_counter() - started
    torch.set_num_threads(1)
    return seconds, int(cf.n_steps.sum()) + len(x), cf


def spread(ratios: list[float]) -> dict[str, float]:
    return {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "repeats": len(ratios)}


def compare(explainer: Any, x: np.ndarray, target: Any, repeats: int, loop_rows: int,
            backends: dict[str, dict[str, Any]] = BACKENDS) -> dict[str, Any]:
    """Rows a second of each backend over those of the loop at the same number of evaluations a row."""
    if hasattr(explainer, "refine"):
        explainer.set_params(refine=0)  # bisections need no gradient: a step would not be a step
    ratios: dict[str, list[float]] = {name: [] for name in backends}
    found, loops, per_row = {}, [], {}
    limit = explainer.max_steps + 1
    for repeat in range(repeats + 1):
        seconds, steps = one_image_loop(explainer, x[:loop_rows], target, limit)
        for name, options in backends.items():
            took, evaluations, found[name] = batched(explainer, x, target, **options)
            per_row[name] = evaluations / len(x)
            if repeat:  # the first round warms up
                loop = steps / seconds / per_row[name]
                loops.append(loop)
                ratios[name].append(len(x) / took / loop)
    eager = found["eager"]
    return {"rows": len(x), "loop_rows_per_second": statistics.median(loops), "repeats": repeats, "backends": {
        name: {**spread(r), "evaluations_a_row": per_row[name],
               "valid": float(found[name].valid.mean()),
               "density_percentile": float(np.median(found[name].density_percentile)),
               "steps": float(np.median(found[name].n_steps)),
               "same_steps_as_eager": float((found[name].n_steps == eager.n_steps).mean()),
               "same_validity_as_eager": float((found[name].valid == eager.valid).mean())}
        for name, r in ratios.items()}}


def digits(repeats: int, quick: bool) -> dict[str, Any]:
    """PLACE on MNIST against the one-image loop, at 1, 64 and 512 rows; and against batches that nothing leaves."""
    ours, x = place(quick)
    result: dict[str, Any] = {"threads": torch.get_num_threads(), "against_one_image_loop": []}
    for n in (1, 64) if quick else (1, 64, 512):
        result["against_one_image_loop"].append(
            compare(ours, x[:n], 9, repeats, min(n, 6), {**BACKENDS, **(ON_ALL_CORES if n >= 64 else {})}))
        print(result["against_one_image_loop"][-1], flush=True)
    some, alternatives = x[:64], {}
    for name, compiled in (("eager batch, no row leaves", False), ("the same, torch.compile", True)):
        ratios = []
        for _ in range(repeats):
            try:
                loop, _ = whole_batch_loop(ours, some, 9, ours.max_steps, compiled=compiled)
            except Exception as error:  # what torch.compile cannot do is a result, too
                alternatives[name] = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
                break
            ratios.append(loop / batched(ours, some, 9, backend="packed")[0])
        else:
            alternatives[name] = {"rows": len(some), **spread(ratios)}
        print(name, alternatives[name], flush=True)
    # of the whole call, encoding and judging included, by the flops of the eager step
    flops, shares = flops_of_a_step(ours, x[:64], 9), []
    for _ in range(repeats):
        seconds, evaluations, _ = batched(ours, x, 9, backend="packed")
        shares.append(evaluations * flops / seconds / sgemm_peak())
    return {**result, "against_whole_batch": alternatives, "flops_of_a_step": flops,
            "share_of_sgemm_peak": spread(shares)}


def place(quick: bool) -> tuple[PLACEExplainer, np.ndarray]:
    """PLACE on MNIST and the 4s of the test set, at most 512; of 10,000 rows, since a step costs the same after 60,000."""
    X, y, X_test, y_test = load_mnist()
    n, budget = (3000, 0.1) if quick else (10_000, 1.0)
    ours = trained("speed-mnist", {"n": n, "budget": budget}, lambda: PLACEExplainer(
        random_state=0, training_budget=budget).fit(X[:n], y[:n]))
    return ours, X_test[(y_test == 4) & (ours.predict(X_test) == 4)][:64 if quick else 512]


def published(repeats: int, quick: bool) -> dict[str, Any]:
    """End to end: our default in one batch, against the published setting, one image at a time, on the same networks."""
    ours, x = place(quick)
    X, y = load_mnist()[:2]
    parts = dict(coordinates=FrozenEstimator(ours.coordinates_), density=FrozenEstimator(ours.density_), random_state=0)
    paper = PLACEExplainer.preset("place-mnist", classifier=ours.classifier_.module).set_params(
        perceptual_weight=0.0, **parts).fit(X[:5000], y[:5000])
    rows = 1 if quick else 2
    ways = {name: options for name, options in {**BACKENDS, **ON_ALL_CORES}.items() if name != "eager"}
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for k in range(repeats):
        seconds, steps = one_image_loop(paper, x[k * rows : (k + 1) * rows], 9, paper.max_steps + 1)
        for name, options in ways.items():
            mine, _, _ = batched(ours, x, 9, **options)
            ratios[name].append((seconds / rows) / (mine / len(x)))
        print(f"{steps / rows:.0f} published steps a row, ratios {[round(r[-1]) for r in ratios.values()]}", flush=True)
    return {"rows": len(x), "published_rows": rows * repeats,
            "backends": {name: spread(found) for name, found in ratios.items()}}


def table(repeats: int, quick: bool) -> dict[str, Any]:
    """A table of 16 columns and an MLP."""
    X, y = make_classification(4000, 16, n_informative=10, n_classes=2, random_state=0)
    ours = trained("speed-table", {"n": len(X)}, lambda: PLACEExplainer(random_state=0).fit(X.astype(np.float32), y))
    ours.set_params(sparse=False)  # the loop knows the search alone
    x = X.astype(np.float32)
    x = x[ours.predict(x) == 0][:64 if quick else 512]
    return compare(ours, x, 1, repeats, 12, {k: v for k, v in {**BACKENDS, **ON_ALL_CORES}.items() if "bfloat16" not in k})


def diffeomorphic(repeats: int, quick: bool) -> dict[str, Any]:
    """Z-search in a Glow on MNIST, and in a RealNVP of a table."""
    case = load_case("mnist", quick)
    on_images = DiffeomorphicExplainer(case.net, generator=FrozenEstimator(flow("mnist-glow", quick)), random_state=0)
    on_images.fit(case.X[:4000], case.y[:4000])
    x = case.X_test[(case.y_test == 4) & (on_images.predict(case.X_test) == 4)][:32 if quick else 512]
    backends = {"eager": BACKENDS["eager"], "packed": BACKENDS["packed"]}
    X, y = make_classification(4000, 16, n_informative=10, n_classes=2, random_state=0)
    X = X.astype(np.float32)
    on_table = trained("speed-diffeo-table", {"n": len(X)}, lambda: DiffeomorphicExplainer(random_state=0).fit(X, y))
    on_table.set_params(sparse=False)
    rows = X[on_table.predict(X) == 0][:64 if quick else 512]
    return {"mnist": compare(on_images, x, 9, repeats, 4, backends),
            "table": compare(on_table, rows, 1, repeats, 12, backends)}


def scaling(repeats: int, quick: bool) -> dict[str, Any]:
    """Seconds and memory against the number of rows, of latents and of pixels."""
    ours, X_test = place(quick)[0], load_mnist()[2]
    few, many = ((1, 10), (100,)) if quick else ((1, 10, 100, 1_000, 10_000), (100_000,))
    result: dict[str, Any] = {"threads": torch.get_num_threads(), "against_rows": []}
    for name, measure in (("against_rows", lambda: against_rows(ours, X_test, few, repeats)),
                          ("against_latent", lambda: against_latent(repeats, quick)),
                          ("against_side", lambda: against_side(repeats, quick)),
                          ("against_rows", lambda: against_rows(ours, X_test, many, repeats))):
        result[name] = result.get(name, []) + measure()
        if not quick:
            store("speed_scaling", result)  # after each, since the last ones take the better part of an hour
    return result


EXPERIMENTS = {"digits": digits, "published": published, "table": table, "diffeomorphic": diffeomorphic, "scaling": scaling}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=list(EXPERIMENTS), help=f"of {', '.join(EXPERIMENTS)}; default: all")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="tiny trainings and batches: a check, not a result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        result = EXPERIMENTS[name](1 if options.quick else options.repeats, options.quick)
        print(name, result, machine() if options.quick else "", flush=True)
        if not options.quick:
            store(f"speed_{name}", result)


if __name__ == "__main__":
    main()
