"""What `fit` learns, in its order: a classifier where none is given, coordinates, a density of codes, and what is usual."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cfexplain.classifiers.features import ClassFeatures
from cfexplain.coordinates import Coordinates
from cfexplain.coordinates.detail import detail_modes
from cfexplain.coordinates.named import make_coordinates
from cfexplain.density import Prior
from cfexplain.density.named import check_density, make_density
from cfexplain.explainers.column_rules import read_column_rules
from cfexplain.explainers.confidence import measure_confidence
from cfexplain.explainers.difference import fit_difference
from cfexplain.explainers.from_codes import learn_from_codes, learned_together
from cfexplain.explainers.painting import fit_painter
from cfexplain.explainers.real_rows import RANKED, keep_rows
from cfexplain.explainers.reconstruction import reconstruction_figures, rows_to_reconstruct, warn_of_reconstruction
from cfexplain.explainers.regions import read_fixed_region
from cfexplain.explainers.task import Classification, make_task
from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.exceptions import ClassifierOutputError
from cfexplain.foundation.ink import greyness, ink_sign
from cfexplain.foundation.tiles import TILE, in_tiles
from cfexplain.metrics.of_result import training_figures

__all__ = ["learn_parts"]

# Share of X's range by which exact coordinates may fail to return x: float32 flows are a hundred times better.
NOT_INVERTIBLE = 1e-2


def learn_parts(explainer: Any, X: np.ndarray, y: np.ndarray, seed: int) -> None:
    """Set what ends in ``_`` on an explainer that is fitted to rows that were read."""
    layout, data_range = explainer.layout_, explainer.data_range
    if len(X) > 1 and (X[:1] == X).all():
        raise ValueError(f"All {len(X)} rows of X are equal: nothing tells the classes apart, and there is nothing to "
                         "change. Pass rows that differ.")
    check_density(explainer.density)
    explainer.column_rules_, explainer.region_ = read_column_rules(explainer, X), read_fixed_region(explainer.region, layout)
    budget: dict[str, Any] = {
        "training_budget": explainer.training_budget, "verbose": explainer.verbose, "device": str(explainer.device_)}
    task = make_task(explainer.task, explainer.classifier, y)
    explainer.coordinates_, fresh = make_coordinates(
        explainer.coordinates, {"random_state": seed + 1, "data_range": data_range, **budget}, explainer.inner)
    coordinates, own = explainer.coordinates_, explainer.classifier is None and isinstance(explainer.coordinates, str)
    # what a model of the user's is asked, and coordinates of the user's, may bear no other thread beside them
    explainer.classifier_, _ = learned_together([
        lambda: task.adapt(explainer.classifier, X, y, layout=layout, outputs=explainer.classifier_output, seed=seed,
                           differentiable=explainer.differentiable, **budget),
        lambda: coordinates.set_params(**_read_already(coordinates)).fit(X) if fresh else None],
        explainer.device_, own and explainer.coordinates == "vae")
    explainer.task_ = task(explainer.classifier_, y)
    if isinstance(explainer.task_, Classification):
        explainer.classes_, explainer.class_counts_ = explainer.task_.classes, explainer.task_.counts
    else:  # perhaps fitted before, on labels
        for name in ("classes_", "class_counts_"):
            explainer.__dict__.pop(name, None)
        if not layout.is_image:
            explainer.column_rules_ = read_column_rules(explainer, X, within=True)
    groups = explainer.task_.groups

    _check_coordinates(coordinates, layout, X)
    explainer.density_, unfitted = make_density(explainer.density, coordinates, {"random_state": seed + 2, **budget})
    rows = _rows_to_encode(explainer, groups, seed)
    codes, std = coordinates.training_codes(X[rows])
    explainer.reconstruction_, badly_drawn = None, None
    if not coordinates.exact:
        some = rows_to_reconstruct(explainer, rows, fresh)
        explainer.reconstruction_ = reconstruction_figures(explainer, X[rows[some]], codes[some])
        badly_drawn = warn_of_reconstruction(explainer, explainer.reconstruction_)
    held = np.isin(rows, getattr(coordinates, "held_out_", [])) if fresh and coordinates.exact else None
    learn_from_codes(explainer, unfitted, codes, std, groups[rows], seed, budget, held)
    explainer.difference_ = fit_difference(explainer, X[rows], groups[rows], seed + 7)
    explainer.painter_ = None
    if explainer.detail == "learned":
        detail_modes(explainer.detail, layout.is_image, coordinates.stages)
        explainer.painter_ = fit_painter(explainer, X[rows], groups[rows], codes, seed + 5)
    measure_confidence(explainer, X, groups, codes, std, groups[rows], seed)
    explainer.class_features_ = _fit_class_features(explainer, X, groups) if explainer.uses_class_features() else None
    explainer.greyness_ = None
    explainer.ink_ = ink_sign(X[:: len(X) // 1000 + 1], data_range) if layout.is_image else 0
    if layout.is_image and explainer.ink_quantile is not None:
        grey = greyness(torch.from_numpy(X), explainer.ink_range()).numpy()
        explainer.greyness_ = [np.sort(grey[groups == k]) for k in range(len(explainer.task_.counts))]
    explainer.scale_ = X.std(0)
    explainer.training_ = training_figures(
        X, groups, len(explainer.task_.counts), data_range if layout.is_image else None)
    if badly_drawn:
        explainer.training_["badly_drawn"] = badly_drawn
    keep_rows(explainer, X, y, seed, rows, codes)
    explainer.learn(X, groups, codes, groups[rows], {"random_state": seed + 4, "data_range": data_range, **budget})


def _read_already(coordinates: Coordinates) -> dict[str, Any]:
    """Parameters with which coordinates take samples in the layout of networks, in which the explainer read them."""
    already = {"channels": "first", "image_shape": None}
    return {name: value for name, value in already.items() if name in coordinates.get_params(deep=False)}


def _rows_to_encode(explainer: Any, groups: np.ndarray, seed: int) -> np.ndarray:
    """Training rows whose codes are needed: all of them.

    A code that is itself searched for costs as much as a counterfactual: where codes are only ranked, a few hundred a
    class will do.
    """
    if explainer.coordinates_.encodes_at_once or not isinstance(explainer.density_, Prior):
        return np.arange(len(groups))
    order = np.random.RandomState(seed).permutation(len(groups))
    return np.sort(np.concatenate([order[groups[order] == k][:RANKED] for k in np.unique(groups)]))


def _check_coordinates(coordinates: Coordinates, layout: Layout, X: np.ndarray) -> None:
    """Fitted coordinates of the user's own must be of samples like X, and exact ones must return them."""
    own = coordinates.layout_.net_shape
    if own != layout.net_shape:
        raise ValueError(f"The coordinates were fitted on samples of shape {own}, but X has {layout.net_shape}. Pass X in "
                         "that shape, or coordinates that are not fitted yet.")
    if coordinates.exact:
        x = X[:TILE]
        back = coordinates.in_tiles(coordinates.decode, coordinates.encode_dataset(x)[0])
        error = np.abs(back - x).max() / max(float(np.abs(x - x.mean(0)).max()), 1e-12)
        if not error < NOT_INVERTIBLE:
            raise ValueError(
                f"The {type(coordinates).__name__} is not invertible on X: decode(encode(x)) differs from x by up "
                f"to {error:.2g} of X's range. Its weights are damaged or were trained on other data; fit it again, or "
                "pass X as float64.")


def _fit_class_features(explainer: Any, X: np.ndarray, groups: np.ndarray) -> ClassFeatures | None:
    """Where each class lies in the classifier's own features."""
    classifier = explainer.classifier_
    try:
        with torch.no_grad(), classifier.frozen():
            _, features = in_tiles(
                lambda x: tuple(out.cpu() for out in classifier.logits_and_features(x.to(explainer.device_))),
                torch.from_numpy(X))
    except ClassifierOutputError:
        if explainer.feature_weight == "auto":  # a last layer that is not linear: there is nothing to compare
            return None
        raise
    known = np.isfinite(features.numpy()).all(1)
    return ClassFeatures(features.numpy()[known], groups[known], len(explainer.classes_)).to(explainer.device_)
