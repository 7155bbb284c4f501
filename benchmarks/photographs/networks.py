"""The networks of the photographs' benchmark: trained from nothing, kept by configuration.

    python -m benchmarks.photographs.networks [--sets celeba ...] [--cache FOLDER]

Of each set three networks see the same training images: ``explained`` (ResNet-34 of CelebA, a small residual network of the
larger pictures), ``second`` of another kind (strided 5×5 convolutions, GELU), which never takes part in a search, and
``oracle`` (ResNet-18 at 56 pixels), which MNAC and CD ask. Each gives one logit for every label of the set (forty of
CelebA's, as the network of DiME and ACE does), so that one training serves every attribute; `binary` makes the classifier of
one of them, `value` the regressor of a label that is a value.

Training begins at a quarter or half of the side and ends at the whole, in bfloat16 where that is faster, with mirrored and
shifted images. That is what two cores can pay; the held-out accuracy beside the weights says what it is worth.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18, resnet34

from benchmarks._common import CACHE
from benchmarks.photographs.data import SETS, Photographs, read
from cfexplain.foundation.precision import faster_in_bfloat16
from cfexplain.foundation.random import seeded_torch
from cfexplain.nets.training import train_network

__all__ = ["Binary", "Recipe", "Value", "asked", "binary", "network", "networks", "value"]


class Scale(nn.Module):
    """[0, 1] to about [−2, 2]."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25


class Smaller(nn.Module):
    """Pictures averaged down to a side."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return x if x.shape[-1] == self.side else F.interpolate(x, size=(self.side, self.side), mode="area")


class Binary(nn.Module):
    """The classifier of one label of a network of many: logits (B, 2), whose softmax is the label's probability."""

    def __init__(self, net: nn.Module, column: int):
        super().__init__()
        self.net, self.column = net, column

    def forward(self, x: Tensor) -> Tensor:
        score = self.net(x)[:, self.column]
        return torch.stack([-score / 2, score / 2], 1)


class Value(nn.Module):
    """The regressor of one label of a network of many: (B, 1), the share that its logit stands for, in units."""

    def __init__(self, net: nn.Module, column: int, unit: float):
        super().__init__()
        self.net, self.column, self.unit = net, column, unit

    def forward(self, x: Tensor) -> Tensor:
        return self.unit * self.net(x)[:, self.column, None].sigmoid()


class Residual(nn.Module):
    """Two 3×3 convolutions, of which the first halves the sides, and a skip."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after))
        self.skip = nn.Sequential(nn.Conv2d(before, after, 1, 2, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


def small_residual(n_outputs: int) -> nn.Module:
    """A tenth of ResNet-34's work: what two cores can train at 200 pixels and more."""
    return nn.Sequential(Scale(), nn.Conv2d(3, 32, 7, 4, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(), Residual(32, 64),
                         Residual(64, 128), Residual(128, 192), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2),
                         nn.Linear(192, n_outputs))


def strided(n_outputs: int, width: int = 32) -> nn.Module:
    layers: list[nn.Module] = [Scale()]
    channels = 3
    for out in (width, 2 * width, 3 * width, 4 * width):
        layers += [nn.Conv2d(channels, out, 5, 2, 2, bias=False), nn.BatchNorm2d(out), nn.GELU()]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.4), nn.Linear(channels * 16, 256),
                         nn.GELU(), nn.Dropout(0.3), nn.Linear(256, n_outputs))


BUILDERS: dict[str, Any] = {
    "ResNet-34": lambda n: nn.Sequential(Scale(), resnet34(num_classes=n)),
    "small residual network": small_residual,
    "strided 5x5 convolutions, GELU": strided,
    "ResNet-18 that sees 56x56 pixels": lambda n: nn.Sequential(Smaller(56), Scale(), resnet18(num_classes=n)),
}
ROLES = ("explained", "second", "oracle")


def kind(set_name: str, role: str) -> str:
    """What kind of network plays a role, a name of `BUILDERS`."""
    explained = "ResNet-34" if set_name == "celeba" else "small residual network"
    return dict(zip(ROLES, (explained, *list(BUILDERS)[2:]), strict=True))[role]



