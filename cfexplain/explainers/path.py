"""Explainers without a gradient, which move a row's code along a path of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from cfexplain.explainers.base import CounterfactualExplainer
from cfexplain.foundation.numbers import check_confidence
from cfexplain.foundation.parameters import MOST, Number
from cfexplain.objective import LogOddsHinge, Term, TypicalDensity
from cfexplain.search import SearchOptions, SearchResult, search_path

__all__ = ["PathExplainer"]


@dataclass(kw_only=True, eq=False, repr=False)
class PathExplainer(CounterfactualExplainer):
    """Base of explainers that move codes along a path z(a), a ≥ 0; a subclass writes `path_point`."""

    differentiable = False
    step_size = 1.0
    patience = 0
    parameter_rules = {"max_steps": Number(1, MOST, whole=True)}

    confidence: float = 0.5
    max_fraction: float = 1.0

    @abstractmethod
    def path_point(self, fraction: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        """z(a) of a tile of rows, (B, d), for a = `fraction` (B,); z₀ at 0."""

    def find(self, evaluate: Callable, start: Tensor, rows: Mapping[str, Tensor], options: SearchOptions,
             report: Callable | None, search: Callable) -> SearchResult:
        return search_path(self.path_point, evaluate, rows, float(self.max_fraction), options, report)

    def terms(self) -> list[Term]:
        hinge = LogOddsHinge(1.0, check_confidence(self.confidence))
        return [hinge] if self.typical_quantile is None else [hinge, TypicalDensity(1.0)]
