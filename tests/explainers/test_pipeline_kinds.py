"""What a fitted pipeline takes, `explain_pipeline` takes: any steps, any columns, any kind of table, any `predict`."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, KBinsDiscretizer, OneHotEncoder, OrdinalEncoder, StandardScaler

from cfexplain import DiffeomorphicExplainer, LeapExplainer, PipelineExplainer, PLACEExplainer, explain_pipeline, load
from cfexplain.classifiers.pipeline_steps import dropped_columns, encoded_columns

TINY = {"training_budget": 0.01, "max_steps": 15, "second_opinion": 0, "random_state": 0, "confidence": 0.6}


class Untrained(PLACEExplainer):
    """Must not be trained: whatever is wrong is said before."""

    def fit(self, X, y):
        raise AssertionError("training has begun")


class Ratio(BaseEstimator, TransformerMixin):
    """Learns nothing, and has no attribute that says that it was fitted."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X.assign(ratio=X["wage"] / 10)


class Duck:
    """No estimator at all; it takes rows by its own name for them."""

    def fit(self, X, y=None):
        return self

    def transform(self, rows):
        return np.asarray(rows)[:, :2]


def people(n=240):
    rng = np.random.default_rng(0)
    code, wage, age = rng.choice([10, 20, 70], n), rng.normal(20, 5, n).round(1), rng.integers(18, 80, n)
    y = np.where(np.sum([code == 70, wage > 22, age > 60], axis=0) >= 2, "yes", "no")
    return pd.DataFrame({"wage": wage, "age": age, "code": code}), y


X, y = people()
SCALED = make_column_transformer((OneHotEncoder(), ["code"]), (StandardScaler(), ["wage", "age"]))


