"""The kernels and the search on a GPU, in one command under eight minutes.

    python -m benchmarks.gpu [tests flow step table search photographs] [--repeats 7] [--quick]

Needs the PLACE explainer that ``python -m benchmarks.baselines mnist`` trained, and the rows that
``python -m benchmarks.gpu.rows`` laid beside it, both in benchmarks/.cache; ``photographs`` needs no data. Compiled kernels
first pass their tests; then each is timed against what it replaces, interleaved, by CUDA events. Without a GPU it says so
and measures nothing; ``photographs --quick`` then runs small on the CPU, to see that it works, and stores that the GPU is
not measured.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import joblib
import numpy as np
import torch
from sklearn.datasets import make_classification

from benchmarks._common import CACHE, HERE, store
from benchmarks.gpu.photographs import measured
from benchmarks.speed.loops import one_image_loop
from cfexplain import PLACEExplainer
from cfexplain.density.frozen import pack
from cfexplain.explainers.run import Run
from cfexplain.ops.coupling_flow import differentiable
from cfexplain.search import SearchOptions

TESTS = ["tests/ops", "tests/search/test_slots.py"]


def milliseconds(functions: dict[str, Callable[[], Any]], repeats: int, inner: int = 10) -> dict[str, list[float]]:
    """Milliseconds a call of each function, interleaved, `repeats` times; the first round warms up."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(inner):
                function()
            end.record()
            torch.cuda.synchronize()
            if repeat:
                taken[name].append(start.elapsed_time(end) / inner)
    return taken


def against(taken: dict[str, list[float]], what: str) -> dict[str, Any]:
    """Medians of the ratios to `what`, round by round."""
    return {name: {"milliseconds": statistics.median(t),
                   "faster_by": statistics.median(a / b for a, b in zip(taken[what], t, strict=True))}
            for name, t in taken.items()}


def graphed(function: Callable[[], Any]) -> Callable[[], None]:
    """`function` as one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def place() -> tuple[PLACEExplainer, np.ndarray, np.ndarray]:
    """PLACE on MNIST, moved to the device, and the test digits."""
    file = next(iter(sorted(CACHE.glob("place-mnist-default-*.joblib"), key=lambda f: f.stat().st_mtime)[-1:]), None)
    if file is None or not (CACHE / "gpu-rows.npz").is_file():
        raise SystemExit(f"{CACHE} lacks place-mnist-default-*.joblib or gpu-rows.npz: run `python -m benchmarks.baselines "
                         "mnist` and `python -m benchmarks.gpu.rows` where the data are, and bring both along.")
    ours, device = joblib.load(file).set_params(verbose=0), torch.device("cuda")
    for part in (ours.classifier_.module, ours.coordinates_.module_, ours.density_, ours.opinions_, ours.class_features_):
        if part is not None:
            part.to(device)
    ours.device_ = ours.classifier_.device = device
    with np.load(CACHE / "gpu-rows.npz") as rows:
        return ours, rows["X"], rows["y"]


def gradient_of(log_prob: Callable, z: torch.Tensor, c: torch.Tensor) -> Any:
    return torch.autograd.grad(log_prob(z, c).sum(), z)


def inverse_and_vjp(from_base: Callable, u: torch.Tensor, c: torch.Tensor, v: torch.Tensor) -> Any:
    return torch.autograd.grad(from_base(u, c), u, v)


def tests(repeats: int) -> dict[str, Any]:
    """The suite's own tests of kernels and slots: with a GPU they run compiled."""
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *TESTS],
                         cwd=HERE.parent, capture_output=True, text=True)
    print(run.stdout[-3000:], flush=True)
    return {"returncode": run.returncode, "summary": run.stdout.strip().splitlines()[-1] if run.stdout.strip() else ""}


def flow(repeats: int) -> dict[str, Any]:
    """K2: log density and gradient of the conditional flow, and its inverse with a vector-Jacobian product, against zuko
    eager and zuko in a graph."""
    from cfexplain.ops.coupling_flow.triton import prepare

    ours, _, _ = place()
    module = ours.density_.flow_
    packed, result, inverses = pack(module), [], []
    for n in (64, 512, 2048, 4096):
        z = torch.randn(n, len(module.loc), device="cuda", requires_grad=True)
        c = torch.randint(0, module.n_classes, (n,), device="cuda")

        zuko, by_hand = (partial(gradient_of, log_prob, z, c) for log_prob in (
            module.log_prob, partial(differentiable.log_prob, packed)))
        functions: dict[str, Callable[[], Any]] = {"zuko": zuko, "zuko, graph": graphed(zuko), "packed": by_hand}
        for precision in ("float32", "tf32", "bfloat16"):
            functions[f"K2, {precision}"] = partial(prepare(packed, precision).logp_and_grad, z.detach(), c)
        result.append({"rows": n, **against(milliseconds(functions, repeats), "zuko")})
        print(result[-1], flush=True)
        ways = {"zuko": module.from_base, "packed": partial(differentiable.from_base, packed)} | {
            f"K2, {precision}": partial(differentiable.from_base, prepare(packed, precision))
            for precision in ("float32", "tf32", "bfloat16")}
        functions = {name: partial(inverse_and_vjp, way, z, c, torch.randn_like(z)) for name, way in ways.items()}
        functions["zuko, graph"] = graphed(functions["zuko"])
        inverses.append({"rows": n, **against(milliseconds(functions, repeats), "zuko")})
        print(inverses[-1], flush=True)
    return {"flow": result, "inverse": inverses}


