"""The page around the rows: what was found in short, how to read it, controls, and how it was made."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from functools import lru_cache
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

from cfexplain.foundation.in_words import count_rows
from cfexplain.foundation.protocols import MeasuredResult, Result
from cfexplain.plotting.pictures import layout_of
from cfexplain.plotting.words import FIRST, rank, summary
from cfexplain.report.facts import BADGES, clipped, number, probability

__all__ = ["label_places", "page", "piece"]

MOST_LABELS = 100  # in a menu; with more labels there is no menu, and readers use the text field


@lru_cache
def piece(name: str) -> str:
    """One file of the template, which lies in this folder."""
    return files("cfexplain.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def page(cf: Result, rows: list[str], *, title: str, limit: float, notes: list[str], with_paths: bool) -> str:
    """The whole document.

    The page's security policy lists the digests of its own style and script, so that a browser runs nothing else: a script
    inside a label would stay text even if it were not escaped.
    """
    style, script = piece("style.css"), piece("script.js")
    measures = cf.measures()
    lead, sentences, advice = _summary(cf, measures)
    return Template(piece("page.html")).substitute(
        title=clipped(title), style=style, style_hash=_hash(style), script=script, script_hash=_hash(script), lead=lead,
        tiles=_tiles(cf, measures), advice=_notes(advice, FIRST), left_out=_notes(notes), summary=sentences,
        legend=_legend(cf, with_paths), scale=_scale(cf, limit), controls=_controls(cf, len(rows)) if len(rows) > 1 else "",
        count=count_rows(len(rows)), rows="\n".join(rows), made=_made(cf))


def _notes(lines: list[str], heading: str = "") -> str:
    items, above = "".join(f"<li>{html.escape(line)}</li>" for line in lines), f"<p>{heading}</p>" if heading else ""
    return f'<div class="note" role="note">{above}<ul>{items}</ul></div>' if lines else ""


def _summary(cf: Result, measures: MeasuredResult) -> tuple[str, str, list[str]]:
    """First sentence, the others, and advice, of `Counterfactuals.summary`."""
    first, *lines = (line for line in summary(cf, measures).split("\n") if line != FIRST)
    advice = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    others = "".join(f"<p>{html.escape(line)}</p>" for line in lines if not line.startswith("- "))
    sentences = f"<details><summary>The summary in words</summary>{others}</details>" if others else ""
    return html.escape(first), sentences, advice


def _median(values: np.ndarray) -> float:
    """Of the numbers among them; NaN where the model failed on all."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else float("nan")


def _tiles(cf: Result, measures: MeasuredResult) -> str:
    searched = cf[cf.status != "already_target"]
    if len(cf) < 2 or not len(searched):
        return ""
    n = len(searched)
    tiles = [("Valid", f"{int(searched.valid.sum())} of {n}", "the model gives them their target"),
             ("Every condition met", f"{int(searched.complete.sum())} of {n}", "valid, and all that the search asked for")]
    if cf.is_regression:
        before, after = (number(_median(values), 4) for values in (searched.source, searched.prediction))
        tiles.append(("Value", f"{before} → {after}", "median, original → counterfactual"))
    else:
        tiles.append(("Probability of the target", f"{probability(_median(searched.proba_before))} → "
                      f"{probability(_median(searched.proba_after))}", "median, original → counterfactual"))
    if not np.isnan(searched.density_percentile).all():
        tiles.append(("Plausibility", rank(np.nanmedian(searched.density_percentile)),
                      "median percentile; 50 is a typical real row"))
    if np.isfinite(measures.spread):
        tiles.append(("Spread", number(measures.spread), "of the originals’; near 0: all look alike"))
    if np.isfinite(measures.sharpness):
        tiles.append(("Sharpness", number(measures.sharpness), "of the originals’, median; below 1: blurred"))
    if np.isfinite(measures.columns_changed):
        tiles.append(("Columns changed", f"{measures.columns_changed:g} of {len(cf.feature_names)}", "in the median row"))
    return '<dl class="tiles">' + "".join(
        f"<div><dt>{name}</dt><dd>{value} <small>{words}</small></dd></div>" for name, value, words in tiles) + "</dl>"


