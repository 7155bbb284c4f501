"""The same person, smiling: PLACE on 64×64 faces, with what the coordinates lost put back (``detail="blend"``).

    python -m benchmarks.place_faces [--rows 96] [--seed 0]

Needs ``smiles_64.npz`` and, for a sharper decoder, ``squeezenet1_1_caffe.pth`` in ``$CFEXPLAIN_DATA``. Identity needs
``pip install dlib-bin face-recognition-models`` and is reported as missing without them.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks._common import RESULTS, draw_strips, store, trained
from benchmarks.measures import Judges, face_judge
from cfexplain import PLACEExplainer
from cfexplain.coordinates import VAE
from cfexplain.datasets import load_smiles
from cfexplain.metrics import sharpness_ratio
from cfexplain.nets.training import train_network
from cfexplain.perceptual import squeezenet_features

HELD_OUT = 2000
PLAIN: dict[str, Any] = dict(detail="decoder", feature_weight=0.0, start="latent", refine=0)
VARIANTS: dict[str, dict[str, Any]] = {
    "classifier only, decoder": dict(PLAIN, plausibility_weight=0.0, second_opinion=0),
    "from z0, decoder": PLAIN,
    "from z0, residual": dict(PLAIN, detail="residual"),
    "from z0, blend": dict(PLAIN, detail="blend"),
    "default": dict(),
    "no feature term": dict(feature_weight=0.0),
    "swap": dict(start="swap", refine=0),
}
DEFAULTS: dict[str, Any] = dict(detail="blend", plausibility_weight=1.0, second_opinion=3, feature_weight="auto", start=0.3,
                                refine=4)


def smile_split(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and test faces, each with its labels: 1 for a smile."""
    X, labels = load_smiles()
    y, order = (labels == "smile").astype(int), np.random.RandomState(seed).permutation(len(X))
    test, train = order[:HELD_OUT], order[HELD_OUT:]
    return X[train], y[train], X[test], y[test]


def smile_net() -> nn.Sequential:
    """The network that is explained: as a user would bring it."""
    layers: list[nn.Module] = []
    for a, b in ((1, 16), (16, 32), (32, 64), (64, 96)):
        layers += [nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(),
                   nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 2))


def moved(x: Tensor) -> Tensor:
    """A random mirror a face, and a random shift of the batch by up to 3 pixels."""
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
    return torch.roll(x, torch.randint(-3, 4, (2,)).tolist(), (2, 3))


