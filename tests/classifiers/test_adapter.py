"""Classifiers of every kind become one differentiable network of log scores, and stay as they were."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, softmax
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNet, NeuralNetBinaryClassifier, NeuralNetClassifier
from torch import nn

from cfexplain.classifiers import adapt_classifier
from cfexplain.classifiers.outputs import log_scores
from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.borrowed import frozen
from cfexplain.foundation.exceptions import ClassifierOutputError

D = 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, D)).astype(np.float32)
Y3 = np.array(["ant", "bee", "cat"])[np.arange(90) % 3]
Y2 = np.array(["no", "yes"])[np.arange(90) % 2]
TABLE = Layout((D,), (D,))
GREY = Layout((8, 8), (1, 8, 8))


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def linear(outputs, *after, dtype=torch.float32):
    return seeded(lambda: nn.Sequential(nn.Linear(D, outputs), *after)).to(dtype)


def direct(module, x=X):
    """The linear layer's answer in float64, by NumPy."""
    weight, bias = (p.detach().double().numpy() for p in (module[0].weight, module[0].bias))
    return x.astype(np.float64) @ weight.T + bias


def adapt(module, y=Y3, x=X, layout=TABLE, **options):
    return adapt_classifier(module, x, y, layout=layout, **options)


class Apply(nn.Module):
    """A function at the end of a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def take_column(x):
    return x[:, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("x_dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("after", "kind"),
    [((), "logits"), ((nn.LogSoftmax(1),), "logits"), ((nn.Softmax(1),), "probabilities")],
)
def test_k_columns(after, kind, x_dtype, dtype):
    module, x = linear(3, *after, dtype=dtype), X.astype(x_dtype)
    adapter = adapt(module, x=x)
    assert (adapter.outputs_, adapter.is_surrogate, adapter.classes_.tolist()) == (kind, False, ["ant", "bee", "cat"])
    assert adapter.surrogate_fidelity_ is None
    expected = softmax(direct(module), axis=1)
    proba = adapter.predict_proba(x)
    assert proba.dtype == x_dtype
    np.testing.assert_allclose(proba, expected, rtol=2e-5)
    logits = adapter.logits(torch.from_numpy(x))
    assert logits.dtype == torch.from_numpy(x).dtype
    np.testing.assert_allclose(log_softmax(logits.detach().numpy(), 1), np.log(expected), rtol=1e-4, atol=1e-5)
    assert (adapter.predict(x) == np.array(["ant", "bee", "cat"])[expected.argmax(1)]).all()
    assert (adapter.predict_surrogate(x) == adapter.predict(x)).all()


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("sigmoid", [None, nn.Sigmoid(), Apply(torch.sigmoid)])
def test_one_column(sigmoid, flat):
    after = ([] if sigmoid is None else [sigmoid]) + ([Apply(take_column)] if flat else [])
    module = linear(1, *after)
    adapter = adapt(module, Y2)
    assert adapter.outputs_ == ("logits" if sigmoid is None else "probabilities")
    p = expit(direct(module)[:, 0])
    np.testing.assert_allclose(adapter.predict_proba(X), np.c_[1 - p, p], rtol=2e-5)
    assert adapter.logits(torch.from_numpy(X)).shape == (len(X), 2)
    assert (adapter.predict(X) == np.where(p > 0.5, "yes", "no")).all()


@pytest.mark.parametrize(("module", "y"), [(linear(3), Y3), (linear(3, nn.Softmax(1)), Y3), (linear(1), Y2),
                                           (linear(1, nn.Sigmoid()), Y2)])
def test_gradient_is_that_of_finite_differences(module, y):
    adapter = adapt(copy.deepcopy(module).double(), y, x=X.astype(np.float64))
    x = torch.from_numpy(X[:3].astype(np.float64)).requires_grad_()
    with adapter.frozen():
        assert torch.autograd.gradcheck(adapter.logits, (x,), eps=1e-6, atol=1e-7)


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=6).filter(lambda p: sum(p) > 0.01))
def test_log_scores_are_finite_and_their_softmax_is_the_probabilities(p):
    p = torch.tensor([p], dtype=torch.float64)
    p = p / p.sum()
    logits = log_scores(p, "probabilities")
    assert logits.isfinite().all()
    np.testing.assert_allclose(logits.softmax(1), p, atol=1e-12)
    one = log_scores(p[:, :1], "probabilities").softmax(1)
    np.testing.assert_allclose(one, torch.cat([1 - p[:, :1], p[:, :1]], 1), atol=1e-12)


def test_half_precision_module():
    module = linear(3, nn.Softmax(1), dtype=torch.bfloat16)
    adapter = adapt(module)
    assert adapter.outputs_ == "probabilities" and adapter.logits(torch.from_numpy(X)).dtype == torch.float32


class Rows28(nn.Module):
    """Takes (B, H, W) only."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)), (1, 8, 8)),
        (Rows28, (8, 8)),
        (lambda: nn.Sequential(nn.Linear(64, 3)), (64,)),
    ],
)
def test_layouts(make, shape):
    module, images = seeded(make), RNG.random((20, 1, 8, 8)).astype(np.float32)
    adapter = adapt(module, Y3[:20], images, GREY, outputs="logits")
    with torch.no_grad():
        expected = module(torch.from_numpy(images).reshape(20, *shape)).softmax(1)
    np.testing.assert_allclose(adapter.predict_proba(images), expected, rtol=1e-5)


