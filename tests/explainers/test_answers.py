"""Several answers for each row, and a limit of time: whatever the explainer, and however many rows come together."""

import time

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cfexplain import Counterfactuals, DiffeomorphicExplainer, PipelineExplainer, PLACEExplainer, ScanExplainer, load_results
from cfexplain.explainers.answers import found_together, repeated_answers

pytestmark = pytest.mark.usefixtures("quietly")
EVERY = ["image_explainer", "table_explainer", "leap_image_explainer", *(
    pytest.param(f"{name}_explainer", marks=pytest.mark.slow) for name in (
        "direction_table", "gradient_table", "flow_image", "revise_image", "clarity_table", "prototype_table"))]


def _rows(name, request, n=4):
    data = request.getfixturevalue("digits" if "image" in name else "table")
    return request.getfixturevalue(name), data[2][:n]


@pytest.mark.parametrize("name", EVERY)
def test_answers_are_counterfactuals_that_differ(name, request):
    explainer, x = _rows(name, request)
    one, cf = explainer.explain(x), explainer.explain(x, k=3)
    assert cf.k == 3 and len(cf) == 12 and cf.answer.tolist() == [0, 1, 2] * 4
    np.testing.assert_array_equal(cf.row, np.repeat(np.arange(4), 3))
    if found_together(explainer) and cf.is_image:  # the nearest of those that meet most comes first
        met, far = (cf.complete.astype(int) + cf.valid).reshape(4, 3), cf.by_row("distance")
        assert ((np.diff(met) < 0) | (np.diff(far) >= 0)).all()
    else:  # the others are looked for beside the only one
        np.testing.assert_array_equal(cf.by_row("x_cf")[:, 0], np.asarray(one))
    np.testing.assert_array_equal(cf.by_row("x"), np.repeat(x[:, None], 3, axis=1))
    # what counts is no repetition, by the array that is returned
    again = repeated_answers(cf.x, cf.x_cf, 3, cf.valid, 1.0 if cf.is_image else explainer.scale_)
    moved = cf.status != "already_target"
    assert not (again & cf.valid & moved).any()
    assert (cf.status[again & moved] == "repeated").all() and not cf.valid[cf.status == "repeated"].any()
    if "prototype" not in name:  # which draws all to one point
        assert cf[moved & (cf.answer > 0)].valid.mean() >= 0.6 * one.valid.mean()
    np.testing.assert_array_equal(explainer.predict(np.asarray(cf))[cf.valid], cf.target[cf.valid])


@pytest.mark.parametrize("name", ["image_explainer", "table_explainer"])
def test_a_row_has_the_same_answers_alone_in_company_in_any_order_and_by_many_processes(name, request):
    explainer, x = _rows(name, request, 4)
    cf = explainer.explain(x, k=3)
    order = np.random.RandomState(0).permutation(len(x))
    shuffled = explainer.explain(x[order], k=3, n_jobs=2 if "table" in name else None)
    for field in ("x_cf", "z_cf", "status", "n_steps"):
        np.testing.assert_array_equal(shuffled.by_row(field), cf.by_row(field)[order])
        np.testing.assert_array_equal(getattr(explainer.explain(x[3:4], k=3), field), getattr(cf.group(3), field))


def test_answers_of_images_meet_every_condition_and_point_elsewhere(image_explainer, digits):
    cf = image_explainer.explain(digits[2][:40], k=4)
    assert cf.valid.all() and cf.complete.mean() >= 0.95 and np.nanmean(cf.diversity) >= 0.65
    changes = cf.by_row(cf.z_cf - cf.z).astype(float)
    unit = changes / np.linalg.norm(changes, axis=2, keepdims=True)
    first, second = np.triu_indices(4, 1)
    likeness = np.abs((unit[:, first] * unit[:, second]).sum(2))
    np.testing.assert_allclose(cf.diversity, 1 - likeness.mean(1), atol=1e-6)
    assert "40 of 40 (100 %) rows have 4 valid ones" in cf.summary()


