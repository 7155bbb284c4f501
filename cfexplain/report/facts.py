"""The facts of one row in a report: status, probabilities and plausibility, in words and in small drawings."""

from __future__ import annotations

import html
from typing import Any

import numpy as np

from cfexplain.foundation import in_words
from cfexplain.foundation.protocols import Result
from cfexplain.plotting.words import CONDITIONS_IN_WORDS, rank, target_in_words, unanswered
from cfexplain.tables.frames import category_places, cell_in_words

__all__ = ["BADGES", "ICONS", "cell", "clipped", "facts", "label", "number", "numbers", "predicted_in_words",
           "probability", "status_in_words"]

# Each status has its own shape, so that nobody needs to tell colours apart
_SHAPES = {"converged": "M3 8.5l3.5 3.5L13 4.5", "step_budget": "M3 10c2-4 3.5-4 5-2s3 2 5-2",
           "implausible": "M8 2l6 12H2z", "time_limit": "M8 3v5l3 3M8 1.5a6.5 6.5 0 1 0 .01 0",
           "repeated": "M3 5h8v8H3zM6 5V2h8v8h-3",
           "already_target": "M3 6h10M3 10h10", "not_found": "M4 4l8 8M12 4l-8 8",
           "model_failed": "M8 3v6M8 12v1"}
ICONS = {status: f'<svg viewBox="0 0 16 16" aria-hidden="true"><path d="{shape}"/></svg>'
         for status, shape in _SHAPES.items()}
BADGES = {status: status.replace("_", " ").capitalize() for status in _SHAPES}  # the words of `cf.status`, in this order
LONGEST = 120


def clipped(text: Any, most: int = LONGEST) -> str:
    """`text` in one line of at most `most` characters, escaped."""
    words = " ".join(str(text).split())
    return html.escape(words if len(words) <= most else words[: most - 1] + "…")


def label(text: Any) -> str:
    """A label of the user's, escaped and isolated, so that its writing direction does not change the text around it."""
    return f"<bdi>{clipped(text)}</bdi>"


def number(value: Any, digits: int = 3) -> str:
    return "–" if not np.isfinite(value) else f"{value:.{digits}g}".replace("-", "−")


def probability(p: float) -> str:
    """As `cfexplain.foundation.in_words.probability`, escaped."""
    return html.escape(in_words.probability(p)).replace(" ", "\u00a0")


def cell(row: Result, column: int, value: float) -> str:
    """One value of a table, as plain text: a category's name, "missing", or a number."""
    if not np.isfinite(value) and not np.isnan(value):
        return "–"
    text = cell_in_words(row, column, value)
    return text if column in category_places(row.metadata) else text.replace("-", "−")


def predicted_in_words(row: Result, value: Any) -> str:
    """A predicted value, or a label, escaped."""
    return number(value, 4) if row.is_regression else label(value)


def status_in_words(row: Result) -> str:
    """One or two sentences, escaped."""
    model = "regressor" if row.is_regression else "classifier"
    status, after, target = row.status[0], predicted_in_words(row, row.prediction[0]), label(target_in_words(row))
    if status == "already_target":
        return f"Already the target: the {model} said {predicted_in_words(row, row.source[0])} before. Nothing was changed."
    if status == "model_failed":
        return f"The {model} gives NaN or infinity for " + (
            "this row: nothing was searched." if unanswered(row) else f"the best effort on the way to {target}.")
    unmet = [CONDITIONS_IN_WORDS.get(name, name) for name, met in row.conditions.items() if not met[0]]
    if status == "repeated":
        return f"No other answer was found: this one, {after}, repeats an answer before it, and does not count."
    if status == "time_limit":
        begun = "" if row.n_steps[0] or row.distance_x[0] else " Nothing was searched."
        return f"Time was up: the {model} says {after} of the best effort, and {target} is asked for.{begun}"
    if not row.valid[0]:
        says = "still says" if not row.is_regression and row.prediction[0] == row.source[0] else "says"
        return f"Not valid: the {model} {says} {after}, not {target}. This is the best effort."
    if status == "implausible":
        return (f"Valid, but outside the data: the {model} says {after}, but hardly any training row is like this one, and "
                "nobody knows what the answer is worth.")
    if status == "step_budget":
        missing = f" Not met: {html.escape(', '.join(unmet))}." if unmet else ""
        return f"Valid, but the steps ran out: the {model} says {after}.{missing}"
    every = " Every condition is met." if row.conditions else ""
    return f"Valid: the {model} says {after}." + (f" Not met: {html.escape(', '.join(unmet))}." if unmet else every)


