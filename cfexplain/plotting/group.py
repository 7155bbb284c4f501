"""Many rows at once: what their counterfactuals have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cfexplain.foundation.in_words import count_rows
from cfexplain.foundation.protocols import Result
from cfexplain.plotting.axes import (
    change_scale,
    draw_change,
    figure_and_grid,
    frame_picture,
    say_rest,
    short,
    title,
    wrapped,
)
from cfexplain.plotting.pictures import BLUE, GREY, VERMILLION, as_pictures, difference_pictures, layout_of
from cfexplain.plotting.words import number, target_in_words
from cfexplain.tables.frames import category_places, cell_in_words, changed_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["GroupDisplay"]

ROWS = ("mean original", "mean counterfactual", "mean change")


class GroupDisplay:
    """What the valid counterfactuals of a result have in common.

    Of a table: for each column the share of rows in which it rises (right) and falls (left), and by how much in the median;
    of a category the share in which it changes, and what it becomes most often. Of images: for each pair of source and
    target the mean original, the mean counterfactual, and the mean change. Rows that had their target before, and rows
    without a valid counterfactual, are left out and counted.

    Parameters
    ----------
    cf : Counterfactuals
    n : int, default=10
        Draw at most so many columns of a table, those that change in most rows, or pairs of classes, those of most rows.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
    axes_ : ndarray of Axes
        Shape (1,) for tables, (3, pairs) for images.

    Raises
    ------
    ValueError
        No row has a valid counterfactual.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> cf = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y).explain(X[:20], target=1)
    >>> GroupDisplay.from_explanation(cf, figure=Figure()).axes_.shape
    (1,)
    """

    def __init__(self, cf: Result, *, n: int = 10):
        if n < 1:
            raise ValueError(f"n={n!r} must be at least 1.")
        self.searched_ = cf[np.flatnonzero(cf.status != "already_target")]
        self.there_ = len(cf) - len(self.searched_)
        self.cf = self.searched_[np.flatnonzero(self.searched_.valid)]
        if not len(self.cf):
            raise ValueError(f"There is nothing to draw: none of {count_rows(len(cf))} has a valid counterfactual that "
                             "differs from it. See cf.summary().")
        self.n = n

    @classmethod
    def from_explanation(cls, cf: Result, n: int = 10, *, ax: Axes | None = None,
                         figure: Figure | SubFigure | None = None) -> GroupDisplay:
        """Make the display and draw it; see `plot` for `ax` and `figure`."""
        return cls(cf, n=n).plot(ax, figure=figure)

    def plot(self, ax: Axes | None = None, *, figure: Figure | SubFigure | None = None) -> GroupDisplay:
        """Draw; `ax` and `figure` as in `CounterfactualDisplay.plot`."""
        (self._plot_images if layout_of(self.cf).is_image else self._plot_table)(ax, figure)
        return self

    # ------------------------------------------------------------------------------------------------------------ tables
    def _plot_table(self, ax: Axes | None, figure: Figure | SubFigure | None) -> None:
        cf, changed = self.cf, changed_cells(self.cf)
        share = changed.mean(0)
        order = np.argsort(-share, kind="stable")[: int((share > 0).sum())]
        shown = order[: self.n]
        self.figure_, grid = figure_and_grid(ax, figure, (7.2, 1.7 + 0.36 * max(len(shown), 1)), 1, 1)
        panel = self.figure_.add_subplot(grid[0, 0])
        self.axes_ = np.array([panel])
        categories = category_places(cf.metadata)
        for i, column in enumerate(shown):
            rows, step = changed[:, column], cf.x_cf[:, column].astype(float) - cf.x[:, column]
            if column in categories:
                values, counts = np.unique(cf.x_cf[rows, column], return_counts=True)
                panel.barh(i, 100 * share[column], height=0.62, color=GREY)
                words = f"mostly → {cell_in_words(cf, int(column), values[counts.argmax()])}"
            else:
                up = rows & (step > 0)
                panel.barh(i, 100 * up.mean(), height=0.62, color=VERMILLION)
                panel.barh(i, -100 * (rows & ~up).mean(), height=0.62, color=BLUE)
                middle = float(np.median(step[rows]))
                words = f"median {'−' if middle < 0 else '+'}{number(abs(middle))}"
            panel.text(1.02, i, short(words, 36), transform=panel.get_yaxis_transform(), va="center", fontsize=9)
        panel.set_yticks(range(len(shown)), [wrapped(cf.feature_names[k], 24) for k in shown], fontsize=9)
        panel.set_ylim(max(len(shown), 1) - 0.4, -0.6)
        panel.set_xlim(*(105 * np.array([-1, 1]) if len(shown) else (-1, 1)))
        panel.set_xticks([-100, -50, 0, 50, 100], ["100", "50", "0", "50", "100"])
        panel.axvline(0, color=GREY, linewidth=0.8)
        panel.set_xlabel("← falls · share of the rows (%) · rises, or becomes another category →", fontsize=8, color=GREY)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.spines["bottom"].set_color("#BBBBBB")
        panel.tick_params(axis="y", length=0)
        panel.tick_params(axis="x", labelsize=8, colors=GREY)
        panel.set_title(self._heading(), fontsize=10, loc="left", color=GREY)
        say_rest(self.figure_, ax, len(shown), len(order), "columns that change")

    def _heading(self) -> str:
        valid, searched = len(self.cf), len(self.searched_)
        left_out = [f"{count} more {what}" for count, what in (
            (searched - valid, "not valid"), (self.there_, "already the target")) if count]
        return "; ".join([count_rows(valid), *left_out])

    # ------------------------------------------------------------------------------------------------------------ images
    def _plot_images(self, ax: Axes | None, figure: Figure | SubFigure | None) -> None:
        cf = self.cf
        names = np.array([f"→ {target_in_words(row)}" if cf.is_regression else title(row, 13) for row in cf])
        pairs, counts = np.unique(names, return_counts=True)
        pairs = pairs[np.argsort(-counts, kind="stable")]
        shown = pairs[: self.n]
        _, height, width = layout_of(cf).net_shape
        size = (2.4 + 1.3 * len(shown), 1.2 + 3 * min(max(1.2 * height / width, 0.5), 4.0))
        self.figure_, grid = figure_and_grid(ax, figure, size, len(ROWS), len(shown), "compressed")
        self.axes_ = np.array([[self.figure_.add_subplot(grid[r, c]) for c in range(len(shown))] for r in range(len(ROWS))])
        groups = [np.flatnonzero(names == pair) for pair in shown]
        before, after = as_pictures(cf.x, cf), as_pictures(cf.x_cf, cf)
        difference = difference_pictures(cf)[0]
        changes = [difference[rows].mean(0) for rows in groups]
        most = max(float(np.abs(change).max()) for change in changes)
        for c, (pair, rows) in enumerate(zip(shown, groups, strict=True)):
            for r, picture in enumerate((before[rows].mean(0), after[rows].mean(0))):
                self.axes_[r, c].imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            drawn = draw_change(self.axes_[2, c], changes[c], most)
            self.axes_[0, c].set_title(pair, fontsize=10, fontweight="bold", pad=4)
            self.axes_[2, c].set_xlabel(count_rows(len(rows)), fontsize=8, color=GREY)
        for r, name in enumerate(ROWS):
            for panel in self.axes_[r]:
                frame_picture(panel)
            self.axes_[r, 0].set_ylabel(name.replace(" ", "\n"), fontsize=9, color=GREY, rotation=0, ha="right", va="center")
        change_scale(self.figure_, self.axes_[-1, -1], drawn, most)
        say_rest(self.figure_, ax, len(shown), len(pairs), "pairs of classes", words=self._heading())
