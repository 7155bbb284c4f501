"""One sample is taken as one sample, and comes back as one, with the bits that it has among others."""

import numpy as np
import pandas
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from cfexplain import Counterfactuals, LeapExplainer, PipelineExplainer

pytestmark = pytest.mark.usefixtures("quietly")


@pytest.mark.parametrize("fixture", ["image_explainer", "table_explainer"])
@pytest.mark.parametrize("container", [np.asarray, torch.from_numpy, np.ndarray.tolist])
def test_one_array(fixture, container, request, digits, table, tmp_path):
    explainer = request.getfixturevalue(fixture)
    X = (digits if fixture == "image_explainer" else table)[2][:2]
    among = explainer.explain(X)
    one = explainer.explain(container(X[1].copy()))
    assert len(one) == 1 and one.x_cf.shape == (1, *X.shape[1:]) and one.shape == np.asarray(one).shape == X.shape[1:]
    np.testing.assert_array_equal(np.asarray(one), among.x_cf[1])
    kind = torch.Tensor if container is torch.from_numpy else np.ndarray
    assert type(one.array) is kind and one.array.shape == one.shape
    one.save(tmp_path / "one.safetensors")
    again = Counterfactuals.load(tmp_path / "one.safetensors")
    assert again.shape == one.shape and again.summary() == one.summary() and "<html" in page(again, tmp_path)
    assert Counterfactuals.concatenate([one, again]).shape == (2, *X.shape[1:]) and one[[0, 0]].shape == (2, *X.shape[1:])
    assert explainer.explain(X[:1]).shape == (1, *X.shape[1:])  # a batch of one is a batch
    assert explainer.explain(X[1], k=2).shape == (2, *X.shape[1:])


def page(cf, folder):
    cf.to_html(folder / "page.html")
    return (folder / "page.html").read_text("utf-8")


@pytest.fixture(scope="module")
def people():
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({"age": rng.integers(18, 70, 120), "income": rng.normal(40, 9, 120).round(1),
                              "job": rng.choice(["clerk", "cook", "judge"], 120)}, index=[f"p{i}" for i in range(120)])
    return frame, np.where(frame["income"] + 8 * (frame["job"] == "judge") > 42, "yes", "no")


def test_a_row_of_a_frame_and_a_dict(people):
    frame, y = people
    frame = frame.assign(since=pandas.date_range("2020-01-01", periods=len(frame)))  # no search moves dates
    scaled = make_column_transformer((OneHotEncoder(), ["job"]), (StandardScaler(), ["age", "income"]))
    pipe = make_pipeline(scaled, LogisticRegression()).fit(frame, y)
    mixed = PipelineExplainer(pipe, random_state=0, explainer=LeapExplainer(training_budget=0.05)).fit(frame, y)
    numbers = frame[["age", "income"]]
    plain = LeapExplainer(LogisticRegression().fit(numbers, y), training_budget=0.05, random_state=0).fit(numbers, y)
    for explainer, X in ((mixed, frame), (plain, numbers)):
        among = explainer.explain(X.iloc[:4])
        series, cells = explainer.explain(X.iloc[2]), explainer.explain(dict(X.iloc[2]))
        for one in (series, cells, explainer.explain(X.iloc[2][::-1])):  # names tell, not places
            np.testing.assert_array_equal(np.asarray(one), among.x_cf[2])
            assert one.shape == among.shape[1:]
        assert series.index.tolist() == ["p2"] and series.to_frames()[1].columns.tolist() == X.columns.tolist()
        with pytest.raises(ValueError, match=r"lacks the columns \['age'\]"):
            explainer.explain({"income": 30.0, "job": "cook", "since": frame["since"].iloc[0]})


def test_what_could_be_something_else_is_told(image_explainer, table_explainer, digits, table):
    with pytest.raises(ValueError, match=r"\(8, 7\).*\(8, 8\)"):
        image_explainer.explain(digits[2][0][:, :7])
    with pytest.raises(ValueError, match="knows no names"):
        table_explainer.explain({"mean radius": 1.0})
    with pytest.raises(ValueError, match="1D|features|shape"):
        table_explainer.explain(table[2][0][:9])
