"""Whatever is passed to the public API: it works, or a documented error says what was expected. Seeds are fixed."""

import json
import re
import warnings

import numpy as np
import pytest
import torch
from scale_jobs import make_explainer, make_image_explainer

import cfexplain
from cfexplain import (
    CLARITYExplainer,
    ClassDirectionExplainer,
    Counterfactuals,
    DiffeomorphicExplainer,
    Evaluation,
    GradientExplainer,
    LeapExplainer,
    PLACEExplainer,
    PrototypeExplainer,
    REVISEExplainer,
)
from cfexplain.coordinates import GAN, VAE, Autoencoder, Flow
from cfexplain.density import ConditionalFlow

EXPLAINERS = (CLARITYExplainer, ClassDirectionExplainer, DiffeomorphicExplainer, GradientExplainer, LeapExplainer,
              PLACEExplainer, PrototypeExplainer, REVISEExplainer)
VALUES = (
    None, True, False, 0, 1, -1, 2, 3, 10**9, 10**30, -0.5, 0.5, 1.5, np.nan, np.inf, -np.inf, "", "x", "1", "auto", "cpu",
    "cuda:99", "meta", b"x", [], [1], (), (1, 2), (0.0, 1.0), (1, 0), (np.nan, 1), {}, {"a": 1}, {1}, object(), int, len,
    np.float32(0.5), np.int64(2), np.bool_(True), np.array([1, 2]), np.array("x"), np.zeros((2, 2)), 1j, torch.tensor(1.0),
    torch.tensor([1, 2]), torch.nn.Linear(4, 3), float("1e-320"), 1e308, range(3), slice(2))
DTYPES = ("f4", "f8", "f2", "i1", "u1", "i8", "u8", "?", "O", "U3", "S3", "c8", "M8[s]", "m8[s]", "V4")


