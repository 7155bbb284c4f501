"""Every attribute that the base of all explainers reads: what a method may choose, what `fit` sets, and the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from cfexplain.classifiers import ClassifierAdapter, RegressorAdapter
from cfexplain.classifiers.confidence import ClassConfidence
from cfexplain.classifiers.features import ClassFeatures
from cfexplain.classifiers.latent import LatentEnsemble
from cfexplain.coordinates import Coordinates
from cfexplain.coordinates.detail import CLIP_MODES
from cfexplain.density import ClassDensity
from cfexplain.explainers.task import Classification, Regression
from cfexplain.foundation.arrays import CHANNELS, Layout
from cfexplain.foundation.parameters import MOST, TRAINING, Choice, Number, Rule
from cfexplain.nets.class_difference import ClassDifference
from cfexplain.nets.latent_judge import LatentJudge
from cfexplain.nets.painter import Painter
from cfexplain.objective import Term
from cfexplain.persistence import MayBeAbsent
from cfexplain.search import SearchOptions, SearchResult
from cfexplain.tables.rules import ColumnRules

__all__ = ["SPARSE", "ExplainerAttributes", "ExplainerParameters", "fitted"]

# Share of what is usual, typical or sure, that is asked of a row of a table of which much is to stay
SPARSE = 0.2


def fitted() -> Any:
    """An attribute that the `fit` of a method sets: declared with its type, and no parameter of the constructor."""
    return field(init=False)


class ExplainerAttributes:
    """What the search, the judgement and the displays may read of any explainer.

    The first group is what a method may choose: as a parameter, as a class attribute, or as a property.
    """

    task: str = "classification"
    # False: the classifier is only asked, never differentiated, and no surrogate stands in for it
    differentiable: bool = True
    # whether a row that meets every condition must also have the target as its most probable class
    needs_valid: bool = True
    density: Any = None
    # of the latents of a `PretrainedAutoencoder` that is given as coordinates: what is searched
    inner: str = "vae"
    start: str | float = "latent"
    update: str = "normalized"
    step_size: float | None = None
    stop: str = "conditions"
    patience: int = 50
    clip: str = "straight_through"
    detail: str = "decoder"
    tau: float | str = "auto"
    region: Any = None
    typical_quantile: float | None = 0.5
    feature_weight: float | str = 0.0
    feature_quantile: float = 0.3
    ink_quantile: float | None = None
    # of a table: change as few columns as the conditions allow, and end on the explained model itself
    sparse: bool = False
    max_changes: int | None = None
    # set by the base: whether `find` is the search by gradients
    searches_by_gradient: bool = True

    # What parameters must be, by name; a method adds rules of its own under the same attribute.
    parameter_rules: ClassVar[Mapping[str, Rule]] = {
        **TRAINING, "batch_size": Number(1, 2**16, whole=True, words=("auto",)),
        "max_steps": Number(0, MOST, whole=True), "refine": Number(0, MOST, whole=True, none=True),
        "patience": Number(0, MOST, whole=True),
        "step_size": Number(0, between=True, none=True), "start": Number(0, 1, words=("auto", "latent", "swap", "learned")),
        "update": Choice(("adam", "normalized")), "stop": Choice(("conditions", "converged")),
        "clip": Choice(CLIP_MODES), "detail": Choice(("auto", "decoder", "residual", "blend", "learned")),
        "tau": Number(0, between=True, words=("auto",)), "max_fraction": Number(0, between=True),
        "confidence": Number(0, 1, between=True, words=("auto",)),
        "opinion_confidence": Number(0, 1, between=True, none=True, words=("auto",)),
        "typical_quantile": Number(0, 1, none=True), "feature_quantile": Number(0, 1),
        "ink_quantile": Number(0, 1, none=True),
        **dict.fromkeys(("decision_weight", "distance_weight", "plausibility_weight", "perceptual_weight",
                         "autoencoder_weight", "prototype_weight", "l1_weight", "l2_weight"), Number(0)),
        "feature_weight": Number(0, words=("auto",)),
        "ink_weight": Number(0, words=("auto",)), "second_opinion": Number(0, whole=True),
        "sparse": Choice((True, False)), "max_changes": Number(1, whole=True, none=True), "channels": Choice(CHANNELS),
        "classifier_output": Choice(("auto", "logits", "probabilities")),
        "task": Choice(("auto", "classification", "regression")), "verbose": Number(0, whole=True, words=("auto",)),
    }

    # What `fit` sets.
    layout_: Layout
    n_features_in_: int
    feature_names_in_: MayBeAbsent[np.ndarray]
    dtype_: np.dtype
    device_: torch.device
    classifier_: ClassifierAdapter | RegressorAdapter
    task_: Classification | Regression
    classes_: MayBeAbsent[np.ndarray]  # of a classification, as is the next
    class_counts_: MayBeAbsent[np.ndarray]
    coordinates_: Coordinates
    density_: ClassDensity
    class_confidence_: MayBeAbsent[ClassConfidence]  # of a classification
    opinions_: LatentEnsemble | None
    opinion_confidence_: MayBeAbsent[ClassConfidence]  # where there are opinions
    class_features_: ClassFeatures | None
    greyness_: list[np.ndarray] | None
    ink_: MayBeAbsent[int]  # 1: bright strokes on a dark background, −1: dark ones on a bright one, 0: no ink
    scale_: np.ndarray
    training_: MayBeAbsent[dict[str, list]]  # what results are compared with; not in files of earlier versions
    # how well coordinates draw the data (`reconstruction_figures`); None where they are exact, not in files from before
    reconstruction_: MayBeAbsent[dict[str, Any] | None]
    # what `detail="learned"` paints with, and how it was learned
    painter_: MayBeAbsent[Painter | None]
    painting_: MayBeAbsent[list[dict[str, float]]]
    difference_: MayBeAbsent[ClassDifference | None]  # of the latents of pictures, along which `start="auto"` goes
    start_: MayBeAbsent[LatentJudge | None]  # what `start="learned"` starts with
    column_rules_: ColumnRules | None
    region_: Tensor | None
    # Some training rows of tables, what the model says of them, and their log densities in a regression; not in files of
    # earlier versions
    real_rows_: MayBeAbsent[np.ndarray]
    real_answers_: MayBeAbsent[np.ndarray]
    real_densities_: MayBeAbsent[np.ndarray]

    @property
    def coordinates(self) -> Any:
        """Where to search: what `cfexplain.coordinates.named.make_coordinates` takes."""
        return "vae"

    @property
    def step_sizes(self) -> Mapping[str, float]:
        """The default of `step_size`, for each `update`."""
        return {"normalized": 0.1, "adam": 0.05}

    @property
    def stall(self) -> int | None:
        """Steps without progress after which a row starts again, with steps of another length; None: never."""
        return None

    @property
    def second_opinion(self) -> int:
        """Number of small classifiers of the latent that must agree."""
        return 0

    @property
    def is_regression(self) -> bool:
        """Whether the explained model gives values and not labels; known after `fit`."""
        return isinstance(self.task_, Regression)

    def terms(self) -> Sequence[Term]:
        """The objective of the paper: terms with weights. Read when rows are explained, not at `fit`."""
        raise TypeError(f"{type(self).__name__} must say what its objective is: write terms().")

    def search_options(self, record_path: bool = False) -> SearchOptions:
        """How the search steps, and when it stops."""
        raise NotImplementedError

    def find(self, evaluate: Callable, start: Tensor, rows: Mapping[str, Tensor], options: SearchOptions,
             report: Callable | None, search: Callable) -> SearchResult:
        """The search of a block of rows; see `CounterfactualExplainer.find`."""
        raise NotImplementedError

    def class_limits(self) -> Mapping[str, np.ndarray]:
        """What terms and conditions ask of each class, by the name under which a row finds it: arrays of shape (K,)."""
        raise NotImplementedError

    def changes_few(self) -> bool:
        """Whether rows are those of a table, of which few columns are to change."""
        return not self.layout_.is_image and (self.sparse or self.max_changes is not None)

    def uses_class_features(self) -> bool:
        """Whether the objective compares x′ in the classifier's own features."""
        return self.layout_.is_image if self.feature_weight == "auto" else float(self.feature_weight) > 0


@dataclass(eq=False, repr=False)
class ExplainerParameters(ExplainerAttributes):
    """Parameters of every explainer; see `PLACEExplainer` for what they mean.

    A method adds its own as fields, in a class with ``@dataclass(kw_only=True, eq=False, repr=False)``.
    """

    classifier: Any = None
    _: KW_ONLY
    target: Any = None
    max_steps: int = 100
    refine: int | None = 0
    max_changes: int | None = None
    costs: dict | None = None
    immutable: list | None = None
    bounds: dict | None = None
    monotone: dict | None = None
    constraints: list | None = None
    causes: dict | None = None
    image_shape: tuple[int, ...] | None = None
    channels: str = "auto"
    data_range: tuple[float, float] = (0.0, 1.0)
    classifier_output: str = "auto"
    batch_size: int | str = "auto"
    training_budget: float = 1.0
    random_state: Any = None
    verbose: int | str = "auto"
    device: str | None = None
