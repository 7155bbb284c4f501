"""Classification: MNIST 4 → 9, smiles both ways, healthy → pneumonia; by flows, and by a VAE and a GAN.

Each search is made in Z and in X (the adversarial control) on the same test images, and judged by what took no part in it:
a second network, a linear oracle, class-wise autoencoders (IM1), nearest real images.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from benchmarks._common import CACHE, RESULTS, draw_strips, trained
from benchmarks.diffeomorphic.networks import QUICK_ROWS, flow
from benchmarks.measures import Judges, digit_judge, face_judge
from benchmarks.place_faces import moved, smile_split, train_smile_net
from cfexplain import DiffeomorphicExplainer, GradientExplainer
from cfexplain.classifiers.training import train_classifier
from cfexplain.coordinates import GAN, VAE, Autoencoder, Coordinates, Flow, Inversion
from cfexplain.datasets import load_mnist, load_pneumonia
from cfexplain.metrics import class_autoencoders, distance_to_class, im1, neighbour_share, sharpness_ratio
from cfexplain.nets.training import train_network

# Learning rates and steps of the authors' README; in Z at most 500 steps here, which is 50 times the median
PUBLISHED = {"mnist": dict(x=5e-4, z=5e-2, steps=2000), "faces": dict(x=7e-4, z=5e-3, steps=1000),
             "xray": dict(x=5e-4, z=5e-3, steps=1000)}
SHOWN = 12
# Rows of the published search in Z, whose small steps take minutes a row in the larger flows
FEW = {"mnist": 500, "faces": 24, "xray": 48}


@dataclass
class Case:
    """What one data set brings: images (n, H, W), classes 0..K-1, the explained network and its judges."""

    name: str
    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    net: nn.Module
    judges: Judges
    experts: dict[int, Coordinates]
    dense: dict[int, nn.Module]
    pairs: list[tuple[int, int]]
    labels: list[str]

    def accuracy(self) -> dict[str, float]:
        """Balanced accuracy on test images."""
        explainer = GradientExplainer(self.net, task="classification").fit(self.X[:2000], self.y[:2000])
        said = {"classifier": explainer.predict(self.X_test), "judge": self.judges.predict(self.X_test),
                "svm": self.judges.svm_predict(self.X_test)}
        return {name: float(balanced_accuracy_score(self.y_test, labels)) for name, labels in said.items()}


def dense_experts(X: np.ndarray, y: np.ndarray) -> dict[int, nn.Module]:
    """IM1's autoencoders as small dense networks, a class each: IM1 depends on them as much as on the images."""
    made = {}
    for k in np.unique(y).tolist():
        rows, size = torch.from_numpy(X[y == k]).flatten(1), X[0].size
        torch.manual_seed(k)
        net = nn.Sequential(nn.Linear(size, 256), nn.ReLU(), nn.Linear(256, 16), nn.Linear(16, 256), nn.ReLU(),
                            nn.Linear(256, size), nn.Sigmoid())
        train_network(net, lambda module, batch, progress: (module(batch["x"]) - batch["x"]).square().mean(1), {"x": rows},
                      updates=12 * len(rows) // 128, seed=k, lr=4e-3, batch_size=128, name="expert")
        made[k] = net
    return made


def reconstructed(net: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return net(torch.from_numpy(np.asarray(images)).flatten(1)).numpy().reshape(images.shape)


def load_case(name: str, quick: bool) -> Case:
    """Data, networks and judges of `name`, trained once."""
    if name == "mnist":
        X, y, X_test, y_test = load_mnist(size=28)
        pairs, labels = [(4, 9)], [str(k) for k in range(10)]
    elif name == "faces":
        X, y, X_test, y_test = smile_split()
        pairs, labels = [(0, 1), (1, 0)], ["no smile", "smile"]
    else:
        X, y, X_test, y_test = load_pneumonia()
        pairs, labels = [(0, 1)], ["healthy", "pneumonia"]
    if quick:
        X, y, X_test, y_test = X[:QUICK_ROWS], y[:QUICK_ROWS], X_test[:QUICK_ROWS], y_test[:QUICK_ROWS]
    config, share = {"n": len(X), "version": 1}, 0.1 if quick else 1.0
    if name == "faces":
        net = trained("diffeo-faces-net", config, lambda: train_smile_net(X, y, 0))
        judges = trained("diffeo-faces-judge", config, lambda: Judges.fit(
            face_judge(), X, y, X_test, y_test, seed=5, updates=8 * len(X) // 200, augment=moved, lr=2e-3,
            weight_decay=1e-2))
    else:
        net = trained(f"diffeo-{name}-net", config, lambda: train_classifier(
            X[:, None], np.eye(len(labels))[y], updates=round(share * (1000 if name == "mnist" else 600)), seed=0))
        judges = trained(f"diffeo-{name}-judge", config, lambda: Judges.fit(
            nn.Sequential(nn.ZeroPad2d(2), *digit_judge(len(labels))), X, y, X_test, y_test, seed=100,
            updates=round(share * (1200 if name == "mnist" else 600))))
    classes = sorted({k for pair in pairs for k in pair})
    some = np.isin(y, classes)
    experts = trained(f"diffeo-{name}-experts", config, lambda: class_autoencoders(
        X[some], y[some], Autoencoder(16, training_budget=0.02 if quick else 0.8, random_state=0)))
    dense = trained(f"diffeo-{name}-dense-experts", config, lambda: dense_experts(X[some], y[some]))
    return Case(name, X, y, X_test, y_test, net, judges, experts, dense, pairs, labels)


def searches(case: Case, generator: Coordinates) -> dict[str, Any]:
    """Name -> explainer: the package's default, without its density term, as published, and the control in X."""
    rates = PUBLISHED[case.name]
    z: dict[str, Any] = dict(generator=FrozenEstimator(generator), random_state=0)
    return {
        "Z": DiffeomorphicExplainer(case.net, **z),
        "Z, no density": DiffeomorphicExplainer(case.net, plausibility_weight=0.0, **z),
        "Z, Adam (published)": DiffeomorphicExplainer(case.net, plausibility_weight=0.0, update="adam", step_size=rates["z"],
                                                      max_steps=min(rates["steps"], 500), **z),
        "X, Adam (published)": GradientExplainer(case.net, step_size=rates["x"], max_steps=rates["steps"], random_state=0),
    }


def measure(case: Case, name: str, explainer: Any, generator: Coordinates, x: np.ndarray, source: int, target: int,
            fit_rows: int) -> tuple[dict[str, Any], np.ndarray]:
    """Explain `x` and judge it: the paper's figures and ours, for one search."""
    explainer.fit(case.X[:fit_rows], case.y[:fit_rows])
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cf = explainer.explain(x, target=target)
    seconds = time.perf_counter() - started
    row = {"direction": f"{case.labels[source]} → {case.labels[target]}", "search": name, "rows": len(x),
           "success": float(cf.conditions["decision"].mean()), "valid": float(cf.valid.mean()),
           **judged(case, generator, x, np.asarray(cf), source, target),
           "l2_z_path": float(cf.distance.mean()) if name.startswith("Z") else None,
           "reconstruction_l2": float(cf.reconstruction_error.mean()),
           "steps": float(np.median(cf.n_steps)), "seconds": seconds}
    print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
    return row, np.asarray(cf)


def judged(case: Case, generator: Coordinates, x: np.ndarray, images: np.ndarray, source: int, target: int,
           ) -> dict[str, float]:
    """What judges and real images say of `images`, made from `x` (or of real images, with `x` themselves)."""
    of_source = case.X[case.y == source][:1000]
    stored = (np.round(images * 255) / 255).astype(np.float32)  # as a file holds them
    row = {
        "judge": float((case.judges.predict(images) == target).mean()),
        "svm": float((case.judges.svm_predict(images) == target).mean()),
        "im1": float(im1(images, case.experts[source], case.experts[target]).mean()),
        "im1_dense": float(im1(images, *(partial(reconstructed, case.dense[k]) for k in (source, target))).mean()),
        "neighbour_share": float(neighbour_share(images, case.X, case.y, target, k=10, source=source).mean()),
        "realism": float(np.median(case.judges.realism(images, target))),
        "sharpness": float(np.median(sharpness_ratio(x, images))),
        "l2_x": float(np.linalg.norm((images - x).reshape(len(x), -1), axis=1).mean()),
        "l2_x_to_class": float(distance_to_class(images, of_source).mean()),
    }
    if generator.encodes_at_once:
        z, z0 = generator.transform(stored), generator.transform(x)
        row |= {"l2_z": float(np.linalg.norm(z - z0, axis=1).mean()),
                "l2_z_to_class": float(distance_to_class(z, generator.transform(of_source[:300])).mean())}
    if isinstance(generator, Flow):
        row["bits_per_dim"] = float(generator.bits_per_dim(stored).mean())
    return row


def experiment(case: Case, name: str, generator: Coordinates, rows: int, quick: bool,
               pictures: dict[str, list[tuple[str, np.ndarray]]], only: tuple[str, ...] = ()) -> dict[str, Any]:
    """All searches with one generator, both ways where there are two."""
    table = []
    for source, target in case.pairs:
        at_hand = GradientExplainer(case.net, task="classification").fit(case.X[:2000], case.y[:2000])
        right = np.flatnonzero((case.y_test == source) & (at_hand.predict(case.X_test) == source))[:rows]
        x = case.X_test[right]
        strips = pictures.setdefault(f"{case.labels[source]} → {case.labels[target]}", [("original", x[:SHOWN])])
        for search, explainer in searches(case, generator).items():
            if only and search not in only:
                continue
            label = f"{name}: {search}" if search.startswith("Z") else search
            if any(label == done for done, _ in strips):
                continue
            some = x[:FEW[case.name]] if search == "Z, Adam (published)" else x
            if quick:
                explainer.set_params(max_steps=20)
            row, images = measure(case, search, explainer, generator, some, source, target, 500 if quick else 4000)
            table.append(row)
            strips.append((label, images[:SHOWN]))
        real = case.X_test[case.y_test == target][:len(x)]
        for kind, images in (("original", x), ("real target", real)):
            table.append({"direction": table[-1]["direction"], "search": kind, "rows": len(images),
                          **judged(case, generator, images, images, source, target)})
    result: dict[str, Any] = {"generator": name, "table": table}
    if isinstance(generator, Flow):
        test = case.X_test[:1000]
        back = generator.inverse_transform(generator.transform(test))
        result |= {
            "bits_per_dim_test": float(generator.bits_per_dim(test).mean()), "n_bits": generator.n_bits,
            "round_trip": float(np.abs(back - test).max()),
            "parameters": sum(p.numel() for p in generator.module_.parameters()),
            "epochs": len(generator.history_), "training": repr(clone(generator).set_params(checkpoint=None))}
    else:
        some = case.X_test[:8 if quick else 100]
        back = generator.inverse_transform(generator.transform(some))
        result["inversion_rms"] = float(np.sqrt(np.square(back - some).mean()))
    return result


def approximate(kind: str, quick: bool) -> Coordinates:
    """A VAE or a GAN of MNIST's 28×28 images."""
    X = load_mnist(size=28)[0][:QUICK_ROWS if quick else None]
    budget = 0.02 if quick else 1.0
    if kind == "VAE":
        return trained("diffeo-mnist-vae", {"budget": budget}, lambda: VAE(
            training_budget=2 * budget, random_state=0, verbose=1).fit(X))
    inversion = Inversion(steps=20, restarts=1) if quick else None
    return trained("diffeo-mnist-gan", {"budget": budget} | ({"steps": 20} if quick else {}), lambda: GAN(
        inversion=inversion, training_budget=budget, random_state=0, verbose=1).fit(X[:20_000]))


def run(name: str, quick: bool) -> dict[str, Any]:
    """The experiment `name`: "mnist", "faces", "xray", or "approximate" (VAE and GAN on MNIST)."""
    torch.manual_seed(0)
    case = load_case("mnist" if name == "approximate" else name, quick)
    pictures: dict[str, list[tuple[str, np.ndarray]]] = {}
    rows = 8 if quick else {"mnist": 500, "faces": 200, "xray": 200, "approximate": 100}[name]
    if name == "approximate":
        only = ("Z", "Z, Adam (published)", "X, Adam (published)")
        parts = [experiment(case, kind, approximate(kind, quick), rows, quick, pictures, only) for kind in ("VAE", "GAN")]
    else:
        kinds = ("glow", "realnvp") if name == "mnist" else ("glow",)
        parts = [experiment(case, kind, flow(f"{name}-{kind}", quick), rows, quick, pictures) for kind in kinds]
    swept = sweep(case, flow("mnist-glow", quick), quick) if name == "mnist" else None
    draw_strips(pictures, (CACHE if quick else RESULTS) / f"diffeomorphic_{name}.png")
    return {"accuracy": case.accuracy(), "generators": parts, "published": PUBLISHED[case.name],
            "confidence_sweep": swept}


def sweep(case: Case, generator: Coordinates, quick: bool) -> list[dict[str, float]]:
    """The same images at rising confidence (figure 18), in one batched call."""
    source, target = case.pairs[0]
    explainer = DiffeomorphicExplainer(case.net, generator=FrozenEstimator(generator), plausibility_weight=0.0,
                                       step_size=0.2 / 28, random_state=0)
    explainer.fit(case.X[:500], case.y[:500])
    x = case.X_test[(case.y_test == source) & (explainer.predict(case.X_test) == source)][:SHOWN]
    levels = (0.25, 0.5, 0.75, 0.9, 0.99)
    found = explainer.confidence_sweep(x, target, levels)
    draw_strips({f"{case.labels[source]} → {case.labels[target]}": [("original", x), *(
        (f"Λ = {level}", np.asarray(cf)) for level, cf in zip(levels, found, strict=True))]},
        (CACHE if quick else RESULTS) / "diffeomorphic_sweep.png")
    return [{"confidence": level, "reached": float(cf.conditions["decision"].mean()), "steps": float(np.median(cf.n_steps)),
             "judge": float((case.judges.predict(np.asarray(cf)) == target).mean()), "l2_x": float(cf.distance_x.mean())}
            for level, cf in zip(levels, found, strict=True)]