@dataclass(frozen=True)
class Recipe:
    """How one network is trained: (side, epochs, highest learning rate) one after the other.

    A part of an epoch is one pass over so many images, whole epochs are rounded up.
    """

    phases: tuple[tuple[int, float, float], ...]
    seed: int
    batch: int = 64
    weight_decay: float = 5e-2
    asked_weight: float = 8.0  # of the labels that are asked for, beside 1 for the others, which help to see faces


RECIPES: dict[str, dict[str, Recipe]] = {
    "celeba": {
        "explained": Recipe(((56, 4, 2e-3), (112, 0.35, 5e-4)), seed=0),
        "second": Recipe(((56, 8, 4e-3), (112, 1.5, 1e-3)), seed=1),
        "oracle": Recipe(((56, 3, 2e-3),), seed=2, asked_weight=2.0),
    },
    "utkface": {
        "explained": Recipe(((100, 16, 4e-3), (200, 1, 1e-3)), seed=0),
        "second": Recipe(((100, 8, 4e-3), (200, 0.5, 1e-3)), seed=1),
        "oracle": Recipe(((56, 3, 2e-3),), seed=2, asked_weight=2.0),
    },
    "xray": {
        "explained": Recipe(((112, 8, 4e-3), (224, 1, 1e-3)), seed=0),
        "second": Recipe(((112, 5, 4e-3), (224, 0.5, 1e-3)), seed=1),
    },
}


def moved(x: Tensor) -> Tensor:
    """A random mirror a picture, and a random shift of the batch by up to a sixteenth of the side."""
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
    far = x.shape[-1] // 16
    return torch.roll(x, torch.randint(-far, far + 1, (2,)).tolist(), (2, 3))


def train(build: Any, data: Photographs, recipe: Recipe, name: str, kept: Path) -> nn.Module:
    """After every phase the weights are kept beside `kept`, where an interrupted training goes on."""
    with seeded_torch(recipe.seed):
        net = build(data.labels.shape[1])
    weights = torch.tensor([recipe.asked_weight if name in SETS[data.name].asked else 1.0 for name in data.names])
    weights = weights / weights.sum()
    labels, bfloat16 = torch.from_numpy(data.labels[data.train].astype(np.float32)), faster_in_bfloat16("cpu")
    for k, (side, epochs, lr) in enumerate(recipe.phases):
        done = kept.with_suffix(f".phase{k}")
        if done.exists():
            net.load_state_dict(torch.load(done, weights_only=True))
            continue
        rng = np.random.default_rng(recipe.seed + k)
        some = np.sort(rng.permutation(len(data.train))[:max(200, round(min(epochs, 1) * len(data.train)))])
        pixels = data.pixels(data.train[some], side)  # bytes: a quarter of what float32 would take

        def loss(module: nn.Module, rows: Any, _: float) -> Tensor:
            x = rows["x"].float() / 255
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                scores = module(moved(x) if module.training else x)
            return F.binary_cross_entropy_with_logits(scores.float(), rows["y"], reduction="none") @ weights

        train_network(net, loss, {"x": pixels, "y": labels[some]}, lr=lr, weight_decay=recipe.weight_decay,
                      updates=max(1, round(max(epochs, 1) * 0.95 * len(some) / recipe.batch)), min_epochs=1,
                      batch_size=recipe.batch, validation_fraction=0.05, seed=recipe.seed,
                      name=f"{name}, {side} pixels", checkpoint=kept.with_suffix(f".resume{k}"))
        torch.save(net.state_dict(), done)
        print(f"[{name}: {side} pixels done]", flush=True)
    return net.eval().requires_grad_(False)


