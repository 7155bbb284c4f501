"""Counterfactuals as Captum sees them: the same numbers as `explain`, on Captum's terms; and sums that come out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, NoiseTunnel, visualization
from captum.metrics import infidelity, sensitivity_max
from captum.robust import AttackComparator
from matplotlib.figure import Figure
from scipy.special import log_softmax

from cfexplain import DiffeomorphicExplainer
from cfexplain.bridges.captum import CounterfactualAttribution, CounterfactualPathGradients, CounterfactualPerturbation
from cfexplain.bridges.captum_rows import Forward, log_odds_table
from cfexplain.foundation.exceptions import DataRangeError, NotFittedError, TargetError

pytestmark = pytest.mark.usefixtures("quietly")


@pytest.fixture(scope="module")
def images(digits):
    X, y = digits[2:]
    return torch.tensor(X[y == 4][:5])


# ---------------------------------------------------------------------------------------------------- x' - x, and x'
def test_attribution_is_what_explain_changes(image_explainer, images):
    cf = image_explainer.explain(images, target=9)
    for method, wanted in ((CounterfactualAttribution, cf.x_cf - cf.x), (CounterfactualPerturbation, cf.x_cf)):
        bridge = method(image_explainer)
        call = bridge.attribute if method is CounterfactualAttribution else bridge.perturb
        np.testing.assert_array_equal(call(images, target=9).numpy(), wanted)
    change = CounterfactualAttribution(image_explainer).attribute(images, target=9, absolute=True)
    np.testing.assert_array_equal(change.numpy(), np.abs(cf.x_cf - cf.x))
    assert change.max() > 0.1


def test_targets_are_indices_and_labels_are_labels(table, table_explainer):
    x, attribution = torch.tensor(table[2][:4]), CounterfactualAttribution(table_explainer)
    index = table_explainer.classes_.tolist().index("malignant")
    by_label = attribution.attribute(x, label="malignant")
    for target in (index, torch.tensor(index), [index] * 4, torch.full((4,), index), torch.tensor([index])):
        assert torch.equal(attribution.attribute(x, target), by_label)
    runner_up = attribution.attribute(x)
    np.testing.assert_array_equal(runner_up.numpy(), (lambda cf: cf.x_cf - cf.x)(table_explainer.explain(x)))


def test_layout_dtype_device_and_packing_come_back(image_explainer, images):
    attribution = CounterfactualAttribution(image_explainer)
    reference = attribution.attribute(images, target=9)
    assert torch.equal(attribution.attribute(images[:, None], target=9), reference[:, None])  # as the network sees them
    (packed,) = attribution.attribute((images,), target=9)
    assert torch.equal(packed, reference)
    for dtype in (torch.float64, torch.float16):
        out = attribution.attribute(images.to(dtype).requires_grad_(), target=9)
        assert out.dtype == dtype and out.shape == images.shape and not out.requires_grad
    with torch.no_grad():
        assert torch.equal(attribution.attribute(images, target=9), reference)
    assert torch.equal(attribution.attribute(images[2:3], target=9), reference[2:3])  # alone


def test_result_comes_along_and_options_reach_explain(image_explainer, images):
    change, cf = CounterfactualAttribution(image_explainer, backend="eager").attribute(
        images, target=9, return_counterfactuals=True)
    assert cf.backend == "eager" and cf.valid.all()
    np.testing.assert_array_equal(change.numpy(), cf.x_cf - cf.x)


def test_regressor_is_asked_by_label(table):
    X = table[0][:, :4]
    explainer = DiffeomorphicExplainer(task="regression", generator="vae", random_state=0, training_budget=0.05).fit(
        X, X[:, 0] + X[:, 1])
    attribution = CounterfactualAttribution(explainer)
    out, cf = attribution.attribute(torch.tensor(X[:3]), label=(1.0, 2.0), return_counterfactuals=True)
    np.testing.assert_array_equal(out.numpy(), cf.x_cf - cf.x)
    with pytest.raises(TargetError, match="regressor.*label="):
        attribution.attribute(torch.tensor(X[:3]), target=1)
    shares, delta = CounterfactualPathGradients(explainer).attribute(
        torch.tensor(X[:3]), label=(1.0, 2.0), n_steps=256, return_convergence_delta=True)
    moved = cf.prediction - cf.source
    np.testing.assert_allclose(shares.flatten(1).sum(1) - delta, moved, atol=1e-4)
    assert (delta.abs() <= 0.02 * np.abs(moved).max()).all()


@pytest.mark.parametrize("target, message", [
    ("malignant", "not a class index"), (2, "outside 0 to 1"), (-1, "outside"), (0.5, "not a class index"),
    (True, "not a class index"), ([[0]], "not a class index"), ([0, 1], "2 labels for 6 rows"), ([(0,), (0, 1)], "index")])
def test_bad_targets(table, table_explainer, target, message):
    with pytest.raises(TargetError, match=message):
        CounterfactualAttribution(table_explainer).attribute(torch.tensor(table[2][:6]), target)


def test_bad_inputs(table, table_explainer, image_explainer, images):
    x, attribution = torch.tensor(table[2][:3]), CounterfactualAttribution(table_explainer)
    for wrong, error, message in (((x, x), ValueError, "2 input tensors"), (x.numpy(), TypeError, "torch tensors"),
                                  (x[0], ValueError, r"inputs\[None\]"), (x[:, :3], ValueError, "expected")):
        with pytest.raises(error, match=message):
            attribution.attribute(wrong, target=0)
    with pytest.raises(TargetError, match="not both"):
        attribution.attribute(x, 0, label="benign")
    with pytest.raises(TypeError, match="fitted explainer"):
        CounterfactualAttribution(torch.nn.Linear(2, 2))
    with pytest.raises(NotFittedError):
        CounterfactualAttribution(DiffeomorphicExplainer())
    with pytest.raises(TypeError, match="tile"):
        CounterfactualPerturbation(table_explainer, tile=3)
    with pytest.raises(DataRangeError, match="clip=True"):
        CounterfactualAttribution(image_explainer).attribute(images * 2, target=9)


# --------------------------------------------------------------------------------------------------- Captum's own tools
def test_noise_tunnel_averages_over_the_noise_it_drew(image_explainer, images):
    attribution = CounterfactualAttribution(image_explainer, clip=True)
    torch.manual_seed(3)
    smooth = NoiseTunnel(attribution).attribute(images[:2], nt_samples=3, stdevs=0.1, target=9)
    torch.manual_seed(3)
    noisy = images[:2].repeat_interleave(3, 0) + torch.normal(0, torch.full((6, 8, 8), 0.1))
    cf = image_explainer.explain(noisy.clamp(0, 1), target=9)
    np.testing.assert_allclose(smooth.numpy(), (cf.x_cf - cf.x).reshape(2, 3, 8, 8).mean(1), atol=1e-6)


def test_path_gradients_in_a_noise_tunnel(table, table_explainer):
    x = torch.tensor(table[2][:2])
    out, delta = NoiseTunnel(CounterfactualPathGradients(table_explainer)).attribute(
        x, nt_samples=2, stdevs=0.01, target=0, return_convergence_delta=True)
    assert out.shape == x.shape and delta.shape == (4,)


def test_sensitivity(table, table_explainer):
    x, attribution = torch.tensor(table[2][:2]), CounterfactualAttribution(table_explainer)
    index = [1 - int(k) for k in np.searchsorted(table_explainer.classes_, table_explainer.predict(x))]
    still = sensitivity_max(attribution.attribute, x, perturb_func=lambda a: a, n_perturb_samples=2, target=index)
    assert torch.equal(still, torch.zeros(2))  # the same row has the same bits
    moved = sensitivity_max(attribution.attribute, x, perturb_radius=0.1, n_perturb_samples=2, target=index)
    assert (moved > 0).all() and torch.isfinite(moved).all()


def test_infidelity_of_an_exact_attribution_is_zero(linear_explainer):
    explainer, X, net = linear_explainer
    x, method = torch.tensor(X[:4]), CounterfactualPathGradients(explainer, path="straight", output="logit")
    target = (1 - net(x).argmax(1)).tolist()
    shares, cf = method.attribute(x, target, return_counterfactuals=True)
    scale = torch.tensor(cf.x_cf - cf.x)

    def towards(a):  # a random part of every step to x': a linear f falls by that part of its share
        part = torch.rand(a.shape, dtype=a.dtype) * scale.repeat_interleave(len(a) // len(scale), 0)
        return part, a - part

    slopes = torch.where(scale == 0, 0, shares / scale)
    assert infidelity(method.forward_func, towards, x, slopes, target=target, n_perturb_samples=4).max() < 1e-12
    assert infidelity(method.forward_func, towards, x, -slopes, target=target, n_perturb_samples=4).min() > 1e-6


def test_captum_draws_it(image_explainer, images):
    change = CounterfactualAttribution(image_explainer).attribute(images[:1], target=9)[0, :, :, None].numpy()
    figure = Figure()
    _, axes = visualization.visualize_image_attr(change, images[0, :, :, None].numpy(), method="heat_map", sign="all",
                                   plt_fig_axis=(figure, figure.subplots()), use_pyplot=False)
    assert len(axes.images) == 1 and axes.images[0].get_array().shape == (8, 8)


def test_attack_comparator(image_explainer, images):
    comparator = AttackComparator(lambda x: torch.tensor(image_explainer.predict_proba(x)), lambda out, target: (
        out.argmax(1) == target).float().mean())
    attack = CounterfactualPerturbation(image_explainer)
    comparator.add_attack(attack, "counterfactual", additional_attack_arg_names=["target"])
    said = comparator.evaluate(images, target=torch.tensor(9))
    assert said["Original"] == 0 and said["counterfactual"]["mean"] == image_explainer.explain(images, 9).valid.mean()


# -------------------------------------------------------------------------------------------------------- path gradients
@pytest.mark.parametrize("path", ["search", "latent", "straight"])
def test_a_linear_model_gives_the_closed_form_on_any_path(linear_explainer, path):
    explainer, X, net = linear_explainer
    x = torch.tensor(X[:5])
    target = 1 - net(x).argmax(1)
    shares, delta, cf = CounterfactualPathGradients(explainer, path=path, output="logit").attribute(
        x, target, n_steps=3, return_convergence_delta=True, return_counterfactuals=True)
    w = net.weight.detach().numpy()[target.numpy()]
    np.testing.assert_allclose(shares.numpy(), w * (cf.x_cf - cf.x), atol=1e-12)
    assert delta.abs().max() < 1e-12 and delta.shape == (5,)


@pytest.mark.parametrize("path", ["search", "latent", "straight"])
@pytest.mark.parametrize("output", ["log_odds", "logit", "probability"])
def test_sums_come_out(image_explainer, images, path, output):
    method = CounterfactualPathGradients(image_explainer, path=path, output=output)
    deltas = []
    for n_steps in (16, 256):
        shares, delta, cf = method.attribute(images, target=9, n_steps=n_steps, return_convergence_delta=True,
                                             return_counterfactuals=True)
        with torch.no_grad():
            ends = [method.forward_func(torch.tensor(a))[:, 9].double() for a in (cf.x_cf, cf.x)]
        whole = ends[0] - ends[1]
        np.testing.assert_allclose(shares.flatten(1).sum(1) - delta, whole, atol=1e-3)
        deltas.append((delta.abs() / whole.abs()).max())
    assert deltas[1] < 0.02 and deltas[1] < deltas[0]
    if output == "probability":
        np.testing.assert_allclose(whole, cf.proba_after - cf.proba_before, atol=1e-5)
    if path == "straight":
        assert torch.all(shares[torch.tensor(cf.x_cf == cf.x)] == 0)


def test_straight_path_is_integrated_gradients(table, table_explainer):
    x, target = torch.tensor(table[2][:4]), [0, 0, 0, 0]
    method = CounterfactualPathGradients(table_explainer, path="straight", output="logit")
    ours, cf = method.attribute(x, target, n_steps=40, return_counterfactuals=True)
    theirs = IntegratedGradients(method.forward_func).attribute(
        torch.tensor(cf.x_cf), baselines=x, target=target, n_steps=40, method="riemann_middle")
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=2e-4)


def test_what_the_coordinates_lost_is_part_of_the_sum(image_explainer, images, digits):
    """With detail="decoder" the path cannot begin at the reconstruction, nor with a swapped start at z0."""
    detail, start = image_explainer.detail, image_explainer.start
    try:
        image_explainer.set_params(detail="decoder", start="swap")
        method = CounterfactualPathGradients(image_explainer)
        _, delta, cf = method.attribute(images, target=9, n_steps=256, return_convergence_delta=True,
                                        return_counterfactuals=True)
        some = image_explainer.explain(images, target=9, record_path=True)
    finally:
        image_explainer.set_params(detail=detail, start=start)
    assert cf.reconstruction_error.min() > 0.1
    corners = method._corners(some)
    for points, x, x_cf in zip(corners, some.x, some.x_cf, strict=True):
        np.testing.assert_array_equal(points[0], x)
        np.testing.assert_array_equal(points[-1], x_cf)
    assert (delta.abs() < 0.3).all()


def test_rows_at_their_target_get_nothing_and_rows_are_independent(image_explainer, digits):
    X, y = digits[2:]
    x = torch.tensor(np.concatenate([X[y == 9][:2], X[y == 4][:2]]))
    method = CounterfactualPathGradients(image_explainer)
    shares, delta, cf = method.attribute(x, 9, return_convergence_delta=True, return_counterfactuals=True)
    still = torch.tensor(cf.status == "already_target")
    assert still.any() and not still.all()
    assert torch.all(shares[still] == 0) and torch.all(delta[still] == 0)
    assert torch.equal(method.attribute(x[3:], 9), shares[3:])
    ours, _ = method.integrate(image_explainer.explain(x, 9, record_path=True))
    np.testing.assert_array_equal(ours.astype(np.float32), shares.numpy())


def test_a_coarse_sum_is_said_to_be_coarse(image_explainer, images):
    cf = image_explainer.explain(images, target=9)
    far = replace(cf, x_cf=np.where(np.arange(8) % 2, 1 - cf.x, cf.x).astype(np.float32), target=np.full(len(cf), 0))
    with pytest.warns(UserWarning, match="n_steps=1"):
        CounterfactualPathGradients(image_explainer, path="straight").integrate(far, n_steps=1)


def test_bad_path_arguments(image_explainer, forest_table_explainer, table, images):
    for wrong in ({"path": "detour"}, {"output": "score"}):
        with pytest.raises(ValueError, match="is not known"):
            CounterfactualPathGradients(image_explainer, **wrong)
    with pytest.raises(ValueError, match="no gradient"):
        CounterfactualPathGradients(forest_table_explainer)
    method = CounterfactualPathGradients(image_explainer)
    with pytest.raises(ValueError, match="n_steps"):
        method.attribute(images, 9, n_steps=0)
    with pytest.raises(ValueError, match="record_path"):
        method.integrate(image_explainer.explain(images, 9))
    assert method.has_convergence_delta() and not CounterfactualAttribution(image_explainer).has_convergence_delta()


def test_a_forest_is_attributed_too(forest_table_explainer, table):
    change, cf = CounterfactualAttribution(forest_table_explainer).attribute(
        torch.tensor(table[2][:4]), return_counterfactuals=True)
    np.testing.assert_array_equal(change.numpy(), cf.x_cf - cf.x)


# ---------------------------------------------------------------------------------------------------------------- scores
def test_log_odds_of_every_class_against_float64():
    logits = np.random.RandomState(0).normal(scale=30, size=(50, 7))
    log_p = log_softmax(logits, axis=1)
    others = np.array([[np.logaddexp.reduce(np.delete(row, k)) for k in range(7)] for row in log_p])
    x = torch.tensor(logits, requires_grad=True)
    table = log_odds_table(x)
    np.testing.assert_allclose(table.detach().numpy(), log_p - others, rtol=1e-9)
    (slope,) = torch.autograd.grad(table.sum(), x)
    assert torch.isfinite(slope).all()
    assert torch.autograd.gradcheck(log_odds_table, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))


def test_scores_are_the_classifiers_and_leave_it_alone(image_explainer, images):
    net = image_explainer.classifier_.module
    modes = [part.training for part in net.modules()]
    proba = image_explainer.predict_proba(images)
    np.testing.assert_allclose(Forward(image_explainer, "probability")(images).detach(), proba, atol=1e-6)
    np.testing.assert_allclose(torch.sigmoid(Forward(image_explainer)(images)).detach(), proba, atol=1e-5)
    assert [part.training for part in net.modules()] == modes
