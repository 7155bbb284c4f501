"""``start="learned"``: a row is searched on a small network of the latent first; what that finds is judged, and only where
a condition fails is it searched on.

Nearly all the time of a search goes into decoding, and into the model that is asked about the picture. A `LatentJudge` has
learned what that model says of what a code decodes to; density and second opinion are of codes anyway. The search on it is
the explainer's own, row by row, at a few per cent of the cost: so an answer is as near to its row as usual. (One network
that names the answer itself, z₀ and target in, z′ out, ends in one prototype of each class.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from cfexplain.density import ConditionalFlow
from cfexplain.explainers.attributes import ExplainerParameters
from cfexplain.explainers.evaluator import Evaluator
from cfexplain.foundation.ink import greyness
from cfexplain.foundation.partial_tiles import TileRows
from cfexplain.foundation.progress import no_rehearsal
from cfexplain.foundation.random import seeded_torch
from cfexplain.foundation.threads import one_thread
from cfexplain.foundation.tiles import TILE, TileSizes, in_tiles
from cfexplain.nets.latent_judge import LatentJudge
from cfexplain.nets.losses import Rows
from cfexplain.objective import (
    CrossEntropy,
    DecisionHinge,
    LatentDistance,
    LogDensity,
    LogOddsHinge,
    Objective,
    TargetProbability,
    TargetValue,
    TypicalDensity,
    TypicalFeatures,
    TypicalInk,
)
from cfexplain.ops.coupling_flow import NotPackable
from cfexplain.search import Evaluation, SearchOptions, SearchResult, search

if TYPE_CHECKING:
    from cfexplain.explainers.run import Run

__all__ = ["check_can_learn", "fit_start", "learned_start", "search_where_it_fails"]

_ROWS, _POINTS = 4000, 4  # training rows that are used at a time, and codes between classes of each
_UPDATES, _BATCH = 2000, 400  # for 60,000 codes
_FURTHEST, _NOISE = 1.3, 0.4  # of the way to another class; in standard deviations
# How far beyond a condition a search on the network goes: (times, more) of what it asks, by the name of the limit
_BEYOND = {"needed": (1.0, 0.7), "opinion_needed": (1.0, 0.2), "typical": (1.0, 0.2), "feature_limit": (0.9, 0.0),
           "ink_limit": (0.96, 0.0)}
# What can be asked of a code alone
_OF_CODES = (CrossEntropy, DecisionHinge, LatentDistance, LogDensity, LogOddsHinge, TargetProbability, TargetValue,
             TypicalDensity, TypicalFeatures, TypicalInk)

_sizes: WeakKeyDictionary[nn.Module, TileSizes] = WeakKeyDictionary()


@dataclass(frozen=True)
class _InkOfCode(TypicalInk):
    """`TypicalInk` of a point whose x is its greyness."""

    def excess(self, point: Any) -> Tensor:
        return point.x / point.rows["ink_limit"] - 1


def check_can_learn(explainer: ExplainerParameters) -> None:
    """Raise ValueError for an explainer whose searches no start can be learned for; before `fit` as well as after it."""
    if not explainer.searches_by_gradient or not explainer.differentiable:
        raise ValueError(
            f"start='learned' is for methods that search by gradients, and {type(explainer).__name__} searches in another "
            "way. Use PLACEExplainer, REVISEExplainer or DiffeomorphicExplainer, or another start.")


# ------------------------------------------------------------------------------------------------------------------- learn
def fit_start(run: Run, X: np.ndarray, seed: int, training_budget: float, verbose: int | str) -> LatentJudge:
    """The network, learned from codes between the rows of `X` (n, ...) and other classes, and from where searches end.

    Raises
    ------
    ValueError
        A method that does not search by gradients.
    """
    explainer: Any = run.explainer
    check_can_learn(explainer)
    no_rehearsal("learning a start")
    rng, count = np.random.RandomState(seed), max(32, round(_ROWS * min(1.0, training_budget)))
    net: Any = None
    known: list[tuple[Tensor, ...]] = []
    with explainer.classifier_.frozen(), one_thread():
        searching = run.evaluator(run.engine(X[:TILE]))
        for k in range(3):
            some = X[rng.permutation(len(X))[:count]]
            goal = explainer.goal(some, _other_targets(explainer, some, rng))
            rows, start = run.prepare(some, goal)
            rows = run.searched(rows, np.arange(len(some)), searching)
            # first codes on the way to another class, then those where searches end on the network that knows these
            for z in _between(explainer, rows, rng) if net is None else [_searched_on(run, net, rows, start).z]:
                known.append((z, rows["z0"], *_answers(explainer, searching, z, rows)))
            if net is None:
                net = _untrained(known, seed)
            _train(net, known, seed + k, training_budget, verbose)
    return net


def _untrained(known: list[tuple[Tensor, ...]], seed: int) -> LatentJudge:
    z, _, logits, distances, grey = (torch.cat(parts) for parts in zip(*known, strict=True))
    with seeded_torch(seed):
        net = LatentJudge(z.shape[1], logits.shape[1], distances.shape[1], grey.shape[1] > 0).to(z)
    net.set_scale(logits, distances, grey)
    return net


def _other_targets(explainer: Any, X: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """For each row another class, or the value of another row."""
    answers = explainer.task_.answers(explainer.classifier_, X)
    if explainer.is_regression:
        return rng.permutation(answers)
    classes = explainer.classes_
    return classes[(np.maximum(answers[0], 0) + rng.randint(1, len(classes), len(X))) % len(classes)]


def _between(explainer: Any, rows: Mapping[str, Tensor], rng: np.random.RandomState) -> Iterator[Tensor]:
    """Codes on the way from each row to others, or to where the flow's swap brings it, and beside that way."""
    z, swaps = rows["z0"], isinstance(explainer.density_, ConditionalFlow) and len(explainer.density_.classes_) > 1
    spread = z.std(0)
    for k in range(_POINTS):
        to = z[torch.from_numpy(rng.permutation(len(z))).to(z.device)]
        if swaps and k:
            with torch.no_grad():
                swapped = in_tiles(explainer.density_.swap_codes, z, rows["source"], rows["target"], tile=256)
            to = torch.where(torch.isfinite(swapped).all(1, keepdim=True), swapped, to)
        share, noise = rng.rand(2, len(z), 1), rng.standard_normal(tuple(z.shape))
        yield z + torch.from_numpy(_FURTHEST * share[0]).to(z) * (to - z) + torch.from_numpy(
            _NOISE * share[1] * noise).to(z) * spread


