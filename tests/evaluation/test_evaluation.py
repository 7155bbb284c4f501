"""Tables say what the arrays hold: numbers against NumPy and SciPy, and nothing that failed goes unseen."""

import warnings

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from results import made, same
from scipy import stats
from sklearn.exceptions import NotFittedError

from cfexplain import Evaluation, GradientExplainer, Metric, evaluate
from cfexplain.evaluation import BUILT_IN
from cfexplain.plotting import EvaluationDisplay
from cfexplain.plotting.evaluation import radius

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def closed_and_unchanged():
    before, state = dict(matplotlib.rcParams), np.random.get_state()[1].copy()
    yield
    plt.close("all")
    assert dict(matplotlib.rcParams) == before
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.fixture(scope="module")
def methods(table_explainer, gradient_table_explainer):
    return {"PLACE": table_explainer, "gradient": gradient_table_explainer}


@pytest.fixture(scope="module")
def report(methods, table):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return evaluate(methods, table[2][:20], y=table[3][:20])


def test_different_models_are_said_to_be_different():
    one, other = pair_of_results().values()
    one.source = other.source = one.prediction = other.prediction = np.full(40, 4)
    one.target = other.target = np.full(40, 9)
    notes = Evaluation({"a": one, "b": other}, metrics=["l2"]).summary()
    assert "b explains another model than a" in notes and "classifier=" in notes
    assert f"differ by up to {np.abs(one.proba_before - other.proba_before).max():.3g}" in notes
    other.proba_before = one.proba_before + 1e-5
    assert "another model" not in Evaluation({"a": one, "b": other}, metrics=["l2"]).summary()
    for cf in (one, other):
        cf.metadata["task"] = "regression"
    one.source, other.source = np.linspace(0, 1, 40), np.linspace(0, 1.1, 40)
    assert "values that differ by up to 0.1." in Evaluation({"a": one, "b": other}, metrics=["l2"]).summary()


def pair_of_results(n=40, seed=0):
    """Two results on the same rows, whose values are all known."""
    one, other = made(n, seed=seed), made(n, seed=seed + 1)
    other.x, other.source, other.target, other.z = one.x, one.source, one.target, one.z
    return {"a": one, "b": other}


def test_built_in_metrics_are_what_they_say(report, methods, table):
    for name, cf in report.results.items():
        again = methods[name].explain(table[2][:20])
        again.metadata["seconds"] = cf.metadata["seconds"]
        same(cf, again)
        change = again.x_cf.astype(float) - again.x
        expected = {
            "validity": again.prediction == again.target, "complete": again.complete,
            "confidence_gain": again.proba_after.astype(float) - again.proba_before,
            "l1": np.abs(change).sum(1), "l2": np.sqrt((change**2).sum(1)), "linf": np.abs(change).max(1),
            "l2_z": again.distance, "log_density": again.log_density, "density_percentile": again.density_percentile,
            "reconstruction_error": again.reconstruction_error, "steps": again.n_steps}
        for metric, values in expected.items():
            np.testing.assert_allclose(report.values[name, metric], values, rtol=1e-12, atol=0, err_msg=metric)
        np.testing.assert_array_equal(report.values[name, "columns_changed"], (np.abs(change) > 1e-6).sum(1))
        assert report.values[name, "seconds_per_row"] == cf.metadata["seconds"] / 20
    np.testing.assert_array_equal(report.values["PLACE", "second_opinion"], report.results["PLACE"].second_opinion)
    assert report.values["gradient", "second_opinion"] is None
    assert set(report.metrics) == set(BUILT_IN) - {"sharpness", "shade_kept", "specks", "grey"}  # of images
    best_near_one = {"spread", "sharpness"}
    assert all(metric.description and (metric.better == "none") == (name in best_near_one)
               for name, metric in BUILT_IN.items())


