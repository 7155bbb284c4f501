"""``start="auto"`` among the latents of a pretrained autoencoder: along what tells like pictures of two classes apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cfexplain.explainers.attributes import ExplainerParameters
from cfexplain.explainers.evaluator import Evaluator
from cfexplain.foundation.partial_tiles import TileRows
from cfexplain.foundation.tiles import in_tiles
from cfexplain.nets.class_difference import ClassDifference, learn_class_difference
from cfexplain.search import SearchOptions, SearchResult
from cfexplain.search.gradient import evaluate_tile

__all__ = ["fit_difference", "limits_along", "search_along"]

# Times the difference of the means of like pictures. Beyond, lips turn red and skin grey: the network's own gradient, from
# there, changes less.
_FURTHER = (1.0, 1.5)
_MOST_ROWS = 10_000
_FEATURES = 0.9  # nine in ten rows of the class are as typical for the model as is asked
_DENSITY = 0.05  # a row may become less typical by what lies between this share of the class and its median


def fit_difference(explainer: ExplainerParameters, X: np.ndarray, groups: np.ndarray, seed: int) -> ClassDifference | None:
    """Learn it from training rows `X` (n, ...) of the classes `groups` (n,); None where there are no latents or classes."""
    stages: Any = explainer.coordinates_.stages
    if type(explainer).start != "auto" or explainer.is_regression or len(stages) < 2 or not stages[-2].layout_.is_image:
        return None
    latents = explainer.coordinates_.training_latents(X)
    if len(latents) > _MOST_ROWS:
        some = np.sort(np.random.RandomState(seed).permutation(len(latents))[:_MOST_ROWS])
        latents, groups = latents[some], groups[some]
    found = learn_class_difference(latents, groups, len(explainer.task_.counts), seed)
    return None if found is None else found.to(explainer.device_, torch.from_numpy(X[:0]).dtype)


def limits_along(judge: Evaluator, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is asked of rows of which most is to stay, beside what `rows` say: of what stays nothing gets more typical.

    Whatever is unusual in a photograph (a cap, a wall, the light) would have to go if it had to be as typical as half of its
    new class; it has to be about as typical there as it was.
    """
    explainer: Any = judge.explainer
    density, features, source, target = explainer.density_, explainer.class_features_, rows["source"], rows["target"]

    own = judge.in_tiles("density", density.log_prob, rows["z0"], target)
    middle, low = (
        torch.from_numpy(density.quantiles_by_index(q)).to(rows["z0"])[target] for q in (0.5, _DENSITY))
    limits = {"typical": torch.minimum(rows["typical"], own - (middle - low).clamp_min(0))}
    if features is not None:
        apart = judge.in_tiles("distances", lambda x, source: features(
            judge.engine.classifier.logits_and_features(x)[1], source), rows["x"], source).cpu().numpy()
        known = features.distances
        ranks = [max(_FEATURES, np.searchsorted(known[k], d, "right") / len(known[k]))
                 for k, d in zip(source.tolist(), apart, strict=True)]
        allowed = [np.quantile(known[k], min(rank, 1.0)) for k, rank in zip(target.tolist(), ranks, strict=True)]
        limits["feature_limit"] = torch.maximum(rows["feature_limit"], torch.tensor(allowed).to(rows["feature_limit"]))
    return limits


def search_along(searching: Evaluator, rows: Mapping[str, Tensor], options: SearchOptions,
                 find: Callable[[Tensor, dict[str, Tensor], SearchOptions], SearchResult]) -> SearchResult:
    """How far along the difference each row has to go to meet every condition; what nowhere does is left to `find`.

    Distances are tried from the nearest on, and the first that will do is bisected towards the last that will not. Every
    point that is tried is a step.
    """
    names, z0, along = list(rows), rows["z0"], rows["along"]
    tried: list[list[float]] = [[] for _ in z0]

    def met(index: Tensor, share: Tensor) -> Tensor:
        def done(z: Tensor, *values: Tensor) -> Tensor:
            known = TileRows(zip(names, values, strict=True), live=min(len(z), len(index)))
            return evaluate_tile(searching.evaluate, z, known, False, options.aligned)[3]

        for i, own in zip(index.tolist(), share.tolist(), strict=True):
            tried[i].append(own)
        return in_tiles(done, z0[index] + share[:, None] * along[index], *(values[index] for values in rows.values()),
                        tile=options.tile)

    far, low = torch.zeros_like(z0[:, 0]), torch.zeros_like(z0[:, 0])
    left = torch.arange(len(z0), device=z0.device)
    ladder = _FURTHER[:options.max_steps]
    try:
        for share in ladder:
            if not len(left) or options.deadline.passed or options.deadline.interrupted:
                break
            enough = met(left, torch.full_like(far[left], share))
            far[left[enough]] = share
            left = left[~enough]
            low[left] = share
        there = torch.where(far > 0)[0]
        for _ in range(options.refine - 1 if len(there) else 0):
            if options.deadline.passed or options.deadline.interrupted:
                break
            middle = (low[there] + far[there]) / 2
            enough = met(there, middle)
            far[there], low[there] = torch.where(enough, middle, far[there]), torch.where(enough, low[there], middle)
    except KeyboardInterrupt:
        options.deadline.interrupt()
    left = torch.where(far == 0)[0]
    found = find(z0[left] + _FURTHER[-1] * along[left], {name: values[left] for name, values in rows.items()},
                 replace(options, max_steps=options.max_steps - len(ladder)))
    counts = torch.tensor([len(shares) for shares in tried]).to(found.n_steps)
    met_all = far > 0

    def with_found(of_rows: Tensor, of_found: Tensor) -> Tensor:
        return of_rows.index_copy(0, left, of_found.to(of_rows))

    path = None
    if options.record_path:
        path = [torch.cat([z0[i] + share * along[i : i + 1] for share in shares] or [z0[i : i + 1]])
                for i, shares in enumerate(tried)]
        for i, own in zip(left.tolist(), found.path or [], strict=True):
            path[i] = torch.cat([path[i][: len(tried[i])], own])
    return SearchResult(
        z=with_found(z0 + far[:, None] * along, found.z), n_steps=with_found(counts - 1, counts[left] + found.n_steps),
        done=with_found(met_all, found.done), valid=with_found(met_all, found.valid),
        finished=with_found(met_all, found.finished), path=path, interrupted=found.interrupted, late=found.late)
