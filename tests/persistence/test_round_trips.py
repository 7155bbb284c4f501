"""Explainers in files: the same bits after load, and what of the user's own has to be given again."""

import os
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
import sklearn
import torch
from explainer_cases import OTHERS, PLACE, case_of, found_of
from saved import LITTLE, SMALL, TINY, net, same
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.svm import SVC
from skorch import NeuralNetClassifier

import cfexplain
from cfexplain import (
    CLARITYExplainer,
    CounterfactualExplainer,
    DiffeomorphicExplainer,
    GradientExplainer,
    LeapExplainer,
    PLACEExplainer,
    REVISEExplainer,
)
from cfexplain.coordinates import GAN, VAE, Autoencoder, Flow, GeneratorCoordinates, Inversion, PretrainedCoordinates
from cfexplain.density import ConditionalFlow
from cfexplain.foundation.files import read_arrays
from cfexplain.perceptual import FeatureDistance

pytestmark = pytest.mark.usefixtures("quietly")


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return X.astype(np.float32), y


def alike(a, b):
    """Parameters are equal, or estimators of one class with parameters that are alike, or networks of equal weights."""
    assert type(a) is type(b)
    if isinstance(a, torch.nn.Module):
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
            assert torch.equal(x, y)
    elif isinstance(a, np.random.RandomState):
        np.testing.assert_equal(a.get_state(), b.get_state())
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        [alike(x, y) for x, y in zip(a, b, strict=True)]
    elif hasattr(a, "get_params"):
        assert a.get_params(deep=False).keys() == b.get_params(deep=False).keys()
        [alike(value, b.get_params(deep=False)[name]) for name, value in a.get_params(deep=False).items()]
    else:
        np.testing.assert_equal(a, b)


def needs(explainer):
    """What `load` has to be given: only the forest is the user's own among the shared explainers."""
    return {"classifier": explainer.classifier} if isinstance(explainer.classifier, RandomForestClassifier) else {}


@pytest.fixture(params=PLACE + OTHERS)
def case(request):
    return case_of(request)


def test_an_explainer_from_a_file_finds_the_same_bits(case, tmp_path):
    explainer, x, target = case
    explainer.save(tmp_path / "explainer")
    torch.manual_seed(3)
    np.random.seed(3)
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    again = CounterfactualExplainer.load(tmp_path / "explainer", **needs(explainer))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], before_numpy)

    assert type(again) is type(explainer) and vars(again).keys() == vars(explainer).keys()
    alike(again, explainer)
    same(again.explain(x, target), found_of(case))
    same(pickle.loads(pickle.dumps(again)).explain(x[:2], target), found_of(case)[:2])
    np.testing.assert_array_equal(again.predict_proba(x), explainer.predict_proba(x))
    np.testing.assert_array_equal(again.score_samples(x), explainer.score_samples(x))
    twin = clone(again)
    assert not hasattr(twin, "coordinates_") and twin.get_params().keys() == explainer.get_params().keys()

    again.save(tmp_path / "again")
    arrays, meta = read_arrays(tmp_path / "explainer")
    arrays_again, meta_again = read_arrays(tmp_path / "again")
    assert meta_again == meta and arrays_again.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(arrays_again[name], array)


def test_a_fresh_process_finds_the_same_bits(request, tmp_path, digits, table):
    chosen = {"image": (digits, 9), "flow_image": (digits, 9), "forest_table": (table, "benign"),
              "prototype_table": (table, "benign")}
    for name, (data, target) in chosen.items():
        explainer = request.getfixturevalue(f"{name}_explainer")
        explainer.save(tmp_path / name)
        x = data[2][data[3] != target][:3]
        np.savez(tmp_path / f"{name}.npz", x=x, target=target, expected=np.asarray(explainer.explain(x, target)))
        joblib.dump(needs(explainer), tmp_path / f"{name}.given")
    script = """if True:
        import sys, warnings, joblib, numpy as np, cfexplain
        warnings.simplefilter("ignore")
        for name in sys.argv[2:]:
            place = f"{sys.argv[1]}/{name}"
            data = np.load(place + ".npz")
            cf = cfexplain.load(place, **joblib.load(place + ".given")).explain(data["x"], data["target"].item())
            np.testing.assert_array_equal(np.asarray(cf), data["expected"])
            print("same", name)
    """
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), *chosen], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())})
    assert done.stdout.split() == [word for name in chosen for word in ("same", name)], done.stderr


