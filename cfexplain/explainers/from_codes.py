"""What `fit` learns side by side, since neither waits for the other: a classifier of its own and the coordinates, and then,
from their codes, the density and the second opinion.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any

import numpy as np
import torch

from cfexplain.classifiers.latent import train_latent_ensemble
from cfexplain.density import ConditionalFlow, Prior
from cfexplain.foundation.progress import rehearsal
from cfexplain.foundation.settings import own_modes
from cfexplain.foundation.threads import EndedEarly, side_by_side, until

__all__ = ["learn_from_codes", "learned_together"]


def learn_from_codes(explainer: Any, unfitted: bool, codes: np.ndarray, std: np.ndarray, groups: np.ndarray, seed: int,
                     budget: dict[str, Any], held: np.ndarray | None = None) -> None:
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
    held : ndarray of bool, shape (n,), optional
        Rows that a flow was not trained on whose base density is the density.
    """
    density = explainer.density_
    explainer.opinions_ = None

    def fit_density() -> None:
        if held is not None and isinstance(density, Prior):
            density.fit(codes, groups, held=np.flatnonzero(held))
        else:
            density.fit(codes, groups, std=std)

    def train_opinions() -> None:
        explainer.opinions_ = train_latent_ensemble(
            codes, std, groups, len(explainer.classes_), members=int(explainer.second_opinion), seed=seed + 3, **budget)
        explainer.opinions_.to(dtype=torch.from_numpy(codes).dtype)

    # a density of the user's own may bear no other thread beside it
    learned_together([fit_density] * bool(unfitted) + [train_opinions] * bool(explainer.second_opinion), explainer.device_,
                     isinstance(density, ConditionalFlow) and isinstance(density.flow, str))


def learned_together(parts: list[Callable[[], Any]], device: torch.device, bears_company: bool) -> list[Any]:
    """What each of `parts` returns: side by side in the threads that torch may use, where they bear that, else in turn.

    Where one fails, or a person interrupts it, the others end early.
    """
    ended, failed = Event(), list[Exception]()

    def learn(part: Callable[[], Any]) -> Any:
        try:
            with own_modes(device), until(ended):
                return part()
        except EndedEarly:
            raise
        except Exception as error:
            failed.append(error)
            raise

    own = bears_company and rehearsal() is None  # of which other threads know nothing
    try:
        return side_by_side(learn, parts, torch.get_num_threads() if own else 1, ended.set)
    except EndedEarly:
        raise (failed[0] if failed else KeyboardInterrupt()) from None
