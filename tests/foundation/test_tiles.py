"""Tiles: always full, aligned by rounding only, and a row has the same bits wherever it lies."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cfexplain.classifiers.latent import LatentEnsemble
from cfexplain.foundation.random import seeded_torch
from cfexplain.foundation.threads import one_thread
from cfexplain.foundation.tiles import TILE, TileSizes, aligned, in_tiles, linear, probes


def in_both(compute, *inputs):
    """Value and gradients of the inputs, plainly and aligned."""
    results = []
    for alignment in (False, True):
        leaves = [i.detach().clone().requires_grad_(True) for i in inputs]
        if alignment:
            with aligned():
                out = compute(*leaves)
        else:
            out = compute(*leaves)
        torch.manual_seed(1)
        results.append((out, *torch.autograd.grad(out, leaves, torch.randn_like(out))))
    return zip(*results, strict=True)


@pytest.mark.parametrize(("wide", "narrow"), [(1, 1), (5, 3), (8, 16), (8, 3), (13, 8), (40, 10), (7, 1)])
@pytest.mark.parametrize("lead", [(6,), (), (2, 3)])
def test_alignment_changes_values_and_gradients_by_rounding_only(wide, narrow, lead):
    with seeded_torch(0):
        x, weight, bias = torch.randn(*lead, wide).double(), torch.randn(narrow, wide).double(), torch.randn(narrow).double()
    for compute, inputs in ((F.linear, (x, weight, bias)), (F.linear, (x, weight)), (F.linear, (x, weight[0]))):
        for plain, padded in in_both(compute, *inputs):
            assert plain.shape == padded.shape
            torch.testing.assert_close(padded, plain, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("bias_shape", [(3, 1, 5), (3, 4, 5), (1, 5), (5,), (3, 1, 1), ()])
def test_alignment_of_batched_products(bias_shape):
    with seeded_torch(0):
        x, weight, bias = torch.randn(3, 4, 7).double(), torch.randn(3, 7, 5).double(), torch.randn(bias_shape).double()
    for plain, padded in in_both(torch.baddbmm, bias, x, weight):
        assert plain.shape == padded.shape
        torch.testing.assert_close(padded, plain, rtol=1e-13, atol=1e-13)
    for plain, padded in in_both(lambda *a: torch.baddbmm(*a, beta=0.5, alpha=2.0), bias, x, weight):
        torch.testing.assert_close(padded, plain, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["linear", "baddbmm"])
def test_a_row_has_the_same_bits_wherever_it_lies_in_its_tile(kind, dtype):
    for width in range(1, 41):
        with seeded_torch(width):
            out = width * 7 % 40 + 1
            module = nn.Sequential(nn.Linear(width, out), nn.Tanh(), nn.Linear(out, width)).to(dtype)
            if kind == "baddbmm":
                module = LatentEnsemble(width, out, members=2, hidden=(width + 3,)).to(dtype)
            rows = torch.randn(TILE, width, dtype=dtype)
            order = torch.randperm(TILE)

        def both(x, module=module):
            x = x.clone().requires_grad_(True)
            with aligned():
                y = module(x)
                y = y.transpose(0, 1) if y.ndim == 3 else y
                (gradient,) = torch.autograd.grad((y * y).sum(), x)
            return y.detach(), gradient

        for one, other in zip(both(rows), both(rows[order]), strict=True):
            assert torch.equal(one[order], other), f"width {width}"


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 70), tile=st.sampled_from([1, 4, 32]))
def test_tiles_are_always_full_and_come_back_joined(n, tile):
    seen, rows = [], torch.arange(2.0 * n).reshape(n, 2)

    def function(a, b):
        seen.append((a, b))
        return a + b[:, None], b

    total, other = in_tiles(function, rows, torch.arange(float(n)), tile=tile)
    assert torch.equal(total, rows + torch.arange(float(n))[:, None]) and torch.equal(other, torch.arange(float(n)))
    assert [len(a) for a, _ in seen] == ([tile] * -(-n // tile) if n else [0])
    if n:  # the last tile is filled up with the last row: numbers that the function can stand
        assert all(torch.equal(row, rows[-1]) for row in seen[-1][0][(n - 1) % tile:])
    assert in_tiles(lambda a: a * 2, rows, tile=tile).shape == (n, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_rows_of_a_product_have_the_bits_of_a_tile(dtype):
    """Of widths at random, with the gradient. Which kernel a processor takes for few rows is found out, not known."""
    generator = torch.Generator().manual_seed(0)
    widths = torch.randint(1, 600, (20, 2), generator=generator).tolist()
    for wide, narrow in [(168, 2), (3136, 10), (1152, 2), (64, 64), *widths]:
        x, weight, bias = (torch.randn(*shape, generator=generator, dtype=dtype) for shape in (
            (TILE, wide), (narrow, wide), (narrow,)))

        def both(x):
            x = x.requires_grad_()
            with one_thread():
                out = linear(x, weight, bias)  # noqa: B023
                return out.detach(), torch.autograd.grad(out.sin().sum(), x)[0]

        whole = both(x.clone())
        for rows in (1, 2, 3, 8, 16):
            for a, b in zip(whole, both(x[:rows].clone()), strict=True):
                assert torch.equal(a[:rows], b), (wide, narrow, rows)


def test_a_part_of_a_tile_is_not_right_by_chance():
    """Fewer than 16 rows are rounded otherwise where a number is large, which it is not in the first two rows."""
    x = torch.rand(64, 4, generator=torch.Generator().manual_seed(1))
    tried = probes((x,), 32)[0][:16, 0]
    large = tried[2:].max()
    assert tried[:2].max() < large

    def function(rows):
        return rows[:, 0] + 1e-5 * ((rows[:, 0] >= large) & (len(rows) < 16))

    places = TileSizes(32, numbers=4).choice("rounds", function, x)
    assert places(2) == 16 and places(16) == 16
