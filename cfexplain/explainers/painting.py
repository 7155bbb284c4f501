"""``detail="learned"``: what belongs where the search changes a picture is painted, by a network that `fit` trains."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cfexplain.coordinates.detail import change_mask
from cfexplain.explainers.attributes import ExplainerParameters
from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.random import seeded_torch
from cfexplain.nets.painter import Painter, train_painter

__all__ = ["fit_painter"]

_UPDATES, _BATCH = 1000, 24
_WIDTH = 48


def fit_painter(explainer: ExplainerParameters, X: np.ndarray, groups: np.ndarray, codes: np.ndarray, seed: int) -> Painter:
    """A `Painter` of the latents that the first stage of the coordinates draws, or of pixels where there is one stage.

    Parameters
    ----------
    X : ndarray of shape (n, C, H, W)
        Training rows whose codes are known.
    groups : ndarray of int, shape (n,)
    codes : ndarray of shape (n, latent_dim)

    Notes
    -----
    Masks are those of a search: of codes on the way to another class, by the flow's swap where there is one, and on the way
    to another row.
    """
    stages, density = explainer.coordinates_.stages, explainer.density_
    stage, of_latents = stages[0], len(stages) > 1
    layout: Layout = stage.layout_
    originals = explainer.coordinates_.training_latents(X) if of_latents else X
    device, classes = explainer.device_, len(np.unique(groups))
    with seeded_torch(seed):
        painter = Painter(layout.net_shape[0], _WIDTH, Painter.halvings_for(layout.net_shape[1:]))
    swaps = hasattr(density, "swap_codes") and classes > 1

    def batch(rows: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        index = rows.numpy()
        original = torch.from_numpy(np.ascontiguousarray(originals[index])).float().to(device)
        z, own = torch.from_numpy(codes[index]).float().to(device), torch.from_numpy(groups[index]).to(device)
        share = torch.rand(len(z), 1, generator=generator).to(device)
        with torch.no_grad():
            to = z.roll(1, 0)
            if swaps:
                other = (own + 1 + torch.randint(classes - 1, own.shape, generator=generator).to(device)) % classes
                swapped = density.swap_codes(z, own, other)
                turn = (torch.rand(len(z), 1, generator=generator) < 0.75).to(device) & torch.isfinite(swapped).all(1, True)
                to = torch.where(turn, z + 1.5 * (swapped - z), to)
            moved = stage.decode((z + (0.2 + 0.8 * share) * (to - z)).to(explainer_dtype)).float()
            drawn = stage.decode(z.to(explainer_dtype)).float()
            mask = change_mask(moved - drawn, explainer.data_range, of_latents)
        return drawn, moved, original, torch.maximum(mask.roll(1, 0), mask.roll(2, 0).flip(3)), mask

    explainer_dtype = torch.from_numpy(codes[:0]).dtype
    explainer.painting_ = train_painter(  # type: ignore[attr-defined]
        painter, batch, len(codes), updates=max(2, round(_UPDATES * explainer.training_budget)), batch_size=min(
            _BATCH, len(codes)), seed=seed, device=str(device), verbose=explainer.verbose)
    return painter.to(explainer_dtype)

