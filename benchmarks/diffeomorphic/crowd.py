"""Counting pedestrians: the regression experiment of *Diffeomorphic Counterfactuals* (section 4.2, figures 8 to 11).

    python -m benchmarks.diffeomorphic.crowd [--quick]

Needs ``mall_64.npz`` in ``$CFEXPLAIN_DATA``. A U-Net counts heads; the test frames in which it finds fewer than one are
driven up to ten, those in which it finds more than three down to 0.01, in the base space Z of a Glow and in pixels X. A
second, larger U-Net that saw the same frames and nothing else is the oracle: what changed the picture convinces it too.

The last 200 frames of the video are for testing; 180 of the first 1,800, drawn at random, choose the weights. The paper
gives these numbers (appendix B) but not which frames; with the frames in order, test frames are no neighbours of training
frames (but the first), which show the same people. The paper searches from 100 frames a direction, with 0.7 and 3.6 heads
on average; so many of our 200 are not below one or above three.
"""

from __future__ import annotations

import argparse
import io
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import NearestNeighbors

from benchmarks._common import CACHE, RESULTS, store, trained
from benchmarks.diffeomorphic import networks
from benchmarks.diffeomorphic.counting import CountingUNet, head_locations, head_map, train_counter
from cfexplain import DiffeomorphicExplainer, GradientExplainer
from cfexplain.coordinates import Flow
from cfexplain.datasets import load_mall
from cfexplain.foundation.random import seeded_torch
from cfexplain.foundation.tiles import in_tiles
from cfexplain.metrics import distance_to_class

HELD_OUT = 200
QUICK_STRIDE = 12  # frames of the video, where the code is only tried
SIGMA = 1.5  # of a head, in pixels
# the explained network, and an oracle twice as wide that shares nothing with it but the frames
CONFIGS: dict[str, dict[str, Any]] = {
    "unet": {"width": 8, "updates": 600, "seed": 0},
    "oracle": {"width": 16, "updates": 500, "seed": 1},
}
TARGETS = {"max": 10.0, "min": 0.01}
FEW, MANY = 1.0, 3.0  # what the explained network counts in the frames that a search starts from
SOURCE_CLASS = 400  # training frames of the source class that distances are taken to (appendix B.7)
ROWS = 32  # frames in each direction; the paper has 100
# space of the search, and what differs from the explainer's defaults; "published" is appendix B.6, but for the 5,000 steps
# that it allows in Z: with one of these Glows that would be an hour a direction on a CPU
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "Z published": ("Z", {"update": "adam", "step_size": 5e-3, "max_steps": 1000, "refine": 0}),
    "X published": ("X", {"update": "adam", "step_size": 1e-4, "max_steps": 5000, "refine": 0}),
}
# Its figures 9 and 11 are bars without numbers. Its Z is not whitened: compare lengths in Z by their ratios.
PAPER = {
    "rmse": {"unet": 0.63, "oracle": 0.72},
    "bits_per_dim": 0.96,
    "rows": 100,
    "reached": 1.0,
    "l2_x": {"max": {"X": 1.33, "Z": 15.90}, "min": {"X": 1.34, "Z": 10.98}},
    "l2_x_source_class": {"max": {"X": 9.31, "Z": 19.35}, "min": {"X": 19.11, "Z": 17.39}},
    "l2_z": {"max": {"X": 142.50, "Z": 116.85}, "min": {"X": 160.53, "Z": 78.56}},
    "l2_z_source_class": {"max": {"X": 153.96, "Z": 161.64}, "min": {"X": 199.45, "Z": 180.39}},
}


@dataclass
class Counters:
    """The explained network and its oracle, in evaluation mode, with their error on the held-out frames."""

    unet: CountingUNet
    oracle: CountingUNet
    rmse: dict[str, float]


