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
from benchmarks.photographs.data import SETS, Goal, Photographs, goals, read
from benchmarks.photographs.judges import Judges, recogniser
from benchmarks.photographs.networks import asked, network, networks
from cfexplain import (
    CLARITYExplainer,
    DiffeomorphicExplainer,
    Evaluation,
    GradientExplainer,
    PLACEExplainer,
    REVISEExplainer,
)
from cfexplain.coordinates import PretrainedAutoencoder, TwoStage
from cfexplain.foundation.digest import weights_digest
from cfexplain.metrics import correlation_difference, region_locality

METHODS = ("PLACE", "REVISE", "CLARITY", "PLACE, as published", "X")
GLOW = "Diffeomorphic, Glow of latents"  # has to be trained for itself, so that it is asked for by name
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
    train = data.train[:options.train]
    config = {"set": data.name, "rows": len(train), "side": data.side, "budget": options.budget}
    return trained(f"photographs-{data.name}-coordinates", config, lambda: TwoStage(
        autoencoder(options.cache), training_budget=options.budget, random_state=0, verbose=1).fit(
            data.images(train).numpy()), options.cache)


def explainer(data: Photographs, net: torch.nn.Module, label: str, options: argparse.Namespace) -> Any:
    """PLACE with its defaults on the latents of the pretrained autoencoder; for a value, which it does not know, the search
    of `DiffeomorphicExplainer` in the same coordinates, with what they lose blended back.
    """
    train = data.train[:options.train]
    is_value = label in SETS[data.name].units
    y = data.values(train, label).astype(float if is_value else int)
    config = {"set": data.name, "label": label, "rows": len(y), "side": data.side, "budget": options.budget,
              "weights": weights_digest([net])}

    def fit() -> Any:
        known: dict[str, Any] = dict(random_state=0, training_budget=options.budget, verbose=1)
        within = FrozenEstimator(coordinates(data, options))
        method = (DiffeomorphicExplainer(net, generator=within, task="regression", detail="blend", **known) if is_value
                  else PLACEExplainer(net, coordinates=within, **known))
        return method.fit(data.images(train).numpy(), y)

    return trained(f"photographs-{data.name}-{label}-place", config, fit, options.cache)


def glow(net: torch.nn.Module, data: Photographs, label: str, options: argparse.Namespace) -> Any:
    """Diffeomorphic Counterfactuals in a Glow of the latents, which is exact; what the autoencoder loses is blended."""
    train = data.train[:options.train]
    config = {"set": data.name, "rows": len(train), "side": data.side, "budget": options.glow_budget}
    within = trained(f"photographs-{data.name}-glow", config, lambda: TwoStage(
        autoencoder(options.cache), "flow", training_budget=options.glow_budget, random_state=0, verbose=1).fit(
            data.images(train).numpy()), options.cache)
    some = data.test[:100]
    print("bits per dimension of held-out latents", within.inner_.bits_per_dim(
        within.outer_.transform(data.images(some).numpy()).reshape(len(some), *within.latent_shape_)).mean(), flush=True)
    method = DiffeomorphicExplainer(net, generator=FrozenEstimator(within), detail="blend", random_state=0)
    return method.fit(data.images(train[:500]).numpy(), data.values(train[:500], label).astype(int))