def test_answers_of_a_table_change_other_columns(table_explainer, table):
    cf = table_explainer.explain(table[2][:6], k=3)
    changed = cf.by_row(cf.x_cf != cf.x)
    few, counted = 0, cf.by_row("valid")
    for i in range(6):
        sets = [set(np.flatnonzero(row)) for row, valid in zip(changed[i], counted[i], strict=True) if valid]
        for j, other in enumerate(sets):
            assert not any(other >= before for before in sets[:j] if len(other) < changed.shape[2] // 2)
            few += len(other) < changed.shape[2] // 2
    assert few >= 12


def test_what_only_repeats_columns_is_no_answer(loans):
    _, pipe, X, y = loans
    explainer = PipelineExplainer(pipe, ScanExplainer(), immutable=["years"], random_state=0).fit(X, y)
    cf = explainer.explain(X[pipe.predict(X) == "no"][:12], "yes", k=4)  # of two columns there are not so many sets
    changed, counted = cf.by_row(cf.x_cf != cf.x), cf.by_row("valid")
    assert counted[:, 0].all() and (cf.status == "repeated").any()
    for row, valid in zip(changed, counted, strict=True):
        single = [tuple(one) for one, counts in zip(row, valid, strict=True) if counts and one.sum() == 1]
        assert len(set(single)) == len(single)


def test_no_answer_of_a_table_repeats_another_but_for_little(loans):
    _, pipe, X, y = loans
    explainer = PipelineExplainer(pipe, ScanExplainer(), random_state=0).fit(X, y)
    rows = X[pipe.predict(X) != "yes"][:10]
    cf, one = explainer.explain(rows, "yes", k=3), explainer.explain(rows, "yes")
    assert "repeated" not in cf.status
    np.testing.assert_array_equal(cf.x_cf[::3], one.x_cf)  # the first is the answer that a row gets alone


def test_groups_the_best_and_selections(image_explainer, digits):
    cf = image_explainer.explain(digits[2][:5], k=3)
    assert [len(group) for group in cf.groups()] == [3] * 5 and cf.group(4).row.tolist() == [4] * 3
    best = cf.best()
    assert best.row.tolist() == [0, 1, 2, 3, 4]
    for group, one in zip(cf.groups(), best, strict=True):
        allowed = group[group.complete] if group.complete.any() else group
        assert one.distance_x[0] == allowed.distance_x.min()
    some = cf[[7, 1, 6]]
    assert some.group(2).answer.tolist() == [0, 1] and some.best().row.tolist() == [0, 2]
    with pytest.raises(ValueError, match="from 1 to 2 answers"):
        some.by_row("x")
    with pytest.raises(IndexError, match="no answer for row 3"):
        some.group(3)
    one = image_explainer.explain(digits[2][:2])
    assert one.row is None and one.best() is one and len(one.group(1)) == 1 and one.by_row("x_cf").shape == (2, 1, 8, 8)


def test_answers_in_files_frames_reports_and_plots(image_explainer, digits, tmp_path):
    from matplotlib.figure import Figure

    cf = image_explainer.explain(digits[2][:3], k=2, record_path=True)
    cf.save(tmp_path / "cf.safetensors")
    again = Counterfactuals.load(tmp_path / "cf.safetensors")
    assert again.k == 2 and [len(path) for path in again.path] == (cf.n_steps + 1).tolist()
    np.testing.assert_array_equal(again.row, cf.row)
    assert cf.to_frame()[["row", "answer"]].to_numpy().tolist() == [[i, j] for i in range(3) for j in range(2)]
    cf.to_html(tmp_path / "cf.html", explainer=image_explainer)
    assert "answer 2 for row 1 of X" in (tmp_path / "cf.html").read_text()
    assert cf.plot_answers(figure=Figure()).axes_.shape == (3, 3)
    joined = Counterfactuals.concatenate([cf[:2], cf[2:]])
    np.testing.assert_array_equal(joined.row, cf.row)


def test_stores_count_rows_of_x(image_explainer, digits, tmp_path):
    x = digits[2][:5]
    whole, store = image_explainer.explain(x, k=2), image_explainer.explain_to(tmp_path / "store", x, k=2, block_size=2)
    assert len(store) == 10 and len(load_results(tmp_path / "store").concatenate()) == 10
    np.testing.assert_array_equal(np.asarray(store), whole.x_cf)
    np.testing.assert_array_equal(store.concatenate().row, whole.row)
    blocks = list(image_explainer.explain_iter(iter(x), k=2, block_size=2))
    assert np.concatenate([block.row for block in blocks]).tolist() == whole.row.tolist()


@pytest.fixture(scope="module")
def loans():
    rng = np.random.RandomState(0)
    X = pd.DataFrame({"income": rng.normal(50, 15, 400).round(1), "debt": rng.normal(20, 8, 400).round(1),
                      "years": rng.randint(0, 30, 400)})
    y = np.where(X["income"] - X["debt"] + 0.5 * X["years"] > 38, "yes", "no")
    pipe = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    return PipelineExplainer(pipe, PLACEExplainer(training_budget=0.1, random_state=0)).fit(X, y), pipe, X, y


def test_a_pipeline_has_several_answers_in_its_own_units(loans):
    explainer, pipe, X, y = loans
    x = X[pipe.predict(X) == "no"][:6]
    cf = explainer.explain(x, "yes", k=3)
    before, after = cf.to_frames()
    assert (pipe.predict(after)[cf.valid] == "yes").all() and cf[cf.answer == 0].valid.all()
    pd.testing.assert_frame_equal(before.iloc[::3], x)
    np.testing.assert_array_equal(cf.by_row("x_cf")[:, 0], explainer.explain(x, "yes").x_cf)
    assert len({tuple(row) for row in (cf.by_row(cf.x_cf != cf.x)[0]).tolist()}) >= 2


@pytest.mark.slow
def test_more_answers_than_there_are_say_so():
    X = np.random.RandomState(0).rand(200, 1)
    explainer = DiffeomorphicExplainer(task="regression", generator="identity", training_budget=0.1, random_state=0)
    cf = explainer.fit(X, 3 * X[:, 0]).explain(X[:3], 2.9, k=3)
    assert (cf.by_row("status")[:, 1:] == "repeated").any() and not cf.valid[cf.status == "repeated"].any()
    assert "only repeat" in cf.summary()


@pytest.mark.parametrize("given", [{"k": 0}, {"k": 1.5}, {"k": "2"}, {"time_limit": 0}, {"time_limit": -1.0},
                                   {"time_limit": np.inf}])
def test_what_is_no_number_of_answers_or_seconds(given, image_explainer, digits):
    with pytest.raises((ValueError, TypeError), match=next(iter(given))):
        image_explainer.explain(digits[2][:2], **given)


# ------------------------------------------------------------------------------------------------------------- time
def test_a_limit_of_time_is_kept_and_rows_say_that_it_came(image_explainer, digits):
    x = np.concatenate([digits[2]] * 8)
    image_explainer.explain(x[:4])
    cf = image_explainer.explain(x, time_limit=1.0)
    late = cf.status == "time_limit"
    assert len(cf) == len(x) and late.any()
    begun = late & (cf.n_steps > 0)
    untouched = late & np.isnan(cf.z_cf).any(1)
    assert begun.any() or (~late).any()
    np.testing.assert_array_equal(cf.x_cf[untouched], x[untouched])
    assert not cf.valid[untouched].any() and (cf.proba_after[untouched] == cf.proba_before[untouched]).all()
    done = cf[~late][:3]
    if len(done):
        np.testing.assert_array_equal(np.asarray(image_explainer.explain(done.x)), done.x_cf)
    assert "not finished within time_limit" in cf.summary()


@pytest.mark.slow
def test_a_limit_that_is_wide_changes_nothing(table_explainer, image_explainer, table, digits):
    for explainer, x in ((table_explainer, table[2][:2]), (image_explainer, digits[2][:10])):
        free, limited = explainer.explain(x, k=2), explainer.explain(x, k=2, time_limit=600)
        np.testing.assert_array_equal(limited.x_cf, free.x_cf)
        np.testing.assert_array_equal(limited.status, free.status)


def test_a_store_goes_on_after_a_limit_of_time(image_explainer, digits, tmp_path):
    x = np.concatenate([digits[2]] * 3)[:600]
    with pytest.warns(UserWarning, match="time limit was over"):
        part = image_explainer.explain_to(tmp_path / "store", x, time_limit=0.4, block_size=64)
    assert len(part) < len(x) and not part.complete
    assert not (part.concatenate().status == "time_limit").any() if len(part) else True


def test_a_pipeline_stops_in_the_middle_of_its_repairs(loans):
    explainer, _, X, _ = loans
    cf = explainer.explain(pd.concat([X] * 10), time_limit=1.0)
    assert (cf.status == "time_limit").any()


class Slow(LogisticRegression):
    """Takes a millisecond a row, and notes how many it is asked about at once."""

    asked: list[int] = []

    def predict_proba(self, X):
        self.asked.append(len(X))
        time.sleep(1e-3 * len(X))
        return super().predict_proba(X)


def test_a_slow_model_is_asked_in_parts_where_time_is_limited(loans):
    _, _, X, y = loans
    pipe = make_pipeline(StandardScaler(), Slow()).fit(X, y)
    explainer = PipelineExplainer(pipe, ScanExplainer(), random_state=0).fit(X, y)
    x = X[pipe.predict(X) == "no"][:2]
    free, Slow.asked = explainer.explain(x, "yes"), []
    limited = explainer.explain(x, "yes", time_limit=600)
    np.testing.assert_array_equal(limited.x_cf, free.x_cf)
    np.testing.assert_array_equal(limited.status, free.status)
    Slow.asked = []
    cf = explainer.explain(pd.concat([X[pipe.predict(X) == "no"]] * 2)[:60], "yes", time_limit=0.8)
    assert (cf.status == "time_limit").any()
    assert max(Slow.asked) <= 400  # half of the time, at a millisecond a row


# ------------------------------------------------------------------------------------------------------------- plans
def test_a_plan_says_what_the_model_says_of_the_row_half_way(loans, tmp_path):
    explainer, pipe, X, _ = loans
    x = X[pipe.predict(X) == "no"][:8]
    cf = explainer.explain(x, "yes", k=2)
    cf.save(tmp_path / "cf.safetensors")
    again = Counterfactuals.load(tmp_path / "cf.safetensors")
    before, after = cf.to_frames()
    several = 0
    for i in range(len(cf)):
        for plan in (cf.plan(i), again[i].plan(0), explainer.plan(cf, i, order="effective")):
            row = before.iloc[[i]].astype(float)
            assert {step.column for step in plan.steps} == set(X.columns[(before.iloc[i] != after.iloc[i]).to_numpy()])
            assert plan.start == pytest.approx(cf.proba_before[i], abs=1e-6)
            for step in plan.steps:
                row[step.column] = float(after.iloc[i][step.column])
                assert step.said == pytest.approx(pipe.predict_proba(row)[0, 1], abs=1e-6)
            several += len(plan) > 1
        costs = np.abs(cf.x_cf - cf.x)[i] / cf.metadata["feature_scale"]
        assert (np.diff([costs[X.columns.get_loc(step.column)] for step in cf.plan(i).steps]) >= -1e-6).all()
    assert several and f"1. {cf.plan(0).steps[0].column}" in str(cf.plan(0))
    cf.to_html(tmp_path / "cf.html")
    assert "Step by step" in (tmp_path / "cf.html").read_text()


def test_the_most_effective_change_comes_first(table_explainer, table):
    cf = table_explainer.explain(table[2][:6])
    plan = table_explainer.plan(cf, 0, order="effective")
    alone = []
    for column in np.flatnonzero(cf.x_cf[0] != cf.x[0]):
        row = cf.x[:1].copy()
        row[0, column] = cf.x_cf[0, column]
        alone.append(table_explainer.predict_proba(row)[0, list(table_explainer.classes_).index(cf.target[0])])
    assert plan.steps[0].said == pytest.approx(max(alone), abs=1e-5)
    assert plan.steps[-1].said == pytest.approx(cf.proba_after[0], abs=1e-5)


def test_what_has_no_plan_says_so(image_explainer, digits, table_explainer, table):
    cf = image_explainer.explain(digits[2][:1])
    with pytest.raises(ValueError, match="no plan"):
        cf.plan(0)
    with pytest.raises(ValueError, match="explains images"):
        image_explainer.plan(cf, 0)
    with pytest.raises(ValueError, match="order="):
        table_explainer.plan(table_explainer.explain(table[2][:1]), 0, order="dearest")