def counts_and_maps(net: CountingUNet, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts (n,) and probability maps (n, H, W) of images (n, C, H, W)."""
    with torch.no_grad():
        counts, logits = in_tiles(net.count_and_logits, torch.from_numpy(np.ascontiguousarray(X, dtype=np.float32)))
    return counts[:, 0].numpy(), logits[:, 0].sigmoid().numpy()


def train_counters(quick: bool = False) -> Counters:
    """Train both networks, or take them from the cache, and print their errors beside the paper's.

    Parameters
    ----------
    quick : bool, default=False
        Ten updates on every twelfth frame: to try the code.
    """
    X, counts, heads = load_mall()
    train, test = slice(None, -HELD_OUT, QUICK_STRIDE if quick else 1), slice(-HELD_OUT, None)
    maps = head_map(heads, None, X.shape[2:], SIGMA)
    nets, rmse = {}, {}
    for name, settings in CONFIGS.items():
        config = {**settings, "sigma": SIGMA, "held_out": HELD_OUT}
        if quick:
            config |= {"updates": 10, "stride": QUICK_STRIDE}

        def fit(config: dict[str, Any] = config) -> CountingUNet:
            with seeded_torch(config["seed"]):
                net = CountingUNet(config["width"])
            train_counter(net, X[train], maps[train], counts[train], config["updates"], config["seed"], verbose=1)
            return net

        nets[name] = trained(f"crowd-{name}", config, fit)
        found = counts_and_maps(nets[name], X[test])[0]
        rmse[name] = float(np.sqrt(np.mean((found - counts[test]) ** 2)))
        print(f"{name}: RMSE {rmse[name]:.3f} on {HELD_OUT} test frames (paper {PAPER['rmse'][name]:.2f})", flush=True)
    print(f"always the mean count: RMSE {np.sqrt(np.mean((counts[train].mean() - counts[test]) ** 2)):.3f}")
    return Counters(nets["unet"], nets["oracle"], rmse)


def draw_heads(
    images: np.ndarray,
    maps: np.ndarray,
    counts: np.ndarray,
    path: str | Path,
    *,
    titles: Sequence[str],
    columns: int = 6,
) -> None:
    """Images with the probability map over them, and a cross at every head of the fitted mixture (figure 10).

    Parameters
    ----------
    images : ndarray of shape (n, 3, H, W), in [0, 1]
    maps : ndarray of shape (n, H, W)
        Probabilities of heads.
    counts : ndarray of shape (n,)
        The regression values; rounded, they are the number of crosses.
    path : str or Path
        The picture to write.
    titles : sequence of n str
    columns : int, default=6
        Images in a row.
    """
    lines = -(-len(images) // columns)
    figure = Figure(figsize=(1.8 * columns, 2.05 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    height, width = images.shape[2:]
    extent = (0, width, height, 0)
    for ax, image, density, count, title in zip(axes, images, maps, counts, titles, strict=False):
        ax.imshow(image.transpose(1, 2, 0).clip(0, 1), extent=extent)
        ax.imshow(density, extent=extent, cmap="autumn", vmin=0, vmax=1, alpha=0.7 * density.clip(0, 1))
        x, y = head_locations(density, count, random_state=0).T
        ax.scatter(x, y, s=46, marker="+", c="cyan", linewidths=1.6)
        ax.set(xlim=(0, width), ylim=(height, 0))
        ax.set_title(title, fontsize=9)
    save(figure, path, dpi=62)


def save(figure: Figure, path: str | Path, dpi: int) -> None:
    """As a PNG of 256 colours: photographs in 24 bits are four times as large."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi, bbox_inches="tight")
    Path(path).parent.mkdir(exist_ok=True)
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def draw_differences(columns: Sequence[tuple[str, dict[str, np.ndarray], dict[str, str]]], path: str | Path) -> None:
    """Original, counterfactuals, and under each its difference |x − x′|, summed over colours (figure 8).

    Parameters
    ----------
    columns : sequence of (heading, images by row, titles by row)
        Images (3, H, W) in [0, 1]; the first row holds the original.
    path : str or Path
    """
    names = list(columns[0][1])
    lines = [names[0], *(line for name in names[1:] for line in (name, f"{name} difference"))]
    figure = Figure(figsize=(1.15 * len(columns) + 1.2, 1.36 * len(lines)), layout="constrained")
    figure.suptitle("above each picture: count of the explained network · of the oracle", fontsize=7)
    axes = figure.subplots(len(lines), len(columns), squeeze=False)
    changes = {name: [np.abs(images[name] - images[names[0]]).sum(0) for _, images, _ in columns] for name in names[1:]}
    for place, (heading, images, titles) in enumerate(columns):
        row = 0
        for name in names:
            shown = images[name].transpose(1, 2, 0).clip(0, 1)
            axes[row, place].imshow(shown, interpolation="nearest")
            axes[row, place].set_title((f"{heading}\n" if row == 0 else "") + titles[name], fontsize=7, pad=2)
            row += 1
            if name != names[0]:
                top = max(change.max() for change in changes[name])
                axes[row, place].imshow(changes[name][place], cmap="magma", vmin=0, vmax=top, interpolation="nearest")
                if place == 0:
                    axes[row, 0].set_ylabel(f"|x − x′|\n0 … {top:.2f}", fontsize=7)
                row += 1
    for line, name in zip(axes[:, 0], lines, strict=True):
        if not line.get_ylabel():
            line.set_ylabel(name, fontsize=7)
    for ax in axes.ravel():
        ax.set(xticks=[], yticks=[])
    save(figure, path, dpi=70)


def spread(values: np.ndarray) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "std": float(np.std(values)), "median": float(np.median(values))}


