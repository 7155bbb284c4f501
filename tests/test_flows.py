"""Exact flows: inverse, log-determinant and density against float64 and numpy; training that can be interrupted."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
import zuko
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn
from torch.nn.functional import pixel_unshuffle

from cfexplain.coordinates import Flow
from cfexplain.coordinates.detail import CLIP_MODES, clipped
from cfexplain.density import Prior
from cfexplain.foundation.tiles import aligned
from cfexplain.nets.flow_nets import ImageFlowNet, VectorFlowNet
from cfexplain.nets.image_flows import Couple, LogitPixels, MultiScale, Step
from cfexplain.nets.training import train_network
from cfexplain.nets.training_callbacks import ClipGradients

MIXINGS = {"glow": "conv", "realnvp": "masks"}


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def perturbed(module, size=0.15, seed=0):
    """`module` with noise on every weight: couplings start at the identity, where every inverse is right."""
    def noise():
        with torch.no_grad():
            for parameter in module.parameters():
                fan = parameter.shape[1] if parameter.ndim == 2 else 1  # keeps mixing matrices well conditioned
                parameter.add_(size * fan**-0.5 * torch.randn(parameter.shape).to(parameter))
    seeded(noise, seed)
    return module.eval()


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


# ------------------------------------------------------------------ transforms
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


# ------------------------------------------------------------- a zuko density
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


# ------------------------------------------------------------- flows of pixels
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


# ------------------------------------------------------------- flows of tables
@pytest.mark.parametrize("architecture", ["coupling", "spline"])
@pytest.mark.parametrize("columns", [1, 2, 5])
def test_columns_of_any_unit(architecture, columns):
    rng = np.random.default_rng(0)
    X = np.column_stack([1e9 + rng.normal(size=80), *rng.normal(size=(max(0, columns - 1), 80)), np.full(80, 7.25)])
    net = VectorFlowNet(columns + 1, architecture=architecture, steps=2, hidden=(8,)).double()
    seeded(lambda: net.set_columns(X))
    perturbed(net)
    x = torch.from_numpy(X)
    z, ladj = net.push(x)
    assert z.shape == x.shape and (z[:, 0].std() > 0.1) and (z[:, -1] == 0).all()
    back = (net.pull(z) - x).abs()
    assert back[:, 0].max() <= 4 * np.spacing(1e9) and (columns == 1 or back[:, 1:].max() <= 1e-10)
    torch.testing.assert_close(ladj[0], slogdet(net.push, x[:1]))
    torch.testing.assert_close(net.log_prob(x), torch.from_numpy(
        stats.norm.logpdf(z.detach().numpy()).sum(1)) + ladj)
    assert torch.autograd.gradcheck(net.push, (x[:2].clone().requires_grad_(),), eps=1e-3, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("columns", "architecture"), [(1, "coupling"), (2, "coupling"), (2, "spline")])
def test_densities_of_tables_integrate_to_1(columns, architecture):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, columns)) * 20 + 40 * rng.integers(0, 2, size=(300, 1)) + 500
    flow = Flow(architecture, steps=2, hidden=(16,), training_budget=0.01, random_state=0).fit(X)
    axis = np.linspace(-7, 7, 281 if columns == 1 else 141)
    grid = X.mean(0) + X.std(0) * np.stack(np.meshgrid(*[axis] * columns), -1).reshape(-1, columns)
    log_p = flow.score_samples(grid) if columns == 1 else flow.log_prob(torch.from_numpy(grid)).numpy()
    np.testing.assert_allclose(np.exp(log_p).sum() * np.prod(X.std(0) * (axis[1] - axis[0])), 1, atol=0.01)
    np.testing.assert_allclose(flow.score_samples(grid[:50]), flow.log_prob(torch.from_numpy(grid[:50])), rtol=1e-10)


# --------------------------------------------------------------- the estimator
@pytest.fixture(scope="module")
def trained():
    """One of each kind after a few updates, with noise on the weights: far from the identity."""
    rng = np.random.default_rng(0)
    grey = (load_digits().images[:90] / 16).astype(np.float32)
    colour = rng.random((90, 3, 12, 12))
    table = rng.normal(size=(90, 5)) * [1, 1e-6, 1e6, 1, 0] + [0, 0, 1e9, 0, 7.25]
    tiny = {"training_budget": 0.0005, "random_state": 0}
    flows = {
        "glow": (Flow("glow", steps=2, hidden=8, **tiny), grey),
        "realnvp": (Flow("realnvp", steps=2, hidden=8, blocks=1, **tiny), colour),
        "not whitened": (Flow(steps=1, hidden=8, whiten=False, affine=False, **tiny), grey),
        "padded": (Flow(steps=1, hidden=8, pad=True, levels=2, **tiny), grey[:, :7, :5]),
        "coupling": (Flow(steps=2, hidden=(8, 8), **tiny), table),
        "spline": (Flow("spline", steps=2, hidden=(8,), **tiny), table),
    }
    for flow, X in flows.values():
        perturbed(flow.fit(X).module_, size=0.1)
    return flows


KINDS = ["glow", "realnvp", "not whitened", "padded", "coupling", "spline"]


@parametrize_with_checks([Flow(training_budget=0.002, steps=1, hidden=(8,), random_state=0)])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_and_tensors_agree(trained, kind):
    flow, X = trained[kind]
    Z = flow.transform(X)
    back = flow.inverse_transform(Z)
    assert Flow.exact and Z.shape == (len(X), flow.latent_dim_) and Z.dtype == X.dtype == back.dtype
    assert back.shape == X.shape
    assert (np.abs(back - X) <= 1e-4 * (X.std(0) if X.ndim == 2 else 1)).all()
    x = torch.from_numpy(X[:4]).reshape(-1, *flow.layout_.net_shape)
    z = flow.encode(x).requires_grad_()
    np.testing.assert_allclose(z.detach(), Z[:4], rtol=1e-3, atol=1e-4)
    (gradient,) = torch.autograd.grad(flow.decode(z).sum(), z)
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0
    log_p = flow.score_samples(X)
    assert log_p.shape == (len(X),) and np.isfinite(log_p).all()
    np.testing.assert_allclose(flow.log_prob(x).detach(), log_p[:4], rtol=1e-4)
    # change of variables: the code's own log prior and the log-determinant
    torch.testing.assert_close(flow.log_prior(z) + flow.module_.push(x)[1], flow.log_prob(x), rtol=1e-4, atol=1e-3)
    assert not flow.module_.training and not any(p.requires_grad for p in flow.module_.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_bits_in_any_company(trained, kind):
    flow, X = trained[kind]
    X = X[:40].reshape(40, *flow.layout_.net_shape)
    order = np.random.default_rng(1).permutation(40)
    Z, log_p = flow.encode_dataset(X)[0], flow.score_samples(X.reshape(40, *flow.layout_.user_shape))
    back = flow.inverse_transform(Z)
    for some in (order[:1], order[:7], order):
        np.testing.assert_array_equal(flow.encode_dataset(X[some])[0], Z[some])
        np.testing.assert_array_equal(flow.score_samples(X[some].reshape(-1, *flow.layout_.user_shape)), log_p[some])
        np.testing.assert_array_equal(flow.inverse_transform(Z[some]), back[some])


@pytest.mark.parametrize("kind", KINDS)
def test_a_rows_gradient_has_the_same_bits_at_any_place_of_a_tile(trained, kind):
    flow, X = trained[kind]
    z = torch.from_numpy(flow.transform(X[:32])).requires_grad_()
    order = torch.from_numpy(np.random.default_rng(2).permutation(32))
    weight = torch.linspace(-1, 1, X[0].size, dtype=z.dtype).view(flow.layout_.net_shape)
    with aligned():
        straight, shuffled = (torch.autograd.grad(
            (flow.decode(rows) * weight).sum() + flow.log_prior(rows).sum(), z)[0] for rows in (z, z[order]))
    assert torch.equal(straight, shuffled)


@pytest.mark.parametrize("kind", KINDS)
def test_clones_and_pickles(trained, kind):
    flow, X = trained[kind]
    again, fresh = pickle.loads(pickle.dumps(flow)), clone(flow)
    np.testing.assert_array_equal(again.score_samples(X), flow.score_samples(X))
    assert not hasattr(fresh, "module_") and fresh.get_params() == flow.get_params()


@pytest.mark.parametrize("kind", KINDS)
def test_samples(trained, kind):
    flow, X = trained[kind]
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    some, same, other = (flow.sample(3, random_state=seed) for seed in (0, 0, 1))
    assert some.shape == (3, *X.shape[1:]) and some.dtype == X.dtype
    np.testing.assert_array_equal(some, same)
    assert not np.allclose(some, other) and flow.sample().shape == (1, *X.shape[1:])
    if kind not in ("not whitened", "padded"):  # the code of a sample is the standard normal number it was made of
        z = np.random.RandomState(np.random.RandomState(0).randint(2**31 - 1)).standard_normal((3, flow.latent_dim_))
        np.testing.assert_allclose(flow.inverse_transform(z.astype(X.dtype)), some)
        cold = flow.module_.encode(torch.from_numpy(flow.sample(3, temperature=0.5, random_state=0)).reshape(
            3, *flow.layout_.net_shape))
        np.testing.assert_allclose(cold, 0.5 * z, atol=2e-3)
    assert torch.equal(torch.get_rng_state(), state[0]) and (np.random.get_state()[1] == state[1]).all()


@pytest.mark.parametrize("X", [np.random.default_rng(0).random((30, 4, 4)), np.random.default_rng(0).random((30, 3))],
                         ids=["images", "table"])
def test_training_follows_the_seed_and_leaves_the_global_generators_alone(X):
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    options = {"steps": 1, "hidden": 4 if X.ndim == 3 else (4,), "training_budget": 0.001}
    scores = [Flow(random_state=seed, **options).fit(X).score_samples(X) for seed in (0, 0, 1, None)]
    assert torch.equal(torch.get_rng_state(), state[0]) and (np.random.get_state()[1] == state[1]).all()
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.allclose(scores[0], scores[2])


def test_training_lowers_bits_per_dim():
    X = (load_digits().images[:200] / 16).astype(np.float32)
    flow, more = (Flow(steps=1, hidden=16, training_budget=budget, random_state=0).fit(X) for budget in (0.0001, 0.006))
    before, after = (each.bits_per_dim(X[:64]) for each in (flow, more))
    assert before.shape == (64,) and after.mean() < before.mean() - 0.2
    np.testing.assert_array_equal(more.bits_per_dim(X[:64], random_state=0), after)
    assert not np.array_equal(more.bits_per_dim(X[:64], random_state=1), after)
    assert more.history_[-1]["valid_loss"] < more.history_[0]["valid_loss"]
    assert after.mean() == pytest.approx(more.history_[-1]["valid_loss"], abs=0.3)  # the history holds bits per dimension


def test_flat_rows_with_an_image_shape_are_the_images():
    X, tiny = np.random.default_rng(0).random((20, 4, 6)), {"steps": 1, "hidden": 4, "training_budget": 1e-4}
    flat = Flow(image_shape=(1, 4, 6), random_state=0, **tiny).fit(X.reshape(20, 24))
    square = Flow(random_state=0, **tiny).fit(X)
    np.testing.assert_array_equal(flat.transform(X.reshape(20, 24)), square.transform(X))
    assert flat.sample(2).shape == (2, 24)


@pytest.mark.parametrize(("options", "shape", "words"), [
    ({}, (9, 11), "9x11 has an odd side. Pass pad=True"), ({"levels": 1}, (9, 11), "Pass pad=True"),
    ({"levels": 3}, (12, 12), "12x12 can be halved 2 times"), ({"architecture": "coupling"}, (8, 8), "not for images"),
    ({"architecture": "glow"}, (3,), "not for tables"), ({"levels": 2}, (3,), "levels= is for flows of images"),
    ({"size": "large"}, (8, 8), "choose 'small' or 'paper'"), ({"precision": "half"}, (8, 8), "bfloat16"),
    ({"hidden": 8}, (3,), "tables the widths"), ({"hidden": (8,)}, (8, 8), "images take one number"),
    ({"n_bits": 0}, (8, 8), "n_bits=0 must be positive"), ({"training_budget": 0}, (3,), "training_budget=0"),
    ({"ema": 1.0}, (3,), "ema=1.0"), ({"noise": -1.0}, (3,), "noise=-1.0"), ({"data_range": (1, 0)}, (8, 8), "low < high")])
def test_errors_say_what_works(options, shape, words):
    with pytest.raises(ValueError, match=words):
        Flow(**{"steps": 1, "training_budget": 1e-4, **options}).fit(np.random.default_rng(0).random((5, *shape)))


def test_errors_of_data():
    with pytest.raises(ValueError, match="n_samples=1"):
        Flow().fit(np.zeros((1, 4, 4)))
    with pytest.raises(ValueError, match="constant"):
        Flow().fit(np.ones((5, 3)))
    for call in (lambda flow: flow.score_samples([[0.0]]), lambda flow: flow.bits_per_dim([[0.0]]), Flow.sample):
        with pytest.raises(NotFittedError):
            call(Flow())
    table = Flow(training_budget=1e-3, steps=1, hidden=(4,)).fit(np.random.default_rng(0).random((9, 2)))
    with pytest.raises(ValueError, match="see score_samples"):
        table.bits_per_dim(np.zeros((1, 2)))


def test_the_prior_ranks_whitened_codes(trained):
    flow, X = trained["not whitened"]
    Z, labels = flow.transform(X), np.arange(len(X)) % 2
    prior = Prior(flow).fit(Z, labels)
    with torch.no_grad():
        x = torch.from_numpy(X)[:, None]
        white = flow.module_.flow.push(flow.module_.logits.push(flow.module_.bins(x))[0])[0]
    np.testing.assert_allclose(prior.score_samples(Z), stats.norm.logpdf(white).sum(1), rtol=1e-4)
    np.testing.assert_array_equal(prior.score_samples(Z.astype(float)), prior.score_samples(Z))
    densest = prior.score_samples(Z)[labels == 1].max()
    assert prior.percentile(densest, 1) == 100 and len(prior.log_densities_[0]) == 45


# ------------------------------------------------------------------ clip modes
def test_clip_modes():
    x = torch.tensor([[-0.5, 0.2, 2.5]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    for mode, kept in zip(CLIP_MODES, ([1, 1, 1], [0, 1, 0], [1, 1, 1]), strict=True):
        y = clipped(x, mode, (0.0, 2.0))
        np.testing.assert_array_equal(y.detach(), np.clip(x.detach().numpy(), *((-9, 9) if mode == "none" else (0, 2))))
        (gradient,) = torch.autograd.grad((y * weight).sum(), x)
        assert torch.equal(gradient, weight * torch.tensor(kept))
    with pytest.raises(ValueError, match="clip='hard' is not known"):
        clipped(x, "hard", (0.0, 1.0))


# -------------------------------------------------------------------- training
class Interrupted(Exception):
    pass


class Recorder:
    """A loss with noise of its own; records the weights that it saw, and fails at the call it is told to."""

    def __init__(self, stop_at=None, nan_at=None):
        self.calls, self.stop_at, self.nan_at = 0, stop_at, nan_at
        self.training, self.validation = [], []

    def __call__(self, module, rows, progress):
        weights = torch.cat([p.detach().flatten() for p in module.parameters()]).numpy().copy()
        (self.training if module.training else self.validation).append(weights)
        if module.training:
            self.calls += 1
            if self.calls == self.stop_at:
                raise Interrupted
        x = rows["x"] + 0.1 * torch.randn_like(rows["x"])
        loss = (module(x)[:, 0] - rows["y"]).square()
        return loss * float("nan") if module.training and self.calls == self.nan_at else loss


def train(loss, **options):
    """Two layers on 60 rows: 54 to train, 6 batches an epoch, 5 epochs; returns weights and losses."""
    rng = np.random.default_rng(0)
    rows = {"x": torch.from_numpy(rng.normal(size=(60, 2))).float(), "y": torch.from_numpy(rng.normal(size=60)).float()}
    net = seeded(lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)))
    history = train_network(net, loss, rows, **{"updates": 30, "seed": 3, "batch_size": 9, "lr": 0.05, **options})
    weights = torch.cat([p.flatten() for p in net.parameters()]).numpy()
    return weights, [(row["epoch"], row["train_loss"], row.get("valid_loss")) for row in history]


@pytest.mark.parametrize("options", [{}, {"ema": 0.9}, {"ema": 0.9, "validation_fraction": 0.0},
                                     {"ema": 0.5, "patience": 2, "lr": 1.0, "updates": 60}], ids=str)
def test_an_interrupted_training_ends_in_the_same_bits(tmp_path, options):
    path = tmp_path / "training.ckpt"
    wanted, losses = train(Recorder(), **options)
    with pytest.raises(Interrupted):
        train(Recorder(stop_at=15), checkpoint=path, **options)  # in the third epoch
    assert path.exists()
    rest = Recorder()
    weights, again = train(rest, checkpoint=path, **options)
    np.testing.assert_array_equal(weights, wanted)
    assert again == losses and not path.exists()
    assert rest.calls == (7 if "validation_fraction" in options else 6) * (len(losses) - 2)
    assert len(losses) == (6 if "patience" in options else 5)  # of 10
    assert list(tmp_path.iterdir()) == []


def test_a_batch_without_a_finite_gradient_is_left_out_and_remembered(tmp_path):
    loss = Recorder(nan_at=4)
    _, losses = train(loss, updates=30)
    np.testing.assert_array_equal(loss.training[4], loss.training[3])
    assert not np.array_equal(loss.training[5], loss.training[4]) and np.isfinite(loss.training[-1]).all()
    assert np.isnan(losses[0][1]) and np.isfinite(losses[1][1])
    with pytest.raises(Interrupted):
        train(Recorder(nan_at=4, stop_at=15), checkpoint=tmp_path / "a", validation_fraction=0.0)
    assert len(train(Recorder(), checkpoint=tmp_path / "a", validation_fraction=0.0)[1]) == 5


def test_gradients_are_clipped_to_the_limit():
    weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    weights[0].grad, weights[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])
    ClipGradients(2.6).on_grad_computed(None, iter(enumerate(weights)))
    np.testing.assert_allclose(torch.cat([w.grad for w in weights[:2]]), [0.6, 0.8, 2.4], rtol=1e-5)
    weights[1].grad[0] = float("inf")
    ClipGradients(2.6).on_grad_computed(None, iter(enumerate(weights)))
    assert all(w.grad is None for w in weights)


def test_the_average_is_the_recursion_of_the_weights(decay=0.9):
    loss = Recorder()
    weights, losses = train(loss, ema=decay)
    per_epoch, epochs = 6, 5
    assert len(loss.training) == per_epoch * epochs and len(loss.validation) == epochs
    slow, averages = loss.training[0].astype(float), []
    for k, fast in enumerate(loss.training[1:], start=1):  # the weights after k updates
        share = min(decay, k / (k + 50))
        slow = share * slow + (1 - share) * fast
        if k % per_epoch == 0:
            averages.append(slow)
    for seen, average in zip(loss.validation, averages, strict=False):
        np.testing.assert_allclose(seen, average, rtol=1e-4, atol=1e-6)
    best = int(np.argmin([valid for _, _, valid in losses]))
    np.testing.assert_array_equal(weights, loss.validation[best])


@pytest.mark.parametrize("content", ["empty", "text", "truncated", "list", "tensor", "network", "seed", "no average"])
def test_a_foreign_checkpoint_is_refused_and_kept(tmp_path, content):
    path, options = tmp_path / "training.ckpt", {}
    with pytest.raises(Interrupted):
        train(Recorder(stop_at=15), checkpoint=path)
    if content == "empty":
        path.write_bytes(b"")
    elif content == "text":
        path.write_text("not a checkpoint\n")
    elif content == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif content in ("list", "tensor", "network"):
        state = torch.load(path)
        state["module"] = {"weight": torch.zeros(3)}
        torch.save({"list": [1, 2], "tensor": torch.zeros(2), "network": state}[content], path)
    else:
        options = {"seed": {"seed": 4}, "no average": {"ema": 0.9}}[content]
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"training.ckpt is not of this training: .+ Remove it, or pass another"):
        train(Recorder(), checkpoint=path, **options)
    assert path.read_bytes() == before


@pytest.mark.parametrize("X", [np.random.default_rng(0).random((40, 4, 4)), np.random.default_rng(0).random((40, 3))],
                         ids=["images", "table"])
def test_an_interrupted_flow_goes_on(tmp_path, X):
    class Failing(Flow):
        def _image_loss(self, net, rows, progress):
            if progress > 0.75 and net.training:
                raise Interrupted
            return super()._image_loss(net, rows, progress)

        def _table_loss(self, net, rows, progress):
            if progress > 0.75 and net.training:
                raise Interrupted
            return super()._table_loss(net, rows, progress)

    options = {"steps": 1, "hidden": 4 if X.ndim == 3 else (4,), "batch_size": 16, "random_state": 0,
               "training_budget": 0.001 if X.ndim == 3 else 0.004, "checkpoint": tmp_path / "flow"}
    wanted = Flow(**options).fit(X).score_samples(X)
    with pytest.raises(Interrupted):
        Failing(**options).fit(X)
    assert (tmp_path / "flow").exists()
    np.testing.assert_array_equal(Flow(**options).fit(X).score_samples(X), wanted)
    assert not (tmp_path / "flow").exists()


def test_the_held_learning_rate_rises_stays_and_falls():
    from cfexplain.nets.training import _schedule

    rates = _schedule("hold", 1.0, 1000).simulate(1000, 1.0)
    np.testing.assert_allclose(rates[:3], [1 / 200, 2 / 200, 3 / 200])
    np.testing.assert_allclose(rates[200:600], 1.0)
    np.testing.assert_allclose(rates[800], 0.5)
    assert rates[-1] == 0.02 and (np.diff(rates[600:]) <= 0).all()
