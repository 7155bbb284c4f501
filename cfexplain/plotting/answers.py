"""The answers of each row side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cfexplain.foundation.protocols import Result
from cfexplain.plotting.axes import facts, figure_and_grid, frame_picture, say_rest, source_in_words, title
from cfexplain.plotting.counterfactual import draw_changes, panel_size, slots_of
from cfexplain.plotting.pictures import GREY, VERMILLION, as_pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["AnswersDisplay"]


class AnswersDisplay:
    """All answers of the first rows of X, a line for each row.

    Images stand beside their original; of tables each answer has its largest changes. An answer that does not count, because
    the model says something else or because it repeats one before it, is marked.

    Parameters
    ----------
    cf : Counterfactuals
        Of ``explain(X, k=…)``.
    n : int, default=8
        Draw at most so many rows of X.
    max_changes : int, default=5
        Bars for each answer of a table.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
    axes_ : ndarray of Axes
        Shape (rows, 1 + k) for images, (rows, k) for tables.

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
    >>> cf = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y).explain(X[:3], target=1, k=2)
    >>> AnswersDisplay.from_explanation(cf, figure=Figure()).axes_.shape
    (3, 2)
    """

    def __init__(self, cf: Result, *, n: int = 8, max_changes: int = 5):
        if len(cf) == 0:
            raise ValueError("There is nothing to draw: this result has no rows.")
        if n < 1 or max_changes < 1:
            raise ValueError(f"n={n!r} and max_changes={max_changes!r} must be at least 1.")
        self.cf, self.n, self.max_changes = cf, n, max_changes

    @classmethod
    def from_explanation(cls, cf: Result, n: int = 8, *, max_changes: int = 5, ax: Axes | None = None,
                         figure: Figure | SubFigure | None = None) -> AnswersDisplay:
        """Make the display and draw it; see `plot` for `ax` and `figure`."""
        return cls(cf, n=n, max_changes=max_changes).plot(ax, figure=figure)

    def plot(self, ax: Axes | None = None, *, figure: Figure | SubFigure | None = None) -> AnswersDisplay:
        """Draw; `ax` and `figure` as in `CounterfactualDisplay.plot`."""
        cf = self.cf
        rows = np.arange(len(cf)) if cf.row is None else cf.row
        groups = [cf[np.flatnonzero(rows == row)] for row in np.unique(rows)[: self.n]]
        columns, image = max(map(len, groups)), cf.is_image
        slots = 0 if image else max(slots_of(group, self.max_changes) for group in groups)
        panels = [(1.3, 1.65)] if image else [panel_size(group, self.max_changes) for group in groups]
        size = max(width for width, _ in panels) * (columns + image), max(height for _, height in panels) * len(groups)
        self.figure_, grid = figure_and_grid(ax, figure, size, len(groups), columns + image, "constrained")
        self.axes_ = np.array([[self.figure_.add_subplot(grid[r, c]) for c in range(columns + image)]
                               for r in range(len(groups))])
        for place, panel in enumerate(self.axes_[0, 1:] if image else [], 1):
            panel.set_title(f"answer {place}", fontsize=8, color=GREY, pad=3)
        for group, line in zip(groups, self.axes_, strict=True):
            for spare in line[len(group) + image :]:
                spare.axis("off")
            if image:
                _draw_pictures(group, line)
            else:
                for answer, panel in zip(group, line, strict=False):
                    draw_changes(answer, panel, self.max_changes, slots)
        say_rest(self.figure_, ax, len(groups), len(np.unique(rows)))
        return self


def _draw_pictures(group: Result, line: np.ndarray) -> None:
    original, answers = as_pictures(group.x[:1], group)[0], as_pictures(group.x_cf, group)
    for panel, picture in zip(line, [original, *answers], strict=False):
        panel.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        frame_picture(panel)
    line[0].set_title(title(group[0], 11) if len(np.unique(group.target)) == 1 else source_in_words(group[0]), fontsize=9,
                      fontweight="bold", pad=3)
    for answer, panel in zip(group, line[1:], strict=False):
        words, counts = facts(answer), bool(answer.valid[0])
        panel.set_xlabel(words if counts else str(answer.status[0]).replace("_", " "), fontsize=7.5, labelpad=2,
                         color=GREY if counts else VERMILLION)
        if not counts:
            panel.spines[:].set(color=VERMILLION, linewidth=2, linestyle=(0, (4, 2)))
