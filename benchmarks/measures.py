"""Judges that never take part in a search: a second network, a linear oracle, nearest real images, ink, handwriting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from sklearn.svm import LinearSVC
from torch import nn

from cfexplain.foundation import ink
from cfexplain.foundation.tiles import in_tiles
from cfexplain.metrics.realism import neighbour_distance, rank_among
from cfexplain.nets.training import train_network


def digit_judge(n_classes: int = 10) -> nn.Sequential:
    """Another architecture than the explained CNN: 5×5 strided convolutions, GELU, no normalisation."""
    return nn.Sequential(
        nn.Conv2d(1, 24, 5, 2, 2), nn.GELU(), nn.Conv2d(24, 48, 5, 2, 2), nn.GELU(), nn.Flatten(),
        nn.Linear(48 * 64, 128), nn.GELU(), nn.Dropout(0.3), nn.Linear(128, n_classes))


def face_judge() -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in ((1, 24), (24, 48), (48, 96)):
        layers += [nn.Conv2d(a, b, 5, 2, 2), nn.GroupNorm(4, b), nn.GELU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.4), nn.Linear(96 * 64, 128), nn.GELU(), nn.Dropout(0.3),
                         nn.Linear(128, 2))


def small(images: np.ndarray) -> np.ndarray:
    """2×2 average pooling, flattened: what the linear oracle sees."""
    n, h, w = images.shape
    return images.reshape(n, h // 2, 2, w // 2, 2).mean((2, 4)).reshape(n, -1)


@dataclass
class Judges:
    """Fitted on the same training images as the explainer; used only to measure.

    ``realism``: mean distance to the 5 nearest training images of the target class in the judge's penultimate features,
    as a percentile among real held-out images of that class (a real image scores 50 on average; higher is nearer): the two
    steps of `cfexplain.metrics.realism_percentile`, with what real images give kept.
    """

    network: nn.Module
    svm: LinearSVC
    reference: dict[int, np.ndarray] = field(default_factory=dict)
    real: dict[int, np.ndarray] = field(default_factory=dict)

    @classmethod
    def fit(cls, network: nn.Module, X: np.ndarray, y: np.ndarray, X_test: np.ndarray, y_test: np.ndarray, *,
            seed: int, updates: int, augment: Any = None, lr: float = 3e-3, weight_decay: float = 0.0) -> Judges:
        balance = torch.tensor(len(y) / (len(np.unique(y)) * np.bincount(y)), dtype=torch.float32)

        def loss(module: nn.Module, rows: Any, progress: float) -> torch.Tensor:
            x = rows["x"] if augment is None or not module.training else augment(rows["x"])
            return F.cross_entropy(module(x), rows["y"], balance, reduction="none")

        rows = {"x": torch.from_numpy(X)[:, None], "y": torch.from_numpy(y)}
        torch.manual_seed(seed)
        network = network.apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None)
        train_network(network, loss, rows, updates=updates, seed=seed, lr=lr, weight_decay=weight_decay, strata=y,
                      name="judge")
        svm = LinearSVC(C=0.01, class_weight="balanced", dual=False, random_state=seed).fit(small(X), y)
        judges = cls(network, svm)
        features, held_out = judges.features(X), judges.features(X_test)
        for label in np.unique(y):
            judges.reference[int(label)] = features[y == label]
            judges.real[int(label)] = np.sort(
                neighbour_distance(held_out[y_test == label], judges.reference[int(label)]))
        return judges

    def features(self, images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return in_tiles(self.network[:-1], torch.from_numpy(images)[:, None], tile=250).numpy()

    def predict(self, images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return in_tiles(self.network, torch.from_numpy(images)[:, None], tile=250).argmax(1).numpy()

    def svm_predict(self, images: np.ndarray) -> np.ndarray:
        return self.svm.predict(small(images))

    def realism(self, images: np.ndarray, label: int) -> np.ndarray:
        return rank_among(neighbour_distance(self.features(images), self.reference[label]), self.real[label])


def greyness(images: np.ndarray) -> np.ndarray:
    """Share of ink that is neither black nor white, Σ x(1−x) / Σ x."""
    return ink.greyness(torch.from_numpy(images)).numpy()


def slant(images: np.ndarray) -> np.ndarray:
    """Shear of each image: μ₁₁ / μ₀₂ of its ink."""
    rows, columns = np.mgrid[: images.shape[1], : images.shape[2]]
    mass = np.maximum(images.sum((1, 2)), 1e-6)
    dy = rows - (images * rows).sum((1, 2))[:, None, None] / mass[:, None, None]
    dx = columns - (images * columns).sum((1, 2))[:, None, None] / mass[:, None, None]
    return (images * dx * dy).sum((1, 2)) / np.maximum((images * dy * dy).sum((1, 2)), 1e-6)


def stroke_width(images: np.ndarray) -> np.ndarray:
    """Four times the mean distance of ink to its edge: exact for a long straight stroke."""
    inked = [ndimage.distance_transform_edt(image > 0.5) for image in images]
    return np.array([4 * d[d > 0].mean() if (d > 0).any() else 0.0 for d in inked])


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])
