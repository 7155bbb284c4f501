"""Results come back whole from their files; whatever else a file holds is refused."""

import os
import pickle

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from results import LABELS, LAYOUTS, Bomb, made, same, with_header

from cfexplain.foundation.files import _decode_text, read_arrays, write_arrays
from cfexplain.result import Counterfactuals


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n", [0, 1, 7])
def test_a_file_gives_back_what_was_saved(tmp_path, labels, layout, n):
    for k, options in enumerate(({}, {"paths": False, "optional": False, "container": "torch"})):
        cf = made(n, layout, labels, seconds=0.1, note="“ü” </script>", **options)
        cf.save(tmp_path / f"{k}.safetensors")
        same(Counterfactuals.load(tmp_path / f"{k}.safetensors"), cf)
    assert sorted(os.listdir(tmp_path)) == ["0.safetensors", "1.safetensors"]


def test_strided_arrays_are_stored_as_they_look(tmp_path):
    cf = made(8, "grey")
    arrays = {"every second": cf.x[::2], "turned": np.moveaxis(cf.x, 0, -1), "backwards": cf.x[:, ::-1],
              "big-endian": np.arange(4, dtype=">i4"), "one number": np.array(2.5), "text": np.array([["a"], ["b"]]).T}
    write_arrays(tmp_path / "a", arrays, {"shape": (1, 2), "number": np.float32(0.5)})
    again, meta = read_arrays(tmp_path / "a")
    assert meta == {"shape": [1, 2], "number": 0.5} and again.keys() == arrays.keys()
    for name, array in arrays.items():
        assert again[name].shape == array.shape and again[name].flags.writeable
        np.testing.assert_array_equal(again[name], array)


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.text().filter(lambda t: not t.endswith("\0")), max_size=5))
def test_any_text_comes_back(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("text") / "a"
    write_arrays(path, {"U": np.array(values, dtype=str), "O": np.array([*values, 0], dtype=object)}, {})
    again, _ = read_arrays(path)
    assert again["U"].tolist() == values and again["O"].tolist() == [*values, 0]


def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path):
    for array in (np.array([object()]), np.array([b"bytes"]), np.array([1j]), np.array([(1, {2})], object)):
        with pytest.raises(TypeError):
            write_arrays(tmp_path / "a", {"a": array}, {})
    with pytest.raises(TypeError, match="meta holds a set"):
        write_arrays(tmp_path / "a", {}, {"a": {1}})
    with pytest.raises(ValueError, match="reserved"):
        write_arrays(tmp_path / "a", {"__metadata__": np.ones(1)}, {})
    assert not os.listdir(tmp_path)


def in_metadata(**values):
    return lambda data: with_header(data, lambda header: header["__metadata__"].update(values))


def changed_content(data):
    def change(header):
        header["__metadata__"]["content"] = header["__metadata__"]["content"].replace("PLACE", "TRICK")

    return with_header(data, change)


def renamed_tensor(data):
    return with_header(data, lambda header: header.update(other=header.pop("x_cf")))


