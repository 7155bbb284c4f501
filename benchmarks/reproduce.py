"""The papers' tables beside ours: ``python -m benchmarks.reproduce place | diffeomorphic [--quick] [--page]``.

Runs what measures them, and writes docs/reproduction.md from the JSON files: paper, ours, difference. ``--page`` only writes
the page; ``--quick`` only checks that everything runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks._common import HERE
from benchmarks.diffeomorphic.report import PAPER as DIFFEOMORPHIC
from benchmarks.report import load, made_with, table

# the first is what --quick checks
RUNS = {"place": ["benchmarks.baselines", "benchmarks.plane"], "diffeomorphic": ["benchmarks.diffeomorphic"]}
CLARITY_NOTE = "CLARITY is a re-implementation: no code is public, and the abstract leaves its recipe open."
# the paper's name of a method, and ours
METHODS = {"CLARITY": ["CLARITY"], "REVISE": ["REVISE", "REVISE, CARLA's settings"],
           "PLACE": ["PLACE", "PLACE, as published"]}
# the searches of ours that stand for the paper's
SEARCH = {"Z": "Z", "X": "X, Adam (published)"}


def compared(paper: float | None, ours: float | None, digits: int = 2) -> list[str]:
    """Three cells: paper, ours, difference."""
    cells = ["–" if value is None else f"{value:.{digits}f}" for value in (paper, ours)]
    return [*cells, "–" if paper is None or ours is None else f"{ours - paper:+.{digits}f}"]


def place(name: str, title: str) -> str:
    """Table 1 or 2 of PLACE: a line a method and measure."""
    result = load(f"baselines_{name}")
    if result is None:
        return f"## {title}\n\nNot measured yet: `python -m benchmarks.baselines {name}`.\n"
    names = list(result["pairs"][0]["methods"])

    def mean(method: str, metric: str) -> float | None:
        cells = [pair["methods"][method]["metrics"].get(metric) for pair in result["pairs"]]
        return None if None in cells else float(np.mean([cell["mean"] for cell in cells]))

    lines = []
    for printed, called in METHODS.items():
        for method in called:
            rows = ", ".join(str(pair["methods"][method]["rows"]) for pair in result["pairs"])
            for metric, of_paper, digits in (("validity", 1.0, 3), ("l2", None, 2), ("log density", None, 1)):
                paper = result["paper"][printed].get(metric, of_paper)
                lines.append([printed, method, rows, metric, *compared(paper, mean(method, metric), digits)])
    head = ["paper's method", "ours", "rows a pair", "measure", "paper", "ours", "difference"]
    parts = [f"## {title}\n", f"One autoencoder, one flow and one classifier (balanced accuracy "
             f"{result['balanced_accuracy']:.4f}) for all; mean over the pairs. L2 and nats depend on the networks: compare "
             f"signs and ratios. {CLARITY_NOTE} \"PLACE, as published\" is its objective and its steps on these "
             "networks; with an autoencoder as the paper's, see [results](results.md).\n", table(head, lines)]
    ours = {m: mean(m, "log density") for m in names}
    if None not in ours.values():
        gaps = ", ".join(f"{ours['PLACE'] - ours[m]:+.1f} over {m}" for m in ("REVISE", "CLARITY"))
        paper = result["paper"]
        wanted = ", ".join(f"{paper['PLACE']['log density'] - paper[m]['log density']:+.1f} over {m}"
                           for m in ("REVISE", "CLARITY"))
        parts.append(f"PLACE's log density, nats: {gaps}; in the paper {wanted}.\n")
    metrics = list(result["pairs"][0]["methods"][names[0]]["metrics"])
    for pair in result["pairs"]:
        rows = [[m, str(cell["rows"]),
                 *(f"{cell['metrics'][k]['mean']:.3g}" if k in cell["metrics"] else "–" for k in metrics)]
                for m, cell in pair["methods"].items()]
        parts += [f"### {pair['pair']}: all measures, means\n", table(["method", "rows", *metrics], rows)]
    parts += [f"![{title}](../benchmarks/results/baselines_{name}.png)\n", *plane(name), *clock(name), made_with(result)]
    return "\n".join(parts)


def plane(name: str) -> list[str]:
    """What of PLACE's settings another method dominates, in distance and realism."""
    result = load(f"plane_{name}")
    if result is None:
        return []
    settings = len(result["pairs"][0]["settings"])
    lines = [f"{pair['pair']}: " + ("none" if not pair["dominated_by"] else "; ".join(
        f"{k} by {', '.join(v)}" for k, v in pair["dominated_by"].items())) for pair in result["pairs"]]
    return [f"Nearer and more real at once than PLACE's default, or than one of {settings - 1} settings of its weights "
            f"({result['pairs'][0]['rows']} rows a pair)? {'. '.join(lines)}.\n",
            "![Distance and realism](../benchmarks/results/plane_" + name + ".png)\n"]


