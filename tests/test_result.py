"""Invariants of what is found: rows stay together, files come back whole, words and pages say what the arrays hold."""

import base64
import io
import json
import os
import pickle
import struct
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cfexplain import PLACEExplainer
from cfexplain.foundation import files
from cfexplain.foundation.files import atomic_write, read_arrays, write_arrays
from cfexplain.result import STATUSES, Counterfactuals

LAYOUTS = {"table": ((5,), (5,)), "grey": ((4, 6), (1, 4, 6)), "colour": ((3, 4, 6), (3, 4, 6)),
           "flat image": ((24,), (1, 4, 6))}
LABELS = {
    "int": np.array([4, 9, 7]), "int32": np.array([4, 9, 7], dtype=np.int32), "float": np.array([0.5, 1.0, -2.0]),
    "float32": np.array([0.5, 1.0, -2.0], dtype=np.float32), "bool": np.array([True, False]),
    "str": np.array(["no smile", "smile", "“ü” <&>"]), "object": np.array(["a", "bc", 3, True, None], dtype=object)}
FLOATS = ("proba_before", "proba_after", "distance", "distance_x", "log_density", "density_percentile",
          "reconstruction_error")
OPTIONAL = ("surrogate_valid", "second_opinion")
COLUMNS = ("x", "x_cf", "reconstruction", "source", "target", "prediction", *FLOATS, "valid", "status", "n_steps", "z",
           "z_cf", *OPTIONAL)


def made(n=7, layout="table", labels="int", seed=0, paths=True, optional=True, container="numpy", **metadata):
    """A result of which every row is recognisable in every column."""
    rng = np.random.RandomState(seed)
    user, net = LAYOUTS[layout]
    names = LABELS[labels]
    columns = {name: rng.rand(n, *user).astype(np.float32) for name in ("x", "x_cf", "reconstruction")}
    columns.update({name: names[rng.randint(len(names), size=n)] for name in ("source", "target", "prediction")})
    columns.update({name: rng.rand(n) for name in FLOATS})
    columns["density_percentile"] *= 100
    columns.update({name: rng.rand(n) < 0.5 for name in ("valid", *(OPTIONAL if optional else ()))})
    columns.update(z=rng.randn(n, 3), z_cf=rng.randn(n, 3), n_steps=rng.randint(0, 5, n),
                   status=np.array(STATUSES)[rng.randint(4, size=n)])
    return Counterfactuals(
        **columns, conditions={"decision": rng.rand(n) < 0.5, "density": rng.rand(n) < 0.5}, container=container,
        path=[rng.randn(k + 1, 3) for k in columns["n_steps"]] if paths else None,
        metadata={"explainer": "PLACEExplainer", "is_image": len(net) == 3, "net_shape": list(net), **metadata})


def same(a, b):
    for name in COLUMNS:
        one, other = getattr(a, name), getattr(b, name)
        if one is None or other is None:
            assert one is other
        else:
            assert one.dtype == other.dtype, name
            np.testing.assert_array_equal(one, other, err_msg=name)
    assert list(a.conditions) == list(b.conditions)
    for name, held in a.conditions.items():
        np.testing.assert_array_equal(held, b.conditions[name])
    assert (a.path is None) == (b.path is None)
    for one, other in zip(a.path or [], b.path or [], strict=True):
        np.testing.assert_array_equal(one, other)
    assert (a.container, a.metadata) == (b.container, b.metadata)


# ------------------------------------------------------------------ array-like
@st.composite
def indices(draw):
    n = draw(st.integers(0, 9))
    inside = st.integers(-n, n - 1) if n else st.nothing()
    kinds = [st.slices(n), st.lists(st.booleans(), min_size=n, max_size=n).map(lambda b: np.array(b, dtype=bool))]
    if n:
        many = st.lists(inside, max_size=12)
        kinds += [inside, inside.map(np.int64), many, many.map(lambda i: np.array(i, dtype=int)),
                  many.map(lambda i: torch.tensor(i, dtype=torch.long))]
    return n, draw(st.one_of(kinds))


@settings(max_examples=150, deadline=None)
@given(indices())
def test_rows_stay_together_under_every_index(case):
    n, index = case
    cf = made(n)
    rows = np.atleast_1d(np.arange(n)[index])
    part = cf[index]
    assert len(part) == len(rows)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(part, name), getattr(cf, name)[rows], err_msg=name)
    for name in cf.conditions:
        np.testing.assert_array_equal(part.conditions[name], cf.conditions[name][rows])
    assert len(part.path) == len(rows) and all(part.path[k] is cf.path[i] for k, i in enumerate(rows))
    np.testing.assert_array_equal(part.complete, cf.complete[rows])
    assert part.metadata == cf.metadata


