"""An `Evaluation` as Markdown, as HTML, and in sentences: which method is best on which metric, and which are tied."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from cfexplain.evaluation.bootstrap import PairedDifference
from cfexplain.foundation.in_words import count_rows
from cfexplain.foundation.protocols import ComparedMethods, Result
from cfexplain.plotting.words import number

__all__ = ["DescribedEvaluation", "fragment", "markdown", "page", "summary", "verdicts"]

OTHER_MODEL = 1e-3  # difference of answers (of values, in standard deviations) that is no rounding
_ARROW = {"up": "↑", "down": "↓", "none": ""}


class DescribedEvaluation(ComparedMethods, Protocol):
    """What is read of an `Evaluation`, which imports this module."""

    confidence_level: float

    @property
    def statuses(self) -> Mapping[str, Mapping[str, int]]: ...

    @property
    def misclassified(self) -> Mapping[str, int] | None: ...

    def __len__(self) -> int: ...

    def pairs(self) -> list[PairedDifference]: ...


def verdicts(evaluation: DescribedEvaluation,
             pairs: list[PairedDifference] | None = None) -> dict[str, tuple[str, list[str]]]:
    """For each metric with a direction that can be compared: the best method, and those not distinguishable from it."""
    pairs, out = evaluation.pairs() if pairs is None else pairs, {}
    for name, metric in evaluation.metrics.items():
        means = {method: evaluation.table[method][name].mean * metric.sign for method in evaluation.results}
        known = {method: mean for method, mean in means.items() if not np.isnan(mean)}
        own = [pair for pair in pairs if pair.metric == name]
        if not metric.sign or not evaluation.comparable[name] or len(known) < 2 or not own:
            continue
        best = max(known, key=known.__getitem__)
        near = [other for other in known if other != best and not any(
            pair.better == best and {pair.a, pair.b} == {best, other} for pair in own)]
        out[name] = best, near
    return out


def summary(evaluation: DescribedEvaluation) -> str:
    level = f"{100 * evaluation.confidence_level:g} %"
    methods = list(evaluation.results)
    lines = [f"{len(methods)} method{'s' * (len(methods) != 1)} on the same {count_rows(len(evaluation))}: "
             f"{', '.join(methods)}."]
    pairs = evaluation.pairs()
    found = verdicts(evaluation, pairs)
    for method in methods:
        wins = [name for name, (best, near) in found.items() if best == method and not near]
        if wins:
            lines.append(f"{method} is best on {', '.join(_with_means(evaluation, name) for name in wins)}.")
    close = [f"{_with_means(evaluation, name)} – {_joined([best, *near])}" for name, (best, near) in found.items() if near]
    if close:
        lines.append(f"Not distinguishable (the {level} interval of the paired difference holds 0): {'; '.join(close)}.")
    apart = [name for name, same in evaluation.comparable.items() if not same]
    if apart:
        lines.append(f"Not compared, since each method is measured by a part of its own: {', '.join(apart)}.")
    if found:
        lines.append(f"Best means better than every other method in paired {level} bootstrap intervals over rows, not "
                     "corrected for the number of comparisons.")
    return "\n".join([*lines, *(f"- {note}" for note in notes(evaluation, pairs))])


def notes(evaluation: DescribedEvaluation, pairs: list[PairedDifference] | None = None) -> list[str]:
    """What failed or is missing, and what makes the comparison less fair."""
    lines, n = [], len(evaluation)
    for method, counts in evaluation.statuses.items():
        lines.append(f"{method}: " + ", ".join(f"{status} {count}" for status, count in counts.items() if count)
                     + f" of {count_rows(n)}.")
    lines += [f"{metric} failed for {method}: {message}" for (method, metric), message in evaluation.failures.items()]
    for name in evaluation.metrics:
        missing = [f"{method} {entry[name].missing}" for method, entry in evaluation.table.items()
                   if entry[name].missing and (method, name) not in evaluation.failures]
        if missing:
            lines.append(f"{name} has no value in some of the {count_rows(n)}, which its means leave out: "
                         f"{', '.join(missing)}.")
    for method, wrong in (evaluation.misclassified or {}).items():
        if wrong:
            lines.append(f"The classifier that {method} explains gets {wrong} of {count_rows(n)} wrong; they count like the "
                         "others.")
    (first, reference), *others = evaluation.results.items()
    for name, other in others:
        lines += _other_model(first, reference, name, other)
        for what, differ in (("are given other labels by their models", other.source != reference.source),
                             ("have other targets", other.target != reference.target)):
            if np.any(differ):
                lines.append(f"{int(np.sum(differ))} of {count_rows(n)} {what} for {name} than for {first}: the two answer "
                             "other questions there.")
    return lines


def _other_model(first: str, reference: Result, name: str, other: Result) -> list[str]:
    """Whether the two answer for different models, by what these say of the rows before anything is changed."""
    if reference.is_regression or other.is_regression:
        before, what = (reference.source, other.source), "values"
        same, scale = np.ones(len(reference), dtype=bool), max(float(np.nanstd(reference.source)), 1e-12)
    else:
        before, what = (reference.proba_before, other.proba_before), "probabilities of the target"
        same, scale = reference.target == other.target, 1.0
    apart = np.abs(np.asarray(before[0], dtype=float) - np.asarray(before[1], dtype=float))[same] / scale
    apart = apart[~np.isnan(apart)]
    if not (apart > OTHER_MODEL).any():
        return []
    return [f"{name} explains another model than {first}: of the same rows, before anything is changed, the two models give "
            f"{what} that differ by up to {number(apart.max() * scale)}. To compare methods, pass the same model to both: "
            "classifier=."]


def _with_means(evaluation: DescribedEvaluation, name: str) -> str:
    return f"{name} ({', '.join(f'{m} {number(t[name].mean)}' for m, t in evaluation.table.items())})"


def _joined(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


# ---------------------------------------------------------------------------------------------------------------- tables
def _lines(evaluation: DescribedEvaluation) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Heading and cells of each metric; a cell is a text and whether it is best."""
    best = {name: method for name, (method, near) in verdicts(evaluation).items() if not near}
    return [(" ".join(filter(None, (metric.heading, _ARROW[metric.better],
                                    "" if evaluation.comparable[name] else "(own measure)"))),
             [(_cell(evaluation, method, name), best.get(name) == method) for method in evaluation.results])
            for name, metric in evaluation.metrics.items()]


