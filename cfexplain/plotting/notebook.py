"""A result as HTML for a notebook: summary, table and pictures in one self-contained string."""

from __future__ import annotations

import html

import numpy as np

from cfexplain.foundation.in_words import probability
from cfexplain.foundation.protocols import Result
from cfexplain.plotting.pictures import BLUE, VERMILLION, as_pictures, difference_pictures, png_address, rgb
from cfexplain.plotting.words import changes_in_words, rank, summary, target_in_words, unanswered

__all__ = ["fragment"]


def fragment(cf: Result, most: int) -> str:
    """Summary and table of at most `most` rows; every text of the user's is escaped."""
    words = html.escape(summary(cf)).replace("\n", "<br>")
    shown = cf[:most]
    if len(shown) == 0:
        return f"<div><p>{words}</p></div>"
    image = cf.is_image
    what = ("Original", "Reconstruction", "Counterfactual", "Change") if image else ("Largest changes",)
    regression = cf.is_regression
    head = "".join(f'<th scope="col" style="text-align:left">{h}</th>' for h in (
        "Row", *what, "From → to", "Status", "Value" if regression else "p(target)", "Plausibility", "Steps"))
    pictures = _inline_pictures(shown) if image else None
    lines = []
    for i, row in enumerate(shown):
        which = str(i) if row.row is None or row.answer is None else f"{row.row[0]}, answer {row.answer[0] + 1}"
        cells = [which, *(pictures[i] if pictures else [html.escape(changes_in_words(row, 4))])]
        source = "–" if unanswered(row) else f"{row.source[0]:.4g}" if regression else row.source[0]
        cells.append(html.escape(f"{source} → {target_in_words(row)}"))
        says = "the model fails" if row.status[0] == "model_failed" else f"says {html.escape(str(row.prediction[0]))}"
        outcome = "valid" if row.valid[0] else f"<strong>not valid</strong>: {says}"
        cells.append(f"{outcome}<br><small>{row.status[0]}</small>")
        cells.append(f"{row.source[0]:.4g} → {row.prediction[0]:.4g}" if regression else
                     html.escape(" → ".join(probability(p).replace(" ", "\u00a0") for p in (
                         row.proba_before[0], row.proba_after[0]))))
        percentile = row.density_percentile[0]
        cells.extend(["–" if np.isnan(percentile) else rank(percentile), str(int(row.n_steps[0]))])
        lines.append("<tr>" + "".join(f'<td style="text-align:left">{cell}</td>' for cell in cells) + "</tr>")
    note = "Change: orange is brighter than the original, blue is darker." if image else ""
    if len(cf) > len(shown):
        note += f" The first {len(shown)} of {len(cf)} rows."
    return (f'<div><p>{words}</p><table style="border-collapse:collapse"><caption style="caption-side:bottom;'
            f'text-align:left">{note.strip()}</caption><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody>'
            "</table></div>")


def _inline_pictures(cf: Result) -> list[list[str]]:
    """Four ``<img>`` for each row."""
    blue, orange = rgb(BLUE), rgb(VERMILLION)
    difference, most = difference_pictures(cf)
    signed = (difference / (most or 1))[..., None]
    colored = 1 + np.maximum(signed, 0) * (orange - 1) + np.maximum(-signed, 0) * (blue - 1)
    kinds = {"original, classified as": (as_pictures(cf.x, cf), cf.source),
             "reconstruction of the original, classified as": (as_pictures(cf.reconstruction, cf), cf.source),
             "counterfactual, classified as": (as_pictures(cf.x_cf, cf), cf.prediction),
             "change on the way to": (colored, cf.target)}
    return [[_img(pictures[i], f"Row {i}: {kind} {labels[i]}") for kind, (pictures, labels) in kinds.items()]
            for i in range(len(cf))]


def _img(picture: np.ndarray, alt: str) -> str:
    return (f'<img src="{png_address(picture)}" alt="{html.escape(alt)}" title="{html.escape(alt)}" width="72" '
            'style="image-rendering:pixelated;border:1px solid #bbb">')