def test_statistics_are_those_of_numpy_and_scipy():
    results = pair_of_results()
    report = Evaluation(results, n_bootstrap=4000)
    for method, cf in results.items():
        entry = report.table[method]["log_density"]
        assert entry.mean == pytest.approx(cf.log_density.mean()) and entry.std == pytest.approx(cf.log_density.std(ddof=1))
        other = stats.bootstrap((cf.log_density,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
        spread = other.high - other.low
        assert abs(entry.low - other.low) < 0.1 * spread and abs(entry.high - other.high) < 0.1 * spread
        assert entry.n == 40 and entry.missing == 0


def test_the_seed_decides():
    results = pair_of_results()
    tables = [Evaluation(results, random_state=seed, n_bootstrap=100).table for seed in (3, 3, 4)]
    assert tables[0] == tables[1] or all(
        str(tables[0][m][k]) == str(tables[1][m][k]) for m in tables[0] for k in tables[0][m])
    assert tables[0]["a"]["l2"] != tables[2]["a"]["l2"]


def test_compare_is_a_frame_of_all_pairs(report):
    results = {**report.results, "again": report.results["PLACE"]}
    frame = Evaluation(results, metrics=["l2", "steps"]).compare()
    assert set(zip(frame.a, frame.b, strict=True)) == {("PLACE", "gradient"), ("PLACE", "again"), ("gradient", "again")}
    assert len(frame) == 6 and list(report.compare("gradient", "PLACE").a.unique()) == ["gradient"]
    for wrong in (("PLACE", "nobody"), ("PLACE", "PLACE"), ("PLACE", None)):
        with pytest.raises(ValueError, match="two different methods"):
            report.compare(*wrong)


def test_what_each_method_measures_by_itself_is_not_compared(report):
    apart = {name for name, same in report.comparable.items() if not same}
    assert apart == {
        "complete", "l2_z", "log_density", "density_percentile", "reconstruction_error", "second_opinion"}
    assert not any(pair.better for pair in report.pairs() if pair.metric in apart)
    assert "Not compared" in report.summary() and "(own measure)" in report.to_markdown()


def test_the_same_explainer_measures_the_same(table_explainer, table, quietly):
    both = {"few": table_explainer.explain(table[2][:5]), "again": table_explainer.explain(table[2][:5])}
    assert all(Evaluation(both, dict.fromkeys(both, table_explainer)).comparable.values())


def test_failed_metrics_and_missing_rows_are_shown():
    def broken(cf, explainer):
        if cf is results["b"]:
            raise RuntimeError("no such <network>")
        return cf.distance

    results = pair_of_results(10)
    results["a"].log_density[[2, 5]] = np.nan
    results["b"].log_density[[5, 6, 7]] = -np.inf
    metrics = {"density": Metric("", lambda cf, _: cf.log_density, "up"), "broken": broken, "short": lambda cf, _: [1, 2]}
    with pytest.warns(RuntimeWarning) as caught:
        report = Evaluation(results, metrics=metrics)
    assert len(caught) == 3 and set(report.failures) == {("b", "broken"), ("a", "short"), ("b", "short")}
    assert report.failures["b", "broken"] == "RuntimeError: no such <network>"
    assert "expected (10,)" in report.failures["a", "short"]
    assert [report.table[m]["density"].missing for m in "ab"] == [2, 3]
    assert report.table["a"]["density"].mean == pytest.approx(np.nanmean(results["a"].log_density))
    [pair] = report.pairs()
    kept = np.setdiff1d(np.arange(10), [2, 5, 6, 7])
    assert (pair.n, pair.missing) == (6, 4)
    assert pair.difference == pytest.approx((results["a"].log_density - results["b"].log_density)[kept].mean())
    frame = report.to_frame()
    assert frame.loc["b", ("broken", "missing")] == 10 and np.isnan(frame.loc["b", ("broken", "mean")])
    for text in (report.summary(), report.to_markdown(), report._repr_html_()):
        assert "no such" in text and "a 2, b 3" in text
    assert "no such <network>" not in report._repr_html_() and "| failed |" in report.to_markdown()
    assert repr(report) == "<Evaluation: 2 methods on 10 rows, 3 metrics, 3 failed>"
    drawn = report.plot().ax_[list(report.metrics).index("broken")]
    assert "failed" in [text.get_text() for text in drawn.texts]


def test_a_metric_without_any_value():
    results = pair_of_results(5)
    for cf in results.values():
        cf.log_density[:] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = Evaluation(results)
        [pair] = [pair for pair in report.pairs() if pair.metric == "log_density"]
        report.plot().figure_.canvas.draw()
    assert pair.n == 0 and pair.missing == 5 and pair.better == ""
    assert report.table["a"]["log_density"].missing == 5 and "5 missing" in report.to_markdown()


def test_only_valid_rows_count_where_the_heading_says_so():
    results = pair_of_results(20)
    of_valid = Metric("near", lambda cf, _: cf.distance, "down", "of z", only_valid=True)
    report = Evaluation(results, metrics=[of_valid, "l2_z"])
    for name, cf in results.items():
        entry = report.table[name]["near"]
        assert entry.n == cf.valid.sum() < 20 and entry.missing == 0
        assert entry.mean == pytest.approx(cf.distance[cf.valid].mean())
        assert report.table[name]["l2_z"].mean == pytest.approx(cf.distance.mean())
    both = results["a"].valid & results["b"].valid
    assert report.pairs()[0].n == both.sum() and report.pairs()[0].missing == (~both).sum()
    assert "near (of z, valid rows only) ↓" in report.to_markdown()


def test_statuses_and_wrong_labels_are_counted(report, table):
    for name, cf in report.results.items():
        assert report.statuses[name] == {s: (cf.status == s).sum() for s in report.statuses[name]}
        assert sum(report.statuses[name].values()) == 20
        assert report.misclassified[name] == (cf.source != table[3][:20]).sum()
    flipped = np.where(table[3][:20] == "benign", "malignant", "benign")
    wrong = Evaluation(report.results, y=flipped, metrics=["l2"])
    assert wrong.misclassified["PLACE"] == 20 - report.misclassified["PLACE"] > 0
    assert "wrong" in wrong.summary() and wrong.table["PLACE"]["l2"].n == 20
    assert wrong.rows["misclassified"].sum() == sum(wrong.misclassified.values())


def test_one_row_and_values_of_a_whole_set():
    report = Evaluation({"a": made(1)}, metrics={"fid": lambda cf, _: 12.5, "l2": lambda cf, _: cf.distance_x})
    assert report.table["a"]["fid"].mean == 12.5 and np.isnan(report.table["a"]["fid"].low)
    assert np.isnan(report.table["a"]["l2"].std) and report.pairs() == [] and "fid" not in report.rows
    assert "| fid | 12.5 |" in report.to_markdown()


def test_frames_hold_the_table_and_the_rows(report):
    frame, rows = report.to_frame(), report.to_frame(rows=True)
    assert list(frame.index) == list(report.results) and isinstance(frame.columns, pd.MultiIndex)
    assert frame.loc["PLACE", ("l2", "mean")] == report.table["PLACE"]["l2"].mean
    assert frame.loc["gradient", ("rows", "n")] == 20 and ("rows", "misclassified") in frame
    assert len(rows) == 40
    np.testing.assert_allclose(rows.groupby("method").l1.mean()["PLACE"], frame.loc["PLACE", ("l1", "mean")])


def test_pages_escape_what_users_wrote(tmp_path):
    results = pair_of_results(8)
    report = Evaluation({"<b>|x|": results["a"], "ok": results["b"]}, metrics=["l2", "validity"])
    report.to_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<b>" not in page and "&lt;b&gt;" in page
    lines = [line for line in report.to_markdown().splitlines() if line.startswith("|")]
    assert len(lines) == 4 and len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_files_come_back_whole(report, tmp_path):
    path = tmp_path / "evaluation.safetensors"
    report.save(path)
    again = Evaluation.load(path)
    for name in report.results:
        same(report.results[name], again.results[name])
    assert again.to_markdown() == report.to_markdown() and again.summary() == report.summary()
    pd.testing.assert_frame_equal(again.to_frame(), report.to_frame())
    pd.testing.assert_frame_equal(again.to_frame(rows=True), report.to_frame(rows=True))
    pd.testing.assert_frame_equal(again.compare(), report.compare())
    report.results["PLACE"].save(path)
    with pytest.raises(ValueError, match="expected 'evaluation'"):
        Evaluation.load(path)


def test_one_explainer_and_metrics_of_ones_own(table_explainer, table):
    seen = []
    report = evaluate(table_explainer, table[2][:3], "benign", metrics=[
        "steps", Metric("seen", lambda cf, explainer: seen.append(explainer) or cf.distance)])
    assert list(report.results) == ["PLACEExplainer"] and seen == [table_explainer]
    assert (report.results["PLACEExplainer"].target == "benign").all() and list(report.metrics) == ["steps", "seen"]


def test_several_answers_a_row_count_as_rows(table_explainer, table, quietly):
    found = evaluate(table_explainer, table[2][:4], y=table[3][:4], k=2, metrics=["validity"])
    (cf,) = found.results.values()
    assert cf.k == 2 and len(cf) == 8 and next(iter(found.table.values()))["validity"].n == 8


def test_bad_input_is_told_from_good(methods, table):
    X, y = table[2][:4], table[3][:4]
    narrow = GradientExplainer(training_budget=0.01, random_state=0).fit(table[0][:, :5], table[1])
    for metrics, message in (
            (["l3"], "'l3' is not known.*log_density"), ([], "at least one"), (["l2", "l2"], "another name")):
        with pytest.raises(ValueError, match=message):
            evaluate(methods, X, metrics=metrics)
    with pytest.raises(TypeError, match="must be a function"):
        evaluate(methods, X, metrics={"l2": 3})
    with pytest.raises(ValueError, match="empty"):
        evaluate({}, X)
    with pytest.raises(NotFittedError):
        evaluate({**methods, "new": GradientExplainer()}, X)
    with pytest.raises(TypeError, match="'net' is a Linear"):
        import torch
        evaluate({"net": torch.nn.Linear(2, 2)}, X)
    with pytest.raises(ValueError, match="different shapes.*10.*5"):
        evaluate({**methods, "narrow": narrow}, X)
    results = {name: explainer.explain(X) for name, explainer in methods.items()}
    for options, message in (({"y": y[:2]}, r"expected \(4,\)"), ({"y": [3, 4, 5, 6]}, "No label of y"),
                             ({"confidence_level": 95}, "between 0 and 1"), ({"n_bootstrap": 0}, "a whole number from 1")):
        with pytest.raises(ValueError, match=message):
            Evaluation(results, **options)
    with pytest.raises(ValueError, match="other rows"):
        Evaluation({"a": results["PLACE"], "b": results["gradient"][::-1]})
    with pytest.raises(ValueError, match="no rows"):
        Evaluation({"a": results["PLACE"][:0]})
    with pytest.raises(ValueError, match="better='higher'"):
        Metric("m", len, "higher")


def test_bars_are_the_means_and_their_intervals(report):
    display = report.plot()
    assert isinstance(display, EvaluationDisplay) and len(display.ax_) == len(report.metrics)
    for ax, name in zip(display.ax_, report.metrics, strict=True):
        entries = [report.table[m][name] for m in report.results if not np.isnan(report.table[m][name].mean)]
        start = ax.patches[0].get_x() if ax.get_xscale() == "log" else -np.inf  # where bars begin
        np.testing.assert_allclose([bar.get_width() + max(start, 0) for bar in ax.patches],
                                   [max(entry.mean, start) for entry in entries])
        ends = [line.get_xdata() for line in ax.lines]
        known = [[max(e.low, start), e.high] for e in entries if not np.isnan(e.low)]
        np.testing.assert_allclose(ends, known or np.zeros((0,)))
    display.figure_.canvas.draw()


def test_a_radar_has_a_spoke_a_metric_and_better_is_outwards():
    results = pair_of_results()
    results["b"].reconstruction_error = results["a"].reconstruction_error + 1
    report = Evaluation(results)
    display = report.plot("radar")
    names = display.metrics
    assert all(report.comparable[name] for name in names if name != "density_percentile")
    assert len(display.ax_.get_xticks()) == len(names) and "density_percentile" in names
    for name, label in zip(names, display.ax_.get_xticklabels(), strict=True):  # named for what is good
        assert label.get_text().startswith("low ") == (report.metrics[name].better == "down")
    reach, inner, outer = radius(report, "reconstruction_error")
    assert reach[0] > reach[1] and inner > outer
    k = names.index("reconstruction_error")
    np.testing.assert_allclose([line.get_ydata()[k] for line in display.ax_.lines], reach)
    reach, inner, outer = radius(report, "validity")
    np.testing.assert_allclose(reach, [cf.valid.mean() for cf in results.values()])
    display.figure_.canvas.draw()


def test_bars_are_readable_beside_much_longer_ones():
    results = pair_of_results()
    results["a"].n_steps[:], results["b"].n_steps[:] = 12, 1401
    display = Evaluation(results).plot(metrics=["steps", "validity"])
    short, long = (bar.get_window_extent().width for bar in display.ax_[0].patches)
    assert display.ax_[0].get_xscale() == "log" and short > long / 10
    assert display.ax_[1].get_xscale() == "linear" and {"12", "1401"} <= {text.get_text() for text in display.ax_[0].texts}
    assert "more is better" in display.figure_.get_supxlabel() and "95 % interval" in display.figure_.get_supxlabel()


def test_complete_counts_as_the_summary_does():
    """Rows that were the target already were not searched, and miss no condition."""
    results = pair_of_results()
    for cf in results.values():
        cf.status[:], cf.valid[:] = "converged", True
        cf.status[0], cf.conditions = "already_target", {"density": np.arange(len(cf)) > 0}
    entry = Evaluation(results, metrics=["complete"]).table["a"]["complete"]
    assert entry.mean == 1 and entry.missing == 1


def test_bars_of_a_bounded_metric_are_never_logarithmic():
    results = pair_of_results()
    results["a"].density_percentile[:], results["b"].density_percentile[:] = 1.0, 60.0
    axes = Evaluation(results).plot(metrics=["density_percentile"]).ax_[0]
    assert axes.get_xscale() == "linear" and axes.get_xlim() == (0, 102) and "plausibility" in axes.get_title(loc="left")


def test_pictures_go_where_they_are_told(report):
    figure, axes = plt.subplots(1, 2, layout="constrained", figsize=(12, 6))
    assert report.plot("radar", metrics=["validity", "l2", "steps"], ax=axes[1]).figure_ is figure and not axes[1].axison
    own = Figure()
    assert report.plot(metrics=["l2"], figure=own).figure_ is own and len(own.axes) == 1
    for call, message in (
            (lambda: report.plot("pie"), "kind='pie'"), (lambda: report.plot("radar", metrics=["l2"]), "at least 3"),
            (lambda: report.plot(metrics=["l3"]), "cannot be drawn"),
            (lambda: report.plot(ax=axes[0], figure=own), "not both")):
        with pytest.raises(ValueError, match=message):
            call()