def explained(pipe, X, rows=None, target="yes", y_train=y, **options):
    rows = X[pipe.predict(X) != target][:4] if rows is None else rows
    options = {"explainer": PLACEExplainer(**TINY), **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cf = explain_pipeline(pipe, rows, target, X_train=X, y_train=y_train, **options)
    before, after = cf.to_frames()
    return cf, before, after


@pytest.mark.parametrize("steps", [
    [Ratio(), StandardScaler()], [Duck()], [FunctionTransformer(None), "passthrough", StandardScaler()],
    [make_pipeline(Ratio(), StandardScaler())], [make_union(Duck(), StandardScaler())]])
def test_steps_of_any_kind(steps):
    pipe = make_pipeline(*steps, LogisticRegression()).fit(X, y)
    cf, _, after = explained(pipe, X)
    np.testing.assert_array_equal(pipe.predict(after), cf.prediction)
    assert cf.valid.mean() > 0.6


def test_samplers_are_no_part_of_predict():
    imblearn = pytest.importorskip("imblearn")
    pipe = imblearn.pipeline.make_pipeline(
        StandardScaler(), imblearn.over_sampling.SMOTE(random_state=0), LogisticRegression()).fit(X, y)
    explainer = PipelineExplainer(pipe, PLACEExplainer(**TINY)).fit(X, y)
    cf = explainer.explain(X[pipe.predict(X) == "no"][:5], "yes")
    assert explainer.exact_  # its gradient is that of scaler and classifier
    np.testing.assert_array_equal(pipe.predict(cf.to_frames()[1]), cf.prediction)


def test_arrays_of_which_columns_are_dropped_by_position():
    Z = np.column_stack([np.arange(len(X)) * 1.0, X.to_numpy()])
    chosen = ColumnTransformer([("a", StandardScaler(), [1, 2]), ("b", OneHotEncoder(), slice(3, 4))])
    pipe = make_pipeline(chosen, LogisticRegression()).fit(Z, y)
    rows = Z[pipe.predict(Z) == "no"][:6]
    cf, before, after = explained(pipe, Z, rows)
    np.testing.assert_array_equal(before.to_numpy(), rows)
    np.testing.assert_array_equal(after["x0"], rows[:, 0])
    np.testing.assert_array_equal(pipe.predict(after.to_numpy()), cf.prediction)
    assert set(after["x3"]) <= {10, 20, 70} and cf.valid.all()


ENCODED = {
    "first": SCALED,
    "after an imputer": make_pipeline(SimpleImputer().set_output(transform="pandas"), SCALED),
    "after an imputer, by position": make_pipeline(SimpleImputer(), ColumnTransformer([("c", OneHotEncoder(), [2])])),
    "after a function": make_pipeline(FunctionTransformer(lambda f: f.assign(wage=f["wage"] * 1.0)), SCALED),
    "nested": ColumnTransformer([("a", make_pipeline(ColumnTransformer([("o", OneHotEncoder(), ["code"])])), ["code"])],
                                remainder="passthrough"),
    "in a union": FeatureUnion([("a", ColumnTransformer([("o", OrdinalEncoder(), ["code"])])), ("b", StandardScaler())]),
    "renamed": make_pipeline(FunctionTransformer(lambda f: f.rename(columns={"code": "kind"})),
                             ColumnTransformer([("o", OneHotEncoder(), ["kind"])], remainder="passthrough")),
    "as text": make_pipeline(FunctionTransformer(lambda f: f.assign(code="c" + f["code"].astype(str))),
                             ColumnTransformer([("o", OneHotEncoder(), ["code"])], remainder="passthrough"))}


@pytest.mark.parametrize("how", ENCODED)
def test_numbers_that_are_names_are_found_wherever_they_are_encoded(how):
    some = X.copy()
    if "imputer" in how:
        some.loc[::7, "code"] = np.nan
    pipe = make_pipeline(ENCODED[how], LogisticRegression()).fit(some, y)
    assert encoded_columns(pipe, some, some) == {"code"}


def test_a_code_stays_a_code():
    pipe = make_pipeline(ENCODED["after an imputer"], LogisticRegression()).fit(X, y)
    cf, _, after = explained(pipe, X)
    assert set(after["code"]) <= {10, 20, 70} and cf.valid.all()


def test_classifiers_that_read_categories_themselves_and_bins_that_are_none():
    own = HistGradientBoostingClassifier(max_iter=3, categorical_features=["code"]).fit(X, y)
    assert encoded_columns(own, X, X) == {"code"} and dropped_columns(own, X) == set()
    wide = X.assign(id=np.arange(len(X)))[["id", "code", "age", "wage"]]  # other columns in another order
    assert encoded_columns(own, wide, wide) == {"code"} and dropped_columns(own, wide) == {"id"}
    by_place = ColumnTransformer([("a", StandardScaler(), [0, 1]), ("b", "drop", [2])]).fit(X)
    assert dropped_columns(make_pipeline(by_place, LogisticRegression()), wide) == {"id", "code"}
    cut = KBinsDiscretizer(3, encode="ordinal", quantile_method="averaged_inverted_cdf")
    bins = make_column_transformer((make_pipeline(cut, OneHotEncoder()), ["wage"]), remainder="passthrough")
    assert encoded_columns(make_pipeline(bins, LogisticRegression()).fit(X, y), X, X) == set()


TITLE = FunctionTransformer(lambda f: f.assign(name=f["name"].str.split().str[0]))
MONTH = FunctionTransformer(lambda f: f.assign(booked=f["booked"].dt.month))
UNSEARCHABLE = {
    "name": ([TITLE, make_column_transformer((OneHotEncoder(), ["name"]), remainder="passthrough")],
             [f"{t} No {i}" for i, t in enumerate(np.random.default_rng(1).choice(["Mr", "Mrs", "Dr"], len(X)))]),
    "booked": ([MONTH], pd.date_range("1912-01-01", periods=len(X), tz="UTC")),
    "empty": ([SimpleImputer()], np.nan),
    "state": ([make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["state"]), remainder="passthrough")],
              [f"s{i % 60}" for i in range(len(X))]),
    "kind": ([make_column_transformer(("drop", ["kind"]), remainder="passthrough")],
             pd.Categorical([f"k{i % 80}" for i in range(len(X))], ordered=True))}


