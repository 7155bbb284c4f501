"""Counterfactuals side by side: images with what changed, table rows with their largest changes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.optional import optional_import
from cfexplain.plotting.words import is_regression
from cfexplain.tables.frames import category_places, cell_in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from cfexplain.result import Counterfactuals

__all__ = ["BLUE", "VERMILLION", "CounterfactualDisplay", "as_pictures", "difference_pictures", "largest_changes"]

# Okabe and Ito's colours, which colour-blind readers can tell apart
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#595959"
ROWS = ("original", "reconstruction", "counterfactual", "difference")


class CounterfactualDisplay:
    """A picture of the first counterfactuals of a result.

    Images become columns of original, reconstruction (what the coordinates keep of the original), counterfactual, and
    signed difference (counterfactual − original, one colour scale for all). Table rows become bars of their largest
    changes, with the values before and after; columns that did not change are absent. A counterfactual that the
    classifier does not give its target to is marked.

    Parameters
    ----------
    cf : Counterfactuals
        With at least one row.
    n : int, default=8
        Draw at most so many rows.
    max_changes : int, default=8
        Bars for each table row.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
    axes_ : ndarray of Axes
        Shape (4, columns) for images, (rows,) for tables.

    Raises
    ------
    ValueError
        There is no row to draw.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> cf = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y).explain(X[:3], target=1)
    >>> CounterfactualDisplay.from_explanation(cf, n=2, figure=Figure()).axes_.shape
    (2,)
    """

    def __init__(self, cf: Counterfactuals, *, n: int = 8, max_changes: int = 8):
        if len(cf) == 0:
            raise ValueError("There is nothing to draw: this result has no rows.")
        if n < 1 or max_changes < 1:
            raise ValueError(f"n={n!r} and max_changes={max_changes!r} must be at least 1.")
        self.cf, self.n, self.max_changes = cf, n, max_changes

    @classmethod
    def from_explanation(
        cls, cf: Counterfactuals, n: int = 8, *, max_changes: int = 8, ax: Axes | None = None,
        figure: Figure | SubFigure | None = None,
    ) -> CounterfactualDisplay:
        """Make the display and draw it; see `plot` for `ax` and `figure`."""
        return cls(cf, n=n, max_changes=max_changes).plot(ax, figure=figure)

    def plot(self, ax: Axes | None = None, *, figure: Figure | SubFigure | None = None) -> CounterfactualDisplay:
        """Draw.

        Parameters
        ----------
        ax : Axes, optional
            The picture takes its place: it is switched off and its area is divided.
        figure : Figure or SubFigure, optional
            Draw into it. By default a new pyplot figure of a fitting size is made.
        """
        cf = self.cf[: self.n]
        image = layout_of(cf).is_image
        rows, columns = (len(ROWS), len(cf)) if image else _table_grid(len(cf))
        size = _image_size(cf) if image else _table_size(cf, self.max_changes, columns)
        self.figure_, grid = _place(ax, figure, size, rows, columns, "compressed" if image else "constrained")
        if image:
            self.axes_ = np.array([[self.figure_.add_subplot(grid[r, c]) for c in range(columns)] for r in range(rows)])
            _draw_images(cf, self.axes_, self.figure_)
        else:
            places = [divmod(i, columns) for i in range(len(cf))]
            self.axes_ = np.array([self.figure_.add_subplot(grid[place]) for place in places])
            slots = _slots(cf, self.max_changes)
            for row, row_axes in zip(cf, self.axes_, strict=True):
                _draw_changes(row, row_axes, self.max_changes, slots)
        return self


# ------------------------------------------------------------------------------------------- arrays, without matplotlib
def layout_of(cf: Counterfactuals) -> Layout:
    """How one sample looks, from the metadata or else from the array."""
    shape = cf.metadata.get("net_shape")
    return Layout(cf.shape[1:], tuple(shape)) if shape else Layout.of(cf.shape[1:], None)


def as_pictures(samples: np.ndarray, cf: Counterfactuals) -> np.ndarray:
    """`samples` in the layout of `cf` as (n, H, W) or (n, H, W, 3), in [0, 1]; other channel counts are averaged."""
    low, high = cf.metadata.get("data_range") or (0.0, 1.0)
    images = samples.reshape(len(samples), *layout_of(cf).net_shape).astype(float)
    images = np.clip((np.nan_to_num(images, nan=low) - low) / (high - low), 0, 1)
    return np.moveaxis(images, 1, -1) if images.shape[1] == 3 else images.mean(1)


def difference_pictures(cf: Counterfactuals) -> tuple[np.ndarray, float]:
    """x′ − x averaged over channels, shape (n, H, W), in the data's units; and the largest absolute value."""
    difference = (cf.x_cf.astype(float) - cf.x).reshape(len(cf), *layout_of(cf).net_shape).mean(1)
    return difference, float(np.abs(difference).max(initial=0.0))


