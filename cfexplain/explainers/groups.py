"""A group in few words: shared changes that carry most of its rows over, and what recourse costs each part of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from cfexplain.explainers.base import CounterfactualExplainer
from cfexplain.explainers.columns import Columns
from cfexplain.explainers.pipeline import PipelineExplainer
from cfexplain.explainers.run import Run
from cfexplain.explainers.task import Goal, stated_target
from cfexplain.foundation.settings import own_modes
from cfexplain.foundation.tiles import in_tiles
from cfexplain.plotting.shared_changes import SharedChangesDisplay
from cfexplain.result import Counterfactuals
from cfexplain.tables.frames import category_places, cell_in_words

__all__ = ["GroupSummary", "SharedChange", "summarize_group"]

_CANDIDATES = 60  # rows whose changes are tried on all
_LENGTHS = (1.0, 1.5, 2.0)  # times a change, of numbers and of codes


@dataclass(frozen=True)
class SharedChange:
    """One change for many rows.

    Attributes
    ----------
    words : str
        Of a table what changes, and by how much; of images which row's direction it is.
    covered : ndarray of bool, shape (n,)
        Rows that reach their target by it.
    cost : float
        Mean cost for the rows it covers: standard deviations, and 1 for another category; of images ‖z′ − z₀‖.
    x_cf : ndarray of shape (n, …)
        Every row with the change, in the layout of ``cf.x``.
    """

    words: str
    covered: np.ndarray
    cost: float
    x_cf: np.ndarray


@dataclass(frozen=True)
class GroupSummary:
    """Shared changes of a group, and what recourse costs its parts.

    Attributes
    ----------
    changes : list of SharedChange
        The first carries most rows over, the next most of those that are left.
    coverage : ndarray of shape (changes,)
        Share of the rows that one of the changes so far carries over.
    parts : list of dict
        Of each part of the group: ``name``, ``rows``, ``found`` (share with a counterfactual of their own), ``cost`` (median
        cost of it), and ``coverage`` by all shared changes.
    """

    changes: list[SharedChange]
    coverage: np.ndarray
    parts: list[dict[str, Any]]

    def plot(self, ax: Any = None, *, figure: Any = None) -> SharedChangesDisplay:
        """Draw how many rows the shared changes carry over, at what cost, and the parts of the group beside each other."""
        return SharedChangesDisplay(self).plot(ax, figure=figure)

    def __str__(self) -> str:
        lines = [f"{i}. {change.words}: carries {100 * change.covered.mean():.0f} % over, at a mean cost of "
                 f"{change.cost:.2g} ({100 * share:.0f} % with those before)"
                 for i, (change, share) in enumerate(zip(self.changes, self.coverage, strict=True), 1)]
        lines += [f"{part['name']}: {part['rows']} rows, {100 * part['found']:.0f} % have a counterfactual of their own, of "
                  f"median cost {part['cost']:.2g}; the shared changes carry {100 * part['coverage']:.0f} % over"
                  for part in self.parts]
        return "\n".join(lines) or "No change of one row carries another over."


@own_modes()
def summarize_group(explainer: CounterfactualExplainer | PipelineExplainer, cf: Counterfactuals, *, most: int = 3,
                    by: Any = None) -> GroupSummary:
    """The few changes that carry most rows of a group over.

    The changes of up to 60 rows, and once and a half and twice of each, are tried on all the others: of a table its columns,
    within the rules for columns, of images its direction in latent space. That which carries most rows over for what it
    costs is the first, then that which carries most of the rest, and so on.

    Parameters
    ----------
    explainer : CounterfactualExplainer or PipelineExplainer
        The fitted one that made `cf`.
    cf : Counterfactuals
        Of a group of rows; rows that had their target before are left out of every share.
    most : int, default=3
        Shared changes.
    by : array-like of shape (n,), optional
        Parts of the group, such as one column of it: what recourse costs each stands side by side.

    Returns
    -------
    GroupSummary

    Raises
    ------
    ValueError
        `cf` has no row that is to change, or `by` has another length.

    References
    ----------
    Rawal, Lakkaraju: Beyond Individualized Recourse: Interpretable and Interactive Summaries of Actionable Recourses,
    NeurIPS 2020.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> summary = summarize_group(explainer, explainer.explain(X[:30], target=1), by=X[:30, 0] > 5)
    >>> len(summary.changes) > 0, [part["name"] for part in summary.parts]
    (True, ['False', 'True'])
    """
    pipeline = isinstance(explainer, PipelineExplainer)
    check_is_fitted(explainer, "explainer_" if pipeline else None)
    if isinstance(most, bool) or int(most) != most or most < 1:
        raise ValueError(f"most={most!r} must be a whole number of at least 1.")
    given = np.zeros(len(cf), dtype=int) if by is None else np.asarray(by)
    if given.shape != (len(cf),):
        raise ValueError(f"by has shape {given.shape}; expected one value for each of the {len(cf)} rows of cf.")
    kept = (cf.status != "already_target") & (cf.status != "model_failed")
    cf, given = cf[kept], given[kept]
    if not len(cf):
        raise ValueError("No row of this group is to change: each had its target before, or the model has no answer for it.")
    group: Any = (_Pipeline if pipeline else _Images if cf.is_image else _Table)(explainer, cf)
    tried = [(length, int(i)) for length in _LENGTHS for i in _candidates(cf, group.costs)]
    outcomes = [group.applied(i, length) for length, i in tried]
    covered, costs = np.array([one[0] for one in outcomes]), np.array([one[1] for one in outcomes])
    left, chosen = np.ones(len(cf), dtype=bool), []
    price = np.array([cost[done].mean() if done.any() else np.inf for cost, done in zip(costs, covered, strict=True)])
    for _ in range(int(most)):
        worth = (covered & left).sum(1) / (1 + np.round(price, 6) / max(float(np.median(group.costs)), 1e-12))
        best = int(np.argmax(worth)) if len(worth) else 0
        if not len(worth) or not (covered[best] & left).any():
            break
        chosen.append(best)
        left &= ~covered[best]
    changes = [SharedChange(group.words(tried[b][1], tried[b][0]), covered[b], float(price[b]),
                            group.applied(tried[b][1], tried[b][0])[2]) for b in chosen]
    reached = np.cumsum([change.covered for change in changes], axis=0) > 0 if changes else np.zeros((0, len(cf)), bool)
    parts = []
    for name in np.unique(given):
        own = given == name
        cost = group.costs[own & cf.valid]
        parts.append({"name": "all" if by is None else str(name), "rows": int(own.sum()),
                      "found": float(cf.valid[own].mean()), "cost": float(np.median(cost)) if len(cost) else float("nan"),
                      "coverage": float(reached[-1][own].mean()) if len(reached) else 0.0})
    return GroupSummary(changes, reached.mean(1), parts)


def _candidates(cf: Counterfactuals, costs: np.ndarray) -> np.ndarray:
    """Rows whose changes are tried: valid ones, evenly from the cheapest to the dearest."""
    rows = np.flatnonzero(cf.valid)
    rows = rows[np.argsort(np.round(costs[rows], 9), kind="stable")]
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _CANDIDATES)).astype(int))] if len(rows) else rows


class _Table:
    """Rows of a plain table, and what one row's change does to all."""

    def __init__(self, explainer: Any, cf: Counterfactuals):
        self.explainer, self.cf = explainer, cf
        self.X, self.x_cf = explainer.read_samples(cf.x), explainer.read_samples(cf.x_cf)
        self.columns = Columns.of_numbers(self.X[:0], explainer.scale_, explainer.column_rules_)
        self.goal = _goal(lambda x, target: explainer.goal(x, target), self.X, cf)
        self.costs = self.columns.costs(self.x_cf, self.X).sum(1)
        self.ask: Callable = lambda codes: explainer.task_.answers(explainer.classifier_, codes)
        self.task = explainer.task_

    def shifted(self, i: int, length: float) -> np.ndarray:
        """All rows with the change of row `i`: numbers by as much, categories to the same."""
        changed = self.columns.changed(self.x_cf[i : i + 1], self.X[i : i + 1])
        out, groups = self.X.copy(), set(self.columns.groups)
        for k in np.flatnonzero(changed[0]):
            first, last = self.columns.places[k]
            if (first, last) in groups:
                out[:, first:last] = self.x_cf[i, first:last]
            else:
                out[:, first] += length * (self.x_cf[i, first] - self.X[i, first])
        return self.columns.ruled(out, self.X)

    def applied(self, i: int, length: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which rows reach their target by it, what it costs each, and the rows."""
        rows = self.shifted(i, length)
        valid = self.task.judge(self.ask(rows), self.goal)["valid"]
        return valid, self.columns.costs(rows, self.X).sum(1), self.shown(rows)

    def shown(self, rows: np.ndarray) -> np.ndarray:
        return rows

    def words(self, i: int, length: float) -> str:
        row, categories = self.cf[i], category_places(self.cf.metadata)
        return "; ".join(
            f"{name} → {cell_in_words(row, k, row.x_cf[0, k])}" if k in categories
            else f"{name} {length * (row.x_cf[0, k] - row.x[0, k]):+.4g}"
            for k, name in enumerate(row.feature_names) if row.x_cf[0, k] != row.x[0, k])


class _Pipeline(_Table):
    """Rows of a pipeline's table, as codes."""

    def __init__(self, pipe: PipelineExplainer, cf: Counterfactuals):
        self.explainer, self.cf, self.pipe = pipe.explainer_, cf, pipe
        before, after = cf.to_frames()
        self.rows, self.table = pipe.table_.read(before), pipe.table_
        self.X, self.x_cf = self.rows.codes, pipe.table_.read(after).codes
        self.columns, asked = pipe.columns_of(), pipe.asked_of(self.rows)
        self.goal = _goal(lambda x, target: pipe.goal_of(self.rows, before, target), self.X, cf)
        self.costs = self.columns.costs(self.x_cf, self.X).sum(1)
        self.ask = lambda codes: asked(codes, np.arange(len(codes)))
        self.task = self.explainer.task_

    def shown(self, rows: np.ndarray) -> np.ndarray:
        return self.table.decode(rows, like=(self.rows.codes, self.rows.values))


class _Images:
    """Images, and what one row's direction in latent space does to all."""

    def __init__(self, explainer: Any, cf: Counterfactuals):
        self.explainer, self.cf, self.run = explainer, cf, Run(explainer)
        self.X = explainer.read_samples(cf.x)
        self.goal = _goal(lambda x, target: explainer.goal(x, target), self.X, cf)
        self.costs = cf.distance.astype(float)
        with explainer.classifier_.frozen():
            self.known, _ = self.run.prepare(self.X, self.goal)

    def applied(self, i: int, length: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        explainer, names = self.explainer, list(self.known)
        move = torch.from_numpy(length * (self.cf.z_cf[i] - self.cf.z[i])).to(self.known["z0"])
        with torch.no_grad():
            x_cf = in_tiles(lambda z, *values: self.run.judge.decode(z, dict(zip(names, values, strict=True))),
                            self.known["z0"] + move, *self.known.values(), tile=self.run.options.tile).cpu().numpy()
        valid = explainer.task_.judge(explainer.task_.answers(explainer.classifier_, x_cf), self.goal)["valid"]
        return valid, np.full(len(x_cf), float(move.norm())), explainer.layout_.to_user(x_cf)

    def words(self, i: int, length: float) -> str:
        return f"the direction of row {i}, {self.cf.source[i]} → {self.cf.target[i]}" + (
            "" if length == 1 else f", {length:g} times as far")


def _goal(goal_of: Callable[[np.ndarray, Any], Goal], X: np.ndarray, cf: Counterfactuals) -> Goal:
    targets = np.unique(cf.target)
    return goal_of(X, stated_target(targets) if len(targets) == 1 and targets.dtype.kind in "UO" and str(
        targets[0]).startswith(("[", "maxi", "mini")) else cf.target)
