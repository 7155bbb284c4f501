"""What coordinates make of the data they have to draw: figures that `fit` keeps, and a warning in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from cfexplain.explainers.attributes import ExplainerParameters
from cfexplain.foundation.containers import flat_pictures
from cfexplain.foundation.exceptions import warn_caller
from cfexplain.metrics.realism import sharpness_ratio

__all__ = ["reconstruction_figures", "rows_to_reconstruct", "warn_of_flat_pictures", "warn_of_reconstruction"]

_ROWS, _NUMBERS = 512, 2**22  # at most; of photographs fewer rows hold enough numbers
_FEWEST = 20  # held-out rows of which figures say something
# Default coordinates reach .14, .72, .99 on digits and .08, .66, .99 on 10,000 images of MNIST; 32 latents with a
# cross-entropy kept .66 of the decisions on photographs.
LIMITS = {"error": 0.5, "sharpness": 0.2, "decisions_kept": 0.8}


def rows_to_reconstruct(explainer: ExplainerParameters, encoded: np.ndarray, trained_here: bool) -> np.ndarray:
    """Places among the `encoded` training rows, at most 512: of rows that the coordinates were not trained on, if known."""
    held = getattr(explainer.coordinates_, "held_out_", None) if trained_here else None
    among = np.arange(len(encoded)) if held is None else np.flatnonzero(np.isin(encoded, held))
    if len(among) < _FEWEST:
        among = np.arange(len(encoded))
    most = min(_ROWS, max(64, _NUMBERS // int(np.prod(explainer.layout_.net_shape))))
    return among[np.unique(np.linspace(0, len(among) - 1, min(len(among), most)).astype(int))]


def reconstruction_figures(explainer: ExplainerParameters, x: np.ndarray, codes: np.ndarray) -> dict[str, Any]:
    """How well the coordinates draw the rows `x` from their `codes`.

    Returns
    -------
    dict
        ``rows``, their number; ``error``, Σ‖x − x′‖² over Σ‖x − x̄‖², 0 for perfect and 1 for coordinates that draw the mean
        of all rows; ``sharpness``, the median of `cfexplain.metrics.sharpness_ratio`, None for tables; ``decisions_kept``,
        the share of rows that the explained model decides as before, or, of a regressor, whose value moves by less than a
        quarter of y's standard deviation.
    """
    back = np.nan_to_num(explainer.coordinates_.in_tiles(explainer.coordinates_.decode, codes), posinf=0.0, neginf=0.0)
    task: Any = explainer.task_
    before, after = (task.answers(explainer.classifier_, rows) for rows in (x, back))
    if explainer.is_regression:
        kept = np.abs(after - before) < task.spread / 4
    else:
        kept = after[0] == before[0]
    wide, missed = x.astype(np.float64), back.astype(np.float64)
    spread = float(np.square(wide - wide.mean(0)).sum())
    return {
        "rows": len(x), "error": float(np.square(wide - missed).sum() / spread) if spread else 0.0,
        "sharpness": float(np.median(sharpness_ratio(x, back))) if explainer.layout_.is_image else None,
        "decisions_kept": float(kept.mean())}


def warn_of_reconstruction(explainer: ExplainerParameters, figures: dict[str, Any]) -> str | None:
    """Say so where the coordinates cannot draw the data, unless they had less than half of their training: what was said."""
    if explainer.training_budget < 0.5:  # a quick try, and known to be one
        return None
    name, sharp = type(explainer.coordinates_).__name__, figures["sharpness"]
    found = [text for bad, text in (
        (figures["error"] > LIMITS["error"], f"they miss {figures['error']:.0%} of what tells one row from another"),
        (sharp is not None and sharp < LIMITS["sharpness"], f"they have {(sharp or 0):.0%} of the sharpness"),
        (figures["decisions_kept"] < LIMITS["decisions_kept"],
         f"the explained model decides {1 - figures['decisions_kept']:.0%} of them otherwise")) if bad]
    if not found:
        return None
    said = (f"the {name} cannot draw this data well. Of its reconstructions of {figures['rows']} rows, "
            f"{' and '.join(found)}: counterfactuals are drawn by it, too.")
    warn_caller(
        f"T{said[1:]} More latents may help, as in coordinates=VAE(latent_dim={2 * explainer.coordinates_.latent_dim_}), or "
        "a larger training_budget, more rows, or an autoencoder of your own (docs/howto/own_autoencoder.md). The figures "
        "are in reconstruction_.")
    return said


def warn_of_flat_pictures(explainer: ExplainerParameters, X: np.ndarray) -> None:
    """Say so where rows that are taken for a table look like flattened images."""
    shape = None if explainer.layout_.is_image else flat_pictures(X)
    if shape is not None:
        size = "×".join(map(str, shape[1:])) + (" in colour" if shape[0] == 3 else "")
        scale = "" if X.max() <= 1 else " / 255"
        warn_caller(f"X has {X.shape[1]} columns, as many as an image of {size} has pixels, and values like pixels, but is "
                    f"taken for a table. If these are images, pass X.reshape(-1, {', '.join(map(str, shape))}){scale}, or "
                    f"image_shape={shape} with X{scale} as it is.")