def step(repeats: int) -> dict[str, Any]:
    """K1: what follows the gradient, in one launch, against the same in plain torch."""
    from cfexplain.ops.search_step import Slots, step_slots
    from cfexplain.ops.search_step.triton import StepKernel

    result = []
    for n, d in ((512, 64), (4096, 64), (512, 784)):
        start = torch.randn(n, d, device="cuda")
        options = SearchOptions(max_steps=10**6, refine=4)
        slots = {name: Slots.fill(start, start, n) for name in ("torch", "K1")}
        gradient, loss = torch.randn(n, d, device="cuda"), torch.rand(n, device="cuda")
        never = torch.zeros(n, dtype=torch.bool, device="cuda")
        kernel = StepKernel(slots["K1"], options)
        taken = milliseconds({
            "torch": lambda s=slots["torch"], g=gradient, v=loss, o=never, p=options: step_slots(s, g, v, v, o, o, p),
            "K1": lambda k=kernel, g=gradient, v=loss, o=never: k(g, v, v, o, o)}, repeats)
        result.append({"rows": n, "d": d, **against(taken, "torch")})
        print(result[-1], flush=True)
    return {"step": result}


def searches(explainer: PLACEExplainer, x: np.ndarray, target: Any,
             backends: tuple[str, ...]) -> dict[str, Callable[[], Any]]:
    """The search alone, without encoding and judging, as each backend goes about it; by the name that it gives itself."""
    goal, functions = explainer.goal(x, target), {}
    for backend in backends:
        run = Run(explainer, backend=backend)
        searching = run.evaluator(run.engine(x))
        rows, start = run.prepare(x, goal)
        functions[searching.engine.backend] = partial(
            searching.engine.search, searching.evaluate, start, rows["z0"], rows, run.options, None)
    return functions


def table(repeats: int) -> dict[str, Any]:
    """K4: the search of a table in one launch, against the other backends."""
    X, y = make_classification(4096, 16, n_informative=10, n_classes=2, random_state=0)
    X = X.astype(np.float32)
    ours, result = PLACEExplainer(device="cuda", random_state=0, sparse=False).fit(X, y), []
    with ours.classifier_.frozen():
        for n in (64, 512, 4096):
            functions = searches(ours, X[:n], None, ("eager", "packed", "graph", "triton"))
            steps = {name: function().n_steps for name, function in functions.items()}
            rows = against(milliseconds(functions, repeats, inner=1), "graph")
            for name, taken in steps.items():
                rows[name]["same_steps_as_eager"] = float((taken == steps["eager"]).float().mean())
            result.append({"rows": n, **rows})
            print(result[-1], flush=True)
    return {"table": result}


def search(repeats: int) -> dict[str, Any]:
    """Whole searches by every backend, against the one-image loop on the same device; 10,000 digits end to end."""
    ours, X, y = place()
    ours.set_params(refine=0)
    fours = X[(y == 4) & (ours.predict(X) == 4)]
    seconds, steps = one_image_loop(ours, fours[:4], 9, ours.max_steps + 1)
    result: dict[str, Any] = {"loop_rows_per_second": 4 / seconds, "loop_steps": steps, "search": []}
    for n in (512, 4096):
        x = np.concatenate([fours] * -(-n // len(fours)))[:n]
        backends = ("eager", "packed", "graph", "triton")
        found: dict[str, Any] = {}
        functions = {backend: partial(explain_into, found, ours, x, backend) for backend in backends}
        rows = against(milliseconds(functions, repeats, inner=1), "eager")
        for backend in backends:
            rows[backend] |= {"valid": float(found[backend].valid.mean()), "backend": found[backend].backend,
                              "same_steps_as_eager": float((found[backend].n_steps == found["eager"].n_steps).mean()),
                              "times_one_image_loop": n / (rows[backend]["milliseconds"] / 1000) * seconds / 4}
        result["search"].append({"rows": n, **rows})
        print(result["search"][-1], flush=True)
    (end_to_end,) = milliseconds({"all": lambda: ours.explain(X)}, 1, inner=1).values()
    return {**result, "seconds_10000_rows": end_to_end[0] / 1000, "peak_mib": torch.cuda.max_memory_allocated() / 2**20}


def explain_into(found: dict[str, Any], explainer: PLACEExplainer, x: np.ndarray, backend: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found[backend] = explainer.explain(x, 9, backend=backend)


def photographs(repeats: int) -> dict[str, Any]:
    """A step and a whole search on photographs; see `benchmarks.gpu.photographs`."""
    result: dict[str, Any] = {"photographs": []}
    for side in (112, 224):
        result["photographs"].append(measured("cuda", side=side, repeats=repeats))
        print(result["photographs"][-1], flush=True)
    return result


def quick_photographs() -> dict[str, Any]:
    """The same on a CPU, of sizes that tell that it runs and nothing more."""
    return {"photographs": "not measured: torch sees no CUDA device",
            "quick, to see that it runs": measured("cpu", side=32, rows=2, learned=24, repeats=1)}


EXPERIMENTS = {"tests": tests, "flow": flow, "step": step, "table": table, "search": search, "photographs": photographs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=list(EXPERIMENTS), help=f"of {', '.join(EXPERIMENTS)}; default: all")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="without a GPU: photographs, small, on the CPU")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        if options.quick and options.names == ["photographs"]:
            store("gpu_photographs", quick_photographs())
            return
        raise SystemExit("torch sees no CUDA device: nothing is measured. `photographs --quick` runs on the CPU.")
    failed = []
    for name in options.names:
        try:
            store(f"gpu_{name}", EXPERIMENTS[name](options.repeats))
        except Exception as error:  # the other experiments still run, and this one is reported
            failed.append(name)
            print(f"{name} FAILED: {type(error).__name__}: {error}", flush=True)
            store(f"gpu_{name}", {"failed": f"{type(error).__name__}: {error}"})
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