SEARCHED = {**TINY, "sparse": False}  # no column is scanned: what is stored of a scan is in the others
MADE_BY_THE_PACKAGE = {
    "rules": (PLACEExplainer(immutable=[0], bounds={1: (None, 5.0)}, **SMALL, **TINY), {}),
    "strings": (PLACEExplainer(**SMALL, **TINY), {"labels": np.array(["x", "yy", "zzz"])}),
    "objects": (PLACEExplainer(**SMALL, **SEARCHED), {"labels": np.array(["x", "yy", "zzz"], dtype=object)}),
    "float labels": (PLACEExplainer(**SMALL, **SEARCHED), {"labels": np.array([-1.0, 0.0, 2.0])}),
    "float64": (PLACEExplainer(**SMALL, **TINY), {"dtype": np.float64}),
    "maf": (PLACEExplainer(density=ConditionalFlow("maf", transforms=2, hidden_features=(16,), **LITTLE), **SEARCHED), {}),
    "nsf": (PLACEExplainer(coordinates=Autoencoder(hidden=(8,), **LITTLE),
                           density=ConditionalFlow("nsf", transforms=1, hidden_features=(16, 16), **LITTLE), **SEARCHED),
            {}),
    "attributes": (PLACEExplainer(density=ConditionalFlow(base="attributes", transforms=1, **LITTLE), **SEARCHED), {}),
    "identity": (PLACEExplainer(coordinates="identity", density=SMALL["density"], **SEARCHED), {}),
    "constant column": (DiffeomorphicExplainer(**SEARCHED), {"constant": 1}),
    "one varying column": (DiffeomorphicExplainer(generator=Flow(hidden=(16, 16), **LITTLE), **TINY),
                           {"constant": 4, "columns": 1}),
    "spline": (DiffeomorphicExplainer(generator=Flow("spline", steps=2, hidden=(16,), **LITTLE), **SEARCHED), {}),
    "regression": (DiffeomorphicExplainer(generator="vae", task="regression", **TINY), {"value": True}),
    "generator seeds": (REVISEExplainer(**SMALL, **TINY | {"random_state": np.random.RandomState(7)}), {}),
    "not a parameter": (GradientExplainer(**TINY), {"set": {"plausibility_weight": 0.5, "detail": "residual"}}),
    "members": (CLARITYExplainer(members=2, **SMALL, **TINY), {}),
}


@pytest.mark.parametrize("name", MADE_BY_THE_PACKAGE)
def test_every_part_of_the_package_comes_back_by_itself(name, iris, tmp_path):
    explainer, how = MADE_BY_THE_PACKAGE[name]
    X, y = iris[0].astype(how.get("dtype", np.float32)), iris[1]
    X = np.concatenate([X[:, : how.get("columns", 4)], np.ones((len(X), how.get("constant", 0)), X.dtype)], 1)
    y = iris[0][:, 3] if "value" in how else how.get("labels", np.arange(3))[y]
    explainer = clone(explainer).fit(X, y)
    for attribute, value in how.get("set", {}).items():
        setattr(explainer, attribute, value)
    explainer.save(tmp_path / "explainer")
    again = type(explainer).load(tmp_path / "explainer")
    alike(again, explainer)
    if "value" not in how:
        assert again.classes_.dtype == explainer.classes_.dtype
    target = 2.0 if "value" in how else y[-1]
    same(again.explain(X[:2], target), explainer.explain(X[:2], target))


IMAGES = {
    "glow": DiffeomorphicExplainer(generator=Flow(steps=1, hidden=8, **LITTLE), **TINY),
    "realnvp": DiffeomorphicExplainer(
        generator=Flow("realnvp", steps=2, hidden=8, whiten=False, pad=True, **LITTLE), **TINY),
    "gan": DiffeomorphicExplainer(
        generator=GAN(latent_dim=6, width=8, inversion=Inversion(steps=4, restarts=2), **LITTLE), **TINY),
    "region": GradientExplainer(region=np.eye(8, dtype=bool), **TINY)}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in ("realnvp", "gan") else [])
                                  for name in IMAGES])
