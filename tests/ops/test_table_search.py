"""The one-launch search of a table: kernel, reference and the eager search of a trained explainer.

Without a GPU the kernel runs in Triton's interpreter; where there is one, the compiled kernel passes the same tests.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import zuko
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler
from torch import fx, nn

pytest.importorskip("triton", reason="needs Triton: pip install triton")

from cfexplain import PLACEExplainer
from cfexplain.coordinates import VAE
from cfexplain.density import ClassFlow, ConditionalFlow
from cfexplain.density.frozen import pack
from cfexplain.explainers.backends import make_engine
from cfexplain.explainers.one_launch import pack_table
from cfexplain.explainers.run import Run
from cfexplain.ops.search_step import StepOptions
from cfexplain.ops.table_search import Dense, Network, NotCovered, TableSearch, read_network
from cfexplain.ops.table_search.reference import evaluate, table_search
from cfexplain.ops.table_search.triton import ROWS, TritonTableSearch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


# ---------------------------------------------------------------- searches and rows drawn at random


class Drawn:
    """Networks, rules and rows of a table of 7 columns, codes of 5 numbers and 3 classes, float64."""

    def __init__(self, seed=0, classes=3, activation="silu"):
        self.generator = torch.Generator().manual_seed(seed)
        self.classes, self.activation = classes, activation

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def layers(self, *sizes, activation=None):
        names = [activation or self.activation] * (len(sizes) - 2) + ["identity"]
        return tuple(Dense(self.normal(a, b) / a**0.5, 0.3 * self.normal(b), name)
                     for a, b, name in zip(sizes, sizes[1:], names, strict=False))

    def flow(self, transforms=2, hidden=(12,), **options):
        torch.manual_seed(3)
        net = zuko.flows.NICE(5, self.classes, transforms=transforms, hidden_features=hidden, **options)
        return pack(ClassFlow(net, 5, self.classes).eval().requires_grad_(False))

    def network(self, *sizes):
        return Network(0.5 * self.normal(sizes[0]), 1 + 0.2 * self.normal(sizes[0]).abs(), self.layers(*sizes))

    def search(self, **parts):
        given = dict(
            features=7, dim=5, classes=self.classes, classifier=self.network(7, 20, self.classes),
            decoder=self.layers(5, 18, 7), decision="none", log_odds_slack=0.02, density_slack=0.5,
            weights=dict(decision=2.0, distance=0.7, density=0.5, opinion=3.0, input=0.2),
            needed=dict(needed=0.5, opinion_needed=0.4))
        return TableSearch(**{**given, **parts})

    def rows(self, n, **more):
        rows = {"x": self.normal(n, 7), "reconstruction": self.normal(n, 7), "typical": -6 + self.normal(n),
                "target": torch.randint(0, self.classes, (n,), generator=self.generator)}
        return self.normal(n, 5), rows | more


def rules():
    held = torch.tensor([True, False, False, False, False, False, True])
    low, high = (torch.full((7,), end, dtype=torch.float64) for end in (-torch.inf, torch.inf))
    low[1:4], high[2:6] = -0.5, 0.4
    return dict(held=held, low=low, high=high)


def single(rows):
    """Rows as the kernel takes them."""
    return {name: (v.float() if v.is_floating_point() else v).to(DEVICE) for name, v in rows.items()}


def judged(search, z, z0, rows, block=32):
    """What kernel and reference say of the points z."""
    kernel = TritonTableSearch(search, DEVICE, block=block)
    found = kernel.evaluate(z.float().to(DEVICE), z0.float().to(DEVICE), single(rows))
    truth = evaluate(search, z, {**rows, "z0": z0, "numbers": search.numbers(rows, z)})
    return [f.cpu() for f in found], truth


def assert_near(found, truth, rtol=1e-5):
    for name, got, expected in zip(("gradient", "loss", "score"), found[:3], truth[:3], strict=True):
        assert torch.isfinite(got).all(), name
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * (1 + float(expected.abs().max())), err_msg=name)
    assert torch.equal(found[3], truth[3]) and torch.equal(found[4], truth[4])


TERMS = {
    "log-odds hinge": dict(decision="log_odds_hinge", needs_valid=False),
    "probability hinge, rules": dict(decision="probability_hinge", **rules()),
    "log probability, residual, rules": dict(
        decision="log_probability", needed={}, residual=True, needs_valid=False, **rules()),
    "probability": dict(decision="probability", needed={}),
    "cross-entropy, L1": dict(decision="cross_entropy", input_norm=1),
    "squared L2, distance, rules": dict(input_norm=2, distance=True, **rules()),
    "typical density": dict(density="typical"),
    "log density": dict(density="likelihood"),
    "second opinion": dict(opinion=True),
}


@pytest.mark.parametrize("name", TERMS)
def test_terms_and_gradients_are_those_of_autograd_in_float64(name, poisoned):
    drawn, parts = Drawn(), dict(TERMS[name])
    if "density" in parts:
        parts["flow"] = drawn.flow()
    if "opinion" in parts:
        parts["opinions"] = tuple(drawn.layers(5, 9, 3, activation="relu") for _ in range(2))
    z, rows = drawn.rows(ROWS + 1, needed=torch.linspace(-1, 1, ROWS + 1, dtype=torch.float64))
    found, truth = judged(drawn.search(**parts), z, z + 0.5, rows)
    assert_near(found, truth)
    assert truth[0].abs().max() > 0.01 and not found[4].all()


@pytest.mark.parametrize("activation", ["relu", "silu", "tanh", "sigmoid", "gelu", "elu", "leaky_relu"])
def test_activations(activation):
    drawn = Drawn(1, activation=activation)
    z, rows = drawn.rows(9)
    search = TableSearch(5, 5, 3, drawn.network(5, 12, 3), decision="cross_entropy", weights={"decision": 1.0})
    rows["x"] = z
    assert_near(*judged(search, 2 * z, z, rows))


@pytest.mark.parametrize("flow", [
    dict(transforms=3, hidden=(40,)), dict(transforms=2, hidden=(9, 9, 9)), dict(transforms=1, hidden=()),
    dict(transforms=3, randmask=True)])
def test_flows_of_any_depth_and_mask_in_several_blocks(flow):
    """Twenty classes, and widths beyond a block: sums over blocks."""
    drawn = Drawn(2, classes=20)
    search = drawn.search(density="likelihood", flow=drawn.flow(**flow), decision="cross_entropy", decoder=None,
                          features=5, classifier=drawn.network(5, 40, 20))
    z, rows = drawn.rows(5)
    assert_near(*judged(search, z, z, {**rows, "x": z}, block=16))


def test_a_search_that_starts_at_z0_has_a_gradient_of_0_there():
    drawn = Drawn()
    z, rows = drawn.rows(3)
    found, _ = judged(drawn.search(distance=True), z, z, rows)
    assert (found[0] == 0).all() and (found[1] == 0).all()


def test_weights_of_single_rows():
    drawn = Drawn()
    z, rows = drawn.rows(4)
    search = drawn.search(distance=True, own_weights={"distance": "weight:0"})
    found, _ = judged(search, z, z + 1, {**rows, "weight:0": torch.arange(4).double()})
    np.testing.assert_allclose(found[1], np.arange(4) * 5**0.5, rtol=1e-6)


# ---------------------------------------------------------------- whole searches


def easy(n, seed=4):
    """A search that ends within a few steps, after different numbers of them."""
    drawn = Drawn(seed, activation="tanh")
    search = TableSearch(
        5, 5, 2, drawn.network(5, 2), decision="log_odds_hinge", distance=True, log_odds_slack=0.02,
        weights={"decision": 3.0, "distance": 0.3}, needed={"needed": 1.0})
    z = drawn.normal(n, 5)
    return search, z, {"x": z, "target": torch.arange(n) % 2}


def searched(search, z, rows, options, programs=None, block=16):
    found = TritonTableSearch(search, DEVICE, block=block)(
        z.float().to(DEVICE), z.float().to(DEVICE), single(rows), options, programs)
    return {field.name: getattr(found, field.name).cpu() for field in dataclasses.fields(found)}


@pytest.mark.parametrize("options", [
    StepOptions(step_size=0.3, refine=2, max_steps=12), StepOptions(update="adam", step_size=0.4, max_steps=6, stall=2),
    StepOptions(step_size=0.3, stop="converged", patience=1, max_steps=5)])
def test_rows_of_the_queue_end_where_the_reference_ends(options, poisoned):
    """One program for more rows than it holds: finished slots take the next ones."""
    search, z, rows = easy(ROWS + 5)
    truth = table_search(search, z, z, rows, options)
    found = searched(search, z, rows, options, programs=1)
    for name in ("n_steps", "done", "valid", "finished"):
        assert torch.equal(found[name], getattr(truth, name)), name
    np.testing.assert_allclose(found["z"], truth.z, atol=2e-5)
    assert len(truth.n_steps.unique()) > 2


@pytest.mark.parametrize("n", [0, 1, ROWS - 1, ROWS, ROWS + 1])
def test_any_number_of_rows(n, poisoned):
    search, z, rows = easy(n)
    options = StepOptions(step_size=0.3, max_steps=2)
    truth, found = table_search(search, z, z, rows, options), searched(search, z, rows, options)
    assert found["z"].shape == (n, 5) and torch.equal(found["n_steps"], truth.n_steps)
    np.testing.assert_allclose(found["z"], truth.z, atol=1e-5)


# the interpreter computes with NumPy, which warns of numbers that are not finite
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rows_are_independent_of_order_programs_and_of_rows_of_nan(poisoned):
    search, z, rows = easy(ROWS + 3)
    options = StepOptions(step_size=0.3, refine=1, max_steps=3)
    whole = searched(search, z, rows, options)
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))
    bad = z.clone()
    bad[2], bad[ROWS, 1] = torch.nan, torch.inf
    other = searched(search, bad[order], {name: values[order] for name, values in rows.items()}, options, programs=1)
    sick = torch.zeros(len(z), dtype=torch.bool)
    sick[[2, ROWS]] = True
    for name, values in whole.items():
        assert torch.equal(other[name][~sick[order]], values[order][~sick[order]]), name
    ill = sick[order]
    assert not other["done"][ill].any() and not other["valid"][ill].any() and (other["n_steps"][ill] == 0).all()


def test_bad_input():
    search, z, rows = easy(2)
    with pytest.raises(TypeError, match="computes in float32, but the rows are float64"):
        TritonTableSearch(search, DEVICE)(z.to(DEVICE), z.to(DEVICE), rows, StepOptions())
    with pytest.raises(ValueError, match="precision='float16' is not known"):
        TritonTableSearch(search, DEVICE, "float16")
    with pytest.raises(ValueError, match="block=24 must be a power of two"):
        TritonTableSearch(search, DEVICE, block=24)
    with pytest.raises(ValueError, match="needs a flow"):
        dataclasses.replace(search, density="typical")


# ---------------------------------------------------------------- networks, read


class Scaled(nn.Module):
    """What people write: a scale in front, a method here and there, a number behind."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([1000.0, -3.0, 0.0]))
        self.one, self.two = nn.Linear(3, 8), nn.Linear(8, 2, bias=False)

    def forward(self, x):
        h = torch.tanh(self.one((x - self.mean.to(x.dtype)) / 2.0).view(x.shape[0], -1))
        return 1.0 - 3 * self.two(h)


