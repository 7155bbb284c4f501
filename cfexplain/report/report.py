"""`render_report` puts the report together: cards of rows, their search paths, and notes on what was left out."""

from __future__ import annotations

from string import Template
from typing import Any

from cfexplain.foundation.in_words import count_rows
from cfexplain.foundation.protocols import FittedExplainer, Result
from cfexplain.plotting.pictures import layout_of
from cfexplain.report.page import label_places, page, piece
from cfexplain.report.paths import decoded_paths, path_section
from cfexplain.report.rows import blocks, changed_columns, largest_difference, row_fields, shown_images, shown_table

__all__ = ["render_report"]

_TABLE = 8000  # bytes of one table of changes, roughly


def render_report(cf: Result, *, explainer: FittedExplainer | None = None, title: str = "Counterfactuals",
                  max_rows: int = 1000, max_frames: int = 12, max_megabytes: float = 50.0) -> str:
    """The report of `cf` as one HTML document; see `Counterfactuals.to_html`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> cf = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y).explain(X[:3], target=1)
    >>> text = render_report(cf, title="Irises")
    >>> "<title>Irises</title>" in text, text.count("<article"), "http://" in text
    (True, 3, False)
    """
    if max_rows < 1 or max_frames < 2 or not max_megabytes > 0:
        raise ValueError(f"max_rows={max_rows!r} must be at least 1, max_frames={max_frames!r} at least 2 and "
                         f"max_megabytes={max_megabytes!r} positive.")
    if explainer is not None and cf.path is None:
        raise ValueError("explainer= decodes the search path, but this result has none. Record it: "
                         "explain(X, ..., record_path=True); or leave explainer= out.")
    is_image = len(cf) > 0 and layout_of(cf).is_image
    limit = largest_difference(cf[:max_rows]) if is_image else 0.0
    cards, size = _cards(cf[:max_rows], limit, max_megabytes * 1e6)
    shown = cf[: len(cards)]
    sections = [] if explainer is None else _sections(shown, explainer, max_frames, max_megabytes * 1e6 - size)
    for i, card in enumerate(cards):
        card["path"] = sections[i] if i < len(sections) else ""
        if not is_image:
            card["shown"] = shown_table(shown[i], i, bool(card["path"]))
    notes = _notes(cf, len(cards), max_rows, max_megabytes, None if explainer is None else len(sections))
    template = Template(piece("row.html"))
    return page(cf, [template.substitute(card) for card in cards], title=title, notes=notes, limit=limit,
                with_paths=any(sections))


def _cards(cf: Result, limit: float, room: float) -> tuple[list[dict[str, Any]], float]:
    """Values for the template of each row, for as many rows as fit into `room` bytes but at least one, and their size."""
    sources = {} if cf.is_regression else label_places(cf.source)
    targets, is_image = label_places(cf.target), len(cf) > 0 and layout_of(cf).is_image
    cards: list[dict[str, Any]] = []
    size = 0.0
    for cut in blocks(len(cf)):
        block = cf[cut]
        pictures = shown_images(block, cut.start, limit) if is_image else [""] * len(block)
        for i, (row, shown) in enumerate(zip(block, pictures, strict=True), cut.start):
            card = {**row_fields(row, i, sources, targets), "shown": shown, "path": ""}
            size += sum(len(str(part)) for part in card.values()) + (0 if is_image else _TABLE)
            if cards and size > room:
                return cards, room
            cards.append(card)
    return cards, size


def _sections(cf: Result, explainer: FittedExplainer, frames: int, room: float) -> list[str]:
    """The search path of each row, for as many rows as fit into `room` bytes."""
    sections: list[str] = []
    for cut in blocks(len(cf)):
        block = cf[cut]
        for i, (row, path) in enumerate(zip(block, decoded_paths(block, explainer, frames), strict=True), cut.start):
            columns = [] if layout_of(cf).is_image else [column for column, *_ in changed_columns(row)[0]]
            section = path_section(row, path, i, columns)
            room -= len(section)
            if room < 0:
                return sections
            sections.append(section)
    return sections


def _notes(cf: Result, n: int, max_rows: int, max_megabytes: float, n_paths: int | None) -> list[str]:
    """What was left out, and how to include it."""
    notes = []
    if n < len(cf):
        why = f"max_rows={max_rows}" if n == max_rows else f"more would not fit into max_megabytes={max_megabytes:g}"
        notes.append(f"This report shows the first {n} of {count_rows(len(cf))}: {why}. The figures above are of all rows. "
                     f"Raise the limit, or write the others to a file of their own: cf[{n}:].to_html(...).")
    if n_paths is not None and n_paths < n:
        notes.append(f"The search path is shown for the first {count_rows(n_paths)}: more would not fit into "
                     f"max_megabytes={max_megabytes:g}. Raise it, or lower max_frames=.")
    if n_paths is None and cf.path is not None and any(len(path) > 1 for path in cf.path[:n]):
        notes.append("The search path was recorded but is not shown: decoding it takes the explainer. Pass it: "
                     "cf.to_html(path, explainer=explainer).")
    return notes
