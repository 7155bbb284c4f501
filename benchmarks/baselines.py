"""Which method on which data? PLACE's Tables 1 and 2: one autoencoder, one flow and one classifier for all methods.

    python -m benchmarks.baselines [mnist] [faces] [--rows 500] [--quick] [--clock]

Needs ``mnist.npz`` and ``smiles_64.npz`` in ``$CFEXPLAIN_DATA``. Log densities of all methods are of one flow: what was
searched in another space is encoded first. Writes benchmarks/results/baselines_mnist.json, baselines_faces.json and .png.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import balanced_accuracy_score

from benchmarks._common import CACHE, RESULTS, draw_strips, store, trained
from benchmarks.measures import Judges, digit_judge, face_judge
from benchmarks.place_faces import Recogniser, face_vae, moved, place_on_faces, smile_split
from benchmarks.place_mnist import PAIRS
from benchmarks.resnet import EPOCHS, train_smile_resnet
from cfexplain import (
    CLARITYExplainer,
    GradientExplainer,
    LeapExplainer,
    Metric,
    PLACEExplainer,
    PrototypeExplainer,
    REVISEExplainer,
    evaluate,
)
from cfexplain.datasets import load_mnist
from cfexplain.evaluation import Evaluation
from cfexplain.metrics import fid, kid, log_density_of, lpips, sharpness_ratio
from cfexplain.perceptual import squeezenet_features

SHOWN = {"mnist": 12, "faces": 8}
# Methods that take thousands of steps a row are measured on fewer rows, and the table says so
SLOW = {"mnist": {"PLACE, as published": 100, "REVISE, CARLA's settings": 100, "prototype": 100, "X": 200},
        "faces": {"PLACE, as published": 8, "REVISE, CARLA's settings": 8, "prototype": 8, "X": 8}}
# Tables 1 (CelebA at 256×256) and 2 of the paper; validity is 1.0 everywhere
PAPER = {
    "faces": {"CLARITY": {"lpips": 0.244, "fid": 105.01, "l2": 79.04, "log density": -2210.19, "seconds": 10424},
              "REVISE": {"lpips": 0.952, "fid": 442.67, "l2": 265.37, "log density": -1909.05, "seconds": 4269},
              "PLACE": {"lpips": 0.21, "fid": 124.27, "l2": 92.69, "log density": -1950.56, "seconds": 7526}},
    "mnist": {"CLARITY": {"l2": 13.87, "log density": -134.11, "seconds": 41.13},
              "REVISE": {"l2": 13.83, "log density": -135.67, "seconds": 0.57},
              "PLACE": {"l2": 15.97, "log density": -120.66, "seconds": 14.39}}}


@dataclass
class Case:
    """Data, the networks that all methods share, and judges that took no part."""

    name: str
    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    place: PLACEExplainer
    judges: Judges
    pairs: list[tuple[int, int]]
    budget: float
    published: str
    more: list[Metric] = field(default_factory=list)

    def label(self, k: int) -> Any:
        return self.place.classes_[k]


def place_on_digits(quick: bool) -> tuple[PLACEExplainer, np.ndarray, np.ndarray, dict[str, Any]]:
    """PLACE's default on MNIST, the rows and labels that it learned from, and its configuration."""
    X, y = (part[:3000 if quick else None] for part in load_mnist()[:2])
    config = {"n": len(X), "seed": 0, "budget": 0.1 if quick else 1.0}
    return trained("place-mnist-default", config, lambda: PLACEExplainer(
        random_state=0, training_budget=config["budget"], verbose=1).fit(X, y)), X, y, config


def load_digits_case(quick: bool) -> Case:
    place, X, y, config = place_on_digits(quick)
    X_test, y_test = load_mnist()[2:]
    budget = config["budget"]
    judges = trained("place-mnist-judge", config, lambda: Judges.fit(
        digit_judge(), X, y, X_test, y_test, seed=100, updates=round(1200 * budget)))
    return Case("mnist", X, y, X_test, y_test, place, judges, PAIRS, budget, "place-mnist")


