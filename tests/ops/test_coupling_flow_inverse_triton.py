"""The kernels of the flow's inverse and its VJP: on a GPU, or in Triton's interpreter, against float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="needs Triton: pip install triton")

from coupling_flows import codes, nice, perturbed
from flow_kernels import DEVICE, FLOWS, on_device

from cfexplain import DiffeomorphicExplainer
from cfexplain.coordinates import Flow
from cfexplain.explainers.backends import make_engine
from cfexplain.nets.flow_nets import VectorFlowNet
from cfexplain.ops.coupling_flow import differentiable
from cfexplain.ops.coupling_flow.triton import ROWS, prepare


def computed(flow, u, c, v):
    z, tape = flow.inverse(u.to(DEVICE), c.to(DEVICE), keep=True)
    return z.cpu(), flow.inverse_vjp(tape, v.to(DEVICE)).cpu()


def points(flow, n):
    """Base codes, their classes, and vectors to multiply Jacobians with."""
    z, c = codes(flow, n)
    return flow.to_base(z, c).detach(), c, torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).to(z)


def by_autograd(inverse, u, v):
    """``inverse(u)`` and vᵀ ∂/∂u of it from zuko, in float64."""
    u = u.double().requires_grad_()
    z = inverse(u)
    return z.detach(), torch.autograd.grad(z, u, v.double())[0]


def of_class_flow(flow, u, c, v):
    exact = copy.deepcopy(flow).double()
    return by_autograd(lambda u: exact.from_base(u, c), u, v)


def assert_near(found, expected, rtol=2e-5):
    """Of every row the code, of nineteen in twenty the VJP: a unit near its kink may fall on either side."""
    for values, truth, share in zip(found, expected, (1.0, 0.95), strict=True):
        assert torch.isfinite(values).all()
        relative = (values - truth).norm(dim=1) / truth.norm(dim=1)
        assert relative.sort().values[int(share * (len(relative) - 1))] <= rtol


@pytest.mark.parametrize("name", FLOWS)
def test_codes_and_their_vjps_are_zukos(name, poisoned):
    flow = FLOWS[name]()
    u, c, v = points(flow, 40)
    kernel = on_device(flow)
    found = computed(kernel, u, c, v)
    assert_near(found, of_class_flow(flow, u, c, v))
    z, nothing = kernel.inverse(u.to(DEVICE), c.to(DEVICE))
    assert nothing == [] and torch.equal(z.cpu(), found[0])


@pytest.mark.parametrize("n", [0, 1, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 3])
def test_any_number_of_rows(n, poisoned):
    flow = nice(5, 3, 2, (9,))
    u, c, v = points(flow, n)
    found = computed(on_device(flow), u, c, v)
    assert found[0].shape == found[1].shape == (n, 5)
    if n:
        assert_near(found, of_class_flow(flow, u, c, v))


def test_permuted_rows_give_permuted_bits(poisoned):
    flow = FLOWS["odd"]()
    u, c, v = points(flow, ROWS + 9)
    kernel, order = on_device(flow), torch.randperm(ROWS + 9, generator=torch.Generator().manual_seed(0))
    for there, here in zip(computed(kernel, u[order], c[order], v[order]), computed(kernel, u, c, v), strict=True):
        assert torch.equal(there, here[order])


# the interpreter computes with NumPy, which warns of numbers that are not finite
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rows_that_are_not_finite_and_classes_that_are_none_touch_no_other(poisoned):
    flow = FLOWS["odd"]()
    u, c, v = points(flow, ROWS + 9)
    kernel = on_device(flow)
    bad, wrong, bad_v = u.clone(), c.clone(), v.clone()
    bad[3], bad[5, 2], wrong[7], bad_v[ROWS + 2] = torch.nan, torch.inf, -1, torch.nan
    sick = torch.zeros(len(u), dtype=torch.bool)
    sick[[3, 5, 7, ROWS + 2]] = True
    well, ill = computed(kernel, u, c, v), computed(kernel, bad, wrong, bad_v)
    for right, other in zip(well, ill, strict=True):
        assert torch.equal(right[~sick], other[~sick])
    assert ill[0][7].isnan().all() and ill[0][3].isnan().all() and ill[1][ROWS + 2].isnan().all()


def test_gradients_through_torch():
    flow = FLOWS["odd"]()
    u, c, v = points(flow, 9)
    kernel, there = on_device(flow), u.to(DEVICE).requires_grad_()
    z = differentiable.from_base(kernel, there, c.to(DEVICE))
    (gradient,) = torch.autograd.grad((z * v.to(DEVICE)).sum(), there)
    expected = computed(kernel, u, c, v)
    assert torch.equal(z.detach().cpu(), expected[0]) and torch.equal(gradient.cpu(), expected[1])
    with torch.no_grad():
        assert torch.equal(differentiable.from_base(kernel, there, c.to(DEVICE)).cpu(), expected[0])


@pytest.mark.parametrize("constant", [[], [1], [0, 4]])
def test_a_tables_flow(constant, poisoned):
    """Columns that do not vary pass the couplings by."""
    X = np.random.default_rng(0).normal(3, 2, size=(50, 7)).astype(np.float32)
    X[:, constant] = 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = VectorFlowNet(7, steps=3, hidden=(20, 20))
        net.set_columns(X)
    perturbed(net)
    u, v = torch.randn(2, 20, 7, generator=torch.Generator().manual_seed(0))
    found = computed(prepare(net.packed().to(DEVICE)), u, torch.zeros(20, dtype=torch.long), v)
    assert_near(found, by_autograd(copy.deepcopy(net).double().pull, u, v))


def test_a_search_in_slots_decodes_by_it(flow_table_explainer, table):
    explainer, x = flow_table_explainer, torch.from_numpy(table[2][:6])
    engine = make_engine(explainer, "triton", "auto", x)
    assert engine.backend.startswith("triton (not one launch: the decoder") and "packed" not in engine.backend
    points, decoded = explainer.coordinates_.encode(x), []
    for decode in (engine.decoders[-1], explainer.coordinates_.decode):
        z = points.detach().requires_grad_()
        out = decode(z)
        decoded.append((out.detach(), torch.autograd.grad(out.square().sum(), z)[0]))
    for found, expected in zip(*decoded, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_a_decoder_that_no_kernel_covers_says_so(table):
    X, y = (part[:100] for part in table[:2])
    explainer = DiffeomorphicExplainer(
        generator=Flow(steps=2, hidden=(8, 8, 8), training_budget=0.01), training_budget=0.02, random_state=0).fit(X, y)
    engine = make_engine(explainer, "triton", "auto", torch.from_numpy(X[:3]))
    assert "decoder packed: the kernel is for networks of one or two hidden layers, but these have 3" in engine.backend
    assert torch.isfinite(engine.decoders[-1](torch.zeros(3, X.shape[1]))).all()
