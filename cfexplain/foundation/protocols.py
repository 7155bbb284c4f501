"""What displays, reports and streams read of classes that are defined on higher floors.

Plotting and reports stand below results and explainers, and `cfexplain.scale` below explainers. They import these protocols
instead: each lists the attributes that are read. `Counterfactuals`, `DecodedPath`, `CounterfactualExplainer`, `Metric`,
`Statistic`, `Evaluation`, `Frontier` and `SaliencyComparison` have them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from cfexplain.foundation.arrays import Layout

__all__ = ["ComparedMethods", "ComparedSettings", "DecodedPoints", "FittedExplainer", "Mean", "MeasuredMaps",
           "MeasuredResult", "MetricInfo", "Result"]


class Result(Protocol):
    """Counterfactuals row by row, with the fields of `Counterfactuals`."""

    x: np.ndarray
    x_cf: np.ndarray
    reconstruction: np.ndarray
    source: np.ndarray
    target: np.ndarray
    prediction: np.ndarray
    proba_before: np.ndarray
    proba_after: np.ndarray
    valid: np.ndarray
    status: np.ndarray
    n_steps: np.ndarray
    z: np.ndarray
    z_cf: np.ndarray
    distance: np.ndarray
    distance_x: np.ndarray
    log_density: np.ndarray
    density_percentile: np.ndarray
    reconstruction_error: np.ndarray
    conditions: dict[str, np.ndarray]
    surrogate_valid: np.ndarray | None
    second_opinion: np.ndarray | None
    costs: np.ndarray | None
    index: np.ndarray | None
    carried: np.ndarray | None
    row: np.ndarray | None
    answer: np.ndarray | None
    region: np.ndarray | None
    path: list[np.ndarray] | None
    plans: list[np.ndarray] | None
    metadata: dict[str, Any]

    @property
    def cost(self) -> np.ndarray | None: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of X′."""

    @property
    def complete(self) -> np.ndarray:
        """Valid, and every condition met."""

    @property
    def k(self) -> int:
        """The most answers that a row has."""

    @property
    def diversity(self) -> np.ndarray:
        """How different the answers of each row are."""

    @property
    def feature_names(self) -> list[str]:
        """Names of the columns."""

    @property
    def row_fields(self) -> list[str]:
        """Names of the arrays with one entry a row."""

    @property
    def is_image(self) -> bool:
        """Samples are images, not table rows."""

    @property
    def is_regression(self) -> bool:
        """Source, target and prediction are values, not labels."""

    def measures(self) -> MeasuredResult:
        """What the result is like beside being valid."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Result]: ...

    def __getitem__(self, index: Any) -> Result: ...


class MeasuredResult(Protocol):
    """A whole result measured, with the fields of `cfexplain.metrics.of_result.Measures`."""

    @property
    def spread(self) -> float: ...

    @property
    def sharpness(self) -> float: ...

    @property
    def columns_changed(self) -> float: ...

    @property
    def lines(self) -> list[str]: ...

    @property
    def warnings(self) -> list[str]: ...


class DecodedPoints(Protocol):
    """Points of one row's search, with the fields of `DecodedPath`."""

    @property
    def step(self) -> np.ndarray: ...

    @property
    def x(self) -> np.ndarray: ...

    @property
    def proba(self) -> np.ndarray: ...

    @property
    def value(self) -> np.ndarray | None: ...

    @property
    def log_density(self) -> np.ndarray: ...

    @property
    def density_percentile(self) -> np.ndarray: ...

    @property
    def returned(self) -> int: ...


class FittedExplainer(Protocol):
    """A `CounterfactualExplainer` after `fit`; what its parts offer is written at their classes."""

    stop: Any
    target: Any
    max_steps: Any
    data_range: Any
    classes_: Any  # of a classifier only
    layout_: Layout
    n_features_in_: int
    dtype_: Any
    classifier_: Any
    coordinates_: Any
    density_: Any

    @property
    def is_regression(self) -> bool:
        """The explained model is a regressor."""

    def explain(self, X: Any, target: Any = None, **options: Any) -> Any: ...

    def transform(self, X: Any, target: Any = None) -> Any: ...

    def predict(self, X: Any) -> np.ndarray: ...

    def decode_path(self, cf: Any, *, frames: int | None = None) -> Sequence[DecodedPoints]: ...

    def read_samples(self, X: Any) -> np.ndarray: ...

    def search_options(self) -> Any: ...

    def metadata(self) -> dict[str, Any]: ...


class MetricInfo(Protocol):
    """What a metric is called, and which way is better."""

    @property
    def heading(self) -> str: ...

    @property
    def better(self) -> str: ...

    @property
    def sign(self) -> int: ...

    @property
    def range(self) -> tuple[float, float] | None: ...


class Mean(Protocol):
    """A mean over rows with its interval."""

    @property
    def mean(self) -> float: ...

    @property
    def std(self) -> float: ...

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...

    @property
    def missing(self) -> int: ...


class ComparedMethods(Protocol):
    """Several methods on the same rows, as `Evaluation` compares them."""

    confidence_level: float

    @property
    def results(self) -> Mapping[str, Result]: ...

    @property
    def metrics(self) -> Mapping[str, MetricInfo]: ...

    @property
    def table(self) -> Mapping[str, Mapping[str, Mean]]: ...

    @property
    def failures(self) -> Mapping[tuple[str, str], str]: ...

    @property
    def comparable(self) -> Mapping[str, bool]: ...


class ComparedSettings(Protocol):
    """Settings of one explainer on a plane of two metrics, as `Frontier` has them."""

    x: str
    y: str
    means: np.ndarray
    validity: np.ndarray
    optimal: np.ndarray

    @property
    def evaluation(self) -> ComparedMethods: ...

    @property
    def settings(self) -> Sequence[Mapping[str, float]]: ...


class MeasuredMaps(Protocol):
    """Saliency maps measured against counterfactuals, as `SaliencyComparison` has them."""

    maps: dict[str, np.ndarray]
    values: dict[str, dict[str, np.ndarray]]
    shares: tuple[float, ...]

    @property
    def cf(self) -> Result: ...

    @property
    def table(self) -> Mapping[str, Mapping[str, Mean]]: ...

    def __len__(self) -> int: ...
