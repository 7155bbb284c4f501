"""A `SaliencyComparison` as Markdown and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from cfexplain.evaluation.bootstrap import Resampling
from cfexplain.foundation.in_words import count_rows
from cfexplain.foundation.protocols import Mean, MeasuredMaps
from cfexplain.plotting.words import number

__all__ = ["DescribedMaps", "markdown", "summary"]

_QUESTION = {"contrast": "the target's logit minus that of the class before", "source": "the logit of the class before",
             "target": "the target's logit"}


class DescribedMaps(MeasuredMaps, Protocol):
    """What is read of a `SaliencyComparison`, which imports this module."""

    explains: str
    surrogate: bool
    resampling: Resampling

    @property
    def metrics(self) -> list[str]: ...

    @property
    def failures(self) -> Mapping[str, str]: ...

    @property
    def gaps(self) -> Mapping[str, float]: ...

    @property
    def left_out(self) -> Mapping[str, int]: ...


def markdown(found: DescribedMaps) -> str:
    metrics = found.metrics
    lines = [_row(["", *metrics]), _row(["---"] * (1 + len(metrics)))]
    lines += [_row([method, *(_cell(entries.get(name)) for name in metrics)]) for method, entries in found.table.items()]
    lines += [_row([method, *["failed"] * len(metrics)]) for method in found.failures]
    level = f"{100 * found.resampling.level:g} %"
    caption = (f"Mean [{level} bootstrap interval] over {count_rows(len(found))}; the maps explain "
               f"{_QUESTION[found.explains]}.")
    return "\n".join([*lines, "", caption, "", *(f"- {note}" for note in notes(found))]) + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _cell(entry: Mean | None) -> str:
    if entry is None or np.isnan(entry.mean):
        return "–"
    interval = "" if np.isnan(entry.low) or entry.low == entry.high else f" [{number(entry.low)}, {number(entry.high)}]"
    return number(entry.mean) + interval


def summary(found: DescribedMaps) -> str:
    drawn = [method for method in found.maps if method != "counterfactual"]
    lines = [f"{', '.join(drawn) or 'No map'} beside the counterfactuals of {count_rows(len(found))}; the maps explain "
             f"{_QUESTION[found.explains]}."]
    for share in found.shares:
        name = f"flip@{share:g}"
        means = {method: found.table[method][name].mean for method in drawn}
        best = max(means, key=means.__getitem__, default=None)
        own, chance = (found.table[control][name].mean for control in ("counterfactual", "random"))
        text = f"Replacing {100 * share:g} % of x by the counterfactual gives the target in {_share(own)} of the rows where "
        text += "it changed most"
        if best is not None and means[best] == 0:
            text += ", in none where a map points"
        elif best is not None:
            text += f", in {_share(means[best])} where {best} points, the best of the maps"
        lines.append(f"{text}, in {_share(chance)} at random.")
    if drawn:
        nearest = max(drawn, key=lambda method: np.nan_to_num(found.table[method]["spearman"].mean, nan=-2))
        lines.append(f"The map nearest to |x′ − x| in rank is {nearest} (Spearman "
                     f"{number(found.table[nearest]['spearman'].mean)}).")
    return "\n".join([*lines, *(f"- {note}" for note in notes(found))])


def _share(mean: float) -> str:
    return f"{100 * mean:.3g} %"


def notes(found: DescribedMaps) -> list[str]:
    """What failed, what was left out, and which numbers need care."""
    lines = [f"{method} failed: {message}." for method, message in found.failures.items()]
    lines += [f"{count_rows(k)} that {reason} {'is' if k == 1 else 'are'} left out." for reason, k in found.left_out.items()
              if k]
    if found.surrogate:
        lines.append("The maps are of the surrogate that stands in for the model; flips are judged by the model itself.")
    for method, gap in found.gaps.items():
        if gap > 0.1:
            lines.append(f"The attributions of {method} should sum to the explained number, and miss it by {_share(gap)} "
                         "of it (median over rows): compare their ranks, not their sizes.")
    for method, entries in found.table.items():
        missing = max((entry.missing for entry in entries.values()), default=0)
        if missing:
            lines.append(f"The map of {method} is constant in {count_rows(missing)}, which its rank correlation leaves out.")
    return lines
