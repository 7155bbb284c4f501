"""What `fit` learns from codes: their density, and beside it the second opinion, which do not wait for each other."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any

import numpy as np
import torch

from cfexplain.classifiers.latent import train_latent_ensemble
from cfexplain.density import ConditionalFlow
from cfexplain.foundation.progress import rehearsal
from cfexplain.foundation.settings import own_modes
from cfexplain.foundation.threads import EndedEarly, side_by_side, until

__all__ = ["learn_from_codes"]


def learn_from_codes(explainer: Any, unfitted: bool, codes: np.ndarray, std: np.ndarray, groups: np.ndarray, seed: int,
                     budget: dict[str, Any]) -> None:
    """Fit ``density_``, where it is `unfitted`, and set ``opinions_``.

    Parameters
    ----------
    explainer : CounterfactualExplainer
    codes, std : ndarray of shape (n, latent_dim)
        Of the training rows.
    groups : ndarray of int, shape (n,)
    seed : int
    budget : dict
        ``training_budget``, ``verbose`` and ``device``.
    """
    ended, failed, density = Event(), list[Exception](), explainer.density_
    explainer.opinions_ = None

    def fit_density() -> None:
        density.fit(codes, groups, std=std)

    def train_opinions() -> None:
        explainer.opinions_ = train_latent_ensemble(
            codes, std, groups, len(explainer.classes_), members=int(explainer.second_opinion), seed=seed + 3, **budget)
        explainer.opinions_.to(dtype=torch.from_numpy(codes).dtype)

    def learn(part: Callable[[], None]) -> None:
        try:
            with own_modes(explainer.device_), until(ended):
                part()
        except EndedEarly:
            raise
        except Exception as error:
            failed.append(error)
            raise

    parts = [fit_density] * bool(unfitted) + [train_opinions] * bool(explainer.second_opinion)
    # a density of the user's own may bear no other thread beside it, and other threads know nothing of a rehearsal
    own = isinstance(density, ConditionalFlow) and isinstance(density.flow, str) and rehearsal() is None
    try:
        side_by_side(learn, parts, torch.get_num_threads() if own else 1, ended.set)
    except EndedEarly:  # the other part has failed, or a person interrupted it
        raise (failed[0] if failed else KeyboardInterrupt()) from None