def example():
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([1000.0, -3.0, 0.0])


@pytest.mark.parametrize("net", [
    Scaled(), nn.Sequential(nn.Linear(3, 4), nn.ELU(), nn.Flatten(), nn.Linear(4, 2), nn.Sigmoid()),
    nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2))])
def test_networks_are_read_as_they_are(net):
    torch.manual_seed(0)
    network = read_network(fx.symbolic_trace(net), example())
    x = example().double()
    found = (x - network.loc) * network.inverse_scale
    for layer in network.layers:
        found = found @ layer.weight + layer.bias
        found = found if layer.activation == "identity" else getattr(nn.functional, layer.activation)(found)
    np.testing.assert_allclose(found, net.double()(x).detach(), rtol=1e-6, atol=1e-6)
    assert network.layers[-1].activation == "identity"


class Skipping(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return x + self.layer(x)


@pytest.mark.parametrize(("net", "message"), [
    (nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)), "LayerNorm is no linear layer"),
    (nn.Sequential(nn.Linear(3, 2), nn.GELU("tanh")), "GELU with approximate='tanh'"),
    (nn.Sequential(nn.Linear(3, 2), nn.Softmax(1)), "Softmax is no"),
    (nn.Sequential(nn.ReLU(), nn.Linear(3, 2)), "relu of what is no linear layer"),
    (Skipping(), "reads a layer before the last one"), (nn.Identity(), "without a linear layer")])
