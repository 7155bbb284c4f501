"""One row of a report: its pictures or its changed columns, and its facts."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

import numpy as np

from cfexplain.foundation.protocols import Result
from cfexplain.plotting.pictures import as_pictures, difference_pictures, layout_of, png_address
from cfexplain.plotting.words import unanswered
from cfexplain.report.facts import (
    BADGES,
    ICONS,
    cell,
    clipped,
    facts,
    label,
    number,
    numbers,
    predicted_in_words,
    probability,
    status_in_words,
)
from cfexplain.report.images import signed_picture, where_in_words
from cfexplain.tables.frames import category_places, largest_changes

__all__ = ["BLOCK", "blocks", "changed_columns", "largest_difference", "row_fields", "shown_images", "shown_table"]

BLOCK = 64  # so many rows have their pictures in memory at once
MOST_COLUMNS, FIRST_COLUMNS = 60, 8


def blocks(n: int) -> Iterator[slice]:
    return (slice(first, min(first + BLOCK, n)) for first in range(0, n, BLOCK))


def largest_difference(cf: Result) -> float:
    """The largest difference of any row: the scale that all signed pictures share."""
    return max((difference_pictures(cf[cut])[1] for cut in blocks(len(cf))), default=0.0)


def row_fields(row: Result, i: int, sources: dict[str, int], targets: dict[str, int]) -> dict[str, Any]:
    """Values for the template of a row, without its pictures and its path."""
    status = str(row.status[0])
    change = row.prediction[0] - row.source[0] if row.is_regression else row.proba_after[0] - row.proba_before[0]
    source = "–" if unanswered(row) else predicted_in_words(row, row.source[0])
    target = number(row.target[0], 4) if isinstance(row.target[0], float) else label(row.target[0])
    return {
        "number": i, "name": _name(row),
        "status": status, "status_rank": list(BADGES).index(status), "badge": BADGES[status],
        "icon": ICONS[status], "source_index": sources.get(str(row.source[0]), ""),
        "target_index": targets.get(str(row.target[0]), ""), "steps": int(row.n_steps[0]),
        "percentile": _sortable(row.density_percentile[0]), "distance": _sortable(row.distance[0]),
        "distance_x": _sortable(row.distance_x[0]), "change": _sortable(change),
        "from_to": (f'{source}<span aria-hidden="true"> → </span>'
                    f'<span class="unseen"> to </span>{target}'),
        "words": status_in_words(row), "facts": facts(row), "numbers": numbers(row)}


def _name(row: Result) -> str:
    """The row's name, and which answer it is, escaped."""
    name = "" if row.index is None else f", index {label(row.index[0])}"
    return name if row.row is None or row.answer is None else (
        f"{name} (answer {int(row.answer[0]) + 1} for row {int(row.row[0])} of X)")


def _sortable(value: Any) -> str:
    return "" if np.isnan(value) else f"{value:.9g}"


def shown_images(block: Result, first: int, limit: float) -> list[str]:
    """Original, reconstruction, counterfactual and signed difference of each row of `block`, with words for each."""
    pictures = [as_pictures(array, block) for array in (block.x, block.reconstruction, block.x_cf)]
    difference, _ = difference_pictures(block)
    _, height, width = layout_of(block).net_shape
    crisp = "crisp" if max(height, width) <= 32 else ""
    out, says = [], f"the {'regressor' if block.is_regression else 'classifier'} says"
    for i, row in enumerate(block):
        reached = "" if row.is_regression or row.status[0] == "model_failed" else (
            f" The probability of {clipped(row.target[0])} is {probability(row.proba_after[0])}.")
        figures = (
            ("Original", pictures[0][i], f"original: {says} {_before(row)}."),
            ("Reconstruction", pictures[1][i], "reconstruction: what the latent space keeps of the original."),
            ("Counterfactual", pictures[2][i], f"counterfactual: {says} {_after(row)}.{reached}"),
            ("Change", signed_picture(difference[i], limit),
             f"change from original to counterfactual: {where_in_words(difference[i])}."))
        out.append('<ul class="pictures">' + "".join(
            f'<li><figure class="{name.lower()}"><img class="{crisp}{" signed" * (name == "Change")}" '
            f'src="{png_address(picture)}" alt="Row {first + i}, {alt}" width="{width}" height="{height}" loading="lazy" '
            f'decoding="async"><figcaption>{name}</figcaption></figure></li>' for name, picture, alt in figures) + "</ul>")
    return out


def _before(row: Result) -> str:
    return "nothing" if unanswered(row) else _plain(row, row.source[0])


