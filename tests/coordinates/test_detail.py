"""Putting back what the coordinates lost: exactness at z′ = z₀, the blend's formula, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cfexplain.coordinates.detail import INK_TAU, TAU, render


def pictures(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(*shape, generator=generator, dtype=dtype) for _ in range(3)]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["residual", "blend"]), st.integers(1, 4), st.integers(1, 20), st.integers(1, 20),
       st.integers(0, 2**16))
def test_equal_codes_give_x_back_bit_for_bit(mode, channels, height, width, seed):
    g, x, _ = pictures(2, channels, height, width, seed=seed)
    assert torch.equal(render(g, x, g.clone(), mode, data_range=(0.0, 1.0)), x)
    x[:, :, [0, -1]], x[..., [0, -1]] = 0.0, 0.0
    assert torch.equal(render(g, x, g.clone(), mode, data_range=(0.0, 1.0), clears=True), x)


def test_decoder_mode_is_the_decoded_picture():
    g, x, g0 = pictures(2, 1, 8, 8)
    assert torch.equal(render(g, x, g0, "decoder", data_range=(0.0, 1.0)), g)


def test_residual_keeps_columns_that_did_not_move():
    g, x, g0 = (1e3 * (a - 0.5) for a in pictures(5, 6))
    g[:, [1, 4]] = g0[:, [1, 4]]
    out = render(g, x, g0, "residual")
    assert torch.equal(out[:, [1, 4]], x[:, [1, 4]])
    torch.testing.assert_close(out, g + (x - g0), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 1, 64, 64), (2, 3, 28, 28), (1, 4, 33, 45), (3, 1, 8, 8), (1, 2, 5, 90)])
@pytest.mark.parametrize("data_range", [(0.0, 1.0), (-1.0, 3.0)])
def test_blend_is_its_formula(shape, data_range):
    low, high = data_range
    g, x, g0 = (low + (high - low) * a for a in pictures(*shape, dtype=torch.float64))
    out = render(g, x, g0, "blend", tau=0.3, sigma=2.0, data_range=data_range)
    change = (g - g0).abs().amax(1).numpy()
    sigma = 2.0 * max(shape[2:]) / 64
    squares = (change / (0.3 * (high - low))) ** 2
    m = 1 - np.exp(-np.stack([ndimage.gaussian_filter(c, sigma, mode="mirror", truncate=3.0) for c in squares]))[:, None]
    expected = np.clip(g.numpy() + (1 - m) * (x - g0).numpy(), low, high)
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-12)


def test_blend_lies_between_residual_and_decoder():
    g, x, g0 = pictures(2, 1, 16, 16, dtype=torch.float64)
    for tau, mode in ((1e6, "residual"), (1e-6, "decoder")):
        out = render(g, x, g0, "blend", tau=tau, data_range=(0.0, 1.0))
        torch.testing.assert_close(out, render(g, x, g0, mode, data_range=(0.0, 1.0)), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("mode", "clears"), [("decoder", False), ("residual", False), ("blend", False), ("blend", True)])
def test_gradients_are_those_of_finite_differences(mode, clears):
    g, x, g0 = (0.3 + 0.2 * a for a in pictures(1, 2, 6, 7, dtype=torch.float64))  # stays off the clamp
    if clears:
        g, x[:, :, [0, -1]], x[..., [0, -1]] = g - 0.25, 0.0, 0.0
    g.requires_grad_()
    assert torch.autograd.gradcheck(lambda g: render(g, x, g0, mode, data_range=(0.0, 1.0), clears=clears), (g,))


def test_gradient_at_the_start_of_a_search_is_finite():
    g, x, _ = pictures(2, 3, 8, 8)
    moved = g.clone().requires_grad_()
    render(moved, x, g, "blend", data_range=(0.0, 1.0)).sum().backward()
    torch.testing.assert_close(moved.grad, torch.ones_like(g))


def test_only_images_are_clamped():
    g, x, g0 = torch.full((1, 2), 5.0), torch.zeros(1, 2), torch.zeros(1, 2)
    assert render(g, x, g0, "residual").max() == 5
    assert render(g, x, g0, "residual", data_range=(0.0, 1.0)).max() == 1


@pytest.mark.parametrize(("changes", "words"), [
    (dict(mode="mix"), "mode='mix'"), (dict(mode="blend"), "residual"), (dict(mode="blend", tau=0.0, image=True), "tau")])
def test_wrong_arguments_say_what_to_do(changes, words):
    tensors = pictures(2, 1, 4, 4) if changes.pop("image", False) else pictures(2, 4)
    with pytest.raises(ValueError, match=words):
        render(*tensors, **changes)


def test_a_print_stays_on_what_gets_a_little_lighter_and_goes_with_what_vanishes():
    """Of a picture with shades; ink loses more at the same change."""
    drawn = torch.full((1, 1, 64, 64), 0.2)
    drawn[..., 32:] = 0.9  # what the decoder draws of the garment, without its print
    x = drawn.clone()
    x[..., 8:24, 40:56:2] -= 0.4
    lighter, gone = drawn.clone(), drawn.clone()
    lighter[..., 32:] += 0.08
    gone[..., 32:] = 0.1
    stays = {}
    for tau in (TAU, INK_TAU):
        stays[tau], leaves = (((render(picture, x, drawn, "blend", tau=tau) - picture)[..., 8:24, 40:56:2] / -0.4)
                              for picture in (lighter, gone))
        assert leaves.abs().max() < 0.05
    assert stays[TAU].min() > 0.85 and stays[INK_TAU].max() < 0.8


@pytest.mark.parametrize("paper", [0.0, 1.0])
def test_nothing_is_left_of_a_sleeve_where_the_new_picture_shows_the_background(paper):
    """What the decoder did not draw of its seam lies beside what it drew, where little changes."""
    drawn = torch.zeros(2, 3, 28, 28)
    drawn[..., 8:22, 8:20], drawn[..., 10:18, 3:7] = 0.6, 0.5  # a garment, and its sleeve
    x = drawn.clone()
    x[..., 10:18, 2] = 0.45  # the seam
    x[..., 9:21:2, 9:19] += 0.2  # a print
    moved = drawn.clone()
    moved[..., 10:18, 3:7], moved[..., 8:22, 8:20] = 0.0, 0.62
    x[1, :, ::27] = torch.rand(2, 28)  # the border of the second is not plain
    x[1, :, :, ::27] = torch.rand(28, 2)
    given = [(1 - part if paper else part) for part in (moved, x, drawn)]
    kept, cleared = (render(*given, "blend", tau=TAU, data_range=(0.0, 1.0), clears=clears) for clears in (False, True))
    left = [(part[..., 10:18, 2] - paper).abs().amax((1, 2)) for part in (kept, cleared)]
    assert left[0].min() > 0.2 and left[1][0] < 0.1 and left[1][1] == left[0][1]
    torch.testing.assert_close(cleared[..., 9:21, 9:19], kept[..., 9:21, 9:19], atol=0.02, rtol=0)
    assert torch.equal(cleared[1], kept[1])