def test_generators_of_images_come_back_by_themselves(name, digits, tmp_path):
    X, y = digits[0][:120], digits[1][:120]
    explainer = clone(IMAGES[name]).fit(X, y)
    explainer.save(tmp_path / "explainer")
    again = cfexplain.load(tmp_path / "explainer")
    same(again.explain(X[:3], 9), explainer.explain(X[:3], 9))
    alike(again, explainer)


def test_names_of_columns_containers_and_routing_come_back(tmp_path):
    X, y = load_iris(return_X_y=True, as_frame=True)
    with sklearn.config_context(enable_metadata_routing=True):
        explainer = PLACEExplainer(immutable=["sepal width (cm)"], **SMALL, **TINY).fit(X, y)
        explainer.set_output(transform="pandas").set_transform_request(target=True)
        explainer.save(tmp_path / "explainer")
        again = cfexplain.load(tmp_path / "explainer")
        assert again.get_metadata_routing().transform.requests == {"target": True}
    frame = again.transform(X[:3], 1)
    assert list(frame.columns) == list(X.columns)
    np.testing.assert_array_equal(frame, explainer.transform(X[:3], 1))
    np.testing.assert_array_equal(again.feature_names_in_, explainer.feature_names_in_)


def softmax(out):
    return out.softmax(1)


def skorch_net(X, y):
    made = NeuralNetClassifier(
        net, criterion=torch.nn.CrossEntropyLoss, predict_nonlinearity=softmax, max_epochs=1, verbose=0)
    return made.fit(X, y.astype(np.int64))


class Halves(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = net(1, 4, 2), net(2, 2, 4)

    def encode(self, x):
        return self.first(x)

    def decode(self, z):
        return self.second(z)


class OwnCoordinates(Autoencoder):
    """Of no class that a file can name."""


OWN = {
    "module": lambda X, y: (PLACEExplainer(net(), **SMALL, **TINY), lambda e: {"classifier": e.classifier}),
    "skorch": lambda X, y: (PLACEExplainer(skorch_net(X, y), **SMALL, **TINY), lambda e: {"classifier": e.classifier}),
    "frozen": lambda X, y: (PLACEExplainer(FrozenEstimator(SVC().fit(X, y)), **SMALL, **TINY),
                            lambda e: {"classifier": e.classifier}),
    "regressor": lambda X, y: (
        DiffeomorphicExplainer(LinearRegression().fit(X, X[:, 3]), generator="vae", target=2.0, **TINY),
        lambda e: {"classifier": e.classifier}),
    "pair": lambda X, y: (PLACEExplainer(coordinates=(net(1, 4, 2), net(2, 2, 4)), density=SMALL["density"], **TINY),
                          lambda e: {"coordinates": e.coordinates}),
    "one module": lambda X, y: (PLACEExplainer(coordinates=Halves(), density=SMALL["density"], **TINY),
                                lambda e: {"coordinates": e.coordinates}),
    "estimator": lambda X, y: (
        PLACEExplainer(coordinates=PretrainedCoordinates(net(1, 4, 2), net(2, 2, 4), standardize=False), **TINY),
        lambda e: {"coordinates__encoder": e.coordinates.encoder, "coordinates__decoder": e.coordinates.decoder}),
    "own class": lambda X, y: (
        PLACEExplainer(coordinates=FrozenEstimator(OwnCoordinates(hidden=(8,), training_budget=0.02, random_state=0).fit(X)),
                       density=SMALL["density"], **TINY), lambda e: {"coordinates": e.coordinates}),
    "generator": lambda X, y: (
        DiffeomorphicExplainer(generator=FrozenEstimator(GeneratorCoordinates(
            net(2, 2, 4), latent_dim=2, inversion=Inversion(steps=4, restarts=2), random_state=0).fit(X)), **TINY),
        lambda e: {"generator__generator": e.generator.estimator.generator}),
}


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] * (i % 3 > 0)) for i, name in enumerate(OWN)])  # a third, by default
def test_what_the_user_made_is_given_again_and_must_be_the_same(name, iris, tmp_path):
    X, y = iris
    explainer, given = OWN[name](X, y)
    values = name == "regressor"
    explainer.fit(X, X[:, 3] if values else y)
    explainer.save(tmp_path / "explainer")
    given, target = given(explainer), None if values else 1
    expected = explainer.explain(X[:4], target)
    again = CounterfactualExplainer.load(tmp_path / "explainer", **given)
    same(again.explain(X[:4], target), expected)
    same(pickle.loads(pickle.dumps(again)).explain(X[:4], target), expected)
    # a copy of the same weights is the same network
    same(cfexplain.load(tmp_path / "explainer", **pickle.loads(pickle.dumps(given))).explain(X[:4], target), expected)
    again.save(tmp_path / "again")
    same(cfexplain.load(tmp_path / "again", **given).explain(X[:4], target), expected)

    if name == "skorch":
        with pytest.raises(ValueError, match="uses the predict_nonlinearity; the Sequential that was given has none"):
            cfexplain.load(tmp_path / "explainer", classifier=explainer.classifier.module_)
    with pytest.raises(ValueError, match="objects of your own.*" + next(iter(given)) + ".*="):
        cfexplain.load(tmp_path / "explainer")
    with pytest.raises(TypeError, match="got perceptual, which the file does not ask for"):
        cfexplain.load(tmp_path / "explainer", perceptual=abs, **given)


