"""What several displays draw with: the figure and its grid of places, titles, and the facts of a row."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from cfexplain.foundation.optional import optional_import
from cfexplain.foundation.protocols import Result
from cfexplain.plotting.pictures import BLUE, GREY, VERMILLION
from cfexplain.plotting.words import equals, rank, target_in_words, unanswered

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["change_scale", "draw_change", "facts", "figure_and_grid", "frame_picture", "new_figure", "say_rest", "short",
           "source_in_words", "title", "wrapped"]


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


def frame_picture(ax: Axes) -> None:
    """A thin frame and no ticks."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(color="#BBBBBB", linewidth=0.6)


def draw_change(ax: Axes, change: np.ndarray, most: float) -> Any:
    """Differences of pixels, (H, W): orange is more, blue is less, white is none; `most` is at the ends of the colours."""
    colors = optional_import("matplotlib.colors", "plot()")
    signed = colors.LinearSegmentedColormap.from_list("cfexplain_signed", [BLUE, "white", VERMILLION])
    return ax.imshow(change, cmap=signed, vmin=-(most or 1.0), vmax=most or 1.0, interpolation="nearest")


def change_scale(figure: Figure | SubFigure, ax: Axes, drawn: Any, most: float) -> None:
    """The scale of `draw_change`, inside `ax`: a colour bar with axes of its own would shift the other pictures."""
    bar = figure.colorbar(drawn, cax=ax.inset_axes((1.08, 0, 0.08, 1)))
    bar.set_ticks([-most, 0, most] if most else [0])
    bar.ax.set_yticklabels([f"−{most:.2g}", "0", f"+{most:.2g}"] if most else ["0"])
    bar.ax.tick_params(labelsize=8, length=0, colors=GREY)
    bar.outline.set_visible(False)


def wrapped(text: Any, width: int, lines: int = 2) -> str:
    """`text` in at most `lines` lines of about `width` characters; where that is too little, it is cut in its middle.

    A word that is longer than a line is broken, after a sign such as ``_`` or ``/`` where it has one. Both ends of a name
    are kept, since names of columns often differ at their ends only.

    >>> wrapped("number_of_open_credit_lines", 16)
    'number_of_open_\\ncredit_lines'
    >>> wrapped("share of the instalments that were paid on time last year", 16)
    'share of the…\\ntime last year'
    """
    parts = [part for part in re.split(r"(?<=[\s_/\-.,;:])", " ".join(str(text).split())) if part]
    parts = [part[i : i + width] for part in parts for i in range(0, len(part), width)]
    filled = [""]
    for part in parts:
        if len((filled[-1] + part).rstrip()) > width:
            filled.append("")
        filled[-1] += part
    if len(filled) > lines:
        last = ""
        for part in reversed(parts):
            if len(part + last) > width:
                break
            last = part + last
        head = filled[: lines - 1]
        filled = [*head[:-1], f"{head[-1].rstrip()}…", last] if head else [short(text, width)]
    return "\n".join(line.strip() for line in filled).replace("$", r"\$")


def say_rest(figure: Figure | SubFigure, ax: Axes | None, drawn: int, total: int, what: str = "rows",
             words: str = "") -> None:
    """Lines beneath the picture: `words`, and how many were left out, if any were."""
    rest = f"{drawn} of {total} {what} are drawn; n={total} draws all" if drawn < total else ""
    text = "\n".join(line for line in (words, rest) if line)
    if not text:
        return
    if ax is None:
        figure.supxlabel(text, fontsize=9, color=GREY)
    else:
        ax.text(0.5, 0, text, transform=ax.transAxes, fontsize=9, color=GREY, ha="center", va="top")


def title(row: Result, most: int) -> str:
    """``4 → 9``, below each other and wrapped where the labels are long; of a regression ``2.1 → 7``: value and target."""
    source, target = str(source_in_words(row)), target_in_words(row)
    if len(source) + len(target) < most - 2:
        return f"{short(source, most)} → {short(target, most)}"
    return f"{wrapped(source, most)}\n→ {wrapped(target, most - 2)}"


def source_in_words(row: Result) -> Any:
    return "?" if unanswered(row) else f"{row.source[0]:.3g}" if row.is_regression else row.source[0]


def facts(row: Result) -> str:
    """Two lines: the probability of the target or the predicted value, and plausibility, a percentile, where it is known.

    Of a row that was not searched, that it had the target already.
    """
    percentile = row.density_percentile[0]
    typical = "" if np.isnan(percentile) else f"plausibility {rank(percentile)}"
    predicted = f"says {row.prediction[0]:.3g}" if row.is_regression else f"p {equals(row.proba_after[0])}"
    if row.status[0] == "model_failed":
        predicted = "the model fails"
    if row.status[0] == "already_target":  # nothing was searched, so that how typical it is says nothing about a search
        predicted, typical = "already the target", predicted
    return "\n".join(line for line in (predicted, typical) if line)