@pytest.mark.parametrize("index", [7, -8, (0, 1), None, "x", np.zeros((2, 2), int), np.ones(3, bool), 1.5])
def test_an_index_that_is_none_says_so(index):
    with pytest.raises(IndexError):
        made(7)[index]


def test_iteration_and_concatenation_are_inverse():
    cf = made(6, "colour", "str", seconds=2.0)
    rows = list(cf)
    assert [len(row) for row in rows] == [1] * 6
    again = Counterfactuals.concatenate(rows)
    assert again.metadata.pop("seconds") == 12.0 and cf.metadata.pop("seconds") == 2.0
    same(again, cf)
    same(Counterfactuals.concatenate([cf[:0], cf, cf[6:]]), cf)


def test_concatenation_refuses_what_does_not_fit():
    cf = made()
    for other in (made(labels="str"), made(layout="grey"), made(paths=False), made(optional=False),
                  made(container="torch")):
        with pytest.raises(ValueError, match="do not fit together"):
            Counterfactuals.concatenate([cf, other])
    with pytest.raises(ValueError, match="at least one"):
        Counterfactuals.concatenate([])
    joined = Counterfactuals.concatenate([made(n_train=5, device="cpu"), made(n_train=6, device="cpu")])
    assert "n_train" not in joined.metadata and joined.metadata["device"] == "cpu"


def test_numpy_reads_the_counterfactuals():
    cf = made(layout="grey")
    assert np.asarray(cf) is cf.x_cf and np.shape(cf) == cf.shape == (7, 4, 6) and cf.ndim == 3
    copied = np.array(cf)
    copied[:] = -1
    assert cf.x_cf.min() >= 0
    as_float64 = np.asarray(cf, dtype=np.float64)
    assert as_float64.dtype == np.float64 and cf.dtype == np.float32
    np.testing.assert_array_equal(as_float64, cf.x_cf)
    np.testing.assert_allclose(np.subtract(cf, cf.x), cf.x_cf - cf.x)
    with pytest.raises(ValueError, match="copied"):
        cf.__array__(np.float64, copy=False)


def test_a_tensor_comes_back_where_a_tensor_came_in():
    cf = made(layout="colour", container="torch")
    assert isinstance(cf[::-1].array, torch.Tensor) and isinstance(np.asarray(cf), np.ndarray)
    np.testing.assert_array_equal(cf[::-1].array.numpy(), cf.x_cf[::-1])
    assert made().array is not None and isinstance(made().array, np.ndarray)


@pytest.mark.parametrize(("change", "message"), [
    ({"valid": np.ones(3, bool)}, "valid has 3 rows, but x has 7"),
    ({"conditions": {"decision": np.ones(2, bool)}}, "'decision'"), ({"path": []}, "path has 0 rows"),
    ({"status": np.array(["lost"] * 7)}, "lost"), ({"container": "cupy"}, "cupy"), ({"x_cf": np.ones((7, 2))}, "shape")])
def test_rows_that_do_not_align_are_refused(change, message):
    cf = made()
    arguments = {**{name: getattr(cf, name) for name in COLUMNS}, **change}
    with pytest.raises(ValueError, match=message):
        Counterfactuals(**arguments)


# ------------------------------------------------------------------------ file
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
    for array in (np.array([object()]), np.array([b"bytes"]), np.array([1j]), np.array(["2020-01-01"], "M8[D]")):
        with pytest.raises(TypeError):
            write_arrays(tmp_path / "a", {"a": array}, {})
    with pytest.raises(TypeError, match="meta holds a set"):
        write_arrays(tmp_path / "a", {}, {"a": {1}})
    with pytest.raises(ValueError, match="reserved"):
        write_arrays(tmp_path / "a", {"__metadata__": np.ones(1)}, {})
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("broken", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, broken, error):
    cf, path, page = made(), tmp_path / "cf", tmp_path / "cf.html"
    cf.save(path)
    cf.to_html(page)
    before = path.read_bytes(), page.read_bytes()

    def fail(*_):
        raise error

    monkeypatch.setattr(files.os, broken, fail)
    for write, place in ((made(3, seed=5).save, path), (made(3, seed=5).to_html, page)):
        with pytest.raises(type(error)):
            write(place)
    monkeypatch.undo()
    assert (path.read_bytes(), page.read_bytes()) == before
    assert sorted(os.listdir(tmp_path)) == ["cf", "cf.html"]
    same(Counterfactuals.load(path), cf)


