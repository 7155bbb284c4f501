"""The seam between explainers and the ways to compute a search."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from cfexplain import PLACEExplainer
from cfexplain.explainers import backends
from cfexplain.explainers.backends import check_backend, make_engine
from cfexplain.foundation import precision
from cfexplain.foundation.precision import computes_in_bfloat16

pytestmark = pytest.mark.usefixtures("quietly")


@pytest.fixture
def rows(table):
    X, _, X_test, y_test = table
    return X_test[y_test == "malignant"][:12]


def engine_of(explainer, x, backend="packed", precision="auto"):
    with explainer.classifier_.frozen():
        return make_engine(explainer, backend, precision, torch.from_numpy(x[:2]))


def test_auto_is_packed_and_says_so(table_explainer, rows):
    cf = table_explainer.explain(rows[:4], "benign")
    assert cf.backend == "packed"
    assert cf[:3].backend == "packed" and cf.metadata["backend"] == "packed"
    again = table_explainer.explain(rows[:3], "benign", backend="packed")
    np.testing.assert_array_equal(again.z_cf, cf.z_cf[:3])


@pytest.mark.parametrize("options, message", [
    ({"backend": "fast"}, "not known"),
    ({"precision": "float16"}, "not known"),
    ({"backend": "eager", "precision": "bfloat16"}, "frozen copies"),
    ({"backend": "graph"}, "captures CUDA graphs, but the explainer computes on 'cpu'"),
    ({"backend": "triton"}, "captures CUDA graphs, but the explainer computes on 'cpu'"),
])
def test_what_cannot_be_had_is_refused(table_explainer, rows, options, message):
    with pytest.raises(ValueError, match=message):
        table_explainer.explain(rows, "benign", **options)


class Remembers(nn.Module):
    """A network whose forward leaves something behind."""

    def __init__(self, net):
        super().__init__()
        self.net, self.last = net, None

    def forward(self, x):
        self.last = self.net(x)
        return self.last


def test_threads_share_what_leaves_nothing_behind(image_explainer, table_explainer, digits, table):
    x = image_explainer.read_samples(digits[2][:2])
    assert engine_of(image_explainer, x).shared and engine_of(image_explainer, x).aligned
    assert engine_of(table_explainer, table[2]).shared
    assert not engine_of(image_explainer, x, "eager").shared and not engine_of(image_explainer, x, "eager").aligned
    kept = copy.copy(image_explainer)
    kept.classifier_ = copy.copy(kept.classifier_)
    kept.classifier_._scores = copy.copy(kept.classifier_._scores)
    kept.classifier_._scores.module = Remembers(image_explainer.classifier_.module)
    assert not engine_of(kept, x).shared and not engine_of(kept, x).aligned


def test_a_processor_without_bfloat16_is_named(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    with pytest.raises(ValueError, match="'cpu' only emulates it.*precision='auto'"):
        check_backend("auto", "bfloat16", torch.device("cpu"))
    assert check_backend("auto", "auto", torch.device("cpu")) == "packed"


@pytest.mark.skipif(not computes_in_bfloat16("cpu"), reason="this processor emulates bfloat16")
def test_bfloat16_is_searched_in_and_float32_comes_back(image_explainer, digits):
    x = digits[2][digits[3] == 4][:12]
    cf, plain = (image_explainer.explain(x, 9, precision=p) for p in ("bfloat16", "auto"))
    assert cf.backend == "packed, bfloat16" and np.asarray(cf).dtype == np.float32
    assert (cf.valid == plain.valid).mean() >= 0.9
    assert np.abs(cf.proba_after - plain.proba_after).max() < 0.2
    assert not np.array_equal(cf.z_cf, plain.z_cf)
    np.testing.assert_array_equal(cf.prediction, image_explainer.predict(np.asarray(cf)))


@pytest.mark.skipif(not computes_in_bfloat16("cpu"), reason="this processor emulates bfloat16")
@pytest.mark.parametrize("times_as_fast, large, backend", [
    (5.0, 64, "packed, bfloat16"), (2.0, 64, "packed"), (5.0, 65, "packed")])
def test_matrix_units_are_used_for_large_pictures(monkeypatch, image_explainer, digits, times_as_fast, large, backend):
    monkeypatch.setattr(precision, "_tried", lambda: times_as_fast)
    monkeypatch.setattr(backends, "_LARGE", large)  # of 8×8 numbers
    assert image_explainer.explain(digits[2][:2]).backend == backend
    assert image_explainer.explain(digits[2][:2], precision="float32").backend == "packed"


def test_of_tables_nothing_is_rounded_unasked(monkeypatch, table_explainer, rows):
    monkeypatch.setattr(precision, "_tried", lambda: 5.0)
    monkeypatch.setattr(backends, "_LARGE", 1)
    assert table_explainer.explain(rows[:2], "benign").backend == "packed"


def test_a_copy_follows_its_original(table, rows):
    X, y, _, _ = table
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    explainer = PLACEExplainer(net, random_state=0, training_budget=0.02, feature_weight=0.0).fit(X, y)
    x = torch.from_numpy(rows)
    first = engine_of(explainer, rows)
    assert engine_of(explainer, rows).classifier.module is first.classifier.module  # kept
    with torch.no_grad(), explainer.classifier_.frozen():
        net[3].bias += 1.0
        for changed in (True, False):
            second = engine_of(explainer, rows)
            assert (second.classifier.module is first.classifier.module) != changed
            torch.testing.assert_close(second.classifier.logits(x), explainer.classifier_.logits(x), rtol=1e-4, atol=1e-5)
            first = second
        net[1].eps = 0.5  # no tensor has changed
        third = engine_of(explainer, rows)
        torch.testing.assert_close(third.classifier.logits(x), explainer.classifier_.logits(x), rtol=1e-4, atol=1e-5)
    assert net[1].training and net[0].weight.requires_grad


def test_features_are_those_of_the_network_itself(table, rows):
    """A BatchNorm right before the last layer, folded into it, would give other penultimate features."""
    X, y, _, _ = table
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 2))
    net(torch.from_numpy(X))  # running statistics that matter
    y = np.unique(y)[net.eval()(torch.from_numpy(X)).argmax(1)]  # a network that was never trained agrees with itself
    explainer = PLACEExplainer(net, random_state=0, training_budget=0.02, feature_weight=1.0).fit(X, y)
    x = torch.from_numpy(rows)
    with torch.no_grad(), explainer.classifier_.frozen():
        found = engine_of(explainer, rows).classifier.logits_and_features(x)[1]
        torch.testing.assert_close(found, explainer.classifier_.logits_and_features(x)[1], rtol=1e-3, atol=1e-4)


def test_a_module_that_cannot_be_copied_is_searched_as_it_is(table, rows):
    class Locked(nn.Sequential):
        def __deepcopy__(self, memo):
            raise TypeError("not to be copied")

    X, y, _, _ = table
    torch.manual_seed(0)
    net = Locked(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 2))
    explainer = PLACEExplainer(net, random_state=0, training_budget=0.05).fit(X, y)
    cf = explainer.explain(rows[:4], "malignant")
    assert cf.backend == "packed (classifier eager)"


def test_float64_stays_float64(table):
    X, y, X_test, _ = table
    explainer = PLACEExplainer(random_state=0, training_budget=0.05).fit(X.astype(np.float64), y)
    cf, eager = (explainer.explain(X_test[:5].astype(np.float64), backend=b) for b in ("packed", "eager"))
    assert np.asarray(cf).dtype == np.float64
    same = cf.n_steps == eager.n_steps
    assert same.mean() >= 0.8
    np.testing.assert_allclose(cf.z_cf[same], eager.z_cf[same], rtol=1e-6, atol=1e-8)


def test_what_is_kept_for_the_search_is_not_pickled(table_explainer, rows):
    rows = rows[:2]
    table_explainer.explain(rows, "benign")
    twin = pickle.loads(pickle.dumps(table_explainer))
    np.testing.assert_array_equal(twin.explain(rows, "benign").z_cf, table_explainer.explain(rows, "benign").z_cf)
    copied = copy.deepcopy(table_explainer)
    np.testing.assert_array_equal(copied.explain(rows, "benign").z_cf, table_explainer.explain(rows, "benign").z_cf)


def test_a_copy_goes_when_its_original_goes(table, rows):
    X, y, _, _ = table
    net = nn.Sequential(nn.Linear(10, 2))
    explainer = PLACEExplainer(net, coordinates="identity", random_state=0, training_budget=0.02).fit(X, y)
    copied = weakref.ref(engine_of(explainer, rows).classifier.module)
    assert copied() is not None
    del net, explainer
    gc.collect()
    assert copied() is None
