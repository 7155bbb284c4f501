"""Saving: what the format does not know is named, the old file stays whole; and `load` of any file of the package."""

import os
import pickle

import numpy as np
import pytest
import torch
from saved import SMALL, TINY, net, same
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

import cfexplain
from cfexplain import PLACEExplainer, REVISEExplainer, evaluate

pytestmark = pytest.mark.usefixtures("quietly")


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return X.astype(np.float32), y


@pytest.fixture
def fitted(iris):
    return PLACEExplainer(**SMALL, **TINY).fit(*iris)


def test_what_the_format_does_not_know_is_named_and_nothing_is_written(fitted, tmp_path):
    path = tmp_path / "explainer"
    with pytest.raises(NotFittedError):
        clone(fitted).save(path)
    own = type("Own", (PLACEExplainer,), {})
    for attribute, value, message in (
            ("secret_", object(), "secret_ is a builtins.object"), ("secret_", [{"x": open}], r"secret_\[0\]\['x'\]"),
            ("secret_", np.zeros(2, complex), "secret_ is an array of complex128"),
            ("secret_", np.array([object()]), "secret_.*holds a object"), ("memo", 3, "memo is an attribute"),
            ("coordinates_", own(), "coordinates_ is a"), ("max_steps", "many", "max_steps='many' is no int")):
        broken = pickle.loads(pickle.dumps(fitted))
        setattr(broken, attribute, value)
        with pytest.raises(TypeError, match=message):
            broken.save(path)
    broken = pickle.loads(pickle.dumps(fitted))
    broken.coordinates_.set_params(hidden=(9,))
    with pytest.raises(TypeError, match="coordinates_.module_ is not the network that its parameters describe"):
        broken.save(path)
    broken = pickle.loads(pickle.dumps(fitted))
    broken.classifier_.module.body[1] = torch.nn.ReLU()
    with pytest.raises(TypeError, match="classifier_._scores.module is not the network"):
        broken.save(path)
    broken = pickle.loads(pickle.dumps(fitted))
    broken.__class__ = own
    with pytest.raises(TypeError, match="Own is a class of your own"):
        broken.save(path)
    assert not path.exists()


def test_plain_data_that_a_later_version_learns_is_kept(fitted, tmp_path, iris):
    fitted.groups_ = {"colour": [np.arange(3), (1, 2.5, None, "x", float("inf"))], 7: np.float32(0.1)}
    fitted.order_ = np.asfortranarray(np.random.RandomState(0).rand(3, 4).astype(np.float32))
    fitted.save(tmp_path / "explainer")
    again = cfexplain.load(tmp_path / "explainer")
    np.testing.assert_equal(again.groups_, fitted.groups_)
    assert type(again.groups_[7]) is np.float32 and again.order_.flags.f_contiguous
    np.testing.assert_array_equal(again.order_.mean(0), fitted.order_.mean(0))


def test_an_interrupted_save_leaves_the_old_file_whole(fitted, tmp_path, monkeypatch):
    path = tmp_path / "explainer"
    fitted.save(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="disk full"):
                fitted.save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["explainer"]


def test_load_knows_what_the_file_holds(fitted, iris, tmp_path):
    X, y = iris
    fitted.save(tmp_path / "explainer")
    cf = fitted.explain(X[:3], 1)
    cf.save(tmp_path / "result")
    evaluate({"PLACE": fitted}, X[:3], target=1, metrics=["validity"]).save(tmp_path / "evaluation")
    same(cfexplain.load(tmp_path / "result"), cf)
    assert list(cfexplain.load(tmp_path / "evaluation").results) == ["PLACE"]
    assert type(cfexplain.load(tmp_path / "explainer")) is PLACEExplainer
    with pytest.raises(TypeError, match="classifier=, but the file holds counterfactuals"):
        cfexplain.load(tmp_path / "result", classifier=net())
    with pytest.raises(ValueError, match="holds a PLACEExplainer, not a REVISEExplainer"):
        REVISEExplainer.load(tmp_path / "explainer")
    with pytest.raises(ValueError, match="'counterfactuals'; expected an explainer"):
        PLACEExplainer.load(tmp_path / "result")
    with pytest.raises(TypeError, match="classifier, which the file does not ask for: it needs nothing"):
        PLACEExplainer.load(tmp_path / "explainer", classifier=net())
    with pytest.raises(FileNotFoundError):
        cfexplain.load(tmp_path / "nowhere")
