"""Real rows around candidates: odd pairs of values, and outliers."""

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from cfexplain import PipelineExplainer, ScanExplainer
from cfexplain.explainers.columns import Columns
from cfexplain.explainers.neighbourhood import Neighbourhood


@pytest.fixture(scope="module")
def people():
    """Years, and the band that they are in; income, and how many are glad, which is of its own."""
    random = np.random.RandomState(0)
    age = random.randint(18, 70, 600)
    frame = pd.DataFrame({"age": age, "band": np.where(age < 30, "young", np.where(age < 50, "middle", "old")),
                          "income": random.normal(30, 8, 600).round(1), "glad": random.choice(["yes", "no"], 600)})
    return frame, np.where(0.05 * (age - 44) + (frame["income"] - 30) / 8 + random.normal(0, 0.3, 600) > 0, "good", "bad")


@pytest.fixture(scope="module")
def codes():
    random = np.random.RandomState(1)
    first = random.randint(0, 3, 400)
    numbers = np.column_stack([first + random.normal(0, 0.1, 400), random.normal(size=400)])
    groups = np.eye(3)[first]
    real = np.column_stack([numbers, groups])
    columns = Columns([(0, 1), (1, 2), (2, 5)], [(2, 5)], np.zeros(5, dtype=bool), real.min(0), real.max(0), np.ones(5),
                      real=real)
    return real, columns


def test_pairs_that_no_row_has_are_odd_and_those_of_real_rows_are_not(codes):
    real, columns = codes
    around, every = Neighbourhood(columns, real, np.arange(len(real)) % 2, 2), np.ones((len(real), 3), dtype=bool)
    assert around.odd_pairs(real, every).sum() == 0
    other = real.copy()
    other[:, 2:] = np.roll(other[:, 2:], 1, axis=1)  # a group that goes with another number
    changed = np.zeros_like(every)
    assert around.odd_pairs(other, changed).sum() == 0  # nothing was changed, so nothing is odd by it
    changed[:, 2] = True
    one = around.odd_pairs(other, changed)
    assert (one > 0).mean() > 0.9
    changed[:, 0] = True  # both ends of a pair: it counts once
    np.testing.assert_array_equal(around.odd_pairs(other, changed), one)


def test_few_rows_know_no_odd_pair_and_no_outlier(codes):
    real, columns = codes
    far = real[:2] + 100
    for few in (real[:0], real[:10]):
        around = Neighbourhood(columns, few, np.zeros(len(few)), 0)
        assert around.odd_pairs(far, np.ones((2, 3), dtype=bool)).sum() == 0
        assert around.outlying(far).tolist() == [1, 1]


def test_outliers_are_those_of_scikit_learn_whatever_the_company(codes):
    real, columns = codes
    rows = np.concatenate([real[:300] + 0.05, real[:5] + 3])
    around = Neighbourhood(columns, real, np.arange(len(real)) % 2, 2)
    expected = -LocalOutlierFactor(20, novelty=True).fit(real).score_samples(rows)
    every = around.outlying(rows)
    np.testing.assert_allclose(every, expected, atol=1e-4)
    assert [around.outlying(rows[i : i + 1])[0] for i in (0, 7, 304)] == every[[0, 7, 304]].tolist()


def test_what_is_known_is_kept_while_the_rows_are_the_same(codes):
    real, columns = codes
    owner = LogisticRegression()
    answers = np.zeros(len(real), dtype=int)
    first = Neighbourhood.of(owner, columns, real, answers, 1)
    assert Neighbourhood.of(owner, columns, real, answers, 1) is first
    assert Neighbourhood.of(owner, columns, real.copy(), answers, 1) is not first


def test_columns_that_say_the_same_change_together(people):
    X, y = people
    pipe = make_pipeline(make_column_transformer(
        (StandardScaler(), ["age", "income"]), (OneHotEncoder(), ["band", "glad"])), LogisticRegression()).fit(X, y)
    rows = X[pipe.predict(X) == "bad"][:12]
    explainer = PipelineExplainer(pipe, ScanExplainer(), immutable=["income"], random_state=0).fit(X, y)
    cf = explainer.explain(rows, "good")
    after = cf.to_frames()[1][cf.valid]
    assert len(after) >= 10
    band = np.where(after["age"] < 30, "young", np.where(after["age"] < 50, "middle", "old"))
    # a cell is an interval of ages, in which a band may end
    ends = np.array([((after["age"] - end).abs() <= 4) for end in (30, 50)]).any(0)
    assert ((band == after["band"]) | ends).all()