@pytest.mark.parametrize("name", UNSEARCHABLE)
def test_columns_that_cannot_be_searched_are_carried_through(name, tmp_path):
    steps, cells = UNSEARCHABLE[name]
    wide = X[["wage", "age"]].assign(**{name: cells})
    wide.index = [f"r{i}" for i in range(len(wide))]
    pipe = make_pipeline(*steps, StandardScaler(with_mean=False), LogisticRegression()).fit(wide, y)
    cf, before, after = explained(pipe, wide, immutable=[name])
    pd.testing.assert_frame_equal(before, wide.loc[before.index])
    pd.testing.assert_series_equal(after[name], before[name])
    np.testing.assert_array_equal(pipe.predict(after), cf.prediction)
    assert cf.valid.mean() > 0.6
    cf.save(tmp_path / "cf.safetensors")
    pd.testing.assert_frame_equal(type(cf).load(tmp_path / "cf.safetensors").to_frames()[1], after)
    explainer = PipelineExplainer(pipe, PLACEExplainer(**TINY))
    if name != "kind":  # which the pipeline drops: nothing has to be said
        with pytest.warns(UserWarning, match=f"(?s)cannot be searched, and is held.*{name!r}"):
            explainer.fit(wide, y)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="(?s).*cannot be searched")
        explainer.set_params(immutable=[name]).fit(wide, y)


def test_the_verdict_is_of_the_row_with_what_it_carries():
    """Of two rows that differ in a name alone, one is granted; every verdict is that of the row as it is returned."""
    titled = X[["wage", "age"]].assign(name=UNSEARCHABLE["name"][1])
    mr = titled["name"].str.startswith("Mr ").to_numpy()
    own = np.where(mr | (titled["wage"] > 20), "yes", "no")
    pipe = make_pipeline(*UNSEARCHABLE["name"][0], LogisticRegression(C=100)).fit(titled, own)
    cf, _, after = explained(pipe, titled, titled[:20], y_train=own, immutable=["name"])
    np.testing.assert_array_equal(pipe.predict(after), cf.prediction)
    np.testing.assert_array_equal(cf.source, pipe.predict(titled[:20]))
    assert cf.valid.mean() > 0.95


def test_what_can_be_reached_is_found_though_the_search_does_not_see_the_carried_column():
    steps, cells = UNSEARCHABLE["state"]
    wide = X[["wage", "age"]].assign(state=cells)
    pipe = make_pipeline(*steps, StandardScaler(with_mean=False), LogisticRegression()).fit(wide, y)
    rows = wide[pipe.predict(wide) == "no"][:20]
    cf, _, after = explained(pipe, wide, rows, immutable=["state"])
    assert cf.valid.all() and (after["state"] == rows["state"]).all()  # a grid over wage and age finds all of them
    np.testing.assert_array_equal(pipe.predict(after), cf.prediction)


def test_cells_that_training_does_not_have_stay_and_the_other_rows_are_as_without_them():
    imputed = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), ["wage", "age"]),
        (OneHotEncoder(handle_unknown="ignore"), ["code"]))
    pipe = make_pipeline(imputed, LogisticRegression()).fit(X, y)
    explainer = PipelineExplainer(pipe, PLACEExplainer(**TINY)).fit(X, y)
    rows = X[pipe.predict(X) == "no"][:8].astype({"age": float})
    alone = explainer.explain(rows, "yes")
    strange = rows.copy()
    strange.iloc[1, 1] = np.nan
    strange.iloc[3, 2] = 99
    strange.iloc[5, [1, 2]] = np.nan, 99
    with pytest.warns(UserWarning, match=r"3 rows have cells .* \['age', 'code'\]"):
        cf = explainer.explain(strange, "yes")
    before, after = cf.to_frames()
    pd.testing.assert_frame_equal(before.astype(float), strange.astype(float))
    assert np.isnan(after.iloc[1, 1]) and after.iloc[3, 2] == 99 and np.isnan(after.iloc[5, 1]) and after.iloc[5, 2] == 99
    np.testing.assert_array_equal(pipe.predict(after), cf.prediction)
    whole = [0, 2, 4, 6, 7]
    np.testing.assert_array_equal(cf.x_cf[whole], alone.x_cf[whole])
    np.testing.assert_array_equal(cf.log_density[whole], alone.log_density[whole])
    assert cf.valid.mean() > 0.8 and cf.status.tolist()[1] in ("converged", "step_budget")