def another(name: str, place: PLACEExplainer, data: Photographs, label: str, options: argparse.Namespace) -> Any:
    """One of the others, on the same network, coordinates and density; "X" searches pixels."""
    if name == GLOW:
        return glow(place.classifier_.module, data, label, options)
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
    net = asked(network(data, "second" if options.swap else "explained", options.cache, budget)[0], data, label)
    place, weights = explainer(data, net, label, options), weights_digest([net])
    if options.only_fit:
        return {}
    both_ways = goals(data.name, label)
    is_value = label in SETS[data.name].units
    methods = ["Diffeomorphic, VAE of latents"] if is_value else options.methods
    rows = {goal: understood(place, data, label, goal, options.rows) for goal in both_ways}
    results = {}
    for name in methods:
        method = place if is_value else another(name, place, data, label, options)
        for goal in both_ways:
            some = rows[goal][:options.rows if method is place else min(options.rows, options.others)]
            config = {"set": data.name, "label": label, "rows": some.tolist(), "target": goal.asked, "weights": weights,
                      "train": options.train, "budget": options.budget, "parameters": repr(method.get_params(deep=False))}
            results[name, goal] = trained(f"photographs-{data.name}-{label}-{name}-{goal.short}", config, partial(
                explained, method, data.images(some).numpy(), goal.asked), options.cache)
            draw(options.out / f"{data.name}_{label}_{name.replace(', ', '_').replace(' ', '_')}_to_{goal.short}.png",
                 list(zip(results[name, goal].x[:24], results[name, goal].x_cf[:24], strict=True)))
    nets = networks(data, options.cache, budget)
    if options.swap:
        nets["explained"], nets["second"] = nets["second"], nets["explained"]
    judges = Judges(data, nets, label, face)
    found: dict[str, Any] = {}
    for name in methods:
        sides, table = [], {}
        for goal in both_ways:
            cf = results[name, goal]
            measured = Evaluation({name: cf}, {name: place}, metrics=judges.metrics(goal))
            sides.append(cf)
            table[goal.words] = {**cells(measured, name), "outer eighth's share of the squared change": float(
                np.median(region_locality(cf.x, cf.x_cf, border(cf.shape))))}
            print(data.name, goal.words, name, {k: round(v["mean"], 3) for k, v in table[goal.words]["metrics"].items()},
                  flush=True)
        both = [np.concatenate([getattr(cf, part) for cf in sides]) for part in ("x", "x_cf")]
        flips = np.concatenate([cf.valid.astype(bool) for cf in sides])
        y_train = data.labels[data.train]
        found[name] = {"directions": table}
        if judges.oracle is not None:
            found[name]["CD, both ways"] = {
                which: correlation_difference(*(X[rows] for X in both), judges.oracle, column, y_train)
                for which, rows in (("all", np.ones(len(flips), bool)), ("flips", flips)) if rows.sum() > 1}
    some = data.test[:50]
    return {"methods": found,
            "judges on real images": judges.of_real_images(some, lambda x: outer_drawing(place, x)),
            "second network on real images that the explained one gets right": {goal.words: float(judges.agrees(
                data.images(understood(place, data, label, replace(goal, of=goal.wanted), 200)).numpy(), goal).mean())
                for goal in both_ways},
            "networks": {role: {"kind": facts["kind"], **{
                part: facts["held_out"][part][label] for part in ("accuracy", "balanced", "mean_absolute_error")
                if label in facts["held_out"].get(part, ())}, "mean accuracy of all labels": facts["held_out"]["mean"]}
                for role, (_, facts) in nets.items()},
            **({"what the network looks at": looked_at(place, data, label, rows)} if data.name == "xray" else {})}


def looked_at(place: PLACEExplainer, data: Photographs, label: str, rows: dict[Goal, np.ndarray], most: int = 12,
              time_limit: float = 120) -> dict:
    """Whether it is the outer eighth, with the markers of X-rays, or the middle: accuracy when one of them is made grey, and
    how many rows find an answer within the time limit, in seconds, when only one of them may change.
    """
    outer = border((data.side, data.side))
    real, truth = data.images(data.test[:400]), data.values(data.test[:400], label)
    found: dict[str, Any] = {"accuracy": float((place.predict(real.numpy()) == truth).mean())}
    for name, part in (("outer eighth", outer), ("middle", ~outer)):
        blanked = real.clone()
        blanked[..., torch.from_numpy(part)] = real.mean()
        alone = {}
        for goal, of in rows.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cf = place.explain(data.images(of[:most]).numpy(), goal.asked, region=part, time_limit=time_limit)
            alone[goal.words] = {"valid": float(cf.valid.mean()), "rows": len(cf), "gain of probability": float(
                (cf.proba_after - cf.proba_before).mean())}
        found[name] = {"share of the pixels": float(part.mean()), "accuracy when it is grey": float(
            (place.predict(blanked.numpy()) == truth).mean()), "when it alone may change": alone}
    return found


def explained(method: Any, x: np.ndarray, target: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return method.explain(x, target)


def understood(place: Any, data: Photographs, label: str, goal: Goal, most: int) -> np.ndarray:
    """The first held-out images of one side that the explained network gets right, of values to ten years."""
    values = data.values(data.test, label)
    rows, found = data.test[(values >= goal.of[0]) & (values <= goal.of[1])], []
    for part in np.array_split(rows, max(1, len(rows) // 50)):
        off = np.abs(place.predict(data.images(part).numpy()) - data.values(part, label))
        found += part[off <= (10 if goal.slack else 0)].tolist()
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
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=[*METHODS, GLOW])
    parser.add_argument("--glow-budget", type=float, default=1.0, help="of the training of a Glow of the latents")
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
            data = replace(data, train=data.train[:120], test=data.test[:80])
        for label in options.labels or SETS[name].asked:
            result = run(data, label, options, face)
            if not result:
                continue
            file = options.out / f"photographs_{name}_{label}{'_swapped' * options.swap}.json"
            file.write_text(json.dumps({"machine": machine(), "side": data.side, "rows": options.rows,
                                        "trained on": len(data.train[:options.train]), **result,
                                        "field, its own networks, 128x128": FIELD if label == "Smiling" else None},
                                       indent=1, default=float) + "\n")
            print(f"[{file}]", flush=True)


if __name__ == "__main__":
    main()