def train_smile_net(X: np.ndarray, y: np.ndarray, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net, balance = smile_net(), torch.tensor(len(y) / (2 * np.bincount(y)), dtype=torch.float32)

    def loss(module: nn.Module, rows: Any, progress: float) -> Tensor:
        x = moved(rows["x"]) if module.training else rows["x"]
        return F.cross_entropy(module(x), rows["y"], balance, reduction="none", label_smoothing=0.02)

    train_network(net, loss, {"x": torch.from_numpy(X)[:, None], "y": torch.from_numpy(y)}, updates=8 * len(X) // 128,
                  batch_size=128, seed=seed, lr=4e-3, weight_decay=1e-3, strata=y, name="smile classifier", verbose=1)
    return net


def face_vae(X: np.ndarray, epochs: float) -> VAE:
    """The coordinates, unfitted: 64 numbers a face, with the perceptual term if its weights are at hand."""
    weights = Path(os.environ.get("CFEXPLAIN_DATA", ".")) / "squeezenet1_1_caffe.pth"
    perceptual = squeezenet_features(weights) if weights.is_file() else None
    print("perceptual term:", "SqueezeNet 1.1" if perceptual else "none (weights not found)")
    return VAE(64, beta=1.0, likelihood="gaussian", sigma=0.1, perceptual=perceptual, perceptual_weight=1000.0,
               augment="mirror", batch_size=128, training_budget=epochs * len(X) / 128 / 900, verbose=1)


def place_on_faces(net: nn.Module, coordinates: Any, seed: int) -> PLACEExplainer:
    """The recipe of this benchmark, unfitted."""
    return PLACEExplainer(net, coordinates=coordinates, confidence=0.95, opinion_confidence=0.9, detail="blend",
                          random_state=seed, verbose=1)


def fit(X: np.ndarray, y: np.ndarray, seed: int, epochs: int) -> PLACEExplainer:
    vae = face_vae(X, epochs)
    return place_on_faces(train_smile_net(X, y, seed), vae, seed).fit(X, np.where(y == 1, "smile", "no smile"))


class Recogniser:
    """A face recogniser that took no part in anything: distance of two faces; the same person is below 0.6.

    It takes faces (n, H, W) or (n, 3, H, W) in [0, 1].
    """

    def __init__(self) -> None:
        import dlib
        import face_recognition_models

        self.dlib = dlib
        self.network = dlib.face_recognition_model_v1(face_recognition_models.face_recognition_model_location())

    def __call__(self, images: np.ndarray) -> np.ndarray:
        faces = torch.from_numpy(images)[:, None] if images.ndim == 3 else torch.from_numpy(images)
        big = F.interpolate(faces, size=(150, 150), mode="bicubic").clamp(0, 1)
        colour = (big.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
        return np.array([np.array(self.network.compute_face_descriptor(np.ascontiguousarray(c))) for c in colour])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=14)
    options = parser.parse_args()
    X_train, y_train, X, y = smile_split(options.seed)
    config = {"seed": options.seed, "epochs": options.epochs, "n": len(X_train)}
    explainer = trained("place-faces", config, lambda: fit(X_train, y_train, options.seed, options.epochs))
    judges = trained("place-faces-judge", config, lambda: Judges.fit(
        face_judge(), X_train, y_train, X, y, seed=5, updates=8 * len(X_train) // 200, augment=moved, lr=2e-3,
        weight_decay=1e-2))
    names = np.array(["no smile", "smile"])
    recall = {name: [float((guess[y == k] == k).mean()) for k in (0, 1)] for name, guess in (
        ("classifier", (explainer.predict(X) == "smile").astype(int)), ("judge", judges.predict(X)),
        ("svm", judges.svm_predict(X)))}
    print("recall of no smile, smile:", recall)
    try:
        recognise = Recogniser()
    except ImportError as error:
        recognise = None
        print(f"identity not measured: {error}")
    table, pictures = [], {}
    for source, target in ((0, 1), (1, 0)):
        x = X[(y == source) & (explainer.predict(X) == names[source])][: options.rows]
        strips = pictures[f"{names[source]} → {names[target]}"] = [("original", x[:10])]
        for name, changes in VARIANTS.items():
            explainer.set_params(**{**DEFAULTS, **changes}, verbose=0)
            started = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cf = explainer.explain(x, target=names[target])
            images, seconds = np.asarray(cf), time.perf_counter() - started
            half = x.shape[1] // 2
            upper = [np.corrcoef(a[:half].ravel(), b[:half].ravel())[0, 1] for a, b in zip(x, images, strict=True)]
            row = {"direction": f"{names[source]} -> {names[target]}", "variant": name, "rows": len(x),
                   "valid": float(cf.valid.mean()), "every_condition": float((cf.status == "converged").mean()),
                   "judge": float((judges.predict(images) == target).mean()),
                   "svm": float((judges.svm_predict(images) == target).mean()), "l2": float(cf.distance_x.mean()),
                   "density_percentile": float(np.median(cf.density_percentile)),
                   "realism": float(np.median(judges.realism(images, target))),
                   "sharpness": float(np.median(sharpness_ratio(x, images))), "upper_half": float(np.median(upper)),
                   "steps": float(np.median(cf.n_steps)), "seconds": seconds}
            if recognise is not None:
                apart = np.linalg.norm(recognise(x) - recognise(images), axis=1)
                row |= {"identity": float(np.median(apart)), "same_person": float((apart < 0.6).mean())}
            print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
            table.append(row)
            if len(strips) == 1:
                strips.append(("reconstruction", cf.reconstruction[:10]))
            strips.append((name, images[:10]))
    draw_strips(pictures, RESULTS / "place_faces.png")
    store("place_faces", {"config": config, "recall": recall, "table": table})


if __name__ == "__main__":
    main()
