"""The conditional flow: numbers against independent computations, invariants, and the scikit-learn contract."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from cfexplain.datasets import load_digits_images
from cfexplain.density import ClassFlow, ConditionalFlow
from cfexplain.density.base import as_unseen
from cfexplain.foundation.exceptions import NotFittedError, TargetError
from cfexplain.foundation.tiles import aligned

QUICK = {"transforms": 4, "hidden_features": (16,), "training_budget": 0.05, "random_state": 0}


def rows(n=120, d=4, k=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    Z = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 2 * rng.normal(size=(k, d))[y] + 5
    return Z, np.array(["cat", "dog", "emu", "fox"])[y]


@pytest.fixture(scope="module")
def data():
    return rows()


@pytest.fixture(scope="module", params=["gaussian", "attributes"])
def fitted(request, data):
    return ConditionalFlow(base=request.param, **QUICK).fit(*data)


@parametrize_with_checks([ConditionalFlow(training_budget=0.02, random_state=0)])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("flow", "base", "k"),
    [("nice", "gaussian", 2), ("nsf", "gaussian", 2), ("maf", "gaussian", 1), ("nice", "attributes", 2)],
)
def test_density_integrates_to_one_in_the_units_of_Z(flow, base, k):
    Z, y = rows(n=200, d=2, k=k)
    Z = Z * [0.5, 30.0]
    density = ConditionalFlow(flow, base=base, **QUICK).fit(Z, y)
    axes = [np.linspace(c - 8 * s, c + 8 * s, 160) for c, s in zip(Z.mean(0), Z.std(0), strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    for label in density.classes_:
        assert np.exp(density.score_samples(grid, label)).sum() * cell == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("flow", ["nice", "realnvp", "maf", "nsf"])
@pytest.mark.parametrize("base", ["gaussian", "attributes"])
def test_change_of_variables_by_the_autograd_jacobian(flow, base, data):
    Z, y = data
    density = ConditionalFlow(flow, base=base, **QUICK).fit(Z, y)
    for k, label in enumerate(density.classes_):
        z, c = torch.tensor(Z[:1]), torch.tensor([k])
        u = density.to_base(z, c)
        jacobian = torch.autograd.functional.jacobian(lambda v, c=c: density.to_base(v, c)[0], z)[:, 0]
        if base == "gaussian":
            prior = stats.norm.logpdf(u.numpy()).sum()
        else:  # K = 3: three attributes at N(+1, s) for the own class and N(-1, s) for the others, the rest N(0, 1)
            own = np.where(np.arange(3) == k, 1.0, -1.0)
            prior = stats.norm.logpdf(u[0, :3].numpy(), own, 0.7).sum() + stats.norm.logpdf(u[0, 3:].numpy()).sum()
        expected = prior + np.linalg.slogdet(jacobian.numpy())[1]
        assert density.score_samples(Z[:1], label)[0] == pytest.approx(expected, abs=1e-6)
        np.testing.assert_allclose(density.from_base(u, c).numpy(), Z[:1], atol=1e-5)


def test_marginal_is_the_mixture_of_the_classes(fitted, data):
    Z, y = data
    parts = [np.log(np.mean(y == label)) + fitted.score_samples(Z, label) for label in fitted.classes_]
    np.testing.assert_allclose(fitted.score_samples(Z), np.logaddexp.reduce(parts, axis=0), rtol=1e-12)
    assert fitted.score(Z) == pytest.approx(fitted.score_samples(Z).mean())
    assert fitted.score(Z, y) == pytest.approx(np.mean(fitted.score_samples(Z, y)))
    for label in fitted.classes_:  # one label, or the same label a row
        np.testing.assert_array_equal(fitted.score_samples(Z, label), fitted.score_samples(Z, np.full(len(Z), label)))


def test_a_unit_costs_its_logarithm(data):
    """The flow sees the same standardised codes, so only log|det| may differ."""
    Z, y = data
    one, ten = ConditionalFlow(**QUICK).fit(Z, y), ConditionalFlow(**QUICK).fit(10 * Z - 7, y)
    np.testing.assert_allclose(
        one.score_samples(Z, y) - ten.score_samples(10 * Z - 7, y), Z.shape[1] * np.log(10), atol=1e-3
    )


def test_standards_are_those_of_the_samples(data):
    Z, y = data
    std = np.random.default_rng(1).uniform(0, 2, Z.shape)
    density = ConditionalFlow(**QUICK).fit(Z, y, std=std)
    np.testing.assert_allclose(density.loc_, Z.mean(0))
    np.testing.assert_allclose(density.scale_, np.sqrt(Z.var(0) + np.square(std).mean(0)))
    np.testing.assert_allclose(density.flow_.scale.numpy(), density.scale_)


def test_posterior_samples_widen_the_density():
    Z = np.random.default_rng(0).normal(size=(400, 2))
    density = ConditionalFlow(transforms=2, hidden_features=(32,), training_budget=0.15, random_state=0)
    density.fit(Z, std=np.full(Z.shape, 2.0))
    drawn = density.sample(2000, random_state=0)
    np.testing.assert_allclose(drawn.std(0), np.hypot(Z.std(0), 2), rtol=0.2)


def test_learns_a_gaussian_about_as_well_as_a_gaussian():
    """Held-out rows of correlated normal classes: within half a nat of the true density."""
    rng = np.random.default_rng(0)
    y = np.arange(2400) % 2
    mix, mean = np.array([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [-0.4, 0.3, 2.0]]), np.array([[0, 0, 0], [3, -1, 4.0]])
    Z = rng.normal(size=(2400, 3)) @ mix.T + mean[y]
    density = ConditionalFlow(transforms=4, training_budget=0.2, random_state=0).fit(Z[:1200], y[:1200])
    truth = np.array([stats.multivariate_normal(mean[k], mix @ mix.T).logpdf(z) for z, k in zip(Z[1200:], y[1200:],
                                                                                               strict=True)])
    assert density.score(Z[1200:], y[1200:]) > truth.mean() - 0.5


def test_constant_columns_are_a_unit_normal(data):
    Z, y = data
    Z = np.column_stack([Z[:, :2], np.full(len(Z), 1e6)])
    density = ConditionalFlow(**QUICK).fit(Z, y)
    assert density.scale_[2] == 1
    assert np.isfinite(density.score_samples(Z, y)).all()
    assert np.isfinite(density.score_samples(Z + [0, 0, 3.0], y)).all()
    assert density.score_samples(Z, y).mean() > density.score_samples(Z + [0, 0, 3.0], y).mean()


@pytest.mark.parametrize("y", [None, "labels"])
@pytest.mark.parametrize("flow", ["nice", "maf", "nsf"])
def test_one_feature_falls_back_to_splines(flow, y):
    Z, labels = rows(d=1, k=2)
    y = labels if y else None
    density = ConditionalFlow(flow, **QUICK).fit(Z, y)
    assert density.flow_name_ == "nsf"
    grid = np.linspace(Z.mean() - 15 * Z.std(), Z.mean() + 15 * Z.std(), 4000)[:, None]
    for label in density.classes_:
        assert np.exp(density.score_samples(grid, label)).sum() * (grid[1] - grid[0])[0] == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("flow", ["nice", "maf", "nsf"])
@pytest.mark.parametrize("base", ["gaussian", "attributes"])
def test_swap_there_and_back(flow, base, data):
    Z, y = data
    density = ConditionalFlow(flow, base=base, **QUICK).fit(Z, y)
    there = density.swap(Z, y, "emu")
    np.testing.assert_allclose(density.swap(there, "emu", y), Z, atol=1e-4)
    np.testing.assert_array_equal(there[y == "emu"], Z[y == "emu"])
    assert (np.abs(there[y != "emu"] - Z[y != "emu"]).max(1) > 1e-6).all()


def test_swap_keeps_the_base_code(fitted, data):
    Z, y = data
    c = torch.tensor(np.searchsorted(fitted.classes_, y))
    t = (c + 1) % 3
    z = torch.tensor(Z)
    there = fitted.swap_codes(z, c, t)
    before, after = fitted.to_base(z, c), fitted.to_base(there, t)
    if fitted.base == "attributes":
        before = before + fitted.flow_.attributes.mean[t] - fitted.flow_.attributes.mean[c]
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
    np.testing.assert_allclose(fitted.swap(Z, y, fitted.classes_[t.numpy()]), there.numpy(), atol=1e-9)
    torch.testing.assert_close(fitted.swap_codes(z, c, t, 0.0), z, atol=1e-5, rtol=0)
    torch.testing.assert_close(fitted.swap_codes(z, c, t, torch.ones(len(z))), there, atol=0, rtol=0)


def test_samples_look_like_what_was_learnt():
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b"], 200)
    Z = rng.normal(size=(400, 2)) + np.where(y == "a", -4, 4)[:, None]
    density = ConditionalFlow(transforms=4, hidden_features=(32,), training_budget=0.5, random_state=0).fit(Z, y)
    for label, centre in (("a", -4), ("b", 4)):
        drawn = density.sample(500, label, random_state=1)
        assert drawn.shape == (500, 2)
        assert np.abs(drawn.mean(0) - centre).max() < 0.5
        # log densities of draws and of training codes have the same distribution, up to what the training noise adds
        own = density.log_densities_[list(density.classes_).index(label)]
        assert abs(np.median(density.score_samples(drawn, label)) - np.median(own)) < 0.5
    share = (density.sample(2000, random_state=2)[:, 0] > 0).mean()
    assert share == pytest.approx(0.5, abs=0.06)
    rowwise = density.sample(4, ["a", "b", "b", "a"], random_state=0)
    assert (np.sign(rowwise[:, 0]) == [-1, 1, 1, -1]).all()


def test_ranks_are_those_of_rows_that_were_not_trained_on():
    X, y = load_digits_images()
    X, y = X.reshape(len(X), -1)[:, 10:26].astype(np.float32), y // 5
    rng = np.random.RandomState(0)
    order = rng.permutation(len(X))
    X, y = (X + rng.normal(0, 0.05, X.shape).astype(np.float32))[order], y[order]
    # as flexible as can be on few rows
    density = ConditionalFlow(transforms=6, hidden_features=(128, 128), random_state=0).fit(X[:500], y[:500])
    known, new = (density.score_samples(X[part], y[part]) for part in (slice(500), slice(500, None)))
    ranks = density.percentile(new, y[500:])
    assert 35 < np.median(ranks) < 65 and 3 < (ranks < 10).mean() * 100 < 22
    # by themselves, what was trained on is denser
    raw = [stats.percentileofscore(known[y[:500] == k], v) for v, k in zip(new, y[500:], strict=True)]
    assert np.median(raw) < np.median(ranks) - 8


def test_correction_keeps_order_and_what_is_impossible():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, 400)
    values, held = rng.normal(size=400) + 3 * codes, np.arange(0, 400, 5)
    values[held] -= 2
    values[[1, 2]] = np.nan, -np.inf
    own = as_unseen(values, codes, held, 2)
    for k in range(2):
        assert len(own[k]) == (codes == k).sum() and (np.diff(own[k][np.isfinite(own[k])]) >= 0).all()
        assert abs(np.median(own[k]) - np.median(values[held][codes[held] == k])) < 0.4
    assert np.isinf(np.concatenate(own)).sum() == 2
    same = as_unseen(values, codes, held[:5], 2)  # too few to tell
    np.testing.assert_array_equal(same[1], np.sort(np.where(np.isnan(values), -np.inf, values)[codes == 1]))


def test_percentile_is_the_rank_among_the_own_class(fitted, data):
    Z, y = data
    values = fitted.score_samples(Z + 0.3, y)
    expected = [stats.percentileofscore(fitted.log_densities_[list(fitted.classes_).index(label)], v, kind="weak")
                for v, label in zip(values, y, strict=True)]
    np.testing.assert_allclose(fitted.percentile(values, y), expected)
    wild = fitted.percentile([np.nan, np.inf, -np.inf, values.max() + 1e3], "cat")
    np.testing.assert_array_equal(wild, [0, 0, 0, 100])
    assert isinstance(fitted.percentile(values[0], y[0]), float)
    assert fitted.percentile(0.0, y[:5]).shape == (5,)


def test_training_densities_that_are_not_finite_rank_lowest(data):
    density = ConditionalFlow(**QUICK).fit(*data)
    for values in density.log_densities_:
        assert (np.diff(values) >= 0).all()
    density.log_densities_[0] = np.array([-np.inf, 1.0, 2.0, 3.0])
    assert density.percentile(1.5, "cat") == 50
    assert density.quantile(0.5, "cat") == 2.0


def test_quantiles(fitted):
    for q in (0.0, 0.25, 0.5, 1.0):
        by_index = fitted.quantiles_by_index(q)
        assert by_index.shape == (3,) and by_index.dtype == np.float64
        for k, label in enumerate(fitted.classes_):
            value = fitted.quantile(q, label)
            assert value == by_index[k] == np.quantile(fitted.log_densities_[k], q, method="higher")
            assert fitted.percentile(value, label) >= 100 * q
    np.testing.assert_array_equal(fitted.quantile(0.5, ["emu", "cat"]), fitted.quantiles_by_index(0.5)[[2, 0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("flow", "d"), [("nice", 7), ("nice", 4), ("maf", 6), ("nsf", 5)])
def test_a_row_has_the_same_bits_in_any_company(flow, d, dtype):
    Z, y = rows(n=300, d=d)
    Z = Z.astype(dtype)
    density = ConditionalFlow(flow, **QUICK).fit(Z, y)
    every, swapped = density.score_samples(Z, y), density.swap(Z, y, "dog")
    z, c = torch.tensor(Z[:256], requires_grad=True), torch.arange(256) % 3
    there = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    with aligned():
        (gradient,) = torch.autograd.grad(density.log_prob(z, c).sum(), z)
        (moved,) = torch.autograd.grad(density.log_prob(z[there], c[there]).sum(), z)
    assert torch.equal(gradient, moved)
    assert every.dtype == swapped.dtype == dtype
    order = np.random.default_rng(0).permutation(len(Z))
    for part in ([0], [299], order[:7], order[:8], order[:33], order):
        np.testing.assert_array_equal(density.score_samples(Z[part], y[part]), every[part])
        np.testing.assert_array_equal(density.swap(Z[part], y[part], "dog"), swapped[part])


def test_seeds_reproduce_and_global_generators_are_left_alone(data):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    one, two = ConditionalFlow(**QUICK).fit(*data), ConditionalFlow(**QUICK).fit(*data)
    other = clone(one).set_params(random_state=1).fit(*data)
    drawn = one.sample(5, random_state=3)
    one.sample(5)
    ConditionalFlow(**{**QUICK, "random_state": None}).fit(*data)
    assert torch.equal(torch.get_rng_state(), torch_state)
    for before, after in zip(numpy_state, np.random.get_state(), strict=True):  # noqa: NPY002
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(one.score_samples(data[0]), two.score_samples(data[0]))
    np.testing.assert_array_equal(drawn, two.sample(5, random_state=3))
    assert (one.score_samples(data[0]) != other.score_samples(data[0])).any()


def test_copies_have_the_same_bits(fitted, data):
    Z, y = data
    expected = fitted.score_samples(Z, y)
    for twin in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted), clone(fitted).fit(Z, y)):
        np.testing.assert_array_equal(twin.score_samples(Z, y), expected)
    module = clone(fitted)._build_flow(fitted.n_features_in_, len(fitted.classes_)).double()
    module.load_state_dict(fitted.flow_.state_dict())
    c = torch.tensor(np.searchsorted(fitted.classes_, y))
    np.testing.assert_allclose(module.log_prob(torch.tensor(Z), c), expected, rtol=1e-12)


def test_module_is_frozen_and_moves(data):
    density = ConditionalFlow(**QUICK).fit(*data)
    assert isinstance(density.flow_, ClassFlow) and not density.flow_.training
    assert not any(p.requires_grad for p in density.flow_.parameters())
    assert density.to(dtype=torch.float32) is density
    assert density.score_samples(data[0]).dtype == np.float32


@pytest.mark.parametrize("flow", ["nice", "realnvp", "maf", "nsf"])
@pytest.mark.parametrize("base", ["gaussian", "attributes"])
def test_gradients_are_finite_and_right(flow, base, data):
    Z, y = data
    density = ConditionalFlow(flow, base=base, **QUICK).fit(Z, y)
    z, c = torch.tensor(Z[:16], requires_grad=True), torch.arange(16) % 3
    (gradient,) = torch.autograd.grad(density.log_prob(z, c).sum(), z)
    step = 1e-5 * torch.eye(z.shape[1], dtype=z.dtype)
    with torch.no_grad():
        numeric = [(density.log_prob(z + e, c) - density.log_prob(z - e, c)) / 2e-5 for e in step]
    torch.testing.assert_close(gradient, torch.stack(numeric, 1), atol=1e-3, rtol=1e-3)
    (through,) = torch.autograd.grad(density.swap_codes(z, c, (c + 1) % 3).sum(), z)
    assert torch.isfinite(through).all()


@pytest.mark.parametrize(("parameters", "error", "match"), [
    ({"flow": "glow"}, ValueError, "nice"), ({"flow": 3}, TypeError, "callable"),
    ({"flow": torch.nn.Linear(2, 2)}, TypeError, "zuko"), ({"base": "normal"}, ValueError, "attributes"),
    ({"transforms": 0}, ValueError, "transforms=0"), ({"hidden_features": (0,)}, ValueError, "hidden_features"),
    ({"attribute_scale": 0}, ValueError, "attribute_scale"), ({"batch_size": 0}, ValueError, "batch_size"),
    ({"lr": -1}, ValueError, "lr"), ({"training_budget": np.inf}, ValueError, "training_budget"),
    ({"weight_decay": -1}, ValueError, "weight_decay"),
])
def test_bad_parameters(parameters, error, match, data):
    with pytest.raises(error, match=match):
        ConditionalFlow(**parameters).fit(*data)


def test_bad_data(data):
    Z, y = data
    density = ConditionalFlow(**QUICK)
    with pytest.raises(NotFittedError):
        density.score_samples(Z)
    with pytest.raises(ValueError, match="'rare' has only 1 sample"):
        density.fit(Z, ["rare", *["common"] * (len(Z) - 1)])
    with pytest.raises(ValueError, match="shape of Z"):
        density.fit(Z, y, std=np.ones((len(Z), 2)))
    with pytest.raises(ValueError, match="none below 0"):
        density.fit(Z, y, std=-np.ones(Z.shape))
    with pytest.raises(ValueError, match="continuous"):
        density.fit(Z, Z[:, 0])
    with pytest.raises(ValueError, match="too large"):
        density.fit(Z * 1e200, y)


def test_bad_labels(fitted, data):
    Z, y = data
    with pytest.raises(TargetError, match="Unknown class yak; fitted on the classes"):
        fitted.score_samples(Z, "yak")
    with pytest.raises(TargetError):
        fitted.swap(Z, y, 1)
    with pytest.raises(ValueError, match="one label for each of the 120 rows"):
        fitted.score_samples(Z, y[:3])
    with pytest.raises(ValueError, match="n_samples"):
        fitted.sample(0)
    with pytest.raises(ValueError, match="q=2"):
        fitted.quantile(2, "cat")
    with pytest.raises(ValueError, match="4 features"):
        fitted.score_samples(Z[:, :2])


def test_a_flow_is_as_large_as_what_there_is_to_learn():
    sizes = []
    for shape in ((150, 13), (1_500, 32), (10_000, 32), (60_000, 32), (10**6, 64)):
        density = ConditionalFlow()
        density._choose_sizes(*shape)
        sizes.append((density.transforms_, density.hidden_features_))
    assert sizes == sorted(sizes) and sizes[0] == (4, (64, 64)) and sizes[-2] == sizes[-1] == (8, (256, 256))
    density = ConditionalFlow(transforms=3, hidden_features=(5, 7))
    density._choose_sizes(60_000, 32)
    assert (density.transforms_, density.hidden_features_) == (3, (5, 7))


def test_sizes_that_were_chosen_are_saved_and_few_rows_take_few_updates(data, tmp_path):
    from cfexplain import PLACEExplainer, load

    Z, y = data
    explainer = PLACEExplainer(second_opinion=0, coordinates="identity", random_state=0, training_budget=0.05).fit(Z, y)
    density = explainer.density_
    assert density.transforms == "auto" and (density.transforms_, density.hidden_features_) == (4, (64, 64))
    explainer.save(tmp_path / "a")
    again = load(tmp_path / "a").density_
    np.testing.assert_array_equal(again.score_samples(Z), density.score_samples(Z))
    history = ConditionalFlow(random_state=0).fit(Z, y).history_
    assert len(history) * 4 <= 300, "120 rows in batches of 32"


def test_a_file_of_sizes_that_were_given_needs_none_that_were_chosen(fitted, data):
    """As files from before they could be chosen."""
    Z, y = data
    old = copy.deepcopy(fitted)
    del old.transforms_, old.hidden_features_
    module = old._build_flow(old.n_features_in_, len(old.classes_)).double()
    module.load_state_dict(fitted.flow_.state_dict())
    assert module.transform(torch.eye(len(old.classes_))[:1].double()) is not None