def test_frames_of_polars():
    polars = pytest.importorskip("polars")
    job = np.array(["cook", "clerk", "smith"])[np.searchsorted([10, 20, 70], X["code"])]
    P = polars.DataFrame({"wage": X["wage"].to_numpy(), "age": X["age"].to_numpy(), "job": job,
                          "day": pd.date_range("2020-01-01", periods=len(X)).to_numpy()})
    P = P.with_columns(level=polars.Series(np.where(X["age"] > 40, "high", "low")).cast(polars.Enum(["low", "high"])))
    seen = FunctionTransformer(lambda f: f.with_columns(polars.col("day").dt.month().alias("day")))  # of polars alone
    pipe = make_pipeline(seen, make_column_transformer(
        (OneHotEncoder(), ["job", "level"]), (StandardScaler(), ["wage", "age", "day"])), LogisticRegression()).fit(P, y)
    rows = P.filter(polars.Series(pipe.predict(P) == "no"))[:6]
    cf, before, after = explained(pipe, P, rows, immutable=["day"], monotone={"level": "increase"})
    assert isinstance(after, polars.DataFrame) and before.equals(rows) and before.schema == after.schema == P.schema
    np.testing.assert_array_equal(pipe.predict(after), cf.prediction)
    assert cf.valid.all() and (after["day"] == rows["day"]).all() and set(after["job"]) <= set(job)
    assert len(cf.changes()) and len(cf.to_frame(features=True)) == 6 and cf.index is None
    with pytest.raises(TypeError, match="collect"):
        explain_pipeline(pipe, rows.lazy(), "yes", X_train=P)


class Wrapped(BaseEstimator):
    """A model of another library behind scikit-learn's steps: it predicts, and knows no classes."""

    def __init__(self, inner, how):
        self.inner, self.how = inner, how

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, X, y=None):
        return self

    def predict(self, X):
        proba = self.inner.predict_proba(X)
        if self.how == "keras":
            return proba.astype(np.float32)
        if self.how == "logits":
            return np.log(proba + 1e-9).astype(np.float32) + 3
        if self.how == "sigmoid":
            return proba[:, 1:].astype(np.float32)
        if self.how == "booster":
            return proba[:, 1]
        if self.how == "positions":
            return proba.argmax(1)[:, None]
        return self.inner.predict(X)[:, None]  # labels, (n, 1)


@pytest.mark.parametrize("how", ["keras", "logits", "sigmoid", "booster", "positions", "labels"])
@pytest.mark.parametrize("said", ["classes", pytest.param("y", marks=pytest.mark.slow)])
def test_models_without_classes(how, said):
    scaler = make_column_transformer((OneHotEncoder(), ["code"]), (StandardScaler(), ["wage", "age"])).fit(X)
    inner = LogisticRegression().fit(scaler.transform(X), y)
    pipe = Pipeline([("scale", scaler), ("net", Wrapped(inner, how))])
    known = {"classes": ["no", "yes"]} if said == "classes" else {}
    rows = X[inner.predict(scaler.transform(X)) == "no"][:6]
    cf, _, after = explained(pipe, X, rows, y_train=y if said == "y" else None, **known)
    np.testing.assert_array_equal(inner.predict(scaler.transform(after)), cf.prediction)
    assert cf.valid.all() and set(cf.source) == {"no"}
    if how in ("keras", "sigmoid", "booster", "logits"):
        np.testing.assert_allclose(cf.proba_after, inner.predict_proba(scaler.transform(after))[:, 1], atol=1e-5)
        with pytest.raises(ValueError, match=r"Pass classes=\[…\]"):
            explain_pipeline(pipe, rows, "yes", X_train=X, explainer=Untrained())
    if how != "positions":  # of which there may be a third
        with pytest.raises(ValueError, match="does not fit the classes"):
            explain_pipeline(pipe, rows, "a", X_train=X, classes=["a", "b", "c"], explainer=Untrained())


