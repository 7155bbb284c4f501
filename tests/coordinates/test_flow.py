"""Exact flows as coordinates: the estimator's contract, bits, seeds, errors, and training that goes on."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from perturbed import perturbed
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from cfexplain.coordinates import Flow
from cfexplain.density import Prior
from cfexplain.foundation.tiles import aligned


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
    ({}, (9, 11), "9x11 has an odd side"), ({"levels": 1}, (9, 11), "generator=Flow.pad=True."),
    ({"levels": 3}, (12, 12), "12x12 can be halved 2 times"), ({"architecture": "coupling"}, (8, 8), "not for images"),
    ({"architecture": "glow"}, (3,), "not for tables"), ({"levels": 2}, (3,), "levels= is for flows of images"),
    ({"size": "large"}, (8, 8), "must be 'small' or 'paper'"), ({"precision": "half"}, (8, 8), "bfloat16"),
    ({"hidden": 8}, (3,), "tables the widths"), ({"hidden": (8,)}, (8, 8), "images take one number"),
    ({"n_bits": 0}, (8, 8), "n_bits=0 must be a whole number from 1"), ({"training_budget": 0}, (3,), "training_budget=0"),
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


class Interrupted(Exception):
    pass


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