def clock(name: str) -> list[str]:
    """Time beside REVISE's, measured interleaved."""
    result = load(f"baselines_{name}_clock")
    if result is None:
        return []
    rows = [[pair["pair"], str(pair["rows"]), method, f"{1000 * cell['seconds_an_image']:.1f}",
             f"{cell['times_revise']:.2f}"] for pair in result["pairs"] for method, cell in pair["methods"].items()]
    return ["Time, interleaved in one process, medians of "
            f"{result['pairs'][0]['repeats']} (`python -m benchmarks.baselines {name} --clock`):\n",
            table(["pair", "rows", "method", "ms an image", "× REVISE"], rows)]


def diffeomorphic() -> str:
    """Tables 1 to 3 and figures 9, 11 and 12 of Diffeomorphic Counterfactuals."""
    parts = ["## Diffeomorphic Counterfactuals: Tables 1 to 3\n", "‖·‖ to the source image / to the source class. Ours in "
             "Z: the stored image encoded again, in whitened coordinates (the paper's are not).\n"]
    lines, oracle, machines = [], [], {}
    for name in ("mnist", "faces", "xray"):
        result = load(f"diffeomorphic_{name}")
        if result is None:
            lines.append([name, "not measured", *["–"] * 5])
            continue
        machines[made_with(result)] = None
        for row in found(result, SEARCH.values()):
            space = "X" if row["search"].startswith("X") else "Z"
            paper = DIFFEOMORPHIC[name][space]
            for title, key, printed in (("1: IM1", "im1", paper["im1"]), ("2: L2 in X", "l2_x", paper["l2_x"]),
                                        ("3: L2 in Z", "l2_z", paper["l2_z"])):
                ours = f"{row[key]:.3f}" if key == "im1" else f"{row[key]:.2f} / {row[f'{key}_to_class']:.2f}"
                lines.append([name, row["direction"], space, title, printed, ours, difference(printed, ours)])
            oracle.append([name, row["direction"], row["search"], f"{row['svm']:.3f}", f"{row['judge']:.3f}",
                           f"{row['neighbour_share']:.3f}"])
    parts += [table(["data", "direction", "search in", "table", "paper", "ours", "difference"], lines),
              "### Figures 9 and 11: oracle accuracy and ten nearest neighbours\n",
              "The paper draws bars without numbers; Z above X in each of them.\n",
              table(["data", "direction", "search", "SVM", "second network", "10-NN share"], oracle)]
    crowd = load("diffeomorphic_crowd")
    if crowd is not None:
        rows = [[row["direction"], row["method"], *(f"{row[k]['mean']:.2f} ± {row[k]['std']:.2f}" for k in (
            "explained", "oracle", "near_3"))] for row in crowd["table"]]
        parts += ["Crowd counting, targets 10 and 0.01:\n",
                  table(["direction", "search", "explained network", "oracle", "three nearest frames"], rows)]
    parts += ["Figure 12 (distances of each image) is Tables 2 and 3 drawn; the per-search pictures are in "
              "[diffeomorphic.md](diffeomorphic.md).\n", *machines]
    return "\n".join(parts)


def found(result: dict[str, Any], searches: Iterable[str]) -> list[dict[str, Any]]:
    wanted = set(searches)
    return [row for row in result["generators"][0]["table"] if row["search"] in wanted]


def difference(paper: str, ours: str) -> str:
    """Of two cells of numbers that are separated by slashes."""
    if "–" in paper:
        return "–"
    pairs = zip(paper.split(" / "), ours.split(" / "), strict=True)
    return " / ".join(f"{float(b) - float(a):+.2f}" for a, b in pairs)


def page() -> None:
    text = ["# The papers' tables, and ours\n", "Written by `python -m benchmarks.reproduce` from `benchmarks/results`.\n",
            place("mnist", "PLACE: Table 2 (MNIST)"), place("faces", "PLACE: Table 1 (faces)"),
            diffeomorphic()]
    file = HERE.parent / "docs" / "reproduction.md"
    file.write_text("\n".join(text))
    print(f"[wrote {file.relative_to(HERE.parent)}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paper", choices=RUNS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page")
    options = parser.parse_args()
    for module in () if options.page else RUNS[options.paper][:1 if options.quick else None]:
        subprocess.run([sys.executable, "-m", module, *(["--quick"] if options.quick else [])], check=True, cwd=HERE.parent)
    if not options.quick:
        page()


if __name__ == "__main__":
    main()
