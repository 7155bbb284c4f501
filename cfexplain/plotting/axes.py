"""What several displays draw with: the figure and its grid of places, titles, and the facts of a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cfexplain.foundation.optional import optional_import
from cfexplain.foundation.protocols import Result
from cfexplain.plotting.words import equals, rank, unanswered

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["facts", "figure_and_grid", "new_figure", "short", "source_in_words", "title"]


def figure_and_grid(ax: Axes | None, figure: Figure | SubFigure | None, size: tuple[float, float], lines: int,
                    columns: int, layout: str = "constrained") -> tuple[Any, Any]:
    """The figure, and a grid of `lines` × `columns` places in it or in the area of `ax`."""
    if ax is None:
        figure = new_figure(size, layout) if figure is None else figure
        return figure, figure.add_gridspec(lines, columns)
    if figure is not None:
        raise ValueError("Pass ax or figure, not both.")
    ax.set_axis_off()
    spec, box = ax.get_subplotspec(), ax.get_position()
    if spec is not None:
        return ax.figure, spec.subgridspec(lines, columns)
    return ax.figure, ax.figure.add_gridspec(lines, columns, left=box.x0, right=box.x1, bottom=box.y0, top=box.y1)


def new_figure(size: tuple[float, float], layout: str) -> Figure:
    # made by pyplot, so that notebooks show it; pyplot chooses the backend
    figure = optional_import("matplotlib.pyplot", "plot()").figure(figsize=size, layout=layout)
    if layout == "constrained":
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    return figure


def short(text: Any, most: int) -> str:
    """`text` in one line of at most `most` characters."""
    # matplotlib would read a dollar sign as the start of a formula
    text = " ".join(str(text).split())
    return (text if len(text) <= most else text[: most - 1] + "…").replace("$", r"\$")


def title(row: Result, most: int) -> str:
    """``4 → 9``, in two lines where the labels are long; of a regression ``2.1 → 7``: the value of x and the target."""
    source, target = short(source_in_words(row), most), short(row.target[0], most)
    return f"{source} → {target}" if len(source) + len(target) < most - 2 else f"{source}\n→ {target}"


def source_in_words(row: Result) -> Any:
    return "?" if unanswered(row) else f"{row.source[0]:.3g}" if row.is_regression else row.source[0]


def facts(row: Result) -> str:
    """Two lines: the probability of the target or the predicted value, and plausibility, a percentile, where it is known."""
    percentile = row.density_percentile[0]
    typical = "" if np.isnan(percentile) else f"plausibility {rank(percentile)}"
    predicted = f"says {row.prediction[0]:.3g}" if row.is_regression else f"p {equals(row.proba_after[0])}"
    if row.status[0] == "model_failed":
        predicted = "the model fails"
    return "\n".join(line for line in (predicted, typical) if line)
