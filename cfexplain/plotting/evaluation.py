"""Methods side by side, metric by metric, and the frontier of one method's weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from cfexplain.foundation.optional import optional_import
from cfexplain.foundation.protocols import ComparedMethods, ComparedSettings
from cfexplain.plotting.axes import figure_and_grid, say_rest, short, wrapped
from cfexplain.plotting.pictures import BLUE, GREY, MARKERS, PALETTE, VERMILLION
from cfexplain.plotting.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["EvaluationDisplay", "FrontierDisplay"]

# They tell methods apart when there are more methods than colours
HATCHES = ("", "//", "..", "xx")
COLUMNS = 4
# Means so many times apart are drawn on a logarithmic axis
APART = 30
# Each method's own density decides it, but 50 is the median training row by every one of them
PLAUSIBILITY = "density_percentile"


# Where the label of a point is looked for, in points from it
RINGS = (8, 16, 26, 38, 52, 70)
DIRECTIONS = ((0.8, 0.8), (0.8, -0.8), (-0.8, 0.8), (-0.8, -0.8), (1, 0), (-1, 0), (0, 1), (0, -1))


class EvaluationDisplay:
    """A picture of an `Evaluation`.

    "bar" draws one panel for each metric, with one bar for each method, its mean and the interval of it; a metric that
    failed is labelled. Means that are more than 30 times apart have a logarithmic axis, unless the metric has bounds.
    "radar" draws one spoke for each metric and one polygon for each method: outwards is better on every spoke, and its ends
    are written at its name. A spoke runs from the worst to the best end of all intervals on it, or over the metric's own
    range (0 to 1 for a share), so that differences as small as the noise look small. A method without a value on a spoke has
    no corner there. Plausibility is a percentile by each method's own density.

    Parameters
    ----------
    evaluation : Evaluation
    kind : {"bar", "radar"}, default="bar"
    metrics : list of str, optional
        Which to draw. Default: all; for "radar" plausibility and those that have a direction and intervals, and can be
        compared.

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
        methods = len(self.evaluation.results)
        size = (8.5, 6.4) if self.kind == "radar" else (2.3 * columns + 2.2, (1.0 + 0.36 * max(methods, 2)) * lines + 0.3)
        self.figure_, grid = figure_and_grid(ax, figure, size, lines, columns)
        if self.kind == "radar":
            self.ax_ = self.figure_.add_subplot(grid[0, 0], projection="polar")
            _draw_radar(self.evaluation, self.metrics, self.ax_)
        else:
            self.ax_ = np.array([self.figure_.add_subplot(grid[divmod(i, columns)]) for i in range(len(self.metrics))])
            for i, (axes, name) in enumerate(zip(self.ax_, self.metrics, strict=True)):
                _draw_bars(self.evaluation, name, axes, named=i % columns == 0)
            interval = f"lines: {100 * self.evaluation.confidence_level:g} % interval of the mean"
            say_rest(self.figure_, ax, 0, 0, words=f"→ more is better, ← less is better · {interval}")
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
        made = ax is None
        if ax is None:
            self.figure_, grid = figure_and_grid(None, figure, (6.4, 4.6), 1, 1)
            ax = self.figure_.add_subplot(grid[0, 0])
        elif figure is not None:
            raise ValueError("Pass ax or figure, not both.")
        self.figure_, self.ax_ = ax.figure, ax
        frontier, good = self.frontier, self.frontier.optimal
        labels: list[tuple[str, str]] = []
        for k, (entry, point) in enumerate(zip(frontier.evaluation.table.values(), frontier.means, strict=True)):
            # the bootstrap interval of few, skewed rows need not hold the mean
            ends = [np.maximum([[value - entry[axis].low], [entry[axis].high - value]], 0)
                    for axis, value in zip((frontier.x, frontier.y), point, strict=True)]
            color = BLUE if good[k] else GREY
            ax.errorbar(point[0], point[1], xerr=ends[0], yerr=ends[1], fmt="none", ecolor=color, elinewidth=0.8, alpha=0.35,
                        zorder=1)
            ax.plot(*point, "o", color=color, markerfacecolor=BLUE if good[k] else "white", zorder=3)
            weights, share = ", ".join(f"{weight:g}" for weight in frontier.settings[k].values()), frontier.validity[k]
            labels.append((weights if share == 1 else f"{weights} ({math.floor(100 * share)} % valid)",
                           GREY if share == 1 else VERMILLION))
        front = frontier.means[good]
        ax.plot(*front[np.argsort(front[:, 0])].T, color=BLUE, linewidth=1.2, zorder=1)
        x, y = (_axis_label(frontier.evaluation, axis) for axis in (frontier.x, frontier.y))
        ax.set(xlabel=x, ylabel=y)
        ax.set_title(wrapped(", ".join(frontier.settings[0]), 60), fontsize=10, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
        ax.margins(0.12)
        if made:
            say_rest(self.figure_, None, 0, 0, words=f"filled: no setting is better on both axes · lines: "
                     f"{100 * frontier.evaluation.confidence_level:g} % intervals of the means")
        _place_labels(ax, frontier.means, labels)
        return self


def _place_labels(ax: Axes, means: np.ndarray, labels: list[tuple[str, str]]) -> None:
    """Labels beside their points where they cover no point and no other label; those further off have a line."""
    ax.figure.figure.draw_without_rendering()  # the layout decides how far apart points are
    spots = ax.transData.transform(means) * 72 / ax.figure.dpi
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in spots]
    for k in np.argsort(spots[:, 1], kind="stable"):
        text, color = labels[k]
        width, height = 4.6 * len(text) + 2, 10.0
        for ring, direction in itertools.product(RINGS, DIRECTIONS):
            x, y = ring * np.array(direction)
            left = spots[k, 0] + (x if x > 0 else x - width if x < 0 else -width / 2)
            box = (left, spots[k, 1] + y - height / 2, left + width, spots[k, 1] + y + height / 2)
            if not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                break
        taken.append(box)
        ax.annotate(text, means[k], (x, y), textcoords="offset points", fontsize=8, color=color, va="center",
                    ha="left" if x > 0 else "right" if x < 0 else "center", zorder=4,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
                    arrowprops={"arrowstyle": "-", "linewidth": 0.6, "color": GREY} if ring > RINGS[0] else None)


