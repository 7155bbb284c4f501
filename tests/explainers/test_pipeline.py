"""`explain_pipeline`: from DataFrames to DataFrames, in the pipeline's own words."""

import warnings

import numpy as np
import pandas as pd
import pytest
import skorch
import torch
from matplotlib.figure import Figure
from scipy.spatial.distance import pdist
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, OneHotEncoder, OrdinalEncoder, StandardScaler

from cfexplain import Counterfactuals, LeapExplainer, PipelineExplainer, PLACEExplainer, ScanExplainer, explain_pipeline

pytestmark = pytest.mark.usefixtures("quietly")

LEVELS = ["school", "bachelor", "master"]
SMALL = {"training_budget": 0.05, "confidence": 0.6, "max_steps": 40, "second_opinion": 0, "random_state": 0}


def people(n=400, seed=0):
    """Names, ages, education and the job that goes with it, wages to the cent (some unknown); who can have a loan."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 80, n)
    level = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    job = np.where(rng.random(n) < 0.2 + 0.3 * level, "office", rng.choice(["farm", "shop"], n))
    wage = np.round(10 + 5 * level + 4 * (job == "office") + rng.normal(0, 2, n), 2)
    X = pd.DataFrame({
        "name": [f"p{i}" for i in range(n)], "age": age, "sex": rng.choice(["f", "m"], n),
        "education": pd.Categorical([LEVELS[k] for k in level], categories=LEVELS, ordered=True), "job": job,
        "wage": np.where(rng.random(n) < 0.1, np.nan, wage), "citizen": rng.random(n) < 0.8,
        "region": rng.integers(1, 4, n)}, index=[f"row {i}" for i in range(n)])
    y = np.where(wage + 0.05 * age + 2 * X["citizen"] + rng.normal(0, 1, n) > 20, "yes", "no")
    return X, y


def prepare():
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    return ColumnTransformer([
        ("numbers", numbers, ["age", "wage"]), ("jobs", OneHotEncoder(), ["job", "sex", "region"]),
        ("levels", OrdinalEncoder(categories=[LEVELS]), ["education"]), ("rest", "passthrough", ["citizen"])])


@pytest.fixture(scope="module")
def data():
    X, y = people()
    return X[:300], y[:300], X[300:], y[300:]


@pytest.fixture(scope="module")
def pipe(data):
    return make_pipeline(prepare(), LogisticRegression(max_iter=500)).fit(data[0], data[1])


@pytest.fixture(scope="module")
def fitted(pipe, data):
    return PipelineExplainer(pipe, PLACEExplainer(**SMALL)).fit(data[0], data[1])


@pytest.fixture(scope="module")
def forest(data):
    pipe = make_pipeline(prepare(), RandomForestClassifier(30, min_samples_leaf=3, random_state=0)).fit(*data[:2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PipelineExplainer(pipe, PLACEExplainer(**SMALL)).fit(*data[:2])


def denied(pipe, X, n=8):
    return X[pipe.predict(X) == "no"][:n]


def check_rows(explainer, pipe, X, cf, y_target="yes"):
    """What holds for every counterfactual of a table, whatever the classifier."""
    before, after = cf.to_frames()
    pd.testing.assert_frame_equal(before, X)
    assert (after.dtypes == X.dtypes).all() and after.index.equals(X.index) and list(after) == list(X)
    assert (after["name"] == X["name"]).all()
    np.testing.assert_array_equal(pipe.predict(after), cf.prediction)
    np.testing.assert_array_equal(pipe.predict(after) == y_target, cf.valid)
    column = list(pipe.classes_).index(y_target)
    np.testing.assert_allclose(cf.proba_after, pipe.predict_proba(after)[:, column], atol=1e-12)
    np.testing.assert_allclose(cf.proba_before, pipe.predict_proba(X)[:, column], atol=1e-12)
    for name in ("job", "sex", "education", "region", "citizen"):
        assert set(after[name]) <= set(explainer.seen[name])
    known = after["wage"].notna()
    assert (known == X["wage"].notna()).all(), "what is missing stays missing"
    np.testing.assert_array_equal(after["wage"][known], after["wage"][known].round(2))
    assert after["age"].between(explainer.seen["age"].min(), explainer.seen["age"].max()).all()
    one_hot = pipe[0].named_transformers_["jobs"].transform(after[["job", "sex", "region"]]).toarray()
    assert (np.sort(np.unique(one_hot)) == [0, 1]).all() and (one_hot.sum(1) == 3).all()


def test_rows_that_can_exist_and_the_pipelines_own_verdict(fitted, pipe, data):
    X = denied(pipe, data[2])
    fitted.seen = data[0]
    cf = fitted.explain(X, "yes")
    check_rows(fitted, pipe, X, cf)
    assert fitted.exact_ and cf.valid.mean() >= 0.9 and cf.surrogate_valid is None
    assert (cf.status[cf.valid] != "not_found").all() and set(cf.status[~cf.valid]) <= {"not_found"}


def test_a_forest_is_searched_by_a_surrogate_and_repaired_by_itself(forest, data):
    pipe = forest.pipeline
    X = denied(pipe, data[2])
    forest.seen = data[0]
    cf = forest.explain(X, "yes")
    check_rows(forest, pipe, X, cf)
    assert not forest.exact_ and cf.surrogate_valid is not None and cf.valid.mean() >= 0.9


def test_rules_in_original_names_and_units(fitted, pipe, data):
    X = denied(pipe, data[2])
    rules = {"immutable": ["sex", "job"], "bounds": {"wage": (None, 18), "region": [1, 2], "age": (25.5, 60.2)},
             "monotone": {"age": "increase", "education": "increase"}}
    before, after = fitted.explain(X, "yes", **rules).to_frames()
    assert (after[["sex", "job"]] == before[["sex", "job"]]).all(axis=None)
    assert (after["age"] >= before["age"]).all() and (after["education"].cat.codes >= before["education"].cat.codes).all()
    known = before["wage"].notna()
    assert (after["wage"][known] <= np.maximum(18, before["wage"][known])).all()
    assert (after["region"].isin([1, 2]) | (after["region"] == before["region"])).all()
    assert (after["age"] <= np.maximum(60, before["age"])).all()
    falling = fitted.explain(X, "yes", monotone={"wage": "decrease", "education": "decrease"}).to_frames()[1]
    assert (falling["wage"][known] <= before["wage"][known]).all()
    assert (falling["education"].cat.codes <= before["education"].cat.codes).all()


def test_rows_do_not_depend_on_each_other(fitted, pipe, data):
    X = denied(pipe, data[2], 8)
    whole, order = fitted.explain(X, "yes"), np.array([5, 0, 7])
    some = fitted.explain(X.iloc[order], "yes")
    np.testing.assert_array_equal(some.x_cf, whole.x_cf[order])
    np.testing.assert_array_equal(some.log_density, whole.log_density[order])


@pytest.mark.slow
def test_jobs_change_no_bit(fitted, pipe, data):
    X = denied(pipe, data[0], 80)
    one, two = (fitted.explain(X, "yes", n_jobs=n_jobs) for n_jobs in (None, 2))
    np.testing.assert_array_equal(one.x_cf, two.x_cf)
    np.testing.assert_array_equal(one.z_cf, two.z_cf)


def test_taking_back_loses_no_verdict_and_no_condition(fitted, pipe, data):
    X = denied(pipe, data[2])
    whole, sparse = (fitted.explain(X, "yes", sparse=choice) for choice in (False, True))
    assert (sparse.valid >= whole.valid).all() and len(sparse.changes()) < len(whole.changes())
    for name, held in whole.conditions.items():
        assert (sparse.conditions[name] >= held).all()
    assert ((sparse.x_cf != sparse.x).sum(1) <= (whole.x_cf != whole.x).sum(1)).all()
    # z′ is the code of the row that is returned
    codes = fitted.table_.codes(sparse.x_cf)
    np.testing.assert_allclose(fitted.explainer_.coordinates_.transform(codes), sparse.z_cf, atol=1e-10)
    np.testing.assert_allclose(fitted.explainer_.score_samples(codes, sparse.target), sparse.log_density, atol=1e-6)


def test_gradient_is_the_pipelines_own(fitted, pipe, data):
    """The affine layer and the classifier, against finite differences of the whole pipeline."""
    codes = fitted.table_.encode(data[2][:1])
    place = fitted.table_.places["age"][0]
    module = fitted.model_.as_module(fitted.codes_)
    u = torch.from_numpy(codes).requires_grad_()
    logits = module(u)
    (slope,) = torch.autograd.grad(logits[0, 1] - logits[0, 0], u)
    older = data[2][:1].assign(age=lambda f: f["age"] + 10)
    odds = [float(np.diff(np.log(pipe.predict_proba(frame)))[0, 0]) for frame in (data[2][:1], older)]
    assert slope[0, place].item() == pytest.approx((odds[1] - odds[0]) * fitted.table_.columns[1]["std"] / 10, rel=1e-6)


def net_pipe(last, X, y):
    return make_pipeline(prepare(), FunctionTransformer(lambda Z: np.asarray(Z, dtype=np.float32)), last).fit(X, y)


def test_every_kind_of_classifier(data):
    X, y, rows, _ = data
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    net = skorch.NeuralNetClassifier(module, criterion=torch.nn.CrossEntropyLoss, lr=0.1, max_epochs=30, verbose=0,
                                     classes=[0, 1])
    by_net = net_pipe(net, X, (y == "yes").astype(np.int64))
    cases = [
        (by_net, 1, True),
        (make_pipeline(prepare(), MLPClassifier((8,), max_iter=200, random_state=0)).fit(X, y), "yes", True),
        (make_pipeline(prepare(), HistGradientBoostingClassifier(max_iter=20, random_state=0)).fit(X, y), "yes", False),
        (make_pipeline(prepare(), FunctionTransformer(np.abs), LogisticRegression(max_iter=500)).fit(X, y), "yes", False)]
    state = {name: value.clone() for name, value in net.module_.state_dict().items()}
    for pipe, target, exact in cases:
        explainer = PipelineExplainer(pipe, PLACEExplainer(**SMALL | {"training_budget": 0.02})).fit(X)
        some = rows[pipe.predict(rows) != target][:4]
        cf = explainer.explain(some, target)
        assert explainer.exact_ == exact, pipe
        np.testing.assert_array_equal(pipe.predict(cf.to_frames()[1]) == target, cf.valid)
        assert cf.valid.mean() >= 0.75, pipe
    assert all(torch.equal(value, state[name]) for name, value in net.module_.state_dict().items())


def test_a_bare_module_as_last_step(data):
    X, y, rows, _ = data
    torch.manual_seed(0)
    trained = net_pipe(skorch.NeuralNetClassifier(torch.nn.Linear(12, 2), criterion=torch.nn.CrossEntropyLoss, lr=0.1,
                                                  max_epochs=30, verbose=0), X, (y == "yes").astype(np.int64))
    module = trained[-1].module_
    pipe = Pipeline([*trained.steps[:-1], ("net", module)])
    cf = explain_pipeline(pipe, rows[:6], X_train=X, y_train=y, explainer=PLACEExplainer(**SMALL))
    with torch.no_grad():
        said = module(torch.from_numpy(trained[:-1].transform(cf.to_frames()[1]))).argmax(1).numpy()
    np.testing.assert_array_equal(np.array(["no", "yes"])[said], cf.prediction)
    with pytest.raises(ValueError, match="y_train is missing"):
        PipelineExplainer(pipe).fit(X)


def test_other_methods_and_searched_pipelines(data, pipe):
    X, y, rows, _ = data
    searched = GridSearchCV(pipe, {"logisticregression__C": [1.0]}, cv=2).fit(X, y)
    some = denied(searched, rows, 6)
    cf = explain_pipeline(FrozenEstimator(searched), some, "yes", X_train=X, y_train=y, immutable=["sex"],
                          explainer=LeapExplainer(training_budget=0.05, random_state=0))
    before, after = cf.to_frames()
    assert (before["sex"] == after["sex"]).all() and (searched.predict(after) == cf.prediction).all()
    assert cf.metadata["explainer"] == "LeapExplainer" and cf.valid.mean() >= 0.5


@pytest.mark.slow
def test_grid_search_over_weights_explains_the_same_pipeline(data, pipe):
    X, y = data[0], data[1]
    tiny = PLACEExplainer(**SMALL | {"training_budget": 0.02, "max_steps": 10})
    grid = GridSearchCV(PipelineExplainer(pipe, tiny), {"explainer__confidence": [0.6, 0.99]}, cv=2).fit(X[:100], y[:100])
    scores = grid.cv_results_["mean_test_score"]
    assert grid.best_estimator_.pipeline is pipe
    assert scores[0] > scores[1] > 0 and grid.best_params_ == {"explainer__confidence": 0.6}  # farther is worse
    assert clone(grid.best_estimator_).pipeline is pipe
    np.testing.assert_array_equal(grid.predict(data[2]), pipe.predict(data[2]))


def test_arrays_in_and_an_explainer_used_again(data):
    rng = np.random.default_rng(0)
    X = np.round(rng.normal(size=(120, 3)), 1)
    y = (X.sum(1) > 0).astype(int)
    pipe = make_pipeline(MinMaxScaler(), LogisticRegression(C=100)).fit(X, y)
    explainer = PipelineExplainer(pipe, PLACEExplainer(**SMALL)).fit(X, y)
    cf = explain_pipeline(pipe, X[:5], explainer=explainer, immutable=["x1"])
    np.testing.assert_array_equal(cf.x, X[:5])
    np.testing.assert_array_equal(cf.x_cf[:, 1], X[:5, 1])
    np.testing.assert_array_equal(cf.x_cf, cf.x_cf.round(1))
    np.testing.assert_array_equal(pipe.predict(cf.x_cf), cf.prediction)
    assert cf.index is None and (cf.target == 1 - pipe.predict(X[:5])).all()


def test_its_results_are_drawn_with_it(fitted, pipe, data, tmp_path):
    cf = fitted.explain(denied(pipe, data[2], 3), "yes", record_path=True)
    for path, row in zip(cf.plot("path", explainer=fitted, figure=Figure()).paths_, cf, strict=True):
        np.testing.assert_array_equal(path.x[path.returned], row.x_cf[0])
        assert path.proba[path.returned] == pytest.approx(row.proba_after[0], abs=1e-6)
        assert path.x.shape[1] == row.x.shape[1] and np.isfinite(path.x[:, 0]).all()
    assert len(cf.plot("density", explainer=fitted, figure=Figure()).ax_) == 3
    drawn = cf.plot("manifold", explainer=fitted, X=data[0], y=data[1], figure=Figure())
    assert drawn.projection == "lda" and drawn.training_.shape == (len(data[0]), 2)
    cf.to_html(tmp_path / "report.html", explainer=fitted)
    assert "Search path" in (tmp_path / "report.html").read_text("utf-8")


def test_results_are_kept_cut_and_told(fitted, pipe, data, tmp_path):
    X = denied(pipe, data[2], 6)
    cf = fitted.explain(X, "yes")
    cf.save(tmp_path / "cf.safetensors")
    again = Counterfactuals.load(tmp_path / "cf.safetensors")
    for one, other in zip(cf.to_frames(), again.to_frames(), strict=True):
        pd.testing.assert_frame_equal(one, other)
    pd.testing.assert_frame_equal(cf[2:4].to_frames()[1], cf.to_frames()[1][2:4])
    both = Counterfactuals.concatenate([cf[:2], cf[2:]]).to_frames()[1]
    pd.testing.assert_frame_equal(both, cf.to_frames()[1])
    before, after = cf.to_frames()
    listed = {(line.row, line.column) for line in cf.changes().itertuples()}
    differs = before.astype(object).ne(after.astype(object)) & ~(before.isna() & after.isna())
    assert listed == {(row, name) for row in before.index for name in before.columns if differs.loc[row, name]}
    frame = cf.to_frame(features=True)
    assert (frame["counterfactual_job"] == after["job"]).all() and "delta_job" not in frame and frame.index.equals(X.index)
    moved = cf.changes().query("column == 'job'")
    if len(moved):
        row = cf[list(X.index).index(moved["row"].iloc[0])]
        assert f"job {moved['before'].iloc[0]} → {moved['after'].iloc[0]}" in row.summary()
    cf[0].plot()
    # limits are in the user's units, and what was repaired leaves few columns changed
    numbers = [column["name"] for column in cf.metadata["columns"] if column["kind"] == "number"]
    for end, ends in zip(("min", "max"), cf.metadata["feature_range"], strict=True):
        limits = dict(zip(cf.feature_names, ends, strict=True))
        assert [limits[name] for name in numbers] == pytest.approx(data[0][numbers].agg(end).tolist())
    measures = cf.measures()
    assert measures.columns_changed == cf.changes().groupby("row").size().reindex(before.index, fill_value=0).median()
    assert 0 <= measures.outside_range <= 1 and "columns in the median row" in cf.summary()


def test_bad_input_says_what_to_do(fitted, pipe, data):
    X, y, rows, _ = data
    with pytest.raises(ValueError, match="X_train is missing"):
        explain_pipeline(pipe, rows, "yes")
    with pytest.raises(ValueError, match="fitted already"):
        explain_pipeline(pipe, rows, "yes", X_train=X, explainer=fitted)
    with pytest.raises(ValueError, match="another pipeline"):
        explain_pipeline(clone(pipe), rows, "yes", explainer=fitted)
    with pytest.raises(ValueError, match="immutable names the column 'height'"):
        fitted.explain(rows, "yes", immutable=["height"])
    with pytest.raises(ValueError, match="no order"):
        fitted.explain(rows, "yes", monotone={"job": "increase"})
    with pytest.raises(ValueError, match="choose 'increase' or 'decrease'"):
        fitted.explain(rows, "yes", monotone={"age": "up"})
    with pytest.raises(ValueError, match="holds no multiple of 1"):
        fitted.explain(rows, "yes", bounds={"age": (30.2, 30.4)})
    with pytest.raises(ValueError, match="must list some of its categories"):
        fitted.explain(rows, "yes", bounds={"job": ["pilot"]})
    with pytest.raises(ValueError, match="'pilot', which is not among its training categories"):
        fitted.explain(rows.assign(job="pilot"), "yes")
    # which this pipeline does not take
    with pytest.raises(ValueError, match="'sex' has missing values, but none in training"):
        fitted.explain(rows.assign(sex=None), "yes")
    with pytest.raises(ValueError, match=r"lacks the columns \['age'\]"):
        fitted.explain(rows.drop(columns="age"), "yes")
    with pytest.raises(ValueError, match="'maybe' is not a class"):
        fitted.explain(rows, "maybe")
    with pytest.raises(ValueError, match="pipeline is what is explained"):
        PipelineExplainer(pipe, PLACEExplainer(classifier=pipe)).fit(X, y)
    with pytest.raises(TypeError, match="no explainer"):
        PipelineExplainer(pipe, pipe).fit(X, y)
    with pytest.raises(TypeError, match="a regressor, and PLACEExplainer explains classes"):
        PipelineExplainer(make_pipeline(prepare(), Ridge()).fit(X, y == "yes"), PLACEExplainer()).fit(X, y == "yes")
    with pytest.raises(NotFittedError, match="not fitted"):
        PipelineExplainer(make_pipeline(prepare(), LogisticRegression())).fit(X, y)


def test_room_is_measured_as_the_spread_of_results_is():
    """A rare category is as far from another as a frequent one, among real rows as among originals and counterfactuals."""
    rng = np.random.default_rng(0)
    age, job = rng.normal(50, 10, 400), rng.choice(["office", "shop", "circus"], 400, p=[0.55, 0.4, 0.05])
    X = pd.DataFrame({"age": np.where(age > 50, 50 + 3 * (age - 50), age), "job": job})
    y = np.where(X["age"] + 5 * (job == "office") > 52, "old", "young")
    pipe = make_pipeline(ColumnTransformer([("a", StandardScaler(), ["age"]), ("j", OneHotEncoder(), ["job"])]),
                         LogisticRegression()).fit(X, y)
    explainer = PipelineExplainer(pipe, ScanExplainer(random_state=0)).fit(X, y)
    cf = explainer.explain(X[pipe.predict(X) == "old"][:60], "young")
    apart = pd.concat([X[["age"]] / X["age"].std(ddof=0), pd.get_dummies(X["job"])], axis=1).astype(float).to_numpy()
    real = apart[np.flatnonzero(y == "young")]
    real = real[np.linspace(0, len(real) - 1, min(len(real), 300)).round().astype(int)]
    room = pdist(real).mean() / pdist(apart[np.flatnonzero(pipe.predict(X) == "old")[:60]]).mean()
    assert cf.measures().pairs[0].room == pytest.approx(room, rel=1e-5) and room < 0.9
