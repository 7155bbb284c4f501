"""Maps beside counterfactuals: measures against independent counts, networks left alone, failures said."""


import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, Saliency
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from sklearn.ensemble import RandomForestClassifier
from torch import nn

from cfexplain.bridges.captum import CounterfactualPathGradients
from cfexplain.bridges.saliency import compare_saliency
from cfexplain.bridges.saliency_maps import score_of

pytestmark = pytest.mark.usefixtures("quietly")
METHODS = ("Saliency", "IntegratedGradients", "GradientShap", "Occlusion", "LRP", "DeepLift", "GuidedBackprop")


@pytest.fixture(scope="module")
def cf(digits, image_explainer):
    X, y = digits[2:]
    return image_explainer.explain(np.concatenate([X[y == 4][:6], X[y == 9][:1]]), target=9, record_path=True)


@pytest.fixture(scope="module")
def found(cf, image_explainer):
    return compare_saliency(cf, METHODS, image_explainer, shares=(0.1, 0.3), n_bootstrap=50)


def test_every_method_is_measured_and_rows_without_news_are_left_out(found, cf):
    assert list(found.table) == ["counterfactual", *METHODS, "random"] and not found.failures
    assert found.left_out["did not reach a new target"] == 1 and found.used.tolist() == list(range(6)) and len(found) == 6
    for method, columns in found.values.items():
        for name, values in columns.items():
            low = -1 if name == "spearman" else 0
            assert values.shape == (6,) and (values >= low).all() and (values <= 1).all(), (method, name)


def test_measures_against_independent_counts(found, cf, image_explainer):
    change = np.abs(cf.x_cf - cf.x)[found.used]
    np.testing.assert_allclose(found.maps["counterfactual"], change, atol=1e-7)
    for method in ("Saliency", "IntegratedGradients"):
        for row, values in enumerate(found.maps[method]):
            assert found.values[method]["spearman"][row] == pytest.approx(
                spearmanr(values.ravel(), change[row].ravel()).statistic)
            k = round(0.1 * 64)
            strongest = set(np.argsort(-values.ravel())[:k].tolist())
            most = set(np.argsort(-change[row].ravel())[:k].tolist())
            assert found.values[method]["overlap@0.1"][row] == pytest.approx(len(strongest & most) / k)
            assert found.values[method]["pointing"][row] == (int(values.argmax()) in most)
            mixed = cf.x[row].copy().ravel()
            mixed[sorted(strongest)] = cf.x_cf[row].ravel()[sorted(strongest)]
            said = image_explainer.predict(mixed.reshape(1, 8, 8))[0]
            assert found.values[method]["flip@0.1"][row] == (said == 9)


def test_controls(found, cf, image_explainer):
    everything = compare_saliency(cf, ("Saliency",), image_explainer, shares=(1.0,), n_bootstrap=10)
    for columns in everything.values.values():
        assert (columns["flip@1"] == 1).all() and (columns["overlap@1"] == 1).all()  # all of x' is x'
    random = found.values["random"]
    assert abs(random["spearman"].mean()) < 0.1 and abs(random["overlap@0.3"].mean() - 0.3) < 0.05
    assert found.table["counterfactual"]["flip@0.3"].mean >= found.table["random"]["flip@0.3"].mean


def test_maps_are_captums(found, cf, image_explainer):
    net, x = image_explainer.classifier_.module, torch.tensor(cf.x[found.used][:, None])
    source = torch.tensor(cf.source[found.used].astype(int))
    slopes = [Saliency(net.eval()).attribute(x, target=k, abs=False) for k in (9, source)]
    np.testing.assert_allclose(found.maps["Saliency"], (slopes[0] - slopes[1]).abs()[:, 0], atol=1e-5)
    usual = compare_saliency(cf, ("IntegratedGradients",), image_explainer, explains="source", n_bootstrap=10)
    theirs = IntegratedGradients(net).attribute(x, target=source)
    np.testing.assert_allclose(usual.maps["IntegratedGradients"], theirs.abs()[:, 0].detach(), atol=1e-4)


