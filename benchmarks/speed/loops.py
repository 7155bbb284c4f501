"""What the search is compared with: the loops that published code runs, on the same networks, terms and stopping rule."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from cfexplain.explainers.base import CounterfactualExplainer
from cfexplain.explainers.run import Run
from cfexplain.ops.search_step.reference import UPDATES

__all__ = ["flops_of_a_step", "one_image_loop", "sgemm_peak", "whole_batch_loop"]


def prepared(explainer: CounterfactualExplainer, x: np.ndarray, target: Any, backend: str = "eager") -> tuple[Run, Any, Any]:
    run, x = Run(explainer, backend=backend), explainer.read_samples(x)
    rows, z = run.prepare(x, explainer.goal(x, target))
    return run, rows, z


def one_image_loop(explainer: CounterfactualExplainer, x: np.ndarray, target: Any, limit: int) -> tuple[float, int]:
    """Seconds and evaluations of a plain loop over the images: eager, parameters frozen, a look at the numbers every step.

    Encoding and thresholds are not timed, which favours the loop; nor does it refine.
    """
    seconds, steps, options = 0.0, 0, Run(explainer, backend="eager").options
    update, step = UPDATES[options.update], options.step_size
    with explainer.classifier_.frozen():
        for i in range(len(x)):
            run, rows, z = prepared(explainer, x[i : i + 1], target)
            first, second, best, since = torch.zeros_like(z), torch.zeros_like(z), float("inf"), 0
            started = time.perf_counter()
            for k in range(limit):
                found = run.judge.evaluate(z.requires_grad_(), rows)
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


def whole_batch_loop(explainer: CounterfactualExplainer, x: np.ndarray, target: Any, limit: int, *, compiled: bool = False,
                     ) -> tuple[float, int]:
    """Seconds and steps of one eager batch that goes on until its last row is done: no row leaves.

    `compiled`: value and gradient by ``torch.compile``, whose compilation is not timed.
    """
    with explainer.classifier_.frozen():
        run, rows, z = prepared(explainer, x, target)

        def evaluate(z: torch.Tensor) -> Any:
            return run.judge.evaluate(z, rows)

        if compiled:
            evaluate, once = torch.compile(evaluate), z.detach().clone().requires_grad_()
            torch.autograd.grad(evaluate(once).loss.sum(), once)
        update, step = UPDATES[run.options.update], run.options.step_size
        first, second, done = torch.zeros_like(z), torch.zeros_like(z), torch.zeros(len(z), dtype=torch.bool)
        started = time.perf_counter()
        for k in range(limit):
            z = z.detach().requires_grad_()
            found = evaluate(z)
            (gradient,) = torch.autograd.grad(found.loss.sum(), z)
            done |= found.done
            if done.all():
                break
            move, first, second = update(gradient, first, second, torch.full((len(z),), k + 1.0))
            z = z.detach() - step * move
        return time.perf_counter() - started, k + 1


def flops_of_a_step(explainer: CounterfactualExplainer, x: np.ndarray, target: Any) -> float:
    """Floating-point operations of one value and gradient of one row, counted by torch in the eager networks."""
    from torch.utils.flop_counter import FlopCounterMode

    with explainer.classifier_.frozen():
        run, rows, z = prepared(explainer, x, target)
        with FlopCounterMode(display=False) as counter:  # whose hooks do not allow autograd.grad of a leaf
            run.judge.evaluate(z.requires_grad_(), rows).loss.sum().backward()
    return counter.get_total_flops() / len(x)


def sgemm_peak(size: int = 1536, repeats: int = 5) -> float:
    """Floating-point operations a second of the machine's own float32 matrix product, the best of `repeats`."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)
