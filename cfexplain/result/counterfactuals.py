"""`Counterfactuals`: the counterfactual of each row, with what a person needs to judge whether to trust it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from cfexplain.foundation.files import atomic_write
from cfexplain.foundation.in_words import count_rows
from cfexplain.foundation.protocols import FittedExplainer
from cfexplain.metrics.of_result import Measures, measures_of
from cfexplain.persistence import file_kind
from cfexplain.plotting import AnswersDisplay, notebook, words
from cfexplain.plotting.kinds import draw
from cfexplain.plotting.pictures import layout_of
from cfexplain.report import render_report
from cfexplain.result.file import read_result, write_result
from cfexplain.result.join import joined_fields
from cfexplain.tables.frames import cell_in_words, changes_of, frame_of, frames_of
from cfexplain.tables.plan import Plan, Step

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from pandas import DataFrame

__all__ = ["STATUSES", "Counterfactuals"]

STATUSES = ("converged", "step_budget", "implausible", "time_limit", "repeated", "already_target", "not_found",
            "model_failed")
_OPTIONAL = ("surrogate_valid", "second_opinion", "costs", "index", "carried", "row", "answer", "region")
_RAGGED = ("path", "plans")  # lists with an array for each row
_NOT_ROWS = ("container", "conditions", "path", "plans", "metadata")


@file_kind("counterfactuals")
@dataclass(kw_only=True, eq=False, repr=False)
class Counterfactuals:
    """Counterfactuals, row by row; array-like: ``len``, indexing, and ``np.asarray`` gives X′.

    Of a single sample that was passed as such it has one row, and ``np.asarray`` gives x′ in the shape of x.

    Any NumPy index of one dimension gives the `Counterfactuals` of those rows; an int gives one row.

    Parameters
    ----------
    x, x_cf, reconstruction : ndarray of shape (n, …), in the user's layout
        Original x, counterfactual x′, and decode(z₀): what the coordinates keep of x. The explanation is the step from
        x to x′. The difference between x and the reconstruction is lost by the coordinates and explains nothing.
    source, target, prediction : ndarray of shape (n,)
        The classifier's label of x, the wanted label, and the classifier's label of x′.
    proba_before, proba_after : ndarray of shape (n,), in [0, 1]
        Probability of the *target* for x and for x′.
    valid : ndarray of bool, shape (n,)
        The explained classifier gives x′ its target; and x′ does not repeat an answer before it.
    status : ndarray of str, shape (n,)
        ``converged`` · ``step_budget`` (valid, but steps ran out before all conditions were met) · ``implausible`` (a
        regressor's value was reached, but only outside the data: beyond the training range of a column, or less typical than
        99 % of the training rows) · ``time_limit`` (``explain(time_limit=)`` was over before the row was finished; the best
        effort, valid or not) · ``repeated`` (of several answers: no other one was found, and this repeats one before it; not
        valid) · ``already_target`` (the
        prediction of x is the target) · ``not_found`` (not valid; the row is the best effort) · ``model_failed`` (the model
        gives NaN or infinity for x, which came back unchanged, or for x′. Probabilities and values are NaN there, and
        `source` and `prediction` are no verdict: some other class than the target).
    n_steps : ndarray of int, shape (n,)
        Of the search; one more for rows of a table that were changed after it, to be valid or in fewer columns.
    z, z_cf : ndarray of shape (n, d)
        Codes z₀ and z′.
    distance, distance_x : ndarray of shape (n,)
        ‖z′ − z₀‖₂ and ‖x′ − x‖₂.
    log_density : ndarray of shape (n,)
        log p(z′|target), in nats.
    density_percentile : ndarray of shape (n,), 0–100
        Its rank among real rows of the target class, as those that the density was not trained on: 50 is as typical as their
        median.
    reconstruction_error : ndarray of shape (n,)
        ‖x − decode(z₀)‖₂.
    conditions : dict of str to ndarray of bool, shape (n,)
        Which conditions of the search each row meets.
    surrogate_valid : ndarray of bool, optional
        The surrogate gives x′ its target. Only if a surrogate replaced the classifier during the search.
    second_opinion : ndarray of bool, optional
        Small classifiers of the codes predict the target, too.
    costs : ndarray of shape (n, columns), optional
        Of a table: what each column's change costs, in standard deviations unless ``costs=`` has prices; 0 of what did not
        change and of what follows from other columns by a rule.
    index : ndarray of shape (n,), optional
        Names of the rows, if X was a DataFrame.
    carried : ndarray of shape (n, c), optional
        Columns that the search leaves out (`PipelineExplainer`), and numbers of X that a float does not hold, such as
        identifiers beyond 2⁵³; `to_frames` returns them as they were.
    row, answer : ndarray of int, shape (n,), optional
        Of ``explain(X, k=…)``: which row of X, and which of its answers, from 0, each row is; see `group`, `best`, `by_row`.
    region : ndarray of bool, shape (n, H, W), optional
        Of ``explain(X, region=…)``: pixels of images that were allowed to change.
    path : list of ndarray of shape (steps + 1, d), optional
        Each row's points of the search.
    plans : list of ndarray of shape (changes, 2), optional
        Of tables, for `plan`: the column of each change, the cheapest first, and what the model says after it. Of a row that
        changes more than 12 columns it is empty.
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
    costs: np.ndarray | None = None
    index: np.ndarray | None = None
    carried: np.ndarray | None = None
    row: np.ndarray | None = None
    answer: np.ndarray | None = None
    region: np.ndarray | None = None
    path: list[np.ndarray] | None = None
    plans: list[np.ndarray] | None = None
    container: str = "numpy"
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.row_fields:
            setattr(self, name, np.asarray(getattr(self, name)))
        self.conditions = {name: np.asarray(met) for name, met in self.conditions.items()}
        columns = {name: getattr(self, name) for name in self.row_fields}
        columns.update({f"conditions[{name!r}]": met for name, met in self.conditions.items()})
        columns.update({name: getattr(self, name) for name in _RAGGED if getattr(self, name) is not None})
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

    @property
    def backend(self) -> str | None:
        """How the search computed, with the parts that were not replaced in brackets: see ``explain(backend=)``."""
        return self.metadata.get("backend")

    @property
    def is_image(self) -> bool:
        """Whether samples are images, not rows of a table."""
        return layout_of(self).is_image

    @property
    def is_regression(self) -> bool:
        """Whether a regressor was explained: source, target and prediction are values, not labels."""
        return self.metadata.get("task") == "regression"

    @property
    def row_fields(self) -> list[str]:
        """Names of the arrays that have one entry for each row; optional ones only if they are not None."""
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
        parts: dict[str, Any] = {name: getattr(self, name)[rows] for name in self.row_fields}
        return Counterfactuals(
            **parts, conditions={name: met[rows] for name, met in self.conditions.items()},
            path=None if self.path is None else [self.path[i] for i in rows],
            plans=None if self.plans is None else [self.plans[i] for i in rows],
            container=self.container, metadata=dict(self.metadata))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        x_cf = self._as_passed
        array = x_cf if dtype is None else x_cf.astype(dtype, copy=False)
        if copy is False and array is not x_cf:
            raise ValueError(f"x_cf is {x_cf.dtype}; as {np.dtype(dtype)} it has to be copied.")
        return array.copy() if copy and array is x_cf else array

    @property
    def _as_passed(self) -> np.ndarray:
        """X′; of a single sample x′, without the axis of rows."""
        return self.x_cf[0] if self.metadata.get("single") and len(self) == 1 else self.x_cf

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of X′ as an array; that of one sample, if one was passed."""
        return self._as_passed.shape

    @property
    def ndim(self) -> int:
        return self._as_passed.ndim

    @property
    def dtype(self) -> np.dtype:
        return self.x_cf.dtype

    @property
    def array(self) -> Any:
        """X′ in the kind of array that X was: a tensor if X was a tensor, a single sample if X was one."""
        if self.container == "numpy":
            return self._as_passed
        import torch

        return torch.from_numpy(np.ascontiguousarray(self._as_passed))

    @property
    def complete(self) -> np.ndarray:
        """Valid, every condition met, and not implausible: bool, shape (n,)."""
        return np.logical_and.reduce([self.valid, self.status != "implausible", *self.conditions.values()])

    # -------------------------------------------------- several answers a row
    @property
    def k(self) -> int:
        """The most answers that a row has; 1 unless several were asked for."""
        return 1 if self.row is None or not len(self) else int(np.unique(self.row, return_counts=True)[1].max())

    def group(self, row: int) -> Counterfactuals:
        """The answers for row `row` of X, the first one first.

        Raises
        ------
        IndexError
            There is no such row.
        """
        rows = np.arange(len(self)) if self.row is None else self.row
        places = np.flatnonzero(rows == row)
        if not len(places):
            raise IndexError(f"There is no answer for row {row!r} of X here; the rows are {_some(np.unique(rows))}.")
        return self[places if self.answer is None else places[np.argsort(self.answer[places], kind="stable")]]

    def groups(self) -> Iterator[Counterfactuals]:
        """The answers of each row of X, row by row."""
        return (self.group(int(row)) for row in (np.arange(len(self)) if self.row is None else np.unique(self.row)))

    def best(self) -> Counterfactuals:
        """One answer for each row of X: of those that meet every condition the nearest in x, else of the valid ones, else of
        all. In the order of X.
        """
        if self.row is None or self.answer is None:
            return self
        order = np.lexsort([self.answer, self.distance_x, ~self.valid, ~self.complete, self.row])
        return self[order[np.unique(self.row[order], return_index=True)[1]]]

    def by_row(self, values: Any) -> np.ndarray:
        """`values`, an array with an entry for each row here or the name of one, by row of X: shape (rows, k, …).

        Raises
        ------
        ValueError
            Some rows have more answers than others, because rows were selected; or `values` has another length.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from cfexplain import PLACEExplainer
        >>> X, y = load_iris(return_X_y=True)
        >>> cf = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y).explain(X[:4], target=1, k=2)
        >>> cf.by_row("x_cf").shape, cf.best().shape, cf.group(3).answer.tolist()
        ((4, 2, 4), (4, 4), [0, 1])
        """
        array = np.asarray(getattr(self, values) if isinstance(values, str) else values)
        if len(array) != len(self):
            raise ValueError(f"values has {len(array)} entries, but there are {len(self)} rows.")
        if self.row is None or self.answer is None:
            return array[:, None]
        counts = np.unique(self.row, return_counts=True)[1]
        if len(np.unique(counts)) > 1:
            raise ValueError(f"Rows of X have from {counts.min()} to {counts.max()} answers here; by_row() needs as many of "
                             "each. Take group(row), or by_row() before rows are selected.")
        return array[np.lexsort([self.answer, self.row])].reshape(len(counts), -1, *array.shape[1:])

    @property
    def diversity(self) -> np.ndarray:
        """How different the valid answers of each row of X are: the mean of 1 − |cos(z′ᵢ − z₀, z′ⱼ − z₀)| over their pairs,
        (rows,); 0 is one direction, 1 are directions at right angles, NaN is fewer than two answers.
        """
        out = []
        for group in self.groups():
            changes = (group.z_cf - group.z)[group.valid & (group.status != "already_target")].reshape(-1, self.z.shape[1])
            unit = changes / np.maximum(np.linalg.norm(changes, axis=1, keepdims=True), 1e-12)
            pairs = np.abs(unit @ unit.T)[np.triu_indices(len(unit), 1)]
            out.append(1 - float(pairs.mean()) if len(pairs) else np.nan)
        return np.array(out)

    @property
    def cost(self) -> np.ndarray | None:
        """What all changes of a row of a table cost, (n,); see ``costs``. None where it is not known."""
        return None if self.costs is None else self.costs.sum(1)

    @property
    def feature_names(self) -> list[str]:
        """Names of the columns, as at fit; ``x0``, ``x1``, … where X had none."""
        return list(self.metadata.get("feature_names") or (f"x{i}" for i in range(int(np.prod(self.x_cf.shape[1:])))))

    @classmethod
    def concatenate(cls, parts: Sequence[Counterfactuals]) -> Counterfactuals:
        """All rows of `parts`, in order. Metadata in which they differ are left out; seconds are summed.

        Raises
        ------
        ValueError
            No parts, or parts that do not fit together: other layouts, kinds of labels, conditions, or columns.
        """
        return cls(**joined_fields(list(parts)))

    # --------------------------------------------------------------- tables
    def to_frame(self, *, features: bool = False) -> DataFrame:
        """One row for each counterfactual, as a pandas DataFrame.

        Parameters
        ----------
        features : bool, default=False
            For tables: also ``original_…``, ``counterfactual_…`` and, of numbers, ``delta_…`` of every column.

        Raises
        ------
        ImportError
            pandas is not installed.
        ValueError
            `features` for images.
        """
        return frame_of(self, features)

    def to_frames(self) -> tuple[DataFrame, DataFrame]:
        """Tables before and after: x and x_cf as DataFrames, in the units, dtypes and categories of X.

        A cell that did not change is as it was. Where the dtype of X does not hold a value of x_cf, the column has the next
        that does: an int8 beyond 127 is an int16, and integers of which one is not whole any more are floats.

        Raises
        ------
        ImportError
            pandas is not installed.
        ValueError
            The rows are images.
        """
        return frames_of(self)

    def changes(self) -> DataFrame:
        """The changed cells of a table as a DataFrame of ``row``, ``column``, ``before`` and ``after``."""
        return changes_of(self)

    def plan(self, i: int) -> Plan:
        """The changes of row `i` of a table in order, the cheapest first, with what the model says after each.

        What it says is of the row with those changes alone, also where a rule for columns does not allow it half way. In
        another order: ``explainer.plan(cf, i, order="effective")``.

        Raises
        ------
        ValueError
            There are no plans: of images, of files of earlier versions, and of rows that change more than 12 columns.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from cfexplain import PLACEExplainer
        >>> X, y = load_iris(return_X_y=True)
        >>> cf = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y).explain(X[:2], target=1)
        >>> plan = cf.plan(0)
        >>> len(plan) == (cf.x_cf[0] != cf.x[0]).sum(), bool(abs(plan.steps[-1].said - cf.proba_after[0]) < 1e-5)
        (np.True_, True)
        """
        row = self[i]
        if row.plans is None or (not len(row.plans[0]) and row.distance_x[0]):
            raise ValueError("This row has no plan: explain() makes them for rows of tables that change 12 columns at most. "
                             "For others call explainer.plan(cf, i).")
        return self.plan_of(i, row.plans[0])

    def plan_of(self, i: int, steps: np.ndarray) -> Plan:
        """`steps`, (changes, 2), of row `i` in words; see `plans`."""
        row, names = self[i], self.feature_names
        return Plan(
            tuple(Step(names[column], cell_in_words(row, column, row.x[0, column]),
                       cell_in_words(row, column, row.x_cf[0, column]), float(said))
                  for column, said in zip(steps[:, 0].astype(int).tolist(), steps[:, 1], strict=True)),
            str(row.target[0]), float(row.source[0] if self.is_regression else row.proba_before[0]), self.is_regression)

    # ------------------------------------------------------- numbers, words
    def measures(self) -> Measures:
        """What validity does not see: collapse, blur, lost shades, specks, grey ink, many columns, values out of range.

        `summary` and the report have them in words, and ``measures().warnings`` says what is bad.
        """
        return measures_of(self)

    def summary(self) -> str:
        """The result in sentences: what was found, what was not, and what to do about rows that failed."""
        return words.summary(self)

    def __repr__(self) -> str:
        searched = self.status != "already_target"
        there, of = len(self) - int(searched.sum()), f"{int((self.valid & searched).sum())} of {int(searched.sum())} valid"
        return (f"<Counterfactuals: {count_rows(len(self))} of shape {self.x_cf.shape[1:]}; "
                + (f"{there} already the target; " if there else "")
                + f"{of}, {int((self.complete & searched).sum())} with every condition met>")

    # ------------------------------------------------------------- pictures
    def plot(self, kind: str | int | None = None, n: int | None = None, *, explainer: FittedExplainer | None = None,
             X: Any = None, y: Any = None, ax: Axes | None = None, figure: Figure | SubFigure | None = None) -> Any:
        """Draw the first rows; a line in the picture says what was left out.

        Parameters
        ----------
        kind : str, optional
            "pixels" (images: original, reconstruction, counterfactual, change) · "columns" (tables: the largest changes) ·
            "answers" (all answers of a row side by side) · "group" (what all rows have in common) · "path" (the search, of
            ``explain(record_path=True)``) · "density" (how typical each row is) · "manifold" (rows among the training rows).
            Default: "answers" where rows have several, else "pixels" or "columns". A whole number is taken for `n`.
        n : int, optional
            Draw at most so many. Default: of pixels and columns all up to 12, of more the first 8; see each display.
        explainer : CounterfactualExplainer, optional
            The fitted one that made this result: for "path", "density" and "manifold".
        X, y : array-like, optional
            Training rows and, if at hand, their labels: for "manifold".
        ax : Axes, optional
            The picture takes its place.
        figure : Figure or SubFigure, optional
            Draw into it. By default a new pyplot figure of a fitting size is made.

        Returns
        -------
        CounterfactualDisplay, AnswersDisplay, GroupDisplay, PathDisplay, DensityDisplay or ManifoldDisplay

        Raises
        ------
        ValueError
            An unknown kind, one that does not suit these rows, or something that it needs is missing.
        """
        if isinstance(kind, int):
            kind, n = None, kind
        return draw(self, kind, n, explainer, X, y, ax, figure)

    def plot_answers(self, n: int = 8, *, ax: Axes | None = None, figure: Figure | SubFigure | None = None,
                     ) -> AnswersDisplay:
        """Draw all answers of the first `n` rows of X side by side; see `AnswersDisplay`."""
        return AnswersDisplay.from_explanation(self, n, ax=ax, figure=figure)

    def _repr_html_(self) -> str:
        return notebook.fragment(self, most=10)

    def to_html(self, path: str | os.PathLike, *, explainer: FittedExplainer | None = None,
                title: str = "Counterfactuals", max_rows: int = 1000, max_frames: int = 12, max_megabytes: float = 50.0,
                ) -> None:
        """Write a report atomically: one self-contained HTML file whose rows can be sorted, filtered and printed.

        Each row has its pictures or changed columns, its status in words, probabilities, plausibility and numbers.

        Parameters
        ----------
        path : str or path
        explainer : CounterfactualExplainer, optional
            The one that made this result with ``explain(X, record_path=True)``. It decodes the points of the search, which
            the report shows under a slider.
        title : str
        max_rows : int, default=1000
        max_frames : int, default=12
            At most so many points of a search path are shown beside the original.
        max_megabytes : float, default=50
            Size of the file: rows, and then paths, that do not fit are left out, and the report says which.

        Raises
        ------
        ValueError
            `explainer` without a recorded path, or one that did not make this result.
        OSError
            The file cannot be written; what was there before stays.
        """
        text = render_report(self, explainer=explainer, title=title, max_rows=max_rows, max_frames=max_frames,
                             max_megabytes=max_megabytes)
        atomic_write(path, text.encode("utf-8", "xmlcharrefreplace"))

    # ----------------------------------------------------------------- file
    def save(self, path: str | os.PathLike) -> None:
        """Write everything to one file (a valid ``.safetensors``), atomically: no pickle, nothing to execute.

        Raises
        ------
        TypeError
            Labels, names of rows or metadata that are not numbers, bools, strings, dates or times.
        OSError
            The file cannot be written; what was there before stays.
        """
        write_result(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Counterfactuals:
        """What `save` wrote.

        Raises
        ------
        ValueError
            The file is damaged, written by a newer version, or holds something else.
        """
        return read_result(cls, path)


def _some(rows: np.ndarray) -> str:
    return ", ".join(map(str, rows[:5].tolist())) + (", …" if len(rows) > 5 else "")
