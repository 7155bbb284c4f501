"""Shared changes of a group: what is said to carry rows over does so, by the model itself."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cfexplain import PipelineExplainer, PLACEExplainer, summarize_group

pytestmark = pytest.mark.usefixtures("quietly")


@pytest.mark.parametrize("name", ["image_explainer", "table_explainer"])
def test_rows_that_are_carried_over_are_and_each_change_adds_some(name, request):
    explainer = request.getfixturevalue(name)
    data = request.getfixturevalue("digits" if "image" in name else "table")
    target = 9 if "image" in name else "benign"
    X = data[2][np.asarray(data[3]) == (4 if "image" in name else "malignant")][:12]
    cf = explainer.explain(X, target)
    summary = summarize_group(explainer, cf, by=np.arange(len(X)) % 2)
    cf = cf[cf.status != "already_target"]
    reached = np.zeros(len(cf), dtype=bool)
    for change, share in zip(summary.changes, summary.coverage, strict=True):
        np.testing.assert_array_equal(explainer.predict(change.x_cf) == cf.target, change.covered)
        assert (change.covered & ~reached).any() and change.cost > 0
        reached |= change.covered
        assert share == reached.mean()
    assert len(summary.changes) and summary.coverage[-1] >= 0.5
    assert sum(part["rows"] for part in summary.parts) == len(cf)
    assert f"carries {100 * summary.changes[0].covered.mean():.0f} % over" in str(summary)


def test_what_recourse_costs_each_part_of_a_group():
    rng = np.random.RandomState(0)
    X = pd.DataFrame({"income": np.r_[rng.normal(30, 3, 150), rng.normal(45, 3, 150), rng.normal(70, 5, 300)].round(1),
                      "group": ["a"] * 150 + ["b"] * 150 + ["a", "b"] * 150})
    y = np.where(X["income"] > 55, "yes", "no")
    pipe = make_pipeline(StandardScaler(), LogisticRegression())
    pipe.fit(X[["income"]], y)
    explainer = PipelineExplainer(pipe, PLACEExplainer(training_budget=0.05, random_state=0)).fit(X[["income"]], y)
    rows = np.r_[0:20, 150:170]
    summary = summarize_group(explainer, explainer.explain(X[["income"]].iloc[rows], "yes"), by=X["group"].iloc[rows])
    first, second = summary.parts
    assert first["name"] == "a" and first["cost"] > 1.5 * second["cost"]
    assert summary.coverage[-1] >= 0.9 and "income +" in summary.changes[0].words
    drawn = summary.plot(figure=Figure())
    changes, parts = ([bar.get_width() for bar in panel.patches] for panel in drawn.axes_)
    np.testing.assert_allclose(changes[::2], [100 * change.covered.mean() for change in summary.changes])
    np.testing.assert_allclose(np.cumsum(changes[1::2]), 100 * np.asarray(summary.coverage))
    np.testing.assert_allclose(parts, [100 * part["coverage"] for part in summary.parts])


def test_groups_that_are_none(table_explainer, table):
    cf = table_explainer.explain(table[2][:3])
    with pytest.raises(ValueError, match="by has shape"):
        summarize_group(table_explainer, cf, by=[1, 2])
    with pytest.raises(ValueError, match="most="):
        summarize_group(table_explainer, cf, most=0)
    with pytest.raises(ValueError, match="No row of this group"):
        summarize_group(table_explainer, table_explainer.explain(table[2][:3], table_explainer.predict(table[2][:3])))
