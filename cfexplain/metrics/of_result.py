"""A whole result measured: what validity does not see, in numbers and in sentences, and what to look at first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from cfexplain.foundation.in_words import count_rows
from cfexplain.foundation.ink import greyness
from cfexplain.foundation.protocols import Result
from cfexplain.metrics.appearance import ink, mean_distance, shade_kept, specks, spread_ratio
from cfexplain.metrics.distances import outside_range
from cfexplain.metrics.realism import sharpness
from cfexplain.plotting.pictures import layout_of
from cfexplain.plotting.words import number, share, target_in_words
from cfexplain.tables.frames import category_places, changed_cells

__all__ = ["Measures", "PairMeasures", "class_spread", "grey_of_real", "measured_rows", "measures_of", "outside_training",
           "specks_of", "training_figures"]

FEWEST = 5  # rows from which a figure of a set is taken
# Beyond these, a sentence says so
ALIKE, BLURRED, NOISY, SHADE, SPECKED = 0.8, 0.85, 3.0, 0.5, 0.01
GREY, COLUMNS, OUTSIDE, LOST, STRANGE = 1.25, 3, 0.05, 0.6, 5
SHADED = 20  # rows from which a correlation of shades is told from chance
_PAIR, _IMAGES, _VALUES, _MOST_NAMED = 300, 1000, 1e7, 3  # how much is measured at most, and how many pairs are named


@dataclass(frozen=True, kw_only=True)
class PairMeasures:
    """The rows of one source class with one target; of a regressor, the rows with one target.

    `spread` and `shade_kept` are those of `cfexplain.metrics`, the latter of brightness, or of the channel where it is
    least; NaN where they cannot be measured. `room` is the spread of real rows of the target class over that of the
    originals, at most 1: more than it cannot be asked for. `target` is empty of a regressor, whose real rows are all rows.
    """

    name: str
    target: str
    rows: int
    spread: float = float("nan")
    shade_kept: float = float("nan")
    room: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What a result is like beside being valid; NaN is what cannot be measured.

    Rows that had their target before, and rows on which the model fails, are left out. Best efforts count.

    Attributes
    ----------
    rows : int
        How many are left.
    converged : float
        Share of rows that are valid and meet every condition.
    spread, shade_kept : float
        Means over `pairs`, weighted by their rows. Near 1 where what does not matter is kept; a spread near 0 is one
        prototype for all.
    sharpness, sharpness_of_real : float
        Median of the sharpness of x′ over that of x, and this over what it is between real images of the two classes. Of
        images only, as are `shade_kept`, `specks` and `grey`.
    specks, grey : float
        Share of rows with stray specks, and the median greyness of x′ over that of the median real image of its target
        class. For ink on paper only (`cfexplain.metrics.ink`).
    columns_changed : float
        Columns that changed in the median row. Of tables only.
    outside_range : float
        Share of rows with a value beyond those of training (of images, beyond ``data_range``) that x did not have.
    pairs : list of PairMeasures
        Those of at least 5 rows.
    lines, warnings : list of str
        The numbers in words, and sentences about what is bad.
    """

    rows: int
    converged: float = float("nan")
    spread: float = float("nan")
    shade_kept: float = float("nan")
    sharpness: float = float("nan")
    sharpness_of_real: float = float("nan")
    specks: float = float("nan")
    grey: float = float("nan")
    columns_changed: float = float("nan")
    outside_range: float = float("nan")
    pairs: list[PairMeasures] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def measures_of(cf: Result) -> Measures:
    """The `Measures` of a result.

    Of very many rows, images are measured on 1000, and spreads on 300 a pair, evenly chosen; on fewer of large images.
    """
    cf = measured_rows(cf)
    if not len(cf):
        return Measures(rows=0)
    pairs = list(_pairs(cf))
    numbers = {"converged": float(cf.complete.mean()),
               **{name: _weighted(pairs, name) for name in ("spread", "shade_kept")}}
    parts = [] if not pairs else [_spread_in_words(numbers["spread"], pairs)]
    if cf.is_image:
        own, words = _of_images(cf[_evenly(len(cf), _most(cf.x, _IMAGES))])
        if pairs:
            parts.append(f"shade kept r {number(numbers['shade_kept'])}")
        beside = _median(_between_real(cf))
        parts.insert(0, f"sharpness {number(own['sharpness'])} of the originals'"
                     + ("" if np.isnan(beside) else f" (between real ones {number(beside)})"))
        if not np.isnan(own["specks"]):
            parts += [f"stray specks in {100 * own['specks']:.2g} %", f"grey {number(own['grey'])} of real ones'"]
        said = [f"Appearance: {', '.join(parts)}."]
    else:
        own, words = _of_columns(cf)
        parts.insert(0, f"{own['columns_changed']:g} of {len(cf.feature_names)} columns in the median row")
        if "outside_range" in own:
            parts.append(f"outside the range of training {share(round(own['outside_range'] * len(cf)), len(cf))}")
        said = [f"Changed: {', '.join(parts)}."]
    return Measures(rows=len(cf), **numbers, **own, pairs=pairs, lines=said,
                    warnings=[*_alike(pairs), *_shades(pairs), *words, *_strange(cf)])


