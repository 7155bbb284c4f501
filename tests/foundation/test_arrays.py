"""Samples come in and go out in every layout and precision; what cannot be read says why."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator

from cfexplain.foundation.arrays import Layout, read_samples, restore_samples, to_numpy
from cfexplain.foundation.exceptions import DataRangeError


class Reader(BaseEstimator):
    """Something to read for."""


def images(shape, n=5, dtype=np.float32):
    return np.random.RandomState(0).rand(n, *shape).astype(dtype)


@pytest.mark.parametrize(("shape", "image_shape", "net_shape"), [
    ((7,), None, (7,)), ((4, 6), None, (1, 4, 6)), ((3, 4, 6), None, (3, 4, 6)), ((1, 1), None, (1, 1, 1)),
    ((24,), (1, 4, 6), (1, 4, 6)), ((24,), (4, 6), (1, 4, 6)), ((24,), (2, 3, 4), (2, 3, 4)),
    ((24,), np.array([2, 3, 4]), (2, 3, 4))])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy, np.asfortranarray])
def test_samples_come_in_and_go_out_in_every_layout(shape, image_shape, net_shape, dtype, make):
    reader, raw = Reader(), images(shape, dtype=dtype)
    X = make(raw)
    read = read_samples(reader, X, reset=True, image_shape=image_shape, data_range=(0, 1))
    assert reader.layout_ == Layout(shape, net_shape) and reader.layout_.is_image == (len(net_shape) == 3)
    assert reader.n_features_in_ == raw[0].size
    assert read.dtype == dtype and read.flags.c_contiguous
    np.testing.assert_array_equal(read, raw.reshape(-1, *net_shape))
    back = restore_samples(read, reader.layout_, like=X)
    assert type(back) is type(X) and back.dtype == X.dtype and back.shape == X.shape
    np.testing.assert_array_equal(np.asarray(back), raw)
    again = read_samples(reader, X[:2], reset=False, image_shape=image_shape, data_range=(0, 1))
    np.testing.assert_array_equal(again, read[:2])


@pytest.mark.parametrize("kind", [np.int64, np.uint8, bool, np.int32])
def test_numbers_of_a_table_become_float64(kind):
    raw = np.array([[0, 1, 1], [1, 0, 1]], dtype=kind)
    for X in (raw, torch.from_numpy(raw), pd.DataFrame(raw, columns=list("abc")), raw.tolist()):
        reader = Reader()
        read = read_samples(reader, X, reset=True)
        assert read.dtype == np.float64 and read.tolist() == raw.tolist()
        back = restore_samples(read + 0.5, reader.layout_, like=X)  # counterfactuals of integers are not integers
        assert np.asarray(back).tolist() == (raw + 0.5).tolist()
    assert list(read_names(pd.DataFrame(raw, columns=list("abc")))) == ["a", "b", "c"]


def read_names(X):
    reader = Reader()
    read_samples(reader, X, reset=True)
    return reader.feature_names_in_


def test_results_take_the_precision_of_what_came_in():
    layout = Layout((2,), (2,))
    for like, dtype in ((np.zeros(1, np.float32), np.float32), (torch.zeros(1, dtype=torch.float64), torch.float64),
                        (torch.zeros(1), torch.float32), (None, np.float64), ([[1.0]], np.float64)):
        assert restore_samples(np.ones((3, 2)), layout, like).dtype == dtype


def test_labels_are_validated_with_the_rows():
    X, y = read_samples(Reader(), images((4, 4)), np.array(list("abcab")), reset=True)
    assert len(X) == 5 and y.tolist() == list("abcab")
    with pytest.raises(ValueError, match="inconsistent"):
        read_samples(Reader(), images((4, 4)), np.zeros(4), reset=True)


def test_tensors_with_a_gradient_are_read():
    tensor = torch.rand(3, 2, requires_grad=True)
    np.testing.assert_array_equal(to_numpy(tensor), tensor.detach().numpy())
    frame = pd.DataFrame({"a": [1.0]})
    assert to_numpy(frame) is frame


def test_the_edge_of_the_range_has_a_hair_of_slack():
    for low, high in ((0, 1), (-1, 1), (0, 255)):
        X = np.linspace(low, high, 3 * 16).reshape(3, 4, 4)
        hair, step = 0.9e-4 * (high - low), 1.1e-4 * (high - low)
        for off in (hair, -hair):
            read_samples(Reader(), X + off, reset=True, data_range=(low, high))
        for off in (step, -step):
            with pytest.raises(DataRangeError, match="data_range="):
                read_samples(Reader(), X + off, reset=True, data_range=(low, high))
    read_samples(Reader(), X[:, 0], reset=True, data_range=(0, 1))  # a table has no range


@pytest.mark.parametrize(("X", "options", "error", "message"), [
    (images((24,)), {"image_shape": (1, 5, 5)}, ValueError, r"\(1, 5, 5\).*24 values"),
    (images((24,)), {"image_shape": (24,)}, ValueError, r"\(C, H, W\)"),
    (images((2, 3, 4)), {"image_shape": (1, 2, 3, 4)}, ValueError, r"\(C, H, W\)"),
    (images((2, 0)), {}, ValueError, "empty side"), (images((1, 1, 1, 1)), {}, ValueError, "at most 3 dimensions"),
    (images((4,)).astype(np.float16), {}, TypeError, "float32"), (torch.zeros(2, 2).bfloat16(), {}, TypeError, "float()"),
    (torch.zeros(2, 2).half(), {}, TypeError, "float32"),
    (np.zeros((2, 4, 4), np.uint8), {"data_range": (0, 1)}, DataRangeError, "/ 255"),
    (np.full((2, 4, 4), 200.0), {"data_range": (0, 1)}, DataRangeError, "X / 255"),
    (np.full((2, 4, 4), 1.1), {"data_range": (0, 1)}, DataRangeError, "Rescale X, or"),
    (np.zeros((2, 16), int), {"data_range": (0, 1), "image_shape": (4, 4)}, DataRangeError, "integers"),
    (np.zeros(4), {}, ValueError, "one number a sample"), (np.zeros((0, 3)), {}, ValueError, "0 sample"),
    ("people.csv", {}, TypeError, "X is text, 'people.csv'.*read_csv"), (["a.png"], {}, TypeError, "list of text.*folder"),
    (pd.DataFrame({"age": [1], "born": pd.to_datetime(["2001-02-03"])}), {}, ValueError, r"\['born'\] hold no numbers"),
    (np.array([[np.nan, 1]]), {}, ValueError, "NaN"), (np.full((1, 2, 2), np.inf), {}, ValueError, "infinity")])
def test_arrays_that_cannot_be_read_say_why(X, options, error, message):
    with pytest.raises(error, match=message):
        read_samples(Reader(), X, reset=True, **options)


@pytest.mark.parametrize("X", [np.zeros(2), [1.0, 2.0], (1, 2, 3, 4)])
def test_a_row_of_another_length_is_told_how_long_rows_are(X):
    reader = Reader()
    read_samples(reader, np.zeros((4, 3)), reset=True)
    with pytest.raises(ValueError, match="rows of 3 columns. Reshape your data"):
        read_samples(reader, X, reset=False)


def test_other_layouts_than_at_fit_are_refused():
    reader = Reader()
    read_samples(reader, images((4, 6)), reset=True)
    for other, fix in ((images((6, 4)), ""), (images((1, 4, 6)), r"X\[:, 0\]"), (images((24,)), r"X.reshape\(-1, 4, 6\)"),
                       (images((4, 6))[0], r"X\[None\]")):
        with pytest.raises(ValueError, match=rf"fitted on samples of shape \(4, 6\).*{fix}"):
            read_samples(reader, other, reset=False)
    read_samples(reader, images((1, 4, 6)), reset=True)
    with pytest.raises(ValueError, match=r"X\[:, None\]"):
        read_samples(reader, images((4, 6)), reset=False)