def _answers(explainer: Any, searching: Evaluator, z: Tensor, rows: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """What the network is to answer for the codes `z` (n, d) of `rows`: logits, distances in features, and greyness, each
    (n, k); of what the explainer does not ask for no column.
    """
    features, ink, names = explainer.class_features_, explainer.greyness_ is not None, list(rows)

    def answer(z: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        point = searching.point(z, TileRows(zip(names, values, strict=True), live=len(z)))
        distances = point.z[:, :0] if features is None or point.features is None else torch.stack(
            [features(point.features, torch.full_like(point.target, k)) for k in range(point.logits.shape[1])], 1)
        return point.logits, distances, greyness(point.x, explainer.ink_range())[:, None] if ink else point.z[:, :0]

    with torch.no_grad():
        return in_tiles(answer, z, *rows.values())


def _train(net: LatentJudge, known: list[tuple[Tensor, ...]], seed: int, training_budget: float, verbose: int | str) -> None:
    from cfexplain.nets.training import batch_for, train_network, updates_for  # skorch is loaded when something is trained

    z, z0, *answers = (torch.cat(parts) for parts in zip(*known, strict=True))
    wanted = net.standardised(*answers)
    finite = torch.isfinite(z).all(1) & torch.isfinite(wanted).all(1)
    first = len(known) == _POINTS
    train_network(
        net, _error, {"z": z[finite], "z0": z0[finite], "wanted": wanted[finite]}, seed=seed,
        updates=updates_for(len(z), _UPDATES if first else _UPDATES / 2, training_budget),
        batch_size=batch_for(len(z), _BATCH), lr=3e-3 if first else 1.5e-3, weight_decay=1e-2, apart=True, device=z.device,
        verbose=verbose, name="start")


def _error(net: LatentJudge, rows: Rows, progress: float) -> Tensor:
    return nn.functional.smooth_l1_loss(net.outputs(rows["z"], rows["z0"]), rows["wanted"], reduction="none").sum(1)


# ------------------------------------------------------------------------------------------------------------------ search
def learned_start(run: Run, rows: Mapping[str, Tensor], start: Tensor) -> Tensor:
    """Where searches on the network end that begin at `start` (n, d); `start` where they do not end."""
    net = getattr(run.explainer, "start_", None)
    if net is None:
        raise ValueError("start='learned' is learned at fit, and this explainer was fitted with another start. Call "
                         "explainer.distil(X) with training rows, fit it again, or choose another start.")
    found = _searched_on(run, net, rows, start)
    return torch.where((found.done & torch.isfinite(found.z).all(1))[:, None], found.z, start)


def _searched_on(run: Run, net: LatentJudge, rows: Mapping[str, Tensor], start: Tensor) -> SearchResult:
    """The explainer's search of `rows`, of what can be asked of codes alone, as the network answers."""
    explainer: Any = run.explainer
    log_density = explainer.density_.log_prob
    if isinstance(explainer.density_, ConditionalFlow):
        with suppress(NotPackable):
            log_density = explainer.density_.frozen("packed")
    objective = Objective(
        [_InkOfCode(term.weight, term.data_range) if isinstance(term, TypicalInk) else term
         for term in run.objective.terms if isinstance(term, _OF_CODES)], run.objective.needs_valid)

    def distance(features: Tensor, target: Tensor) -> Tensor:
        return features.gather(1, target[:, None])[:, 0]

    def evaluate(z: Tensor, rows: Mapping[str, Tensor]) -> Evaluation:
        logits, distances, grey = net(z, rows["z0"])
        return objective.evaluate(explainer.task_.point(
            z, rows, grey[:, 0] if net.ink else z, logits, distances, log_density, explainer.opinions_, distance, None))

    small = {name: values for name, values in rows.items() if values.ndim == 1 or name == "z0"}
    for name in small.keys() & _BEYOND:
        times, more = _BEYOND[name]
        small[name] = times * small[name] + more
    sizes = None
    if explainer.device_.type == "cpu" and not run.in_worker:
        sizes = _sizes.setdefault(net, TileSizes(TILE, net.latent_dim))
    options = replace(run.options, tile=TILE, sizes=sizes, record_path=False, stop="conditions")
    return search(evaluate, start, rows["z0"], small, options)


def search_where_it_fails(searching: Evaluator, start: Tensor, rows: Mapping[str, Tensor], options: SearchOptions,
                          find: Callable[[Tensor, dict[str, Tensor], SearchOptions], SearchResult]) -> SearchResult:
    """`find` for the rows whose start misses a condition; the start itself, after no step, for all others.

    Neither is drawn back towards z₀ once more: the search on the network has done that.
    """
    names, n = list(rows), len(start)

    def judged(z: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        point = searching.evaluate(z, TileRows(zip(names, values, strict=True), live=n))
        return point.done, point.valid

    with torch.no_grad():
        done, valid = in_tiles(judged, start, *rows.values(), tile=options.tile)
    left = torch.where(~done)[0]
    found = find(start[left], {name: values[left] for name, values in rows.items()}, replace(options, refine=0))
    path = None
    if options.record_path:
        path = [start[i : i + 1] for i in range(n)]
        for i, own in zip(left.tolist(), found.path or [], strict=True):
            path[i] = own

    def with_found(values: Tensor, of_found: Tensor) -> Tensor:
        return values.index_copy(0, left, of_found.to(values))

    return SearchResult(
        z=with_found(start, found.z), n_steps=with_found(found.n_steps.new_zeros(n), found.n_steps),
        done=with_found(done, found.done), valid=with_found(valid, found.valid),
        finished=with_found(done, found.finished), path=path, interrupted=found.interrupted, late=found.late)
