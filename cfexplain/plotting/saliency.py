"""Saliency maps beside counterfactuals, and how many decisions flip where the maps point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cfexplain.foundation.optional import optional_import
from cfexplain.foundation.protocols import MeasuredMaps
from cfexplain.plotting.axes import new_figure, short, source_in_words
from cfexplain.plotting.pictures import BLUE, GREY, VERMILLION, as_pictures, layout_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["SaliencyDisplay"]

KINDS = ("maps", "flips")
# Okabe and Ito's colours; markers and dashes also tell methods apart
COLORS = (BLUE, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#7A6A00")
MARKERS, DASHES = "osD^vP", ("-", (0, (4, 2)), (0, (1, 1.5)))


class SaliencyDisplay:
    """A picture of a `SaliencyComparison`.

    "maps": one line for each row of images with original, counterfactual, \\|x′ − x\\|, and the map of each method, each
    scaled to its own 99th percentile; below a map, the smallest share at which the decision flipped. For each row of a
    table, a heat map of columns by methods: each column's share of the method's total. "flips": for each method the share of
    rows whose decision flipped, over the share of x that was replaced.

    Parameters
    ----------
    found : SaliencyComparison
    kind : {"maps", "flips"}, default="maps"
    n : int, default=6
        Rows to draw in "maps".

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
    axes_ : ndarray of Axes
        (rows, columns) for maps of images, (rows,) for maps of tables, (1,) for flips.

    Raises
    ------
    ValueError
        `kind` is not known, or `n` is less than 1.
    """

    def __init__(self, found: MeasuredMaps, kind: str = "maps", n: int = 6):
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is not known; choose one of {KINDS}.")
        if n < 1:
            raise ValueError(f"n={n!r} must be at least 1.")
        self.found, self.kind, self.n = found, kind, n

    @classmethod
    def from_comparison(cls, found: MeasuredMaps, kind: str = "maps", n: int = 6, *,
                        figure: Figure | SubFigure | None = None) -> SaliencyDisplay:
        """Make the display and draw it; see `plot`."""
        return cls(found, kind, n).plot(figure=figure)

    def plot(self, *, figure: Figure | SubFigure | None = None) -> SaliencyDisplay:
        """Draw.

        Parameters
        ----------
        figure : Figure or SubFigure, optional
            Draw into it. By default a new pyplot figure of a fitting size is made.
        """
        n = min(self.n, len(self.found))
        image = layout_of(self.found.cf).is_image
        if self.kind == "flips":
            size = (6.4, 4.0)
        elif image:
            size = (1.15 * (2 + len(self.found.maps)) + 0.9, 1.45 * n + 0.5)
        else:
            size = (2.6 + 0.95 * len(self.found.maps), n * (0.9 + 0.24 * self.found.cf.x_cf.shape[1]))
        self.figure_ = new_figure(size, "constrained") if figure is None else figure
        if self.kind == "flips":
            self.axes_ = np.array([self.figure_.subplots()])
            _draw_flips(self.found, self.axes_[0])
        elif image:
            self.axes_ = self.figure_.subplots(n, 2 + len(self.found.maps), squeeze=False)
            _draw_images(self.found, self.axes_)
        else:
            self.axes_ = self.figure_.subplots(n, 1, squeeze=False)[:, 0]
            for row, ax in enumerate(self.axes_):
                _draw_table(self.found, row, ax)
        return self


def first_flip(found: MeasuredMaps, method: str, row: int) -> str:
    """``flips at 5 %``: the smallest share at which the decision of `row` flipped; ``holds at 20 %`` if it never did."""
    for share in found.shares:
        if found.values[method][f"flip@{share:g}"][row] == 1:
            return f"flips at {100 * share:g} %"
    return f"holds at {100 * found.shares[-1]:g} %"


def _intensity() -> Any:
    colors = optional_import("matplotlib.colors", "plot()")
    return colors.LinearSegmentedColormap.from_list("cfexplain_intensity", ["white", "#F0A060", VERMILLION, "#401A00"])


def _draw_images(found: MeasuredMaps, axes: np.ndarray) -> None:
    cf, cmap = found.cf[: len(axes)], _intensity()
    before, after = as_pictures(cf.x, cf), as_pictures(cf.x_cf, cf)
    for r, row in enumerate(cf):
        for c, picture in enumerate((before[r], after[r])):
            axes[r, c].imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes[r, 0].set_xlabel(short(source_in_words(row), 14), fontsize=8, color=GREY)
        axes[r, 1].set_xlabel(short(row.target[0], 14), fontsize=8, color=GREY)
        for c, (method, maps) in enumerate(found.maps.items(), 2):
            most = np.quantile(maps[r], 0.99) or maps[r].max() or 1.0
            axes[r, c].imshow(maps[r], cmap=cmap, vmin=0, vmax=most, interpolation="nearest")
            text = first_flip(found, method, r)
            axes[r, c].set_xlabel(text, fontsize=8, color=GREY if text.startswith("flips") else VERMILLION)
    for ax, title in zip(axes[0], ["original", "counterfactual", *map(_title, found.maps)], strict=True):
        ax.set_title(title, fontsize=9, color="black")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(color="#BBBBBB", linewidth=0.6)


def _title(method: str) -> str:
    """The name in two lines, as ``Integrated`` over ``Gradients``: split before a capital letter or at a space."""
    if method == "counterfactual":
        return "|x′ − x|"
    words = "".join(f" {c}" if c.isupper() and i and method[i - 1].islower() else c for i, c in enumerate(method))
    return "\n".join(short(part, 14) for part in words.split(maxsplit=1))


def _draw_table(found: MeasuredMaps, row: int, ax: Any) -> None:
    cf = found.cf[row]
    shares = np.stack([maps[row] / (maps[row].sum() or 1.0) for maps in found.maps.values()], 1)
    ax.imshow(shares, cmap=_intensity(), vmin=0, vmax=shares.max() or 1.0, aspect="auto", interpolation="nearest")
    ax.set_yticks(range(len(shares)), [short(name, 28) for name in cf.feature_names], fontsize=8)
    names = [f"{_title(method)}\n{first_flip(found, method, row)}" for method in found.maps]
    ax.set_xticks(range(len(names)), names, fontsize=7)
    ax.tick_params(length=0)
    ax.set_title(f"{short(source_in_words(cf), 20)} → {short(cf.target[0], 20)}", fontsize=10, fontweight="bold", loc="left")


def _draw_flips(found: MeasuredMaps, ax: Any) -> None:
    percent = [100 * share for share in found.shares]
    styles = {"counterfactual": ("black", "o", "-"), "random": (GREY, "x", (0, (1, 1.5)))}
    drawn = [method for method in found.values if method not in styles]
    for i, method in enumerate(drawn):
        # no pair of colour and marker comes twice
        again = i // len(COLORS)
        styles[method] = (COLORS[i % len(COLORS)], MARKERS[(i + again) % len(MARKERS)], DASHES[again % len(DASHES)])
    for method, entries in found.table.items():
        color, marker, dashes = styles[method]
        cells = [entries[f"flip@{share:g}"] for share in found.shares]
        means = np.array([100 * cell.mean for cell in cells])
        spread = np.abs(np.array([[100 * cell.low, 100 * cell.high] for cell in cells]).T - means)
        ax.errorbar(percent, means, yerr=spread, color=color, linestyle="none", elinewidth=0.8, capsize=2, alpha=0.5)
        ax.plot(percent, means, color=color, marker=marker, markersize=5, linestyle=dashes, linewidth=1.4, label=method)
    ax.set_xlabel("share of x replaced by the counterfactual (%)", fontsize=9)
    ax.set_ylabel("rows that get the target (%)", fontsize=9)
    ax.set_ylim(-3, 103)
    ax.set_xticks(percent, [f"{p:g}" for p in percent])
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