def test_a_native_booster():
    lightgbm = pytest.importorskip("lightgbm")
    booster = lightgbm.train({"objective": "binary", "verbose": -1, "num_leaves": 7}, lightgbm.Dataset(
        X.to_numpy(), (y == "yes").astype(int)), num_boost_round=10)
    explainer = PipelineExplainer(booster, LeapExplainer(training_budget=0.02, random_state=0), classes=["no", "yes"])
    explainer.fit(X.to_numpy())
    rows = X.to_numpy()[booster.predict(X.to_numpy()) < 0.5][:5]
    cf = explainer.explain(rows, "yes")
    np.testing.assert_array_equal(booster.predict(cf.x_cf) > 0.5, cf.prediction == "yes")


@pytest.mark.parametrize(("change", "message"), [
    ({"target": "yess"}, "'yess' is not a class"), ({"target": ["yes"] * 3}, "3 labels for 5 rows"),
    ({"immutable": ["wages"]}, "'wages'"), ({"bounds": {"wages": (0, 1)}}, "'wages'"),
    ({"monotone": {"wage": "up"}}, "increase"), ({"categorical": ["sort"]}, "'sort'"), ({"y_train": y[:5]}, "y_train"),
    ({"y_train": np.where(y == "yes", 1, 0)}, "class"),
    ({"X": X[["wage", "age"]][:5]}, r"lacks the columns \['code'\]"), ({"X": X.assign(wage="a")[:5]}, "'wage' held numbers"),
    ({"classes": ["yes"]}, "classes="), ({"classes": ["a", "b", "c"]}, "as many"),
    ({"X_train": X[["wage", "age"]]}, "does not take these rows"), ({"explainer": Untrained(max_steps=-1)}, "max_steps")])
def test_what_is_wrong_is_said_before_anything_is_trained(change, message):
    pipe = make_pipeline(SCALED, LogisticRegression()).fit(X, y)
    call = {"X": X[:5], "target": "yes", "X_train": X, "y_train": y, "explainer": Untrained(), **change}
    with pytest.raises((ValueError, TypeError), match=message):
        explain_pipeline(pipe, **call)


@pytest.mark.parametrize("target", [(23.0, 24.0), 24.0, "maximize", "minimize"])
def test_regressors(target):
    wage = X["wage"].to_numpy()
    pipe = make_pipeline(make_column_transformer((OneHotEncoder(), ["code"]), (StandardScaler(), ["age"])),
                         LinearRegression()).fit(X[["age", "code"]], wage + X["code"] / 7 + X["age"] / 9)
    table = X[["age", "code"]]
    said = pipe.predict(table)
    rows = table[(said < 28) & (said > 26)][:6]
    if not isinstance(target, str):
        target = tuple(end + 9 for end in target) if isinstance(target, tuple) else target + 9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cf = explain_pipeline(pipe, rows, target, X_train=table,
                              explainer=DiffeomorphicExplainer(training_budget=0.02, max_steps=40, random_state=0))
    after = cf.to_frames()[1]
    np.testing.assert_allclose(cf.prediction, pipe.predict(after), atol=1e-12)
    assert set(after["code"]) <= {10, 20, 70} and after["age"].between(18, 80).all()
    if isinstance(target, tuple):
        np.testing.assert_array_equal((cf.prediction >= target[0] - 1e-3) & (cf.prediction <= target[1] + 1e-3), cf.valid)
    elif isinstance(target, str):
        np.testing.assert_array_equal((cf.prediction > cf.source) == (target == "maximize"), cf.valid)
    assert cf.valid.mean() > 0.8
    with pytest.raises(ValueError, match="target"):
        explain_pipeline(pipe, rows, "more", X_train=table)


