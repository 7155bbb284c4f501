"""Invariants of what is found: rows stay together and align, under every index."""


import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from results import COLUMNS, made, same

from cfexplain.result import Counterfactuals


@st.composite
def indices(draw):
    n = draw(st.integers(0, 9))
    inside = st.integers(-n, n - 1) if n else st.nothing()
    kinds = [st.slices(n), st.lists(st.booleans(), min_size=n, max_size=n).map(lambda b: np.array(b, dtype=bool))]
    if n:
        many = st.lists(inside, max_size=12)
        kinds += [inside, inside.map(np.int64), many, many.map(lambda i: np.array(i, dtype=int)),
                  many.map(lambda i: torch.tensor(i, dtype=torch.long))]
    return n, draw(st.one_of(kinds))


@settings(max_examples=150, deadline=None)
@given(indices())
def test_rows_stay_together_under_every_index(case):
    n, index = case
    cf = made(n)
    rows = np.atleast_1d(np.arange(n)[index])
    part = cf[index]
    assert len(part) == len(rows)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(part, name), getattr(cf, name)[rows], err_msg=name)
    for name in cf.conditions:
        np.testing.assert_array_equal(part.conditions[name], cf.conditions[name][rows])
    assert len(part.path) == len(rows) and all(part.path[k] is cf.path[i] for k, i in enumerate(rows))
    np.testing.assert_array_equal(part.complete, cf.complete[rows])
    assert part.metadata == cf.metadata


@pytest.mark.parametrize("index", [7, -8, (0, 1), None, "x", np.zeros((2, 2), int), np.ones(3, bool), 1.5])
def test_an_index_that_is_none_says_so(index):
    with pytest.raises(IndexError):
        made(7)[index]


def test_iteration_and_concatenation_are_inverse():
    cf = made(6, "colour", "str", seconds=2.0)
    rows = list(cf)
    assert [len(row) for row in rows] == [1] * 6
    again = Counterfactuals.concatenate(rows)
    assert again.metadata.pop("seconds") == 12.0 and cf.metadata.pop("seconds") == 2.0
    same(again, cf)
    same(Counterfactuals.concatenate([cf[:0], cf, cf[6:]]), cf)


def test_concatenation_refuses_what_does_not_fit():
    cf = made()
    for other in (made(labels="str"), made(layout="grey"), made(paths=False), made(optional=False),
                  made(container="torch")):
        with pytest.raises(ValueError, match="do not fit together"):
            Counterfactuals.concatenate([cf, other])
    with pytest.raises(ValueError, match="at least one"):
        Counterfactuals.concatenate([])
    joined = Counterfactuals.concatenate([made(n_train=5, device="cpu"), made(n_train=6, device="cpu")])
    assert "n_train" not in joined.metadata and joined.metadata["device"] == "cpu"


def test_numpy_reads_the_counterfactuals():
    cf = made(layout="grey")
    assert np.asarray(cf) is cf.x_cf and np.shape(cf) == cf.shape == (7, 4, 6) and cf.ndim == 3
    copied = np.array(cf)
    copied[:] = -1
    assert cf.x_cf.min() >= 0
    as_float64 = np.asarray(cf, dtype=np.float64)
    assert as_float64.dtype == np.float64 and cf.dtype == np.float32
    np.testing.assert_array_equal(as_float64, cf.x_cf)
    np.testing.assert_allclose(np.subtract(cf, cf.x), cf.x_cf - cf.x)
    with pytest.raises(ValueError, match="copied"):
        cf.__array__(np.float64, copy=False)


def test_a_tensor_comes_back_where_a_tensor_came_in():
    cf = made(layout="colour", container="torch")
    assert isinstance(cf[::-1].array, torch.Tensor) and isinstance(np.asarray(cf), np.ndarray)
    np.testing.assert_array_equal(cf[::-1].array.numpy(), cf.x_cf[::-1])
    assert made().array is not None and isinstance(made().array, np.ndarray)


@pytest.mark.parametrize(("change", "message"), [
    ({"valid": np.ones(3, bool)}, "valid has 3 rows, but x has 7"),
    ({"conditions": {"decision": np.ones(2, bool)}}, "'decision'"), ({"path": []}, "path has 0 rows"),
    ({"status": np.array(["lost"] * 7)}, "lost"), ({"container": "cupy"}, "cupy"), ({"x_cf": np.ones((7, 2))}, "shape")])
def test_rows_that_do_not_align_are_refused(change, message):
    cf = made()
    arguments = {**{name: getattr(cf, name) for name in COLUMNS}, **change}
    with pytest.raises(ValueError, match=message):
        Counterfactuals(**arguments)


def test_what_an_explainer_returns_travels_by_file(image_explainer, digits, tmp_path, quietly):
    cf = image_explainer.explain(torch.from_numpy(digits[2][:5]), record_path=True)
    cf.save(tmp_path / "cf")
    again = Counterfactuals.load(tmp_path / "cf")
    same(again, cf)
    np.testing.assert_array_equal(again.array, cf.array)
    np.testing.assert_array_equal(image_explainer.predict(cf), cf.prediction)