OTHER = {
    "module": (lambda X, y: net(5), "weights of this Sequential"), "shape": (lambda X, y: net(0, 4, 2), "weights of this"),
    "not a network": (lambda X, y: LogisticRegression().fit(X, y), "expected the Sequential"),
    "mode": (lambda X, y: torch.nn.Sequential(*net(), torch.nn.Softmax(1)), "answers otherwise on 16 of 16")}


@pytest.mark.parametrize("name", OTHER)
def test_another_network_is_refused_unless_it_is_meant(name, iris, tmp_path):
    X, y = iris
    PLACEExplainer(net(), **SMALL, **TINY).fit(X, y).save(tmp_path / "explainer")
    make, message = OTHER[name]
    other = make(X, y)
    with pytest.raises(ValueError, match=message):
        PLACEExplainer.load(tmp_path / "explainer", classifier=other)
    if name == "module":
        again = PLACEExplainer.load(tmp_path / "explainer", classifier=other, verify=False)
        wanted = other(torch.from_numpy(X)).softmax(1).detach().numpy()
        np.testing.assert_allclose(again.predict_proba(X), wanted, atol=1e-6)


@pytest.mark.parametrize("coordinates", ["vae", "identity"])
def test_a_model_without_weights_is_known_by_its_answers(coordinates, iris, tmp_path):
    X, y = iris[0] + 1000, iris[1]
    forest = RandomForestClassifier(20, random_state=0).fit(X, y)
    kind = LeapExplainer if coordinates == "vae" else GradientExplainer
    explainer = kind(forest, **TINY).fit(X, y)
    explainer.save(tmp_path / "explainer")
    rows = read_arrays(tmp_path / "explainer")[0]["compared/rows"]
    assert len(np.unique(forest.predict(rows))) > 1  # rows where the model has something to say
    assert (np.abs(rows[:, None] - X).sum(-1) > 1e-4).all()  # and none of them one of the user's
    again = cfexplain.load(tmp_path / "explainer", classifier=pickle.loads(pickle.dumps(forest)))
    same(again.explain(X[:3], 1), explainer.explain(X[:3], 1))
    with pytest.raises(ValueError, match="answers otherwise on"):
        cfexplain.load(tmp_path / "explainer", classifier=RandomForestClassifier(20, random_state=1).fit(X, y[::-1]))


def test_what_only_training_needs_may_be_left_out(digits, tmp_path):
    X, y = digits[0][:100], digits[1][:100]
    with torch.random.fork_rng():
        distance = FeatureDistance(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3)), (0,))
    explainer = REVISEExplainer(coordinates=VAE(perceptual=distance, training_budget=0.01), **TINY).fit(X, y)
    explainer.save(tmp_path / "explainer")
    again = cfexplain.load(tmp_path / "explainer")
    same(again.explain(X[:3], 1), explainer.explain(X[:3], 1))
    with pytest.raises(ValueError, match="coordinates__perceptual was a FeatureDistance"):
        clone(again).fit(X, y)
    assert cfexplain.load(tmp_path / "explainer", coordinates__perceptual=distance).coordinates.perceptual is distance