def largest_changes(row: Counterfactuals, most: int) -> tuple[list[tuple[str, float, float, float]], int]:
    """``(name, before, after, change)`` of the columns of one table row that changed most, and how many more changed.

    The change is in standard deviations of the training column where the metadata have them (``feature_scale``), else
    in the column's units; another category counts as √2, and before and after are its positions.
    """
    before, after = row.x[0].astype(float), row.x_cf[0].astype(float)
    scale = np.asarray(row.metadata.get("feature_scale") or np.ones(len(before)), dtype=float)
    change = (after - before) / np.where(scale > 0, scale, 1)
    # rounding in x + (g(z′) − g(z₀)) is not a change
    changed = np.abs(after - before) > 1e-5 * np.maximum(np.abs(before), np.where(scale > 0, scale, 1))
    for i in category_places(row.metadata):
        change[i] = np.sqrt(2.0) * changed[i]
    order = [i for i in np.argsort(-np.abs(change), kind="stable") if changed[i]]
    names = row.feature_names
    top = [(names[i], float(before[i]), float(after[i]), float(change[i])) for i in order[:most]]
    return top, len(order) - len(top)


# -------------------------------------------------------------------------------------------------------------- drawing
def _place(ax: Axes | None, figure: Figure | SubFigure | None, size: tuple[float, float], lines: int,
           columns: int, layout: str = "constrained") -> tuple[Any, Any]:
    """The figure, and a grid of places in it or in the area of `ax`."""
    if ax is None:
        figure = _new_figure(size, layout) if figure is None else figure
        return figure, figure.add_gridspec(lines, columns)
    if figure is not None:
        raise ValueError("Pass ax or figure, not both.")
    ax.set_axis_off()
    spec, box = ax.get_subplotspec(), ax.get_position()
    if spec is not None:
        return ax.figure, spec.subgridspec(lines, columns)
    return ax.figure, ax.figure.add_gridspec(lines, columns, left=box.x0, right=box.x1, bottom=box.y0, top=box.y1)


def _new_figure(size: tuple[float, float], layout: str) -> Figure:
    # pyplot, so that notebooks show it; it picks a backend by itself, and none is set here
    figure = optional_import("matplotlib.pyplot", "plot()").figure(figsize=size, layout=layout)
    if layout == "constrained":
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    return figure


def _short(text: Any, most: int) -> str:
    # a dollar sign would be read as the start of a formula
    text = " ".join(str(text).split())
    return (text if len(text) <= most else text[: most - 1] + "…").replace("$", r"\$")


def _title(row: Counterfactuals, most: int) -> str:
    """``4 → 9``, in two lines where the labels are long; of a regression ``2.1 → 7``, the value and what is wanted."""
    source, target = _short(_source(row), most), _short(row.target[0], most)
    return f"{source} → {target}" if len(source) + len(target) < most - 2 else f"{source}\n→ {target}"


def _source(row: Counterfactuals) -> Any:
    return f"{row.source[0]:.3g}" if is_regression(row) else row.source[0]


def _facts(row: Counterfactuals) -> str:
    percentile = row.density_percentile[0]
    typical = "" if np.isnan(percentile) else f"percentile {percentile:.0f}"
    said = f"says {row.prediction[0]:.3g}" if is_regression(row) else f"p {_probability(row.proba_after[0])}"
    return "\n".join(line for line in (said, typical) if line)


def _probability(p: float) -> str:
    """Two digits, but never a 1.00 that is not one."""
    return "> 0.99" if 0.995 <= p < 1 else "< 0.01" if 0 < p < 0.005 else f"= {p:.2f}"


def _image_size(cf: Counterfactuals) -> tuple[float, float]:
    _, height, width = layout_of(cf).net_shape
    side = 1.15
    return 1.9 + len(cf) * (side + 0.12), 1.1 + len(ROWS) * (min(max(side * height / width, 0.5), 4.0) + 0.08)