def test_no_layout_works():
    images = RNG.random((20, 1, 8, 8)).astype(np.float32)
    with pytest.raises(ClassifierOutputError, match=r"(?s)\(5, 1, 8, 8\).*\(5, 8, 8\).*\(5, 64\): RuntimeError: "):
        adapt(nn.Linear(63, 3), Y3[:20], images, GREY)


@pytest.mark.parametrize(
    ("module", "options", "match"),
    [
        (linear(5), {}, r"5 outputs, but y has 3 classes: \['ant', 'bee', 'cat'\]"),
        (linear(1), {"outputs": "logits"}, "one output, which tells 2 classes apart, but y has 3"),
        (linear(3, Apply(lambda z: z / 0)), {}, "producing NaN or infinity on valid data: 90 of 90"),
        (linear(3, Apply(lambda z: torch.where(z[:, :1] > z[:, :1].median(), z, torch.nan))), {}, "of 90 rows"),
        (linear(3, nn.Sigmoid()), {}, 'classifier_output="logits".*or classifier_output="probabilities"'),
        (linear(1, Apply(lambda z: z.clamp(0, 1))), {"y": Y2}, "cannot be told.*one column.*classifier_output="),
        (linear(3), {"outputs": "probabilities"}, "read as probabilities, but its outputs lie in"),
        (linear(3, Apply(lambda z: z.detach())), {}, "no gradient"),
        (linear(3, Apply(lambda z: z.argmax(1))), {}, "torch.int64"),
        (linear(3, Apply(lambda z: (z, z))), {}, "returned a tuple, not a tensor"),
        (linear(3, Apply(lambda z: z.sum())), {}, r"returned shape \(\)"),
    ],
)
def test_outputs_that_cannot_be_read(module, options, match):
    with pytest.raises(ClassifierOutputError, match=match):
        adapt(module, **options)


def test_ambiguity_is_solved_by_the_user():
    module = linear(1, Apply(lambda z: z.clamp(0, 1)))
    p = direct(module).clip(0, 1)[:, 0]
    np.testing.assert_allclose(adapt(module, Y2, outputs="probabilities").predict_proba(X)[:, 1], p, atol=1e-6)
    np.testing.assert_allclose(adapt(module, Y2, outputs="logits").predict_proba(X)[:, 1], expit(p), atol=1e-6)
    with pytest.raises(ValueError, match="classifier_output='scores'"):
        adapt(module, Y2, outputs="scores")


def test_nan_after_fit_is_not_hidden():
    adapter = adapt(linear(3, Apply(lambda z: z + (100 - z.abs()).sqrt())), outputs="logits")
    with pytest.raises(ClassifierOutputError, match="1 of 3 rows"):
        adapter.predict_proba(np.concatenate([X[:2], np.full((1, D), 1e6, np.float32)]))


def test_device():
    with pytest.raises(ValueError, match=r"is on 'meta'.*device='cpu'.*device='meta'.*classifier.to\('cpu'\)"):
        adapt(linear(3).to("meta"))
    with pytest.raises(ValueError, match="is on 'cpu', but the explainer computes on device='meta'"):
        adapt(linear(3), device="meta")


def mixed_module():
    module = seeded(lambda: nn.Sequential(nn.Linear(D, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 3)))
    module.train()
    module[1].eval()
    module[0].weight.requires_grad_(False)
    return module


def picture(module):
    return (
        [part.training for part in module.modules()],
        [parameter.requires_grad for parameter in module.parameters()],
        {name: tensor.numpy().tobytes() for name, tensor in module.state_dict().items()},
        [parameter.grad for parameter in module.parameters()],
    )


def test_nothing_of_the_users_module_changes():
    module = mixed_module()
    before = picture(module)
    adapter = adapt(module, outputs="logits")
    adapter.predict_proba(X)
    with adapter.frozen():
        assert not any(part.training for part in module.modules())
        assert not any(parameter.requires_grad for parameter in module.parameters())
        x = torch.from_numpy(X).requires_grad_()
        adapter.logits(x).sum().backward()
        with adapter.frozen():
            adapter.predict(X)
        assert not module.training
    assert picture(module) == before
    with pytest.raises(KeyboardInterrupt), adapter.frozen():
        raise KeyboardInterrupt
    assert picture(module) == before
    adapter.logits(torch.from_numpy(X[:1].copy()))  # outside: modes are left alone, dropout is the user's
    assert picture(module)[0] == before[0]


def test_a_failed_adaptation_restores_too():
    module = mixed_module().append(Apply(lambda z: z * torch.nan))
    before = picture(module)
    with pytest.raises(ClassifierOutputError):
        adapt(module)
    assert picture(module) == before