def _after(row: Result) -> str:
    return "nothing" if row.status[0] == "model_failed" else _plain(row, row.prediction[0])


def _plain(row: Result, value: Any) -> str:
    return number(value, 4) if row.is_regression else clipped(value)


def changed_columns(row: Result) -> tuple[list[tuple[int, str, float, float, float]], int]:
    """``(column, name, before, after, scaled change)``, the largest change first, and how many were left out."""
    changes, left_out = largest_changes(row, MOST_COLUMNS)
    places = {name: k for k, name in enumerate(row.feature_names)}
    return [(places[name], name, before, after, change) for name, before, after, change in changes], left_out


def shown_table(row: Result, i: int, with_path: bool) -> str:
    """The changed columns of a table row: from, to, and the change in standard deviations."""
    changes, left_out = changed_columns(row)
    n_columns = int(np.prod(row.x_cf.shape[1:]))
    same = n_columns - len(changes) - left_out
    if not changes:
        return f"<p>None of the {n_columns} columns changed.</p>"
    most = max(abs(change) for *_, change in changes)
    first = f"What changed in row {i}, the largest change first"
    tables = _table(row, changes[:FIRST_COLUMNS], first, most, with_path)
    if len(changes) > FIRST_COLUMNS:
        more = changes[FIRST_COLUMNS:]
        count = f"{len(more)} smaller change{'' if len(more) == 1 else 's'}"
        tables += (f'<details><summary>{count}<span class="unseen"> of row {i}</span></summary>'
                   f'{_table(row, more, f"Smaller changes of row {i}", most, with_path, FIRST_COLUMNS)}</details>')
    rest = [f"{same} of {n_columns} columns did not change."] if same else []
    if left_out:
        rest.append(f"{left_out} still smaller changes are not shown.")
    return tables + _plan(row) + (f'<p class="quiet">{" ".join(rest)}</p>' if rest else "")


def _plan(row: Result) -> str:
    """The changes in order, with what the model says after each; nothing of fewer than two."""
    if row.plans is None or len(row.plans[0]) < 2:
        return ""
    said = (lambda value: number(value, 4)) if row.is_regression else probability
    what = "value" if row.is_regression else f"probability of {label(row.target[0])}"
    lines = ""
    for column, value in zip(row.plans[0][:, 0].astype(int), row.plans[0][:, 1], strict=True):
        before, after = (html.escape(cell(row, column, values[0, column])) for values in (row.x, row.x_cf))
        lines += f"<li><bdi>{clipped(row.feature_names[column])}</bdi> {before} → {after}: {said(value)}</li>"
    return f'<details><summary>Step by step, the cheapest first: the {what} after each</summary><ol>{lines}</ol></details>'


def _table(row: Result, changes: list[tuple[int, str, float, float, float]], caption: str, most: float,
           with_path: bool, start: int = 0) -> str:
    unit = "Change (SD)" if row.metadata.get("feature_scale") else "Change"
    at = '<th scope="col" class="figure at" data-live hidden>At the slider</th>' if with_path else ""
    lines = []
    for k, (column, name, before, after, change) in enumerate(changes, start):
        values = "".join(f'<td class="figure">{html.escape(cell(row, column, value))}</td>' for value in (before, after))
        by = "other" if column in category_places(row.metadata) else _bar(change, most)
        slot = f'<td class="figure at" data-column="{k}" data-live hidden></td>' if with_path else ""
        lines.append(f'<tr><th scope="row"><bdi>{clipped(name)}</bdi></th>{values}{slot}<td>{by}</td></tr>')
    caption = html.escape(caption)
    return (f'<div class="scroll" role="group" aria-label="{caption}"><table><caption>{caption}</caption><thead><tr>'
            '<th scope="col">Column</th><th scope="col" class="figure">From</th><th scope="col" class="figure">To</th>'
            f'{at}<th scope="col">{unit}</th></tr></thead><tbody>{"".join(lines)}</tbody></table></div>')


def _bar(change: float, most: float) -> str:
    """A bar to the left for a decrease or to the right for an increase, and the change as a number."""
    end = 50 + 48 * change / (most or 1)
    left, width = min(50.0, end), abs(end - 50)
    by = f"{change:+.2f}" if abs(change) >= 0.005 else f"{change:+.0e}"
    return (f'<svg class="bar" aria-hidden="true"><line x1="50%" x2="50%" y1="0" y2="12"/><rect y="2" height="8" class='
            f'"{"plus" if change > 0 else "minus"}" x="{left:.1f}%" width="{width:.1f}%"/></svg>'
            f'<span class="by">{by.replace("-", "−")}</span>')
