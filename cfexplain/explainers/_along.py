"""Explainers without a gradient: a row's code moves along a path, up to the first point that will do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from cfexplain.explainers._base import CounterfactualExplainer
from cfexplain.objective import LogOddsHinge, Term, TypicalDensity
from cfexplain.search import Found, SearchOptions, search_along

__all__ = ["AlongPath"]


class AlongPath(CounterfactualExplainer):
    """Base of explainers that move codes along a path z(a), a ≥ 0; a subclass writes `_path`."""

    start, stop, update = "latent", "conditions", "normalized"
    step_size, patience = 1.0, 0

    @abstractmethod
    def _path(self, fraction: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        """z(a) of a tile of rows, (B, d), for a = `fraction` (B,); z₀ at 0."""

    def _find(self, evaluate: Callable, start: Tensor, rows: Mapping[str, Tensor], options: SearchOptions,
              report: Callable | None, search: Callable) -> Found:
        return search_along(self._path, evaluate, rows, float(self.max_fraction), options, report)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not self.max_fraction > 0:
            raise ValueError(f"max_fraction={self.max_fraction!r} must be positive: it is the end of the path.")
        if self.max_steps < 1:
            raise ValueError(f"max_steps={self.max_steps!r} must be at least 1: the path is tried in so many steps.")

    def _terms(self) -> list[Term]:
        self._check_confidence()
        wanted: list[Any] = [LogOddsHinge(1.0, self.confidence)]
        return wanted if self.typical_quantile is None else [*wanted, TypicalDensity(1.0)]

    def _typical_quantile(self) -> float:
        return 0.5 if self.typical_quantile is None else self.typical_quantile