STRANGE = {
    "truncated": (lambda data: data[:-9], "damaged"), "half": (lambda data: data[: len(data) // 2], "damaged"),
    "empty": (lambda data: b"", "damaged"), "random": (lambda data: np.random.RandomState(0).bytes(999), "damaged"),
    "longer": (lambda data: data + b"0" * 8, "damaged"), "a bit": (lambda data: data[:-1] + b"\xff", "digest"),
    "header": (changed_content, "digest"), "renamed": (renamed_tensor, "digest"),
    "pickle": (lambda data: pickle.dumps(Bomb()), "damaged"),
    "no content": (lambda data: with_header(data, lambda h: h["__metadata__"].pop("content")), "damaged"),
    "version": (in_metadata(version="3"), "newer cfexplain.*pip install --upgrade"),
    "no version": (in_metadata(version="next"), "damaged"),
    "foreign": (lambda data: safetensors.numpy.save({"w": np.ones(3)}), "not one that cfexplain wrote"),
    "foreign, named": (lambda data: safetensors.numpy.save({"w": np.ones(3)}, {"format": "pt"}), "not one that")}


@pytest.mark.parametrize("kind", STRANGE)
def test_strange_files_are_refused_and_nothing_is_executed(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    made(labels="str").save("cf")
    change, message = STRANGE[kind]
    data = change((tmp_path / "cf").read_bytes())
    (tmp_path / "cf").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        Counterfactuals.load("cf")
    assert os.listdir(tmp_path) == ["cf"]


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_is_found_anywhere(tmp_path_factory, place, bit):
    path = tmp_path_factory.mktemp("flipped") / "cf"
    cf = made(3, labels="str")
    cf.save(path)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    try:
        same(Counterfactuals.load(path), cf)  # a bit of padding may change without a meaning
    except ValueError as error:
        assert str(path) in str(error)


def test_files_of_another_kind_or_with_a_part_missing(tmp_path):
    write_arrays(tmp_path / "a", {}, {"kind": "explainer"})
    with pytest.raises(ValueError, match="'explainer'; expected 'counterfactuals'"):
        Counterfactuals.load(tmp_path / "a")
    made().save(tmp_path / "b")
    arrays, meta = read_arrays(tmp_path / "b")
    for change in ({"x": None}, {"valid": np.ones(2, bool)}, {"extra": np.ones(7)}, {"conditions/density": None}):
        kept = {name: array for name, array in {**arrays, **change}.items() if array is not None}
        write_arrays(tmp_path / "c", kept, meta)
        with pytest.raises(ValueError, match="not a whole result"):
            Counterfactuals.load(tmp_path / "c")


INDEXES = {
    "dates": lambda pd: pd.date_range("2020-01-01", periods=3).values,
    "days": lambda pd: np.array(["2020-01-01", "NaT", "2021-01-01"], "M8[D]"),
    "spans": lambda pd: np.array([1, 2, -3], "m8[s]"),
    "zone": lambda pd: np.asarray(pd.date_range("2020-03-29", periods=3, freq="h", tz="Europe/Berlin")),
    "offset": lambda pd: np.asarray(pd.DatetimeIndex(["2020-01-01T00:00:00.123456789+01:30"] * 3)),
    "two levels": lambda pd: pd.MultiIndex.from_arrays([[1, 1, 2], ["a", None, "b"]]).values,
    "level of dates": lambda pd: pd.MultiIndex.from_arrays([pd.date_range("2020", periods=3), [0.0, -0.0, 1.5]]).values,
    "missing": lambda pd: np.array([pd.NA, pd.NaT, None], object),
    "timedelta": lambda pd: np.array([pd.Timedelta("1 days 00:00:01.5"), pd.NaT, pd.Timedelta(-1, "ns")], object),
    "text": lambda pd: np.asarray(pd.array(["a", pd.NA, "c"], dtype="string")),
    "categories": lambda pd: np.asarray(pd.Categorical(["a", "b", "a"])),
    "unsigned": lambda pd: np.array([0, 2**63, 2**64 - 1], np.uint64),
    "nullable": lambda pd: np.asarray(pd.array([1, None, 2**60 + 1], dtype="Int64")),
    "signs of zero": lambda pd: np.array([0.0, -0.0, False], object)}


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_of_pandas_comes_back_as_it_was(tmp_path, name):
    pandas = pytest.importorskip("pandas")
    cf = made(3, optional=False)
    cf.index = index = INDEXES[name](pandas)
    cf.carried = np.array([[value, 1] for value in index], object)[:, :1] if index.dtype.kind == "O" and not isinstance(
        index[0], tuple) else None
    cf.save(tmp_path / "cf")
    again = Counterfactuals.load(tmp_path / "cf")
    assert again.index.dtype == index.dtype
    assert [(type(v), repr(v)) for v in again.index] == [(type(v), repr(v)) for v in index]
    if cf.carried is not None:
        assert repr(again.carried.tolist()) == repr(cf.carried.tolist())


@pytest.mark.parametrize("make", [
    lambda pd: pd.period_range("2020", periods=3, freq="M"), lambda pd: pd.interval_range(0, 3),
    lambda pd: [b"a", b"b", b"c"], lambda pd: np.array([1j, 2, 3]), lambda pd: [frozenset("a")] * 3,
    lambda pd: [(1, object())] * 3])
def test_an_index_that_cannot_be_stored_says_what_to_do(tmp_path, make):
    pandas = pytest.importorskip("pandas")
    cf = made(3)
    cf.index = np.empty(3, object)
    cf.index[:] = list(make(pandas))
    with pytest.raises(TypeError, match=r"'index' holds .*astype\(str\).*index=None"):
        cf.save(tmp_path / "cf")
    assert not os.listdir(tmp_path)


def test_a_file_with_strange_content_but_the_right_digest_is_refused(tmp_path):
    made(3).save(tmp_path / "good")
    arrays, meta = read_arrays(tmp_path / "good")
    strange = [({"valid": arrays["valid"].astype(float)}, {}), ({"distance": arrays["distance"][:, None]}, {}),
               ({"z": arrays["z"][:, 0]}, {}), ({"path/ends": np.array([-(10**9), 3])}, {}), ({}, {"metadata": 3}),
               ({}, {"conditions": 5}), ({}, {"container": []}), ({"x": np.arange(3)}, {})]
    for changed, about in strange:
        write_arrays(tmp_path / "bad", {**arrays, **changed}, {**meta, **about})
        with pytest.raises(ValueError, match="not a whole result"):
            Counterfactuals.load(tmp_path / "bad")
    for text in ({"dtype": "O", "values": [{"Timestamp": ["now"]}]}, {"dtype": "O", "values": [{"eval": "1"}]},
                 {"dtype": "O", "values": [[1]]}, {"dtype": "V8", "values": []}):
        with pytest.raises(Exception):  # noqa: B017 - which read_arrays makes a ValueError
            _decode_text(np.zeros(1, np.uint32), text)
