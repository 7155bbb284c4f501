"""Several answers for each row: where they begin, how they are searched, and which of them repeat another.

Of images, and of what only gradients search, all answers of a row are searched side by side, in one batch and under the same
conditions as a single one. They begin at codes that the flow has for nothing: base codes of the target class, of which those
are taken that lie in the most different directions from z₀, and are drawn further apart in latent space alone, which costs
little. A row of a table keeps the answer that it gets alone, and others are looked for beside it.
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
from cfexplain.explainers.candidates import same_change, seen_before
from cfexplain.explainers.evaluator import Evaluator
from cfexplain.explainers.found import Found
from cfexplain.explainers.table import TableRun
from cfexplain.explainers.verdict import Verdict
from cfexplain.foundation.numbers import log_odds, row_norm
from cfexplain.foundation.tiles import TILE, in_tiles
from cfexplain.objective import Objective
from cfexplain.objective.different import Different, alike
from cfexplain.search import Evaluation, SearchOptions, SearchResult, search

__all__ = ["all_answers", "found_together", "more_answers", "repeated_answers", "table_answers"]

# |cos| of two differences from z₀ above which the answers are drawn apart
_ALIKE = 0.05
_PULL = 10.0  # the weight of that in the search
_STEPS, _PULLED = 30, 20  # in latent space; and of the search, while answers are drawn apart
_TILE = 64  # rows that are drawn apart together in latent space: small networks take their time a call, not a row
_CANDIDATES, _KEPT = 32, 0.5  # base codes a row, and how much of the row's own is in each
_PULL_IN_LATENT, _NATS_BEYOND, _ODDS_BEYOND = 20.0, 0.2, 0.5  # nats for each dimension


def found_together(explainer: Any) -> bool:
    """Whether all answers of a row are searched side by side; else the others are searched when the first is known."""
    return explainer.searches_by_gradient and isinstance(explainer.density_, ConditionalFlow) and not (
        explainer.is_regression)


def all_answers(run: Any, searching: Evaluator, rows: Mapping[str, Tensor], k: int, options: SearchOptions) -> SearchResult:
    """The k answers of each row, one after the other, the nearest of those that meet most first."""
    z0 = rows["z0"]
    none = z0[:, None][:, :0]
    centre = run.judge.in_tiles("swap", run.explainer.density_.swap_codes, z0, rows["source"], rows["target"])
    change = torch.where(torch.isfinite(centre).all(1, keepdim=True), centre - z0, torch.zeros_like(z0))
    found = _drawn_apart(run, searching, rows, none, change, k, options)
    group = torch.arange(len(z0)).repeat_interleave(k).numpy()
    far = row_norm(found.z - z0.repeat_interleave(k, 0)).cpu().numpy()
    order = np.lexsort([far, ~found.valid.cpu().numpy(), ~found.done.cpu().numpy(), group])
    return found[torch.from_numpy(order).to(z0.device)]


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
    if explainer.searches_by_gradient and not _blind(explainer):
        return _drawn_apart(run, searching, rows, changes[:, None], changes, more, options)
    directions = _directions(rows["x"], changes, more)
    each = {name: values.repeat_interleave(more, 0) for name, values in rows.items()}
    options = replace(options, refine=0)
    if not explainer.searches_by_gradient:  # its way leads somewhere else from another code of the same class
        each["z0"] = _turned(explainer.density_, rows, changes, directions).flatten(0, 1)
        return explainer.find(searching.evaluate, each["z0"], each, options, None, engine.search)
    # nothing says what is typical: each of the others has columns, or pixels, of its own
    free = _shared_out(directions).to(changes)
    start = rows["z0"][:, None] + 0.1 * row_norm(changes)[:, None, None] * directions * free
    each["free"] = free.flatten(0, 1)

    def evaluate(z: Tensor, rows: Mapping[str, Tensor]) -> Evaluation:
        return searching.evaluate(rows["z0"] + rows["free"] * (z - rows["z0"]), rows)

    found = explainer.find(evaluate, start.flatten(0, 1), each, options, None, _stepwise(engine))
    return _gone_on(explainer, searching, found, found.z, each, options)


def _drawn_apart(run: Any, searching: Evaluator, rows: Mapping[str, Tensor], fixed: Tensor, change: Tensor, count: int,
                 options: SearchOptions) -> SearchResult:
    """`count` answers of each row, unlike each other and the changes `fixed` (n, f, d) of answers that it has already, about
    as far from z₀ as `change` (n, d).
    """
    explainer, engine, z0 = run.explainer, searching.engine, rows["z0"]
    directions = _directions(rows["x"], change, max(_CANDIDATES, count))
    start, fresh = in_tiles(
        lambda *tile: _apart(run, engine.log_density, count, *tile), z0, fixed, change, directions, rows["source"],
        *_latent_conditions(run, rows), tile=_TILE)
    each = {name: values.repeat_interleave(count, 0) for name, values in rows.items()}
    every, taken = torch.cat([fixed, start - z0[:, None]], 1), fixed.shape[1]
    among = torch.tensor([[i for i in range(taken + count) if i != j] for j in range(taken, taken + count)],
                         dtype=torch.long, device=start.device)
    likeness = in_tiles(alike, every, every, tile=TILE)
    each["others"] = every[:, among].flatten(0, 1)
    each["alike"] = torch.stack([likeness[:, taken + j, among[j]] for j in range(count)], 1).flatten(0, 1).clamp(min=_ALIKE)
    options = replace(options, refine=0)
    few = options if options.stop == "converged" else replace(options, max_steps=min(options.max_steps, _PULLED))
    apart = run.evaluator(engine, Objective([*run.objective.terms, Different(_PULL)], explainer.needs_valid))
    found = explainer.find(apart.evaluate, start.flatten(0, 1), each, few, None, _stepwise(engine))
    return _gone_on(explainer, searching, found, ((start + fresh) / 2).flatten(0, 1), each, options)


def _stepwise(engine: Any) -> Any:
    """A kernel that evaluates by itself knows of no more than its own terms."""
    return search if "one launch" in engine.backend else engine.search


def _gone_on(explainer: Any, searching: Evaluator, found: SearchResult, again: Tensor, each: Mapping[str, Tensor],
             options: SearchOptions) -> SearchResult:
    """`found`, with what met not every condition searched once more, from `again`, and with nothing but the objective."""
    left = torch.where(~(found.valid if options.stop == "converged" else found.done))[0]
    if len(left) and not (found.interrupted or found.late) and options.max_steps:
        rest = {name: values[left] for name, values in each.items() if name not in ("others", "alike", "free")}
        _put(found, left, explainer.find(searching.evaluate, again[left], rest, options, None, searching.engine.search))
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


def _apart(run: Any, log_density: Any, count: int, z0: Tensor, fixed: Tensor, change: Tensor, directions: Tensor,
           source: Tensor, target: Tensor, typical: Tensor, opinion: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (B, count, d) that meet the conditions of latent space, each in another direction from z₀; and where they began.

    By descent of all of a row together; rows are independent.
    """
    length = row_norm(change)
    length = torch.where(length > 0, length, change.shape[1] ** 0.5)[:, None, None]
    beyond = _NATS_BEYOND * z0.shape[1]

    def lacking(z: Tensor) -> Tensor:
        """How far codes (B, m, d) are from what is asked of them in latent space, (B, m)."""
        m = z.shape[1]
        targets, wanted, asked = (values.repeat_interleave(m) for values in (target, typical, opinion))
        off = torch.relu(wanted + beyond - log_density(z.flatten(0, 1), targets))
        if run.explainer.opinions_ is not None and torch.isfinite(asked).any():
            odds = log_odds(run.explainer.opinions_(z.flatten(0, 1)), targets).amin(0)
            off = off + 10 * torch.relu(asked + _ODDS_BEYOND - odds)
        return off.view(-1, m)

    with torch.no_grad():
        candidates = _candidates(run.explainer.density_, z0, change, length, directions, source, target)
        begin = _unlike(candidates, z0, fixed, torch.nan_to_num(lacking(candidates), nan=1e6, posinf=1e6), count)
    z, momentum = begin, torch.zeros_like(begin)
    above = torch.triu_indices(fixed.shape[1] + count, fixed.shape[1] + count, 1, device=z.device)
    for step in range(_STEPS):
        z = z.detach().requires_grad_(True)
        with torch.enable_grad():
            changes = torch.cat([fixed, z - z0[:, None]], 1)
            pairs = alike(changes, changes)[:, above[0], above[1]]
            far = row_norm((z - z0[:, None]).flatten(0, 1)).view(-1, count) / length[..., 0]
            near = -torch.log1p(-0.999 * torch.relu(pairs - _ALIKE))  # steep where two are one, which |cos| is not
            total = lacking(z).sum(1) + _PULL_IN_LATENT * near.sum(1) + far.sum(1)
            gradient = torch.autograd.grad(total.sum(), z)[0]
        gradient = torch.where(torch.isfinite(gradient), gradient, 0.0)
        size = row_norm(gradient.flatten(0, 1)).view(-1, count, 1)
        momentum = 0.5 * momentum + 0.5 * gradient / (size + 1e-8)
        z = (z - 0.2 * length * (1 - 0.8 * step / _STEPS) / (1 - 0.5 ** (step + 1)) * momentum).detach()
    return torch.where(torch.isfinite(z).flatten(1).all(1)[:, None, None], z, begin), begin


