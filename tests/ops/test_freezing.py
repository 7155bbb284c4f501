"""freeze_for_search: the same function as the network in evaluation mode, and the network itself untouched."""

import copy

import pytest
import torch
from freezing import NETS, Branching, distance, error, made, randomised, response
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cfexplain.foundation.tiles import in_tiles
from cfexplain.ops.freezing import freeze_for_search


@pytest.mark.parametrize(("name", "channels_last"), [
    (name, last) for name in NETS for last in (True, False) if not last or name != "ResNet-18"])  # slow in float64
def test_values_and_gradients_are_those_of_the_network_in_evaluation_mode(name, channels_last):
    net, x = made(name)
    net, x = net.double(), x.double()
    frozen = freeze_for_search(net, precision="float64", channels_last=channels_last)
    for got, expected in zip(response(frozen, x), response(net, x), strict=True):
        assert got.dtype == torch.float64 and got.shape == expected.shape
        assert error(got, expected) < 1e-10
    assert (frozen.report.folded, frozen.report.swapped) == NETS[name][2:]
    assert frozen.report.channels_last == (channels_last and any(
        isinstance(part, nn.Conv2d | nn.ConvTranspose2d) for part in net.modules()))
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not any(part.training for part in frozen.modules())


# in bfloat16 the largest of a window and the sign of an activation near zero are often others, so that gradients differ
@pytest.mark.parametrize(("precision", "values", "gradients"), [("float32", 1e-5, 1e-3), ("bfloat16", 0.03, 0.5)])
@pytest.mark.parametrize("name", NETS)
def test_lower_precision_is_near(name, precision, values, gradients):
    net, x = made(name)
    frozen = freeze_for_search(net, precision=precision)
    got, expected = response(frozen, x), response(copy.deepcopy(net).double(), x.double())
    assert got[0].dtype == got[1].dtype == torch.float32
    assert distance(got[0], expected[0]) < values and distance(got[1], expected[1]) < gradients
    weights = {part.weight.dtype for part in frozen.modules() if isinstance(part, nn.Linear | nn.Conv2d)}
    assert weights <= {getattr(torch, precision)}


@st.composite
def stacks(draw):
    """A random stack of convolution, BatchNorm, ReLU, pooling, dropout, padding and nested stacks."""
    layers, channels, sides = [], draw(st.integers(1, 4)), 16
    start = channels
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(["conv", "transposed", "norm", "relu", "pool", "nothing", "nested"]))
        if kind == "conv":
            out, padding = draw(st.integers(1, 6)), draw(st.integers(0, 1))
            if sides + 2 * padding < 3:
                continue
            mode = draw(st.sampled_from(["zeros", "circular"]))
            layers.append(nn.Conv2d(channels, out, 3, padding=padding, padding_mode=mode, bias=draw(st.booleans())))
            channels, sides = out, sides + 2 * padding - 2
        elif kind == "transposed":
            layers.append(nn.ConvTranspose2d(channels, channels, 3, padding=1, groups=draw(st.sampled_from([1, channels]))))
        elif kind == "norm":
            layers.append(nn.BatchNorm2d(channels, affine=draw(st.booleans())))
        elif kind == "relu":
            own = bool(layers) and isinstance(layers[-1], nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d)
            layers.append(nn.ReLU(inplace=own and draw(st.booleans())))
        elif kind == "pool" and sides >= 4:
            layers.append(nn.MaxPool2d(2, stride=draw(st.integers(1, 2)), ceil_mode=draw(st.booleans())))
        elif kind == "nothing":
            layers.append(draw(st.sampled_from([nn.Identity(), nn.Dropout(), nn.Dropout2d()])))
        elif kind == "nested":
            layers = [nn.Sequential(*layers)] if layers else layers
        if kind == "pool":
            sides = nn.Sequential(*layers).eval()(torch.zeros(1, start, 16, 16)).shape[-1]
    return nn.Sequential(*layers), start


