"""The packed coupling flow against zuko's autograd in float64: values, gradients, inverses, bits, and what it refuses."""

from __future__ import annotations

import copy
import io
import pickle
from functools import partial

import numpy as np
import pytest
import torch
import zuko
from coupling_flows import by_autograd, codes, nice, perturbed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from zuko.distributions import DiagNormal
from zuko.lazy import Flow, UnconditionalDistribution, UnconditionalTransform
from zuko.transforms import AdditiveTransform, MonotonicAffineTransform, MonotonicRQSTransform, PermutationTransform

from cfexplain.density import ClassFlow, ConditionalFlow
from cfexplain.density.frozen import pack
from cfexplain.foundation.tiles import aligned, in_tiles
from cfexplain.nets.flow_nets import VectorFlowNet
from cfexplain.ops.coupling_flow import NotPackable, differentiable, packed, reference

IMPLEMENTATIONS = [reference, packed]


def permuted(flow: ClassFlow, base: DiagNormal | None = None) -> ClassFlow:
    """`flow` with fixed permutations between its layers and at its end, and another base."""
    d = len(flow.loc)
    layers = []
    for i, layer in enumerate(flow.flow.transform.transforms):
        order = torch.randperm(d, generator=torch.Generator().manual_seed(i))
        layers += [layer, UnconditionalTransform(PermutationTransform, order, buffer=True)]
    twin = copy.copy(flow)
    twin._modules = {**flow._modules, "flow": Flow(layers, base or flow.flow.base)}
    return twin


def other_base(d: int) -> UnconditionalDistribution:
    return UnconditionalDistribution(DiagNormal, torch.linspace(-1, 1, d), torch.linspace(0.5, 2, d), buffer=True)


FLOWS = {
    "digits": lambda: nice(64, 10, 8, (256, 256)),
    "odd": lambda: nice(7, 3),
    "two features": lambda: nice(2, 2, 4, (8,)),
    "one class": lambda: nice(5),
    "one layer": lambda: nice(5, 3, 1),
    "no hidden layer": lambda: nice(6, 3, 3, ()),
    "three hidden layers": lambda: nice(6, 2, 2, (9, 17, 8)),
    "attributes": lambda: nice(9, 3, 4, base="attributes"),
    "two attributes": lambda: nice(4, 2, 3, base="attributes"),
    "random masks": lambda: nice(9, 3, 4, randmask=True),
    "permutations": lambda: permuted(nice(7, 2, 4)),
    "another base": lambda: permuted(nice(7, 2, 4), other_base(7)),
    "another slope": lambda: nice(6, 1, 3, univariate=partial(MonotonicAffineTransform, slope=0.1)),
    "no biases": lambda: nice(6, 3, 3, bias=False),
}


@pytest.fixture(scope="module", params=FLOWS)
def flow(request):
    return FLOWS[request.param]().double()