def _gauge(before: float | None, after: float, half: bool = False) -> str:
    """A line from 0 to 1 with a ring at `before` and a dot at `after`; `half` marks the middle."""
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


def facts(row: Result) -> str:
    """The main facts as ``<dt>`` and ``<dd>``: probability or value, plausibility, distance, conditions."""
    parts, percentile = [], float(row.density_percentile[0])
    if row.is_regression:
        wanted = label(row.target[0] if isinstance(row.target[0], str) else number(float(row.target[0]), 4))
        parts.append((f"Value (target {wanted})", _to(number(row.source[0], 4), number(row.prediction[0], 4))))
    else:
        before, after = float(row.proba_before[0]), float(row.proba_after[0])
        parts.append((f"Probability of {label(row.target[0])}",
                      _to(probability(before), probability(after)) + _gauge(before, after)))
    if np.isnan(percentile):
        parts.append(("Plausibility", "not measured"))
    else:
        of, place = "" if row.is_regression else f" of {label(row.target[0])}", rank(percentile)
        parts.append(("Plausibility", f"{place}: more typical than {place} % of real rows{of}"
                      + _gauge(None, percentile / 100, half=True)))
    if row.region is not None:
        enough = "enough" if row.valid[0] else "not enough, as far as was searched"
        parts.append(("Region", f"{100 * row.region.mean():.0f} % of the pixels may change: {enough}"))
    steps = int(row.n_steps[0])
    parts.append(("Distance", f"{number(row.distance[0])} in latent space, {number(row.distance_x[0])} from x to x′, in "
                  f"{steps} step{'' if steps == 1 else 's'}"))
    if row.costs is not None and row.cost is not None and np.isfinite(row.cost[0]):
        paid = zip(row.feature_names, row.costs[0], strict=True)
        each = [f"{clipped(name)} {number(price)}" for name, price in paid if price]
        parts.append(("Cost", f"{number(row.cost[0])}" + (f": {', '.join(each[:8])}" if each else "")))
    checks = {CONDITIONS_IN_WORDS.get(name, name): bool(met[0]) for name, met in row.conditions.items()}
    if row.second_opinion is not None and "second_opinion" not in row.conditions:
        checks["second opinion agrees"] = bool(row.second_opinion[0])
    if row.surrogate_valid is not None:
        checks["surrogate agrees"] = bool(row.surrogate_valid[0])
    if checks:
        parts.append(("Conditions", '<ul class="checks">' + "".join(_check(*check) for check in checks.items()) + "</ul>"))
    return "".join(f"<div><dt>{name}</dt><dd>{words}</dd></div>" for name, words in parts)


def _check(name: str, met: bool) -> str:
    sign, word = ("✓", "met") if met else ("✗", "not met")
    return (f'<li{"" if met else " class=unmet"}><span aria-hidden="true">{sign}</span> {html.escape(name)}'
            f'<span class="unseen">: {word}</span></li>')


def numbers(row: Result) -> str:
    """Every field that has one number or word for the row, as lines of a table."""
    columns = {name: getattr(row, name)[0] for name in row.row_fields if getattr(row, name).ndim == 1}
    columns.update({f"conditions[{name}]": met[0] for name, met in row.conditions.items()})
    lines = []
    for name, value in columns.items():
        shown = f"{value:.6g}" if isinstance(value, (float, np.floating)) else value
        lines.append(f'<tr><th scope="row">{clipped(name)}</th><td>{label(shown)}</td></tr>')
    return "".join(lines)
