"""`Counterfactuals`: what was found, row by row, with what a person needs to trust it or not."""

from __future__ import annotations

import base64
import html
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from cfexplain._optional import optional_import
from cfexplain._store import atomic_write, read_arrays, write_arrays

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from pandas import DataFrame

    from cfexplain.plotting import CounterfactualDisplay

__all__ = ["STATUSES", "Counterfactuals"]

STATUSES = ("converged", "step_budget", "already_target", "not_found")
FEW_ROWS = 100  # of a class in training, under which the summary says that they are few
_OPTIONAL = ("surrogate_valid", "second_opinion")
_NOT_ROWS = ("container", "conditions", "path", "metadata")
_MEANING = {"decision": "confident enough", "density": "typical enough", "second_opinion": "second opinion agrees"}


@dataclass(kw_only=True, eq=False, repr=False)
class Counterfactuals:
    """Counterfactuals, row by row; array-like: ``len``, indexing, and ``np.asarray`` gives X′.

    Any NumPy index of one dimension gives the `Counterfactuals` of those rows; an int gives one row.

    Parameters
    ----------
    x, x_cf, reconstruction : ndarray of shape (n, …), in the user's layout
        Original x, counterfactual x′, and decode(z₀): what the coordinates keep of x. The explanation is the step from
        x to x′; what the coordinates lost is x against the reconstruction, and is no explanation.
    source, target, prediction : ndarray of shape (n,)
        The classifier's label of x, the wanted label, and the classifier's label of x′.
    proba_before, proba_after : ndarray of shape (n,), in [0, 1]
        Probability of the *target* for x and for x′.
    valid : ndarray of bool, shape (n,)
        The explained classifier gives x′ its target.
    status : ndarray of str, shape (n,)
        ``converged`` · ``step_budget`` (valid, but steps ran out before all conditions held) · ``already_target`` (x
        had it already) · ``not_found`` (not valid; the row is the best effort).
    n_steps : ndarray of int, shape (n,)
    z, z_cf : ndarray of shape (n, d)
        Codes z₀ and z′.
    distance, distance_x : ndarray of shape (n,)
        ‖z′ − z₀‖₂ and ‖x′ − x‖₂.
    log_density : ndarray of shape (n,)
        log p(z′|target), in nats.
    density_percentile : ndarray of shape (n,), 0–100
        Its place among the training rows of the target class: 50 is as typical as their median.
    reconstruction_error : ndarray of shape (n,)
        ‖x − decode(z₀)‖₂.
    conditions : dict of str to ndarray of bool, shape (n,)
        Which conditions of the search each row meets.
    surrogate_valid : ndarray of bool, optional
        What the surrogate said of x′, where one stood in for the classifier during the search.
    second_opinion : ndarray of bool, optional
        Small classifiers of the latent agree.
    path : list of ndarray of shape (steps + 1, d), optional
        Each row's points of the search.
    container : {"numpy", "torch"}
        Kind of `array`.
    metadata : dict
        JSON-able: explainer, parameters, classes, versions, …

    Raises
    ------
    ValueError
        Arrays of different length, or an unknown status or container.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> cf = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y).explain(X[:4], target=1)
    >>> len(cf), np.asarray(cf).shape, cf[cf.valid].valid.all(), len(cf[-1])
    (4, (4, 4), np.True_, 1)
    """

    x: np.ndarray
    x_cf: np.ndarray
    reconstruction: np.ndarray
    source: np.ndarray
    target: np.ndarray
    prediction: np.ndarray
    proba_before: np.ndarray
    proba_after: np.ndarray
    valid: np.ndarray
    status: np.ndarray
    n_steps: np.ndarray
    z: np.ndarray
    z_cf: np.ndarray
    distance: np.ndarray
    distance_x: np.ndarray
    log_density: np.ndarray
    density_percentile: np.ndarray
    reconstruction_error: np.ndarray
    conditions: dict[str, np.ndarray] = field(default_factory=dict)
    surrogate_valid: np.ndarray | None = None
    second_opinion: np.ndarray | None = None
    path: list[np.ndarray] | None = None
    container: str = "numpy"
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self._row_names():
            setattr(self, name, np.asarray(getattr(self, name)))
        self.conditions = {name: np.asarray(held) for name, held in self.conditions.items()}
        columns = {name: getattr(self, name) for name in self._row_names()}
        columns.update({f"conditions[{name!r}]": held for name, held in self.conditions.items()})
        if self.path is not None:
            columns["path"] = self.path
        n = len(self.x)
        for name, column in columns.items():
            if len(column) != n:
                raise ValueError(f"{name} has {len(column)} rows, but x has {n}; all must be row-aligned.")
        if self.x_cf.shape != self.x.shape or self.reconstruction.shape != self.x.shape:
            raise ValueError(f"x has the shape {self.x.shape}, x_cf {self.x_cf.shape}, reconstruction "
                             f"{self.reconstruction.shape}; all must be the same.")
        strange = sorted(set(self.status.tolist()) - set(STATUSES))
        if strange:
            raise ValueError(f"status holds {strange}; expected {STATUSES}.")
        if self.container not in ("numpy", "torch"):
            raise ValueError(f"container={self.container!r} is not known; choose 'numpy' or 'torch'.")

    def _row_names(self) -> list[str]:
        """Names of the arrays with one entry a row; optional ones only where they are there."""
        return [f.name for f in fields(self) if f.name not in _NOT_ROWS
                and not (f.name in _OPTIONAL and getattr(self, f.name) is None)]

    # ----------------------------------------------------------- array-like
    def __len__(self) -> int:
        return len(self.x)

    def __iter__(self) -> Iterator[Counterfactuals]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Counterfactuals:
        rows = np.arange(len(self))[index]
        rows = rows[None] if np.ndim(rows) == 0 else rows
        if rows.ndim != 1:
            raise IndexError("Only rows can be indexed: pass an int, a slice, or one dimension of bools or ints.")
        parts: dict[str, Any] = {name: getattr(self, name)[rows] for name in self._row_names()}
        return Counterfactuals(
            **parts, conditions={name: held[rows] for name, held in self.conditions.items()},
            path=None if self.path is None else [self.path[i] for i in rows],
            container=self.container, metadata=dict(self.metadata))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.x_cf if dtype is None else self.x_cf.astype(dtype, copy=False)
        if copy is False and array is not self.x_cf:
            raise ValueError(f"x_cf is {self.x_cf.dtype}; as {np.dtype(dtype)} it has to be copied.")
        return array.copy() if copy and array is self.x_cf else array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of X′."""
        return self.x_cf.shape

    @property
    def ndim(self) -> int:
        return self.x_cf.ndim

    @property
    def dtype(self) -> np.dtype:
        return self.x_cf.dtype

    @property
    def array(self) -> Any:
        """X′ in the kind of array that was explained: a tensor where a tensor came in."""
        if self.container == "numpy":
            return self.x_cf
        import torch

        return torch.from_numpy(np.ascontiguousarray(self.x_cf))

    @property
    def complete(self) -> np.ndarray:
        """Valid, and every condition met: bool, shape (n,)."""
        return np.logical_and.reduce([self.valid, *self.conditions.values()])

    @property
    def feature_names(self) -> list[str]:
        """Names of the columns, as at fit; ``x0``, ``x1``, … where X had none."""
        return list(self.metadata.get("feature_names") or (f"x{i}" for i in range(int(np.prod(self.shape[1:])))))

    @classmethod
    def concatenate(cls, parts: Sequence[Counterfactuals]) -> Counterfactuals:
        """All rows of `parts`, in order. Metadata in which they differ are left out; seconds are added up.

        Raises
        ------
        ValueError
            No parts, or parts that do not fit together: other layouts, kinds of labels, conditions, or columns.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("concatenate needs at least one result.")
        first = parts[0]

        def signature(part: Counterfactuals) -> tuple:
            return (part.shape[1:], part.source.dtype.kind, part.target.dtype.kind, part.container, part.path is None,
                    tuple(part._row_names()), frozenset(part.conditions))

        for part in parts[1:]:
            if signature(part) != signature(first):
                raise ValueError(
                    "These results do not fit together: sample shape, kind of labels, container, path, columns and "
                    f"conditions are {signature(first)} in the first and {signature(part)} in another.")
        metadata = {name: value for name, value in first.metadata.items()
                    if all(name in part.metadata and part.metadata[name] == value for part in parts)}
        if all("seconds" in part.metadata for part in parts):
            metadata["seconds"] = sum(part.metadata["seconds"] for part in parts)
        return cls(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in first._row_names()},
            conditions={name: np.concatenate([part.conditions[name] for part in parts]) for name in first.conditions},
            path=None if first.path is None else [path for part in parts for path in part.path or ()],
            container=first.container, metadata=metadata)

    # --------------------------------------------------------------- tables
    def to_frame(self, *, features: bool = False) -> DataFrame:
        """One row for each counterfactual, as a pandas DataFrame.

        Parameters
        ----------
        features : bool, default=False
            For tables: also ``original_…``, ``counterfactual_…`` and ``delta_…`` of every column.

        Raises
        ------
        ImportError
            pandas is not installed.
        ValueError
            `features` for images.
        """
        pandas = optional_import("pandas", "to_frame()")
        columns = {name: getattr(self, name) for name in self._row_names() if getattr(self, name).ndim == 1}
        columns.update({f"condition_{name}": held for name, held in self.conditions.items()})
        if features:
            if self._is_image():
                raise ValueError("features=True lists the columns of a table, but these rows are images.")
            for kind, values in (("original", self.x), ("counterfactual", self.x_cf), ("delta", self.x_cf - self.x)):
                columns.update({f"{kind}_{name}": values[:, i] for i, name in enumerate(self.feature_names)})
        return pandas.DataFrame(columns)

    # ---------------------------------------------------------------- words
    def summary(self) -> str:
        """What was found and what was not, in words; what to do about rows that failed."""
        if len(self) == 0:
            return "There are no rows: nothing was explained."
        return _one_row_in_words(self) if len(self) == 1 else _rows_in_words(self)

    def __repr__(self) -> str:
        return (f"<Counterfactuals: {_rows(len(self))} of shape {self.shape[1:]}, {int(self.valid.sum())} valid, "
                f"{int(self.complete.sum())} meet every condition>")

    def _is_image(self) -> bool:
        from cfexplain.plotting.counterfactual import layout_of

        return layout_of(self).is_image

    # ------------------------------------------------------------- pictures
    def plot(self, n: int = 8, *, ax: Axes | None = None, figure: Figure | SubFigure | None = None,
             ) -> CounterfactualDisplay:
        """Draw the first `n` rows; see `CounterfactualDisplay`."""
        from cfexplain.plotting import CounterfactualDisplay

        return CounterfactualDisplay.from_explanation(self, n, ax=ax, figure=figure)

    def _repr_html_(self) -> str:
        return _fragment(self, most=10)

    def to_html(self, path: str | os.PathLike, *, n: int = 10) -> None:
        """Write the summary and the first `n` rows as one self-contained HTML file, atomically."""
        page = ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Counterfactuals</title>'
                '<meta name="viewport" content="width=device-width"></head>'
                '<body style="font-family:sans-serif;max-width:70em;margin:1.5em auto;padding:0 1em">'
                f"<h1>Counterfactuals</h1>{_fragment(self, n)}</body></html>\n")
        atomic_write(path, page.encode("utf-8", "xmlcharrefreplace"))

    # ----------------------------------------------------------------- file
    def save(self, path: str | os.PathLike) -> None:
        """Write everything to one file (a valid ``.safetensors``), atomically: no pickle, nothing to execute.

        Raises
        ------
        TypeError
            Labels or metadata that are not numbers, bools or strings.
        OSError
            The file cannot be written; what was there before stays.
        """
        arrays = {name: getattr(self, name) for name in self._row_names()}
        arrays.update({f"conditions/{name}": held for name, held in self.conditions.items()})
        if self.path is not None:  # ragged: all points in a row, and where each path ends
            arrays["path/points"] = np.concatenate([np.zeros((0, *self.z.shape[1:]), self.z.dtype), *self.path])
            arrays["path/ends"] = np.cumsum([len(path) for path in self.path], dtype=np.int64)
        meta = {"kind": "counterfactuals", "container": self.container, "conditions": list(self.conditions),
                "metadata": self.metadata}
        write_arrays(path, arrays, meta)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Counterfactuals:
        """What `save` wrote.

        Raises
        ------
        ValueError
            The file is damaged, written by a newer version, or holds something else.
        """
        arrays, meta = read_arrays(path)
        if meta.get("kind") != "counterfactuals":
            raise ValueError(f"{os.fspath(path)} holds {meta.get('kind', 'something')!r}; expected 'counterfactuals'.")
        try:
            conditions = {name: arrays.pop(f"conditions/{name}") for name in meta["conditions"]}
            paths = None
            if "path/ends" in arrays:
                points, ends = arrays.pop("path/points"), arrays.pop("path/ends")
                paths = np.split(points, ends)[:-1]
            return cls(**arrays, conditions=conditions, path=paths, container=meta["container"],
                       metadata=meta["metadata"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} is not a whole result: {error}.") from error


# ------------------------------------------------------------------------------------------------------------ in words
def _rows_in_words(cf: Counterfactuals) -> str:
    still = cf.status == "already_target"
    explainer = cf.metadata.get("explainer")
    lines = [f"{_rows(len(cf))} explained{f' by {explainer}' if explainer else ''}; {_targets_in_words(cf.target)}."]
    if still.any():
        lines.append(f"Already there: {int(still.sum())} of {_rows(len(cf))} had the target before and came back "
                     "unchanged; they are not counted below.")
    cf = cf[~still]
    if len(cf) == 0:
        return "\n".join(lines)
    n, valid, complete = len(cf), int(cf.valid.sum()), int(cf.complete.sum())
    lines.append(f"Valid: {_share(valid, n)}: the explained classifier gives them their target.")
    if cf.conditions:
        each = ", ".join(f"{_MEANING.get(name, name)} {int(held.sum())}" for name, held in cf.conditions.items())
        lines.append(f"Every condition met: {_share(complete, n)} ({each}).")
    if cf.surrogate_valid is not None:
        lines.append(f"Surrogate: the search saw an imitation of the classifier, which accepts "
                     f"{_share(int(cf.surrogate_valid.sum()), n)}; the classifier itself accepts {_share(valid, n)}.")
    counts = {status: int((cf.status == status).sum()) for status in STATUSES if status != "already_target"}
    lines.append("Status: " + ", ".join(f"{status} {count}" for status, count in counts.items() if count) + ".")
    lines.append(f"Steps: median {np.median(cf.n_steps):g}, at most {int(cf.n_steps.max())}.")
    lines.append(f"Probability of the target: median {np.median(cf.proba_after):.2f}, before "
                 f"{np.median(cf.proba_before):.2f}.")
    if not np.isnan(cf.density_percentile).all():
        lines.append(f"Typicality: median density percentile {np.nanmedian(cf.density_percentile):.0f}, where 50 is as "
                     f"typical as {_median_row(cf)} and 0 is less typical than every one seen in training.")
    lines.append(f"Distance: median {np.median(cf.distance):.3g} in latent space, {np.median(cf.distance_x):.3g} from "
                 f"x to x′ (L2). Not part of it: the reconstruction error, median "
                 f"{np.median(cf.reconstruction_error):.3g}, is what the latent space cannot express.")
    return "\n".join(lines + [f"- {line}" for line in _advice(cf)])


def _one_row_in_words(cf: Counterfactuals) -> str:
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
    percentile = cf.density_percentile[0]
    if not np.isnan(percentile):
        parts.append(f"It is more typical than {percentile:.0f} % of the training rows of {target} (50 is as typical "
                     f"as {_median_row(cf)}).")
    unmet = [_MEANING.get(name, name) for name, held in cf.conditions.items() if not held[0]]
    if cf.valid[0] and cf.conditions:
        parts.append(f"Not met: {', '.join(unmet)}." if unmet else "It meets every condition.")
    if cf.surrogate_valid is not None:
        parts.append(f"The surrogate that was searched {'accepts' if cf.surrogate_valid[0] else 'does not accept'} it.")
    if not cf._is_image():
        parts.append(f"Largest changes: {_changes_in_words(cf, 3)}.")
    return " ".join(parts + [f"{line[0].upper()}{line[1:]}" for line in _advice(cf)])


def _advice(cf: Counterfactuals) -> list[str]:
    """What failed, and what to do about it."""
    n, advice = len(cf), []

    def who(count: int) -> str:
        return "this row" if n == 1 else f"{count} of {_rows(n)}"

    late, lost = int((cf.status == "step_budget").sum()), cf.status == "not_found"
    if late:
        advice.append(f"{who(late)} ran out of steps before every condition held: raise max_steps.")
    if lost.any():
        advice.append(f"{who(int(lost.sum()))} did not reach the target, and the best effort is kept: raise max_steps, or "
                      "ask for a target that is nearer (target=None takes the runner-up).")
        fooled = 0 if cf.surrogate_valid is None else int((lost & cf.surrogate_valid).sum())
        if fooled:
            advice.append(f"{who(fooled)} convinced the surrogate but not the classifier: fit on more rows, so that the "
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
    labels = np.unique(cf.target)
    if len(labels) > 1:
        return "the median real row of its target class"
    return f"the median real {labels[0]}" if cf._is_image() else f"the median real row of class {labels[0]}"


def _changes_in_words(row: Counterfactuals, most: int) -> str:
    from cfexplain.plotting.counterfactual import largest_changes

    changes, left_out = largest_changes(row, most)
    words = [f"{name} {before:.4g} → {after:.4g}" for name, before, after, _ in changes]
    return "; ".join(words + ([f"{left_out} more" if words else ""] if left_out else [])) or "none"


def _rows(n: int) -> str:
    return f"{n} row" if n == 1 else f"{n} rows"


def _share(k: int, n: int) -> str:
    return f"{k} of {n} ({100 * k // n} %)"  # rounded down: 100 % means all


# ---------------------------------------------------------------------------------------------------------------- html
def _fragment(cf: Counterfactuals, most: int) -> str:
    """Summary and table; everything that a user supplied is escaped."""
    summary = html.escape(cf.summary()).replace("\n", "<br>")
    shown = cf[:most]
    if len(shown) == 0:
        return f"<div><p>{summary}</p></div>"
    image = cf._is_image()
    what = ("Original", "Reconstruction", "Counterfactual", "Difference") if image else ("Largest changes",)
    head = "".join(f'<th scope="col" style="text-align:left">{h}</th>' for h in (
        "Row", *what, "From → to", "Outcome", "p(target)", "Percentile", "Steps"))
    pictures = _inline_pictures(shown) if image else None
    lines = []
    for i, row in enumerate(shown):
        cells = [str(i), *(pictures[i] if pictures else [html.escape(_changes_in_words(row, 4))])]
        cells.append(html.escape(f"{row.source[0]} → {row.target[0]}"))
        said = "valid" if row.valid[0] else f"<strong>not valid</strong>: says {html.escape(str(row.prediction[0]))}"
        cells.append(f"{said}<br><small>{row.status[0]}</small>")
        cells.append(f"{row.proba_before[0]:.2f} → {row.proba_after[0]:.2f}")
        percentile = row.density_percentile[0]
        cells.extend(["–" if np.isnan(percentile) else f"{percentile:.0f}", str(int(row.n_steps[0]))])
        lines.append("<tr>" + "".join(f'<td style="text-align:left">{cell}</td>' for cell in cells) + "</tr>")
    note = "Difference: orange is brighter than the original, blue is darker." if image else ""
    if len(cf) > len(shown):
        note += f" The first {len(shown)} of {len(cf)} rows."
    return (f'<div><p>{summary}</p><table style="border-collapse:collapse"><caption style="caption-side:bottom;'
            f'text-align:left">{note.strip()}</caption><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody>'
            "</table></div>")


def _inline_pictures(cf: Counterfactuals) -> list[list[str]]:
    """Four ``<img>`` for each row."""
    from cfexplain.plotting.counterfactual import BLUE, VERMILLION, as_pictures, difference_pictures

    blue, orange = (np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]) for color in (BLUE, VERMILLION))
    difference, most = difference_pictures(cf)
    signed = (difference / (most or 1))[..., None]
    colored = 1 + np.maximum(signed, 0) * (orange - 1) + np.maximum(-signed, 0) * (blue - 1)
    kinds = {"original, classified as": (as_pictures(cf.x, cf), cf.source),
             "reconstruction of the original, classified as": (as_pictures(cf.reconstruction, cf), cf.source),
             "counterfactual, classified as": (as_pictures(cf.x_cf, cf), cf.prediction),
             "difference on the way to": (colored, cf.target)}
    return [[_img(pictures[i], f"Row {i}: {kind} {labels[i]}") for kind, (pictures, labels) in kinds.items()]
            for i in range(len(cf))]


def _img(picture: np.ndarray, alt: str) -> str:
    data = base64.b64encode(_png(np.round(picture * 255).astype(np.uint8))).decode()
    return (f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}" title="{html.escape(alt)}" width="72" '
            'style="image-rendering:pixelated;border:1px solid #bbb">')


def _png(pixels: np.ndarray) -> bytes:
    """uint8 pixels of shape (H, W) or (H, W, 3) as a PNG: short enough that a page needs no imaging library."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)  # 0: this line is not filtered
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
