"""Invariants of every explainer, on images and on a table."""

import pickle

import numpy as np
import pytest
import torch
from explainer_cases import OTHERS, PLACE, case_of, found_of
from sklearn.base import clone

from cfexplain import PLACEExplainer

pytestmark = pytest.mark.usefixtures("quietly")


@pytest.fixture(params=PLACE + OTHERS)
def case(request):
    return case_of(request)


@pytest.fixture(params=PLACE)
def place_case(request):
    return case_of(request)


def test_shape_dtype_and_container_come_back(case):
    explainer, x, target = case
    found = np.asarray(found_of(case))
    assert found.shape == x.shape and found.dtype == x.dtype
    tensor = explainer.transform(torch.from_numpy(x), target)
    assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32 and tensor.shape == x.shape
    np.testing.assert_array_equal(tensor, found)
    doubles = explainer.transform(x[:2].astype(np.float64), target)
    assert doubles.dtype == np.float64
    np.testing.assert_array_equal(doubles, found[:2])


def test_valid_means_that_the_classifier_says_the_target(case):
    explainer, x, target = case
    cf = found_of(case)
    np.testing.assert_array_equal(cf.valid, explainer.predict(np.asarray(cf)) == target)
    np.testing.assert_array_equal(cf.prediction, explainer.predict(np.asarray(cf)))
    column = list(explainer.classes_).index(target)
    np.testing.assert_allclose(cf.proba_after, explainer.predict_proba(np.asarray(cf))[:, column], rtol=1e-6)
    # what follows an ensemble in place of the explained classifier promises less
    assert cf.valid.mean() >= (0.8 if "ensemble" in cf.conditions else 0.95)
    converged = cf.status == "converged"
    assert converged.mean() >= 0.9 * cf.valid.mean() or explainer.stop == "converged"
    for held in cf.conditions.values():
        assert held[converged].all()
    if "decision" in cf.conditions:
        needed = explainer.class_limits()["needed"][column]
        assert (cf.proba_after[converged] >= 1 / (1 + np.exp(-needed)) - 1e-4).all()


def test_a_row_has_the_same_bits_alone_in_a_batch_and_in_any_order(case):
    explainer, x, target = case
    together = found_of(case)
    order = np.random.RandomState(0).permutation(len(x))
    shuffled = explainer.explain(x[order], target)
    np.testing.assert_array_equal(np.asarray(shuffled), np.asarray(together)[order])
    for i in (0, 4):
        alone = explainer.explain(x[i : i + 1], target)
        np.testing.assert_array_equal(alone.z_cf, together.z_cf[i : i + 1])
        np.testing.assert_array_equal(np.asarray(alone), np.asarray(together)[i : i + 1])
    np.testing.assert_array_equal(explainer.explain(x[:3], target).z_cf, together.z_cf[:3])


def test_workers_change_no_bit(case):
    explainer, x, target = case
    np.testing.assert_array_equal(np.asarray(explainer.explain(x, target, n_jobs=2)), np.asarray(found_of(case)))


def test_every_backend_finds_the_same(case):
    explainer, x, target = case
    eager, packed = explainer.explain(x, target, backend="eager"), found_of(case)
    assert eager.backend == "eager" and (packed.backend.startswith("packed") or not explainer.differentiable)
    np.testing.assert_array_equal(packed.valid, eager.valid)
    alike = packed.n_steps == eager.n_steps
    assert alike.mean() >= 0.9  # a row on the edge of a condition may need a step more or less
    scale = np.abs(eager.z_cf).max()
    close = np.isclose(packed.z_cf[alike], eager.z_cf[alike], atol=0.02 * scale).all(1)
    assert close.mean() >= 0.9
    # judged by the networks as they are, whatever they were searched with
    column = list(explainer.classes_).index(target)
    np.testing.assert_allclose(packed.proba_after, explainer.predict_proba(np.asarray(packed))[:, column], rtol=1e-6)