@pytest.mark.parametrize("by", IMPLEMENTATIONS)
def test_densities_and_gradients_are_zukos(flow, by):
    z, c = codes(flow)
    logp, grad = by.logp_and_grad(pack(flow), z, c)
    expected, gradient = by_autograd(flow, z, c)
    torch.testing.assert_close(logp, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(grad, gradient, rtol=1e-9, atol=1e-9 * gradient.abs().max().item())


@pytest.mark.parametrize("by", IMPLEMENTATIONS)
def test_inverses_and_their_vjps_are_zukos(flow, by):
    z, c = codes(flow)
    u = flow.to_base(z, c).requires_grad_()
    v = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(2))
    expected = flow.from_base(u, c)
    (gradient,) = torch.autograd.grad(expected, u, v)
    there, vjp = by.inverse_and_vjp(pack(flow), u.detach(), c, v)
    torch.testing.assert_close(there, expected.detach(), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(there, z, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(vjp, gradient, rtol=1e-7, atol=1e-8 * gradient.abs().max().item())


def test_float32_loses_no_more_than_zuko_does(flow):
    """In float32 the packed flow is as near to the truth as zuko's own float32, within a factor of four."""
    single = copy.deepcopy(flow).float()
    z, c = codes(single, n=64)
    truth, gradient = by_autograd(single, z, c)
    logp, grad = packed.logp_and_grad(pack(single), z, c)
    z = z.requires_grad_()
    own = single.log_prob(z, c)
    (own_grad,) = torch.autograd.grad(own.sum(), z)
    length = gradient.norm(dim=1)
    for mine, zukos in (((logp - truth).abs() / truth.abs(), (own - truth).abs() / truth.abs()),
                        ((grad - gradient).norm(dim=1) / length, (own_grad - gradient).norm(dim=1) / length)):
        assert mine.median() <= 4 * zukos.median() + 1e-6


@settings(max_examples=25, deadline=None)
@given(d=st.integers(2, 20), k=st.integers(1, 5), layers=st.integers(1, 4), n=st.integers(1, 12),
       hidden=st.lists(st.integers(1, 30), max_size=3), masks=st.booleans(), seed=st.integers(0, 1000))
def test_any_sizes(d, k, layers, n, hidden, masks, seed):
    flow = nice(d, k, layers, tuple(hidden), seed=seed, randmask=masks).double()
    z, c = codes(flow, n, seed)
    expected, gradient = by_autograd(flow, z, c)
    for by in IMPLEMENTATIONS:
        logp, grad = by.logp_and_grad(pack(flow), z, c)
        assert logp.shape == (n,) and grad.shape == (n, d)
        torch.testing.assert_close(logp, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(grad, gradient, rtol=1e-7, atol=1e-7 * max(1, gradient.abs().max().item()))


def test_without_the_gradient_log_p_has_the_same_bits(flow):
    z, c = codes(flow)
    tensors = pack(flow)
    logp, nothing = packed.logp_and_grad(tensors, z, c, gradient=False)
    assert nothing is None and torch.equal(logp, packed.logp_and_grad(tensors, z, c)[0])


@pytest.mark.parametrize("by", IMPLEMENTATIONS)
def test_no_rows(by, flow):
    z, c = codes(flow, 0)
    logp, grad = by.logp_and_grad(pack(flow), z, c)
    there, vjp = by.inverse_and_vjp(pack(flow), z, c, z)
    assert logp.shape == (0,) and grad.shape == there.shape == vjp.shape == z.shape


def test_a_packed_flow_is_a_snapshot_that_moves(flow):
    z, c = codes(flow)
    tensors = pack(flow)
    expected = packed.logp_and_grad(tensors, z, c)
    buffer = io.BytesIO()
    torch.save(tensors.to(dtype=torch.float32).to(dtype=torch.float64), buffer)
    rounded = pack(copy.deepcopy(flow).float()).to(dtype=torch.float64)
    assert tensors.to(dtype=torch.float32).dtype == torch.float32
    assert tensors.to(device="meta").weights[0].device.type == "meta"
    torch.testing.assert_close(packed.logp_and_grad(rounded, z, c), expected, rtol=1e-3, atol=1e-3)
    for twin in (copy.deepcopy(tensors), pickle.loads(pickle.dumps(tensors))):
        assert all(map(torch.equal, packed.logp_and_grad(twin, z, c), expected))


def test_tables_with_constant_columns():
    X = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    X[:, 1], X[:, 4] = 3.0, 1e6
    net = VectorFlowNet(6, steps=3, hidden=(16,)).double()
    net.set_columns(X.numpy())
    perturbed(net)
    tensors, c = net.packed(), torch.zeros(20, dtype=torch.long)
    z = X.clone().requires_grad_()
    expected = net.log_prob(z)
    (gradient,) = torch.autograd.grad(expected.sum(), z)
    u = net.encode(X).requires_grad_()
    x = net.decode(u)
    v = torch.randn(X.shape, dtype=X.dtype, generator=torch.Generator().manual_seed(1))
    (pulled,) = torch.autograd.grad(x, u, v)
    for by in IMPLEMENTATIONS:
        logp, grad = by.logp_and_grad(tensors, X, c)
        torch.testing.assert_close(logp, expected.detach(), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(grad, gradient, rtol=1e-8, atol=1e-8)
        there, vjp = by.inverse_and_vjp(tensors, u.detach(), c, v)
        torch.testing.assert_close(there, x.detach(), rtol=1e-10, atol=1e-8)
        torch.testing.assert_close(vjp, pulled, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["digits", "odd", "two features", "attributes", "random masks"])
def test_a_row_has_the_same_bits_in_any_company(name, dtype):
    flow = FLOWS[name]().to(dtype)
    tensors = pack(flow)
    z, c = codes(flow, 100)
    u = flow.to_base(z, c)

    def both(z, c, u):
        return (*packed.logp_and_grad(tensors, z, c), *packed.inverse_and_vjp(tensors, u, c, z))

    together = in_tiles(both, z, c, u)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    for part in (order, order[:1], order[:7], order[:8], order[:33], torch.tensor([99])):
        apart = in_tiles(both, z[part], c[part], u[part])
        for mine, others in zip(apart, together, strict=True):
            assert torch.equal(mine, others[part])


@pytest.mark.parametrize("by", IMPLEMENTATIONS)
def test_rows_that_are_not_finite_touch_no_other(by):
    flow = FLOWS["attributes"]().double()
    tensors = pack(flow)
    z, c = codes(flow, 12)
    bad = z.clone()
    bad[3], bad[5, 2], bad[7] = torch.nan, torch.inf, 1e200
    sick = torch.isin(torch.arange(12), torch.tensor([3, 5, 7]))
    u, v = flow.to_base(z, c), torch.ones_like(z)
    for well, ill in ((by.logp_and_grad(tensors, z, c), by.logp_and_grad(tensors, bad, c)),
                      (by.inverse_and_vjp(tensors, u, c, v), by.inverse_and_vjp(tensors, torch.where(sick[:, None], bad, u),
                                                                                c, v))):
        for right, wrong in zip(well, ill, strict=True):
            assert torch.equal(right[~sick], wrong[~sick])
    assert not torch.isfinite(by.logp_and_grad(tensors, bad, c)[0][sick]).any()


@pytest.mark.parametrize("name", [name for name in FLOWS if name != "digits"])
def test_gradients_through_torch(name):
    flow = FLOWS[name]().double()
    z, c = codes(flow, 3)
    tensors, z = pack(flow), z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: differentiable.log_prob(tensors, z, c), z, atol=1e-4, rtol=1e-4)
    u = flow.to_base(z.detach(), c).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: differentiable.from_base(tensors, u, c), u, atol=1e-4, rtol=1e-4)
    with aligned():
        inside = differentiable.log_prob(tensors, z, c)
        (gradient,) = torch.autograd.grad((3 * inside).sum(), z)
    assert torch.equal(inside, differentiable.log_prob(tensors, z.detach(), c))
    torch.testing.assert_close(gradient, 3 * by_autograd(flow, z.detach(), c)[1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("function", [differentiable.log_prob, differentiable.from_base])
def test_no_second_derivative(function):
    flow = FLOWS["odd"]()
    z, c = codes(flow)
    z = z.requires_grad_()
    with pytest.raises(NotImplementedError, match="create_graph=True"):
        torch.autograd.grad(function(pack(flow), z, c).sum(), z, create_graph=True)


@pytest.mark.parametrize("name", ["odd", "random masks", "attributes"])
def test_the_operator_is_a_good_one(name):
    flow = FLOWS[name]().double()
    z, c = codes(flow)
    tensors, z = pack(flow), z.requires_grad_()
    arguments = (z, c, *differentiable.flattened(tensors))
    assert set(torch.library.opcheck(differentiable.logp_and_grad_op, arguments).values()) == {"SUCCESS"}
    logp, grad = differentiable.logp_and_grad_op(*arguments)
    assert not grad.requires_grad
    (through,) = torch.autograd.grad(logp.sum(), z)
    assert torch.equal(through, grad) and torch.equal(grad, packed.logp_and_grad(tensors, z.detach(), c)[1])
    with pytest.raises(NotImplementedError, match="create_graph=True"):
        torch.autograd.grad(differentiable.logp_and_grad_op(*arguments)[0].sum(), z, create_graph=True)


def test_compiled_without_a_break():
    flow = FLOWS["odd"]().double()
    z, c = codes(flow)
    tensors, z = pack(flow), z.requires_grad_()
    compiled = torch.compile(lambda z: 2 * differentiable.log_prob(tensors, z, c).sum(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(z), z)[0], 2 * by_autograd(flow, z.detach(), c)[1])


def test_wrong_codes():
    flow = FLOWS["odd"]()
    z, c = codes(flow)
    for function in (differentiable.log_prob, differentiable.from_base):
        with pytest.raises(TypeError, match=r"is torch.float64, but the flow is torch.float32"):
            function(pack(flow), z.double(), c)
        with pytest.raises(ValueError, match=r"shape \(n, 7\) and c of shape \(n,\); got \(9, 6\)"):
            function(pack(flow), z[:, 1:], c)
        with pytest.raises(ValueError, match=r"got \(9, 7\) and \(3,\)"):
            function(pack(flow), z, c[:3])
    with pytest.raises((IndexError, RuntimeError), match="(?i)ind(ex|ices)"):
        differentiable.log_prob(pack(flow), z, c + 3)


def _hooked():
    flow = nice(5, 2)
    flow.flow.transform.transforms[1].hyper[2].register_forward_hook(lambda *_: None)
    return flow


def _mixed(*flows):
    return ClassFlow(Flow([layer for f in flows for layer in f.transform.transforms], flows[0].base), 6, 1)


REFUSED = {
    "layer 0 is a MaskedAutoregressiveTransform": lambda: ClassFlow(zuko.flows.MAF(5, 2), 5, 2),
    "layer 0 couples by a MonotonicRQSTransform": lambda: nice(
        5, univariate=MonotonicRQSTransform, shapes=[(4,), (4,), (3,)]),
    "layer 0 couples by a AdditiveTransform": lambda: nice(5, univariate=AdditiveTransform, shapes=[()]),
    "layer 0 is a ElementWiseTransform": lambda: nice(1),
    "has ELU": lambda: nice(5, activation=nn.ELU),
    "has LayerNorm": lambda: nice(5, normalize=True),
    "has Linear.* as part 2": _hooked,
    "layer 2 has slope 0.1, layer 0 0.001": lambda: _mixed(
        zuko.flows.NICE(6, transforms=2),
        zuko.flows.NICE(6, transforms=1, univariate=partial(MonotonicAffineTransform, slope=0.1))),
    "layer 2 has 1 hidden layers and layer 0 2": lambda: _mixed(
        zuko.flows.NICE(6, transforms=2), zuko.flows.NICE(6, transforms=1, hidden_features=(8,))),
    "layer 1 is a RotationTransform": lambda: ClassFlow(Flow(
        [zuko.flows.NICE(4).transform.transforms[0],
         UnconditionalTransform(zuko.transforms.RotationTransform, torch.eye(4))], zuko.flows.NICE(4).base), 4, 1),
    "the base is": lambda: ClassFlow(Flow(
        zuko.flows.NICE(4).transform, UnconditionalDistribution(zuko.distributions.BoxUniform, -torch.ones(4), torch.ones(4),
                                                                buffer=True)), 4, 1),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_known_is_refused_with_the_reason(reason):
    with pytest.raises(NotPackable, match=reason):
        pack(REFUSED[reason]())


def test_layers_of_other_widths():
    flow = perturbed(_mixed(zuko.flows.NICE(6, transforms=2, hidden_features=(9, 30)),
                            zuko.flows.NICE(6, transforms=2, hidden_features=(21, 4)))).double()
    z, c = codes(flow)
    torch.testing.assert_close(packed.logp_and_grad(pack(flow), z, c), by_autograd(flow, z, c), rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    return rng.normal(size=(120, 5)) + 3 * rng.normal(size=(3, 5))[y], np.array(["cat", "dog", "emu"])[y]


QUICK = {"transforms": 3, "hidden_features": (16,), "training_budget": 0.05, "random_state": 0}


@pytest.mark.parametrize("base", ["gaussian", "attributes"])
def test_backends_of_a_fitted_density_agree(base, data):
    Z, y = data
    density = ConditionalFlow(base=base, **QUICK).fit(Z.astype(np.float32), y)
    expected, gradient = by_autograd(density.flow_, torch.tensor(Z).float(), torch.tensor(density._indices(y, len(Z))))
    assert density.frozen().backend == "packed" and density.frozen().reason == ""
    for backend, dtype in (("auto", "float32"), ("packed", "float32"), ("zuko", "float32"), ("reference", "float64")):
        logp, grad = density.logp_and_grad(Z, y, backend)
        assert logp.dtype == grad.dtype == dtype and grad.shape == Z.shape
        tolerance = 1e-4 if dtype == "float32" else 1e-6  # Z is rounded to the dtype of the fit, or not
        np.testing.assert_allclose(logp, expected, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(grad, gradient, rtol=100 * tolerance, atol=100 * tolerance)
    one, alone = density.logp_and_grad(Z[7:8], "cat"), density.logp_and_grad(Z, "cat")
    assert one[0][0] == alone[0][7] and (one[1][0] == alone[1][7]).all()


def test_a_frozen_density_is_a_torch_function(data):
    Z, y = data
    density = ConditionalFlow(**QUICK).fit(Z, y)
    z, c = torch.tensor(Z[:9], requires_grad=True), torch.arange(9) % 3
    expected = torch.autograd.grad(density.log_prob(z, c).exp().sum(), z)[0]
    for backend in ("auto", "packed", "zuko", "reference"):
        frozen = density.frozen(backend)
        assert torch.allclose(frozen(z, c), density.log_prob(z, c), rtol=1e-10)
        torch.testing.assert_close(torch.autograd.grad(frozen(z, c).exp().sum(), z)[0], expected, rtol=1e-8, atol=1e-12)
        assert frozen(z.float().double(), c).dtype == torch.float64
        twin = pickle.loads(pickle.dumps(frozen))
        assert twin.backend == frozen.backend and torch.equal(twin(z, c), frozen(z, c))


def test_auto_says_why_it_is_not_packed(data):
    density = ConditionalFlow("maf", **QUICK).fit(*data)
    frozen = density.frozen()
    assert frozen.backend == "zuko" and "layer 0 is a MaskedAutoregressiveTransform" in frozen.reason
    assert "MaskedAutoregressiveTransform" in repr(frozen)
    logp, grad = density.logp_and_grad(*data)
    np.testing.assert_array_equal(logp, density.score_samples(*data))
    assert np.isfinite(grad).all()
    for backend in ("packed", "reference", "triton"):
        with pytest.raises(NotPackable, match="MaskedAutoregressiveTransform"):
            density.frozen(backend)


def test_what_is_packed_is_never_stale_and_never_stored(data):
    Z, y = data
    density = ConditionalFlow(**QUICK).fit(Z, y)
    before = pickle.dumps(density)
    first, _ = density.logp_and_grad(Z, y)
    assert pickle.dumps(density) == before
    for twin in (copy.deepcopy(density), pickle.loads(before)):
        np.testing.assert_array_equal(twin.logp_and_grad(Z, y)[0], first)
        with torch.no_grad():
            twin.flow_.scale *= 2
        np.testing.assert_allclose(twin.logp_and_grad(Z, y)[0], twin.score_samples(Z, y), rtol=1e-10)
        assert (twin.logp_and_grad(Z, y)[0] != first).all()
    np.testing.assert_array_equal(density.logp_and_grad(Z, y)[0], first)
    density.to(dtype=torch.float32)
    assert density.logp_and_grad(Z, y)[0].dtype == np.float32
    np.testing.assert_allclose(density.logp_and_grad(Z, y)[0], density.score_samples(Z, y), rtol=1e-5)
    density.fit(2 * Z, y)
    np.testing.assert_allclose(density.logp_and_grad(Z, y)[0], density.score_samples(Z, y), rtol=1e-10)


def test_bad_backends(data):
    density = ConditionalFlow(**QUICK).fit(*data)
    with pytest.raises(ValueError, match="backend='cuda' is not known; choose 'auto' or one of"):
        density.frozen("cuda")
    with pytest.raises(ValueError, match="precision='tf32' is of the kernel's products"):
        density.frozen("auto", precision="tf32")
    with pytest.raises(ValueError, match="5 features"):
        density.logp_and_grad(data[0][:, :2], data[1])