def held_out(net: nn.Module, data: Photographs) -> dict[str, Any]:
    """Accuracy and balanced accuracy on the test images, of each label; of values the mean absolute error."""
    with torch.no_grad():
        said = torch.cat([net(data.images(part)) for part in np.array_split(data.test, max(1, len(data.test) // 50))])
    units = SETS[data.name].units
    errors = {name: float(unit * np.abs(said[:, k].sigmoid().numpy() - data.labels[data.test, k]).mean())
              for name, unit in units.items() for k in [data.names.index(name)]}
    labels = [k for k, name in enumerate(data.names) if name not in units]
    names, truth = [data.names[k] for k in labels], data.labels[data.test][:, labels].astype(bool)
    right = (said.numpy()[:, labels] > 0) == truth
    with np.errstate(invalid="ignore"):
        balanced = [np.nanmean([right[truth[:, k] == v, k].mean() for v in (False, True) if (truth[:, k] == v).any()])
                    for k in range(len(names))]
    return {"mean_absolute_error": errors, "mean": float(right.mean()), "mean_balanced": float(np.mean(balanced)),
            "accuracy": dict(zip(names, right.mean(0).round(4).tolist(), strict=True)),
            "balanced": dict(zip(names, np.round(balanced, 4).tolist(), strict=True))}


def network(data: Photographs, role: str, cache: Path = CACHE, budget: float = 1.0) -> tuple[nn.Module, dict[str, Any]]:
    """The network of one role, trained or as it was kept, and its facts: kind, recipe, seconds, held-out accuracies."""
    recipe = RECIPES[data.name][role]
    if budget != 1:
        recipe = replace(recipe, phases=tuple((side, budget * epochs, lr) for side, epochs, lr in recipe.phases))
    config = {"set": data.name, "side": data.side, "train": len(data.train), "labels": data.names, "role": role,
              "kind": kind(data.name, role), **asdict(recipe)}
    key = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    weights = cache / f"photographs-{data.name}-{role}-{key}.pth"
    facts = weights.with_suffix(".json")
    if weights.exists() and facts.exists():
        net = BUILDERS[kind(data.name, role)](data.labels.shape[1])
        net.load_state_dict(torch.load(weights, weights_only=True))
        return net.eval().requires_grad_(False).to(memory_format=torch.channels_last), json.loads(facts.read_text())
    started = time.perf_counter()
    cache.mkdir(parents=True, exist_ok=True)
    net = train(BUILDERS[kind(data.name, role)], data, recipe, f"{data.name} {role}", weights)
    seconds = time.perf_counter() - started
    found = {**config, "seconds": seconds, "held_out": held_out(net, data), "test": len(data.test)}
    torch.save(net.state_dict(), weights)
    for phase in range(len(recipe.phases)):
        weights.with_suffix(f".phase{phase}").unlink()
    facts.write_text(json.dumps(found, indent=1) + "\n")
    print(f"[{weights.name}: {seconds:.0f} s, held-out accuracy {found['held_out']['mean']:.4f}]", flush=True)
    return net, json.loads(facts.read_text())


def networks(data: Photographs, cache: Path = CACHE, budget: float = 1.0) -> dict[str, tuple[nn.Module, dict[str, Any]]]:
    """All networks of a set; X-rays have no attributes beside what is asked, and no oracle."""
    return {role: network(data, role, cache, budget) for role in RECIPES[data.name]}


def binary(net: nn.Module, data: Photographs, label: str) -> Binary:
    """The two-class classifier of one label: class 1 is to have it."""
    return Binary(net, data.names.index(label)).eval()


def value(net: nn.Module, data: Photographs, label: str) -> Value:
    """The regressor of one label that is a value."""
    return Value(net, data.names.index(label), SETS[data.name].units[label]).eval()


def asked(net: nn.Module, data: Photographs, label: str) -> nn.Module:
    """The classifier, or the regressor, of one label."""
    return (value if label in SETS[data.name].units else binary)(net, data, label)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", nargs="+", default=["celeba"], choices=list(SETS))
    parser.add_argument("--roles", nargs="+", default=list(ROLES), choices=ROLES)
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    for name in options.sets:
        data = read(name)
        for role in [role for role in options.roles if role in RECIPES[name]]:
            found = network(data, role, options.cache)[1]["held_out"]
            print(name, role, {k: found[k] for k in ("mean", "mean_balanced")},
                  {k: found["accuracy"].get(k) or found["mean_absolute_error"][k] for k in SETS[name].asked}, flush=True)


if __name__ == "__main__":
    main()
