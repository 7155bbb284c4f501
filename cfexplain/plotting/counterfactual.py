"""Counterfactuals side by side: images with what changed, table rows with their largest changes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cfexplain.foundation.protocols import Result
from cfexplain.plotting.axes import (
    change_scale,
    draw_change,
    facts,
    figure_and_grid,
    frame_picture,
    say_rest,
    short,
    title,
    wrapped,
)
from cfexplain.plotting.pictures import BLUE, GREY, VERMILLION, as_pictures, difference_pictures, layout_of
from cfexplain.tables.frames import category_places, cell_in_words, largest_changes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["CounterfactualDisplay", "draw_changes", "panel_size", "slots_of"]

# Characters in a line of a column's name, and of a cell
NAME, CELL = 28, 34
# So many rows are all drawn; of more only MOST, unless n says otherwise
ALL, MOST = 12, 8
ROWS = ("original", "reconstruction", "counterfactual", "change")


class CounterfactualDisplay:
    """A picture of the first counterfactuals of a result.

    Images become columns of original, reconstruction (what the coordinates keep of the original), counterfactual, and
    signed difference (counterfactual − original, on one colour scale). Table rows become bars of their largest changes,
    with the values before and after; columns that did not change are absent. A counterfactual whose prediction is not the
    target is marked.

    Parameters
    ----------
    cf : Counterfactuals
        With at least one row.
    n : int, optional
        Draw at most so many rows. Default: all where there are at most 12, else 8. A line beneath says what was left out.
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

    def __init__(self, cf: Result, *, n: int | None = None, max_changes: int = 8):
        if len(cf) == 0:
            raise ValueError("There is nothing to draw: this result has no rows.")
        if n is None:
            n = len(cf) if len(cf) <= ALL else MOST
        if n < 1 or max_changes < 1:
            raise ValueError(f"n={n!r} and max_changes={max_changes!r} must be at least 1.")
        self.cf, self.n, self.max_changes = cf, n, max_changes

    @classmethod
    def from_explanation(
        cls, cf: Result, n: int | None = None, *, max_changes: int = 8, ax: Axes | None = None,
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
        if image:
            size = _image_size(cf)
        else:
            width, height = panel_size(cf, self.max_changes)
            size = width * columns, height * rows
        self.figure_, grid = figure_and_grid(ax, figure, size, rows, columns, "compressed" if image else "constrained")
        if image:
            self.axes_ = np.array([[self.figure_.add_subplot(grid[r, c]) for c in range(columns)] for r in range(rows)])
            _draw_images(cf, self.axes_, self.figure_)
        else:
            places = [divmod(i, columns) for i in range(len(cf))]
            self.axes_ = np.array([self.figure_.add_subplot(grid[place]) for place in places])
            slots = slots_of(cf, self.max_changes)
            for row, row_axes in zip(cf, self.axes_, strict=True):
                draw_changes(row, row_axes, self.max_changes, slots)
        say_rest(self.figure_, ax, len(cf), len(self.cf))
        return self


# -------------------------------------------------------------------------------------------------------------- drawing
def _image_size(cf: Result) -> tuple[float, float]:
    _, height, width = layout_of(cf).net_shape
    side = 1.15
    return 1.9 + len(cf) * (side + 0.12), 1.1 + len(ROWS) * (min(max(side * height / width, 0.5), 4.0) + 0.08)


def _draw_images(cf: Result, axes: np.ndarray, figure: Figure | SubFigure) -> None:
    difference, most = difference_pictures(cf)
    pictures = [as_pictures(array, cf) for array in (cf.x, cf.reconstruction, cf.x_cf)]
    for c, row in enumerate(cf):
        for r, name in enumerate(ROWS):
            ax = axes[r, c]
            if name == "change":
                drawn = draw_change(ax, difference[c], most)
            else:
                ax.imshow(pictures[r][c], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            frame_picture(ax)
            if c == 0:
                ax.set_ylabel(name, fontsize=9, color=GREY, rotation=0, ha="right", va="center")
        if row.region is not None and not row.region.all():
            axes[0, c].contour(row.region[0], levels=[0.5], colors=VERMILLION, linewidths=0.9)
        axes[0, c].set_title(title(row, 13), fontsize=11, fontweight="bold", pad=5)
        below, color = facts(row), GREY
        if not row.valid[0]:
            verb = "still" if row.prediction[0] == row.source[0] else "says"
            silent = row.is_regression or row.status[0] == "model_failed"
            predicted = "" if silent else f"\n{verb} {short(row.prediction[0], 11)}"
            below, color = f"not valid{predicted}\n{below}", VERMILLION
            axes[ROWS.index("counterfactual"), c].spines[:].set(color=VERMILLION, linewidth=2, linestyle=(0, (4, 2)))
        axes[-1, c].set_xlabel(below, fontsize=8, color=color, labelpad=4)
    change_scale(figure, axes[-1, -1], drawn, most)


def _table_grid(n: int) -> tuple[int, int]:
    columns = 1 if n == 1 else 2
    return math.ceil(n / columns), columns


def panel_size(cf: Result, most: int) -> tuple[float, float]:
    """Inches that a panel of bars needs for the longest of its names and cells."""
    names, steps = [], []
    for row in cf:
        for name, before, after, _ in largest_changes(row, most)[0]:
            names += wrapped(name, NAME).split("\n")
            steps += _step(cell_in_words(row, name, before), cell_in_words(row, name, after)).split("\n")
    texts = 0.085 * (max(map(len, names), default=0) + max(map(len, steps), default=0))
    return 2.4 + max(texts, 1.5), 1.45 + 0.36 * slots_of(cf, most)


def slots_of(cf: Result, most: int) -> int:
    """Places for bars, the same in every panel so that bars are equally thick."""
    return max(2, *(len(largest_changes(row, most)[0]) for row in cf))


def _step(before: str, after: str) -> str:
    """``12 → 30``; long names of categories below each other."""
    if len(before) + len(after) <= CELL:
        return short(f"{before} → {after}", CELL + 3)
    return f"{short(before, CELL)}\n→ {short(after, CELL - 2)}"


def draw_changes(row: Result, ax: Axes, most: int, slots: int) -> None:
    """Bars of the `most` largest changes of a row of a table, in a panel with places for `slots`."""
    changes, left_out = largest_changes(row, most)
    sizes = [change for *_, change in changes]
    categorical = {row.feature_names[i] for i in category_places(row.metadata)}  # a new category is neither more nor less
    ax.barh(range(len(changes)), sizes, height=0.62, color=[
        GREY if name in categorical else VERMILLION if change > 0 else BLUE for name, *_, change in changes])
    for i, (name, before, after, _) in enumerate(changes):
        cells = [cell_in_words(row, name, value) for value in (before, after)]
        cells = cells if name in categorical else [cell.replace("-", "−") for cell in cells]
        ax.text(1.02, i, _step(*cells), transform=ax.get_yaxis_transform(), va="center", fontsize=9)
    ax.set_yticks(range(len(changes)), [wrapped(name, NAME) for name, *_ in changes], fontsize=9)
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
    ax.set_title(title(row, 46), fontsize=11, fontweight="bold", loc="left", pad=20)
    words = facts(row).replace("\n", " · ")
    if not row.valid[0]:
        words = f"not valid · {words}" if row.is_regression or row.status[0] == "model_failed" else (
            f"not valid (says {short(row.prediction[0], 14)}) · {words}")
    if row.row is not None and row.answer is not None:
        words = f"row {row.row[0]}, answer {row.answer[0] + 1} · {words}"
    ax.annotate(words, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", va="bottom", fontsize=8,
                color=GREY if row.valid[0] else VERMILLION)