@dataclass
class Judge:
    """What is said of frames: both networks' counts, and the labelled counts of the nearest training frames."""

    counters: Counters
    neighbours: NearestNeighbors
    labelled: np.ndarray

    def __call__(self, x: np.ndarray) -> dict[str, np.ndarray]:
        near = self.labelled[self.neighbours.kneighbors(x.reshape(len(x), -1), return_distance=False)]
        counts = {name: counts_and_maps(net, x)[0] for name, net in (("explained", self.counters.unet),
                                                                     ("oracle", self.counters.oracle))}
        return {**counts, "disagreement": np.abs(counts["explained"] - counts["oracle"]),
                "near_3": near[:, :3].mean(1), "near_10": near.mean(1)}


def flow(quick: bool) -> Flow:
    if not quick:
        return networks.flow("mall-glow")
    tiny = {"architecture": "glow", "levels": 3, "steps": 2, "hidden": 16, "n_bits": 5, "training_budget": 0.001}
    return trained("flow-mall-tiny", tiny, lambda: Flow(**tiny, random_state=0).fit(load_mall()[0][:-HELD_OUT:QUICK_STRIDE]))


def searched(explainer: DiffeomorphicExplainer, settings: dict[str, Any], x: np.ndarray, target: float, quick: bool) -> Any:
    explainer.set_params(**settings)
    if quick:
        explainer.set_params(max_steps=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return explainer.explain(x, target=target)


def run(quick: bool) -> dict[str, Any]:
    """Search, measure and draw ``results/diffeomorphic_crowd.png`` and ``results/diffeomorphic_heads.png``.

    Parameters
    ----------
    quick : bool
        Networks and a flow that learned next to nothing, 4 frames a direction, 4 steps, and the pictures beside the cached
        networks: to try the code.

    Returns
    -------
    result : dict
        ``table`` has a row for the original frames and each method, in each direction: ``reached`` is the share of rows
        with the target, ``explained`` and ``oracle`` the counts, ``transfer`` the oracle's mean change over that of the
        explained network, ``near_k`` the mean labelled count of the k nearest training frames, ``l2_x`` and ``l2_z``
        distances to the source (``l2_z`` of both images encoded, ``l2_z_path`` of the point found, before the image is
        clipped and encoded again), ``l2_…_source_class`` mean distances to training frames like the source.
    """
    counters, (X, counts, _), glow = train_counters(quick), load_mall(), flow(quick)
    train, test = np.arange(len(X) - HELD_OUT)[:: QUICK_STRIDE if quick else 1], np.arange(len(X) - HELD_OUT, len(X))
    before = counts_and_maps(counters.unet, X)[0]
    judge = Judge(counters, NearestNeighbors(n_neighbors=10, algorithm="brute").fit(X[train].reshape(len(train), -1)),
                  counts[train])
    common = {"task": "regression", "random_state": 0}
    explainers = {
        "Z": DiffeomorphicExplainer(counters.unet, generator=FrozenEstimator(glow), **common).fit(X[train], counts[train]),
        "X": GradientExplainer(counters.unet, **common).fit(X[train], counts[train])}
    groups = {"max": (test[before[test] < FEW], train[before[train] < FEW]),
              "min": (test[before[test] > MANY], train[before[train] > MANY])}
    if quick:  # networks that have learned nothing count the same in every frame
        order = test[np.argsort(before[test])]
        groups = {"max": (order[:4], train[:8]), "min": (order[-4:], train[-8:])}

    table, columns, heads = [], [], []
    for direction, (rows, source) in groups.items():
        rows = rows[np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).round().astype(int)]  # spread over the video
        x, target = X[rows], TARGETS[direction]
        source = np.random.RandomState(0).permutation(source)[:SOURCE_CLASS]
        codes, source_codes = glow.transform(x), glow.transform(X[source])
        first = judge(x)
        table.append({"direction": direction, "method": "original", "rows": len(x), "labelled": spread(counts[rows]),
                      **{name: spread(values) for name, values in first.items()},
                      "l2_x_source_class": spread(distance_to_class(x, X[source])),
                      "l2_z_source_class": spread(distance_to_class(codes, source_codes))})
        found, said = {"original": x}, {"original": first}
        for method, (space, settings) in METHODS.items():
            started = time.perf_counter()
            cf = searched(explainers[space], settings, x, target, quick)
            x_cf, seconds = np.asarray(cf), time.perf_counter() - started
            again, after = glow.transform(x_cf), judge(x_cf)
            found[method], said[method] = x_cf, after
            table.append({
                "direction": direction, "method": method, "rows": len(x), "reached": float(cf.valid.mean()),
                "oracle_transfer": float((after["oracle"] - first["oracle"]).mean()
                                         / (after["explained"] - first["explained"]).mean()),
                **{name: spread(values) for name, values in after.items()},
                "l2_x": spread(cf.distance_x), "l2_x_source_class": spread(distance_to_class(x_cf, X[source])),
                "l2_z": spread(np.linalg.norm(again - codes, axis=1)),
                "l2_z_path": spread(cf.distance) if space == "Z" else None,
                "l2_z_source_class": spread(distance_to_class(again, source_codes)),
                "steps": {**spread(cf.n_steps), "max": int(cf.n_steps.max())}, "seconds": seconds})
            print_row(table[-1])
        # examples evenly spaced in time, not chosen
        for k in np.linspace(0, len(x) - 1, 3).round().astype(int):
            columns.append((f"{'few → 10' if direction == 'max' else 'many → 0.01'}",
                            {name: images[k] for name, images in found.items()},
                            {name: f"{v['explained'][k]:.1f} · {v['oracle'][k]:.1f}" for name, v in said.items()}))
        for k in np.linspace(0, len(x) - 1, 3).round().astype(int)[:2]:
            heads += [(found[name][k], label) for name, label in (
                ("original", "original"), ("Z published", "Z"), ("X published", "X"))]
    folder = CACHE if quick else RESULTS
    draw_differences(columns, folder / "diffeomorphic_crowd.png")
    draw_both(heads, counters, folder / "diffeomorphic_heads.png")
    return {"quick": quick, "configs": CONFIGS, "methods": METHODS, "targets": TARGETS, "rmse": counters.rmse,
            "bits_per_dim": float(glow.bits_per_dim(X[test][:: 50 if quick else 1]).mean()), "source_class": SOURCE_CLASS,
            "table": table, "paper": PAPER}


