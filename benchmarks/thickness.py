"""A value of an image: how thick is the stroke? Asked for, predicted, and measured on the picture itself.

    python -m benchmarks.thickness [--generators vae flow] [--asked 1.5 3.5 5.0 8.0] [--rows 100] [--train 5000]

Needs ``mnist.npz`` and scikit-image. A network is trained to say how thick a digit is, and explained with the defaults of
`DiffeomorphicExplainer`. A skeleton measures what comes out, and a CNN says whether it is still the digit that it was.
Writes benchmarks/results/thickness.json and .png.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from typing import Any

import numpy as np
from scipy import ndimage
from skimage.morphology import medial_axis

from benchmarks._common import RESULTS, draw_strips, store, trained
from benchmarks.held_out_defaults import classifier, judge_net, judged
from cfexplain import DiffeomorphicExplainer
from cfexplain.datasets import load_mnist

FINER = 4  # times as many pixels a side, for the skeleton


def thickness(images: np.ndarray) -> np.ndarray:
    """Twice the mean distance of a stroke's skeleton to its edge, in pixels; of images (n, H, W) in [0, 1]."""
    out = np.zeros(len(images))
    for i, image in enumerate(images):
        skeleton, distance = medial_axis(ndimage.zoom(image, FINER, order=1) > 0.5, return_distance=True, rng=0)
        if skeleton.any():
            out[i] = 2 * distance[skeleton].mean() / FINER
    return out


def holes(images: np.ndarray) -> np.ndarray:
    """Enclosed pieces of background in each image."""
    return np.array([ndimage.label(np.pad(image < 0.5, 1, constant_values=True))[1] - 1 for image in images])


def line(cf: Any, asked: float, digits: np.ndarray, judge: Any, seconds: float) -> dict[str, Any]:
    measured, fine = thickness(cf.x_cf), cf.valid & (cf.status != "implausible")
    plausible = measured[fine] if fine.any() else np.full(1, np.nan)
    return {
        "asked": asked, "rows": len(cf), "valid": float(cf.valid.mean()), "status": dict(Counter(cf.status.tolist())),
        "predicted": float(np.median(cf.prediction)), "measured": float(np.median(measured)),
        "measured_error": float(np.median(np.abs(measured - asked))),
        "measured_where_plausible": float(np.median(plausible)), "percentile": float(np.median(cf.density_percentile)),
        "same_digit": float((judged(judge, cf.x_cf, np.arange(10)) == digits).mean()),
        "holes_kept": float((holes(cf.x_cf) == holes(cf.x)).mean()), "steps": float(np.median(cf.n_steps)),
        "seconds_a_row": seconds / len(cf)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--generators", nargs="+", default=["vae", "flow"])
    parser.add_argument("--asked", type=float, nargs="+", default=[1.5, 3.5, 5.0, 8.0])
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--train", type=int, default=5000)
    parser.add_argument("--budget", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    X, digit, X_test, digit_test = load_mnist(size=28)
    X, digit, x, digits = X[: options.train], digit[: options.train], X_test[: options.rows], digit_test[: options.rows]
    y = thickness(X)
    config = {"n": len(X), "seed": options.seed, "budget": options.budget}
    judge = trained("thickness-judge", config, lambda: classifier(
        lambda: judge_net((1, 28, 28), 10), X[:, None], digit, 100 + options.seed, options.budget))
    quantiles = {f"{q:g}": float(np.quantile(y, q)) for q in (0, 0.01, 0.1, 0.5, 0.9, 0.99, 1)}
    print("thickness of the training images, by quantiles:", quantiles, flush=True)
    lines, strips = [], {}
    for generator in options.generators:
        detail = "decoder" if generator == "flow" else "auto"
        explainer = trained(f"thickness-{generator}", config, lambda: DiffeomorphicExplainer(  # noqa: B023
            task="regression", generator=generator, detail=detail,  # noqa: B023
            random_state=options.seed, training_budget=options.budget).fit(X, y))
        right = float(np.corrcoef(explainer.predict(X_test[:1000]), thickness(X_test[:1000]))[0, 1])
        for asked in options.asked:
            started = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cf = explainer.explain(x, target=asked)
            lines.append({"generator": generator, "model_r": right,
                          **line(cf, asked, digits, judge, time.perf_counter() - started)})
            print("  ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                            for name, value in lines[-1].items()), flush=True)
            strips[f"{generator}: {asked:g} pixels"] = [("original", cf.x[:16]), ("counterfactual", cf.x_cf[:16])]
    draw_strips(strips, RESULTS / "thickness.png")
    store("thickness", {"train_rows": len(X), "thickness_of_data": quantiles, "table": lines})


if __name__ == "__main__":
    main()
