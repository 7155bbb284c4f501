"""What a counterfactual photograph is judged by, and what the judges make of real photographs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.photographs.data import Goal, Photographs
from benchmarks.photographs.networks import asked
from benchmarks.place_faces import Recogniser
from cfexplain import Metric
from cfexplain.evaluation import protocol_metrics
from cfexplain.foundation.tiles import in_tiles
from cfexplain.metrics import attributes_changed, feature_cosine
from cfexplain.metrics.realism import neighbour_distance, rank_among

__all__ = ["Judges", "recogniser"]

SAME = 0.6  # dlib's own threshold
WHOLE = (0.0, 0.0, 1.0)  # in place of the face's chip, as the first figures of identity were measured: strangers are near
REFERENCES = 2000  # training images of a class that realism looks at
BUILT_IN = ("validity", "complete", "confidence_gain", "l2", "steps", "seconds_per_row", "density_percentile", "sharpness",
            "spread", "reconstruction_error")


def face_chip(images: np.ndarray, box: tuple[float, float, float]) -> np.ndarray:
    """The square of images (n, C, H, W) that `box` names, beyond the bottom by repeating the last line."""
    side = images.shape[-1]
    left, top, size = (round(share * side) for share in box)
    below = max(0, top + size - side)
    return np.pad(images, ((0, 0), (0, 0), (0, below), (0, 0)), mode="edge")[..., top:top + size, left:left + size]


def recogniser(box: tuple[float, float, float]) -> Callable[[np.ndarray], np.ndarray] | None:
    """dlib's face recogniser, asked once for each image; None where it is not installed."""
    try:
        network = Recogniser()
    except ImportError as error:
        print(f"[identity, FVA and FS are not measured: {error}; pip install dlib-bin face-recognition-models]", flush=True)
        return None
    known: dict[bytes, np.ndarray] = {}

    def descriptors(images: np.ndarray) -> np.ndarray:
        for image in images:
            if (key := image.tobytes()) not in known:
                known[key] = network(face_chip(image[None], box))[0]
        return np.stack([known[image.tobytes()] for image in images])

    return descriptors


def penultimate(net: nn.Module) -> nn.Module:
    """The network without its last layer."""
    *before, last = copy.deepcopy(net)  # type: ignore[misc]
    if not isinstance(last, nn.Linear):
        last.fc = nn.Identity()  # torchvision's
        before.append(last)
    return nn.Sequential(*before)


class Judges:
    """Networks that take no part in a search, for one label of a set."""

    def __init__(self, data: Photographs, nets: dict[str, tuple[nn.Module, dict[str, Any]]], label: str, face: Any):
        self.data, self.label, self.face = data, label, face
        self.whole = None if face is None else recogniser(WHOLE)
        self.second = asked(nets["second"][0], data, label)
        self.oracle = nn.Sequential(nets["oracle"][0], nn.Sigmoid()) if "oracle" in nets else None
        self._features = penultimate(nets["second"][0])
        self._scales: dict[Goal, tuple[np.ndarray, np.ndarray]] = {}

    def agrees(self, images: np.ndarray, goal: Goal) -> np.ndarray:
        """Whether the second network says what is wanted, of values within the goal's slack."""
        with torch.no_grad():
            said = in_tiles(self.second, torch.from_numpy(images))
        said = said.argmax(1) if said.shape[1] > 1 else said[:, 0]
        low, high = goal.wanted
        return ((said >= low - goal.slack) & (said <= high + goal.slack)).numpy()

    def features(self, images: Tensor) -> np.ndarray:
        with torch.no_grad():
            return in_tiles(self._features, images).numpy()

    def realism(self, images: np.ndarray, goal: Goal) -> np.ndarray:
        """`realism_percentile` in the second network's features, with what real images give kept."""
        if goal not in self._scales:
            low, high = goal.wanted
            rows = [rows[(values >= low) & (values <= high)] for rows in (self.data.train, self.data.test)
                    for values in [self.data.values(rows, self.label)]]
            reference, real = (self.features(self.data.images(part[:REFERENCES])) for part in rows)
            self._scales[goal] = reference, np.sort(neighbour_distance(real, reference))
        reference, real = self._scales[goal]
        return rank_among(neighbour_distance(self.features(torch.from_numpy(images)), reference), real)

    def metrics(self, goal: Goal) -> list[Any]:
        """For `evaluate`: built-in ones, the field's protocol, a second network, identity, realism."""
        found: list[Any] = [
            *BUILT_IN, *protocol_metrics(face=self.face, oracle=self.oracle),
            Metric("second network", lambda cf, _: self.agrees(cf.x_cf, goal), "up", "share"),
            Metric("realism", lambda cf, _: self.realism(cf.x_cf, goal), "up", "percentile of real images")]
        if self.face is None:
            return found

        def apart(cf: Any, recognise: Any) -> np.ndarray:
            return np.linalg.norm(recognise(cf.x) - recognise(cf.x_cf), axis=1)

        return [*found, Metric("identity", lambda cf, _: apart(cf, self.face), "down", "distance in dlib's descriptors"),
                Metric("identity, whole picture", lambda cf, _: apart(cf, self.whole), "down",
                       "distance in dlib's descriptors"),
                Metric("same person", lambda cf, _: apart(cf, self.face) < SAME, "up", f"share below {SAME}")]

    def of_real_images(self, rows: np.ndarray, recover: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
        """What must be known to read the table: the judges on two strangers, and on pictures where nothing was changed.

        ``recover`` draws images again, by the autoencoder whose latents are searched.
        """
        x = self.data.images(rows).numpy()
        mirrored, again = np.ascontiguousarray(x[..., ::-1]), recover(x)
        out = {} if self.oracle is None else {
            "MNAC of mirrored pictures": float(attributes_changed(x, mirrored, self.oracle).mean()),
            "MNAC of the autoencoder": float(attributes_changed(x, again, self.oracle).mean())}
        if self.face is not None:
            seen = self.face(x).astype(np.float64)
            pairs = np.triu_indices(len(x), 1)
            apart = np.linalg.norm(seen[pairs[0]] - seen[pairs[1]], axis=1)
            cosine = feature_cosine(seen[pairs[0]], seen[pairs[1]], lambda rows: rows)
            out |= {"FS of strangers": float(cosine.mean()), "FVA of strangers": float((cosine > 0.5).mean()),
                    "same person, of strangers": float((apart < SAME).mean()),
                    "identity of strangers": float(np.median(apart)),
                    "FS of the autoencoder": float(feature_cosine(x, again, self.face).mean())}
        return out