class Fuzzer:
    """Draws inputs, and calls; what is no documented error is told with the call that raised it."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def one(self, among):
        return among[int(self.rng.integers(len(among)))]

    def value(self):
        return self.one(VALUES)

    def array(self, like):
        """An array, list, tensor or frame, more or less like `like`."""
        shape = list(like.shape)
        shape[0] = int(self.rng.integers(0, 4))
        if self.rng.random() < 0.3:
            shape = [int(n) for n in self.rng.integers(0, 5, self.rng.integers(0, 6))]
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            X = np.resize(like, shape)
            if self.rng.random() < 0.4:
                X = self.rng.normal(0, self.one((1e-320, 1, 1, 1, 10, 1e30, 1e308)), shape)
            X = X.astype(self.one(DTYPES) if self.rng.random() < 0.4 else self.one(("f4", "f8")))
        if X.size and self.rng.random() < 0.3 and X.dtype.kind in "fO":
            strange = (np.nan, np.inf, -np.inf, 1e300) if X.dtype.kind == "f" else (None, "x", True, 10**30, b"x")
            with np.errstate(all="ignore"):
                X.flat[int(self.rng.integers(X.size))] = self.one(strange)
        kind = self.rng.random()
        if kind < 0.1:
            return X.tolist()
        if kind < 0.25 and X.dtype.kind in "fiu?" and X.dtype != "u8":
            kinds = (torch.float32, torch.float64, torch.bfloat16, torch.int32, torch.float16)
            return torch.from_numpy(np.ascontiguousarray(X)).to(self.one(kinds))
        if kind < 0.35 and X.ndim == 2 and X.dtype.kind != "V":
            pandas = pytest.importorskip("pandas")
            frame = pandas.DataFrame(X)
            frame.index = self.one((frame.index, frame.index[::-1], frame.index.astype(str)))
            return frame
        return X[::-1] if kind < 0.45 and X.ndim else np.asfortranarray(X) if kind < 0.55 else X

    def call(self, call, *errors):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                return call()
            except (ValueError, TypeError, *errors) as error:
                message = str(error)
                assert len(message) > 12 and re.search(r"[A-Za-z]{3}", message), f"{error!r} says nothing"
                return None


@pytest.fixture(scope="module")
def table():
    return make_explainer().set_params(max_steps=2)


@pytest.fixture(scope="module")
def image():
    return make_image_explainer().set_params(max_steps=2)


@pytest.fixture(params=["table", "image"])
def fitted(request):
    return request.getfixturevalue(request.param)


def repr_or_number(value):
    return value if isinstance(value, int) else repr(value)


MANY = pytest.param(2_000, marks=pytest.mark.slow)


@pytest.mark.parametrize("n", [40, MANY])
def test_samples_and_targets(fitted, n):
    fuzzer = Fuzzer(1)
    like = np.random.RandomState(0).rand(4, *fitted.layout_.user_shape)
    for _ in range(n):
        X = fuzzer.array(like)
        usual = (0, 1, 2, None, [1], [0, 1, 2], np.array([1, 1]))
        target = fuzzer.value() if fuzzer.rng.random() < 0.5 else fuzzer.one(usual)
        cf = fuzzer.call(lambda X=X, target=target: fitted.explain(X, target))
        assert cf is None or np.isfinite(cf.x_cf[cf.valid]).all()
        for name in ("predict", "score_samples", "transform"):
            fuzzer.call(lambda name=name, X=X: getattr(fitted, name)(X))


@pytest.mark.parametrize("n", [60, MANY])
def test_parameters_and_options(fitted, n):
    fuzzer, before = Fuzzer(2), fitted.get_params(deep=False)
    X = np.random.RandomState(0).rand(2, *fitted.layout_.user_shape)
    names = [name for name in before if name != "classifier"]
    for _ in range(n):
        changed = {fuzzer.one(names): fuzzer.value()}
        options = {fuzzer.one(("n_jobs", "backend", "precision")): fuzzer.value()} if fuzzer.rng.random() < 0.3 else {}
        if 10**9 in map(repr_or_number, changed.values()) or isinstance(options.get("n_jobs"), (int, np.integer)):
            continue  # which would do what it says
        try:
            fuzzer.call(lambda c=changed, o=options: fitted.set_params(**c).explain(X, 1, **o), ImportError)
        finally:
            fitted.set_params(**before)


@pytest.mark.parametrize("n", [100, pytest.param(8_000, marks=pytest.mark.slow)])
def test_parameters_before_anything_is_trained(n):
    """A fit on rows that are refused: parameters come first, and nothing is trained."""
    fuzzer, X, y = Fuzzer(3), np.full((6, 4), np.nan), [0, 1, 2] * 2
    for _ in range(n):
        kind = fuzzer.one((*EXPLAINERS, VAE, Autoencoder, Flow, GAN, ConditionalFlow))
        names = [name for name in kind().get_params(deep=False)]
        chosen = {fuzzer.one(names): fuzzer.value() for _ in range(2)}
        assert fuzzer.call(lambda k=kind, c=chosen: k(**c).fit(X, y)) is None


@pytest.fixture
def saved(table, tmp_path):
    """Paths of a result, an evaluation and an explainer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cf = table.explain(np.random.RandomState(0).rand(3, 4), 1, record_path=True)
        cf.save(tmp_path / "cf")
        Evaluation({"a": cf, "b": cf}, metrics=["l2"], n_bootstrap=9).save(tmp_path / "evaluation")
        table.save(tmp_path / "explainer")
    return {name: tmp_path / name for name in ("cf", "evaluation", "explainer")}


@pytest.mark.parametrize("n", [60, MANY])
def test_files(saved, tmp_path, n):
    fuzzer, files = Fuzzer(4), {name: path.read_bytes() for name, path in saved.items()}
    for _ in range(n):
        name = fuzzer.one(sorted(files))
        data = bytearray(files[name])
        for _ in range(int(fuzzer.rng.integers(1, 4))):
            place = int(fuzzer.rng.integers(len(data)) * fuzzer.one((1.0, 0.01)))
            way = fuzzer.rng.integers(4)
            if way == 0:
                data[place] ^= 1 << int(fuzzer.rng.integers(8))
            elif way == 1:
                del data[place:]
            elif way == 2:
                data[place:place] = fuzzer.rng.bytes(3)
            else:
                data[place : place + 4] = fuzzer.one((b"null", b"[[[[", b'{"":', b"1e99", b"-1,0"))
            data = data or bytearray(b"x")
        (tmp_path / "damaged").write_bytes(data)
        for load in (Counterfactuals.load, Evaluation.load, REVISEExplainer.load, cfexplain.load):
            fuzzer.call(lambda load=load: load(tmp_path / "damaged"))


