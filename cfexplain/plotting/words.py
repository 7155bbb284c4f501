"""What was found and what was not, in words; what to do about rows that failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cfexplain.tables.frames import cell_in_words

if TYPE_CHECKING:
    from cfexplain.result import Counterfactuals

__all__ = ["changes_in_words", "count_rows", "is_regression", "summary"]

FEW_ROWS = 100  # of a class in training, under which the summary says that they are few
_MEANING = {"decision": "confident enough", "density": "typical enough", "second_opinion": "second opinion agrees",
            "value": "value reached", "features": "typical features", "ink": "no greyer than real ones"}
_SEARCHED = ("converged", "step_budget", "not_found")  # rows of the other status, already_target, are told apart


def summary(cf: Counterfactuals) -> str:
    """Sentences about one row; a line each about many."""
    if len(cf) == 0:
        return "There are no rows: nothing was explained."
    return _one_row_in_words(cf) if len(cf) == 1 else _rows_in_words(cf)


def _rows_in_words(cf: Counterfactuals) -> str:
    still = cf.status == "already_target"
    explainer = cf.metadata.get("explainer")
    lines = [f"{count_rows(len(cf))} explained{f' by {explainer}' if explainer else ''}; {_targets_in_words(cf.target)}."]
    if still.any():
        lines.append(f"Already there: {int(still.sum())} of {count_rows(len(cf))} had the target before and came back "
                     "unchanged; they are not counted below.")
    cf = cf[~still]
    if len(cf) == 0:
        return "\n".join(lines)
    n, valid, complete = len(cf), int(cf.valid.sum()), int(cf.complete.sum())
    lines.append(f"Valid: {_share(valid, n)}: the explained {_model(cf)} gives them their target.")
    if cf.conditions:
        each = ", ".join(f"{_MEANING.get(name, name)} {int(held.sum())}" for name, held in cf.conditions.items())
        lines.append(f"Every condition met: {_share(complete, n)} ({each}).")
    if cf.surrogate_valid is not None:
        lines.append(f"Surrogate: the search saw an imitation of the {_model(cf)}, which accepts "
                     f"{_share(int(cf.surrogate_valid.sum()), n)}; the {_model(cf)} itself accepts {_share(valid, n)}.")
    counts = {status: int((cf.status == status).sum()) for status in _SEARCHED}
    lines.append("Status: " + ", ".join(f"{status} {count}" for status, count in counts.items() if count) + ".")
    lines.append(f"Steps: median {np.median(cf.n_steps):g}, at most {int(cf.n_steps.max())}.")
    if is_regression(cf):
        lines.append(f"Value: median {np.median(cf.prediction):.4g}, before {np.median(cf.source):.4g}.")
    else:
        lines.append(f"Probability of the target: median {np.median(cf.proba_after):.2f}, before "
                     f"{np.median(cf.proba_before):.2f}.")
    if not np.isnan(cf.density_percentile).all():
        lines.append(f"Typicality: median density percentile {np.nanmedian(cf.density_percentile):.0f}, where 50 is as "
                     f"typical as {_median_row(cf)} and 0 is less typical than every one seen in training.")
    lines.append(f"Distance: median {np.median(cf.distance):.3g} in latent space, {np.median(cf.distance_x):.3g} from "
                 f"x to x′ (L2). Not part of it: the reconstruction error, median "
                 f"{np.median(cf.reconstruction_error):.3g}, is what the latent space cannot express.")
    return "\n".join(lines + [f"- {line}" for line in _advice(cf)])


def is_regression(cf: Counterfactuals) -> bool:
    """Whether source, target and prediction are values and not labels."""
    return cf.metadata.get("task") == "regression"


def _model(cf: Counterfactuals) -> str:
    return "regressor" if is_regression(cf) else "classifier"


def _value_in_words(cf: Counterfactuals) -> str:
    before, after, target = f"{cf.source[0]:.4g}", f"{cf.prediction[0]:.4g}", cf.target[0]
    if cf.status[0] == "already_target":
        return f"The regressor said {before} already, which is what was asked for ({target}); the row is unchanged."
    steps = f"{int(cf.n_steps[0])} step{'' if cf.n_steps[0] == 1 else 's'}"
    if not cf.valid[0]:
        return (f"The target {target} was not reached in {steps}: the value goes from {before} to {after}, the nearest that "
                "was found.")
    return f"The value goes from {before} to {after} in {steps} (target {target})."


def _one_row_in_words(cf: Counterfactuals) -> str:
    if is_regression(cf):
        return " ".join([_value_in_words(cf), *_more_words(cf)])
    source, target, after = (str(labels[0]) for labels in (cf.source, cf.target, cf.prediction))
    before_and_after = f"{cf.proba_before[0]:.2f} to {cf.proba_after[0]:.2f}"
    if cf.status[0] == "already_target":
        return f"The classifier said {target} already (probability {cf.proba_before[0]:.2f}); the row is unchanged."
    steps = f"{int(cf.n_steps[0])} step{'' if cf.n_steps[0] == 1 else 's'}"
    if not cf.valid[0]:
        still = "still says" if after == source else "says"
        parts = [f"No counterfactual was found in {steps}: the classifier {still} {after}, not {target}. The best "
                 f"effort brings the probability of {target} from {before_and_after}."]
    else:
        parts = [f"From {source} to {target} in {steps}: the probability of {target} goes from {before_and_after}."]
    return " ".join([*parts, *_more_words(cf)])


def _more_words(cf: Counterfactuals) -> list[str]:
    """How typical one row is, which conditions it meets, what changed most, and advice."""
    parts, percentile = [], cf.density_percentile[0]
    if cf.status[0] == "already_target":
        return parts
    if not np.isnan(percentile):
        of = "the training rows" if is_regression(cf) else f"the training rows of {cf.target[0]}"
        parts.append(f"It is more typical than {percentile:.0f} % of {of} (50 is as typical as {_median_row(cf)}).")
    unmet = [_MEANING.get(name, name) for name, held in cf.conditions.items() if not held[0]]
    if cf.valid[0] and cf.conditions:
        parts.append(f"Not met: {', '.join(unmet)}." if unmet else "It meets every condition.")
    if cf.surrogate_valid is not None:
        parts.append(f"The surrogate that was searched {'accepts' if cf.surrogate_valid[0] else 'does not accept'} it.")
    if not cf._is_image():
        parts.append(f"Largest changes: {changes_in_words(cf, 3)}.")
    return parts + [f"{line[0].upper()}{line[1:]}" for line in _advice(cf)]


def _advice(cf: Counterfactuals) -> list[str]:
    """What failed, and what to do about it."""
    n, advice = len(cf), []

    def who(count: int) -> str:
        return "this row" if n == 1 else f"{count} of {count_rows(n)}"

    late, lost = int((cf.status == "step_budget").sum()), cf.status == "not_found"
    if late:
        advice.append(f"{who(late)} ran out of steps before every condition held: raise max_steps.")
    if lost.any():
        advice.append(f"{who(int(lost.sum()))} did not reach the target, and the best effort is kept: raise max_steps, or "
                      f"ask for a target that is nearer{'' if is_regression(cf) else ' (target=None takes the runner-up)'}.")
        fooled = 0 if cf.surrogate_valid is None else int((lost & cf.surrogate_valid).sum())
        if fooled:
            advice.append(f"{who(fooled)} convinced the surrogate but not the {_model(cf)}: fit on more rows, so that the "
                          "surrogate imitates it better.")
    settled = int(((cf.status == "converged") & ~cf.complete).sum())
    if settled:
        advice.append(f"{who(settled)} converged without meeting every condition: see `conditions`; stop="
                      "'conditions' searches until they hold.")
    for label in np.unique(cf.target):
        mine = cf.complete[cf.target == label]
        seen = _training_rows(label, cf.metadata)
        if seen is not None and seen < FEW_ROWS and mine.mean() < 0.95:
            advice.append(f"the data are few for the target {label}: {seen} of the {cf.metadata.get('n_train', '?')} "
                          f"training rows. More rows of {label} would teach the search what it looks like.")
    return advice


def _training_rows(label: Any, metadata: Mapping[str, Any]) -> int | None:
    counts, label = metadata.get("class_counts"), label.item() if isinstance(label, np.generic) else label
    if isinstance(counts, Mapping):
        return counts.get(str(label))
    classes = metadata.get("classes") or []
    return counts[classes.index(label)] if counts and label in classes else None


def _targets_in_words(target: np.ndarray) -> str:
    labels, counts = np.unique(target, return_counts=True)
    if len(labels) == 1:
        return f"target {labels[0]}"
    if len(labels) <= 6:
        return "targets " + ", ".join(f"{label} ({count})" for label, count in zip(labels, counts, strict=True))
    return f"{len(labels)} different targets"


def _median_row(cf: Counterfactuals) -> str:
    if is_regression(cf):
        return "the median training row"
    labels = np.unique(cf.target)
    if len(labels) > 1:
        return "the median real row of its target class"
    return f"the median real {labels[0]}" if cf._is_image() else f"the median real row of class {labels[0]}"


def changes_in_words(row: Counterfactuals, most: int) -> str:
    """The `most` largest changes of the columns of one row of a table."""
    from cfexplain.plotting.counterfactual import largest_changes

    changes, left_out = largest_changes(row, most)
    words = [f"{name} {cell_in_words(row, name, before)} → {cell_in_words(row, name, after)}"
             for name, before, after, _ in changes]
    return "; ".join(words + ([f"{left_out} more" if words else ""] if left_out else [])) or "none"


def count_rows(n: int) -> str:
    """``1 row``, ``2 rows``."""
    return f"{n} row" if n == 1 else f"{n} rows"


def _share(k: int, n: int) -> str:
    return f"{k} of {n} ({100 * k // n} %)"  # rounded down: 100 % means all