@settings(max_examples=40, deadline=None)
@given(case=stacks(), seed=st.integers(0, 1000))
def test_any_stack_stays_the_same_function(case, seed):
    net, channels = case
    net = randomised(net, seed).double()
    x = torch.randn(3, channels, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x.round(decimals=0) if seed % 2 else x  # ties in the windows
    frozen = freeze_for_search(net, precision="float64", channels_last=True)

    def clean(of, x):  # a leaf that wants a gradient must not be written to
        return response(lambda x: of(x * 1.0), x)

    for got, expected in zip(clean(frozen, x), clean(net, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_relu_after_max_pooling_has_the_same_bits_ties_included():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-2, 3, (4, 3, 12, 12), generator=generator).float()  # ties at zero, below and above
    x[0], x[1], x[2, :, :6] = 0.0, 1.0, -1.0
    for pool in (nn.MaxPool2d(2), nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), nn.MaxPool2d(3, 1, dilation=2),
                 nn.AdaptiveMaxPool2d(5)):
        net = nn.Sequential(nn.ReLU(), pool)
        frozen = freeze_for_search(net, channels_last=False)
        assert frozen.report.swapped == 1
        for got, expected in zip(response(frozen, x), response(net, x), strict=True):
            assert torch.equal(got, expected)
    x[3, 0, 0, 0] = torch.nan
    assert torch.equal(frozen(x).isnan(), net(x).isnan()) and frozen(x).isnan().any()


# --------------------------------------------------------------- what is left untouched


def test_the_network_itself_is_untouched():
    net, x = made("LeNet")
    net.train()
    net.second.eval()
    net.first.weight.requires_grad_(False)
    calls = []
    net.second.register_forward_hook(lambda *_: calls.append(1))
    net(x).sum().backward()

    def look():
        return ([(name, p.data_ptr(), p.stride(), p.requires_grad, p.dtype, None if p.grad is None else p.grad.data_ptr())
                 for name, p in net.named_parameters()],
                [(name, b.data_ptr(), b.clone().tolist()) for name, b in net.named_buffers()],
                [(name, type(part), part.training, len(part._forward_hooks)) for name, part in net.named_modules()],
                [sorted(vars(part)) for part in net.modules()])

    before, values = look(), copy.deepcopy(net.state_dict())
    for precision in ("float32", "float64", "bfloat16"):
        calls.clear()
        frozen = freeze_for_search(net, precision=precision, channels_last=True, example=x)
        frozen(x)
        assert calls  # the hook went along with the copy
    after = look()
    assert after == before
    assert all(torch.equal(a, b) for a, b in zip(values.values(), net.state_dict().values(), strict=True))
    assert frozen.train() is frozen and not frozen.net.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
def test_outputs_and_gradients_come_back_as_the_caller_has_them(precision, dtype):
    for name in ("LeNet", "decoder"):
        net, x = made(name)
        frozen = freeze_for_search(net, precision=precision, channels_last=True)
        out, gradient = response(frozen, x.to(dtype))
        assert out.dtype == gradient.dtype == dtype and out.is_contiguous() and gradient.shape == x.shape
        assert distance(out, net(x)) < 0.05


def test_a_frozen_network_can_be_copied_and_a_forward_may_return_several_tensors():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = Branching(), nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))

        def forward(self, x):
            return {"scores": self.body(x), "map": (self.head(x), x.shape[0])}

    torch.manual_seed(0)
    net, x = randomised(Two()), torch.randn(2, 3, 9, 9)
    frozen = freeze_for_search(net)
    expected = net(x)
    for one in (frozen, copy.deepcopy(frozen)):
        got = one(x.double())
        assert got["map"][1] == 2 and got["map"][0].is_contiguous() and got["map"][0].dtype == torch.float64
        torch.testing.assert_close(got["map"][0].float(), expected["map"][0])
        torch.testing.assert_close(got["scores"].float(), expected["scores"])
    assert frozen.report.folded == 2


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_compiled_and_scripted_networks():
    net, x = made("cnn")
    frozen = freeze_for_search(torch.compile(net))
    assert frozen.report.traced and frozen.report.folded == 3
    torch.testing.assert_close(frozen(x), net(x), rtol=1e-4, atol=1e-5)
    scripted = freeze_for_search(torch.jit.trace(net, x))
    assert not scripted.report.traced and "ScriptModule" in scripted.report.left[0]
    torch.testing.assert_close(scripted(x), net(x))


class Locked(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = (i for i in range(3))


@pytest.mark.parametrize(("module", "options", "kind", "words"), [
    (lambda x: x, {}, TypeError, "nn.Module, got function"),
    (Locked(), {}, TypeError, "cannot be copied"),
    (nn.LazyLinear(3), {}, ValueError, "has no shape yet"),
    (nn.Linear(2, 2), {"precision": "half"}, ValueError, "precision='half'"),
    (nn.Linear(2, 2), {"channels_last": "yes"}, ValueError, "channels_last='yes'")])
def test_bad_input_says_what_to_do(module, options, kind, words):
    with pytest.raises(kind, match=words):
        freeze_for_search(module, **options)


# ----------------------------------------------------------------------------- bits


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["cnn", "classifier of images", "decoder", "GAN", "LeNet", "1-d", "mlp", "residual"])
def test_a_row_has_the_same_bits_alone_and_in_any_company(name, precision):
    net, x = made(name)
    x = torch.randn(70, *x.shape[1:], generator=torch.Generator().manual_seed(2))
    frozen = freeze_for_search(net, precision=precision)

    def outputs(rows):
        rows = rows.detach().requires_grad_()
        out = frozen(rows)
        return out.detach(), torch.autograd.grad(out.sin().sum(), rows)[0]

    together = in_tiles(outputs, x)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(3))
    for some in (order, order[:7], order[:1], torch.tensor([69])):
        for got, expected in zip(in_tiles(outputs, x[some]), together, strict=True):
            assert torch.equal(got, expected[some])
