"""The figures of docs/explanation.md: ``python docs/figures/draw.py``. Networks are trained, half a minute on one core."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from cfexplain import GradientExplainer, PLACEExplainer
from cfexplain.datasets import load_digits_images

HERE = Path(__file__).parent
BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"  # Okabe and Ito
TARGET = 9


def strip(axes, pictures, title):
    axes.imshow(np.concatenate(list(np.clip(pictures, 0, 1)), 1), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)


def draw_coordinates(explainer, cf, row, training):
    """In X and in Z: the way that the gradient leads to the other class, and a random one."""
    decode, rng = explainer.coordinates_.inverse_transform, np.random.RandomState(1)
    ascent = GradientExplainer(explainer.classifier_.module, update="normalized", random_state=0)
    in_pixels = ascent.fit(*training).explain(cf.x[row][None], target=TARGET, record_path=True)
    share = np.linspace(0, 1, 10)[:, None]
    x, x_cf, z, z_cf = cf.reconstruction[row], cf.x_cf[row], cf.z[row], cf.z_cf[row]
    in_x, in_z = rng.normal(size=x.size), rng.normal(size=z.size)
    in_x *= np.linalg.norm(x_cf - x) / np.linalg.norm(in_x)
    in_z *= np.linalg.norm(z_cf - z) / np.linalg.norm(in_z)
    images = explainer.layout_.user_shape
    figure, axes = plt.subplots(4, 1, figsize=(8.4, 3.9))
    flat = x.reshape(-1)
    for ax, way, title in ((axes[0], ascent.coordinates_.inverse_transform(in_pixels.path[0]), "pixels: along the gradient"),
                           (axes[1], decode(cf.path[row]), "latent: along the gradient")):
        chosen = np.linspace(0, len(way) - 1, 10).round().astype(int)
        strip(ax, way[chosen].reshape(-1, *images), title)
    strip(axes[2], (flat + share * in_x).reshape(-1, *images), "pixels: any direction")
    strip(axes[3], decode((z + share * in_z).astype(z.dtype)).reshape(-1, *images), "latent: any direction")
    figure.subplots_adjust(0.22, 0.01, 0.99, 0.99, hspace=0.08)
    return figure


def draw_objective(explainer, cf, row):
    """What the terms say on the straight way from z₀ to z′ and beyond."""
    share = np.linspace(-0.1, 1.6, 120)
    codes = (cf.z[row] + share[:, None] * (cf.z_cf[row] - cf.z[row])).astype(cf.z.dtype)
    pictures = explainer.coordinates_.inverse_transform(codes)
    density = explainer.density_.score_samples(codes, np.full(len(codes), TARGET))
    rank = explainer.density_.percentile(density, np.full(len(codes), TARGET))
    distance = np.linalg.norm(codes - cf.z[row], axis=1)
    with torch.no_grad(), explainer.classifier_.frozen():
        logits = explainer.classifier_.logits(torch.from_numpy(pictures)).double()
    others = [k for k in range(logits.shape[1]) if k != TARGET]
    odds = (logits[:, TARGET] - logits[:, others].logsumexp(1)).numpy()
    wanted = np.log(explainer.confidence / (1 - explainer.confidence))
    figure, axes = plt.subplots(3, 1, figsize=(7.4, 5.6), sharex=True, layout="constrained")
    for ax, values, level, colour, label, unit in (
            (axes[0], odds, wanted, VERMILLION, "decision: the log-odds of 9 must reach those of p = 0.99", "log-odds of 9"),
            (axes[1], density, None, BLUE, "plausibility: log p(z | 9) must reach the median of real nines", "nats"),
            (axes[2], distance, None, GREEN, "distance: pulls back to z₀ all the way", "‖z − z₀‖")):
        ax.plot(share, values, color=colour, lw=2)
        held = values >= level if level is not None else rank >= 50 if ax is axes[1] else None
        if held is not None:
            low = values[held].min() if held.any() else np.nan
            ax.axhline(low if level is None else level, color=GREY, ls="--", lw=1)
            ax.fill_between(share, 0, 1, where=held, color=colour, alpha=0.12, transform=ax.get_xaxis_transform(), lw=0)
        ax.set_title(label, fontsize=10, loc="left")
        ax.set_ylabel(unit)
        for at in (0, 1):
            ax.axvline(at, color=GREY, lw=0.8)
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1].set(xlabel="share of the way", xticks=[0, 0.5, 1, 1.5], xticklabels=["z₀", "0.5", "z′", "1.5"])
    return figure


def draw_search(explainer, cf, row):
    """One row's way in pictures, and all rows' ways in numbers."""
    figure = plt.figure(figsize=(8.4, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 2.6))
    way = cf.path[row]
    chosen = np.unique(np.linspace(0, len(way) - 1, 10).round().astype(int))
    top = figure.add_subplot(grid[0, :])
    strip(top, explainer.coordinates_.inverse_transform(way[chosen]).reshape(-1, *explainer.layout_.user_shape), "")
    side = explainer.layout_.user_shape[-1]
    top.set_xticks(side * (np.arange(len(chosen)) + 0.5) - 0.5, [f"step {step}" for step in chosen], fontsize=8)
    left, right = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
    for i, way in enumerate(cf.path):
        pictures = explainer.coordinates_.inverse_transform(way).reshape(-1, *explainer.layout_.user_shape)
        target = np.full(len(way), TARGET)
        steps, ours = np.arange(len(way)), i == row
        style = {"color": VERMILLION if ours else GREY, "lw": 2 if ours else 0.8, "alpha": 1 if ours else 0.6,
                 "zorder": 3 if ours else 2}
        left.plot(steps, explainer.predict_proba(pictures)[:, TARGET], **style)
        rank = explainer.density_.percentile(explainer.density_.score_samples(way, target), target)
        right.plot(steps, rank, **style)
    left.set(xlabel="step", ylabel="probability of 9", ylim=(-0.03, 1.03))
    right.set(xlabel="step", ylabel="plausibility among real nines", ylim=(-3, 103))
    left.axhline(explainer.confidence, color=GREY, ls="--", lw=1)
    right.axhline(50, color=GREY, ls="--", lw=1)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def main():
    X, y = load_digits_images()
    explainer = PLACEExplainer(detail="decoder", training_budget=0.2, random_state=0).fit(X[:1400], y[:1400])
    fours = X[1400:][(y[1400:] == 4) & (explainer.predict(X[1400:]) == 4)][:12]
    way = explainer.set_params(start="latent", step_size=0.05, refine=0).explain(fours, target=TARGET, record_path=True)
    # three terms, as many as the figure has panels
    explainer.set_params(second_opinion=0, feature_weight=0.0, refine=12)
    plain = explainer.explain(fours, target=TARGET)
    row = int(np.argsort(way.distance)[len(way) // 2])
    for name, figure in (("coordinates", draw_coordinates(explainer, way, row, (X[:1400], y[:1400]))),
                         ("objective", draw_objective(explainer, plain, row)), ("search", draw_search(explainer, way, row))):
        figure.savefig(HERE / f"{name}.png", dpi=90)
        plt.close(figure)


if __name__ == "__main__":
    main()
