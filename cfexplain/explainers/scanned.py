"""Short answers without training: a scan of few columns of a table on the explained model itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cfexplain.explainers.base import CounterfactualExplainer
from cfexplain.explainers.task import Regression
from cfexplain.foundation.numbers import check_confidence
from cfexplain.objective import LogOddsHinge, TargetValue, Term, TypicalDensity
from cfexplain.persistence import storable
from cfexplain.search import SearchOptions, SearchResult

__all__ = ["ScanExplainer"]


@storable
@dataclass(kw_only=True, eq=False, repr=False)
class ScanExplainer(CounterfactualExplainer):
    """The cheapest change of few columns of a table that the model accepts and that is not unusual; nothing is trained.

    Changes of one, two, three … columns are tried on the model itself: quantiles of the training rows for numbers, and
    every category. What it accepts is drawn back towards the row, and the cheapest that meets every condition is the answer.
    This is what every explainer does for a table first (``sparse=True``); here no search follows, so that no coordinates,
    density or surrogate have to be trained, and `fit` takes seconds. How typical an answer is, a kernel density of the
    training rows says, which knows less than a flow of how columns hang together. A row that no few columns bring to its
    target gets what is found among real rows and on the way to them.

    Parameters
    ----------
    classifier : fitted estimator, network, or any object with ``predict``, or None
        What is explained; never trained, never differentiated. None trains a network on (X, y).
    density : {"kernel"}, KernelDensity, ConditionalFlow or FrozenEstimator, default="kernel"
    target : label or value, or None
        See `PLACEExplainer`.
    confidence : float in (0, 1) or "auto", default=0.55
        p(ỹ|x′) to reach; a clear majority. "auto" is what half of the training rows of each class reach.
    typical_quantile : float in (0, 1), or None, default=0.5
        As in `PLACEExplainer`: a fifth of it is asked of a row of which much stays, and no more than it has in its own
        class. None asks for nothing.
    task : {"auto", "classification", "regression"}, default="auto"
        Of a regressor a value or an interval is asked for; there is no scan for "maximize" and "minimize".
    sparse, max_changes, immutable, bounds, classifier_output, batch_size, training_budget, random_state, verbose, device
        See `PLACEExplainer`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> forest = RandomForestClassifier(random_state=0).fit(X, y)
    >>> cf = ScanExplainer(forest, random_state=0).fit(X, y).explain(X[:3], target=1)
    >>> forest.predict(cf.x_cf).tolist(), int((cf.x_cf != cf.x).sum(1).max())
    ([1, 1, 1], 4)
    """

    differentiable = False
    coordinates = "identity"

    density: Any = "kernel"
    confidence: float | str = 0.55
    typical_quantile: float | None = 0.5
    task: str = "auto"
    sparse: bool = True

    def terms(self) -> list[Term]:
        asked: list[Term] = [TargetValue(max(self.task_.spread, 1e-12)) if isinstance(self.task_, Regression)
                             else LogOddsHinge(1.0, check_confidence(self.confidence))]
        return asked if self.typical_quantile is None else [*asked, TypicalDensity(1.0)]

    def find(self, evaluate: Callable, start: Tensor, rows: Mapping[str, Tensor], options: SearchOptions,
             report: Callable | None, search: Callable) -> SearchResult:
        none = torch.zeros(len(start), dtype=torch.bool, device=start.device)
        return SearchResult(z=start, n_steps=none.long(), done=none, valid=none, finished=~none)
