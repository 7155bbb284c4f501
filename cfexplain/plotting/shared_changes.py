"""A group's shared changes: how many rows they carry over, at what cost, and what recourse costs each part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cfexplain.foundation.in_words import count_rows
from cfexplain.plotting.axes import figure_and_grid, wrapped
from cfexplain.plotting.pictures import BLUE, GREY, VERMILLION
from cfexplain.plotting.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["SharedChangesDisplay"]


class SharedChangesDisplay:
    """What `summarize_group` found: for each shared change the rows it carries over and its mean cost, with those that the
    changes before it did not in colour; below, for each part of the group, the share of rows that the shared changes carry
    over, and the median cost of a counterfactual of their own.

    Parameters
    ----------
    summary : GroupSummary

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
    axes_ : ndarray of Axes, shape (2,)
    """

    def __init__(self, summary: Any):
        if not summary.changes:
            raise ValueError("There is nothing to draw: no change of one row carries another over.")
        self.summary = summary

    def plot(self, ax: Axes | None = None, *, figure: Figure | SubFigure | None = None) -> SharedChangesDisplay:
        """Draw; `ax` and `figure` as in `CounterfactualDisplay.plot`."""
        summary, changes, parts = self.summary, self.summary.changes, self.summary.parts
        self.figure_, grid = figure_and_grid(ax, figure, (7.6, 1.9 + 0.55 * len(changes) + 0.4 * len(parts)), 2, 1)
        self.axes_ = np.array([self.figure_.add_subplot(grid[i, 0]) for i in range(2)])
        new = np.diff(np.concatenate([[0.0], np.asarray(summary.coverage, dtype=float)]))
        for i, (change, fresh) in enumerate(zip(changes, new, strict=True)):
            covered = 100 * float(change.covered.mean())
            self.axes_[0].barh(i, covered, height=0.6, color="#DDDDDD")
            self.axes_[0].barh(i, 100 * fresh, height=0.6, color=VERMILLION)
            self.axes_[0].text(1.01, i, f"cost {number(change.cost)}", transform=self.axes_[0].get_yaxis_transform(),
                               va="center", fontsize=9)
        self._label(self.axes_[0], [wrapped(change.words, 40) for change in changes],
                    "rows carried over (%); in colour those that no change above it does")
        self.axes_[0].set_title(f"{count_rows(len(changes[0].covered))}; together "
                                f"{100 * float(summary.coverage[-1]):.0f} % of them", fontsize=10, loc="left", color=GREY)
        for i, part in enumerate(parts):
            self.axes_[1].barh(i, 100 * part["coverage"], height=0.6, color=BLUE)
            own = f"own cost {number(part['cost'])}" if np.isfinite(part["cost"]) else "none has its own"
            self.axes_[1].text(1.01, i, own, transform=self.axes_[1].get_yaxis_transform(), va="center", fontsize=9)
        self._label(self.axes_[1], [f"{wrapped(part['name'], 30)} ({part['rows']})" for part in parts],
                    "rows of each part that the shared changes carry over (%)")
        return self

    @staticmethod
    def _label(panel: Axes, names: list[str], what: str) -> None:
        panel.set_yticks(range(len(names)), names, fontsize=9)
        panel.set_ylim(max(len(names), 1) - 0.4, -0.6)
        panel.set_xlim(0, 100)
        panel.set_xlabel(what, fontsize=8, color=GREY)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
        panel.tick_params(axis="x", labelsize=8, colors=GREY)
