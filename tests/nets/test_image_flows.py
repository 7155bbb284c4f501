"""Flows of images: inverse, log-determinant and density against float64 and numpy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import zuko
from perturbed import perturbed, seeded
from scipy import stats
from torch import nn
from torch.nn.functional import pixel_unshuffle

from cfexplain.nets.flow_nets import ImageFlowNet
from cfexplain.nets.image_flows import Couple, LogitPixels, MultiScale, Step

MIXINGS = {"glow": "conv", "realnvp": "masks"}


def multi_scale(shape=(1, 8, 8), kind="glow", size=0.15, **options):
    options = {"levels": 2, "steps": 2, "hidden": 8, **options}
    return perturbed(seeded(lambda: MultiScale(shape, mixing=MIXINGS[kind], **options)), size).double()


def image_net(shape=(1, 8, 8), kind="glow", size=0.15, **options):
    options = {"levels": 2, "steps": 2, "hidden": 8, **options}
    return perturbed(seeded(lambda: ImageFlowNet(shape, mixing=MIXINGS[kind], **options)), size).double()


def normal(*shape, seed=1, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def pixels(*shape, seed=1, low=0.0, high=1.0):
    """Whole values of 8 bits."""
    u = np.random.default_rng(seed).integers(0, 256, size=shape) / 255
    return torch.from_numpy(low + (high - low) * u)


def slogdet(push, x):
    """log |det ∂z/∂x| of one row by automatic differentiation and LU."""
    x = x.detach()
    jacobian = torch.autograd.functional.jacobian(lambda row: push(row[None])[0][0], x[0], vectorize=True)
    return torch.linalg.slogdet(jacobian.reshape(x[0].numel(), -1))[1]


@pytest.mark.parametrize(("kind", "affine", "blocks", "channels", "levels"), list(itertools.product(
    ["glow", "realnvp"], [True, False], [0, 1], [1, 3], [1, 2, 3])))
def test_every_flow_is_inverted_and_knows_its_determinant(kind, affine, blocks, channels, levels):
    side = 8 if levels == 3 else 4
    flow = multi_scale((channels, side, side), kind, 0.1, affine=affine, blocks=blocks, levels=levels)
    x, z = normal(5, channels, side, side), normal(5, channels * side * side, seed=2)
    shift, log_scale = flow.levels[0][0].couple(pixel_unshuffle(x, 2)[:, : 2 * channels])
    assert shift.abs().max() > 0.15 and (log_scale is None or log_scale.abs().max() > 0.15)  # far from the identity
    with torch.no_grad():
        code, ladj = flow.push(x)
        assert code.shape == z.shape and ladj.shape == (5,)
        assert (flow.pull(code) - x).abs().max() <= 1e-10
        assert (flow.push(flow.pull(z))[0] - z).abs().max() <= 1e-6  # noise makes far-off images: x of 10^4
        assert (flow.pull(flow.encode(x, whiten=False), whiten=False) - x).abs().max() <= 1e-10
        torch.testing.assert_close(flow.encode(x), code, rtol=0, atol=0)
    if channels == 1 or levels == 1:  # a Jacobian of more than 64 columns adds time and nothing else
        torch.testing.assert_close(ladj[0], slogdet(flow.push, x[:1]), rtol=1e-9, atol=1e-8)
    single = flow.float()
    with torch.no_grad():
        assert (single.pull(single.push(x.float())[0]) - x.float()).abs().max() <= 1e-4


@pytest.mark.parametrize("kind", ["glow", "realnvp"])
@pytest.mark.parametrize("levels", [1, 2])
def test_gradients_are_those_of_finite_differences(kind, levels):
    flow = multi_scale((1, 4, 4), kind, levels=levels, blocks=1)
    assert torch.autograd.gradcheck(flow.push, (normal(2, 1, 4, 4).requires_grad_(),))
    assert torch.autograd.gradcheck(flow.pull, (normal(2, 16).requires_grad_(),))


def test_weights_learn_through_the_determinant():
    """Every weight has the gradient that finite differences say."""
    flow, x = multi_scale((1, 4, 4), levels=2, steps=1), normal(3, 1, 4, 4)

    def loss():
        z, ladj = flow.push(x)
        return (z.square().sum(1) - ladj).sum()

    names, weights = zip(*flow.named_parameters(), strict=True)
    for name, weight, gradient in zip(names, weights, torch.autograd.grad(loss(), weights), strict=True):
        largest = int(gradient.abs().argmax())
        with torch.no_grad():
            ends = [float((weight.view(-1)[largest].add_(step), loss())[1]) for step in (1e-6, -2e-6)]
            weight.view(-1)[largest].add_(1e-6)
        assert float(gradient.view(-1)[largest]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5), name


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("steps", [2, 3, 5, 12])
def test_masks_reach_every_pixel(channels, steps):
    flow = MultiScale((channels, 4, 4), levels=1, steps=steps, hidden=4, mixing="masks", affine=False)
    for step in flow.levels[0]:
        nn.init.ones_(step.couple.net[-1].bias)  # each coupling now adds 1 to what it changes
    times = flow.push(torch.zeros(1, channels, 4, 4))[0].detach()
    assert times.min() >= 1 and float(times.sum()) == steps * times.numel() / 2


def test_the_first_masks_are_checkerboards():
    flow = MultiScale((1, 4, 4), levels=1, steps=1, hidden=4, mixing="masks", affine=False)
    nn.init.ones_(flow.levels[0][0].couple.net[-1].bias)
    values = flow.push(10 * torch.arange(16.0).view(1, 1, 4, 4))[0].flatten().int()
    changed = torch.zeros(16, dtype=torch.bool)
    changed[values // 10] = values % 10 == 1
    row, column = torch.arange(16) // 4, torch.arange(16) % 4
    assert torch.equal(changed, (row + column) % 2 == 1)


def test_the_first_batch_sets_mean_0_and_deviation_1():
    flow, x = multi_scale((3, 8, 8), steps=3), 5 + 3 * normal(40, 3, 8, 8)
    flow.initialise(x)
    for level, steps in enumerate(flow.levels):
        x = pixel_unshuffle(x, 2)
        for step in steps:
            normed = (x + step.bias) * step.log_scale.exp()
            torch.testing.assert_close(normed.mean((0, 2, 3)), torch.zeros(x.shape[1]).double(), atol=1e-10, rtol=0)
            torch.testing.assert_close(normed.std((0, 2, 3)), torch.ones(x.shape[1]).double(), atol=1e-5, rtol=0)
            x = step.push(x)[0]
        x = x[:, : x.shape[1] // 2] if level == 0 else x


def test_a_mixing_starts_as_a_rotation():
    step = seeded(lambda: Step(12, 4)).double()
    mixing = step._mixing()
    torch.testing.assert_close(mixing @ mixing.T, torch.eye(12).double(), atol=1e-6, rtol=0)
    assert step.push(normal(1, 12, 2, 2))[1].abs() < 1e-5


def test_bfloat16_is_for_training_only():
    a = normal(2, 2, 4, 4, dtype=torch.float32)
    full, half = (perturbed(seeded(lambda p=p: Couple(2, 2, 8, precision=p))) for p in ("float32", "bfloat16"))
    assert torch.equal(half(a)[0], full(a)[0]) and torch.equal(half(a)[1], full(a)[1])
    shift = half.train()(a)[0]
    assert shift.dtype == torch.float32 and not torch.equal(shift, full(a)[0])
    torch.testing.assert_close(shift, full(a)[0], atol=0.05, rtol=0.05)


def test_scales_of_a_coupling_are_bounded():
    couple = perturbed(Couple(2, 2, 8), size=2.0)
    assert couple(100 * normal(4, 2, 4, 4, dtype=torch.float32))[1].abs().max() <= 2


@pytest.mark.parametrize(("shape", "levels", "words"), [
    ((1, 12, 12), 3, "12x12 can be halved 2 times. Choose levels <= 2, or sides that are multiples of 8"),
    ((3, 8, 20), 3, "8x20 can be halved 2 times"), ((1, 7, 8), 1, "7x8 can be halved 0 times"),
    ((1, 8, 8), 0, "levels=0 must be at least 1")])
def test_sides_that_levels_do_not_divide(shape, levels, words):
    with pytest.raises(ValueError, match=words):
        MultiScale(shape, levels=levels, steps=1, hidden=4)


def density(*transforms):
    base = zuko.lazy.UnconditionalDistribution(
        zuko.distributions.DiagNormal, torch.zeros(64).double(), torch.ones(64).double(), buffer=True)
    return zuko.lazy.Flow(list(transforms) if len(transforms) > 1 else transforms[0], base)


def test_no_rows_are_rows_too():
    flow = multi_scale((3, 8, 8))
    z, ladj = flow().call_and_ladj(torch.zeros(0, 3, 8, 8).double())
    assert z.shape == (0, 192) and ladj.shape == (0,) and flow().inv(z).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_a_zuko_density_of_any_batch(batch):
    flow = multi_scale()
    p = density(flow)()
    assert p.event_shape == (1, 8, 8) and p.batch_shape == ()
    x, log_p = seeded(lambda: p.rsample_and_log_prob(batch))
    assert x.shape == (*batch, 1, 8, 8) and log_p.shape == batch and x.requires_grad
    assert seeded(lambda: p.rsample(batch)).shape == x.shape
    torch.testing.assert_close(p.log_prob(x), log_p)
    rows = x.reshape(-1, 1, 8, 8)
    z, ladj = flow.push(rows)
    by_scipy = stats.norm.logpdf(z.detach().numpy()).sum(1) + ladj.detach().numpy()
    np.testing.assert_allclose(log_p.detach().numpy().reshape(-1), by_scipy)
    assert p.transform.forward_shape(x.shape) == z.reshape(*batch, 64).shape
    assert p.transform.inverse_shape((*batch, 64)) == x.shape


def test_transforms_compose_and_invert():
    flow, v = multi_scale(), pixels(3, 1, 8, 8) * 0.9 + 0.05
    composed = density(LogitPixels(), flow)()
    middle, of_pixels = LogitPixels().push(v)
    torch.testing.assert_close(composed.log_prob(v), density(flow)().log_prob(middle) + of_pixels)
    torch.testing.assert_close(flow.inv()(flow()(v)), v)
    torch.testing.assert_close(flow.inv.inv()(v), flow.push(v)[0])
    torch.testing.assert_close(flow().inv.log_abs_det_jacobian(flow()(v), v), -flow.push(v)[1])
    with_steps = density(seeded(lambda: Step(4, 4).double()), multi_scale((4, 4, 4)))()
    assert with_steps.event_shape == (4, 4, 4)
    x = seeded(lambda: with_steps.rsample((5,)))
    torch.testing.assert_close(with_steps.log_prob(x)[0], with_steps.log_prob(x[0]))


@pytest.mark.parametrize("data_range", [(0.0, 1.0), (-1.0, 3.0)])
@pytest.mark.parametrize("kind", ["glow", "realnvp"])
def test_log_density_of_pixels(kind, data_range):
    net = image_net(kind=kind, data_range=data_range)
    x = pixels(3, 1, 8, 8, low=data_range[0], high=data_range[1])
    z, ladj = net.push(x)
    torch.testing.assert_close(ladj[0], slogdet(net.push, x[:1]))
    np.testing.assert_allclose(net.log_prob(x).detach(), stats.norm.logpdf(z.detach()).sum(1) + ladj.detach().numpy())
    assert (net.pull(z) - x).abs().max() <= 1e-10 * (data_range[1] - data_range[0])
    torch.testing.assert_close(net.encode(x), z, rtol=0, atol=0)
    assert torch.equal(net.posterior(x)[1], torch.zeros_like(z))
    single = net.float()
    assert (single.pull(single.encode(x.float())) - x).abs().max() <= 1e-4 * (data_range[1] - data_range[0])


def test_logits_are_those_of_realnvp():
    v = pixels(2, 1, 4, 4)
    y, ladj = LogitPixels().push(v)
    p = 0.05 + 0.9 * v.numpy()
    np.testing.assert_allclose(y, np.log(p / (1 - p)))
    np.testing.assert_allclose(ladj, np.log(0.9 / (p * (1 - p))).sum((1, 2, 3)))
    ends = LogitPixels().pull(torch.tensor([-60.0, 60.0]).double())
    np.testing.assert_allclose(ends, [-0.05 / 0.9, 1 + 0.05 / 0.9])


def test_whitened_or_not_is_one_density_in_two_codes():
    white, raw = (image_net(levels=3, whiten=whiten, size=0.05) for whiten in (True, False))
    x, z = pixels(6, 1, 8, 8), normal(6, 64)
    with torch.no_grad():
        torch.testing.assert_close(raw.log_prob(x), white.log_prob(x), rtol=0, atol=0)
        of_white, of_raw = white.encode(x), raw.encode(x)
        assert (of_white - of_raw)[:, :48].abs().max() > 0.1  # what left early; what stayed to the end is the same
        assert torch.equal(of_white[:, 48:], of_raw[:, 48:])
        for net in (white, raw):
            assert (net.decode(net.encode(x)) - x).abs().max() <= 1e-10
        # a code drawn from N(0, I) is what its own image is encoded to
        assert (white.encode(white.decode(z)) - z).abs().max() <= 1e-9
        torch.testing.assert_close(raw.whitened(of_raw), of_white)
        assert torch.equal(white.whitened(of_white), of_white)


@pytest.mark.parametrize(("shape", "levels", "padded"), [((1, 9, 11), 2, (12, 12)), ((2, 5, 8), 3, (8, 8))])
def test_padding_comes_back_off(shape, levels, padded):
    net, x = image_net(shape, levels=levels, pad=True), pixels(4, *shape)
    z = net.encode(x)
    assert net.latent_dim == z.shape[1] == shape[0] * math.prod(padded)
    assert net.decode(z).shape == x.shape and (net.decode(z) - x).abs().max() <= 1e-10
    framed, (left, right, top, bottom) = net.bins(x), net.padding
    inside = framed[:, :, top : framed.shape[2] - bottom, left : framed.shape[3] - right]
    np.testing.assert_allclose(inside, (255 * x + 0.5) / 256)
    assert torch.equal(framed[:, :, 0, left], inside[:, :, 0, 0])


@pytest.mark.parametrize("n_bits", [8, 5])
def test_bits_per_dim(n_bits):
    """Against NumPy, and in closed form for a flow that only permutes pixels."""
    net = image_net(n_bits=n_bits, data_range=(-1.0, 1.0))
    still = ImageFlowNet((1, 8, 8), levels=1, steps=2, hidden=4, mixing="masks", n_bits=n_bits).double()
    x = pixels(6, 1, 8, 8)
    noise = seeded(lambda: torch.rand(6, 1, 8, 8, dtype=torch.float64)).numpy()
    v = (np.floor(255 * x.numpy() / 2 ** (8 - n_bits) + 1e-9) + noise) / 2**n_bits
    p = 0.05 + 0.9 * v
    y, ladj = np.log(p / (1 - p)), np.log(0.9 / (p * (1 - p))).sum((1, 2, 3))
    np.testing.assert_allclose(seeded(lambda: still.bits_per_dim(x)).detach(), n_bits - (
        stats.norm.logpdf(y).sum((1, 2, 3)) + ladj) / (64 * np.log(2)))
    z, of_flow = (out.detach().numpy() for out in net.flow.push(torch.from_numpy(y)))
    expected = n_bits - (stats.norm.logpdf(z).sum(1) + ladj + of_flow) / (64 * np.log(2))
    np.testing.assert_allclose(seeded(lambda: net.bits_per_dim(2 * x - 1)).detach(), expected)
    # a density in v is one in x, but for the scale: 256 bins of width 2 / 255
    middle = net._push(net.bins(2 * x - 1))
    torch.testing.assert_close(net.push(2 * x - 1)[1] - middle[1], torch.full((6,), 64 * math.log(255 / 256 / 2)).double())