def _axis_label(evaluation: ComparedMethods, name: str) -> str:
    metric = evaluation.metrics[name]
    return short(metric.heading, 40) + {"up": ", more is better", "down": ", less is better", "none": ""}[metric.better]


def _draw_bars(evaluation: ComparedMethods, name: str, ax: Axes, named: bool) -> None:
    metric, methods = evaluation.metrics[name], list(evaluation.results)
    entries = [evaluation.table[method][name] for method in methods]
    means = np.array([entry.mean for entry in entries])
    positive = means[means > 0]
    apart = (metric.range is None and len(positive) > 1 and positive.max() > APART * positive.min()
             and not (means < 0).any())
    if apart:
        ax.set_xscale("log")
    start = positive.min() / 3 if apart else 0.0
    for i, (method, entry) in enumerate(zip(methods, entries, strict=True)):
        if np.isnan(entry.mean):
            what = "failed" if (method, name) in evaluation.failures else "none"
            ax.text(0.02, i, what, transform=ax.get_yaxis_transform(), va="center", fontsize=8, color=VERMILLION)
            continue
        ax.barh(i, max(entry.mean - start, 0.0) if apart else entry.mean, left=start, height=0.62,
                color=PALETTE[i % len(PALETTE)], edgecolor="white", hatch=HATCHES[i // len(PALETTE) % len(HATCHES)])
        if not np.isnan(entry.low):
            ax.plot([max(entry.low, start) if apart else entry.low, entry.high], [i, i], color="black", linewidth=1.2,
                    solid_capstyle="butt")
        ax.text(1.03, i, number(entry.mean).replace("-", "−"), transform=ax.get_yaxis_transform(), va="center", fontsize=8,
                color=GREY)
    ax.set_yticks(range(len(methods)), [wrapped(method, 22) if named else "" for method in methods], fontsize=8)
    ax.set_ylim(len(methods) - 0.4, -0.6)
    way = {"up": "→", "down": "←", "none": ""}[metric.better]
    ax.set_title(f"{wrapped(metric.heading, 24)} {way}", fontsize=9, loc="left")
    if metric.range is not None and metric.range[0] == 0:
        ax.set_xlim(0, 1.02 * metric.range[1])
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", which="both", labelsize=8, colors=GREY)
    if not apart:
        ax.locator_params(axis="x", nbins=3)


def _spokes(evaluation: ComparedMethods) -> list[str]:
    def measured(name: str) -> bool:
        return not all(np.isnan(entry[name].low) for entry in evaluation.table.values())

    return [name for name, metric in evaluation.metrics.items()
            if metric.sign and (evaluation.comparable[name] or name == PLAUSIBILITY) and measured(name)]


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


def _spoke_in_words(evaluation: ComparedMethods, name: str, inner: float, outer: float) -> str:
    """``low steps`` where less is better, so that every spoke is named for what is good, and its two ends."""
    title = "plausibility, own density" if name == PLAUSIBILITY else (
        name if evaluation.metrics[name].sign > 0 else f"low {name}")
    ends = f"rim {number(outer)}, centre {number(inner)}".replace("-", "−")
    return f"{wrapped(title.replace('_', ' '), 22)}\n{ends}"


def _draw_radar(evaluation: ComparedMethods, names: list[str], ax: Any) -> None:
    ticker = optional_import("matplotlib.ticker", "plot()")
    angles = np.linspace(0, 2 * np.pi, len(names), endpoint=False)
    spokes = [radius(evaluation, name) for name in names]
    for i, method in enumerate(evaluation.results):
        reach = np.array([radii[i] for radii, _, _ in spokes])
        ax.plot(np.append(angles, angles[0]), np.append(reach, reach[0]), color=PALETTE[i % len(PALETTE)], linewidth=1.6,
                marker=MARKERS[i % len(MARKERS)], markersize=4, label=wrapped(method, 36))
    ax.set_theta_offset(np.pi / 2)
    ax.set_theta_direction(-1)
    ax.set_xticks(angles, [_spoke_in_words(evaluation, name, inner, outer)
                           for name, (_, inner, outer) in zip(names, spokes, strict=True)], fontsize=8)
    for label, angle in zip(ax.get_xticklabels(), angles, strict=True):  # beside the rim, not across it
        label.set_horizontalalignment("center" if abs(np.sin(angle)) < 0.1 else "left" if np.sin(angle) > 0 else "right")
        label.set_verticalalignment("bottom" if np.cos(angle) > 0.5 else "top" if np.cos(angle) < -0.5 else "center")
    ax.tick_params(axis="x", pad=4)
    ax.set_title("outwards is better on every spoke", fontsize=9, color=GREY, pad=14)
    ax.set_ylim(0, 1.05)
    ax.yaxis.set_major_locator(ticker.FixedLocator([0.25, 0.5, 0.75, 1.0]))
    ax.set_yticklabels([])
    ax.grid(color="#DDDDDD", linewidth=0.6)
    ax.spines["polar"].set_visible(False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8, frameon=False, ncols=2)