def _cell(evaluation: DescribedEvaluation, method: str, name: str) -> str:
    if (method, name) in evaluation.failures:
        return "failed"
    entry = evaluation.table[method][name]
    text = number(entry.mean)
    if not np.isnan(entry.std):
        text += f" ± {number(entry.std)}"
    if not np.isnan(entry.low):
        text += f" [{number(entry.low)}, {number(entry.high)}]"
    return text + (f", {entry.missing} missing" if entry.missing else "")


def _caption(evaluation: DescribedEvaluation) -> str:
    return (f"Mean ± standard deviation [{100 * evaluation.confidence_level:g} % bootstrap interval of the mean] over "
            f"{count_rows(len(evaluation))}; ↑ ↓: which way is better; bold: better than every other method in paired "
            "intervals.")


def markdown(evaluation: DescribedEvaluation) -> str:
    def row(cells: list[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    lines = [row(["", *evaluation.results]), row(["---"] * (1 + len(evaluation.results)))]
    lines += [row([heading, *(f"**{text}**" if best else text for text, best in cells)])
              for heading, cells in _lines(evaluation)]
    return "\n".join([*lines, "", _caption(evaluation), "", *(f"- {note}" for note in notes(evaluation))]) + "\n"


def fragment(evaluation: DescribedEvaluation) -> str:
    """Summary and table; every text of the user's is escaped."""
    def cell(text: str, tag: str = "td", bold: bool = False) -> str:
        shown = f"<strong>{html.escape(text)}</strong>" if bold else html.escape(text)
        return f'<{tag} style="text-align:left;padding-right:1em">{shown}</{tag}>'

    head = "".join(cell(text, "th") for text in ("", *evaluation.results))
    body = "".join("<tr>" + cell(heading, "th") + "".join(cell(text, bold=best) for text, best in cells) + "</tr>"
                   for heading, cells in _lines(evaluation))
    words = html.escape(summary(evaluation)).replace("\n", "<br>")
    return (f'<div><p>{words}</p><table style="border-collapse:collapse"><caption style="caption-side:bottom;'
            f'text-align:left">'
            f"{html.escape(_caption(evaluation))}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>")


def page(evaluation: DescribedEvaluation) -> str:
    """`fragment` as a whole page."""
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>'
            '<meta name="viewport" content="width=device-width"></head>'
            '<body style="font-family:sans-serif;max-width:80em;margin:1.5em auto;padding:0 1em">'
            f"<h1>Evaluation</h1>{fragment(evaluation)}</body></html>\n")
