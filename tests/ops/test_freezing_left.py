"""freeze_for_search where rewriting would change the function: it is left as it is, and the report says why."""

import copy
import random
import warnings
from threading import Event, Thread

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from freezing import LeNet, Residual, error, made, randomised, response, stack
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from cfexplain.classifiers.features import PenultimateFeatures
from cfexplain.ops.freezing import freeze_for_search


class Twice(nn.Module):
    """The convolution's output is used by BatchNorm and beside it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2)

    def forward(self, x):
        h = self.conv(x)
        return self.norm(h) + h


class WritesToAView(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), nn.AvgPool2d(2)

    def forward(self, x):
        h = self.conv(x)
        self.relu(h.view(h.shape[0], -1))
        return self.pool(h)


def hooked():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2))
    net[1].register_forward_hook(lambda module, args, out: 2 * out)
    return net


def batch_statistics():
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False))


@pytest.mark.parametrize(("make", "shape", "reason"), [
    (Twice, (2, 6, 6), "also used elsewhere"),
    (WritesToAView, (2, 6, 6), "reshaped view"),
    (hooked, (2, 6, 6), "hooks"),
    (batch_statistics, (2, 6, 6), "statistics of the batch"),
    (stack(lambda: (nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3, padding=1))), (2, 6, 6), "pads with zeros"),
    (stack(lambda: (nn.BatchNorm2d(2), nn.ConvTranspose2d(2, 3, 3))), (2, 6, 6), "pads with zeros"),
    (stack(lambda: (nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 3, 3))), (2, 6, 6), "no layer beside"),
    (stack(lambda: (nn.Tanh(), nn.BatchNorm1d(4), nn.Linear(4, 3))), (4,), "read as features"),
    (stack(lambda: (nn.Linear(4, 4), nn.BatchNorm2d(2))), (2, 3, 4), "no layer beside"),
    (stack(lambda: (nn.Linear(3, 12), nn.Unflatten(-1, (2, 6)), nn.BatchNorm2d(5))), (5, 3), "no layer beside")])
def test_what_cannot_be_folded_is_left_with_a_reason(make, shape, reason):
    torch.manual_seed(0)
    net = randomised(make())
    frozen = freeze_for_search(net, precision="float32", channels_last=True)
    x = torch.randn(3, *shape)
    for got, expected in zip(response(frozen, x), response(net, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert frozen.report.folded == 0
    assert any(reason in line for line in frozen.report.left), frozen.report.left


@pytest.mark.parametrize("layers", [
    lambda: (nn.Linear(6, 6), nn.BatchNorm1d(6)), lambda: (nn.BatchNorm1d(6), nn.Linear(6, 6), nn.Linear(6, 2)),
    lambda: (nn.Conv1d(6, 6, 3, padding=1), nn.BatchNorm1d(6))])
def test_rank_decides_what_the_channels_are(layers):
    """BatchNorm1d of (6, 6) or (B, 6, 6) normalises another axis than a linear layer or an unbatched convolution."""
    torch.manual_seed(0)
    net = randomised(nn.Sequential(*layers())).double()
    frozen = freeze_for_search(net, precision="float64")
    assert frozen.report.folded == 1
    for shape in ((6, 6), (5, 6, 6)):
        x = torch.randn(*shape, dtype=torch.float64)
        for got, expected in zip(response(frozen, x), response(net, x), strict=True):
            assert error(got, expected) < 1e-10


def test_layers_that_are_called_twice_keep_their_own_weights_at_each_place():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3)
            self.norms = nn.ModuleList([nn.BatchNorm2d(2), nn.BatchNorm2d(2)])
            self.tied = nn.Conv2d(2, 2, 3)
            self.tied.weight = self.conv.weight

        def forward(self, x):
            return self.tied(self.conv(self.norms[1](self.conv(self.norms[0](self.conv(x))))))

    torch.manual_seed(0)
    net, x = randomised(Shared()).double(), torch.randn(2, 2, 12, 12, dtype=torch.float64)
    frozen = freeze_for_search(net, precision="float64", channels_last=True)
    assert frozen.report.folded == 2
    for got, expected in zip(response(frozen, x), response(net, x), strict=True):
        assert error(got, expected) < 1e-10


@pytest.mark.parametrize("after", [
    lambda: (nn.ReLU(inplace=True),), lambda: (nn.Flatten(), nn.LeakyReLU(0.1, inplace=True))])
def test_relu_is_not_moved_to_where_its_output_would_be_overwritten(after):
    net, x = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), *after()), torch.randn(2, 3, 8, 8)
    frozen = freeze_for_search(net)
    assert frozen.report.swapped == 0
    for got, expected in zip(response(frozen, x), response(net, x), strict=True):
        assert torch.equal(got, expected)


def test_what_the_last_linear_layer_is_given_stays_the_same():
    torch.manual_seed(0)
    net = randomised(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.BatchNorm1d(5), nn.Dropout(),
                                   nn.Linear(5, 3)))
    seen, x = [], torch.randn(6, 4)
    for one in (net, freeze_for_search(net)):
        with PenultimateFeatures() as found:
            one(x)
        seen.append(found.features)
    torch.testing.assert_close(*seen)


# ------------------------------------------------------------ what tracing would get wrong


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 7 * gradient


class Forward(nn.Module):
    """BatchNorm and a rule on top of it that only looks harmless."""

    def __init__(self, rule):
        super().__init__()
        self.conv, self.norm, self.rule = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), rule
        self.register_buffer("calls", torch.zeros(()))
        self.latest = None

    def forward(self, x, shift=None):
        h = self.rule(self, self.norm(self.conv(x)))
        return h if shift is None else h + shift


def half_without_gradient(self, h):
    with torch.no_grad():
        return h + 1


def reads_its_state(self, h):
    self.latest = h.mean() if self.latest is None else self.latest
    return h - self.latest


def binarised(self, h):
    self.conv.weight.data = self.conv.weight.data.sign()
    return self.conv(h[:, :2])


def counts(self, h):
    self.calls += 1
    return h * self.calls


def drops_always(self, h):
    return F.dropout(h, 0.5, training=True)


RULES = {
    "isinstance": (lambda self, h: 3 * h if isinstance(h, torch.Tensor) else h, "type of a tensor"),
    "is_tensor": (lambda self, h: 3 * h if torch.is_tensor(h) else h, "type of a tensor"),
    "list": (lambda self, h: h[0] if isinstance(h, (list, tuple)) else h, "type of a tensor"),
    "length": (lambda self, h: h / len(h), "len"),
    "autograd function": (lambda self, h: Doubled.apply(h), "type of a tensor|gradients"),
    "state": (reads_its_state, "state of its own"),
    "counter": (counts, "Proxy|state|weights"),
    "weights": (binarised, "attribute 'data'"),
    "random": (lambda self, h: h + torch.randn(1), "random"),
    "python random": (lambda self, h: h + random.random(), "random"),
    "numpy random": (lambda self, h: h + np.random.rand(), "random"),
}


@pytest.mark.parametrize("name", RULES)
def test_a_forward_that_tracing_would_misread_is_left_alone(name):
    rule, reason = RULES[name]
    torch.manual_seed(0)
    net, x = randomised(Forward(rule)), torch.randn(4, 2, 3, 3)
    state = copy.deepcopy(net.state_dict())
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    frozen = freeze_for_search(net)
    assert (torch.equal(before[0], torch.get_rng_state()), random.getstate(), np.random.get_state()[1].tolist()) == (
        True, *before[1:])
    assert not frozen.report.traced and frozen.report.folded == 0
    assert len(frozen.report.left) == 1 and frozen.report.left[0].startswith("Forward is not rewritten")
    assert any(part in frozen.report.left[0] for part in reason.split("|"))
    results = []
    for one in (frozen, net):
        torch.manual_seed(3), random.seed(3), np.random.seed(3)
        results.append(response(one, x))
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got, expected)
    assert net.state_dict().keys() == state.keys()


def test_parts_without_gradient_and_optional_arguments_are_what_they_were():
    torch.manual_seed(0)
    net, x = randomised(Forward(half_without_gradient)), torch.randn(4, 2, 3, 3)
    frozen = freeze_for_search(net)
    assert not frozen.report.traced and torch.equal(frozen(x), net(x)) and not frozen(x.requires_grad_()).requires_grad
    traced = freeze_for_search(Forward(lambda self, h: h))
    assert traced.report.traced and traced.report.folded == 1  # `shift` is None in the graph
    with pytest.raises(TypeError, match="one input"):
        traced(x, shift=1.0)


def test_a_question_for_an_attribute_gets_a_tensors_answer():
    net, x = randomised(Forward(lambda self, h: h.tensors if hasattr(h, "tensors") else 2 * h)), torch.randn(4, 2, 3, 3)
    frozen = freeze_for_search(net)
    assert frozen.report.traced and frozen.report.folded == 1
    torch.testing.assert_close(frozen(x), net(x), rtol=1e-4, atol=1e-5)


def test_dropout_that_stays_on_stays_on():
    torch.manual_seed(0)
    net, x = randomised(Forward(drops_always)), torch.randn(4, 2, 3, 3)
    frozen = freeze_for_search(net)
    assert frozen.report.removed == 0 and not torch.equal(frozen(x), frozen(x))


def test_an_example_finds_what_tracing_misread():
    net, x = randomised(Forward(lambda self, h: 3 * h if type(h) is torch.Tensor else h)), torch.randn(4, 2, 3, 3)
    assert error(freeze_for_search(net)(x), net(x)) > 0.1  # nothing in a trace shows this
    with pytest.warns(RuntimeWarning, match="outputs on the example differ"):
        frozen = freeze_for_search(net, example=x)
    assert torch.equal(frozen(x), net(x)) and not frozen.report.traced and "differ" in frozen.report.left[0]
    good, image = made("LeNet")
    checked = freeze_for_search(good, example=image)
    assert checked.report == freeze_for_search(good).report and checked.report.traced


def test_rounding_alone_is_not_what_an_example_finds():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 2)).eval(), torch.randn(50, 4)
    net[0].bias.data += 1e4  # so that float32 loses three digits between the layers, and with them the signs of some
    net[1].running_mean += 1e4
    for got, expected in zip(response(freeze_for_search(net), x), response(net, x), strict=True):
        assert error(got, expected) > torch.finfo(torch.float32).eps ** 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert freeze_for_search(net, example=x).report.folded == 1


def test_an_untraceable_part_of_a_stack_leaves_the_rest_rewritten():
    class Views(nn.Module):
        def forward(self, x):
            assert x.ndim == 4  # control flow, and a view that channels last does not allow
            return x.view(len(x), -1)

    torch.manual_seed(0)
    net = randomised(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Tanh(), Views(),
                                   nn.Linear(72, 2)))
    frozen, x = freeze_for_search(net), torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(frozen(x), net(x))
    report = frozen.report
    assert report.traced and report.channels_last and (report.folded, report.swapped, len(report.left)) == (1, 1, 1)
    assert report.left[0].startswith("5 is not rewritten")


def test_other_threads_may_use_their_networks_meanwhile():
    net, stop, errors = nn.Sequential(Residual(), Residual()).eval(), Event(), []

    def work():
        try:
            while not stop.is_set():
                net(torch.zeros(1, 4, 2, 2))
        except Exception as problem:
            errors.append(problem)

    thread = Thread(target=work)
    thread.start()
    for _ in range(10):
        freeze_for_search(LeNet())
    stop.set()
    thread.join()
    assert not errors


# ------------------------------------------------------------ weights that are computed


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, parametrizations.weight_norm,
                                  parametrizations.orthogonal])
def test_known_parametrizations_become_weights_and_the_network_keeps_them(norm):
    torch.manual_seed(0)
    net = nn.Sequential(norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), norm(nn.Linear(64, 3)))
    x = torch.randn(4, 3, 6, 6)
    net.train()(x)  # power iterations
    kinds = [type(part) for part in net]
    frozen = freeze_for_search(randomised(net))
    assert (frozen.report.baked, frozen.report.folded) == (2, 1)
    for got, expected in zip(response(frozen, x), response(net, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert [type(part) for part in net] == kinds and parametrize.is_parametrized(net[0])
    net.train()(x).sum().backward()  # still trains


def test_unknown_parametrizations_are_evaluated_as_before():
    class Doubling(nn.Module):
        def forward(self, weight):
            return 2 * weight

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    parametrize.register_parametrization(net[0], "weight", Doubling())
    frozen, x = freeze_for_search(randomised(net)), torch.randn(2, 2, 5, 5)
    assert frozen.report.folded == 0 and "Doubling" in frozen.report.left[0]
    torch.testing.assert_close(frozen(x), net(x))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, nn.utils.weight_norm])
def test_norms_by_hooks_are_left_alone(norm):
    torch.manual_seed(0)
    net, x = nn.Sequential(norm(nn.Conv2d(2, 3, 3)), nn.BatchNorm2d(3)), torch.randn(2, 2, 5, 5)
    net.train()(x)  # leaves a weight with a graph behind, which cannot be deep-copied as it is
    frozen = freeze_for_search(randomised(net))
    assert frozen.report.folded == 0 and "hooks" in frozen.report.left[0]
    torch.testing.assert_close(frozen(x), net(x))
