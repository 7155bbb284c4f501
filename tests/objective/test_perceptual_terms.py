"""What a search keeps of x for a perceptual term: the same bits as the distance to x itself, within a budget."""

import lpips
import numpy as np
import pytest
import torch
from torch import nn

from cfexplain import PLACEExplainer
from cfexplain.foundation.tiles import in_tiles
from cfexplain.objective import Objective, PerceptualDistance, Point
from cfexplain.perceptual import LPIPS, FeatureDistance


def features_distance(channels=3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.Conv2d(6, 9, 3), nn.ReLU(), nn.MaxPool2d(2))
    return FeatureDistance(backbone, (1, 4))


@pytest.fixture(scope="module")
def lpips_distance():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)  # a random backbone: no download
    distance = LPIPS("squeeze", data_range=(0.0, 1.0))
    distance._model = model.requires_grad_(False).eval()
    return distance


def pictures(n, channels, side, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, side, side, generator=generator, dtype=dtype)


def response(function, y):
    y = y.clone().requires_grad_()
    out = function(y)
    return out.detach(), torch.autograd.grad(out.sum(), y)[0]


@pytest.mark.parametrize(("kind", "channels", "dtype"), [
    ("features", 3, torch.float32), ("features", 1, torch.float64), ("lpips", 1, torch.float32)])
def test_the_distance_to_a_reference_has_the_bits_of_the_distance(kind, channels, dtype, lpips_distance):
    distance, side = (features_distance(), 12) if kind == "features" else (lpips_distance, 40)
    x, y = pictures(5, channels, side, dtype=dtype), pictures(5, channels, side, seed=1, dtype=dtype)
    reference = distance.reference(x.requires_grad_())
    assert all(len(layer) == 5 and not layer.requires_grad for layer in reference)
    x = x.detach()
    for got, expected in zip(response(lambda y: distance.distance_to(reference, y), y),
                             response(lambda y: distance(x, y), y), strict=True):
        assert got.dtype == dtype and torch.equal(got, expected) and got.abs().sum() > 0
    order = [3, 0, 4]
    picked = distance.distance_to(tuple(layer[order] for layer in reference), y[order])
    torch.testing.assert_close(picked, distance(x[order], y[order]))


def point(x_cf, rows):
    return Point(x_cf.flatten(1), {"target": torch.zeros(len(x_cf)).long(), **rows}, x_cf, torch.zeros(len(x_cf), 2))


def test_terms_keep_rows_apart_and_a_plain_callable_keeps_nothing():
    terms = [PerceptualDistance(2.0, features_distance()), PerceptualDistance(3.0, features_distance(1)),
             PerceptualDistance(5.0, lambda x, y: (x - y).abs().flatten(1).sum(1)), PerceptualDistance(0.0, None)]
    both, x, x_cf = Objective(terms), pictures(70, 1, 9), pictures(70, 1, 9, seed=1)
    kept = both.reference(x, tile=32)
    assert len(kept) == 4 and all(len(values) == 70 for values in kept.values())
    assert not Objective(terms[2:]).reference(x, tile=32)

    class Halved(FeatureDistance):
        def forward(self, x, y):
            return super().forward(x, y) / 2

    other = terms[1].distance
    halved = Objective([PerceptualDistance(1.0, Halved(other.backbone, other.layers))])
    assert not halved.reference(x, tile=32)
    assert torch.equal(halved.evaluate(point(x_cf, {"x": x})).loss, other(x, x_cf) / 2)
    assert not both.reference(x[:0], tile=32)
    names = list(kept)

    def losses(x, x_cf, *values):
        return both.evaluate(point(x_cf, {"x": x, **dict(zip(names, values, strict=True))})).loss

    def plain(x, x_cf):
        return both.evaluate(point(x_cf, {"x": x})).loss

    assert torch.equal(in_tiles(losses, x, x_cf, *kept.values()), in_tiles(plain, x, x_cf))
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))[:7]  # other rows of other tiles
    assert torch.equal(in_tiles(losses, x[order], x_cf[order], *(values[order] for values in kept.values())),
                       in_tiles(plain, x, x_cf)[order])


def test_too_much_to_keep_is_computed_at_every_step(monkeypatch):
    term, x = PerceptualDistance(1.0, features_distance()), pictures(6, 3, 12)
    size = sum(values.numel() * values.element_size() for values in term.reference(x, 32).values())
    assert size == 6 * 4 * (6 * 10 * 10 + 9 * 4 * 4)
    monkeypatch.setattr("cfexplain.objective.terms.REFERENCE_BYTES", size - 1)
    assert not term.reference(x, 32) and term.reference(x[:5], 32)


def test_an_explainer_sees_x_once_and_finds_the_same(digits, quietly):
    distance, seen = features_distance(1), []

    class Watched(FeatureDistance):
        def features(self, x):
            seen.append(x.requires_grad)
            return super().features(x)

    watched = Watched(distance.backbone, distance.layers)
    X, y, held_out, _ = digits
    explainer = PLACEExplainer(perceptual_weight=3.0, refine=0, max_steps=20, training_budget=0.01, random_state=0)
    explainer.fit(X[:300], y[:300]).set_params(perceptual=watched).explain(held_out[:5], 9)  # tries how few rows will do
    seen.clear()
    kept, plain = (explainer.set_params(perceptual=perceptual).explain(held_out[:5], 9)
                   for perceptual in (watched, lambda x, y: distance(x, y)))
    assert np.array_equal(np.asarray(kept), np.asarray(plain)) and np.array_equal(kept.n_steps, plain.n_steps)
    assert seen.count(True) == 1 + kept.n_steps.max() > 3
    assert seen.count(False) == 2  # of x: of one row, which tells the size, and of all
