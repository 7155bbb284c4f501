"""The picture of README: twelve digits of MNIST that were held out, explained with the defaults.

    python -m benchmarks.readme_picture

Needs ``mnist.npz``; takes the explainer of `benchmarks.held_out_defaults`. Writes docs/mnist.png.
"""

from __future__ import annotations

import warnings

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from benchmarks._common import HERE
from benchmarks.held_out_defaults import KNOWN, fitted
from cfexplain.plotting.pictures import BLUE, VERMILLION

PAIRS = [(4, 9), (0, 8), (1, 5), (3, 8), (7, 9), (5, 6)]
PLACES = slice(5, 7)  # among the test images of the source class, in the order of the data set: not chosen


def main() -> None:
    data = KNOWN["mnist"]()
    explainer, _ = fitted("mnist", data, 0, 1.0)
    X, y = data.X_test[:3000], data.y_test[:3000]
    right = explainer.predict(X) == y
    rows = np.concatenate([np.flatnonzero(right & (y == source))[PLACES] for source, _ in PAIRS])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cf = explainer.explain(X[rows], target=np.array([dict(PAIRS)[label] for label in y[rows]]))
    print(cf.summary())
    signed = LinearSegmentedColormap.from_list("signed", [BLUE, "white", VERMILLION])
    ink = {"cmap": "gray_r", "vmin": 0, "vmax": 1}
    strips = {"original": (cf.x, ink), "counterfactual": (cf.x_cf, ink),
              "change": (cf.x_cf - cf.x, {"cmap": signed, "vmin": -1, "vmax": 1})}
    figure = Figure(figsize=(11, 3.1))
    axes = figure.subplots(len(strips), len(cf))
    for r, (name, (images, colours)) in enumerate(strips.items()):
        for c, ax in enumerate(axes[r]):
            ax.imshow(images[c], **colours)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set(color="#BBBBBB", linewidth=0.6)
            if r == 0:
                ax.set_title(f"{cf.source[c]} → {cf.target[c]}", fontsize=11, fontweight="bold")
        axes[r, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    figure.subplots_adjust(0.1, 0.02, 0.995, 0.9, wspace=0.06, hspace=0.06)
    figure.savefig(HERE.parent / "docs" / "mnist.png", dpi=100)


if __name__ == "__main__":
    main()
