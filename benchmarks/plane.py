"""Distance against realism: is PLACE, or any setting of its weights, dominated by another method?

    python -m benchmarks.plane [mnist] [faces] [--rows 100]

After ``python -m benchmarks.baselines``, whose figures are the other methods' points. Writes
benchmarks/results/plane_mnist.json and .png, plane_faces.json and .png.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks._common import RESULTS, store
from benchmarks.baselines import load_digits_case, load_faces_case
from benchmarks.report import load
from cfexplain import Metric, compare_frontier

COLOURS = ("#E69F00", "#D55E00", "#CC79A7", "#009E73", "#56B4E9", "#F0E442", "#000000", "#999999")
WEIGHTS = {"distance_weight": (0.3, 1.0, 3.0), "plausibility_weight": (0.1, 0.3, 1.0, 3.0)}


def run(name: str, rows: int) -> dict[str, Any]:
    measured = load(f"baselines_{name}")
    if measured is None:
        raise SystemExit(f"No baselines_{name}.json: run `python -m benchmarks.baselines {name}` first.")
    case = {"mnist": load_digits_case, "faces": load_faces_case}[name](quick=False)
    said, pairs = case.place.predict(case.X_test), []
    figure = Figure(figsize=(4.2 * len(case.pairs), 4))
    for (source, target), methods, axes in zip(
            case.pairs, measured["pairs"], np.atleast_1d(figure.subplots(1, len(case.pairs))), strict=True):
        x = case.X_test[(case.y_test == source) & (said == case.label(source))][:rows]
        realism = Metric("realism", lambda cf, _, k=target: case.judges.realism(cf.x_cf, k), "up", "percentile")
        frontier = compare_frontier(case.place.set_params(verbose=0), x, case.label(target), weights=WEIGHTS, y=realism)
        others = {method: [cell["metrics"][axis]["mean"] for axis in ("l2", "realism", "validity")]
                  for method, cell in methods["methods"].items()}
        mine = {**{k: [*m, v] for k, m, v in zip(frontier.results, frontier.means.tolist(), frontier.validity, strict=True)},
                "default": others.pop("PLACE")}
        above = {k: [m for m, (l2, real, _) in others.items() if l2 <= near and real >= like and (l2, real) != (near, like)]
                 for k, (near, like, _) in mine.items()}
        best = [k for k, good in zip(frontier.results, frontier.optimal, strict=True) if good]
        pairs.append({"pair": methods["pair"], "rows": len(x), "settings": mine, "methods": others, "pareto_optimal": best,
                      "dominated_by": {k: v for k, v in above.items() if v}})
        print(methods["pair"], {k: np.round(v, 3).tolist() for k, v in (mine | others).items()}, pairs[-1]["dominated_by"],
              flush=True)
        draw(axes, methods["pair"], mine, others, best)
    figure.tight_layout()
    figure.savefig(RESULTS / f"plane_{name}.png", dpi=80)
    return {"weights": WEIGHTS, "pairs": pairs}


def draw(axes: Any, title: str, mine: dict[str, list[float]], others: dict[str, list[float]], best: list[str]) -> None:
    """Settings of PLACE as a line of the optimal ones, methods as named points; hollow where under 99 % is valid."""
    line = np.array(sorted(mine[k][:2] for k in best))
    axes.plot(*line.T, "-", color="#0072B2", lw=1, zorder=1)
    for k, (l2, real, _) in mine.items():
        axes.plot(l2, real, "*" if k == "default" else ".", color="#0072B2", ms=12 if k == "default" else 5,
                  label={"default": "PLACE, default"}.get(k))
    for (method, (l2, real, valid)), colour in zip(others.items(), COLOURS, strict=False):
        axes.plot(l2, real, "o", color=colour, mfc=colour if valid >= 0.99 else "none",
                  label=f"{method} ({valid:.2f} valid)")
    axes.set(title=title, xlabel="L2 to the image", ylabel="realism, percentile", ylim=(-3, 103))
    axes.legend(fontsize=6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=["mnist", "faces"])
    parser.add_argument("--rows", type=int, default=100)
    options = parser.parse_args()
    for name in options.names:
        store(f"plane_{name}", run(name, options.rows))


if __name__ == "__main__":
    main()
