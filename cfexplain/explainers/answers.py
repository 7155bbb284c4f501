"""Several answers for each row: where the others begin, how they are searched, and which of them repeat another.

The first answer is the one that a row gets alone. The others begin at codes that are as typical of the target as is asked,
and lie in other directions from z₀ than the first and each other: that is found in latent space alone, which costs little.
From there all of them are searched in one batch, under the same conditions as the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cfexplain.coordinates import Identity
from cfexplain.density import ConditionalFlow, Prior
from cfexplain.explainers.evaluator import Evaluator
from cfexplain.explainers.found import Found
from cfexplain.explainers.table import TableRun
from cfexplain.explainers.verdict import Verdict
from cfexplain.foundation.numbers import log_odds, row_norm
from cfexplain.foundation.tiles import TILE, in_tiles
from cfexplain.objective import Objective
from cfexplain.objective.different import Different, alike
from cfexplain.search import Evaluation, SearchOptions, SearchResult, search

__all__ = ["more_answers", "repeated_answers", "table_answers"]

# |cos| of two differences from z₀ above which the answers are drawn apart
_ALIKE = 0.2
_PULL = 10.0  # the weight of that in the search
_STEPS, _PULLED = 60, 20  # in latent space; and of the search, while answers are drawn apart
_TILE = 64  # rows that are drawn apart together in latent space: small networks take their time a call, not a row
_PULL_IN_LATENT, _NATS_BEYOND, _ODDS_BEYOND = 30.0, 2.0, 0.5
# Answers nearer to each other than this share of the nearer one's change are the same
_SAME = 0.1


def more_answers(run: Any, searching: Evaluator, rows: Mapping[str, Tensor], first: SearchResult, k: int,
                 options: SearchOptions) -> SearchResult:
    """Answers 2 … k of each row: k − 1 for the first row, then k − 1 for the second, …

    Parameters
    ----------
    run : Run
    searching : Evaluator
        Of the search that found the first answers.
    rows : mapping of str to Tensor of shape (n, ...)
        What is known of the rows.
    first : SearchResult
        The first answer of each row.
    k : int
    options : SearchOptions
    """
    explainer, engine, more = run.explainer, searching.engine, k - 1
    changes = first.z - rows["z0"]
    directions = _directions(rows["x"], changes, more)
    each = {name: values.repeat_interleave(more, 0) for name, values in rows.items()}
    options = replace(options, refine=0)
    if not explainer.searches_by_gradient:  # its way leads somewhere else from another code of the same class
        each["z0"] = _turned(explainer.density_, rows, changes, directions).flatten(0, 1)
        return explainer.find(searching.evaluate, each["z0"], each, options, None, engine.search)
    # a kernel that evaluates by itself knows of no more than its own terms
    steps = search if "one launch" in engine.backend else engine.search
    if _blind(explainer):  # nothing says what is typical: each of the others has columns, or pixels, of its own
        free = _shared_out(directions).to(changes)
        start = rows["z0"][:, None] + 0.1 * row_norm(changes)[:, None, None] * directions * free
        each["free"] = free.flatten(0, 1)

        def evaluate(z: Tensor, rows: Mapping[str, Tensor]) -> Evaluation:
            return searching.evaluate(rows["z0"] + rows["free"] * (z - rows["z0"]), rows)
    else:
        start = in_tiles(lambda *tile: _apart(run, engine.log_density, *tile), rows["z0"], changes, directions,
                         *_latent_conditions(run, rows), tile=_TILE)
        every = torch.cat([changes[:, None], start - rows["z0"][:, None]], 1)
        among = torch.tensor([[i for i in range(k) if i != j] for j in range(1, k)], device=start.device)
        likeness = in_tiles(alike, every, every, tile=TILE)
        each["others"] = every[:, among].flatten(0, 1)
        each["alike"] = torch.stack([likeness[:, j, among[j - 1]] for j in range(1, k)], 1).flatten(0, 1).clamp(min=_ALIKE)
        evaluate = run.evaluator(
            engine, Objective([*run.objective.terms, Different(_PULL)], explainer.needs_valid)).evaluate
    to_the_end = options.stop == "converged" or _blind(explainer)
    few = options if to_the_end else replace(options, max_steps=min(options.max_steps, _PULLED))
    found = explainer.find(evaluate, start.flatten(0, 1), each, few, None, steps)
    left = torch.where(~(found.valid if options.stop == "converged" else found.done))[0]
    if len(left) and not (found.interrupted or found.late) and options.max_steps:
        rest = {name: values[left] for name, values in each.items() if name not in ("others", "alike", "free")}
        _put(found, left, explainer.find(searching.evaluate, found.z[left], rest, options, None, engine.search))
    return found


def _blind(explainer: Any) -> bool:
    """Whether the density is the prior of pixels or columns themselves, which says nothing of them."""
    return isinstance(explainer.density_, Prior) and isinstance(explainer.coordinates_, Identity)


def _put(found: SearchResult, rows: Tensor, after: SearchResult) -> None:
    """Write what a further search `after` found for some of the rows, where it is no worse."""
    kept = after.done.long() + after.valid.long() >= found.done[rows].long() + found.valid[rows].long()
    found.n_steps[rows] += after.n_steps
    for name in ("z", "done", "valid"):
        getattr(found, name)[rows[kept]] = getattr(after, name)[kept]
    found.finished[rows] = after.finished
    found.interrupted |= after.interrupted
    if found.path is not None and after.path is not None:
        for i, path in zip(rows.tolist(), after.path, strict=True):
            found.path[i] = torch.cat([found.path[i], path[1:]])


def _directions(x: Tensor, changes: Tensor, more: int) -> Tensor:
    """Unit vectors (n, more, d), drawn for each row from its own content: across its first change, and apart."""
    drawn = np.zeros((len(x), more, changes.shape[1]))
    for i, row in enumerate(x.cpu().numpy()):
        seed = hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=4).digest()
        drawn[i] = np.random.RandomState(int.from_bytes(seed, "big")).standard_normal(drawn.shape[1:])
    along = changes.double().cpu().numpy()[:, None]
    length = np.maximum(np.square(along).sum(2, keepdims=True), 1e-12)
    drawn -= (drawn * along).sum(2, keepdims=True) / length * along
    if more > 1:
        drawn -= drawn.mean(1, keepdims=True)
    drawn /= np.maximum(np.sqrt(np.square(drawn).sum(2, keepdims=True)), 1e-12)
    return torch.from_numpy(drawn).to(changes)


def _shared_out(directions: Tensor) -> Tensor:
    """Which numbers each of a row's other answers may change, bool like `directions`: each number one of them; a single
    other answer half of them.
    """
    n, more, width = directions.shape
    if more == 1:
        return directions > directions.median(2, keepdim=True).values
    return torch.arange(more, device=directions.device)[None, :, None] == directions.argmax(1, keepdim=True)


def _latent_conditions(run: Any, rows: Mapping[str, Tensor]) -> list[Tensor]:
    """Target, wanted log density, and wanted log-odds of the second opinion (−∞: none), each (n,)."""
    none = torch.full_like(rows["z0"][:, 0], -torch.inf)
    opinion = rows.get("opinion_needed", none) if "second_opinion" in run.judge.conditions else none
    return [rows["target"], rows["typical"], opinion]


def _apart(run: Any, log_density: Any, z0: Tensor, change: Tensor, directions: Tensor, target: Tensor, typical: Tensor,
           opinion: Tensor) -> Tensor:
    """Codes (B, k − 1, d) that meet the conditions of latent space, each in another direction from z₀, and than `change`.

    By descent of all k − 1 of a row together; rows are independent.
    """
    explainer, more = run.explainer, directions.shape[1]
    length = row_norm(change)
    length = torch.where(length > 0, length, change.shape[1] ** 0.5)[:, None, None]
    z, momentum = z0[:, None] + change[:, None] + length * directions, torch.zeros_like(directions)
    targets, wanted, asked = (values.repeat_interleave(more) for values in (target, typical, opinion))
    above = torch.triu_indices(more + 1, more + 1, 1, device=z.device)
    for count in range(_STEPS):
        z = z.detach().requires_grad_(True)
        with torch.enable_grad():
            flat = z.flatten(0, 1)
            loss = torch.relu(wanted + _NATS_BEYOND - log_density(flat, targets))
            if explainer.opinions_ is not None and torch.isfinite(asked).any():
                loss = loss + 10 * torch.relu(asked + _ODDS_BEYOND - log_odds(explainer.opinions_(flat), targets).amin(0))
            changes = torch.cat([change[:, None], z - z0[:, None]], 1)
            pairs = alike(changes, changes)[:, above[0], above[1]]
            far = row_norm(changes[:, 1:].flatten(0, 1)).view(-1, more) / length[..., 0]
            total = loss.view(-1, more).sum(1) + _PULL_IN_LATENT * torch.relu(pairs - _ALIKE).sum(1) + far.sum(1)
            gradient = torch.autograd.grad(total.sum(), z)[0]
        gradient = torch.where(torch.isfinite(gradient), gradient, 0.0)
        size = row_norm(gradient.flatten(0, 1)).view(-1, more, 1)
        momentum = 0.8 * momentum + 0.2 * gradient / (size + 1e-8)
        step = 0.2 * length * (1 - 0.8 * count / _STEPS) / (1 - 0.8 ** (count + 1))
        z = (z - step * momentum).detach()
    return torch.where(torch.isfinite(z).flatten(1).all(1)[:, None, None], z, z0[:, None] + length * directions)


def _turned(density: Any, rows: Mapping[str, Tensor], changes: Tensor, directions: Tensor) -> Tensor:
    """Codes (n, k − 1, d) of the rows' own classes, some way from z₀: turned in the flow's base space, if there is one."""
    more, z0 = directions.shape[1], rows["z0"]

    def turned(z0: Tensor, change: Tensor, directions: Tensor, source: Tensor) -> Tensor:
        if not (isinstance(density, ConditionalFlow) and density.flow_.has_context):
            return z0[:, None] + 0.7 * row_norm(change)[:, None, None] * directions
        u = density.to_base(z0, source)
        other = 0.5 * u[:, None] + 0.87 * row_norm(u)[:, None, None] * directions
        z = density.from_base(other.flatten(0, 1), source.repeat_interleave(more)).view_as(directions)
        return torch.where(torch.isfinite(z).all(2, keepdim=True), z, z0[:, None])

    with torch.no_grad():
        return in_tiles(turned, z0, changes, directions, rows["source"], tile=TILE)


def table_answers(run: Any, begun: TableRun, rows: Mapping[str, Tensor], first: Found, searching: Evaluator,
                  options: SearchOptions) -> Found:
    """k answers for each row of a table, one after the other, of which the first was `first` found.

    Each of the others is scanned for among the columns that no answer before it changes together. What the scan does not
    answer is searched, all at once, and ends on the explained model as the first does.
    """
    table, verdict, X, k = begun.table, begun.verdict, begun.verdict.X, run.k
    places = np.arange(len(X))
    answers, lacking = [first, *(first[places] for _ in range(1, k))], np.zeros((k, len(X)), dtype=bool)
    lacking[1:] = verdict.goal.moving
    if begun.scan is not None:
        used = [table.columns.changed(first.x_cf, X)]
        for j in range(1, k):
            scanned = begun.scan(begun.rows, avoid=np.stack(used, 1)[begun.rows])
            some = np.flatnonzero(scanned.valid)
            verdict.write(answers[j], begun.rows[some], scanned.x_cf[some], scanned.judged[some])
            _note_written(answers[j], begun.rows[some])
            lacking[j, begun.rows[scanned.complete]] = False
            used.append(table.columns.changed(answers[j].x_cf, X))
    left = np.flatnonzero(lacking.any(0))
    if run.deadline.passed:
        for j in range(1, k):
            answers[j].late |= lacking[j]
    elif len(left) and not first.interrupted.any():
        known = {name: values[left] for name, values in rows.items()}
        z, n_steps, done, valid, finished = (torch.from_numpy(values[left]).to(known["z0"].device) for values in (
            first.z, first.n_steps, first.done, first.valid, first.finished))
        found = SearchResult(z, n_steps, done, valid, finished)
        more = more_answers(run, searching, run.searched(dict(rows), left, searching), found, k, options)
        own = Verdict(run, X[left], verdict.goal[left], known, None if table.ask is None else table.ask[left])
        for j in range(1, k):
            part = run.judged(known, np.arange(len(left)), more.every(k - 1, j - 1), options, first.backend)
            accepted = begun.settle(own, part)
            now = 2 * answers[j].done[left] + _counts(run, verdict, answers[j].x_cf[left], left, answers[0].x_cf[left])
            better = np.flatnonzero(lacking[j, left] & accepted & (2 * part.done + 1 > now))
            answers[j].put(left[better], part[better])
    for answer in answers[1:]:
        begun.charge(answer)
    return Found.concatenate(answers)[np.arange(k * len(X)).reshape(k, -1).T.reshape(-1)]


def _note_written(found: Found, rows: np.ndarray) -> None:
    """What was scanned took one step, which the path has, too."""
    found.n_steps[rows] = 1
    if found.path is not None:
        for i in rows:
            found.path[i] = np.stack([found.z0[i], found.z[i]])


def _counts(run: Any, verdict: Verdict, x_cf: np.ndarray, rows: np.ndarray, first: np.ndarray) -> np.ndarray:
    """1 where an answer is another than the first, and the model's target; else −2: bool-like (n,)."""
    return np.where((x_cf != first).any(1) & (verdict.gap(x_cf, rows) == 0), 1, -2)


