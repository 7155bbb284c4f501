"""How typical a counterfactual is: its log density among those of real rows of its new class."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils.validation import check_is_fitted

from cfexplain.foundation.protocols import FittedExplainer, Result
from cfexplain.plotting.axes import figure_and_grid, say_rest, short, title
from cfexplain.plotting.path import as_drawn, group_indices
from cfexplain.plotting.pictures import BLUE, GREY, VERMILLION
from cfexplain.plotting.words import rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["DensityDisplay"]

COLUMNS = 3
BINS = 40
# A mark is drawn at its place if it lies at most this many widths of the histogram beside it, else at the edge
REACH = 1.0
# Share of a panel's width that the text of a mark needs
ROOM = 0.45


class DensityDisplay:
    """Each counterfactual among the log densities of the training rows of its new class.

    Filled: log p(z|target) of the target class's training rows, with x′ as a line and its percentile. Outlined: log
    p(z|source) of the source class's training rows, with the original x as a dashed line and its percentile there, which
    says whether x was unusual itself. The prior of `DiffeomorphicExplainer` has one density for all classes; a regressor has
    one group. A mark far beside the histograms is drawn at the edge with an arrow and its value; the lowest 1 % of the
    training rows may lie outside the panel.

    Parameters
    ----------
    cf : Counterfactuals
        At least one row.
    explainer : CounterfactualExplainer
        The fitted one that made it.
    n : int, default=9
        Draw at most so many rows.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
    ax_ : ndarray of Axes, shape (rows,)

    Raises
    ------
    ValueError
        There is no row to draw, or `cf` was not made by `explainer`.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> cf = explainer.explain(X[:3], target=1)
    >>> DensityDisplay.from_explanation(cf, explainer, figure=Figure()).ax_[0].get_xlabel()
    'log density (nats)'
    """

    def __init__(self, cf: Result, explainer: FittedExplainer, *, n: int = 9):
        if len(cf) == 0:
            raise ValueError("There is nothing to draw: this result has no rows.")
        if n < 1:
            raise ValueError(f"n={n!r} must be at least 1.")
        check_is_fitted(explainer)
        explainer = as_drawn(explainer)
        if cf.z.shape[1:] != (explainer.coordinates_.latent_dim_,):
            raise ValueError(f"This result has codes of shape {cf.z.shape[1:]}, but those of the explainer have "
                             f"{explainer.coordinates_.latent_dim_} numbers. Pass the explainer that made it.")
        self.cf, self.explainer, self.n = cf, explainer, n

    @classmethod
    def from_explanation(cls, cf: Result, explainer: FittedExplainer, n: int = 9, *, ax: Axes | None = None,
                         figure: Figure | SubFigure | None = None) -> DensityDisplay:
        """Make the display and draw it; see `plot` for `ax` and `figure`."""
        return cls(cf, explainer, n=n).plot(ax, figure=figure)

    def plot(self, ax: Axes | None = None, *, figure: Figure | SubFigure | None = None) -> DensityDisplay:
        """Draw.

        Parameters
        ----------
        ax : Axes, optional
            The picture takes its place: it is switched off and its area is divided.
        figure : Figure or SubFigure, optional
            Draw into it. By default a new pyplot figure of a fitting size is made.
        """
        cf, density = self.cf[: self.n], self.explainer.density_
        columns = min(COLUMNS, len(cf))
        lines = math.ceil(len(cf) / columns)
        self.figure_, grid = figure_and_grid(ax, figure, (3.6 * columns + 0.8, 2.7 * lines + 0.3), lines, columns)
        target = group_indices(self.explainer, cf.target)
        source = target if cf.is_regression else group_indices(self.explainer, cf.source)
        before = density.score_samples(cf.z, source)
        percentile = density.percentile(before, source)
        self.ax_ = np.array([self.figure_.add_subplot(grid[divmod(i, columns)]) for i in range(len(cf))])
        for i, (row, axes) in enumerate(zip(cf, self.ax_, strict=True)):
            other = None if source[i] == target[i] else density.log_densities_[source[i]]
            _draw(axes, row, density.log_densities_[target[i]], other, float(before[i]), float(percentile[i]))
        say_rest(self.figure_, ax, len(cf), len(self.cf))
        return self


# -------------------------------------------------------------------------------------------------------------- drawing
def _draw(ax: Axes, row: Result, own: np.ndarray, other: np.ndarray | None, before: float, percentile: float) -> None:
    """`own` and `other` are sorted log densities of the target and of another source class; `before` and `percentile` are
    of x."""
    own = own[np.isfinite(own)]
    other = own[:0] if other is None else other[np.isfinite(other)]
    low, high = _limits(own, other)
    after = float(row.log_density[0])
    # the panel is widened to hold a mark nearby; a mark far away becomes an arrow
    near = [mark for mark in (before, after) if low - REACH * (high - low) <= mark <= high + REACH * (high - low)]
    left, right = min([low, *near]), max([high, *near])
    margin = 0.05 * (right - left)
    left, right = left - margin, right + margin
    bins = np.linspace(low, high, BINS + 1).tolist()
    names = ("training rows",) * 2 if row.is_regression else [
        f"training {short(label[0], 18)}" for label in (row.target, row.source)]
    ax.hist(own, bins, density=True, color=BLUE, alpha=0.45, label=names[0])
    if len(other):
        ax.hist(other, bins, density=True, histtype="step", color="black", linewidth=1.1, label=names[1])
    marks = [(before, "x", percentile, "black", (0, (3, 2))), (after, "x′", row.density_percentile[0], VERMILLION, "-")]
    top = ax.get_ylim()[1]
    ax.set(xlim=(left, right), ylim=(0, 1.42 * top))
    for k, (mark, name, place_among, color, style) in enumerate(marks):
        text = f"{name}: plausibility {rank(place_among)}" if np.isfinite(place_among) else name
        height = (1.31 - 0.14 * k) * top
        if left <= mark <= right:
            ax.plot([mark, mark], [0, height], color=color, linestyle=style, linewidth=1.8)
            place = mark
        else:
            under = not mark > right
            value = "−∞" if mark == -np.inf else f"{mark:.3g}".replace("-", "−")
            text = f"◂ {text} ({value})" if under else f"{text} ({value}) ▸"
            place = left if under else right
        # the text stands on the side away from the other mark, if there is room
        share = (place - left) / (right - left)
        to_right = share < 0.5 if not ROOM < share < 1 - ROOM else place >= marks[1 - k][0]
        ax.annotate(text, (place, height), (4 if to_right else -4, 0), textcoords="offset points", va="center",
                    ha="left" if to_right else "right", fontsize=8, color=color, zorder=5,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})
    ax.set_title(title(row, 30), fontsize=10, fontweight="bold", loc="left")
    if not row.valid[0]:
        ax.set_title("not valid", fontsize=8, color=VERMILLION, loc="right")
    ax.set_xlabel("log density (nats)", fontsize=8, color=GREY)
    ax.set_yticks([])
    ax.tick_params(axis="x", labelsize=8, colors=GREY)
    ax.locator_params(axis="x", nbins=5)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=2, handlelength=1.2,
              borderaxespad=0)


def _limits(own: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Ends of the histograms: all but the lowest 1 % of each class."""
    low = min(float(np.quantile(a, 0.01)) for a in (own, other) if len(a))
    high = max(float(a[-1]) for a in (own, other) if len(a))
    return (low, high) if low < high else (low - 0.5, high + 0.5)