def test_the_network_is_left_as_it_was(cf, image_explainer):
    net = image_explainer.classifier_.module
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = [(p.training, len(p._forward_hooks), len(p._backward_hooks), hasattr(p, "rule")) for p in net.modules()]
    compare_saliency(cf, ("LRP", "GuidedBackprop", "DeepLift"), image_explainer, n_bootstrap=10)
    assert state == [(p.training, len(p._forward_hooks), len(p._backward_hooks), hasattr(p, "rule")) for p in net.modules()]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_lrp_conserves_relevance_through_flatten_and_in_place_activations(digits):
    """Without biases the relevance of the two classes sums to the difference of their logits."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 10, bias=False))
    from cfexplain import GradientExplainer

    explainer = GradientExplainer(net, max_steps=60, random_state=0, training_budget=0.05).fit(*digits[:2])
    cf = explainer.explain(digits[2][:6])
    found = compare_saliency(cf, ("LRP", "DeepLift", "GuidedBackprop"), explainer, n_bootstrap=10)
    assert not found.failures and found.gaps["LRP"] < 1e-3 and found.gaps["DeepLift"] < 1e-3
    assert net[1].inplace  # only the copy is changed
    assert not score_of(explainer.classifier_).net[1].inplace


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.act = nn.Linear(10, 8), nn.Linear(8, 8), nn.ReLU()
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        x = self.act(self.a(x))
        return self.out(x + self.act(self.b(x)))


def test_what_captum_refuses_is_said_and_the_rest_is_measured(table, table_explainer):
    cf = table_explainer.explain(table[2][:8])
    torch.manual_seed(0)
    with pytest.warns(RuntimeWarning, match="LRP failed"):
        found = compare_saliency(cf, ("Saliency", "LRP"), table_explainer, n_bootstrap=10)  # SiLU has no rule
    assert "SiLU" in found.failures["LRP"] and list(found.maps) == ["counterfactual", "Saliency"]
    assert "LRP" in found.summary() and "| LRP | failed" in found.to_markdown()


def test_a_module_that_is_used_twice(table):
    from cfexplain import GradientExplainer

    torch.manual_seed(0)
    explainer = GradientExplainer(Twice(), max_steps=60, step_size=0.5, random_state=0, training_budget=0.05).fit(*table[:2])
    cf = explainer.explain(table[2][:6])
    with pytest.warns(RuntimeWarning, match="(LRP|DeepLift) failed and is left out"):
        found = compare_saliency(cf, ("LRP", "DeepLift", "Saliency"), explainer, n_bootstrap=10)
    assert set(found.failures) == {"LRP", "DeepLift"} and "act" in found.failures["LRP"]
    assert "more than once" in found.failures["DeepLift"] and "Saliency" in found.maps


def test_classifier_in_place_of_the_explainer(cf, image_explainer, found):
    alone = compare_saliency(cf, ("Saliency",), classifier=image_explainer.classifier_.module, n_bootstrap=10)
    np.testing.assert_allclose(alone.maps["Saliency"], found.maps["Saliency"], rtol=1e-5, atol=1e-7)
    constant = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(constant[1].weight)
    with pytest.raises(ValueError, match="says the same of 0"):
        compare_saliency(cf, ("Saliency",), classifier=constant, classifier_output="logits")
    forest = RandomForestClassifier(20, random_state=0).fit(cf.x.reshape(len(cf), -1), cf.source)
    with pytest.raises(ValueError, match="classes"):
        compare_saliency(cf, ("Saliency",), classifier=forest)


def test_a_forest_is_only_occluded(forest_table_explainer, table):
    cf = forest_table_explainer.explain(table[2][:6])
    with pytest.warns(RuntimeWarning, match="Saliency failed and is left out"):
        found = compare_saliency(cf, ("Saliency", "Occlusion"), forest_table_explainer, n_bootstrap=10)
    assert "no gradient" in found.failures["Saliency"] and found.maps["Occlusion"].shape == (len(found), 10)


def test_own_maps_and_own_methods(cf, image_explainer):
    shares, _ = CounterfactualPathGradients(image_explainer).integrate(cf)
    methods = {"path": shares, "tensor": torch.tensor(shares), "IG": "IntegratedGradients",
               "input": lambda score, x, plus, minus: x * (plus > 0).view(-1, 1, 1, 1)}
    found = compare_saliency(cf, methods, image_explainer, n_bootstrap=10)
    assert list(found.maps) == ["counterfactual", *methods]
    np.testing.assert_array_equal(found.maps["path"], np.abs(shares[found.used]))
    np.testing.assert_allclose(found.maps["input"], cf.x[found.used], atol=1e-7)
    assert found.table["path"]["spearman"].mean > found.table["input"]["spearman"].mean


def test_random_numbers_are_seeded_and_the_global_state_is_untouched(cf, image_explainer):
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, two, other = (compare_saliency(cf, ("GradientShap",), image_explainer, random_state=seed, n_bootstrap=10)
                       for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state) and (np.random.get_state()[1] == numpy_state).all()
    np.testing.assert_array_equal(one.maps["GradientShap"], two.maps["GradientShap"])
    assert (one.maps["GradientShap"] != other.maps["GradientShap"]).any()


def test_constant_maps_have_no_rank_and_ties_are_drawn(cf, image_explainer):
    found = compare_saliency(cf, {"flat": np.ones_like(cf.x)}, image_explainer, n_bootstrap=10)
    assert found.table["flat"]["spearman"].missing == 6 and np.isnan(found.table["flat"]["spearman"].mean)
    assert "constant in 6 rows" in found.summary()
    assert found.table["flat"]["overlap@0.2"].mean < 0.6  # not the first pixels of every image


def test_tables_words_and_pictures(found, tmp_path):
    frame, rows = found.to_frame(), found.to_frame(rows=True)
    assert list(frame.index) == list(found.table) and len(rows) == 6 * (len(METHODS) + 2)
    assert frame.loc["Saliency", ("spearman", "mean")] == pytest.approx(
        rows.loc[rows.method == "Saliency", "spearman"].mean())
    assert len(found.to_markdown().split("\n\n")[0].splitlines()) == 2 + len(found.table)
    pair = found.compare("Occlusion", "random")
    assert [p.metric for p in pair] == found.metrics and pair[0].difference == pytest.approx(
        found.table["Occlusion"]["spearman"].mean - found.table["random"]["spearman"].mean)
    some = found[[4, 1]]
    assert len(some) == 2 and some.used.tolist() == [4, 1] and some.table["LRP"]["spearman"].n == 2
    display = found.plot(n=2, figure=Figure())
    assert display.axes_.shape == (2, 2 + len(found.maps))
    np.testing.assert_allclose(display.axes_[1, 3].images[0].get_array(), found.maps["Saliency"][1])
    flips = found.plot("flips", figure=Figure()).axes_[0]
    assert [text.get_text() for text in flips.get_legend().get_texts()] == list(found.table)


def test_tables_are_drawn_by_column(table, table_explainer):
    cf = table_explainer.explain(table[2][:5])
    found = compare_saliency(cf, ("Saliency", "Occlusion"), table_explainer, n_bootstrap=10)
    display = found.plot(n=2, figure=Figure())
    assert display.axes_.shape == (2,) and display.axes_[0].images[0].get_array().shape == (10, 3)


@pytest.mark.parametrize("arguments, message", [
    ({"methods": ("Salience",)}, "no method of captum.attr"), ({"methods": ("LayerGradCam",)}, "no method"),
    ({"methods": ()}, "empty"), ({"methods": {"random": "Saliency"}}, "control"), ({"explains": "both"}, "not known"),
    ({"shares": (0.0,)}, "shares"), ({"shares": ()}, "shares"), ({"n_random": 0}, "n_random"),
    ({"options": {"LRP": {}}}, "options"), ({"explainer": None}, "neither"), ({"classifier": nn.Linear(2, 2)}, "both"),
    ({"baseline": np.zeros(3)}, "baseline"), ({"background": np.zeros((2, 3))}, "background"),
    ({"methods": {"mine": np.zeros((2, 8, 8))}}, "expected that of cf.x"), ({"confidence_level": 1}, "confidence_level")])
def test_bad_arguments(cf, image_explainer, arguments, message):
    with pytest.raises(ValueError, match=message):
        compare_saliency(cf, **{"methods": ("Saliency",), "explainer": image_explainer, **arguments})


def test_nothing_to_compare(cf, image_explainer):
    with pytest.raises(ValueError, match="no row to compare"):
        compare_saliency(cf[cf.status == "already_target"], ("Saliency",), image_explainer)
    with pytest.raises(TypeError, match="captum.attr"):
        compare_saliency(cf, {"mine": Saliency}, image_explainer)
