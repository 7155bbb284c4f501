"""How long a fit will take, said at its start."""

from __future__ import annotations

import copy
import sys
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator
from torch import nn

from cfexplain.classifiers.pipeline import PipelineModel
from cfexplain.foundation.progress import NoRehearsalError, Rehearsal, bar_delay, minutes, rehearsing

if TYPE_CHECKING:
    from cfexplain.explainers.base import CounterfactualExplainer

__all__ = ["announce", "seconds_to_fit"]

_ROWS, _FEWEST, _PIXELS = 600, 100, 784  # rows that are rehearsed: so many of 28×28 pixels, fewer of larger ones
_SHORT = 5.0  # seconds that need no announcement


def announce(explainer: CounterfactualExplainer, X: np.ndarray, y: np.ndarray) -> None:
    """Where progress is shown, say about how long ``explainer.fit`` will take."""
    if bar_delay(explainer.verbose) is None:
        return
    seconds = seconds_to_fit(explainer, X, y)
    if seconds is not None and seconds >= _SHORT:
        print(f"fit: about {minutes(seconds)} for {len(X)} rows on this machine.", file=sys.stderr, flush=True)


def seconds_to_fit(explainer: CounterfactualExplainer, X: np.ndarray, y: np.ndarray,
                   clock: Callable[[], float] = time.perf_counter) -> float | None:
    """Seconds that ``_fit(X, y)`` will take, by a rehearsal: a fit of some hundred rows, with five updates a network.

    None where it cannot be rehearsed: the model is a function that may be slow or cost money when it is asked, or some
    hundred of these rows are too few to be fitted, or a part of the fit takes as long in a rehearsal (a GAN, a painter,
    codes that are searched for).
    """
    model = explainer.classifier
    model = model.pipe if isinstance(model, PipelineModel) else model
    if not (model is None or isinstance(model, (nn.Module, BaseEstimator))):
        return None
    most = int(np.clip(_ROWS * _PIXELS / max(X[0].size, 1), _FEWEST, _ROWS))
    order = np.argsort(y, kind="stable")
    rows = np.sort(order[np.unique(np.linspace(0, len(X) - 1, min(len(X), most)).astype(int))])  # classes keep their shares
    trial: Any = copy.copy(explainer)
    trial.random_state, trial.verbose = 0, 0
    with warnings.catch_warnings(), rehearsing(Rehearsal(len(X) / len(rows), clock)) as running:
        warnings.simplefilter("ignore")
        started = clock()
        try:
            trial._fit(X[rows], y[rows])
        except (NoRehearsalError, ValueError, FloatingPointError):  # what is wrong with the rows, the fit itself says
            return None
        beside = clock() - started - running.spent
    return running.training + beside * running.scale
