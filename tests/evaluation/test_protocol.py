"""The field's protocol beside `evaluate`: all rows, and flips alone."""

import copy

import numpy as np
import pytest

from cfexplain import evaluate
from cfexplain.evaluation import protocol_metrics
from cfexplain.metrics import attributes_changed, correlation_difference, cout, feature_cosine, sfid


def flat(images):
    return np.asarray(images, dtype=float).reshape(len(images), -1)


def oracle(images):
    """Whether each quarter of a digit is inked."""
    return np.stack([images[:, a : a + 4, b : b + 4].mean((1, 2)) for a in (0, 4) for b in (0, 4)], 1).clip(0, 1) * 1.5 % 1


class Student:
    """Sees the target in every other row."""

    def predict(self, X):
        return np.where(np.arange(len(X)) % 2 == 0, 3, 4)


@pytest.mark.filterwarnings("ignore:.*are few:UserWarning", "ignore::sklearn.exceptions.ConvergenceWarning")
def test_all_rows_and_flips(image_explainer, digits):
    X, y = digits[2], digits[3]
    X = X[np.isin(y, (8, 9))][:16]
    y_train = oracle(digits[0]) > 0.5
    short = copy.copy(image_explainer).set_params(max_steps=3, start=0.0, refine=0)  # not all rows get there
    found = evaluate(short, X, 3, metrics=protocol_metrics(
        face=flat, face_threshold=0.8, encoder=flat, oracle=oracle, query=1, y_train=y_train, fid_features=flat,
        student=Student(), cout_steps=16), n_bootstrap=10)
    assert not found.failures
    ((name, cf),) = found.results.items()
    table, flips = {k: v.mean for k, v in found.table[name].items()}, cf.valid.astype(bool)
    assert 0 < flips.mean() < 1
    assert table["FR"] == flips.mean()
    classes = image_explainer.classes_.tolist()
    source, target = ([classes.index(label) for label in labels] for labels in (cf.source, cf.target))
    per_row = {
        "MAD": np.abs(cf.proba_after - cf.proba_before), "FVA": feature_cosine(cf.x, cf.x_cf, flat) > 0.8,
        "FS": feature_cosine(cf.x, cf.x_cf, flat), "S3": feature_cosine(cf.x, cf.x_cf, flat),
        "MNAC": attributes_changed(cf.x, cf.x_cf, oracle),
        "COUT": cout(cf.x, cf.x_cf, image_explainer.predict_proba, np.array(source), np.array(target), steps=16),
        "NAFR": np.arange(len(cf)) % 2 == 0}
    for metric, values in per_row.items():
        assert table[metric] == pytest.approx(np.mean(values), abs=1e-6)
        assert table[f"{metric}, flips"] == pytest.approx(np.mean(values[flips]), abs=1e-6)
    assert table["NA"] == pytest.approx(0.5 / flips.mean())
    for rows, end in ((slice(None), ""), (flips, ", flips")):
        assert table[f"CD{end}"] == pytest.approx(correlation_difference(cf.x[rows], cf.x_cf[rows], oracle, 1, y_train))
        assert table[f"sFID{end}"] == pytest.approx(sfid(cf.x[rows], cf.x_cf[rows], flat))


def test_half_of_what_cd_needs_is_refused():
    for options in ({"query": 1}, {"y_train": [[1]]}, {"query": 1, "y_train": [[1]]}):
        with pytest.raises(ValueError, match="CD needs all of oracle"):
            protocol_metrics(**options)


def test_tables_have_no_pixels_to_replace(table_explainer, table):
    found = evaluate(table_explainer, table[2][:4], metrics=protocol_metrics(cout_steps=4), n_bootstrap=5)
    ((_, values),) = found.table.items()
    assert not found.failures and np.isnan(values["COUT"].mean) and 0 <= values["MAD"].mean <= 1