def mutated(fuzzer, tree):
    """`tree` with one value in it replaced."""
    if isinstance(tree, dict) and tree and fuzzer.rng.random() < 0.85:
        name = fuzzer.one(sorted(tree))
        return {**tree, name: mutated(fuzzer, tree[name])}
    if isinstance(tree, list) and tree and fuzzer.rng.random() < 0.7:
        place = int(fuzzer.rng.integers(len(tree)))
        return [mutated(fuzzer, value) if i == place else value for i, value in enumerate(tree)]
    return fuzzer.one((None, True, 0, -1, 2, 10**30, 1e308, float("nan"), "", "x", [], [1], [[]], {}, {"a": 1}))


@pytest.mark.parametrize("n", [60, MANY])
def test_files_with_other_content_and_the_right_digest(saved, tmp_path, n):
    from cfexplain.foundation.files import read_arrays, write_arrays

    fuzzer, files = Fuzzer(5), {name: read_arrays(path) for name, path in saved.items()}
    for _ in range(n):
        arrays, meta = files[fuzzer.one(sorted(files))]
        arrays = dict(arrays)
        if fuzzer.rng.random() < 0.5:
            meta = mutated(fuzzer, meta)
        else:
            name = fuzzer.one(sorted(arrays))
            array = arrays.pop(name)
            change = fuzzer.rng.integers(5)
            if change:
                arrays[name] = (array[..., None], array[:0], array.astype(object).astype(str), array.ravel())[
                    change - 1] if array.ndim else np.zeros(2)
        if not isinstance(meta, dict):
            continue
        write_arrays(tmp_path / "strange", arrays, meta)
        for load in (Counterfactuals.load, Evaluation.load, cfexplain.load):
            found = fuzzer.call(lambda load=load: load(tmp_path / "strange"))
            if isinstance(found, (Counterfactuals, Evaluation)):
                fuzzer.call(found.summary)


