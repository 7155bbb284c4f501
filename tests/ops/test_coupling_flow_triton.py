"""The flow kernel: on a GPU, or in Triton's interpreter, against zuko's autograd in float64."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from coupling_flows import by_autograd, codes, nice
from flow_kernels import DEVICE, FLOWS, GPU, on_device

from cfexplain.density import ConditionalFlow
from cfexplain.density.frozen import pack
from cfexplain.ops.coupling_flow import NotPackable, differentiable
from cfexplain.ops.coupling_flow.triton import ROWS, prepare

pytest.importorskip("triton", reason="needs Triton: pip install triton")


def computed(flow, z, c, **options):
    logp, grad = flow.logp_and_grad(z.to(DEVICE), c.to(DEVICE), **options)
    return logp.cpu(), None if grad is None else grad.cpu()


def assert_near(found, expected, rtol):
    """log p of every row; gradients of nineteen rows in twenty, since a unit near its kink may fall on either side."""
    (logp, grad), (truth, gradient) = found, expected
    assert torch.isfinite(logp).all() and torch.isfinite(grad).all()
    assert ((logp - truth).abs() <= 10 * rtol * (1 + truth.abs())).all()
    relative = (grad - gradient).norm(dim=1) / gradient.norm(dim=1)
    assert relative.sort().values[int(0.95 * (len(relative) - 1))] <= rtol


@pytest.mark.parametrize("name", FLOWS)
def test_densities_and_gradients_are_zukos(name, poisoned):
    flow = FLOWS[name]()
    z, c = codes(flow, 40)
    kernel = on_device(flow)
    found = computed(kernel, z, c)
    assert_near(found, by_autograd(flow, z, c), 2e-5)
    logp, nothing = computed(kernel, z, c, gradient=False)
    assert nothing is None
    torch.testing.assert_close(logp, found[0], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("n", [0, 1, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 3])
def test_any_number_of_rows(n, poisoned):
    flow = nice(5, 3, 2, (9,))
    z, c = codes(flow, n)
    found = computed(on_device(flow), z, c)
    assert found[0].shape == (n,) and found[1].shape == (n, 5)
    if n:
        assert_near(found, by_autograd(flow, z, c), 2e-5)


@pytest.mark.parametrize(("precision", "rtol"), [("tf32", 3e-2), ("bfloat16", 2e-1)])
def test_coarser_operands(precision, rtol):
    if precision == "bfloat16" and not GPU:
        pytest.skip("needs a GPU: Triton's interpreter multiplies bfloat16 wrongly")
    flow = FLOWS["odd"]()
    z, c = codes(flow, 40)
    assert_near(computed(on_device(flow, precision), z, c), by_autograd(flow, z, c), rtol)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_operands_have_the_bits_of_their_type(precision):
    """High parts are numbers of the operands' type, and with the low parts they are the weights again."""
    flow = nice(6, 3, 2, (9,))
    tensors = pack(flow)
    kernel = prepare(tensors.to(DEVICE), precision)
    expected = tensors.weights[0][1, :, 4].to(DEVICE)  # what enters unit 4 of layer 1
    h = kernel.matrices["w_2"].shape[1]
    rows = kernel.matrices["w_1"].view(-1, 2 * h, kernel.matrices["w_1"].shape[1])[:, h + 4, : tensors.half]
    if precision == "float32":
        high, low = rows
        assert ((high.view(torch.int32) & 0x1FFF) == 0).all()
        assert (low.abs() <= 2.0**-10 * high.abs()).all() and torch.equal(high + low, expected)
    else:
        assert len(rows) == 1
        torch.testing.assert_close(rows[0], expected.to(rows.dtype), rtol=0, atol=0)
    table = kernel.matrices["table"].float().view(2, -1, 16).sum(0)
    torch.testing.assert_close(table[h + 4, :3].cpu(), tensors.biases[0][1, :, 4], rtol=2.0**-15, atol=0)
    assert (table[:, 3:] == 0).all()


def test_permuted_rows_give_permuted_bits(poisoned):
    flow = FLOWS["odd"]()
    z, c = codes(flow, ROWS + 9)
    kernel, order = on_device(flow), torch.randperm(ROWS + 9, generator=torch.Generator().manual_seed(0))
    for there, here in zip(computed(kernel, z[order], c[order]), computed(kernel, z, c), strict=True):
        assert torch.equal(there, here[order])


