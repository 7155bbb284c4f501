"""What a report says of one row: status, probabilities, plausibility, in words and in small drawings."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cfexplain.plotting.words import _MEANING, is_regression
from cfexplain.tables.frames import category_places, cell_in_words

if TYPE_CHECKING:
    from cfexplain.result import Counterfactuals

__all__ = ["BADGES", "ICONS", "cell", "clipped", "facts", "label", "number", "numbers", "probability", "status_in_words"]

BADGES = {"converged": "Found", "step_budget": "Found, but incomplete", "already_target": "Already there",
          "not_found": "Not found"}
# A shape each, so that colour is not all that tells them apart
_SHAPES = {"converged": "M3 8.5l3.5 3.5L13 4.5", "step_budget": "M3 10c2-4 3.5-4 5-2s3 2 5-2",
           "already_target": "M3 6h10M3 10h10", "not_found": "M4 4l8 8M12 4l-8 8"}
ICONS = {status: f'<svg viewBox="0 0 16 16" aria-hidden="true"><path d="{shape}"/></svg>'
         for status, shape in _SHAPES.items()}
LONGEST = 120


def clipped(text: Any, most: int = LONGEST) -> str:
    """`text` in one line of at most `most` characters, escaped."""
    words = " ".join(str(text).split())
    return html.escape(words if len(words) <= most else words[: most - 1] + "…")


def label(text: Any) -> str:
    """A label of the user's, escaped, whose writing direction cannot turn its neighbours around."""
    return f"<bdi>{clipped(text)}</bdi>"


def number(value: Any, digits: int = 3) -> str:
    return "–" if not np.isfinite(value) else f"{value:.{digits}g}".replace("-", "−")


def probability(p: float) -> str:
    """Two digits, but never a 1.00 or a 0.00 that is not one."""
    if not np.isfinite(p):
        return "–"
    return "&gt;\u00a00.99" if 0.995 <= p < 1 else "&lt;\u00a00.01" if 0 < p < 0.005 else f"{p:.2f}"


def cell(row: Counterfactuals, column: int, value: float) -> str:
    """One value of a table, as plain text: a category's name, "missing", or a number."""
    if not np.isfinite(value) and not np.isnan(value):
        return "–"
    text = cell_in_words(row, column, value)
    return text if column in category_places(row.metadata) else text.replace("-", "−")


def said(row: Counterfactuals, value: Any) -> str:
    """What the model says, as the user calls it."""
    return number(value, 4) if is_regression(row) else label(value)


def status_in_words(row: Counterfactuals) -> str:
    """One or two sentences, escaped."""
    model = "regressor" if is_regression(row) else "classifier"
    status, after, target = row.status[0], said(row, row.prediction[0]), label(row.target[0])
    if status == "already_target":
        return f"Already there: the {model} said {said(row, row.source[0])} before. Nothing was changed."
    unmet = [_MEANING.get(name, name) for name, held in row.conditions.items() if not held[0]]
    if not row.valid[0]:
        still = "still says" if not is_regression(row) and row.prediction[0] == row.source[0] else "says"
        return f"Not found: the {model} {still} {after}, not {target}. This is the best effort."
    if status == "step_budget":
        missing = f" Not met: {html.escape(', '.join(unmet))}." if unmet else ""
        return f"Found, but the steps ran out: the {model} says {after}.{missing}"
    every = " Every condition is met." if row.conditions else ""
    return f"Found: the {model} says {after}." + (f" Not met: {html.escape(', '.join(unmet))}." if unmet else every)


def _gauge(before: float | None, after: float, half: bool = False) -> str:
    """A line from 0 to 1, with a ring where it was and a dot where it is."""
    if not np.isfinite(after):
        return ""
    at = [None if p is None else f"{100 * min(max(float(p), 0), 1):.1f}%" for p in (before, after)]
    middle = '<line class="half" x1="50%" x2="50%" y1="2" y2="12"/>' if half else ""
    way = "" if at[0] is None else (f'<line class="way" x1="{at[0]}" x2="{at[1]}" y1="7" y2="7"/>'
                                    f'<circle cx="{at[0]}" cy="7" r="4"/>')
    return (f'<svg class="gauge" aria-hidden="true"><line x1="0" x2="100%" y1="7" y2="7"/>{middle}{way}'
            f'<circle class="after" cx="{at[1]}" cy="7" r="5"/></svg>')


def _to(before: str, after: str) -> str:
    return (f'{before}<span class="unseen"> before, </span> <span aria-hidden="true">→</span> {after}'
            '<span class="unseen"> after</span>')


def facts(row: Counterfactuals) -> str:
    """``<dt>`` and ``<dd>`` of what a person asks first."""
    parts, percentile = [], float(row.density_percentile[0])
    if is_regression(row):
        wanted = label(row.target[0] if isinstance(row.target[0], str) else number(float(row.target[0]), 4))
        parts.append((f"Value (target {wanted})", _to(number(row.source[0], 4), number(row.prediction[0], 4))))
    else:
        before, after = float(row.proba_before[0]), float(row.proba_after[0])
        parts.append((f"Probability of {label(row.target[0])}",
                      _to(probability(before), probability(after)) + _gauge(before, after)))
    if np.isnan(percentile):
        parts.append(("Plausibility percentile", "not measured"))
    else:
        of, rank = "" if is_regression(row) else f" of {label(row.target[0])}", math.floor(percentile)
        parts.append(("Plausibility percentile", f"{rank}: more typical than {rank} % of the training rows{of}"
                      + _gauge(None, percentile / 100, half=True)))
    steps = int(row.n_steps[0])
    parts.append(("Distance", f"{number(row.distance[0])} in latent space, {number(row.distance_x[0])} from x to x′, in "
                  f"{steps} step{'' if steps == 1 else 's'}"))
    held = {_MEANING.get(name, name): bool(held[0]) for name, held in row.conditions.items()}
    if row.second_opinion is not None and "second_opinion" not in row.conditions:
        held["second opinion agrees"] = bool(row.second_opinion[0])
    if row.surrogate_valid is not None:
        held["surrogate agrees"] = bool(row.surrogate_valid[0])
    if held:
        parts.append(("Conditions", '<ul class="checks">' + "".join(_check(*check) for check in held.items()) + "</ul>"))
    return "".join(f"<div><dt>{name}</dt><dd>{words}</dd></div>" for name, words in parts)


def _check(name: str, met: bool) -> str:
    sign, word = ("✓", "met") if met else ("✗", "not met")
    return (f'<li{"" if met else " class=unmet"}><span aria-hidden="true">{sign}</span> {html.escape(name)}'
            f'<span class="unseen">: {word}</span></li>')


def numbers(row: Counterfactuals) -> str:
    """Every column of one number or word, as lines of a table."""
    columns = {name: getattr(row, name)[0] for name in row._row_names() if getattr(row, name).ndim == 1}
    columns.update({f"conditions[{name}]": held[0] for name, held in row.conditions.items()})
    lines = []
    for name, value in columns.items():
        shown = f"{value:.6g}" if isinstance(value, (float, np.floating)) else value
        lines.append(f'<tr><th scope="row">{clipped(name)}</th><td>{label(shown)}</td></tr>')
    return "".join(lines)