def test_threads_share_a_module():
    module, entered, leave = mixed_module(), threading.Event(), threading.Event()
    before = picture(module)

    def other():
        with frozen(module):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with frozen(module):
        thread.start()
        assert entered.wait(10)
    assert not any(part.training for part in module.modules())  # the other thread still computes
    leave.set()
    thread.join()
    assert picture(module) == before


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 200), st.integers(0, 1000))
def test_bits_do_not_depend_on_the_batch(n, seed):
    adapter = adapt(linear(3, nn.Tanh(), nn.Linear(3, 3)), outputs="logits")
    rows = np.random.default_rng(seed).integers(len(X), size=n)
    assert (adapter.predict_proba(X[rows]) == adapter.predict_proba(X)[rows]).all()


def test_no_rows():
    adapter = adapt(linear(3))
    assert adapter.predict_proba(X[:0]).shape == (0, 3) and adapter.predict(X[:0]).shape == (0,)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_copies(copier):
    adapter = adapt(linear(3))
    other = copier(adapter)
    assert other.module is not adapter.module
    assert (other.predict_proba(X) == adapter.predict_proba(X)).all()
    assert (other.predict(X) == adapter.predict(X)).all()


def skorch_net(kind, module, y, **options):
    codes = np.unique(y, return_inverse=True)[1]
    codes = codes.astype(np.float32 if kind is NeuralNetBinaryClassifier else np.int64)
    net = kind(module, max_epochs=1, lr=0.01, train_split=None, verbose=0, **options)
    return seeded(lambda: net.fit(X, codes))


@pytest.mark.parametrize("wrap", [lambda net: net, FrozenEstimator])
@pytest.mark.parametrize(
    ("kind", "module", "y", "options", "outputs"),
    [
        (NeuralNetClassifier, linear(3), Y3, {"criterion": nn.CrossEntropyLoss}, "logits"),
        (NeuralNetClassifier, linear(3, nn.Softmax(1)), Y3, {}, "probabilities"),
        (NeuralNetBinaryClassifier, linear(1), Y2, {}, "logits"),
        (NeuralNetBinaryClassifier, linear(1, Apply(torch.sigmoid)), Y2, {"criterion": nn.BCELoss}, "probabilities"),
        (NeuralNetBinaryClassifier, linear(1, Apply(take_column)), Y2, {}, "logits"),
    ],
)
def test_skorch(kind, module, y, options, outputs, wrap):
    net = skorch_net(kind, copy.deepcopy(module), y, **options)
    before = picture(net.module_)
    codes = np.unique(y, return_inverse=True)[1]
    adapter = adapt(wrap(net), codes)
    assert adapter.outputs_ == outputs and not adapter.is_surrogate
    np.testing.assert_allclose(adapter.predict_proba(X), net.predict_proba(X), rtol=1e-5)
    assert (adapter.predict(X) == net.predict(X)).all()
    assert picture(net.module_)[1:] == before[1:]
    named = adapt(wrap(net), y)  # trained on LabelEncoder's codes, explained in the user's labels
    assert (named.predict(X) == np.unique(y)[net.predict(X)]).all()


def test_plain_neural_net_trains_log_probabilities():
    net = skorch_net(NeuralNet, linear(3, nn.LogSoftmax(1)), Y3, criterion=nn.NLLLoss)
    adapter = adapt(net)
    assert adapter.outputs_ == "logits"
    np.testing.assert_allclose(adapter.predict_proba(X), np.exp(net.predict_proba(X)), rtol=1e-5)


def test_skorch_own_nonlinearity_and_tuples():
    net = skorch_net(NeuralNetClassifier, linear(3), Y3, criterion=nn.CrossEntropyLoss)
    net.set_params(predict_nonlinearity=lambda z: (2 * z).softmax(1))
    np.testing.assert_allclose(adapt(net).predict_proba(X), net.predict_proba(X), rtol=1e-5)


def test_skorch_errors():
    with pytest.raises(NotFittedError, match=r"NeuralNetClassifier is not fitted.*fit\(X, y\)"):
        adapt(NeuralNetClassifier(linear(3)))
    net = skorch_net(NeuralNetClassifier, linear(3, nn.Softmax(1)), Y3)
    with pytest.raises(ClassifierOutputError, match=r"does not know: \[7, 9\]"):
        adapt(net, np.array([7, 9])[np.arange(90) % 2])
    logits = skorch_net(NeuralNetClassifier, linear(3), Y3, criterion=nn.CrossEntropyLoss)
    with pytest.raises(ClassifierOutputError, match='pass classifier_output="logits"'):
        adapt(logits, outputs="probabilities")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_a_skorch_net_decides_at_its_own_threshold(threshold):
    net = skorch_net(NeuralNetBinaryClassifier, linear(1), Y2, threshold=threshold)
    adapter = adapt(net, Y2)
    said = adapter.classes_[net.predict(X).astype(int)]
    assert (adapter.predict(X) == said).all() and (said != adapter.classes_[adapter.predict_proba(X).argmax(1)]).mean() > 0
    x = torch.from_numpy(X)
    assert (adapter.classes_[adapter.verdict(x, adapter.logits(x)).argmax(1)] == said).all()
