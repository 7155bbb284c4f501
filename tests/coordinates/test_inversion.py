"""Inversion against closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cfexplain.coordinates import Inversion, invert


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def linear(latent=3, out=7):
    return seeded(lambda: nn.Linear(latent, out).double().requires_grad_(False))


QUICK = Inversion(steps=15, restarts=3)


@pytest.mark.parametrize("prior_weight", [0.0, 0.02])
@pytest.mark.parametrize("scale", [1.0, "columns"])
def test_inversion_of_a_linear_generator_is_least_squares(prior_weight, scale):
    G = linear()
    W, b = G.weight.numpy(), G.bias.numpy()
    x = np.random.default_rng(0).normal(size=(5, 7))
    unit = np.ones(7) if scale == 1.0 else np.linspace(0.5, 3, 7)
    A, residual = W / unit[:, None], (x - b) / unit
    # mean (G(z) - x)^2 / unit^2 + w |z|^2 / 2  =>  (2 A'A / D + w I) z = 2 A'r / D
    expected = np.linalg.solve(2 * A.T @ A / 7 + prior_weight * np.eye(3), 2 * A.T @ residual.T / 7).T
    options = Inversion(steps=300, prior_weight=prior_weight)
    z, error = invert(G, torch.from_numpy(x), 3, options, scale=torch.from_numpy(unit))
    np.testing.assert_allclose(z, expected, atol=1e-4)
    np.testing.assert_allclose(error, np.sqrt(np.mean((residual - expected @ A.T) ** 2, 1)), atol=1e-6)


def test_features_take_part_as_equation_11_says():
    """With a linear h the optimum is least squares in pixels and features together."""
    G, h = linear(), seeded(lambda: nn.Linear(7, 2).double(), 5)
    x = np.random.default_rng(1).normal(size=(4, 7))
    W, b, H = G.weight.numpy(), G.bias.numpy(), h.weight.detach().numpy()
    A = np.concatenate([W / np.sqrt(7), np.sqrt(3.0 / 2) * H @ W])
    r = np.concatenate([(x - b).T / np.sqrt(7), np.sqrt(3.0 / 2) * H @ (x - b).T])
    expected = np.linalg.lstsq(A, r, rcond=None)[0].T
    options = Inversion(steps=300, prior_weight=0.0, feature_weight=3.0, feature_layer=h)
    z, error = invert(G, torch.from_numpy(x), 3, options)
    np.testing.assert_allclose(z, expected, atol=1e-4)
    np.testing.assert_allclose(error, np.sqrt(np.mean((x - b - expected @ W.T) ** 2, 1)), atol=1e-6)
    assert h.training and h.weight.requires_grad and h.weight.grad is None


def bumpy(z):
    """Many local minima."""
    return torch.cat([torch.sin(3 * z) + z / 4, torch.cos(2 * z)], 1)


def test_the_best_restart_is_no_worse_than_any_of_them():
    x = bumpy(seeded(lambda: torch.randn(20, 2, dtype=torch.float64), 3))
    options = Inversion(steps=60, restarts=5, prior_weight=0.0)
    _, error = invert(bumpy, x, 2, options, seed=7)
    points = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    single = [invert(bumpy, x, 2, replace(options, restarts=1), p.expand(20, 2), seed=7)[1] for p in points]
    np.testing.assert_allclose(error, torch.stack(single).min(0).values, atol=1e-12)
    assert (error < torch.stack(single).max(0).values - 0.1).any()


def test_the_best_iterate_counts_not_the_last():
    """Steps that are far too long leave the optimum where they started."""
    G, z0 = linear(), torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64)
    z, error = invert(G, G(z0), 3, Inversion(steps=5, restarts=1, lr=50.0, prior_weight=0.0), z0)
    assert torch.equal(z, z0) and error.item() < 1e-12


def test_where_restarts_begin():
    x, none = linear()(torch.zeros(3, 3, dtype=torch.float64)), Inversion(steps=0, prior_weight=0.0)
    normal = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    z = invert(linear(), x, 3, none, seed=9)[0]
    assert (z == z[0]).all() and (z[0] == normal).all(1).any()
    assert (invert(linear(), x, 3, replace(none, start="mean"), seed=9)[0] == 0).all()
    mine = torch.full((3, 3), 1e-3, dtype=torch.float64)
    assert torch.equal(invert(linear(), x, 3, none, mine, seed=9)[0], mine)
    assert invert(linear().float(), x.float(), 3, none)[0].dtype == torch.float32


def test_inversion_is_a_constant_under_any_gradient_mode():
    x = linear()(torch.ones(2, 3, dtype=torch.float64)).requires_grad_()
    z, error = invert(linear(), x, 3, QUICK)
    with torch.no_grad():
        again, _ = invert(linear(), x, 3, QUICK)
    assert torch.equal(z, again) and not z.requires_grad and not error.requires_grad


def test_a_generator_that_is_not_finite_is_told_by_its_error():
    z, error = invert(lambda z: torch.where(z > 0, torch.nan, z), torch.full((2, 1), -1.0), 1, QUICK)
    assert torch.isfinite(z).all() and (error < 0.1).all()  # from a start where it is finite
    z, error = invert(lambda z: z * torch.nan, torch.zeros(2, 1), 1, QUICK)
    assert torch.isfinite(z).all() and torch.isinf(error).all()


@pytest.mark.parametrize(("bad", "error", "words"), [
    ({"steps": -1}, ValueError, "steps"), ({"restarts": 0}, ValueError, "restarts"), ({"tile": 0.5}, ValueError, "tile"),
    ({"lr": 0}, ValueError, "lr"), ({"prior_weight": -1}, ValueError, "prior_weight"),
    ({"start": "encoder"}, ValueError, "'mean'"), ({"feature_layer": "conv"}, TypeError, "callable")])
def test_bad_options_say_what_is_expected(bad, error, words):
    with pytest.raises(error, match=words):
        Inversion(**bad)
