"""log p(z) under the prior that the coordinates were trained with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from cfexplain.coordinates import Coordinates
from cfexplain.density.base import ClassDensity, as_unseen, or_impossible
from cfexplain.persistence import storable

__all__ = ["Prior"]


@storable
class Prior(ClassDensity):
    """The base density of a flow, or the prior of a VAE or GAN, N(0, I): one density for all classes.

    Nothing is trained. Percentiles are still a class's own: log p(z) of a counterfactual is ranked among the training
    codes of its target.

    Parameters
    ----------
    coordinates : Coordinates
        Fitted. For a flow that is not whitened, log p(z) is that of the whitened code.

    Examples
    --------
    >>> import numpy as np
    >>> from cfexplain.coordinates import Identity
    >>> Z = np.random.default_rng(0).normal(size=(100, 2))
    >>> prior = Prior(Identity().fit(Z)).fit(Z, np.repeat([0, 1], 50))
    >>> prior.score_samples(np.zeros((1, 2))).round(3).tolist(), prior.percentile(0.0, 1)
    ([-1.838], 100.0)
    """

    def __init__(self, coordinates: Coordinates):
        self.coordinates = coordinates

    def fit(self, Z: ArrayLike, y: ArrayLike | None = None, *, std: Any = None, held: np.ndarray | None = None) -> Prior:
        """Record the log densities of each class's codes `Z` (n, d), of which the rows `held` were not trained on."""
        Z = np.asarray(Z)
        self.classes_, codes = np.unique(np.zeros(len(Z), dtype=int) if y is None else y, return_inverse=True)
        densities = self.score_samples(Z)
        self.log_densities_ = as_unseen(
            densities, codes, np.zeros(0, dtype=int) if held is None else held, len(self.classes_))
        return self

    def log_prob(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self.coordinates.log_prior(z)

    def score_samples(self, Z: ArrayLike, y: Any = None) -> np.ndarray:
        """log p(z) in nats, shape (n,); the same for every class."""
        return or_impossible(self.coordinates.in_tiles(self.log_prob, np.asarray(Z)))
