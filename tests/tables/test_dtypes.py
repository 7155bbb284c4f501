"""Tables come back with the index, the dtypes and the identifiers that they came with, and no value is wrapped."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cfexplain import Counterfactuals, PLACEExplainer, explain_pipeline
from cfexplain.tables.build import build_frame, read_columns

SMALL = {"training_budget": 0.003, "max_steps": 8, "random_state": 0}
BIG = 9007199254740993  # 2**53 + 1, which no float is
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(("dtype", "value", "wider"), [
    ("int8", 127.0, "int8"), ("int8", 130.0, "int16"), ("int8", 2.5, "float64"), ("uint8", 300.0, "int16"),
    ("uint8", -1.0, "int16"), ("int32", 2.0**31, "int64"), ("int64", 2.0**63, "uint64"), ("int64", 2.0**70, "float64"),
    ("uint64", -1.0, "int64"), ("Int8", 130.0, "Int16"), ("UInt8", 300.0, "Int16"), ("Int64", 0.5, "Float64"),
    ("float16", 1e6, "float32"), ("float32", 1e300, "float64"), ("float32", 0.5, "float32"), ("bool", 0.5, "float64")])
def test_a_dtype_that_does_not_hold_a_value_is_widened(dtype, value, wider):
    made = build_frame([{"name": "a", "kind": "number", "dtype": dtype}], np.array([[value], [0.0]]))["a"]
    assert str(made.dtype) == wider and made.tolist() == [value, 0.0]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "float32", "Int8"])
def test_bounds_beyond_a_small_dtype_hold_in_a_pipeline(dtype):
    rng = np.random.RandomState(0)
    X = pd.DataFrame({"points": rng.randint(0, 100, 300), "score": rng.randint(0, 100, 300)}).astype(dtype)
    y = (X["points"].astype(int) + X["score"].astype(int) > 130).astype(int)
    pipe = make_pipeline(StandardScaler(), LogisticRegression(C=100)).fit(X, y)
    rows = X[X["score"].astype(int) < 8][:2]
    cf = explain_pipeline(pipe, rows, 1, X_train=X, y_train=y, immutable=["score"], bounds={"points": (0, 1000)},
                          explainer=PLACEExplainer(training_budget=0.005, max_steps=80, second_opinion=1, random_state=0,
                                                   confidence=0.9))
    before, after = cf.to_frames()
    assert (after["points"].astype(float).to_numpy() == cf.x_cf[:, 0]).all() and (cf.x_cf[:, 0] > 100).all()
    assert before.equals(rows) and (pipe.predict(after) == 1).all() and cf.valid.all()


@pytest.mark.parametrize("make", [lambda X: X, lambda X: X.to_numpy()])
def test_rows_beyond_the_training_dtype_are_seen_as_they_are(make):
    rng = np.random.RandomState(0)
    X = pd.DataFrame({"a": rng.randint(0, 100, 200), "b": rng.randint(0, 100, 200)})
    y = (X["a"] + X["b"] > 100).astype(int)
    train = make(X.astype("int8"))
    pipe = make_pipeline(StandardScaler(), LogisticRegression(C=10)).fit(train, y)
    far = X[:3].assign(a=[300, 500, 7])
    cf = explain_pipeline(pipe, make(far), X_train=train, y_train=y, explainer=PLACEExplainer(**SMALL))
    assert cf.x[:, 0].tolist() == [300, 500, 7] and cf.to_frames()[0].iloc[:, 0].tolist() == [300, 500, 7]
    assert cf.source.tolist() == pipe.predict(make(far)).tolist()


def frame(n=120):
    rng = np.random.RandomState(0)
    return pd.DataFrame({"account": BIG + 2 * np.arange(n), "income": rng.normal(50, 10, n).round(1),
                         "rooms": rng.randint(1, 9, n), "own": rng.rand(n) < 0.5}, index=[f"p{i}" for i in range(n)])


def test_identifiers_beyond_two_to_the_53_come_back_from_a_pipeline(tmp_path):
    X = frame()[["account", "income"]]
    y = (X["income"] > 50).astype(int)
    pipe = RandomForestClassifier(5, random_state=0).fit(X, y)
    cf = explain_pipeline(pipe, X[:3], X_train=X, y_train=y, immutable=["account"], explainer=PLACEExplainer(**SMALL))
    cf.save(tmp_path / "cf.safetensors")
    for result in (cf, Counterfactuals.load(tmp_path / "cf.safetensors"), Counterfactuals.concatenate([cf[:1], cf[1:]])):
        before, after = result.to_frames()
        assert before["account"].tolist() == after["account"].tolist() == X["account"].tolist()[:3]
        assert before.equals(X[:3]) and after["account"].dtype == np.int64


@pytest.fixture(scope="module")
def plain():
    X = frame()
    return X, PLACEExplainer(immutable=["account", "own"], **SMALL).fit(X, (X["income"] > 50).astype(int))


def test_a_plain_explainer_keeps_index_names_dtypes_and_identifiers(plain, tmp_path):
    X, explainer = plain
    rows = X.loc[["p100", "p20", "p3"]]
    cf = explainer.explain(rows)
    cf.save(tmp_path / "cf.safetensors")
    for result in (cf, Counterfactuals.load(tmp_path / "cf.safetensors"), Counterfactuals.concatenate(list(cf))):
        before, after = result.to_frames()
        pd.testing.assert_frame_equal(before, rows)
        assert after.index.tolist() == rows.index.tolist() and after.columns.tolist() == rows.columns.tolist()
        assert after["account"].equals(rows["account"]) and after["own"].equals(rows["own"])
        whole = (result.x_cf[:, 2] == np.round(result.x_cf[:, 2])).all()
        assert after["rooms"].dtype == (np.int64 if whole else np.float64)
        assert (after["rooms"].to_numpy() == result.x_cf[:, 2]).all()
    assert set(cf.changes()["row"]) <= set(rows.index)


def test_blocks_of_which_one_has_big_identifiers_fit_together(plain, tmp_path):
    X, explainer = plain
    rows = X[:6].assign(account=[1, 2, 3, BIG, BIG + 2, 4])
    cf = explainer.explain(rows)
    parts = [explainer.explain(rows[:3]), explainer.explain(rows[3:])]
    together = Counterfactuals.concatenate(parts)
    store = explainer.explain_to(tmp_path / "rows", rows, block_size=3).concatenate()
    for result in (cf, together, store):
        assert result.to_frames()[1]["account"].tolist() == rows["account"].tolist()


@pytest.mark.parametrize("make", [lambda X: X, torch.from_numpy])
def test_arrays_of_integers_stay_integers_where_nothing_moved(make):
    raw = np.column_stack([BIG + 2 * np.arange(60), np.random.RandomState(0).randint(0, 50, 60)])
    y = (raw[:, 1] > 25).astype(int)
    cf = PLACEExplainer(immutable=[0], **SMALL).fit(make(raw), y).explain(make(raw[:4]))
    before, after = cf.to_frames()
    assert after["x0"].tolist() == raw[:4, 0].tolist() and before["x1"].dtype == np.int64


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "int64[pyarrow]", "double[pyarrow]", "Sparse[int64, 0]", "category",
                                   "object", "float32", "uint8"])
def test_columns_that_did_not_change_have_the_very_cells(dtype):
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    X = pd.DataFrame({"a": pd.Series([3, 5, 7]).astype(dtype), "b": [0.1, 0.2, 0.3]})
    values = np.column_stack([[3.0, 5.0, 7.0], [0.1, 0.2, 0.3]])
    columns, originals = read_columns(X, values, ["a", "b"])
    made = build_frame(columns, values, originals)
    assert made["a"].dtype == X["a"].dtype and made["a"].tolist() == X["a"].tolist()
    moved = build_frame(columns, values + [[0.5, 0.0]], originals)
    assert [float(cell) for cell in moved["a"]] == [3.5, 5.5, 7.5]


def test_digits_that_a_short_float_loses_come_back_where_nothing_moved():
    X = pd.DataFrame(np.random.RandomState(0).rand(60, 3), columns=list("abc"))
    y = (X["b"] > 0.5).astype(int)
    cf = PLACEExplainer(immutable=["a"], **SMALL).fit(X.astype("float32"), y).explain(X[:4])
    assert cf.to_frames()[1]["a"].equals(X["a"][:4]) and cf.to_frames()[0].equals(X[:4])


@pytest.mark.parametrize("columns", [list("abc"), None])
def test_frames_are_the_users_and_not_the_results(columns):
    """Whatever is done with them: pandas before 3 shares memory where it is not told to copy."""
    X = np.random.RandomState(0).rand(60, 3)
    rows = X if columns is None else pd.DataFrame(X, columns=columns)
    cf = PLACEExplainer(**SMALL).fit(rows.astype("float32"), (X[:, 1] > 0.5).astype(int)).explain(rows[:4])
    first = [frame.copy() for frame in cf.to_frames()]
    for frame in cf.to_frames():
        frame.iloc[:, :] = 7.0
    for frame, again in zip(first, cf.to_frames(), strict=True):
        pd.testing.assert_frame_equal(frame, again, check_exact=True)