def test_what_is_no_chain_of_layers_is_named(net, message):
    with pytest.raises(NotCovered, match=message):
        read_network(fx.symbolic_trace(net), example())


# ---------------------------------------------------------------- explainers


@pytest.fixture(scope="module")
def wine():
    X, y = load_wine(return_X_y=True)
    return StandardScaler().fit_transform(X).astype(np.float32), y


@pytest.fixture(scope="module")
def explainer(wine):
    """PLACE with every default term, rules for columns, and small networks."""
    return PLACEExplainer(
        coordinates=VAE(latent_dim=4, hidden=(24,)), density=ConditionalFlow(transforms=2, hidden_features=(16,)),
        second_opinion=2, confidence=0.7, step_size=0.25, immutable=[0], bounds={1: (-1.0, 1.0)}, refine=2, max_steps=14,
        training_budget=0.3, random_state=0).fit(*wine)


def rows_of(explainer, X, backend):
    """What the run of `explain` makes of X, on this device whatever it is."""
    run = Run(explainer, backend="packed")
    run.backend = backend
    return run.search(X, explainer.goal(X, None))


def test_a_trained_explainer_finds_what_the_eager_search_finds(explainer, wine):
    X = wine[0][::30]
    eager, found = (rows_of(explainer, X, backend) for backend in ("eager", "triton"))
    assert found.backend == "triton (one launch)"
    assert (found.n_steps == eager.n_steps).all() and len(np.unique(eager.n_steps)) > 2
    for name in ("done", "finished", "valid"):
        np.testing.assert_array_equal(getattr(found, name), getattr(eager, name))
    np.testing.assert_allclose(found.z, eager.z, atol=1e-4)
    np.testing.assert_array_equal(found.x_cf[:, 0], X[:, 0])  # immutable
    assert eager.done.any()


