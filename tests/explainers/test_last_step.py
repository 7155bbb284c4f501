"""Explainers as the last step of a pipeline: names, frames, and search over weights through it."""

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from cfexplain import PLACEExplainer

pytestmark = pytest.mark.usefixtures("quietly")
TINY = {"training_budget": 0.03, "max_steps": 10, "second_opinion": 0, "random_state": 0}


@pytest.fixture(scope="module")
def wine():
    data = load_wine(as_frame=True)
    return data.data, data.target_names[data.target]


def test_columns_keep_their_names_through_a_column_transformer(wine):
    X, y = wine
    scale = make_column_transformer((MinMaxScaler(), ["hue", "ash"]), remainder=StandardScaler(),
                                    verbose_feature_names_out=False).set_output(transform="pandas")
    pipe = make_pipeline(scale, PLACEExplainer(immutable=["hue"], bounds={"ash": (0, 1)}, **TINY)).fit(X, y)
    pipe[-1].set_output(transform="pandas")
    moved, scaled = pipe.transform(X[:10]), pipe[:-1].transform(X[:10])
    assert isinstance(moved, pd.DataFrame) and list(moved) == list(scaled) and moved.index.equals(X.index[:10])
    np.testing.assert_array_equal(moved["hue"], scaled["hue"])
    assert moved["ash"].between(0, 1).all() and not moved.equals(scaled)
    back = scale.named_transformers_["minmaxscaler"].inverse_transform(moved[["hue", "ash"]])
    np.testing.assert_allclose(back[:, 0], X["hue"][:10])


@pytest.mark.slow
def test_grid_search_reaches_weights_through_the_pipeline(wine):
    X, y = wine
    pipe = make_pipeline(StandardScaler(), PLACEExplainer(**TINY))
    grid = GridSearchCV(pipe, {"placeexplainer__plausibility_weight": [0.0, 1.0]}, cv=2, error_score="raise").fit(X, y)
    scores = grid.cv_results_["mean_test_score"]
    assert scores.shape == (2,) and ((scores >= 0) & (scores <= 1)).all() and scores[0] != scores[1]
    best = grid.best_estimator_
    assert best[-1].plausibility_weight == grid.best_params_["placeexplainer__plausibility_weight"]
    assert grid.score(X[:40], y[:40]) == pytest.approx(best[-1].score(best[:-1].transform(X[:40])))