def load_faces_case(quick: bool) -> Case:
    X, y, X_test, y_test = smile_split()
    if quick:
        X, y = X[:800], y[:800]
    epochs = 1 if quick else 14
    config = {"seed": 0, "epochs": epochs, "n": len(X)}
    net = trained("faces-resnet34", {"n": len(X), "epochs": EPOCHS if not quick else 0.2}, lambda: train_smile_resnet(
        X, y, epochs=EPOCHS if not quick else 0.2))
    vae = trained("faces-vae", config, lambda: face_vae(X, epochs).set_params(random_state=0).fit(X))
    place = trained("place-faces-resnet34", config, lambda: place_on_faces(net, FrozenEstimator(vae), 0).fit(
        X, np.where(y == 1, "smile", "no smile")))
    judges = trained("place-faces-judge", config, lambda: Judges.fit(
        face_judge(), X, y, X_test, y_test, seed=5, updates=8 * len(X) // 200, augment=moved, lr=2e-3, weight_decay=1e-2))
    return Case("faces", X, y, X_test, y_test, place, judges, [(0, 1), (1, 0)], 0.1 if quick else 1.0, "place-celeba",
                face_metrics())


def face_metrics() -> list[Metric]:
    """What matters of a face: sharp, the same person, changed where a smile is."""
    half = slice(None, 32)

    def upper(cf: Any, _: Any) -> np.ndarray:
        pairs = zip(cf.x[:, half].reshape(len(cf), -1), cf.x_cf[:, half].reshape(len(cf), -1), strict=True)
        return np.array([np.corrcoef(a, b)[0, 1] for a, b in pairs])

    found = [Metric("sharpness", lambda cf, _: sharpness_ratio(cf.x, cf.x_cf), "none", "of the original"),
             Metric("upper half", upper, "up", "correlation with the original")]
    weights = Path(os.environ.get("CFEXPLAIN_DATA", ".")) / "squeezenet1_1_caffe.pth"
    if weights.is_file():
        distance = squeezenet_features(weights)
        found.append(Metric("SqueezeNet distance", lambda cf, _: lpips(cf.x, cf.x_cf, distance=distance), "down",
                            "like LPIPS, not LPIPS"))
    try:
        recognise = Recogniser()
    except ImportError as error:
        print(f"identity not measured: {error}")
        return found
    return [*found, Metric("same person", lambda cf, _: np.linalg.norm(recognise(cf.x) - recognise(cf.x_cf), axis=1) < 0.6,
                           "up", "share")]


def methods(case: Case) -> dict[str, Any]:
    """Name -> fitted explainer, on the networks of `case.place`."""
    place, net = case.place, case.place.classifier_.module
    X, y = case.X, place.classes_[case.y] if case.name == "faces" else case.y
    parts: dict[str, Any] = dict(coordinates=FrozenEstimator(place.coordinates_), density=FrozenEstimator(place.density_),
                                 random_state=0)
    published = {k: v for k, v in PLACEExplainer.preset(case.published).get_params(deep=False).items()
                 if k not in ("classifier", "perceptual_weight", *parts)}
    some = slice(0, 5000)  # what only reads class counts and scales needs no more
    clarity = trained(f"clarity-{case.name}", {"n": len(X), "budget": case.budget}, lambda: CLARITYExplainer(
        net, **parts, training_budget=case.budget).fit(X, y))
    return {
        "PLACE": place,
        "PLACE, as published": PLACEExplainer(net, **parts, **published).fit(X[some], y[some]),
        "REVISE": REVISEExplainer(net, **parts).fit(X[some], y[some]),
        "REVISE, CARLA's settings": REVISEExplainer.preset("carla", classifier=net, **parts).fit(X[some], y[some]),
        "CLARITY": clarity,
        "leap": LeapExplainer(net, **parts).fit(X[some], y[some]),
        "prototype": PrototypeExplainer(net, autoencoder=parts["coordinates"], k=5, random_state=0).fit(X[some], y[some]),
        "X": GradientExplainer(net, random_state=0).fit(X[some], y[some])}


def measures(case: Case, target: int, real: np.ndarray) -> list[Any]:
    """What every method is measured by, the same for all; only validity, distances and steps are the result's own."""
    label, judges = case.label(target), case.judges
    common = ["validity", "confidence_gain", "l1", "l2", "steps", "seconds_per_row", "reconstruction_error"]
    return [
        *common, *case.more,
        Metric("log density", lambda cf, _: log_density_of(case.place, cf.x_cf, label), "up", "nats, one flow for all"),
        Metric("second network", lambda cf, _: judges.predict(cf.x_cf) == target, "up", "share"),
        Metric("SVM", lambda cf, _: judges.svm_predict(cf.x_cf) == target, "up", "share"),
        Metric("realism", lambda cf, _: judges.realism(cf.x_cf, target), "up", "percentile of real images"),
        Metric("FID", lambda cf, _: fid(real, cf.x_cf, features=judges.features), "down", "features of the second network"),
        Metric("KID", lambda cf, _: kid(real, cf.x_cf, features=judges.features), "down", "features of the second network")]


def run(name: str, rows: int, quick: bool) -> dict[str, Any]:
    case = {"mnist": load_digits_case, "faces": load_faces_case}[name](quick)
    explainers, pairs, pictures, shown = methods(case), [], {}, SHOWN[name]
    said = case.place.predict(case.X_test)
    for source, target in case.pairs:
        title = f"{case.label(source)} → {case.label(target)}"
        x = case.X_test[(case.y_test == source) & (said == case.label(source))][:rows]
        strips, table = pictures.setdefault(title, [("original", x[:shown])]), {}
        real = case.X_test[case.y_test == target]
        for method, explainer in explainers.items():
            some = x[:SLOW[name].get(method, rows)]
            explainer.set_params(verbose=0, batch_size=min(32, len(some)))  # no tile is filled up with copies
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = evaluate({method: explainer}, some, case.label(target),
                                 metrics=measures(case, target, real))
            table[method] = cells(found, method)
            strips.append((method, found.results[method].x_cf[:shown]))
            print(title, method, {k: round(v["mean"], 3) for k, v in table[method]["metrics"].items()}, flush=True)
        pairs.append({"pair": title, "methods": table})
    draw_strips(pictures, (CACHE if quick else RESULTS) / f"baselines_{name}.png", dpi=60 if name == "mnist" else 90)
    labels = [case.label(k) for k in case.y_test]
    return {"rows": rows, "balanced_accuracy": float(balanced_accuracy_score(labels, said)), "pairs": pairs,
            "paper": PAPER[name]}


def cells(found: Evaluation, name: str) -> dict[str, Any]:
    """One method's figures, with how many rows they are of and what became of them."""
    medians = {k: found.values[name, k] for k in found.metrics}
    return {"rows": len(found), "statuses": found.statuses[name], "failures": {k[1]: v for k, v in found.failures.items()},
            "metrics": {k: {"mean": s.mean, "std": s.std, "low": s.low, "high": s.high, "missing": s.missing,
                            "median": float(np.nanmedian(medians[k])) if isinstance(medians[k], np.ndarray) else s.mean}
                        for k, s in found.table[name].items()}}


def clocked(name: str, rows: int = 64, repeats: int = 7) -> dict[str, Any]:
    """Seconds of the methods of Tables 1 and 2, interleaved in one process: medians, and ratios to REVISE."""
    case = {"mnist": load_digits_case, "faces": load_faces_case}[name](quick=False)
    explainers, timed = methods(case), ("PLACE", "REVISE", "CLARITY")
    said, found = case.place.predict(case.X_test), []
    for source, target in case.pairs:
        x = case.X_test[(case.y_test == source) & (said == case.label(source))][:rows]
        seconds: dict[str, list[float]] = {method: [] for method in timed}
        for repeat in range(repeats + 1):
            for method in timed:
                started = time.perf_counter()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    explainers[method].set_params(verbose=0, batch_size=32).explain(x, case.label(target))
                if repeat:  # the first round warms up
                    seconds[method].append(time.perf_counter() - started)
        medians = {method: {
            "seconds_an_image": statistics.median(taken) / len(x),
            "times_revise": statistics.median(a / b for a, b in zip(taken, seconds["REVISE"], strict=True)),
        } for method, taken in seconds.items()}
        found.append({"pair": f"{case.label(source)} → {case.label(target)}", "rows": len(x), "repeats": repeats,
                      "methods": medians})
        print(found[-1], flush=True)
    return {"pairs": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=["mnist", "faces"])
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--quick", action="store_true", help="tiny trainings and 8 rows a pair: a check, not a result")
    parser.add_argument("--clock", action="store_true", help="only time PLACE, REVISE and CLARITY, interleaved")
    options = parser.parse_args()
    for name in options.names:
        if options.clock:
            store(f"baselines_{name}_clock", clocked(name))
            continue
        result = run(name, 8 if options.quick else options.rows, options.quick)
        if not options.quick:
            store(f"baselines_{name}", result)


if __name__ == "__main__":
    main()
