"""``start="auto"`` among the latents of a pretrained autoencoder: along what tells like pictures of two classes apart."""

from __future__ import annotations

from collections.abc import Mapping
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

__all__ = ["fit_difference", "further_along", "limits_along", "with_tried"]

_FURTHER = (1.0, 2.0, 3.0, 4.0)  # times the difference of the means of like pictures
_BEGIN = 2.0  # where a search by gradients begins if none of these is enough
_MOST_ROWS = 10_000
_SURE = 0.15  # all but so many rows of the class are as sure as is asked
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

    def of_class(values: Any) -> Tensor:
        return torch.from_numpy(np.asarray(values)).to(rows["z0"])[target]

    own = judge.in_tiles("density", density.log_prob, rows["z0"], target)
    middle, low = (of_class(density.quantiles_by_index(q)) for q in (0.5, _DENSITY))
    limits = {"typical": torch.minimum(rows["typical"], own - (middle - low).clamp_min(0))}
    if features is not None:
        apart = judge.in_tiles("distances", lambda x, source: features(
            judge.engine.classifier.logits_and_features(x)[1], source), rows["x"], source).cpu().numpy()
        known = features.distances
        ranks = [max(_FEATURES, np.searchsorted(known[k], d, "right") / len(known[k]))
                 for k, d in zip(source.tolist(), apart, strict=True)]
        allowed = [np.quantile(known[k], min(rank, 1.0)) for k, rank in zip(target.tolist(), ranks, strict=True)]
        limits["feature_limit"] = torch.maximum(rows["feature_limit"], torch.tensor(allowed).to(rows["feature_limit"]))
    usual = {"needed": "class_confidence_", "opinion_needed": "opinion_confidence_"}
    return limits | {name: of_class(getattr(explainer, measured).usual(_SURE)) for name, measured in usual.items()
                     if name in rows and getattr(explainer, "confidence", None) == "auto"}


def further_along(searching: Evaluator, rows: Mapping[str, Tensor], options: SearchOptions,
                  ) -> tuple[Tensor, list[list[float]]]:
    """How far along the difference each row meets every condition: where its search starts, (n, latent_dim), and by how much
    too little or too much was tried before.
    """
    names, z0, along = list(rows), rows["z0"], rows["along"]
    share = torch.full_like(z0[:, 0], _BEGIN)
    tried: list[list[float]] = [[] for _ in z0]
    left = torch.arange(len(z0), device=z0.device)
    for far in _FURTHER:
        if not len(left) or options.deadline.passed:
            break

        def done(z: Tensor, *values: Tensor, live: int = len(left)) -> Tensor:
            known = TileRows(zip(names, values, strict=True), live=min(len(z), live))
            return evaluate_tile(searching.evaluate, z, known, False, options.aligned)[3]

        met = in_tiles(done, z0[left] + far * along[left], *(values[left] for values in rows.values()), tile=options.tile)
        share[left[met]] = far
        for i in left[~met].tolist():
            tried[i].append(far)
        left = left[~met]
    return z0 + share[:, None] * along, tried


def with_tried(result: SearchResult, tried: list[list[float]], rows: Mapping[str, Tensor]) -> SearchResult:
    """`result` with what was tried before it counted as steps, and in the recorded paths."""
    counts = torch.tensor([len(shares) for shares in tried]).to(result.n_steps)
    path = result.path
    if path is not None:
        path = [torch.cat([rows["z0"][i] + share * rows["along"][i : i + 1] for share in shares] + [own])
                for i, (shares, own) in enumerate(zip(tried, path, strict=True))]
    return replace(result, n_steps=result.n_steps + counts, path=path)
