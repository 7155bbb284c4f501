"""How the search scales, drawn from the stored figures: ``python -m benchmarks.speed.picture``."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks._common import HERE
from benchmarks.report import load
from cfexplain.plotting.pictures import BLUE, GREY, VERMILLION

MEASURED = {"color": BLUE, "marker": "o", "markersize": 4, "linewidth": 1.4}
MEMORY = {"color": VERMILLION, "marker": "s", "markersize": 4, "linestyle": (0, (4, 1.5)), "linewidth": 1.2}


def draw(result: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(10.5, 3.1), layout="constrained")
    rows, latents, sides = figure.subplots(1, 3)
    _rows(rows, result["against_rows"])
    _step(latents, result["against_latent"], "latents", "latents, MNIST")
    _step(sides, result["against_side"], "side", "side of the image, faces")
    for ax, ticks in ((rows, (10, 20, 50, 100, 200)), (latents, (0.3, 1, 3)), (sides, (0.5, 5, 50, 100))):
        ax.set_ylim(ticks[0] / 1.5, ticks[-1] * 1.5)
        ax.set_yticks(ticks, [str(tick) for tick in ticks])
        ax.tick_params(axis="y", which="minor", labelleft=False)
    rows.set_ylabel("milliseconds a row, whole search", fontsize=8)
    latents.set_ylabel("milliseconds a row, one step", fontsize=8)
    sides.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def _rows(ax: Axes, points: list[dict[str, float]]) -> None:
    n = [point["rows"] for point in points]
    ax.plot(n, [point["milliseconds_a_row"] for point in points], **MEASURED)
    _logs(ax, "rows in one call, MNIST")
    memory = ax.twinx()
    memory.plot(n, [point["peak_mib"] / 1024 for point in points], **MEMORY)
    memory.set_ylim(0, 4.5)
    memory.set_ylabel("GiB held at most (dashed)", fontsize=8, color=VERMILLION)
    memory.tick_params(labelsize=8, colors=VERMILLION)
    memory.spines["top"].set_visible(False)


def _step(ax: Axes, points: list[dict[str, float]], by: str, name: str) -> None:
    at = [point[by] for point in points]
    ax.plot(at, [point["milliseconds_all"] for point in points], label="measured", **MEASURED)
    ax.plot(at, [point["milliseconds_at_peak"] for point in points], color=GREY, linestyle=":",
            label="operations / peak of this core")
    _logs(ax, name)
    ax.set_xticks(at, [str(value) for value in at])
    ax.minorticks_off()


def _logs(ax: Axes, name: str) -> None:
    ax.set(xscale="log", yscale="log")
    ax.set_xlabel(name, fontsize=8)
    ax.tick_params(labelsize=8)
    ax.spines["top"].set_visible(False)


if __name__ == "__main__":
    draw(load("speed_scaling")).savefig(HERE.parent / "docs" / "scaling.png", dpi=110)
