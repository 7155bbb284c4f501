"""The batched search against a loop over images, interleaved in one process: medians and ratios.

    python -m benchmarks.search_speed [--repeats 7]

The loop is what published code does: one image, ``torch.optim.Adam`` (or the same normalized step), a look at the
numbers every step. It runs on the first images of the batch and is scaled by gradient steps, which both count.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks._common import machine, store
from benchmarks.place_mnist import explainers
from cfexplain import PLACEExplainer
from cfexplain.datasets import load_mnist
from cfexplain.explainers._run import Run
from cfexplain.search._updates import UPDATES


def one_image_loop(explainer: PLACEExplainer, x: np.ndarray, target: int, limit: int) -> tuple[float, int]:
    """Seconds and evaluations of a plain loop over the images: the same networks, terms and stopping rule, eager.

    Encoding and thresholds are not timed, which favours the loop; nor does it refine.
    """
    run, seconds, steps = Run(explainer, record_path=False), 0.0, 0
    update, step = UPDATES[run.options.update], run.options.step_size
    source = np.searchsorted(explainer.classes_, explainer.predict(x))
    goal = np.full(len(x), list(explainer.classes_).index(target))
    with explainer.classifier_.frozen():
        for i in range(len(x)):
            rows, z = run.prepare(x[i : i + 1, None], source[i : i + 1], goal[i : i + 1])
            first, second, best, since = torch.zeros_like(z), torch.zeros_like(z), float("inf"), 0
            started = time.perf_counter()
            for k in range(limit):
                found = run.objective.evaluate(run.point(z.requires_grad_(), rows))
                (gradient,) = torch.autograd.grad(found.loss.sum(), z)
                steps += 1
                since = 0 if found.loss.item() < best else since + 1
                best = min(best, found.loss.item())
                if (found.done.item() if explainer.stop == "conditions" else since > explainer.patience):
                    break
                move, first, second = update(gradient, first, second, torch.tensor([k + 1.0]))
                z = z.detach() - step * move
            seconds += time.perf_counter() - started
    return seconds, steps


def batched(explainer: PLACEExplainer, x: np.ndarray, target: int) -> tuple[float, int]:
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cf = explainer.explain(x, target)
    return time.perf_counter() - started, int(cf.n_steps.sum()) + len(x)


def compare(explainer: PLACEExplainer, x: np.ndarray, target: int, repeats: int, loop_rows: int) -> dict[str, Any]:
    ours, loop = [], []
    for _ in range(repeats):
        seconds, steps = batched(explainer, x, target)
        ours.append(len(x) / seconds)
        per_row = steps / len(x)
        seconds, steps = one_image_loop(explainer, x[:loop_rows], target, explainer.max_steps + 1)
        loop.append(steps / seconds / per_row)  # rows a second at the batch's own steps a row
    ratios = [a / b for a, b in zip(ours, loop, strict=True)]
    return {"rows": len(x), "evaluations_a_row": per_row, "rows_per_second": statistics.median(ours),
            "loop_rows_per_second": statistics.median(loop), "ratio": statistics.median(ratios),
            "ratio_min": min(ratios), "ratio_max": max(ratios), "repeats": repeats}


def against_published(ours: PLACEExplainer, paper: PLACEExplainer, x: np.ndarray, target: int, rows: int) -> dict[str, Any]:
    """End to end: our default, batched, against the published setting, one image at a time."""
    seconds, steps = one_image_loop(paper, x[:rows], target, paper.max_steps + 1)
    mine, _ = batched(ours, x, target)
    return {"published_seconds_a_row": seconds / rows, "published_steps_a_row": steps / rows, "published_rows": rows,
            "seconds_a_row": mine / len(x), "rows": len(x), "ratio": (seconds / rows) / (mine / len(x))}


def memory(explainer: PLACEExplainer, x: np.ndarray) -> dict[str, Any]:
    process = psutil.Process()
    batched(explainer, x[:64], 8)
    before, started = process.memory_info().rss, time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cf = explainer.explain(x)
    return {"rows": len(x), "resident_growth_mib": (process.memory_info().rss - before) / 2**20,
            "seconds": time.perf_counter() - started, "valid": float(cf.valid.mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--published-rows", type=int, default=4)
    options = parser.parse_args()
    X, y, X_test, y_test = load_mnist()
    ours, paper = explainers(X, y, 0, 1.0)
    ours.set_params(verbose=0)
    paper.set_params(verbose=0)
    fours = X_test[(y_test == 4) & (ours.predict(X_test) == 4)][:512]
    result: dict[str, Any] = {"threads": torch.get_num_threads(), "batched_against_loop": []}
    for n, loop_rows in ((1, 1), (64, 6), (512, 6)):
        row = compare(ours, fours[:n], 9, options.repeats, loop_rows)
        print(row, flush=True)
        result["batched_against_loop"].append(row)
    result["against_published_one_by_one"] = against_published(ours, paper, fours, 9, options.published_rows)
    print(result["against_published_one_by_one"], flush=True)
    result["memory_10000_rows"] = memory(ours, X_test)
    print(result["memory_10000_rows"], machine(), flush=True)
    store("search_speed", result)


if __name__ == "__main__":
    main()
