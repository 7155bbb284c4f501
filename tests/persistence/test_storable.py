"""Classes of the user's own in files: what `storable` asks of them, and that the list of names stays closed."""

import dataclasses
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.datasets import load_iris

import cfexplain
from cfexplain import CounterfactualExplainer, LeapExplainer, PLACEExplainer
from cfexplain.coordinates import VAE, Autoencoder
from cfexplain.density import ConditionalFlow
from cfexplain.foundation.files import read_arrays, write_arrays
from cfexplain.persistence import MayBeAbsent, storable, table
from cfexplain.persistence.hints import attribute_types, check_parameters, constructor_types, needed_attributes

pytestmark = pytest.mark.usefixtures("quietly")

SMALL = {"density": ConditionalFlow(transforms=1, hidden_features=(8,), training_budget=0.01), "training_budget": 0.02,
         "max_steps": 5, "random_state": 0}


@pytest.fixture(autouse=True)
def only_here(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(table, "_KINDS", dict(table._KINDS))


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return X.astype(np.float32), y


class Centred(PLACEExplainer):
    """Learns one thing more."""

    centre_: np.ndarray
    spare_: MayBeAbsent[np.ndarray]

    def fit(self, X, y):
        super().fit(X, y)
        self.centre_ = np.asarray(X).mean(0)
        self.remarks_ = {"rows": len(X)}
        return self


def test_an_explainer_of_the_user_s_own_comes_back(iris, tmp_path):
    X, y = iris
    storable(Centred)
    explainer = Centred(coordinates=VAE(hidden=(8,), training_budget=0.01), **SMALL).fit(X, y)
    explainer.needs_valid = False  # not a parameter, but an attribute of the class
    explainer.save(tmp_path / "explainer")
    for again in (cfexplain.load(tmp_path / "explainer"), Centred.load(tmp_path / "explainer")):
        assert type(again) is Centred and again.needs_valid is False and again.remarks_ == {"rows": 150}
        np.testing.assert_array_equal(again.centre_, explainer.centre_)
        np.testing.assert_array_equal(again.explain(X[:4], 1).x_cf, explainer.explain(X[:4], 1).x_cf)
    with pytest.raises(ValueError, match="holds a Centred, not a LeapExplainer"):
        LeapExplainer.load(tmp_path / "explainer")


def test_a_file_holds_what_the_class_declares(iris, tmp_path):
    storable(Centred)
    Centred(coordinates=VAE(hidden=(8,), training_budget=0.01), **SMALL).fit(*iris).save(tmp_path / "explainer")
    arrays, meta = read_arrays(tmp_path / "explainer")
    fitted = meta["tree"]["object"][2]["fitted"]
    kept = fitted["centre_"]
    for strange, message in (("text", "Centred.centre_ as str"), (None, "Centred.centre_ as NoneType")):
        fitted["centre_"] = strange
        write_arrays(tmp_path / "strange", arrays, meta)
        with pytest.raises(ValueError, match=message):
            Centred.load(tmp_path / "strange")
    del fitted["centre_"]
    write_arrays(tmp_path / "strange", {name: array for name, array in arrays.items() if name != kept["array"]}, meta)
    with pytest.raises(ValueError, match="no centre_"):
        Centred.load(tmp_path / "strange")
    fitted["centre_"], meta["tree"]["object"][2]["set"] = kept, {"explain": "x"}
    write_arrays(tmp_path / "strange", arrays, meta)
    with pytest.raises(ValueError, match="Centred.explain as str"):
        Centred.load(tmp_path / "strange")


def test_coordinates_of_the_user_s_own_are_built_as_their_base_s(iris, tmp_path):
    class Tight(Autoencoder):
        pass

    storable(Tight)
    X, y = iris
    explainer = PLACEExplainer(coordinates=Tight(hidden=(8,), training_budget=0.01), **SMALL).fit(X, y)
    explainer.save(tmp_path / "explainer")
    again = cfexplain.load(tmp_path / "explainer")
    assert type(again.coordinates_) is type(again.coordinates) is Tight
    np.testing.assert_array_equal(again.explain(X[:4], 1).x_cf, explainer.explain(X[:4], 1).x_cf)


def test_a_subclass_without_the_decorator_is_refused_and_told_of_it(iris, tmp_path):
    explainer = Centred(coordinates=VAE(hidden=(8,), training_budget=0.01), **SMALL).fit(*iris)
    with pytest.raises(TypeError, match="Centred is a class of your own.*@storable.*cfexplain.persistence"):
        explainer.save(tmp_path / "explainer")
    assert not os.listdir(tmp_path)


def test_one_name_is_one_class():
    with pytest.raises(TypeError, match="is cfexplain.explainers.place.PLACEExplainer already.*another name"):
        storable(type("PLACEExplainer", (PLACEExplainer,), {}))
    with pytest.raises(TypeError, match="'VAE' is cfexplain.coordinates.vae.VAE already"):
        storable(type("_VAE", (VAE,), {}))
    with pytest.raises(TypeError, match="for classes of estimators"):
        storable(dict)
    assert table.kind_of(PLACEExplainer) and table.kind_of(VAE)


def test_a_class_that_is_defined_again_replaces_the_former_one(iris, tmp_path):
    def define():
        class Again(PLACEExplainer):
            pass

        return storable(Again)

    first = define()
    old = first(coordinates=VAE(hidden=(8,), training_budget=0.01), **SMALL).fit(*iris)
    old.save(tmp_path / "explainer")
    second = define()
    assert type(cfexplain.load(tmp_path / "explainer")) is second is not first
    with pytest.raises(TypeError, match="Again was defined again after"):
        old.save(tmp_path / "explainer")


def test_a_file_names_only_what_this_process_has_defined(iris, tmp_path):
    storable(Centred)
    Centred(coordinates=VAE(hidden=(8,), training_budget=0.01), **SMALL).fit(*iris).save(tmp_path / "explainer")
    script = "import sys, cfexplain; cfexplain.load(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "explainer")], capture_output=True, text=True)
    assert "the class 'Centred', which is unknown here" in done.stderr and "@storable" in done.stderr


def test_persistence_by_itself_knows_no_class_of_another_room():
    script = "import cfexplain.persistence.table as t, sys; print(*t._KINDS)"
    code = ("import sys, types, importlib.util as u; spec = u.find_spec('cfexplain'); "
            "package = types.ModuleType('cfexplain'); package.__path__ = list(spec.submodule_search_locations); "
            "sys.modules['cfexplain'] = package; import cfexplain.persistence; ")
    done = subprocess.run([sys.executable, "-c", code + script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["Layout", "FrozenEstimator"]


# ------------------------------------------------------------------------------------------------ declared types
class Plain(BaseEstimator):
    def __init__(self, width: int = 3, loose=None):
        self.width, self.loose = width, loose


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class Generated(CounterfactualExplainer):
    """A constructor made of annotations, some of them of a base."""

    rate: float = 0.1
    learned_: np.ndarray = dataclasses.field(init=False)


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class GeneratedTwice(Generated):
    share: "float | None" = None


def test_types_of_constructors_written_and_generated():
    assert constructor_types(Plain) == {"width": int, "loose": Any}
    check_parameters(Plain, {"width": 3.0, "loose": object()})
    with pytest.raises(TypeError, match="Plain's width='wide' is no int"):
        check_parameters(Plain, {"width": "wide"})
    assert constructor_types(GeneratedTwice).items() >= {"rate": float, "share": float | None}.items()
    with pytest.raises(TypeError, match=r"GeneratedTwice's share='x' is no float \| None"):
        check_parameters(GeneratedTwice, {"rate": 1, "share": "x"})
    for numbers in (float("nan"), float("inf"), 2.5):
        with pytest.raises(TypeError, match="is no int"):
            check_parameters(Plain, {"width": numbers})


def test_types_of_fitted_attributes_are_those_of_the_class_and_its_bases():
    assert attribute_types(GeneratedTwice)["learned_"] is np.ndarray
    assert {"learned_", "layout_", "classifier_"} <= set(needed_attributes(GeneratedTwice))
    assert {"centre_"} <= set(needed_attributes(Centred)) and "spare_" not in needed_attributes(Centred)
    assert attribute_types(Centred)["spare_"] is np.ndarray


def test_an_annotation_that_cannot_be_read_is_named():
    class Unreadable(PLACEExplainer):
        extra_: "Nowhere"  # noqa: F821

    with pytest.raises(TypeError, match="annotation of Unreadable.*Nowhere.*TYPE_CHECKING"):
        attribute_types(Unreadable)