def _candidates(density: Any, z0: Tensor, change: Tensor, length: Tensor, directions: Tensor, source: Tensor, target: Tensor,
                ) -> Tensor:
    """Codes (B, m, d) of the target class, the more unlike the better: of base codes turned away from the row's own, each in
    one of the `directions`; of a density without a base for each class, around z₀ + `change`.
    """
    around = z0[:, None] + change[:, None] + length * directions
    if not (isinstance(density, ConditionalFlow) and density.flow_.has_context):
        return around
    u = density.to_base(z0, source)
    u = u * (u.shape[1] ** 0.5 / row_norm(u).clamp(min=1e-12)).clamp(max=1.0)[:, None]  # no further out than rows are
    turned = _KEPT * u[:, None] + (1 - _KEPT**2) ** 0.5 * row_norm(u)[:, None, None] * directions
    z = density.from_base(turned.flatten(0, 1), target.repeat_interleave(directions.shape[1])).view_as(directions)
    return torch.where(torch.isfinite(z).all(2, keepdim=True), z, around)


def _unlike(candidates: Tensor, z0: Tensor, fixed: Tensor, lacking: Tensor, count: int) -> Tensor:
    """`count` of the candidates (B, m, d) of each row, one after the other: that which is least like those before it, in its
    direction from z₀, and lacks little, (B, count, d).
    """
    changes, price = candidates - z0[:, None], 0.1 * lacking
    likeness = alike(changes, changes)
    total = price + (alike(changes, fixed).sum(2) if fixed.shape[1] else 0.0)
    chosen: list[Tensor] = []
    for _ in range(count):
        best = total.argmin(1, keepdim=True)
        chosen.append(best)
        total = (total + likeness.gather(1, best[..., None].expand(-1, -1, likeness.shape[2]))[:, 0]).scatter(
            1, best, torch.inf)
    index = torch.cat(chosen, 1)[..., None].expand(-1, -1, candidates.shape[2])
    return candidates.gather(1, index)


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
        for j in range(1, k):
            scanned = begun.scan.again(begun.rows, np.stack([answer.x_cf[begun.rows] for answer in answers[:j]], 1))
            some = np.flatnonzero(scanned.valid)
            verdict.write(answers[j], begun.rows[some], scanned.x_cf[some], scanned.judged[some])
            _note_written(answers[j], begun.rows[some])
            lacking[j, begun.rows[scanned.complete]] = False
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
            other = ~_contained(verdict, table.columns, part.x_cf, left, [before.x_cf[left] for before in answers[:j]])
            better = np.flatnonzero(lacking[j, left] & accepted & other & (2 * part.done + 1 > now))
            answers[j].put(left[better], part[better])
    for answer in answers[1:]:
        begun.charge(answer)
    return Found.concatenate(answers)[np.arange(k * len(X)).reshape(k, -1).T.reshape(-1)]


def _contained(verdict: Verdict, columns: Any, x_cf: np.ndarray, rows: np.ndarray, before: list[np.ndarray]) -> np.ndarray:
    """Which answers of `rows` repeat one `before` them, or change all its columns and are few, so that they say nothing new,
    (n,).
    """
    x = verdict.X[rows]
    changed, scale = columns.changed(x_cf, x), verdict.scale
    inside, repeated = seen_before(changed, (x_cf - x) / scale, [columns.changed(one, x) for one in before],
                                   [(one - x) / scale for one in before])
    return repeated & changed.any(1) | inside & (2 * changed.sum(1) < changed.shape[1])


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
    counts = counts.reshape(-1, k)
    out = np.zeros(counts.shape, dtype=bool)
    for j in range(1, k):
        for i in range(j):
            out[:, j] |= same_change(points[:, j], points[:, i]) & counts[:, i] & ~out[:, i]
    return out.reshape(-1)