def network_pipe():
    import skorch
    import torch
    torch.manual_seed(0)
    net = skorch.NeuralNetClassifier(torch.nn.Linear(5, 2), criterion=torch.nn.CrossEntropyLoss, lr=0.1, max_epochs=20,
                                     verbose=0, classes=[0, 1])
    cast = FunctionTransformer(lambda Z: np.asarray(Z, dtype=np.float32))
    return make_pipeline(SCALED, cast, net).fit(X, (y == "yes").astype(np.int64))


def bare_module_pipe():
    trained = network_pipe()
    return Pipeline([*trained.steps[:-1], ("net", trained[-1].module_)])


STORED = {"exact": lambda: make_pipeline(SCALED, LogisticRegression()).fit(X, y),
          "surrogate": lambda: make_pipeline(SCALED, HistGradientBoostingClassifier(max_iter=10, random_state=0)).fit(X, y),
          "skorch": network_pipe, "module": bare_module_pipe,
          "values": lambda: make_pipeline(SCALED, LinearRegression()).fit(X, X["wage"] + X["code"])}


@pytest.mark.parametrize("how", ["exact", "skorch", *(
    pytest.param(how, marks=pytest.mark.slow) for how in ("surrogate", "module", "values"))])
def test_it_is_kept_in_a_file_and_the_pipeline_given_again(how, tmp_path):
    pipe, path = STORED[how](), tmp_path / "explainer.safetensors"
    values = how == "values"
    own = DiffeomorphicExplainer(training_budget=0.01, max_steps=15, random_state=0) if values else PLACEExplainer(**TINY)
    labels = {"values": X["wage"] + X["code"], "skorch": None, "module": y}.get(how, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explainer = PipelineExplainer(FrozenEstimator(pipe) if how == "exact" else pipe, own, immutable=["age"],
                                      bounds={"wage": (0, 40)}).fit(X, labels)
        explainer.save(path)
        again = PipelineExplainer.load(path, pipeline=pipe)
        target = 40.0 if values else explainer.classes_[1]
        one, two = explainer.explain(X[:5], target), again.explain(X[:5], target)
    for name in ("x_cf", "z_cf", "log_density", "prediction", "status"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    pd.testing.assert_frame_equal(one.to_frames()[1], two.to_frames()[1])
    assert again.exact_ == explainer.exact_ and again.immutable == ["age"]
    np.testing.assert_array_equal(load(path, pipeline=pipe).predict(X), explainer.predict(X))
    with pytest.raises(ValueError, match="pipeline=pipe"):
        PipelineExplainer.load(path)
    with pytest.raises(TypeError, match="does not ask for"):
        PipelineExplainer.load(path, pipeline=pipe, classifier=pipe)
    data = path.read_bytes()
    path.write_bytes(data[:-9])
    with pytest.raises(ValueError, match="explainer.safetensors"):
        PipelineExplainer.load(path, pipeline=pipe)


def test_another_pipeline_is_refused(tmp_path):
    pipe, path = STORED["exact"](), tmp_path / "explainer.safetensors"
    PipelineExplainer(pipe, PLACEExplainer(**TINY)).fit(X, y).save(path)
    other = make_pipeline(SCALED, LogisticRegression(C=0.01)).fit(X, y)
    with pytest.raises(ValueError, match="answers otherwise"):
        PipelineExplainer.load(path, pipeline=other)
    assert PipelineExplainer.load(path, pipeline=other, verify=False).pipeline is other
    with pytest.raises(ValueError, match="does not take"):
        PipelineExplainer.load(path, pipeline=LogisticRegression().fit(X[["wage"]], y))