def test_where_a_file_cannot_go(tmp_path):
    with pytest.raises(FileNotFoundError, match="create it"):
        made().save(tmp_path / "nowhere" / "cf")
    with pytest.raises(IsADirectoryError):
        made().save(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file"):
        Counterfactuals.load(tmp_path / "cf")
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def with_header(data, change):
    """The bytes of a safetensors file with ``change(header)`` made to its JSON header."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


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
    "version": (in_metadata(version="2"), "newer cfexplain.*pip install --upgrade"),
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


# ---------------------------------------------------------------------- tables
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


# ----------------------------------------------------------------------- words
def told(status, target=9, meets=None, **options):
    """A result of digits with these statuses, one letter a row."""
    status = np.array([{"c": "converged", "b": "step_budget", "a": "already_target", "n": "not_found"}[s] for s in status])
    cf = made(len(status), "grey", optional=False, **options)
    cf.status, cf.valid = status, status != "not_found"
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
    assert f"percentile {(percentile[47] + percentile[48]) / 2:.0f}, where 50 is as typical as the median real 9" in words
    assert f"median {np.median(cf.distance[searched]):.3g} in latent space" in words


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
    assert "Typicality" not in cf.summary() and "typical than" not in cf[0].summary()
    assert "3 of 3 rows had the target before" in told("aaa").summary()


def test_the_representation_is_one_line():
    cf = made(3)
    assert "\n" not in repr(cf) and "3 rows" in repr(cf) and f"{cf.valid.sum()} valid" in repr(cf)
    assert f"{(cf.valid & cf.conditions['decision'] & cf.conditions['density']).sum()} meet" in repr(cf)


# ------------------------------------------------------------------------ html
class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.images, self.text = [], [], [], ""
        self.feed(text)
        assert not self.open, "tags are not closed"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))
        elif tag not in ("br", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_pages_escape_whatever_a_user_supplied():
    evil = '<script>alert("1")</script>"\'>&'
    for layout in ("grey", "table"):
        for n in (1, 5):
            cf = made(n, layout, explainer=evil, feature_names=[evil] * 5)
            cf.source = cf.target = cf.prediction = np.array([evil] * n)
            cf.valid = np.zeros(n, bool)
            cf.conditions = {evil: cf.valid}
            page = Page(cf._repr_html_())
            assert "script" not in page.tags and evil in page.text
            assert not any(key.startswith("on") for image in page.images for key in image)


@pytest.mark.parametrize("layout", ["grey", "colour", "flat image"])
def test_pages_hold_the_pictures_themselves(layout):
    cf = made(3, layout)
    images = Page(cf._repr_html_()).images
    assert len(images) == 12 and all(image["alt"] for image in images)
    kind, data = images[4 + 2]["src"].split(",")
    assert kind == "data:image/png;base64"
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    expected = cf.x_cf[1].reshape(LAYOUTS[layout][1])
    expected = np.moveaxis(expected, 0, -1) if layout == "colour" else expected[0]
    assert shown.shape == expected.shape
    np.testing.assert_allclose(shown / 255, expected, atol=0.51 / 255)
    signed = np.asarray(Image.open(io.BytesIO(base64.b64decode(images[3]["src"].split(",")[1])))).astype(int)
    difference = (cf.x_cf[0] - cf.x[0]).reshape(LAYOUTS[layout][1]).mean(0)
    clear = np.abs(difference) > 0.1
    np.testing.assert_array_equal((signed[..., 0] > signed[..., 2])[clear], (difference > 0)[clear])


def test_a_notebook_shows_ten_rows():
    for layout in ("grey", "table"):
        text = made(12, layout, "str")._repr_html_()
        page = Page(text)
        assert page.tags.count("tr") == 11 and "first 10 of 12 rows" in page.text
        assert "http" not in text and page.tags.count("link") == page.tags.count("script") == 0
    assert "no rows" in made(0)._repr_html_()


# ------------------------------------------------------------- with an explainer
def test_what_an_explainer_returns_travels_by_file(digits, tmp_path, quietly):
    explainer = PLACEExplainer(training_budget=0.02, random_state=0).fit(digits[0][:400], digits[1][:400])
    cf = explainer.explain(torch.from_numpy(digits[2][:5]), record_path=True)
    cf.save(tmp_path / "cf")
    again = Counterfactuals.load(tmp_path / "cf")
    same(again, cf)
    np.testing.assert_array_equal(again.array, cf.array)
    np.testing.assert_array_equal(explainer.predict(cf), cf.prediction)
