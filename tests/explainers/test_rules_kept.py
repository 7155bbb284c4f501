"""Explainers keep the rules between columns, on the very rows that come back, and minimise what changes cost."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import cfexplain
from cfexplain import PipelineExplainer, PLACEExplainer, ScanExplainer, explain_pipeline

pytestmark = pytest.mark.usefixtures("quietly")


@pytest.fixture(scope="module")
def loans():
    random = np.random.RandomState(0)
    n = 600
    school = random.randint(8, 20, n)
    income = np.round(school * 2.5 + random.normal(10, 8, n).clip(-15), 2)
    debt = np.round(random.lognormal(2.5, 0.6, n), 2)
    total = random.randint(20, 60, n)
    X = pd.DataFrame({
        "school": school, "income": income, "debt": debt, "hours": total,
        "part": (total * random.uniform(0, 1, n)).astype(int),
        "job": random.choice(["clerk", "cook", "none"], n), "ratio": debt / income})
    score = 1.5 - 2 * X["ratio"] + 0.02 * X["income"] + 0.6 * (X["job"] == "clerk") - 0.02 * X["part"]
    return X, np.where(score + 0.3 * random.normal(size=n) > score.median(), "yes", "no")


@pytest.fixture(scope="module")
def pipes(loans):
    X, y = loans
    prepare = make_column_transformer((StandardScaler(), [name for name in X if name != "job"]), (OneHotEncoder(), ["job"]))
    return [make_pipeline(prepare, model).fit(X, y) for model in (
        LogisticRegression(), RandomForestClassifier(20, random_state=0))]


RULES = dict(constraints=["part <= hours", "ratio == debt / income"], transitions={"job": {"none": ["cook"]}},
             immutable=["hours"], bounds={"income": (0, 90)}, monotone={"school": "increase"})


@pytest.mark.parametrize("kind", [ScanExplainer, PLACEExplainer])
def test_a_pipeline_keeps_every_rule(loans, pipes, kind):
    X, y = loans
    for pipe in pipes if kind is ScanExplainer else pipes[:1]:
        explainer = PipelineExplainer(pipe, kind(training_budget=0.05, max_steps=15), random_state=0, **RULES).fit(X, y)
        cf = explainer.explain(X[:10])
        before, after = cf.to_frames()
        changed = (before != after).any(axis=1)
        assert (after["part"] <= after["hours"]).all() and (after["hours"] == before["hours"]).all()
        same = (after["debt"] == before["debt"]) & (after["income"] == before["income"])
        assert ((after["ratio"] == after["debt"] / after["income"]) | same).all()
        assert (after["ratio"] == before["ratio"])[same].all() and (after["school"] >= before["school"]).all()
        assert not ((before["job"] == "none") & (after["job"] == "clerk")).any()
        assert cf.valid.mean() > 0.9 and changed[cf.valid].all()
        assert (pipe.predict(after)[cf.valid] == cf.target[cf.valid]).all()
        names = list(cf.feature_names)
        assert (cf.costs[:, names.index("ratio")] == 0).all()  # it follows
        np.testing.assert_allclose(cf.cost, cf.to_frame()["cost"])


def test_the_total_of_what_is_asked_for_is_minimised(loans, pipes):
    X, y = loans
    explainer = PipelineExplainer(pipes[0], ScanExplainer(typical_quantile=None), random_state=0).fit(X, y)
    rows = X[pipes[0].predict(X) == "no"][:10]
    std = X.drop(columns="job").std(ddof=0)

    def price(cf, costs):
        before, after = cf.to_frames()
        total = np.zeros(len(cf))
        for name in X:
            moved = before[name] != after[name]
            given = costs.get(name, 1.0)
            if name == "job":
                steps = [costs.get(("job", a, b), given) for a, b in zip(before[name], after[name], strict=True)]
                total += np.where(moved, steps, 0.0)
            elif isinstance(given, tuple):
                total += given[0] * np.abs(after[name] - before[name])
            else:
                total += np.where(moved, given, 0) * np.abs(after[name] - before[name]) / std[name] if np.isfinite(
                    given) else np.where(moved, np.inf, 0)
        return total

    prices = [{"income": 0.5, "ratio": np.inf}, {"income": 10.0, "job": 0.1}, {"income": (0.001, "unit"), "debt": np.inf},
              {("job", "cook", "clerk"): np.inf, ("job", "none", "clerk"): 0.01, "ratio": 3.0}]
    found = [explainer.explain(rows, "yes", costs=costs) for costs in prices]
    for costs, cf in zip(prices, found, strict=True):
        assert cf.valid.mean() > 0.9
        np.testing.assert_allclose(cf.cost, price(cf, costs), rtol=1e-6, atol=1e-9)
        for other in found:  # none of the other answers is cheaper at these prices
            both = cf.valid & other.valid
            assert (cf.cost <= 1.05 * price(other, costs) + 0.02)[both].all()
    assert set(found[1].changes()["column"]) >= {"job"} and {"cost"} <= set(found[1].changes().columns)


def test_every_answer_has_its_price(loans, pipes):
    X, y = loans
    explainer = PipelineExplainer(pipes[1], ScanExplainer(typical_quantile=None), random_state=0,
                                  costs={"income": 2.0}).fit(X, y)
    rows = X[pipes[1].predict(X) == "no"][:4]
    one, cf = explainer.explain(rows, "yes"), explainer.explain(rows, "yes", k=3)
    before, after = cf.to_frames()
    np.testing.assert_array_equal(cf.costs > 0, (before != after).to_numpy())
    assert (cf.costs[cf.answer == 2] > 0).any() and set(cf.changes()["cost"]) == set(cf.costs[cf.costs > 0])
    np.testing.assert_array_equal(cf.costs[cf.answer == 0], one.costs)


def test_effects_follow_their_causes(loans, pipes):
    X, y = loans
    explainer = PipelineExplainer(pipes[0], ScanExplainer(), random_state=0, causes={"school": ["income"]},
                                  constraints=["ratio == debt / income"], costs={"income": np.inf, "school": 0.1}).fit(X, y)
    cf = explainer.explain(X[pipes[0].predict(X) == "no"][:12], "yes")
    before, after = cf.to_frames()
    moved = after["school"] != before["school"]
    slope = np.polyfit(X["school"], X["income"], 1)[0]
    assert moved.any() and ((after["income"] != before["income"]) == moved).all()
    np.testing.assert_allclose(after["income"] - before["income"], slope * (after["school"] - before["school"]), atol=0.006)
    np.testing.assert_array_equal(after["ratio"][moved], (after["debt"] / after["income"])[moved])


def test_rules_of_single_rows(loans, pipes):
    X, y = loans
    explainer = PipelineExplainer(pipes[0], ScanExplainer(), random_state=0).fit(X, y)
    rows = X[:6]
    cf = explainer.explain(rows, row_rules=lambda row: {"debt": "decrease", "school": (row["school"], row["school"] + 1),
                                                        **({"income": "fixed"} if row["job"] == "cook" else {})})
    before, after = cf.to_frames()
    cook = before["job"] == "cook"
    assert (after["debt"] <= before["debt"]).all() and (after["income"] == before["income"])[cook].all()
    assert ((after["school"] >= before["school"]) & (after["school"] <= before["school"] + 1)).all()
    table = pd.DataFrame({"job": ["fixed", None] * 3, "part": [(0, 10)] * 6})
    cf = explainer.explain(rows, row_rules=table)
    before, after = cf.to_frames()
    assert (after["job"] == before["job"])[::2].all() and (after["part"] <= np.maximum(before["part"], 10)).all()
    alone = explainer.explain(rows[4:5], row_rules=table[4:5])
    np.testing.assert_array_equal(alone.x_cf[0], cf.x_cf[4])
    for wrong in (lambda row: {"pay": "fixed"}, lambda row: {"debt": "down"}, table[:3]):
        with pytest.raises(ValueError, match="row_rules"):
            explainer.explain(rows, row_rules=wrong)
    with pytest.raises(TypeError, match="row_rules"):
        explainer.explain(rows, row_rules="fixed")


def test_arrays_and_files(loans, tmp_path):
    X, y = loans
    X = X.drop(columns="job")
    for values in (X, X.to_numpy(), X.to_numpy(dtype=np.float32)):
        names = list(X) if hasattr(values, "columns") else [f"x{i}" for i in range(6)]
        ratio, debt, income, part, hours = (
            names[list(X).index(name)] for name in ("ratio", "debt", "income", "part", "hours"))
        explainer = ScanExplainer(None, constraints=[f"{ratio} == {debt} / {income}", f"{part} <= {hours}"],
                                  monotone={0: "increase"}, costs={income: 2.0}, training_budget=0.2,
                                  random_state=0).fit(values, y)
        cf = explainer.explain(values[:10])
        out = pd.DataFrame(cf.x_cf, columns=names)
        before = pd.DataFrame(cf.x, columns=names)
        touched = (out[debt] != before[debt]) | (out[income] != before[income])
        assert (out[ratio] == out[debt] / out[income])[touched].all() and (out[part] <= out[hours]).all()
        assert (out[names[0]] >= before[names[0]]).all() and cf.valid.mean() > 0.9
    explainer.save(tmp_path / "rules")
    again = cfexplain.load(tmp_path / "rules")
    np.testing.assert_array_equal(again.explain(values[:10]).x_cf, cf.x_cf)
    cf.save(tmp_path / "result")
    np.testing.assert_array_equal(cfexplain.Counterfactuals.load(tmp_path / "result").costs, cf.costs)
    np.testing.assert_array_equal(cf[3:5].cost, cf.cost[3:5])


def test_bad_rules_are_told_before_anything_is_trained(loans, pipes):
    X, y = loans
    for wrong, message in [
            (dict(constraints=["part <= whole"]), "names the column 'whole'"),
            (dict(constraints=["part <= hours", "part >= hours + 1"]), "contradict"),
            (dict(constraints=["job <= hours"]), "columns of numbers"),
            (dict(constraints=["ratio == debt / income"], immutable=["ratio"]), "immutable names 'ratio'"),
            (dict(transitions={"job": {"clerk": ["boss"]}}), "none of its categories"),
            (dict(transitions={"debt": {"a": "b"}}), "holds numbers"),
            (dict(causes={"school": ["job"]}), "holds categories"), (dict(costs={"pay": 1}), "costs names"),
            (dict(constraints=["income >= 1e6"]), "contradict")]:
        with pytest.raises(ValueError, match=message):
            explain_pipeline(pipes[0], X[:3], "yes", X_train=X, y_train=y, **wrong)
    rows = X[:5].assign(part=[99, *X["part"][1:5]])
    explainer = PipelineExplainer(pipes[0], ScanExplainer(), random_state=0).fit(X, y)
    with pytest.warns(UserWarning, match=r"break rules as they come: 'part <= hours' \(1 of 5 rows\)"):
        cf = explainer.explain(rows, constraints=["part <= hours"])
    after = cf.to_frames()[1]
    assert after["part"].iloc[0] in (99, *range(int(after["hours"].iloc[0]) + 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        explainer.explain(X[:2], constraints=["part <= hours"])


def test_which_rule_keeps_rows_from_their_target_is_said(loans, pipes):
    X, y = loans
    explainer = PipelineExplainer(pipes[0], ScanExplainer(), random_state=0).fit(X, y)
    rows = X[pipes[0].predict(X) == "no"][:4]
    others = [name for name in X if name != "debt"]
    said = "no answer for .* within the rules. There would be one for .* without immutable for .income."
    with pytest.warns(UserWarning, match=said):
        cf = explainer.explain(rows, "yes", immutable=others, bounds={"debt": (1000, 1001)})
    assert not cf.valid.any() and cf.metadata["binding"]["immutable for 'income'"] >= 1
    assert "without immutable for 'income'" in cf.summary()
    values = X.drop(columns="job")
    plain = ScanExplainer(LogisticRegression(max_iter=2000).fit(values, y), random_state=0,
                          immutable=[name for name in values if name != "part"], bounds={"part": (0, 0)}).fit(values, y)
    with pytest.warns(UserWarning, match="within the rules"):
        cf = plain.explain(values[:10])
    assert not cf.valid.all()