def test_targets_one_for_all_one_a_row_or_the_runner_up(case):
    explainer, x, target = case
    np.testing.assert_array_equal(np.asarray(explainer.explain(x, [target] * len(x))), np.asarray(found_of(case)))
    proba = explainer.predict_proba(x[:2])
    proba[np.arange(2), proba.argmax(1)] = -1
    np.testing.assert_array_equal(explainer.explain(x[:2]).target, explainer.classes_[proba.argmax(1)])


def test_a_row_that_is_there_already_comes_back_as_it_was(case):
    explainer, x, _ = case
    cf = explainer.explain(x, explainer.predict(x))
    assert (cf.status == "already_target").all() and cf.valid.all() and not cf.n_steps.any()
    np.testing.assert_array_equal(np.asarray(cf), x)


def test_failures_keep_their_best_effort(case):
    explainer, x, target = case
    short = "step_size" if "step_size" in explainer.get_params() else "max_fraction"
    hurried = clone_fitted(explainer).set_params(max_steps=1, **{short: 1e-3})
    if hurried.sparse:  # what the search does not find is looked for among real rows
        hurried.set_params(sparse=False)
    if hurried.classifier_.is_surrogate and not hurried.layout_.is_image:
        pytest.skip("ends on the model itself")
    with pytest.warns(UserWarning, match="did not reach"):
        cf = hurried.explain(x, target)
    assert set(cf.status) <= {"not_found", "step_budget", "converged"} and "not_found" in cf.status
    failed = cf.status == "not_found"
    assert np.isfinite(np.asarray(cf)).all() and not cf.valid[failed].any()
    # never less than where the search began: x itself, or decode(z0) where its detail is not put back
    began = cf.proba_before
    if explainer.detail == "decoder":
        began = explainer.predict_proba(cf.reconstruction)[:, list(explainer.classes_).index(target)]
    assert (cf.proba_after[failed] >= began[failed] - 1e-3).all()


def test_an_interruption_returns_what_is_done(image_explainer, digits):
    x, calls = digits[2][digits[3] == 4][:40], []
    whole = image_explainer.explain(x, 9)

    def interrupt(original, other):
        calls.append(1)
        if len(calls) > 12:
            raise KeyboardInterrupt
        return 0 * other.flatten(1).sum(1)

    hurried = clone_fitted(image_explainer).set_params(perceptual=interrupt, perceptual_weight=1.0)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        cf = hurried.explain(x, 9)
    assert len(cf) == len(x) and np.isfinite(np.asarray(cf)).all()
    np.testing.assert_array_equal(cf.valid, hurried.predict(np.asarray(cf)) == 9)
    done = cf.status == "converged"
    assert not done.all() and set(cf.status) <= {"converged", "step_budget", "not_found"}
    np.testing.assert_array_equal(np.asarray(cf)[done], np.asarray(whole)[done])


def test_paths_hold_every_point_of_the_search(case):
    explainer, x, target = case
    plain = clone_fitted(explainer).set_params(refine=0)
    if "start" in plain.get_params():
        plain.set_params(start="latent")
    for chosen in (plain, explainer):
        cf = chosen.explain(x, target, record_path=True)
        for i in range(len(x)):
            assert len(cf.path[i]) == cf.n_steps[i] + 1
            assert (cf.path[i] == cf.z_cf[i]).all(1).any()
            if chosen is plain:
                np.testing.assert_array_equal(cf.path[i][0], cf.z[i])
                if explainer.stop == "conditions":
                    np.testing.assert_array_equal(cf.path[i][-1], cf.z_cf[i])


@pytest.mark.parametrize("name", ["swap", "closest", "classifier-only"])
def test_presets_of_the_search_need_no_new_fit(place_case, name):
    explainer, x, target = place_case
    preset = clone_fitted(explainer)
    kept = ("classifier", "random_state", "training_budget")
    preset.set_params(**{k: v for k, v in PLACEExplainer.preset(name).get_params().items() if k not in kept})
    assert preset.explain(x, target).valid.mean() >= 0.9


