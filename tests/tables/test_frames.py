"""Results as frames of pandas."""

import sys

import numpy as np
import pytest
from results import FLOATS, made


def test_a_frame_has_the_scalars_row_by_row():
    frame = made(labels="str").to_frame()
    cf = made(labels="str")
    assert len(frame) == 7 and "x" not in frame and "z" not in frame
    for name in ("source", "target", "valid", "status", "n_steps", "surrogate_valid", *FLOATS):
        np.testing.assert_array_equal(frame[name].to_numpy(), getattr(cf, name))
    np.testing.assert_array_equal(frame["condition_density"], cf.conditions["density"])


def test_a_frame_with_the_columns_of_a_table():
    names = ["age", "income", "a", "b", "c"]
    cf = made(feature_names=names)
    frame = cf.to_frame(features=True)
    for i, name in enumerate(names):
        np.testing.assert_array_equal(frame[f"original_{name}"], cf.x[:, i])
        np.testing.assert_array_equal(frame[f"counterfactual_{name}"], cf.x_cf[:, i])
        np.testing.assert_allclose(frame[f"delta_{name}"], cf.x_cf[:, i] - cf.x[:, i])
    assert "original_x4" in made().to_frame(features=True)
    with pytest.raises(ValueError, match="images"):
        made(layout="flat image").to_frame(features=True)


def test_a_frame_without_pandas_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install .*pandas"):
        made().to_frame()
