"""Methods side by side, metric by metric, and the frontier of one method's weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from cfexplain.foundation.optional import optional_import
from cfexplain.foundation.protocols import ComparedMethods, ComparedSettings
from cfexplain.plotting.axes import figure_and_grid, short
from cfexplain.plotting.pictures import BLUE, GREY, MARKERS, PALETTE, VERMILLION
from cfexplain.plotting.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["EvaluationDisplay", "FrontierDisplay"]

# They tell methods apart when there are more methods than colours
HATCHES = ("", "//", "..", "xx")
COLUMNS = 4


class EvaluationDisplay:
    """A picture of an `Evaluation`.

    "bar" draws one panel for each metric, with one bar for each method and the interval of its mean; a metric that failed is
    labelled. "radar" draws one spoke for each metric and one polygon for each method: outwards is better. A spoke runs from
    the worst to the best end of all intervals on it, or over the metric's own range (0 to 1 for a share), so that
    differences as small as the noise look small. A method without a value on a spoke has no corner there.

    Parameters
    ----------
    evaluation : Evaluation
    kind : {"bar", "radar"}, default="bar"
    metrics : list of str, optional
        Which to draw. Default: all; for "radar" those that have a direction and intervals, and can be compared.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
    ax_ : Axes of the radar, or ndarray of Axes, one a metric, of the bars

    Raises
    ------
    ValueError
        An unknown kind or metric, or less than three spokes.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer, evaluate
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> report = evaluate(explainer, X[:4], target=1, metrics=["validity", "l2", "steps"])
    >>> EvaluationDisplay.from_evaluation(report, figure=Figure()).ax_.shape
    (3,)
    """

    def __init__(self, evaluation: ComparedMethods, kind: str = "bar", *, metrics: Iterable[str] | None = None):
        if kind not in ("bar", "radar"):
            raise ValueError(f"kind={kind!r} is not known; choose 'bar' or 'radar'.")
        self.evaluation, self.kind = evaluation, kind
        self.metrics = _spokes(evaluation) if metrics is None and kind == "radar" else list(
            evaluation.metrics if metrics is None else metrics)
        unknown = [name for name in self.metrics if name not in evaluation.metrics]
        if unknown or not self.metrics:
            raise ValueError(f"metrics={self.metrics!r} cannot be drawn; choose from {list(evaluation.metrics)}.")
        if kind == "radar":
            aimless = [name for name in self.metrics if not evaluation.metrics[name].sign]
            if len(self.metrics) < 3 or aimless:
                raise ValueError(f"A radar needs at least 3 metrics with a direction, got {self.metrics!r}"
                                 f"{f', of which {aimless} have none' if aimless else ''}. Use kind='bar'.")

    @classmethod
    def from_evaluation(cls, evaluation: ComparedMethods, kind: str = "bar", *, metrics: Iterable[str] | None = None,
                        ax: Axes | None = None, figure: Figure | SubFigure | None = None) -> EvaluationDisplay:
        """Make the display and draw it; see `plot` for `ax` and `figure`."""
        return cls(evaluation, kind, metrics=metrics).plot(ax, figure=figure)

    def plot(self, ax: Axes | None = None, *, figure: Figure | SubFigure | None = None) -> EvaluationDisplay:
        """Draw.

        Parameters
        ----------
        ax : Axes, optional
            The picture takes its place: it is switched off and its area is used.
        figure : Figure or SubFigure, optional
            Draw into it. By default a new pyplot figure of a fitting size is made.
        """
        columns = 1 if self.kind == "radar" else min(COLUMNS, len(self.metrics))
        lines = 1 if self.kind == "radar" else math.ceil(len(self.metrics) / columns)
        size = (7.5, 6.0) if self.kind == "radar" else (2.7 * columns + 0.6, 2.1 * lines + 0.6)
        self.figure_, grid = figure_and_grid(ax, figure, size, lines, columns)
        if self.kind == "radar":
            self.ax_ = self.figure_.add_subplot(grid[0, 0], projection="polar")
            _draw_radar(self.evaluation, self.metrics, self.ax_)
        else:
            self.ax_ = np.array([self.figure_.add_subplot(grid[divmod(i, columns)]) for i in range(len(self.metrics))])
            for axes, name in zip(self.ax_, self.metrics, strict=True):
                _draw_bars(self.evaluation, name, axes)
        return self


class FrontierDisplay:
    """The settings of a `Frontier` as points, with the intervals of both means.

    A line joins the Pareto-optimal ones; the others are hollow. Where not every row is valid, the label says how many are.

    Parameters
    ----------
    frontier : Frontier

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
    ax_ : matplotlib Axes

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer, compare_frontier
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> frontier = compare_frontier(explainer, X[:4], target=1, weights={"distance_weight": [0.1, 1]})
    >>> FrontierDisplay.from_frontier(frontier, figure=Figure()).ax_.get_xlabel()
    'l2 (of x), less is better'
    """

    def __init__(self, frontier: ComparedSettings):
        self.frontier = frontier

    @classmethod
    def from_frontier(cls, frontier: ComparedSettings, *, ax: Axes | None = None,
                      figure: Figure | SubFigure | None = None) -> FrontierDisplay:
        """Make the display and draw it; see `plot` for `ax` and `figure`."""
        return cls(frontier).plot(ax, figure=figure)

    def plot(self, ax: Axes | None = None, *, figure: Figure | SubFigure | None = None) -> FrontierDisplay:
        """Draw into `ax`, into `figure`, or into a new pyplot figure."""
        if ax is None:
            self.figure_, grid = figure_and_grid(None, figure, (6.4, 4.6), 1, 1)
            ax = self.figure_.add_subplot(grid[0, 0])
        elif figure is not None:
            raise ValueError("Pass ax or figure, not both.")
        self.figure_, self.ax_ = ax.figure, ax
        frontier, good = self.frontier, self.frontier.optimal
        for k, (entry, point) in enumerate(zip(frontier.evaluation.table.values(), frontier.means, strict=True)):
            # the bootstrap interval of few, skewed rows need not hold the mean
            ends = [np.maximum([[value - entry[axis].low], [entry[axis].high - value]], 0)
                    for axis, value in zip((frontier.x, frontier.y), point, strict=True)]
            ax.errorbar(point[0], point[1], xerr=ends[0], yerr=ends[1], fmt="o", color=BLUE if good[k] else GREY,
                        markerfacecolor=BLUE if good[k] else "white", elinewidth=0.8, zorder=2)
            weights = ", ".join(f"{weight:g}" for weight in frontier.settings[k].values())
            share = frontier.validity[k]
            label = weights if share == 1 else f"{weights} ({math.floor(100 * share)} % valid)"
            ax.annotate(label, point, (5, 5), textcoords="offset points", fontsize=8,
                        color=GREY if share == 1 else VERMILLION)
        front = frontier.means[good]
        ax.plot(*front[np.argsort(front[:, 0])].T, color=BLUE, linewidth=1.2, zorder=1)
        labels = [_axis_label(frontier.evaluation, axis) for axis in (frontier.x, frontier.y)]
        ax.set(xlabel=labels[0], ylabel=labels[1])
        ax.set_title(short(", ".join(frontier.settings[0]), 60), fontsize=10, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
        ax.margins(0.12)
        return self


def _axis_label(evaluation: ComparedMethods, name: str) -> str:
    metric = evaluation.metrics[name]
    return short(metric.heading, 40) + {"up": ", more is better", "down": ", less is better", "none": ""}[metric.better]


def _draw_bars(evaluation: ComparedMethods, name: str, ax: Axes) -> None:
    metric, methods = evaluation.metrics[name], list(evaluation.results)
    for i, method in enumerate(methods):
        entry = evaluation.table[method][name]
        if np.isnan(entry.mean):
            what = "failed" if (method, name) in evaluation.failures else "none"
            ax.text(0.02, i, what, transform=ax.get_yaxis_transform(), va="center", fontsize=8, color=VERMILLION)
            continue
        ax.barh(i, entry.mean, height=0.62, color=PALETTE[i % len(PALETTE)], edgecolor="white",
                hatch=HATCHES[i // len(PALETTE) % len(HATCHES)])
        if not np.isnan(entry.low):
            ax.plot([entry.low, entry.high], [i, i], color="black", linewidth=1.2, solid_capstyle="butt")
    ax.set_yticks(range(len(methods)), [short(method, 24) for method in methods], fontsize=8)
    ax.set_ylim(len(methods) - 0.4, -0.6)
    way = {"up": "→", "down": "←", "none": ""}[metric.better]
    ax.set_title(f"{short(metric.heading, 34)} {way}", fontsize=9, loc="left")
    if metric.range == (0.0, 1.0):
        ax.set_xlim(0, 1.02)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=8, colors=GREY)
    ax.locator_params(axis="x", nbins=4)


def _spokes(evaluation: ComparedMethods) -> list[str]:
    return [name for name, metric in evaluation.metrics.items() if metric.sign and evaluation.comparable[name]
            and not all(np.isnan(entry[name].low) for entry in evaluation.table.values())]


def radius(evaluation: ComparedMethods, name: str) -> tuple[np.ndarray, float, float]:
    """How far out each method lies on the spoke of a metric, in [0, 1], NaN for none; and the values at 0 and at 1."""
    metric, entries = evaluation.metrics[name], [table[name] for table in evaluation.table.values()]
    means = np.array([entry.mean for entry in entries])
    seen = np.array([value for entry in entries for value in (entry.mean, entry.low, entry.high) if not np.isnan(value)])
    low, high = metric.range or (seen.min(initial=np.inf), seen.max(initial=-np.inf))
    inner, outer = (low, high) if metric.sign > 0 else (high, low)
    if low == high:  # all methods are equally good
        return np.where(np.isnan(means), np.nan, 1.0), inner, outer
    return np.clip((means - inner) / (outer - inner), 0, 1), inner, outer


def _draw_radar(evaluation: ComparedMethods, names: list[str], ax: Any) -> None:
    ticker = optional_import("matplotlib.ticker", "plot()")
    angles = np.linspace(0, 2 * np.pi, len(names), endpoint=False)
    spokes = [radius(evaluation, name) for name in names]
    for i, method in enumerate(evaluation.results):
        reach = np.array([radii[i] for radii, _, _ in spokes])
        ax.plot(np.append(angles, angles[0]), np.append(reach, reach[0]), color=PALETTE[i % len(PALETTE)], linewidth=1.6,
                marker=MARKERS[i % len(MARKERS)], markersize=4, label=short(method, 30))
    ax.set_theta_offset(np.pi / 2)
    ax.set_theta_direction(-1)
    ax.set_xticks(angles, [f"{short(name, 24)}\n{number(inner)} → {number(outer)}"
                           for name, (_, inner, outer) in zip(names, spokes, strict=True)], fontsize=8)
    ax.tick_params(axis="x", pad=12)
    ax.set_ylim(0, 1.05)
    ax.yaxis.set_major_locator(ticker.FixedLocator([0.25, 0.5, 0.75, 1.0]))
    ax.set_yticklabels([])
    ax.grid(color="#DDDDDD", linewidth=0.6)
    ax.spines["polar"].set_visible(False)
    ax.legend(loc="lower left", bbox_to_anchor=(1.05, 0.0), fontsize=8, frameon=False)
