"""docs/howto/new_method.md, executed: a method of one's own is short, and saved, evaluated and reported like any other."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_iris

import cfexplain
from cfexplain import PLACEExplainer, evaluate

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "new_method.md"
METHOD, USE = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def method(tmp_path_factory):
    """The module that a reader makes of the page's first block."""
    path = tmp_path_factory.mktemp("page") / "nearest.py"
    path.write_text(METHOD, "utf-8")
    spec = importlib.util.spec_from_file_location("nearest", path)
    module = sys.modules["nearest"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["nearest"]


@pytest.fixture(scope="module")
def neighbour(method):
    X, y = load_iris(return_X_y=True)
    return method.NearestUnlikeNeighbour(training_budget=0.2, random_state=0).fit(X, y)


def test_the_method_takes_less_than_40_lines():
    assert len([line for line in METHOD.splitlines() if line.strip()]) < 40


def test_it_finds_the_nearest_row_that_the_classifier_calls_the_target(neighbour):
    X = load_iris().data
    cf = neighbour.explain(X[:60], target=1)
    predicted = neighbour.predict(X)
    for x, x_cf, status in zip(X[:60], cf.x_cf, cf.status, strict=True):
        if status != "already_target":
            own = X[predicted == 1]
            np.testing.assert_allclose(x_cf, own[np.linalg.norm(own - x, axis=1).argmin()], rtol=1e-12)
    assert cf.valid.all() and set(cf.status) == {"converged", "already_target"}


def test_it_is_saved_evaluated_and_reported_as_the_page_says(method, tmp_path, monkeypatch):
    """The second block as it stands, but for less training."""
    monkeypatch.chdir(tmp_path)
    small = USE.replace("random_state=0", "training_budget=0.05, random_state=0")
    assert small != USE
    names = {**vars(method)}
    exec(compile(small, str(PAGE), "exec"), names)
    assert (tmp_path / "neighbours.html").read_text("utf-8").count("<article") == 20
    again, cf = names["again"], names["cf"]
    assert type(again) is method.NearestUnlikeNeighbour
    np.testing.assert_array_equal(again.explain(load_iris().data[:20], target=1).x_cf, cf.x_cf)


def test_it_is_an_estimator_like_the_others(neighbour):
    from sklearn.base import clone

    assert clone(neighbour).get_params() == neighbour.get_params()
    assert neighbour.set_params(confidence=0.5).confidence == 0.5
    X = load_iris().data[:5]
    place = PLACEExplainer(neighbour.classifier_.module, training_budget=0.05, random_state=0)
    place.fit(*load_iris(return_X_y=True))
    assert set(evaluate({"nearest": neighbour, "PLACE": place}, X, target=2).results) == {"nearest", "PLACE"}


def test_a_file_can_only_name_what_is_defined(neighbour, tmp_path):
    class Undeclared(type(neighbour)):
        pass

    with pytest.raises(TypeError, match="storable"):
        Undeclared(training_budget=0.05, random_state=0).fit(*load_iris(return_X_y=True)).save(tmp_path / "file")
    neighbour.save(tmp_path / "file")
    assert type(cfexplain.load(tmp_path / "file")) is type(neighbour)
