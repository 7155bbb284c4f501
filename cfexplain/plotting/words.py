"""A result in sentences: what was found, what was not, and what to do about rows that failed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cfexplain.foundation.in_words import count_rows, probability
from cfexplain.foundation.protocols import MeasuredResult, Result
from cfexplain.tables.frames import cell_in_words, largest_changes

__all__ = ["CONDITIONS_IN_WORDS", "FIRST", "changes_in_words", "equals", "number", "rank",
           "share", "summary", "target_in_words", "unanswered"]

FIRST = "What to look at first:"
# of a class in training: if there are fewer, the summary mentions it where rows miss a condition, or in any case
FEW_ROWS, VERY_FEW_ROWS = 100, 20
CONDITIONS_IN_WORDS = {
    "decision": "confident enough", "density": "typical enough", "second_opinion": "second opinion agrees",
    "value": "value reached", "features": "typical features", "ink": "no greyer than real ones"}
# already_target was not searched
_SEARCHED = ("converged", "step_budget", "implausible", "time_limit", "repeated", "not_found", "model_failed")


def equals(p: float) -> str:
    """`probability` after a name: "= 0.88", "> 0.99"."""
    words = probability(p)
    return words if words[0] in "<>" else f"= {words}"


def rank(percentile: float) -> str:
    """A percentile in whole per cent of rows that are passed: 99.6 is 99, since not all are."""
    return f"{math.floor(percentile)}"


def summary(cf: Result, measures: MeasuredResult | None = None) -> str:
    """Sentences about one row; a line each about many, and what is bad about them at the end.

    Parameters
    ----------
    cf : Counterfactuals
    measures : Measures, optional
        ``cf.measures()``, where it is known.
    """
    if len(cf) == 0:
        return "There are no rows: nothing was explained."
    measures = cf.measures() if measures is None else measures
    return (_one_row_in_words if len(cf) == 1 else _rows_in_words)(cf, measures)


def _rows_in_words(cf: Result, measures: MeasuredResult) -> str:
    already_valid = cf.status == "already_target"
    explainer = cf.metadata.get("explainer")
    by = f" by {explainer}" if explainer else ""
    if cf.row is None:
        lines = [f"{count_rows(len(cf))} explained{by}; {_targets_in_words(cf)}."]
    else:
        lines = [f"{len(cf)} answers for {count_rows(len(np.unique(cf.row)))}{by}; {_targets_in_words(cf)}."]
    if already_valid.any():
        lines.append(f"Already target: {int(already_valid.sum())} of {count_rows(len(cf))} had the target before and "
                     "came back unchanged; they are not counted below.")
    cf = cf[~already_valid]
    if len(cf) == 0:
        return "\n".join(lines)
    n, valid, complete = len(cf), int(cf.valid.sum()), int(cf.complete.sum())
    lines.append(f"Valid: {share(valid, n)}: the explained {_model(cf)} gives them their target.")
    if cf.conditions:
        each = ", ".join(f"{CONDITIONS_IN_WORDS.get(name, name)} {int(met.sum())}" for name, met in cf.conditions.items())
        lines.append(f"Every condition met: {share(complete, n)} ({each}).")
    if cf.surrogate_valid is not None:
        lines.append(f"Surrogate: the search saw an imitation of the {_model(cf)}, which accepts "
                     f"{share(int(cf.surrogate_valid.sum()), n)}; the {_model(cf)} itself accepts {share(valid, n)}.")
    counts = {status: int((cf.status == status).sum()) for status in _SEARCHED}
    lines.append("Status: " + ", ".join(f"{status} {count}" for status, count in counts.items() if count) + ".")
    advice = _advice(cf) + measures.warnings
    last = [FIRST, *(f"- {line}" for line in advice)] if advice else []
    failed = cf.status == "model_failed"
    if failed.any():
        lines.append(f"Without an answer: for {share(int(failed.sum()), n)} the {_model(cf)} gives NaN or infinity; they "
                     "count as not valid, and in no number below.")
        cf = cf[~failed]
    if len(cf) == 0:
        return "\n".join(lines + last)
    if cf.row is not None:
        lines.append(_answers_in_words(cf))
    if cf.region is not None:
        lines.append(f"Region: {_region_share(cf)} of the pixels may change in the median row, and the others did not. That "
                     f"is enough for {share(int(cf.valid.sum()), len(cf))} rows.")
    lines.append(f"Steps: median {np.median(cf.n_steps):g}, at most {int(cf.n_steps.max())}.")
    if cf.is_regression:
        lines.append(f"Value: median {np.median(cf.prediction):.4g}, before {np.median(cf.source):.4g}.")
    else:
        lines.append(f"Probability of the target: median {probability(np.median(cf.proba_after))}, before "
                     f"{probability(np.median(cf.proba_before))}.")
    if not np.isnan(cf.density_percentile).all():
        lines.append(f"Plausibility: median percentile {rank(np.nanmedian(cf.density_percentile))}, where 50 is as "
                     f"typical as {_median_row(cf)} and 0 is less typical than every one seen in training.")
    lines.append(f"Distance: median {np.median(cf.distance):.3g} in latent space, {np.median(cf.distance_x):.3g} from "
                 f"x to x′ (L2). Not part of it: the reconstruction error, median "
                 f"{np.median(cf.reconstruction_error):.3g}, is what the latent space cannot express.")
    if cf.cost is not None:
        lines.append(f"Cost of a row's changes: median {number(float(np.median(cf.cost)))}{_cost_in_words(cf)}.")
    return "\n".join([*lines, *measures.lines, *last])


def _answers_in_words(cf: Result) -> str:
    """How many answers rows have, and how different they are."""
    rows: np.ndarray = np.unique(cf.row)  # type: ignore[arg-type]
    found = np.bincount(np.searchsorted(rows, cf.row), weights=cf.valid, minlength=len(rows)).astype(int)  # type: ignore[arg-type]
    diversity = cf.diversity
    words = f"Answers: {share(int((found >= cf.k).sum()), len(rows))} rows have {cf.k} valid ones, the fewest {found.min()}"
    if not np.isnan(diversity).all():
        words += (f"; diversity {np.nanmean(diversity):.2f} in latent space, where 0 is one direction and 1 is at right "
                  "angles")
    return f"{words}."


def _region_share(cf: Result) -> str:
    region = cf.region
    return "–" if region is None else f"{100 * np.median(region.reshape(len(region), -1).mean(1)):.0f} %"


def _region_in_words(cf: Result) -> str:
    """Whether the region alone is enough for one row."""
    said = f"value {cf.prediction[0]:.4g}" if cf.is_regression else f"probability {probability(cf.proba_after[0])}"
    return (f"The region alone, {_region_share(cf)} of the pixels, is enough ({said})." if cf.valid[0] else
            f"The region alone, {_region_share(cf)} of the pixels, is not enough as far as was searched ({said}).")


def _cost_in_words(cf: Result) -> str:
    return " at the given prices" if cf.metadata.get("priced") else ", standard deviations and categories counted alike"


def _model(cf: Result) -> str:
    return "regressor" if cf.is_regression else "classifier"


def unanswered(row: Result) -> bool:
    """Whether the model has no answer for x of this row: its `source` is not what the model said."""
    before = row.source if row.is_regression else row.proba_before
    return bool(row.status[0] == "model_failed" and np.isnan(before[0]))


def _failed_in_words(cf: Result) -> str:
    if unanswered(cf):
        return f"The {_model(cf)} gives NaN or infinity for this row, so that nothing was searched; the row is unchanged."
    return (f"The {_model(cf)} gives NaN or infinity for the best effort, which is no counterfactual (target "
            f"{target_in_words(cf)}).")


def _value_in_words(cf: Result) -> str:
    before, after, target = f"{cf.source[0]:.4g}", f"{cf.prediction[0]:.4g}", target_in_words(cf)
    if cf.status[0] == "already_target":
        return f"The regressor said {before} already, which is what was asked for ({target}); the row is unchanged."
    steps = f"{int(cf.n_steps[0])} step{'' if cf.n_steps[0] == 1 else 's'}"
    if cf.status[0] == "repeated":
        return f"No other answer was found: this one, of the value {after}, repeats an answer before it."
    if not cf.valid[0]:
        return (f"The target {target} was not reached in {steps}: the value goes from {before} to {after}, the nearest that "
                "was found.")
    return f"The value goes from {before} to {after} in {steps} (target {target})."


def _one_row_in_words(cf: Result, measures: MeasuredResult) -> str:
    return " ".join([_found_in_words(cf), *(f"{line[0].upper()}{line[1:]}" for line in measures.warnings)])


def _found_in_words(cf: Result) -> str:
    if cf.status[0] == "model_failed":
        return " ".join([_failed_in_words(cf), *(f"{line[0].upper()}{line[1:]}" for line in _advice(cf))])
    if cf.is_regression:
        return " ".join([_value_in_words(cf), *_more_words(cf)])
    source, target, after = (str(labels[0]) for labels in (cf.source, cf.target, cf.prediction))
    before_and_after = f"{probability(cf.proba_before[0])} to {probability(cf.proba_after[0])}"
    if cf.status[0] == "already_target":
        return f"The classifier said {target} already (probability {probability(cf.proba_before[0])}); the row is unchanged."
    steps = f"{int(cf.n_steps[0])} step{'' if cf.n_steps[0] == 1 else 's'}"
    if cf.status[0] == "repeated":
        return f"No other answer was found: this one, which the classifier calls {after}, repeats an answer before it."
    if not cf.valid[0]:
        says = "still says" if after == source else "says"
        parts = [f"No counterfactual was found in {steps}: the classifier {says} {after}, not {target}. The best "
                 f"effort brings the probability of {target} from {before_and_after}."]
    else:
        parts = [f"From {source} to {target} in {steps}: the probability of {target} goes from {before_and_after}."]
    return " ".join([*parts, *_more_words(cf)])


def _more_words(cf: Result) -> list[str]:
    """How typical one row is, which conditions it meets, what changed most, and advice."""
    parts: list[str] = []
    percentile = cf.density_percentile[0]
    if cf.status[0] == "already_target":
        return parts
    if not np.isnan(percentile):
        of = "real rows" if cf.is_regression else f"real rows of {cf.target[0]}"
        parts.append(f"It is more typical than {rank(percentile)} % of {of} (50 is as typical as {_median_row(cf)}).")
    if cf.region is not None:
        parts.append(_region_in_words(cf))
    unmet = [CONDITIONS_IN_WORDS.get(name, name) for name, met in cf.conditions.items() if not met[0]]
    if cf.valid[0] and cf.conditions:
        parts.append(f"Not met: {', '.join(unmet)}." if unmet else "It meets every condition.")
    if cf.surrogate_valid is not None:
        parts.append(f"The surrogate that was searched {'accepts' if cf.surrogate_valid[0] else 'does not accept'} it.")
    if not cf.is_image:
        parts.append(f"Largest changes: {changes_in_words(cf, 3)}.")
        if cf.cost is not None:
            parts.append(f"Together they cost {number(float(cf.cost[0]))}{_cost_in_words(cf)}.")
    return parts + [f"{line[0].upper()}{line[1:]}" for line in _advice(cf)]


def _advice(cf: Result) -> list[str]:
    """What failed, and what to do about it."""
    n, advice = len(cf), []

    def who(count: int) -> str:
        return "this row" if n == 1 else f"{count} of {count_rows(n)}"

    out_of_steps, failed = int((cf.status == "step_budget").sum()), cf.status == "not_found"
    if out_of_steps:
        advice.append(f"{who(out_of_steps)} ran out of steps before every condition held: raise max_steps.")
    late, again = int((cf.status == "time_limit").sum()), int((cf.status == "repeated").sum())
    if late:
        advice.append(f"{who(late)} {'was' if late == 1 else 'were'} not finished within time_limit: allow more time, or "
                      "explain fewer rows.")
    if again:
        advice.append(f"{who(again)} only {'repeats' if again == 1 else 'repeat'} an answer before: there are no more "
                      "answers here; ask for a smaller k, or leave more columns free.")
    beyond = int((cf.status == "implausible").sum())
    if beyond:
        advice.append(f"{who(beyond)} reached the target only outside the data, where nobody knows what the {_model(cf)}'s "
                      "answer is worth: ask for a value that the data have.")
    if failed.any():
        advice.append(f"{who(int(failed.sum()))} did not reach the target, and the best effort is kept: raise max_steps, or "
                      f"ask for a target that is nearer{'' if cf.is_regression else ' (target=None takes the runner-up)'}.")
        for rule, count in cf.metadata.get("binding", {}).items():
            advice.append(f"without {rule} {count} of the rows that were tried would have an answer.")
        fooled = 0 if cf.surrogate_valid is None else int((failed & cf.surrogate_valid).sum())
        if fooled:
            advice.append(f"{who(fooled)} convinced the surrogate but not the {_model(cf)}: fit on more rows, so that the "
                          "surrogate imitates it better.")
    without = int((cf.status == "model_failed").sum())
    if without:
        advice.append(f"the {_model(cf)} has no answer for {who(without)}: look for values that it was not made for, and "
                      "whether X is scaled as in its training.")
    incomplete = int(((cf.status == "converged") & ~cf.complete).sum())
    if incomplete:
        advice.append(f"{who(incomplete)} converged without meeting every condition: see `conditions`; stop="
                      "'conditions' searches until they hold.")
    for label in np.unique(cf.target):
        complete = cf.complete[cf.target == label]
        seen = _training_rows(label, cf.metadata)
        if seen is not None and (seen < VERY_FEW_ROWS or (seen < FEW_ROWS and complete.mean() < 0.95)):
            advice.append(f"the data are few for the target {label}: {seen} of the {cf.metadata.get('n_train', '?')} "
                          f"training rows. More rows of {label} would teach the search what it looks like.")
    return advice


def _training_rows(label: Any, metadata: Mapping[str, Any]) -> int | None:
    counts, label = metadata.get("class_counts"), label.item() if isinstance(label, np.generic) else label
    if isinstance(counts, Mapping):
        return counts.get(str(label))
    classes = metadata.get("classes") or []
    return counts[classes.index(label)] if counts and label in classes else None


def target_in_words(cf: Result, i: int = 0) -> str:
    """What row `i` was to become: a label as it is, a value with six digits."""
    target = cf.target[i]
    return f"{target:.6g}" if cf.is_regression and isinstance(target, (float, np.floating)) else str(target)


def _targets_in_words(cf: Result) -> str:
    _, first, counts = np.unique(cf.target, return_index=True, return_counts=True)
    labels = [target_in_words(cf, i) for i in first]
    if len(labels) == 1:
        return f"target {labels[0]}"
    if len(labels) <= 6:
        return "targets " + ", ".join(f"{label} ({count})" for label, count in zip(labels, counts, strict=True))
    return f"{len(labels)} different targets"


def _median_row(cf: Result) -> str:
    if cf.is_regression:
        return "the median training row"
    labels = np.unique(cf.target)
    if len(labels) > 1:
        return "the median real row of its target class"
    return f"the median real {labels[0]}" if cf.is_image else f"the median real row of class {labels[0]}"


def changes_in_words(row: Result, most: int) -> str:
    """The `most` largest changes of the columns of one row of a table."""
    changes, left_out = largest_changes(row, most)
    words = [f"{name} {cell_in_words(row, name, before)} → {cell_in_words(row, name, after)}"
             for name, before, after, _ in changes]
    return "; ".join(words + ([f"{left_out} more" if words else ""] if left_out else [])) or "none"


def number(value: float) -> str:
    """Three significant digits, "–" for NaN; a value between 0.9995 and 1 keeps the digits that tell it from 1.

    >>> [number(value) for value in (0.98765, 1234.6, 0.9996, float("nan"))]
    ['0.988', '1235', '0.9996', '–']
    """
    if np.isnan(value):
        return "–"
    if 0.9995 <= abs(value) < 1:
        return f"{value:.6g}"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def share(k: int, n: int) -> str:
    """``93 of 96 (96 %)``.

    >>> share(199, 200)
    '199 of 200 (99 %)'
    """
    return f"{k} of {n} ({100 * k // n} %)"  # rounded down: 100 % means all
