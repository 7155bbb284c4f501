"""Draws, intervals and pairs against NumPy and SciPy."""

import warnings

import matplotlib
import numpy as np
import pytest
from results import made
from scipy import stats

from cfexplain import Evaluation, evaluate
from cfexplain.evaluation.bootstrap import Resampling
from cfexplain.evaluation.words import verdicts

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


def pair_of_results(n=40, seed=0):
    """Two results on the same rows, whose values are all known."""
    one, other = made(n, seed=seed), made(n, seed=seed + 1)
    other.x, other.source, other.target, other.z = one.x, one.source, one.target, one.z
    return {"a": one, "b": other}


def test_intervals_are_quantiles_of_means_of_drawn_rows():
    values = np.random.default_rng(1).normal(size=(30, 2))
    values[3, 0] = np.nan
    draws = np.random.default_rng(7).integers(0, 30, (200, 30))
    means = np.stack([np.nanmean(values[rows], axis=0) for rows in draws])
    sampling = Resampling(30, 200, 0.9, 7)
    np.testing.assert_allclose(sampling.means(values), means)
    np.testing.assert_allclose(sampling.intervals(values), np.quantile(means, (0.05, 0.95), axis=0).T)


def test_blocks_of_draws_change_nothing(monkeypatch):
    values = np.random.default_rng(1).normal(size=(30, 2))
    whole = Resampling(30, 100, 0.9, 7).means(values)
    monkeypatch.setattr("cfexplain.evaluation.bootstrap._BLOCK", 200)
    np.testing.assert_allclose(Resampling(30, 100, 0.9, 7).means(values), whole)


def test_pairs_are_those_of_scipy():
    results = pair_of_results()
    report = Evaluation(results, n_bootstrap=4000)
    pair = {p.metric: p for p in report.pairs("a", "b")}["reconstruction_error"]
    difference = results["a"].reconstruction_error - results["b"].reconstruction_error
    assert (pair.a, pair.b, pair.n, pair.missing) == ("a", "b", 40, 0)
    assert pair.difference == pytest.approx(difference.mean())
    assert pair.share_better == (difference < 0).mean() and pair.share_equal == 0  # less is better
    assert pair.p_value == pytest.approx(stats.wilcoxon(difference).pvalue)
    other = stats.bootstrap((difference,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    assert abs(pair.low - other.low) < 0.1 * (other.high - other.low) > abs(pair.high - other.high)
    back = {p.metric: p for p in report.pairs("b", "a")}["reconstruction_error"]
    np.testing.assert_allclose((back.difference, back.low, back.high), (-pair.difference, -pair.high, -pair.low), rtol=1e-9)


def test_pairing_sees_what_the_intervals_of_the_means_do_not():
    results = pair_of_results()
    results["b"].reconstruction_error = results["a"].reconstruction_error + 0.01  # far less than the rows differ
    report = Evaluation(results, metrics=["reconstruction_error"])
    a, b = (report.table[name]["reconstruction_error"] for name in "ab")
    assert a.high > b.low  # the intervals overlap
    [pair] = report.pairs()
    assert pair.better == "a" and pair.high < 0 and pair.share_better == 1
    assert verdicts(report) == {"reconstruction_error": ("a", [])}
    assert "a is best on reconstruction_error" in report.summary() and "Not distinguishable" not in report.summary()


def test_no_winner_among_equals():
    results = pair_of_results()
    results["b"] = results["a"]
    report = Evaluation(results)
    assert all(pair.better == "" and pair.difference == 0 and pair.p_value == 1 and pair.share_equal == 1
               for pair in report.pairs())
    assert "best on" not in report.summary() and "Not distinguishable" in report.summary()
    assert "**" not in report.to_markdown()