def _draw_images(cf: Counterfactuals, axes: np.ndarray, figure: Figure | SubFigure) -> None:
    colors = optional_import("matplotlib.colors", "plot()")
    signed = colors.LinearSegmentedColormap.from_list("cfexplain_signed", [BLUE, "white", VERMILLION])
    difference, most = difference_pictures(cf)
    pictures = [as_pictures(array, cf) for array in (cf.x, cf.reconstruction, cf.x_cf)]
    for c, row in enumerate(cf):
        for r, name in enumerate(ROWS):
            ax = axes[r, c]
            if name == "difference":
                limit = most or 1.0
                drawn = ax.imshow(difference[c], cmap=signed, vmin=-limit, vmax=limit, interpolation="nearest")
            else:
                ax.imshow(pictures[r][c], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set(color="#BBBBBB", linewidth=0.6)
            if c == 0:
                ax.set_ylabel(name, fontsize=9, color=GREY, rotation=0, ha="right", va="center")
        axes[0, c].set_title(_title(row, 13), fontsize=11, fontweight="bold", pad=5)
        below, color = _facts(row), GREY
        if not row.valid[0]:
            says = "" if is_regression(row) else f"\nstill {_short(row.prediction[0], 11)}"
            below, color = f"not valid{says}\n{below}", VERMILLION
            if row.prediction[0] != row.source[0]:
                below = below.replace("still", "says", 1)
            axes[ROWS.index("counterfactual"), c].spines[:].set(color=VERMILLION, linewidth=2, linestyle=(0, (4, 2)))
        axes[-1, c].set_xlabel(below, fontsize=8, color=color, labelpad=4)
    # inside the last picture's own place: a bar of its own would move the last row out of line with the others
    bar = figure.colorbar(drawn, cax=axes[-1, -1].inset_axes((1.08, 0, 0.08, 1)))
    bar.set_ticks([-most, 0, most] if most else [0])
    bar.ax.set_yticklabels([f"−{most:.2g}", "0", f"+{most:.2g}"] if most else ["0"])
    bar.ax.tick_params(labelsize=8, length=0, colors=GREY)
    bar.outline.set_visible(False)


def _table_grid(n: int) -> tuple[int, int]:
    columns = 1 if n == 1 else 2
    return math.ceil(n / columns), columns


def _table_size(cf: Counterfactuals, most: int, columns: int) -> tuple[float, float]:
    return 6.4 * columns, math.ceil(len(cf) / columns) * (1.4 + 0.26 * _slots(cf, most))


def _slots(cf: Counterfactuals, most: int) -> int:
    """Places for bars, the same in every panel so that bars are equally thick."""
    return max(2, *(len(largest_changes(row, most)[0]) for row in cf))


def _draw_changes(row: Counterfactuals, ax: Axes, most: int, slots: int) -> None:
    changes, left_out = largest_changes(row, most)
    sizes = [change for *_, change in changes]
    named = {row.feature_names[i] for i in category_places(row.metadata)}  # another category is neither more nor less
    ax.barh(range(len(changes)), sizes, height=0.62, color=[
        GREY if name in named else VERMILLION if s > 0 else BLUE for (name, *_), s in zip(changes, sizes, strict=True)])
    for i, (_, before, after, _) in enumerate(changes):
        cells = [cell_in_words(row, changes[i][0], value) for value in (before, after)]
        ax.text(1.02, i, _short(" → ".join(cells), 40), transform=ax.get_yaxis_transform(), va="center", fontsize=9)
    ax.set_yticks(range(len(changes)), [_short(name, 30) for name, *_ in changes], fontsize=9)
    ax.set_ylim(slots - 0.4, -0.6)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color("#BBBBBB")
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=8, colors=GREY)
    ax.locator_params(axis="x", nbins=5)
    ax.margins(x=0.06)
    unit = "standard deviations" if row.metadata.get("feature_scale") else "the column's units"
    more = f" · {left_out} smaller not shown" if left_out else ""
    if changes:
        ax.axvline(0, color=GREY, linewidth=0.8)
        ax.set_xlabel(f"change in {unit}{more}", fontsize=8, color=GREY, labelpad=3)
    else:
        ax.text(0.5, 0.5, "nothing changed", transform=ax.transAxes, ha="center", va="center", color=GREY)
        ax.set_xticks([])
    title = f"{_short(_source(row), 20)} → {_short(row.target[0], 20)}"
    ax.set_title(title, fontsize=11, fontweight="bold", loc="left", pad=20)
    facts = _facts(row).replace("\n", " · ")
    if not row.valid[0]:
        facts = f"not valid · {facts}" if is_regression(row) else (
            f"not valid (says {_short(row.prediction[0], 14)}) · {facts}")
    ax.annotate(facts, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", va="bottom", fontsize=8,
                color=GREY if row.valid[0] else VERMILLION)
