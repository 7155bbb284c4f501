"""CLARITY follows its ensemble."""

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.usefixtures("quietly")


def test_clarity_follows_the_ensemble_and_reports_both_verdicts(clarity_table_explainer, table):
    x = table[2][(table[3] == "malignant") & (clarity_table_explainer.predict(table[2]) == "malignant")][:20]
    cf = clarity_table_explainer.explain(x, "benign")
    with torch.no_grad():
        members = clarity_table_explainer.opinions_(torch.from_numpy(cf.z_cf)).softmax(-1).double().numpy()
    column = list(clarity_table_explainer.classes_).index("benign")
    mean = members.mean(0)[:, column]
    np.testing.assert_array_equal(cf.conditions["ensemble"], mean >= 0.9 - 1e-6)
    assert cf.conditions["ensemble"].all()
    np.testing.assert_array_equal(cf.valid, clarity_table_explainer.predict(np.asarray(cf)) == "benign")