def _legend(cf: Result, with_paths: bool) -> str:
    """How to read a row."""
    items = []
    if not len(cf):
        return ""
    if layout_of(cf).is_image:
        channels = layout_of(cf).net_shape[0]
        mean = f", the mean of {channels} channels" if channels > 1 else ""
        items += [("Change", f"Counterfactual − original{mean}; one scale for all rows: blue is darker, orange "
                   "brighter, and where nothing changed the page shows through."),
                  ("Reconstruction", "What the coordinates of the search keep of the original. What is missing there is no "
                   "part of the explanation.")]
    else:
        unit = ("standard deviations (SD) of the column in training" if cf.metadata.get("feature_scale") else
                "the column’s own units")
        items.append(("Change", f"To − from, in {unit}. Values are in the units that the explainer was fitted on."))
    items.append(("Plausibility", "The percentile of the counterfactual’s density among real rows"
                  + ("" if cf.is_regression else " of its new class") + ": 50 is as typical as their median, 0 is less "
                  "typical than every one."))
    if not cf.is_regression:
        items.append(("Probability", "What the explained classifier gives the target: ring before, dot after."))
    if with_paths:
        items.append(("Search path", "The points that the search went through, from the original to the counterfactual, and "
                      "above them the model’s answer. Move the slider by mouse, finger, or arrow keys."))
    return ('<details class="legend"><summary>How to read a row</summary><dl>'
            + "".join(f"<dt>{name}</dt><dd>{words}</dd>" for name, words in items) + "</dl></details>")


def _scale(cf: Result, limit: float) -> str:
    """What the colours of the signed pictures mean."""
    if not len(cf) or not layout_of(cf).is_image:
        return ""
    stops = "".join(f'<stop class="tip-{sign}" offset="{offset}" stop-opacity="{opacity}"/>' for sign, offset, opacity in (
        ("minus", 0, 1), ("minus", 0.5, 0), ("plus", 0.5, 0), ("plus", 1, 1)))
    end = number(limit)
    return (f'<p class="scale"><span>Change: darker −{end}</span><svg class="signed" width="120" height="14" role="img" '
            'aria-label="Colour scale: blue is darker, orange is brighter than the original"><defs>'
            f'<linearGradient id="signed">{stops}</linearGradient></defs><rect width="120" height="14" fill="url(#signed)"/>'
            f"</svg><span>+{end} brighter</span></p>")


def label_places(labels: np.ndarray) -> dict[str, int]:
    """The position of each label in a menu: numbers by size, words by alphabet. Empty if there are too many."""
    names = {str(value): value for value in labels.tolist()}
    if len(names) > MOST_LABELS:
        return {}
    numbers_only = all(isinstance(value, (int, float)) for value in names.values())
    return {name: k for k, name in enumerate(sorted(names, key=names.__getitem__ if numbers_only else str))}


def _options(places: dict[str, int]) -> str:
    return "".join(f'<option value="{k}">{clipped(name, 60) or "(empty)"}</option>' for name, k in places.items())


def _controls(cf: Result, n: int) -> str:
    shown = cf[:n]
    change = "Change in value" if cf.is_regression else "Change in probability"
    sorts = (("row", "Row number"), ("status", "Status"), ("percentile", "Plausibility"), ("distance", "Distance, latent"),
             ("distancex", "Distance, x to x′"), ("change", change), ("steps", "Steps"))
    used = [status for status in BADGES if (shown.status == status).any()]
    menus = {}
    for name, word, labels in (("sources", "From", shown.source), ("targets", "To", shown.target)):
        places = {} if name == "sources" and cf.is_regression else label_places(labels)
        menu = f'<select id="{name[:-1]}"><option value="">any</option>{_options(places)}</select>'
        menus[name] = f"<label>{word} {menu}</label>" if len(places) > 1 else ""
    size = ('<label>Picture size <input type="range" id="size" min="64" max="256" step="16" value="128"></label>'
            if layout_of(cf).is_image else "")
    return Template(piece("controls.html")).substitute(
        sorts="".join(f'<option value="{value}">{html.escape(word)}</option>' for value, word in sorts),
        statuses="".join(f'<option value="{list(BADGES).index(status)}">{BADGES[status]} '
                         f"({int((shown.status == status).sum())})</option>" for status in used),
        size=size, **menus)


def _made(cf: Result) -> str:
    """How the result was made, from its metadata, so that it can be made again."""
    facts: dict[str, Any] = {name: cf.metadata[name] for name in ("explainer", "n_train", "device", "backend", "versions")
                             if cf.metadata.get(name) is not None}
    lines = [f"{name}: {value if isinstance(value, str) else json.dumps(value, default=str)}"
             for name, value in facts.items()]
    lines += [str(cf.metadata["parameters"])] if cf.metadata.get("parameters") else []
    text = html.escape("\n".join(lines))
    made = f"<details><summary>How it was made</summary><pre>{text}</pre></details>" if lines else ""
    return f"{made}<p>Written by cfexplain. This file needs no network and holds everything that it shows.</p>"
