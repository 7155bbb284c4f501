"""Words say what the arrays hold."""


import numpy as np
import pytest
from results import made


def told(status, target=9, meets=None, **options):
    """A result of digits with these statuses, one letter a row."""
    status = np.array([{"c": "converged", "b": "step_budget", "a": "already_target", "n": "not_found",
                        "f": "model_failed"}[s] for s in status])
    cf = made(len(status), "grey", optional=False, **options)
    cf.reconstruction_error = cf.distance_x / 10
    cf.status, cf.valid = status, ~np.isin(status, ["not_found", "model_failed"])
    cf.proba_before[status == "model_failed"] = cf.proba_after[status == "model_failed"] = np.nan
    cf.source, cf.target = np.full(len(status), 4), np.full(len(status), target)
    cf.prediction = np.where(cf.valid, cf.target, cf.source)
    meets = (status == "converged") if meets is None else np.array(meets)
    cf.conditions = {"decision": cf.valid, "density": meets}
    return cf


def test_the_summary_counts_what_the_arrays_hold():
    cf = told("c" * 84 + "b" * 9 + "n" * 3 + "a" * 4)
    words, searched = cf.summary(), cf.status != "already_target"
    assert "100 rows explained by PLACEExplainer; target 9." in words
    assert "4 of 100 rows had the target before" in words
    assert "Valid: 93 of 96 (96 %)" in words and "Every condition met: 84 of 96 (87 %)" in words
    assert "converged 84, step_budget 9, not_found 3" in words
    assert "9 of 96 rows ran out of steps before every condition held: raise max_steps." in words
    assert "3 of 96 rows did not reach the target" in words
    assert f"Steps: median {np.median(cf.n_steps[searched]):g}," in words
    percentile = sorted(cf.density_percentile[searched])
    assert f"percentile {int((percentile[47] + percentile[48]) / 2)}, where 50 is as typical as the median real 9" in words
    assert f"median {np.median(cf.distance[searched]):.3g} in latent space" in words


def test_rows_without_an_answer_are_counted_and_in_no_median():
    words = told("cccf").summary()
    assert "Valid: 3 of 4 (75 %)" in words and "converged 3, model_failed 1" in words
    assert "for 1 of 4 (25 %) the classifier gives NaN or infinity" in words and "nan" not in words
    assert "the classifier has no answer for 1 of 4 rows" in words
    assert "nan" not in told("ff").summary() and "nothing was searched" in told("f").summary()
    cf = told("f")
    cf.proba_before[:] = 0.1
    assert "for the best effort, which is no counterfactual (target 9)" in cf.summary()


def test_the_summary_never_rounds_up_to_all():
    assert "Valid: 999 of 1000 (99 %)" in told("c" * 999 + "n").summary()
    perfect = told("c" * 10).summary()
    assert "Valid: 10 of 10 (100 %)" in perfect and "\n- " not in perfect


@pytest.mark.parametrize("counts", [[500, 40], {"4": 500, "9": 40}])
def test_the_summary_says_when_data_are_few_for_a_target(counts):
    facts = {"classes": [4, 9], "class_counts": counts, "n_train": 540}
    assert "data are few for the target 9: 40 of the 540 training rows" in told("c" * 9 + "b", **facts).summary()
    assert "few" not in told("c" * 9 + "b", target=4, **facts).summary()
    assert "few" not in told("c" * 99 + "b", **facts).summary()


def test_the_summary_keeps_the_surrogate_apart():
    cf = told("c" * 6 + "n" * 4)
    cf.surrogate_valid = np.arange(10) < 8
    words = cf.summary()
    assert "accepts 8 of 10 (80 %); the classifier itself accepts 6 of 10 (60 %)" in words
    assert "2 of 10 rows convinced the surrogate but not the classifier" in words


def test_the_summary_of_one_row_is_about_this_row():
    cf = told("c")
    assert f"From 4 to 9 in {cf.n_steps[0]} step" in cf.summary() and "meets every condition" in cf.summary()
    assert f"from {cf.proba_before[0]:.2f} to {cf.proba_after[0]:.2f}" in cf.summary()
    lost = told("n").summary()
    assert "No counterfactual was found" in lost and "still says 4, not 9" in lost and "max_steps" in lost
    late = told("b").summary()
    assert "Not met: typical enough" in late and "This row ran out of steps" in late
    assert "already" in told("a").summary() and "unchanged" in told("a").summary()


def test_the_summary_of_no_rows_and_of_no_density():
    assert "no rows" in made(0).summary()
    cf = told("ccc")
    cf.density_percentile = np.full(3, np.nan)
    assert "Plausibility" not in cf.summary() and "typical than" not in cf[0].summary()
    assert "3 of 3 rows had the target before" in told("aaa").summary()


def test_the_representation_is_one_line():
    cf = made(3)
    assert "\n" not in repr(cf) and "3 rows" in repr(cf) and f"{cf.valid.sum()} of 3 valid" in repr(cf)
    assert f"{(cf.valid & cf.conditions['decision'] & cf.conditions['density']).sum()} with every condition" in repr(cf)


def test_the_representation_counts_as_the_summary_does():
    cf = made(6, "grey")
    cf.status, cf.valid[:2] = np.array(["already_target"] * 2 + ["converged"] * 4), True
    valid = int(cf.valid[2:].sum())
    assert f"2 already the target; {valid} of 4 valid" in repr(cf)
    assert f"Valid: {valid} of 4" in cf.summary() and "Already target: 2 of 6 rows" in cf.summary()