def test_distances_are_what_they_say(case):
    explainer, x, target = case
    cf = found_of(case)
    np.testing.assert_allclose(cf.distance, np.sqrt(((cf.z_cf - cf.z).astype(float) ** 2).sum(1)), rtol=1e-5)
    difference = (np.asarray(cf) - x).reshape(len(x), -1).astype(float)
    np.testing.assert_allclose(cf.distance_x, np.sqrt((difference**2).sum(1)), rtol=1e-5)
    np.testing.assert_allclose(
        cf.log_density, explainer.density_.score_samples(cf.z_cf, list(explainer.classes_).index(target)), rtol=1e-4)


def test_pickle_and_clone(case):
    explainer, x, target = case
    again = pickle.loads(pickle.dumps(explainer))
    np.testing.assert_array_equal(np.asarray(again.explain(x, target)), np.asarray(found_of(case)))
    assert not hasattr(clone(explainer), "classes_")
    assert clone(explainer).get_params().keys() == explainer.get_params().keys()


def test_seeds_reproduce_and_the_global_state_stays(table):
    (X, y, X_test, _), tiny = table, {"training_budget": 0.01, "max_steps": 20}
    torch.manual_seed(5)
    np.random.seed(5)
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = PLACEExplainer(random_state=3, **tiny).fit(X, y).explain(X_test[:4])
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], before_numpy)
    np.random.seed(77)
    torch.manual_seed(77)
    second = PLACEExplainer(random_state=3, **tiny).fit(X, y).explain(X_test[:4])
    np.testing.assert_array_equal(np.asarray(first), np.asarray(second))
    other = PLACEExplainer(random_state=4, **tiny).fit(X, y).explain(X_test[:4])
    assert not np.array_equal(np.asarray(first), np.asarray(other))


def test_the_explained_network_is_left_alone(digits):
    X, y, X_test, _ = digits
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(),
                              torch.nn.Dropout(0.5), torch.nn.Linear(32, 10))
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(torch.from_numpy(X)[:, None]), torch.from_numpy(y)).backward()
        optimiser.step()
    net.train()
    net[0].eval()
    net[1].weight.requires_grad_(False)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    modes, flags = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    explainer = PLACEExplainer(net, random_state=0, training_budget=0.01).fit(X, y)
    explainer.explain(X_test[:5])
    explainer.predict(X_test[:5])
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes and [p.requires_grad for p in net.parameters()] == flags
    assert clone(explainer).classifier is net


def test_held_columns_do_not_move_and_bounded_ones_stay_inside(table):
    X, y, X_test, y_test = table
    explainer = PLACEExplainer(immutable=[0, 3], bounds={1: (None, 0.5), 2: (-1, 1)}, random_state=0,
                               training_budget=0.02).fit(X, y)
    x = X_test[y_test == "malignant"][:8]
    moved = np.asarray(explainer.explain(x, "benign"))
    assert (moved[:, [0, 3]] == x[:, [0, 3]]).all()
    assert (moved[:, 1] <= np.maximum(0.5, x[:, 1])).all()
    assert ((moved[:, 2] >= np.minimum(-1, x[:, 2])) & (moved[:, 2] <= np.maximum(1, x[:, 2]))).all()
    assert (moved[:, 4:] != x[:, 4:]).any()


def test_every_image_layout_gives_the_same_counterfactual(digits):
    X, y, x, made = digits[0][:300], digits[1][:300], digits[2][:3], []
    for shape, image_shape in (((8, 8), None), ((1, 8, 8), None), ((64,), (1, 8, 8)), ((64,), (8, 8))):
        explainer = PLACEExplainer(random_state=0, training_budget=0.005, max_steps=10, image_shape=image_shape)
        cf = explainer.fit(X.reshape(-1, *shape), y).explain(x.reshape(-1, *shape))
        assert np.asarray(cf).shape == (3, *shape)
        made.append(np.asarray(cf).reshape(3, -1))
    for other in made[1:]:
        np.testing.assert_array_equal(made[0], other)


def test_detail_shows_the_original_where_nothing_changed(image_explainer, digits):
    x = digits[2][:10]
    for mode in ("residual", "blend"):
        explainer = clone_fitted(image_explainer).set_params(detail=mode, max_steps=0, start="latent")
        np.testing.assert_allclose(np.asarray(explainer.explain(x)), x, atol=1e-6)


def clone_fitted(explainer):
    return pickle.loads(pickle.dumps(explainer))