@pytest.mark.parametrize("n", [60, pytest.param(1_500, marks=pytest.mark.slow)])
def test_manifests(table, tmp_path, n):
    fuzzer, X = Fuzzer(6), np.random.RandomState(0).rand(30, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table.explain_to(tmp_path, X, 1, block_size=20)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for _ in range(n):
        (tmp_path / "manifest.json").write_text(json.dumps(mutated(fuzzer, manifest)))
        store = fuzzer.call(lambda: cfexplain.load_results(tmp_path), OSError)
        if store is not None:
            fuzzer.call(lambda store=store: (len(store), repr(store), store[:1]))
        fuzzer.call(lambda: table.explain_to(tmp_path, X, 1, block_size=20), OSError)


@pytest.fixture(scope="module")
def pipeline():
    """A fitted explainer of a mixed table, and rows as it takes them."""
    pandas = pytest.importorskip("pandas")
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    rng = np.random.RandomState(0)
    X = pandas.DataFrame({"age": rng.randint(18, 80, 120), "income": rng.lognormal(3, 1, 120),
                          "job": rng.choice(["cook", "clerk", "pilot"], 120), "member": rng.rand(120) < 0.5})
    y = np.where(X["income"] + X["age"] > 70, "yes", "no")
    prepare = make_column_transformer((StandardScaler(), ["age", "income"]), (OneHotEncoder(), ["job", "member"]))
    pipe = make_pipeline(prepare, LogisticRegression()).fit(X, y)
    small = LeapExplainer(training_budget=0.02, max_steps=2, sparse=False, random_state=0)
    return cfexplain.PipelineExplainer(pipe, small).fit(X, y), X


def strange_frame(fuzzer, X):
    """A few rows of `X` of which something is otherwise."""
    pandas = pytest.importorskip("pandas")
    frame, rng = X.iloc[: int(fuzzer.rng.integers(0, 4))].copy(), fuzzer.rng
    column = fuzzer.one(list(frame.columns))
    change = int(rng.integers(10))
    if change == 0:
        return frame.drop(columns=column)
    if change == 1:
        return frame[frame.columns[::-1]]
    if change == 2:
        return frame.assign(more=1)
    if change == 3:
        return pandas.concat([frame, frame[[column]]], axis=1)
    if change == 4:
        return frame.rename(columns={column: fuzzer.one((0, None, "", "Age", ("a", "b")))})
    if change == 5:
        return fuzzer.one((frame.to_numpy(), frame.to_dict(), frame.values.tolist(), frame[column], None, frame.T))
    if change == 6:
        frame.index = fuzzer.one((frame.index.astype(str), pandas.RangeIndex(len(frame))[::-1], [0] * len(frame)))
        return frame
    dtype = fuzzer.one(("object", "str", "float32", "category", "string", "boolean", "Int64", "datetime64[ns]"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            frame = frame.astype({column: dtype}) if change == 7 else frame.astype({column: object})
            if len(frame) and change > 7:
                frame.loc[frame.index[0], column] = fuzzer.one(
                    (None, np.nan, "x", "", -1, 10**30, np.inf, True, pandas.NA, pandas.Timestamp(0), b"x", 1.5))
        except (ValueError, TypeError):
            pass  # pandas itself does not do that
    return frame


@pytest.mark.parametrize("n", [40, pytest.param(1_500, marks=pytest.mark.slow)])
def test_frames(pipeline, n):
    (explainer, X), fuzzer = pipeline, Fuzzer(7)
    for _ in range(n):
        frame = strange_frame(fuzzer, X)
        options = {}
        if fuzzer.rng.random() < 0.4:
            rule = fuzzer.one(("immutable", "bounds", "monotone"))
            values = {"immutable": (["age"], "job", ["no"], [0]),
                      "bounds": ({"age": (1, 2)}, {"age": (2, 1)}, {"job": ["x"]}, {}),
                      "monotone": ({"age": "increase"}, {"age": "up"}, {"job": "increase"})}[rule]
            options[rule] = fuzzer.value() if fuzzer.rng.random() < 0.4 else fuzzer.one(values)
        target = fuzzer.value() if fuzzer.rng.random() < 0.2 else fuzzer.one(("yes", "no", None))
        cf = fuzzer.call(lambda f=frame, t=target, o=options: explainer.explain(f, t, **o))
        assert cf is None or len(cf) == len(frame)


@pytest.mark.parametrize("n", [60, pytest.param(1_500, marks=pytest.mark.slow)])
def test_configs(tmp_path, capsys, n):
    """A command line that never gets as far as training: its data are not there."""
    from cfexplain.cli import main

    fuzzer, file = Fuzzer(8), tmp_path / "config.toml"
    sections = ("data", "classifier", "explainer", "more", "data.path", "")
    keys = ("path", "size", "channels", "label", "ignore", "file", "import", "weights", "trust", "method", "preset",
            "confidence", "max_steps", "bounds", "random_state", "x", '""')
    values = ('"nowhere"', '""', "1", "-1", "0.5", "nan", "inf", "true", "[1, 2]", "[]", "{a = 1}", '"place"', '"auto"',
              '"x:y"', "1979-05-27", "9" * 30, "[28, 28]", "'a\\b'", '"\\u0000"', "oops", '["a"]', "[[1]]")
    for _ in range(n):
        lines = ['[data]\npath = "nowhere"'] if fuzzer.rng.random() < 0.7 else []
        for _ in range(int(fuzzer.rng.integers(0, 4))):
            section, key, value = fuzzer.one(sections), fuzzer.one(keys), fuzzer.one(values)
            lines.append(f"{f'[{section}]' if fuzzer.rng.random() < 0.6 else ''}\n{key} = {value}")
        content = "\n".join(lines).encode()
        if content and fuzzer.rng.random() < 0.2:
            at = int(fuzzer.rng.integers(len(content)))
            content = content[:at] + bytes(fuzzer.rng.integers(0, 256, 3).astype(np.uint8)) + content[at:]
        file.write_bytes(content)
        given = [f"--set={fuzzer.one(keys)}.{fuzzer.one(keys)}={fuzzer.one(values)}"] if fuzzer.rng.random() < 0.3 else []
        try:
            code = main(["fit", str(file), f"--out={tmp_path / 'out'}", *given])
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr().err
        assert code not in (0, None) and len(said) > 12 and "Traceback" not in said, (content, given, said)
        assert sorted(tmp_path.iterdir()) == [file]