def draw_both(pictures: Sequence[tuple[np.ndarray, str]], counters: Counters, path: str | Path) -> None:
    """Each image twice: the heads of the explained network, and beside them the oracle's (figure 10)."""
    images = np.stack([image for image, _ in pictures])
    said = [counts_and_maps(net, images) for net in (counters.unet, counters.oracle)]
    twice, order = np.repeat(images, 2, 0), np.arange(2 * len(images))
    counts, maps = (np.stack([said[0][k], said[1][k]], 1).reshape(len(order), *said[0][k].shape[1:]) for k in (0, 1))
    titles = [f"{pictures[i // 2][1]}, {'oracle' if i % 2 else 'explained'}: {counts[i]:.1f}" for i in order]
    draw_heads(twice, maps, counts, path, titles=titles)


def print_row(row: dict[str, Any]) -> None:
    mean = {name: value["mean"] for name, value in row.items() if isinstance(value, dict)}
    print(f"{row['direction']} {row['method']}: reached {row['reached']:.0%} of {row['rows']}, explained "
          f"{mean['explained']:.2f}, oracle {mean['oracle']:.2f}, L2 in X {mean['l2_x']:.2f}, in Z {mean['l2_z']:.1f}, "
          f"{row['steps']['median']:.0f} steps, {row['seconds']:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="seconds instead of an hour, to try the code")
    quick = parser.parse_args().quick
    result = run(quick)
    if not quick:
        store("diffeomorphic_crowd", result)


if __name__ == "__main__":
    main()
