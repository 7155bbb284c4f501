"""The search path of one row, as a strip of pictures or a column of values under a slider."""

from __future__ import annotations

import copy
import html
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from cfexplain.foundation.protocols import DecodedPoints, FittedExplainer, Result
from cfexplain.plotting.path import as_drawn
from cfexplain.plotting.pictures import as_pictures, layout_of, png_address
from cfexplain.plotting.words import equals, rank, target_in_words
from cfexplain.report.facts import cell, number

__all__ = ["decoded_paths", "path_section"]


def decoded_paths(cf: Result, explainer: FittedExplainer, frames: int) -> Sequence[DecodedPoints]:
    """The path of each row of `cf`, from where the search began to the point that it returned.

    Raises
    ------
    ValueError
        `explainer` did not make `cf`.
    """

    # points after the returned one were tried and found worse
    ends = [len(path) - int(np.nan_to_num(np.abs(path - z).sum(1), nan=np.inf)[::-1].argmin())
            for path, z in zip(cf.path or [], cf.z_cf, strict=True)]
    cut = copy.copy(cf)
    cut.path = [path[:end] for path, end in zip(cf.path or [], ends, strict=True)]
    paths = as_drawn(explainer).decode_path(cut, frames=frames)
    width = float(np.ptp(cf.x)) or 1.0
    for i, path in enumerate(paths):
        apart = float(np.abs(path.x[path.returned] - cf.x_cf[i]).max())
        if not apart <= 1e-2 * width:
            raise ValueError(
                f"explainer= is not the one that made this result: it decodes the code of row {i} to something that differs "
                f"from its counterfactual by {apart:.3g}. Pass the one that made it, with the same detail=, tau= and clip=.")
    return paths


def path_section(row: Result, path: DecodedPoints, i: int, columns: Sequence[int] = ()) -> str:
    """Slider and curve; at each point the picture of an image, or the values of `columns` of a table row.

    An empty string if the path has no point between the original and the counterfactual.
    """
    if len(path.x) < 2:
        return ""
    words = _words(row, path)
    samples = np.concatenate([row.x, path.x])
    data: dict[str, Any] = {"words": words}
    inside, kind = "", "values"
    if layout_of(row).is_image:
        pictures = as_pictures(samples, row)
        strip, (height, width) = np.concatenate(list(pictures), 1), pictures.shape[1:3]
        crisp = " crisp" if max(height, width) <= 32 else ""
        inside = (f'<img class="film{crisp}" src="{png_address(strip)}" width="{strip.shape[1]}" height="{height}" '
                  f'alt="The search path of row {i} in {len(words)} pictures, from the original on the left to the '
                  'counterfactual on the right.">')
        stage = (f'<div class="stage" data-live hidden><canvas class="{crisp.strip()}" width="{width}" height="{height}" '
                 f'role="img" aria-label="{html.escape(words[-1])}"></canvas></div>')
        kind = "pictures"
    else:
        data["values"] = [[cell(row, column, sample[column]) for column in columns] for sample in samples]
        stage = ""
    encoded = html.escape(json.dumps(data, ensure_ascii=False, allow_nan=False))
    last = len(words) - 1
    return (f'<div class="path path-{kind}" role="group" data-points="{encoded}" aria-labelledby="path-{i}">'
            f'<h4 id="path-{i}">Search path<span class="unseen"> of row {i}</span></h4>'
            f'<output data-live hidden></output><div class="way">{stage}'
            f'<div class="track">{inside}{_curve(row, path)}<div data-live hidden>'
            f'<input type="range" min="0" max="{last}" step="1" value="{last}" aria-label="Point of the search path of row '
            f'{i}" aria-valuetext="{html.escape(words[-1])}"></div></div></div></div>')


def _words(row: Result, path: DecodedPoints) -> list[str]:
    """A line for the original and for each point, as plain text."""
    target = " ".join(target_in_words(row).split())
    target = target if len(target) <= 40 else target[:39] + "…"
    first = (f"value {number(row.source[0], 4)}" if row.is_regression else
             f"probability of {target} {equals(row.proba_before[0])}")
    words = [f"Original: {first}"]
    for k, step in enumerate(path.step):
        name = "Counterfactual" if k == path.returned else "Start of the search" if step == 0 else f"Step {step}"
        value = (f"value {number(path.value[k], 4)}" if path.value is not None else
                 f"probability of {target} {equals(path.proba[k])}")
        percentile = path.density_percentile[k]
        typical = "" if np.isnan(percentile) else f", plausibility {rank(percentile)}"
        words.append(f"{name}{f' (step {step})' if k == path.returned else ''}: {value}{typical}")
    return words


def _curve(row: Result, path: DecodedPoints) -> str:
    """Probability of the target, or value, over the points, each above its picture."""
    if path.value is None:
        heights = np.concatenate([row.proba_before, path.proba])
    else:
        values = np.concatenate([row.source, path.value])
        low, high = np.nanmin(values), np.nanmax(values)
        heights = (values - low) / ((high - low) or 1)
    n = len(heights)
    points = " ".join(f"{k},{30 - 28 * h:.1f}" for k, h in enumerate(heights) if np.isfinite(h))
    return (f'<svg class="curve" viewBox="-0.5 0 {n} 32" preserveAspectRatio="none" aria-hidden="true">'
            f'<line class="base" x1="-0.5" x2="{n - 0.5}" y1="30" y2="30"/><polyline points="{points}"/>'
            f'<line class="here" x1="{n - 1}" x2="{n - 1}" y1="0" y2="32"/></svg>')
