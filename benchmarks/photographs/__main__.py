"""Photographs by the field's own protocol: networks, explainers, figures and pictures in one command.

    python -m benchmarks.photographs [celeba utkface xray] --out FOLDER [--rows 200] [--labels Smiling Blond_Hair]

Needs in ``$CFEXPLAIN_DATA`` the packed sets (see `benchmarks.photographs.data`) and the pretrained autoencoder's weights
``taef2_encoder.pth`` and ``taef2_decoder.pth``; face recognition needs ``pip install dlib-bin face-recognition-models``.
Networks and explainers are kept in ``--cache``, pictures and JSON go to ``--out``. ``--quick`` is a check that all runs.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.frozen import FrozenEstimator

from benchmarks._common import CACHE, machine, trained
from benchmarks.baselines import cells
from benchmarks.photographs.data import SETS, Photographs, read
from benchmarks.photographs.judges import Judges, recogniser
from benchmarks.photographs.networks import binary, network, networks
from cfexplain import CLARITYExplainer, Evaluation, GradientExplainer, PLACEExplainer, REVISEExplainer
from cfexplain.coordinates import PretrainedAutoencoder, TwoStage
from cfexplain.foundation.digest import weights_digest
from cfexplain.metrics import correlation_difference, region_locality

METHODS = ("PLACE", "REVISE", "CLARITY", "PLACE, as published", "X")
# CelebA's smile at 128×128 by the field's networks, as a note on MaskDiME (2026) prints them
FIELD = {name: dict(zip(("FID", "sFID", "FVA", "FS", "MNAC", "CD", "COUT", "FR"), values, strict=True)) for name, values in {
    "DiME": (3.17, 4.89, 98.3, 0.73, 3.72, 2.30, 0.53, 97.2), "ACE l1": (1.27, 3.97, 99.9, 0.87, 2.94, 1.73, 0.78, 97.6),
    "FastDiME-2+": (3.24, 5.23, 99.9, 0.79, 2.91, 2.02, 0.41, 98.9), "RCSB": (2.98, 4.79, 100, 0.91, 2.24, 2.78, 0.87, 99.8),
    "MaskDiME": (0.71, 3.29, 100, 0.91, 2.78, 2.41, 0.87, 100)}.items()}


def autoencoder(cache: Path | None = None) -> PretrainedAutoencoder:
    folder = Path(os.environ["CFEXPLAIN_DATA"])
    return PretrainedAutoencoder(folder / "taef2_encoder.pth", folder / "taef2_decoder.pth", channels="first", cache=cache)


def coordinates(data: Photographs, options: argparse.Namespace) -> TwoStage:
    """The pretrained autoencoder and a small model of its latents: one of a set, whatever is asked."""
    config = {"set": data.name, "rows": len(data.train), "side": data.side, "budget": options.budget}
    return trained(f"photographs-{data.name}-coordinates", config, lambda: TwoStage(
        autoencoder(options.cache), training_budget=options.budget, random_state=0, verbose=1).fit(
            data.images(data.train).numpy()), options.cache)


def explainer(data: Photographs, net: torch.nn.Module, label: str, options: argparse.Namespace) -> PLACEExplainer:
    """PLACE with its defaults on the latents of the pretrained autoencoder."""
    train = data.train[:options.train]
    y = data.labels[train, data.names.index(label)].astype(int)
    config = {"set": data.name, "label": label, "rows": len(y), "side": data.side, "budget": options.budget,
              "weights": weights_digest([net])}

    def fit() -> PLACEExplainer:
        place = PLACEExplainer(net, coordinates=FrozenEstimator(coordinates(data, options)), random_state=0,
                               training_budget=options.budget, verbose=1)
        return place.fit(data.images(train).numpy(), y)

    return trained(f"photographs-{data.name}-{label}-place", config, fit, options.cache)


def another(name: str, place: PLACEExplainer, data: Photographs, label: str) -> Any:
    """One of the others, on the same network, coordinates and density; "X" searches pixels."""
    net, some = place.classifier_.module, data.train[:100]  # what only reads class counts and scales needs no more
    X, y = data.images(some).numpy(), data.labels[some, data.names.index(label)].astype(int)
    parts: dict[str, Any] = dict(coordinates=FrozenEstimator(place.coordinates_), density=FrozenEstimator(place.density_),
                                 random_state=0)
    published = {k: v for k, v in PLACEExplainer.preset("place-celeba").get_params(deep=False).items()
                 if k not in ("classifier", "perceptual_weight", *parts)}
    build: dict[str, Callable[[], Any]] = {
        "PLACE": lambda: place,
        "REVISE": lambda: REVISEExplainer(net, **parts).fit(X, y),
        "CLARITY": lambda: CLARITYExplainer(net, **parts).fit(X, y),
        "PLACE, as published": lambda: PLACEExplainer(net, **parts, **published).fit(X, y),
        "X": lambda: GradientExplainer(net, random_state=0).fit(X, y)}
    return build[name]()


def draw(file: Path, columns: list[tuple[np.ndarray, ...]], across: int = 8, enlarge: int = 2) -> None:
    """Originals with their counterfactuals below, `across` side by side, pixel for pixel and enlarged."""
    blocks = [np.concatenate([np.moveaxis(image, 0, -1) for image in column], 0) for column in columns]
    blank = np.ones_like(blocks[0])
    blocks += [blank] * (-len(blocks) % across)
    gap = np.ones((4, across * blocks[0].shape[1], 3))
    lines = [line for i in range(0, len(blocks), across) for line in (np.concatenate(blocks[i:i + across], 1), gap)]
    picture = Image.fromarray((255 * np.concatenate(lines, 0).clip(0, 1)).round().astype(np.uint8))
    picture.resize((picture.width * enlarge, picture.height * enlarge), Image.Resampling.BICUBIC).save(file)


def border(shape: tuple[int, ...]) -> np.ndarray:
    """The outer eighth on every side, where X-rays have their markers."""
    outer = np.ones(shape[-2:], bool)
    edge = shape[-1] // 8
    outer[edge:-edge, edge:-edge] = False
    return outer


def run(data: Photographs, label: str, options: argparse.Namespace, face: Any) -> dict[str, Any]:
    """The table of one label: every method, both ways."""
    budget, column = options.budget if options.quick else 1.0, data.names.index(label)
    net = binary(network(data, "second" if options.swap else "explained", options.cache, budget)[0], data, label)
    place, weights = explainer(data, net, label, options), weights_digest([net])
    if options.only_fit:
        return {}
    rows = {target: understood(place, data, label, 1 - target, options.rows) for target in (0, 1)}
    results = {}
    for name in options.methods:
        method = another(name, place, data, label)
        for target in (1, 0):
            some = rows[target][:options.rows if name == "PLACE" else min(options.rows, options.others)]
            config = {"set": data.name, "label": label, "rows": some.tolist(), "target": target, "weights": weights,
                      "train": options.train, "budget": options.budget, "parameters": repr(method.get_params(deep=False))}
            results[name, target] = trained(f"photographs-{data.name}-{label}-{name}-{target}", config, partial(
                explained, method, data.images(some).numpy(), target), options.cache)
            draw(options.out / f"{data.name}_{label}_{name.replace(', ', '_').replace(' ', '_')}_to_{target}.png",
                 list(zip(results[name, target].x[:24], results[name, target].x_cf[:24], strict=True)))
    nets = networks(data, options.cache, budget)
    if options.swap:
        nets["explained"], nets["second"] = nets["second"], nets["explained"]
    judges = Judges(data, nets, label, face)
    found: dict[str, Any] = {}
    for name in options.methods:
        sides, table = [], {}
        for target in (1, 0):
            cf = results[name, target]
            goal = label if target else f"not {label}"
            measured = Evaluation({name: cf}, {name: place}, metrics=judges.metrics(target))
            sides.append(cf)
            table[f"to {goal}"] = {**cells(measured, name), "outer eighth's share of the squared change": float(
                np.median(region_locality(cf.x, cf.x_cf, border(cf.shape))))}
            print(data.name, f"to {goal}", name, {k: round(v["mean"], 3) for k, v in table[f"to {goal}"]["metrics"].items()},
                  flush=True)
        both = [np.concatenate([getattr(cf, part) for cf in sides]) for part in ("x", "x_cf")]
        flips = np.concatenate([cf.valid.astype(bool) for cf in sides])
        y_train = data.labels[data.train]
        found[name] = {"directions": table, "CD, both ways": {
            which: correlation_difference(*(X[rows] for X in both), judges.oracle, column, y_train)
            for which, rows in (("all", np.ones(len(flips), bool)), ("flips", flips)) if rows.sum() > 1}}
    some, outer = data.test[:50], border((data.side, data.side))
    real, truth = data.images(data.test[:400]), data.labels[data.test[:400], column]
    blanked = real.clone()
    blanked[..., torch.from_numpy(outer)] = real.mean()
    return {"methods": found,
            "judges on real images": judges.of_real_images(some, lambda x: outer_drawing(place, x)),
            "networks": {role: {"kind": facts["kind"], "accuracy": facts["held_out"]["accuracy"][label],
                                "mean accuracy of all labels": facts["held_out"]["mean"]}
                         for role, (_, facts) in nets.items()},
            "accuracy with and without the outer eighth": [
                float((place.predict(images.numpy()) == truth).mean()) for images in (real, blanked)]}


def explained(method: Any, x: np.ndarray, target: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return method.explain(x, target)


def understood(place: PLACEExplainer, data: Photographs, label: str, has: int, most: int) -> np.ndarray:
    """The first held-out images of one side that the explained network gets right."""
    rows, found = data.test[data.labels[data.test, data.names.index(label)] == has], []
    for part in np.array_split(rows, max(1, len(rows) // 50)):
        found += part[place.predict(data.images(part).numpy()) == has].tolist()
        if len(found) >= most:
            break
    return np.array(found[:most])


def outer_drawing(place: PLACEExplainer, x: np.ndarray) -> np.ndarray:
    """Images as the pretrained autoencoder draws them, the inner model left out."""
    outer = autoencoder().fit(x)
    return np.asarray(outer.inverse_transform(outer.transform(x))).astype(x.dtype).clip(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=list(SETS), help=f"of {', '.join(SETS)}")
    parser.add_argument("--labels", nargs="+", help="default: those that the set is asked for")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--rows", type=int, default=200, help="held-out images each way")
    parser.add_argument("--swap", action="store_true", help="explain the second network, and let ResNet-34 judge")
    parser.add_argument("--train", type=int, help="of so many images the explainer learns densities; default: all")
    parser.add_argument("--others", type=int, default=16, help="at most so many for the methods beside PLACE")
    parser.add_argument("--budget", type=float, default=1.0, help="of the explainer's training")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures and JSON")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--only-fit", action="store_true", help="train what is needed, and stop")
    parser.add_argument("--quick", action="store_true", help="few rows and hardly any training")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.budget = 3, 0.02
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        data, face = read(name), recogniser(SETS[name].face) if name != "xray" else None
        if options.quick:
            data = replace(data, train=data.train[:300], test=data.test[:100])
        for label in options.labels or SETS[name].asked:
            result = run(data, label, options, face)
            if not result:
                continue
            file = options.out / f"photographs_{name}_{label}{'_swapped' * options.swap}.json"
            file.write_text(json.dumps({"machine": machine(), "side": data.side, "rows": options.rows, **result,
                                        "field, its own networks, 128x128": FIELD if label == "Smiling" else None},
                                       indent=1, default=float) + "\n")
            print(f"[{file}]", flush=True)


if __name__ == "__main__":
    main()