def measured_rows(cf: Result) -> Result:
    """Rows that were searched, and of which the model has an answer."""
    return cf[(cf.status != "already_target") & (cf.status != "model_failed")]


def specks_of(cf: Result) -> np.ndarray | None:
    """Whether each x′ has stray specks, bool (n,); None for what is no ink on paper."""
    if not len(cf) or not cf.is_image or not ink(_net(cf, cf.x), _range(cf)):
        return None
    return specks(_net(cf, cf.x), _net(cf, cf.x_cf), _range(cf))


def grey_of_real(cf: Result) -> np.ndarray | None:
    """Greyness of each x′ over that of the median real image of its target class, (n,); None for what is no ink on paper."""
    real, low, high = cf.metadata.get("class_greyness"), *_range(cf)
    sign = 0 if real is None or not len(cf) or not cf.is_image else ink(_net(cf, cf.x), (low, high))
    if not real or not sign:
        return None
    images = torch.from_numpy(_net(cf, cf.x_cf).astype(np.float64))
    grey = greyness(images, (low, high) if sign > 0 else (high, low)).numpy()
    own = np.asarray(real, dtype=float)[_class_places(cf, cf.target), (1 - sign) // 2]
    return np.where(own > 0, grey / np.where(own > 0, own, 1), np.nan)


def outside_training(cf: Result) -> np.ndarray | None:
    """Whether each x′ has a value that training rows had not, and x neither, bool (n,); None where that is not known."""
    if cf.is_image:
        return outside_range(cf.x, cf.x_cf, *_range(cf))
    limits = cf.metadata.get("feature_range")
    return None if limits is None else outside_range(cf.x, cf.x_cf, *limits)


def training_figures(X: np.ndarray, groups: np.ndarray, n_groups: int,
                     data_range: tuple[float, float] | None = None) -> dict[str, Any]:
    """What results are compared with, of training rows (n, d), or of images (n, C, H, W) in `data_range`: JSON-able.

    Of tables ``feature_range``, the least and the largest value of each column. Of each group ``class_spread``, the mean
    distance of two rows (of tables, in standard deviations); and of images the medians of ``class_sharpness`` and
    ``class_greyness``, the latter of bright and of dark ink. Of at most 300 rows a group, evenly chosen.
    """
    if data_range is None:
        scale = X.std(0)
        return {"feature_range": [X.min(0).tolist(), X.max(0).tolist()],
                "class_spread": class_spread(X / np.where(scale > 0, scale, 1), groups, n_groups)}
    some, (low, high) = _of_groups(X, groups, n_groups), data_range
    grey = [[_median(greyness(torch.from_numpy(rows.astype(np.float64)), ends).numpy())
             for ends in ((low, high), (high, low))] for rows in some]
    return {"class_greyness": grey, "class_sharpness": [_median(sharpness(rows)) for rows in some],
            "class_spread": [mean_distance(rows) for rows in some]}


def class_spread(X: np.ndarray, groups: np.ndarray, n_groups: int) -> list[float]:
    """The mean distance of two rows of each group, of at most 300 rows a group. Rows are to be in the scale in which those
    of a result are compared: images as they are, columns in standard deviations, of a category zeros and a one.
    """
    return [mean_distance(rows) for rows in _of_groups(X, groups, n_groups)]


def _of_groups(X: np.ndarray, groups: np.ndarray, n_groups: int) -> list[np.ndarray]:
    return [X[np.flatnonzero(groups == k)[_evenly(int((groups == k).sum()), _most(X))]] for k in range(n_groups)]


# ----------------------------------------------------------------------------------------------------------------- numbers
def _pairs(cf: Result) -> Iterator[PairMeasures]:
    source = np.full(len(cf), "") if cf.is_regression else cf.source.astype(str)
    target = cf.target.astype(str)
    real = cf.metadata.get("class_spread")
    for a, b in dict.fromkeys(zip(source.tolist(), target.tolist(), strict=True)):
        rows = np.flatnonzero((source == a) & (target == b))
        if len(rows) < FEWEST:
            continue
        some = cf[rows[_evenly(len(rows), _most(cf.x))]]
        before, after = (_codes(some, values) for values in (some.x, some.x_cf))
        spread, room, shade = spread_ratio(before, after), 1.0, float("nan")
        if real and not np.isnan(spread):
            room = min(float(np.asarray(real)[_class_places(some, some.target[:1])[0]]) / mean_distance(before), 1.0)
        if cf.is_image:
            kept = shade_kept(_net(some, some.x), _net(some, some.x_cf))
            shade = float(np.nanmin(kept)) if not np.isnan(kept).all() else shade
        name, of = (f"target {target_in_words(some)}", "") if cf.is_regression else (f"{a} → {b}", b)
        yield PairMeasures(name=name, target=of, rows=len(rows), spread=spread, shade_kept=shade, room=room)


def _of_images(cf: Result) -> tuple[dict[str, float], list[str]]:
    x, x_cf, words, n = _net(cf, cf.x), _net(cf, cf.x_cf), [], len(cf)
    drawn, before, real = sharpness(x_cf), sharpness(x), _between_real(cf)
    some = before > 0  # of originals without any contrast there is no ratio
    sharp, of_real = _median(drawn[some] / before[some]), _median(drawn[some] / before[some] / real[some])
    own = {"sharpness": sharp, "sharpness_of_real": of_real}
    beside = "" if np.isnan(of_real) else f", where real images of these classes have {_median(real[some]):.2f}"
    least = sharp if np.isnan(of_real) else of_real
    if n >= FEWEST and least < BLURRED:
        words.append(f"the counterfactuals are blurred: sharpness {sharp:.2f} of the originals' (median){beside}. The "
                     "coordinates draw no sharper: train them longer, or see detail=.")
    if n >= FEWEST and least > NOISY:
        words.append(f"the counterfactuals are rough: sharpness {sharp:.2f} of the originals' (median){beside}, as of "
                     "adversarial noise.")
    spotted, grey, outside = specks_of(cf), grey_of_real(cf), outside_training(cf)
    if spotted is not None:
        own["specks"] = float(spotted.mean())
        if own["specks"] > SPECKED:
            words.append(f"{_who(int(spotted.sum()), n)} {'has' if spotted.sum() == 1 else 'have'} stray specks that the "
                         "original has not.")
    if grey is not None:
        own["grey"] = _median(grey)
        if n >= FEWEST and own["grey"] > GREY:
            words.append(f"the ink is grey: {own['grey']:.2f} times as grey as that of real images of the target (median); "
                         "see ink_weight=.")
    if outside is not None:
        own["outside_range"] = float(outside.mean())
    change, lost = float(np.median(cf.distance_x)), float(np.median(cf.reconstruction_error))
    if n >= FEWEST and lost > LOST * change > 0:
        words.append(f"the coordinates cannot draw these images: their reconstructions are off by {number(lost)}, where "
                     f"the whole change is {number(change)} (medians). Look at them beside the originals.")
    elif n >= FEWEST and "badly_drawn" in cf.metadata:
        words.append(cf.metadata["badly_drawn"])  # each of these may look well to the figures, as a smear has edges, too
    return {"specks": float("nan"), "grey": float("nan"), **own}, words


def _of_columns(cf: Result) -> tuple[dict[str, float], list[str]]:
    words, n, d = [], len(cf), len(cf.feature_names)
    changed = changed_cells(cf).sum(1)
    own = {"columns_changed": float(np.median(changed))}
    if n >= FEWEST and own["columns_changed"] > COLUMNS:
        words.append(f"{own['columns_changed']:g} of {d} columns change in the median row, more than a person "
                     "can act on: immutable= holds columns.")
    outside = outside_training(cf)
    if outside is not None:
        own["outside_range"] = float(outside.mean())
        if own["outside_range"] > OUTSIDE:
            words.append(f"{_who(int(outside.sum()), n)} {'has' if outside.sum() == 1 else 'have'} values that no training "
                         "row has: bounds= keeps columns in a range.")
    return own, words


def _strange(cf: Result) -> list[str]:
    known = cf.density_percentile[~np.isnan(cf.density_percentile)]
    if len(known) < FEWEST or np.median(known) >= STRANGE:
        return []
    return [f"the counterfactuals are not typical: the median one less so than {100 - np.median(known):.0f} % of the "
            "real rows that it should be like."]


def _codes(cf: Result, values: np.ndarray) -> np.ndarray:
    """Rows between which distances mean something: images as they are, columns in standard deviations, categories apart."""
    if cf.is_image:
        return values
    values = values.reshape(len(values), -1).astype(float)
    scale = np.asarray(cf.metadata.get("feature_scale") or np.ones(values.shape[1]), dtype=float)
    places = sorted(category_places(cf.metadata))
    parts = [np.delete(values / np.where(scale > 0, scale, 1), places, axis=1)]
    parts += [values[:, [i]] == np.unique(np.concatenate([cf.x[:, i], cf.x_cf[:, i]])) for i in places]
    return np.nan_to_num(np.concatenate(parts, axis=1))  # a missing value is a value of its own


def _class_places(cf: Result, labels: np.ndarray) -> np.ndarray:
    """Which class each of `labels` is, in the order of the metadata; 0 for values."""
    if cf.is_regression:
        return np.zeros(len(labels), dtype=int)
    places = {label: k for k, label in enumerate(cf.metadata.get("classes") or ())}
    return np.array([places.get(label, 0) for label in labels.tolist()], dtype=int)


def _between_real(cf: Result) -> np.ndarray:
    """Sharpness of real images of the target class over that of the source class, (n,): a 5 has more edges than a 1."""
    known = np.asarray(cf.metadata.get("class_sharpness") or [np.nan], dtype=float)
    known = np.where(known > 0, known, np.nan)
    if len(known) < len(cf.metadata.get("classes") or ()):
        return np.full(len(cf), np.nan)
    return known[_class_places(cf, cf.target)] / known[_class_places(cf, cf.source)]


def _net(cf: Result, samples: np.ndarray) -> np.ndarray:
    return layout_of(cf).to_net(samples)


def _range(cf: Result) -> tuple[float, float]:
    low, high = cf.metadata.get("data_range") or (0.0, 1.0)
    return float(low), float(high)


def _most(X: np.ndarray, rows: int = _PAIR) -> int:
    """How many rows of X are measured: fewer of large ones."""
    return int(np.clip(_VALUES // max(X[:1].size, 1), 2, rows))


def _evenly(n: int, most: int) -> np.ndarray:
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).round().astype(int)


def _median(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else float("nan")


def _weighted(pairs: list[PairMeasures], name: str) -> float:
    known = [pair for pair in pairs if not np.isnan(getattr(pair, name))]
    return sum(getattr(pair, name) * pair.rows for pair in known) / sum(pair.rows for pair in known) if known else np.nan


# ------------------------------------------------------------------------------------------------------------------- words
def _spread_in_words(mean: float, pairs: list[PairMeasures]) -> str:
    known = [pair for pair in pairs if not np.isnan(pair.spread)]
    if len(known) < 2:
        return f"spread {number(mean)} of the originals'"
    least = min(known, key=lambda pair: pair.spread)
    return f"spread {number(mean)} of the originals' (least: {least.name} {number(least.spread)})"


def _alike(pairs: list[PairMeasures]) -> list[str]:
    same = [pair.name for pair in pairs if np.isnan(pair.spread)]
    words = [f"the originals for {', '.join(same[:_MOST_NAMED])} are all equal, so that nothing can be said of how alike "
             "the counterfactuals are: was X read as it should be?"] if same else []
    bad = sorted((pair for pair in pairs if pair.spread < ALIKE * pair.room), key=lambda pair: pair.spread)
    words += [f"the {pair.rows} counterfactuals for {pair.name} look alike: spread {pair.spread:.2f} (of the originals' 1.0"
              + ("" if pair.room >= 1 else f"; real ones{pair.target and f' of {pair.target}'} have {pair.room:.2f}") + ")."
              for pair in bad[:_MOST_NAMED]]
    return words + _more(len(bad), "look alike, too")


def _shades(pairs: list[PairMeasures]) -> list[str]:
    bad = sorted((pair for pair in pairs if pair.rows >= SHADED and pair.shade_kept < SHADE),
                 key=lambda pair: pair.shade_kept)
    words = [f"dark does not stay dark, nor bright bright, from {pair.name}: r {pair.shade_kept:.2f} between the mean "
             "shades of x and x′." for pair in bad[:_MOST_NAMED]]
    return words + _more(len(bad), "do not keep their shades, either")


def _more(n: int, what: str) -> list[str]:
    left = n - _MOST_NAMED
    return [f"{left} more pair{'s' * (left > 1)} of classes {what}: see measures().pairs."] if left > 0 else []


def _who(count: int, n: int) -> str:
    return "this row" if n == 1 else f"{count} of {count_rows(n)}"