def test_what_is_read_of_an_explainer_is_its_objective(explainer, wine):
    """In float64, at points of the search: the reference on what was read, against the explainer's own evaluation."""
    X = wine[0][::7]
    search = pack_table(explainer, torch.from_numpy(X[:5]))
    run = Run(explainer, backend="eager")
    rows, start = run.prepare(X, explainer.goal(X, None))
    z = start.clone().requires_grad_()
    point = run.judge.evaluate(z, rows)
    (gradient,) = torch.autograd.grad(point.loss.sum(), z)
    truth = evaluate(search, start.double(), {**rows, "numbers": search.numbers(rows, start)})
    np.testing.assert_allclose(point.loss.detach(), truth[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient, truth[0], rtol=1e-3, atol=1e-3)
    assert torch.equal(point.done, truth[3]) and torch.equal(point.valid, truth[4])


@pytest.mark.parametrize(("wanted", "message"), [
    (dict(perceptual_weight=1.0, perceptual=lambda x, y: (x - y).abs().sum(1)), "the term PerceptualDistance")])
def test_terms_that_are_not_covered_are_named(explainer, wine, wanted, message):
    before = {name: explainer.get_params(deep=False)[name] for name in wanted}
    try:
        with pytest.raises(NotCovered, match=message):
            pack_table(explainer.set_params(**wanted), torch.from_numpy(wine[0][:3]))
    finally:
        explainer.set_params(**before)


@pytest.mark.parametrize(("fixture", "message"), [
    ("flow_table_explainer", "the decoder"), ("image_explainer", "images"),
    ("clarity_table_explainer", "EnsembleCrossEntropy"),
    ("prototype_table_explainer", "two terms of one kind|PrototypeDistance")])
def test_explainers_that_are_not_covered_are_named(fixture, message, request, table, digits):
    explainer = request.getfixturevalue(fixture)
    X = digits[2][:3, None] if fixture == "image_explainer" else table[2][:3]
    with pytest.raises(NotCovered, match=message):
        pack_table(explainer, torch.from_numpy(X))


@pytest.mark.parametrize(("precision", "said"), [
    ("auto", "triton (not one launch: the term EnsembleCrossEntropy)"),
    ("bfloat16", "triton, bfloat16 (not one launch: precision='bfloat16')")])
def test_a_search_in_slots_says_why_it_is_not_one_launch(precision, said, clarity_table_explainer, table):
    engine = make_engine(clarity_table_explainer, "triton", precision, torch.from_numpy(table[2][:3]))
    assert engine.backend == said


def test_other_methods_on_tables_are_covered(table, table_explainer, gradient_table_explainer):
    x = torch.from_numpy(table[2][:4])
    assert pack_table(gradient_table_explainer, x).decision == "log_probability"
    assert pack_table(gradient_table_explainer, x).decoder is None
    search = pack_table(table_explainer, x)
    assert search.density == "typical" and search.opinion and search.distance and search.residual and search.dim == 10