# the interpreter computes with NumPy, which warns of numbers that are not finite
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rows_that_are_not_finite_and_classes_that_are_none_touch_no_other(poisoned):
    flow = FLOWS["attributes"]()
    z, c = codes(flow, ROWS + 9)
    kernel = on_device(flow)
    bad, wrong = z.clone(), c.clone()
    bad[3], bad[5, 2], bad[ROWS + 1] = torch.nan, torch.inf, 1e30
    wrong[7], wrong[ROWS + 4] = -1, 3
    sick = torch.zeros(len(z), dtype=torch.bool)
    sick[[3, 5, 7, ROWS + 1, ROWS + 4]] = True
    well, ill = computed(kernel, z, c), computed(kernel, bad, wrong)
    for right, other in zip(well, ill, strict=True):
        assert torch.equal(right[~sick], other[~sick])
    assert not torch.isfinite(ill[0][sick]).any()
    assert ill[0][[7, ROWS + 4]].isnan().all() and ill[1][[7, ROWS + 4]].isnan().all()


def test_rows_need_not_lie_side_by_side():
    flow = FLOWS["odd"]()
    z, c = codes(flow, 20)
    kernel = on_device(flow)
    strided = torch.stack([z, z + 1], 1)[:, 0]
    assert not strided.is_contiguous()
    for there, here in zip(computed(kernel, strided, c), computed(kernel, z, c), strict=True):
        assert torch.equal(there, here)


def test_gradients_through_torch():
    flow = FLOWS["odd"]()
    z, c = codes(flow, 9)
    kernel, there = on_device(flow), z.to(DEVICE).requires_grad_()
    logp = differentiable.log_prob(kernel, there, c.to(DEVICE))
    (gradient,) = torch.autograd.grad((3 * logp).sum(), there)
    expected = computed(kernel, z, c)
    assert torch.equal(logp.detach().cpu(), expected[0])
    torch.testing.assert_close(gradient.cpu(), 3 * expected[1], rtol=1e-6, atol=0)
    with pytest.raises(NotImplementedError, match="create_graph=True"):
        torch.autograd.grad(differentiable.log_prob(kernel, there, c.to(DEVICE)).sum(), there, create_graph=True)
    with pytest.raises(TypeError, match="torch.float64"):
        differentiable.log_prob(kernel, there.double(), c.to(DEVICE))
    for twin in (copy.deepcopy(kernel), pickle.loads(pickle.dumps(kernel))):
        assert torch.equal(computed(twin, z, c)[1], expected[1])


def test_a_fitted_density():
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    Z = (rng.normal(size=(90, 5)) + 3 * rng.normal(size=(3, 5))[y]).astype(np.float32)
    density = ConditionalFlow(transforms=2, hidden_features=(16,), training_budget=0.05, random_state=0).fit(Z, y)
    density.to(DEVICE)
    expected, gradient = density.logp_and_grad(Z, y, "reference")
    logp, grad = density.logp_and_grad(Z, y, "triton")
    np.testing.assert_allclose(logp, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(grad, gradient, rtol=1e-3, atol=1e-3)
    assert density.frozen("triton", "tf32").backend == "triton"
    assert density.frozen().backend == ("triton" if GPU and torch.cuda.get_device_capability() >= (9, 0) else "packed")


@pytest.mark.parametrize(("flow", "reason"), [
    (lambda: nice(5).double(), "computes in float32, but the flow is float64"),
    (lambda: nice(9, 3, 4, randmask=True), "masks that alternate"),
    (lambda: nice(5, hidden=(8, 8, 8)), "one or two hidden layers, but these have 3"),
    (lambda: nice(5, hidden=()), "but these have 0"),
    (lambda: nice(66), "at most 64 features, but the flow has 66"),
])
def test_what_the_kernel_does_not_cover(flow, reason):
    with pytest.raises(NotPackable, match=reason):
        on_device(flow())


def test_unknown_precision():
    with pytest.raises(ValueError, match=r"precision='fp8' is not known; choose one of \('float32', 'tf32', 'bfloat16'\)"):
        on_device(nice(5), "fp8")


MISSING = """
import sys
import numpy as np
import cfexplain
from cfexplain.density import ConditionalFlow
assert "triton" not in sys.modules
Z = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
density = ConditionalFlow(transforms=1, hidden_features=(8,), training_budget=0.01, random_state=0).fit(Z)
assert density.frozen().backend == "packed"
for wanted, hidden in ((RuntimeError, False), (ImportError, True)):
    if hidden:
        for name in list(sys.modules):
            if name.split(".")[0] == "triton" or name.endswith((".triton", ".kernel", ".inverse_kernel")):
                del sys.modules[name]
        sys.modules["triton"] = None
    try:
        density.frozen("triton")
    except wanted as error:
        print(error)
"""


def test_what_is_missing_is_said():
    """Without a GPU, and without Triton; importing the package imports no Triton."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run([sys.executable, "-c", MISSING], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    no_device, no_triton = run.stdout.splitlines()
    assert "the flow is on 'cpu': torch sees no CUDA device" in no_device
    assert "needs the package 'triton'" in no_triton
