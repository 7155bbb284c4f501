"""Files that nobody should have written: they are refused with a ValueError, whatever they ask for."""

import copy
import json
import os
import pickle
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from results import Bomb, with_header
from sklearn.datasets import load_iris

import cfexplain
from cfexplain import CounterfactualExplainer, PLACEExplainer
from cfexplain.coordinates import VAE, Flow
from cfexplain.density import ConditionalFlow
from cfexplain.explainers import DiffeomorphicExplainer
from cfexplain.foundation.digest import arrays_digest
from cfexplain.foundation.files import read_arrays, read_kind, write_arrays

pytestmark = pytest.mark.usefixtures("quietly")

TINY = {"training_budget": 0.01, "max_steps": 3}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An explainer of one of everything, its file, and what `read_arrays` says of it."""
    X, y = load_iris(return_X_y=True)
    explainer = PLACEExplainer(
        coordinates=VAE(hidden=(8,), training_budget=0.01, random_state=np.random.RandomState(0)), second_opinion=1,
        density=ConditionalFlow(transforms=1, hidden_features=(8,), training_budget=0.01), feature_weight=1.0,
        immutable=[0], confidence=0.99, random_state=0, **TINY)
    explainer.fit(X.astype(np.float32), y)
    path = tmp_path_factory.mktemp("saved") / "explainer"
    explainer.save(path)
    return explainer, path, *read_arrays(path)


@pytest.fixture(scope="module")
def flow_saved(tmp_path_factory):
    X, y = load_iris(return_X_y=True)
    path = tmp_path_factory.mktemp("saved") / "flow"
    flow = Flow(steps=1, hidden=(8, 8), training_budget=0.01, checkpoint=os.fspath(path.parent / "draft"))
    explainer = DiffeomorphicExplainer(generator=flow, random_state=0, **TINY)
    explainer.fit(X.astype(np.float32), y).save(path)
    return explainer, path, *read_arrays(path)


def nodes(node, name):
    """Every object of a class in a tree, as its fields."""
    if isinstance(node, dict):
        if "object" in node and node["object"][0] == name:
            yield node["object"][2]
        for value in node.values():
            yield from nodes(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from nodes(value, name)


def fitted(tree, name, **values):
    """Set fitted attributes of the last object of a class: the one that was fitted, not the parameter."""
    list(nodes(tree, name))[-1]["fitted"].update(values)


def parameters(tree, name, **values):
    for fields in nodes(tree, name):
        fields["parameters"].update(values)


def first(tree, name):
    return next(nodes(tree, name))


def array_of(arrays, end):
    return end if end in arrays else next(name for name in arrays if name.endswith(end))


CLASSES = {
    "system": (lambda m, t: t["object"].__setitem__(0, "os.system"), "unknown class 'os.system'"),
    "claimed": (lambda m, t: m.update({"class": "os.system"}), "os.system"),
    "claimed base": (lambda m, t: m.update({"class": "CounterfactualExplainer"}), "CounterfactualExplainer"),
    "claimed other": (lambda m, t: m.update({"class": "REVISEExplainer"}), "in place of"),
    "no class": (lambda m, t: m.pop("class"), "None"),
    "parameter": (lambda m, t: parameters(t, "PLACEExplainer", perceptual={"object": ["subprocess.Popen", 99, {}]}),
                  "unknown class 'subprocess.Popen'"),
    "tag": (lambda m, t: parameters(t, "VAE", width={"eval": "__import__('os').system('id')"}), "unknown kind 'eval'"),
    "method tag": (lambda m, t: parameters(t, "VAE", width={"_init__": 1}), "unknown kind"),
    "given": (lambda m, t: parameters(t, "PLACEExplainer", classifier={"given": ["classifier"]}), "classifier"),
    "method": (lambda m, t: fitted(t, "PLACEExplainer", explain="x"), "attribute 'explain'"),
    "dunder": (lambda m, t: fitted(t, "PLACEExplainer", __class__="x"), "attribute '__class__'"),
    "private": (lambda m, t: fitted(t, "PLACEExplainer", _terms="x"), "attribute '_terms'"),
    "property": (lambda m, t: fitted(t, "VAE", exact="x"), "attribute 'exact'"),
    "object attribute": (lambda m, t: first(t, "ClassifierAdapter").update(predict="x"), "ClassifierAdapter.predict"),
    "object slot": (lambda m, t: first(t, "ColumnRules").update(__class__="x"), "ColumnRules.__class__"),
    "unknown parameter": (lambda m, t: parameters(t, "VAE", command="id"), "the parameter 'command'"),
    "wrong parameter": (lambda m, t: parameters(t, "PLACEExplainer", max_steps="many"), "max_steps='many' is no int"),
    "refused parameter": (lambda m, t: parameters(t, "PLACEExplainer", training_budget=-1.0), "must be positive"),
    "explainer as part": (lambda m, t: fitted(t, "PLACEExplainer", coordinates_={"array": "scale_"}),
                          "coordinates_ as ndarray"),
    "classes of text": (lambda m, t: fitted(t, "PLACEExplainer", classes_="abc"), "classes_ as str"),
    "missing": (lambda m, t: list(nodes(t, "PLACEExplainer"))[-1]["fitted"].pop("density_"), "no density_"),
    "missing fields": (lambda m, t: first(t, "ModuleScores").pop("kind"), "parts are missing"),
    "same": (lambda m, t: fitted(t, "PLACEExplainer", density_={"same": 10**9}), "1000000000"),
    "device": (lambda m, t: m.update(device="meta"), "device 'meta'"),
    "device path": (lambda m, t: m.update(device="cpu:/etc/passwd"), "Nothing was loaded"),
    "dtype": (lambda m, t: fitted(t, "PLACEExplainer", dtype_={"dtype": "object"}), "dtype 'object'"),
    "integers": (lambda m, t: fitted(t, "PLACEExplainer", dtype_={"dtype": "int64"}), "int64"),
    "no tree": (lambda m, t: m.pop("tree"), "tree"), "empty": (lambda m, t: m.update(tree={}), "Nothing was loaded"),
    "list": (lambda m, t: m.update(tree=[]), "a list in place"),
    "given of text": (lambda m, t: m.update(given="x"), "given"),
    "newer": (lambda m, t: m.update(format=2), "newer cfexplain.*pip install --upgrade"),
}

HUGE = 10**12
SIZES = {
    "latent": (lambda t: fitted(t, "VAE", latent_dim_=HUGE), "of which the file holds"),
    "latent too large for a tensor": (lambda t: fitted(t, "VAE", latent_dim_=10**30), "not a whole explainer"),
    "negative latent": (lambda t: fitted(t, "VAE", latent_dim_=-3), "not a whole explainer"),
    "hidden": (lambda t: parameters(t, "VAE", hidden={"tuple": [HUGE]}), "of which the file holds"),
    "many layers": (lambda t: parameters(t, "VAE", hidden={"tuple": [1] * 10**5}), "100000 layers in"),
    "columns": (lambda t: first(t, "Layout").update(user_shape={"tuple": [HUGE]}, net_shape={"tuple": [HUGE]}),
                "not a whole explainer"),
    "negative columns": (lambda t: first(t, "Layout").update(user_shape={"tuple": [-4]}, net_shape={"tuple": [-4]}),
                         "samples of the shapes"),
    "flow": (lambda t: parameters(t, "ConditionalFlow", hidden_features={"tuple": [10**6, 10**6]}),
             "of which the file holds"),
    "flow of one layer": (lambda t: parameters(t, "ConditionalFlow", hidden_features={"tuple": [HUGE]}),
                          "not a whole explainer"),
    "transforms": (lambda t: parameters(t, "ConditionalFlow", transforms=HUGE), "of transforms=1000000000000 in"),
    "features": (lambda t: fitted(t, "ConditionalFlow", n_features_in_=HUGE), "of which the file holds"),
    "classifier": (lambda t: first(t, "ClassifierNet").update(n_classes=HUGE), "of which the file holds"),
    "negative classes": (lambda t: first(t, "ClassifierNet").update(n_classes=-3), "of the sizes"),
    "classes as text": (lambda t: first(t, "ClassifierNet").update(n_classes="3"), "of the sizes"),
    "truth as size": (lambda t: first(t, "ClassifierNet").update(n_classes=True), "of the sizes"),
    "image": (lambda t: first(t, "ClassifierNet").update(net_shape=[3, HUGE, HUGE]), "not a whole explainer"),
    "members": (lambda t: first(t, "LatentEnsemble").update(members=HUGE), "of which the file holds"),
    "ensemble": (lambda t: first(t, "LatentEnsemble").update(sizes=[4, HUGE, 256, 3]), "of which the file holds"),
    "ensemble of layers": (lambda t: first(t, "LatentEnsemble").update(sizes=[1] * 10**5), "of the sizes"),
}


def rewritten(saved, tmp_path, change):
    """The saved file after ``change(meta, arrays)``, with a digest that is right again."""
    _, _, arrays, meta = saved
    arrays, meta = dict(arrays), copy.deepcopy(meta)
    change(meta, arrays)
    path = tmp_path / "changed"
    write_arrays(path, arrays, meta)
    return path


def refused(path, message=None):
    with pytest.raises(ValueError, match=message) as error:
        CounterfactualExplainer.load(path)
    assert os.fspath(path) in str(error.value)


def test_a_file_from_before_an_attribute_was_there_is_read(saved, tmp_path):
    """The class has a value for it."""
    explainer, *_ = saved

    def change(meta, arrays):
        first(meta["tree"], "ClassifierAdapter").pop("bias")

    again = cfexplain.load(rewritten(saved, tmp_path, change))
    assert again.classifier_.bias is None and type(again) is type(explainer)


def test_the_helpers_change_nothing_by_themselves(saved, tmp_path):
    X = load_iris().data[:3].astype(np.float32)
    again = CounterfactualExplainer.load(rewritten(saved, tmp_path, lambda meta, arrays: None))
    np.testing.assert_array_equal(again.explain(X, 1).x_cf, saved[0].explain(X, 1).x_cf)
    state = again.coordinates.random_state.get_state()
    np.testing.assert_array_equal(state[1], saved[0].coordinates.random_state.get_state()[1])


@pytest.mark.parametrize("name", CLASSES)
def test_only_the_package_s_classes_are_made_and_only_data_is_set(name, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change, message = CLASSES[name]
    refused(rewritten(saved, tmp_path, lambda meta, arrays: change(meta, meta["tree"])), message)
    assert os.listdir(tmp_path) == ["changed"]


@pytest.mark.parametrize("name", SIZES)
def test_sizes_that_the_file_does_not_hold_are_refused_before_they_are_made(name, saved, tmp_path):
    change, message = SIZES[name]
    refused(rewritten(saved, tmp_path, lambda meta, arrays: change(meta["tree"])), message)


@pytest.mark.parametrize("change", [
    {"hidden": {"tuple": [10**6, 10**6]}}, {"steps": 10**12}, {"steps": -1}, {"hidden": {"tuple": [10**12]}},
    {"architecture": "os.system"}, {"checkpoint": "/tmp/x"}])
def test_flows_of_tables_are_as_large_as_their_weights(flow_saved, tmp_path, change):
    refused(rewritten(flow_saved, tmp_path, lambda meta, arrays: parameters(meta["tree"], "Flow", **change)))


def test_a_file_does_not_say_where_a_later_fit_writes(flow_saved):
    explainer, path, _, _ = flow_saved
    assert explainer.generator.checkpoint and cfexplain.load(path).generator.checkpoint is None
    assert b"checkpoint" not in path.read_bytes()


NUMBERS = [{"float": "1e3"}, {"float": "__import__"}, float("nan"), float("inf"), -float("inf"), {"scalar": ["object", 1]},
           {"scalar": ["float32", "id"]}, {"scalar": ["str", 3]}, {"scalar": ["float32", [1]]}, {"array": "nothing"},
           {"array": ["scale_"]}, {"tensor": ["classes_", "meta"]}, {"tuple": {"a": 1}}, {"dict": [[[1], 2]]}, {},
           {"tuple": [], "array": "scale_"}]


@pytest.mark.parametrize("node", NUMBERS, ids=str)
def test_numbers_that_are_none(node, saved, tmp_path):
    refused(rewritten(saved, tmp_path, lambda meta, arrays: parameters(meta["tree"], "PLACEExplainer", target=node)))


def test_a_random_state_does_not_point_outside_its_key(saved, tmp_path):
    for place, value in ((2, 10**6), (2, -1), (0, "PCG64"), (4, "x")):
        def change(meta, arrays, place=place, value=value):
            for fields in nodes(meta["tree"], "VAE"):
                if isinstance(fields["parameters"]["random_state"], dict):
                    fields["parameters"]["random_state"]["random_state"][place] = value
        refused(rewritten(saved, tmp_path, change))
    for strange in (np.zeros(10, np.uint32), np.zeros(624)):
        refused(rewritten(saved, tmp_path, lambda meta, arrays, strange=strange: arrays.update(
            {array_of(arrays, "random_state"): strange})), "damaged RandomState")


def test_weights_of_other_shapes_and_kinds(saved, tmp_path):
    for i, (name, array) in enumerate(saved[2].items()):
        if "module" in name or "flow_." in name or "opinions_." in name:
            strange = (array[..., None], array.astype(np.int8), array.astype("U9"))[i % 3]
            refused(rewritten(saved, tmp_path, lambda meta, arrays, strange=strange, name=name: arrays.update(
                {name: strange})), "not a whole explainer")
        if i % 4 == 0:
            refused(rewritten(saved, tmp_path, lambda meta, arrays, name=name: arrays.pop(name)), "not a whole explainer")
    refused(rewritten(saved, tmp_path, lambda meta, arrays: arrays.update(more=np.ones(3))), "more, which belongs to no")


def test_parts_that_do_not_fit_each_other(saved, tmp_path):
    for name, strange in (("column_rules_.held", np.ones(3, bool)), ("column_rules_.held", np.ones(4)),
                          ("scale_", np.ones(3)),
                          ("class_features_.whiten", np.ones((3, 2, 2), np.float32)),
                          ("class_features_.distances[0]", np.ones(0)), ("log_densities_[1]", np.ones((2, 2)))):
        refused(rewritten(saved, tmp_path, lambda meta, arrays, name=name, strange=strange: arrays.update(
            {array_of(arrays, name): strange})), "not a whole explainer")


def raw(arrays, content, **header):
    """A file around any text as its JSON, with the digest that belongs to it."""
    known = {"format": "cfexplain", "version": "1", "content": content, "digest": arrays_digest(content, arrays)}
    return safetensors.numpy.save(dict(arrays), metadata={**known, **header})


def content_of(data):
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size])["__metadata__"]["content"]


def tensors_of(data):
    return safetensors.numpy.load(data)


def in_content(change):
    return lambda data: raw(tensors_of(data), change(content_of(data)))


BYTES = {
    "pickle": lambda data: pickle.dumps(Bomb()), "empty": lambda data: b"", "header only": lambda data: data[:8],
    "half": lambda data: data[: len(data) // 2], "longer": lambda data: data + b"\0" * 64,
    **{f"header of {n}": lambda data, n=n: struct.pack("<Q", n) + data[8:]
       for n in (0, 1, 10**6, 10**8 + 1, 2**40, 2**63, 2**64 - 1)},
    "NaN": in_content(lambda text: text.replace('"confidence": 0.99', '"confidence": NaN')),
    "Infinity": in_content(lambda text: text.replace('"confidence": 0.99', '"confidence": Infinity')),
    "overflow": in_content(lambda text: text.replace('"confidence": 0.99', '"confidence": 1e999')),
    "duplicate": in_content(lambda text: text.replace('"confidence": 0.99', '"confidence": 0.99, "confidence": 0.5')),
    "duplicate tag": in_content(lambda text: text.replace('"kind": "explainer"', '"kind": "x", "kind": "explainer"')),
    "nested": in_content(lambda text: "[" * 100_000 + "]" * 100_000),
    "digits": in_content(lambda text: text.replace('"confidence": 0.99', '"confidence": ' + "9" * 5000)),
    "no object": in_content(lambda text: "3"), "no JSON": in_content(lambda text: "import os"),
    "text of a gigabyte": in_content(lambda text: text.replace('"texts": {', '"texts": {"scale_": {"dtype": "<U99999999", '
                                                               '"values": ["a"]}, ', 1)),
    "text of objects": in_content(lambda text: text.replace('"texts": {', '"texts": {"scale_": {"dtype": "|O", '
                                                            '"values": [{"a": 1}]}, ', 1)),
    "version": lambda data: with_header(data, lambda header: header["__metadata__"].update(version="3")),
    "version -1": lambda data: with_header(data, lambda header: header["__metadata__"].update(version="-1")),
    "huge tensor": lambda data: with_header(data, lambda header: header["scale_"].update(shape=[10**12])),
    "overlap": lambda data: with_header(data, lambda header: header["scale_"].update(data_offsets=[0, 16])),
    "outside": lambda data: with_header(data, lambda header: header["scale_"].update(data_offsets=[2**62, 2**62 + 16])),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_of_every_strange_kind(name, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = saved[1].read_bytes()
    strange = BYTES[name](data)
    assert strange != data
    (tmp_path / "strange").write_bytes(strange)
    refused(tmp_path / "strange")
    with pytest.raises(ValueError):
        cfexplain.load("strange")
    assert os.listdir(tmp_path) == ["strange"]


def test_what_is_no_file_and_files_of_other_things(saved, tmp_path):
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "a" / ".." / ".." / "b"):
        with pytest.raises(FileNotFoundError):
            CounterfactualExplainer.load(path)
        with pytest.raises(FileNotFoundError):
            read_kind(path)
    write_arrays(tmp_path / "other", {}, {"kind": "os.system"})
    with pytest.raises(ValueError, match="holds 'os.system'"):
        cfexplain.load(tmp_path / "other")
    write_arrays(tmp_path / "none", {"a": np.ones(2)}, {})
    refused(tmp_path / "none", "'something'; expected an explainer")


def test_names_of_arrays_are_no_paths(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def change(meta, arrays):
        name = array_of(arrays, "scale_")
        arrays["../../etc/passwd"] = arrays.pop(name)
        known, moved = json.dumps({"array": name}), json.dumps({"array": "../../etc/passwd"})
        assert known in json.dumps(meta["tree"])
        meta["tree"] = json.loads(json.dumps(meta["tree"]).replace(known, moved))
    path = rewritten(saved, tmp_path, change)
    assert CounterfactualExplainer.load(path).scale_.shape == (4,)
    assert os.listdir(tmp_path) == ["changed"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), near_the_start=st.booleans(), cut=st.booleans())
def test_flipped_bits_and_truncations(saved, tmp_path_factory, place, bit, near_the_start, cut):
    explainer, original, _, _ = saved
    data = bytearray(original.read_bytes())
    at = int(place * (20_000 if near_the_start else len(data)))
    if cut:
        data = data[:at]
    else:
        data[at] ^= 1 << bit
    path = tmp_path_factory.mktemp("damaged") / "explainer"
    path.write_bytes(data)
    try:
        again = CounterfactualExplainer.load(path)
    except ValueError as error:
        assert os.fspath(path) in str(error)
    else:  # a bit of padding may change without a meaning
        assert not cut and again.get_params(deep=False).keys() == explainer.get_params(deep=False).keys()


def places(node, path=()):
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.sampled_from(
        ["os.system", "VAE", "", "cpu", "scale_", "nan"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["object", "array", "tensor", "given", "same", "tuple", "dict", "float", "dtype", "device", "scalar", "x"]),
        inner, max_size=2), max_leaves=6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_other_json_is_refused_or_harmless(saved, tmp_path_factory, data):
    _, _, arrays, meta = saved
    meta = copy.deepcopy(meta)
    known = list(places(meta))[1:]
    path = known[data.draw(st.integers(0, len(known) - 1))]
    at = meta
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = data.draw(ANYTHING)
    file = tmp_path_factory.mktemp("mutated") / "explainer"
    write_arrays(file, arrays, meta)
    try:
        again = CounterfactualExplainer.load(file)
    except ValueError as error:
        assert os.fspath(file) in str(error)
    else:
        assert type(again) is PLACEExplainer


def test_an_explainer_of_another_device(saved, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    explainer, _, _, _ = saved

    def change(meta, arrays):
        text = json.dumps(meta["tree"]).replace('"device": "cpu"', '"device": "cuda:0"')
        meta.update(tree=json.loads(text), device="cuda:0")
        parameters(meta["tree"], "PLACEExplainer", device="cuda:0")

    path = rewritten(saved, tmp_path, change)
    refused(path, "sees no CUDA device. Load it with device='cpu'")
    again = cfexplain.load(path, device="cpu")
    X = load_iris().data[:3].astype(np.float32)
    np.testing.assert_array_equal(again.explain(X, 1).x_cf, explainer.explain(X, 1).x_cf)
    assert again.device == "cpu" and str(again.device_) == "cpu"