def repeated_answers(X: np.ndarray, x_cf: np.ndarray, k: int, counts: np.ndarray, scale: Any = 1.0) -> np.ndarray:
    """Which answers repeat one before them that counts, bool (n · k,).

    `X` and `x_cf` have k rows for each row, one after the other.

    Parameters
    ----------
    counts : ndarray of bool, shape (n · k,)
        Answers that count: valid ones.
    scale : ndarray of shape (d,), or 1
        Unit of each column.

    Examples
    --------
    >>> x_cf = np.array([[1.0, 0.0], [1.01, 0.0], [0.0, 1.0]])
    >>> repeated_answers(np.zeros((3, 2)), x_cf, 3, np.ones(3, dtype=bool)).tolist()
    [False, True, False]
    """
    points = ((x_cf - X) / scale).reshape(-1, k, int(np.prod(X.shape[1:])))
    size, counts = np.linalg.norm(points, axis=2), counts.reshape(-1, k)
    out = np.zeros(counts.shape, dtype=bool)
    for j in range(1, k):
        for i in range(j):
            near = np.linalg.norm(points[:, j] - points[:, i], axis=1) <= _SAME * np.minimum(size[:, i], size[:, j])
            out[:, j] |= near & counts[:, i] & ~out[:, i]
    return out.reshape(-1)
