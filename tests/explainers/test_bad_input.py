"""What each method of another paper does, against its own formula."""

import re
import warnings

import numpy as np
import pytest
import scipy.sparse
import torch

from cfexplain import (
    PLACEExplainer,
    REVISEExplainer,
)
from cfexplain.foundation.exceptions import ClassifierOutputError, DataRangeError, NotFittedError, TargetError

pytestmark = pytest.mark.usefixtures("quietly")


def small(**parameters):
    return PLACEExplainer(random_state=0, training_budget=0.02, **parameters)


@pytest.fixture
def images(digits):
    return digits[0][:200].copy(), digits[1][:200].copy()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(images, image_explainer, value):
    X, y = images
    X[3, 2, 2] = value
    for call in (lambda: small().fit(X, y), lambda: image_explainer.explain(X)):
        with pytest.raises(ValueError, match="NaN|infinity"):
            call()


def test_integers_and_values_outside_the_range(images, image_explainer):
    X, y = images
    with pytest.raises(DataRangeError, match=r"integers.*/ 255"):
        small().fit((X * 255).astype(np.uint8), y)
    with pytest.raises(DataRangeError, match="data_range="):
        small().fit(X * 16, y)
    with pytest.raises(DataRangeError, match="data_range="):
        image_explainer.explain(X - 1)
    with pytest.raises(DataRangeError, match="data_range="):
        small(image_shape=(1, 8, 8)).fit(X.reshape(-1, 64) * 16, y)


def test_float16(images, image_explainer):
    X, y = images
    for call in (lambda: small().fit(X.astype(np.float16), y), lambda: image_explainer.explain(X.astype(np.float16))):
        with pytest.raises(TypeError, match="float32"):
            call()


def test_wrong_shape_against_fit(image_explainer, table_explainer, digits, table):
    with pytest.raises(ValueError, match=r"\(7, 8\).*\(8, 8\)"):
        image_explainer.explain(digits[2][:, :7])
    with pytest.raises(ValueError, match="9 features"):
        table_explainer.explain(table[2][:, :9])
    with pytest.raises(ValueError, match="at most 3 dimensions"):
        image_explainer.explain(digits[2][:2, None, None, None])


def test_empty(images, image_explainer):
    X, y = images
    for call in (lambda: small().fit(X[:0], y[:0]), lambda: image_explainer.explain(X[:0])):
        with pytest.raises(ValueError, match="0 sample"):
            call()


def test_classes(images):
    X, y = images
    with pytest.raises(ValueError, match="1 class"):
        small().fit(X, np.zeros(len(X), int))
    lonely = y.copy()
    lonely[0] = 77
    with pytest.raises(ValueError, match="77.*1 row"):
        small().fit(X, lonely)
    with pytest.raises(ValueError, match="y"):
        small().fit(X, None)


def test_messages_show_plain_numbers_and_texts(images):
    X, y = images
    words = np.array([f"class {label}" for label in y])
    words[0] = "lonely"
    for call, shown in ((lambda: small().fit(X, words), "class 'lonely'"),
                        (lambda: small().fit(X, words[:1].repeat(len(X))), "class ('lonely')"),
                        (lambda: small(confidence=np.float64(25.0)).fit(X, y), "confidence=25.0 must"),
                        (lambda: small(max_steps=np.int64(-1)).fit(X, y), "max_steps=-1 must")):
        with pytest.raises(ValueError, match=re.escape(shown)) as error:
            call()
        assert "np." not in str(error.value)


def test_unknown_and_misshapen_targets(image_explainer, digits):
    x = digits[2][:4]
    with pytest.raises(TargetError, match="12.*classes are"):
        image_explainer.explain(x, 12)
    with pytest.raises(TargetError, match="3 labels for 4 rows"):
        image_explainer.explain(x, [1, 2, 3])
    with pytest.raises(TargetError, match="shape"):
        image_explainer.explain(x, np.zeros((4, 2)))
    with pytest.raises(TargetError):
        image_explainer.explain(x, "nine")


def test_classifier_that_does_not_match(images):
    X, y = images
    narrow = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 7))
    with pytest.raises(ClassifierOutputError, match="7.*10"):
        small(classifier=narrow).fit(X, y)


def test_classifier_that_gives_nan(images):
    X, y = images
    broken = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with torch.no_grad():
        broken[1].bias[3] = torch.nan
    with pytest.raises(ClassifierOutputError, match="(?i)nan|finite"):
        small(classifier=broken).fit(X, y)


def test_unfitted(images):
    for call in ("explain", "transform", "predict", "predict_proba", "score_samples", "score"):
        with pytest.raises(NotFittedError):
            getattr(small(), call)(images[0])


def test_data_on_another_device(image_explainer):
    with pytest.raises(ValueError, match=r"X\.cpu\(\)"):
        image_explainer.explain(torch.zeros(2, 8, 8, device="meta"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(images):
    with pytest.raises(ValueError, match="no CUDA device"):
        small(device="cuda").fit(*images)


def test_sparse(table):
    X, y, _, _ = table
    with pytest.raises(TypeError, match="(?i)sparse"):
        small().fit(scipy.sparse.csr_matrix(X), y)


def test_objects(images, table):
    X, y = images
    named = np.array([["a", "b"]] * 10, dtype=object)
    with pytest.raises(ValueError, match="could not convert string"):
        small().fit(named, y[:10])


def test_read_only_and_strided_arrays_work(image_explainer, digits):
    x = digits[2][:6]
    expected = np.asarray(image_explainer.explain(x))
    frozen = x.copy()
    frozen.setflags(write=False)
    strided = np.repeat(x, 2, axis=0)[::2]
    fortran = np.asfortranarray(x)
    for given in (frozen, strided, fortran, torch.from_numpy(x.copy())):
        np.testing.assert_array_equal(np.asarray(image_explainer.explain(given)), expected)


@pytest.mark.parametrize(("parameters", "message"), [
    ({"decision": "odds"}, "logit"),
    ({"plausibility": "high"}, "typical"),
    ({"start": "middle"}, "swap"),
    ({"update": "sgd"}, "adam"),
    ({"stop": "soon"}, "conditions"),
    ({"detail": "all"}, "blend"),
    ({"confidence": 1.0}, "strictly between"),
    ({"distance_weight": -1.0}, "at least 0"),
])
def test_parameters_of_the_search(image_explainer, digits, parameters, message):
    before = {name: getattr(image_explainer, name) for name in parameters}
    try:
        with pytest.raises(ValueError, match=message):
            image_explainer.set_params(**parameters).explain(digits[2][:2], 3)
    finally:
        image_explainer.set_params(**before)


@pytest.mark.parametrize(("parameters", "message"), [
    ({"coordinates": "pca"}, "autoencoder"),
    ({"data_range": (1.0, 0.0)}, "low < high"),
    ({"training_budget": 0}, "positive"),
    ({"max_steps": -1}, "whole number from 0 to"),
    ({"immutable": [0]}, "images"),
])
def test_parameters_of_the_fit(images, parameters, message):
    with pytest.raises(ValueError, match=message):
        PLACEExplainer(**{"training_budget": 0.02, **parameters}).fit(*images)


@pytest.mark.parametrize(("parameters", "message"), [
    ({"immutable": ["age"]}, "age"),
    ({"immutable": [99]}, "99"),
    ({"bounds": {0: (2, 1)}}, "empty"),
    ({"bounds": {0: 3}}, "pair"),
    ({"detail": "blend"}, "table"),
])
def test_rules_for_columns(table, parameters, message):
    X, y, X_test, _ = table
    with pytest.raises(ValueError, match=message):
        small(**parameters).fit(X, y).explain(X_test[:2])


def test_unknown_preset():
    with pytest.raises(ValueError, match="place-mnist"):
        PLACEExplainer.preset("mnist")


def test_a_preset_that_is_not_known():
    with pytest.raises(ValueError, match="carla"):
        REVISEExplainer.preset("carl")


WRONG = [
    *((name, value, ValueError) for name in ("max_steps", "refine", "batch_size", "training_budget", "step_size", "tau",
                                             "distance_weight", "confidence") for value in (-1, np.inf, np.nan)),
    *((name, value, TypeError) for name in ("max_steps", "step_size", "training_budget", "distance_weight")
      for value in ("1", [1], True, object())),
    *(("tau", value, TypeError) for value in ([1], True, object())), ("tau", "1", ValueError),
    ("batch_size", 0, ValueError), ("batch_size", 10**9, ValueError), ("max_steps", 1.5, ValueError),
    ("max_steps", 10**30, ValueError), ("data_range", "ab", TypeError), ("data_range", (0, np.nan), ValueError),
    ("image_shape", (0, 8, 8), ValueError), ("typical_quantile", 1.5, ValueError), ("device", "gpu", ValueError),
    ("device", "meta", ValueError), ("update", ["adam"], ValueError), ("random_state", "x", ValueError),
]


@pytest.mark.parametrize(("name", "value", "error"), WRONG)
def test_one_clear_error_at_the_call_that_gave_a_parameter(images, name, value, error):
    with pytest.raises(error, match=name if name != "random_state" else "seed"):
        small().set_params(**{name: value}).fit(*images)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, value, _ in WRONG
                                             if name not in ("device", "random_state")])
def test_a_parameter_set_after_fit_is_checked_by_explain_and_explain_to(image_explainer, digits, tmp_path, name, value):
    before = getattr(image_explainer, name)
    try:
        image_explainer.set_params(**{name: value})
        for call in (lambda: image_explainer.explain(digits[2][:2]), lambda: image_explainer.explain_to(
                tmp_path / "store", digits[2][:2]), lambda: next(image_explainer.explain_iter(digits[2][:2]))):
            with pytest.raises((ValueError, TypeError), match=name):
                call()
        assert not (tmp_path / "store").exists()  # a folder would name the wrong parameters for good
    finally:
        image_explainer.set_params(**{name: before})


@pytest.mark.parametrize(("name", "value"), [("n_jobs", "2"), ("n_jobs", 1.5), ("backend", 3), ("precision", [])])
def test_options_of_explain(image_explainer, digits, name, value):
    with pytest.raises((ValueError, TypeError), match=name):
        image_explainer.explain(digits[2][:2], **{name: value})


def what_newcomers_pass():
    """Name, the call, and words of the message: what came, and how to mend it."""
    from PIL import Image
    from torch.utils.data import DataLoader, TensorDataset

    rng = np.random.RandomState(0)
    X, y = rng.rand(40, 8, 8).astype(np.float32), np.arange(40) % 2
    pictures = [Image.fromarray(np.uint8(255 * x)) for x in X]
    rows, names = X.reshape(40, -1)[:, :3], np.array(["no", "yes"])[y]
    data = TensorDataset(torch.from_numpy(X), torch.from_numpy(y))
    frame = pytest.importorskip("pandas").DataFrame(rows, columns=["age", "debt", "income"])
    gap, text = frame.copy(), frame.assign(job=names)
    gap.iloc[7, 1] = np.nan
    yield "pictures", lambda: small().fit(pictures, y), r"list of pictures of Pillow.*np.stack\(X\) / np.float32\(255\)"
    yield "picture", lambda: small().fit(pictures[0], y), r"a picture of Pillow.*np.asarray\(X\)\[None\]"
    yield "loader", lambda: small().fit(DataLoader(data)), r"DataLoader.*torch.cat"
    yield "dataset", lambda: small().fit(data), r"TensorDataset.*torch.stack"
    yield "no labels", lambda: small().fit(X), "requires y"
    yield "swapped", lambda: small().fit(y, X), r"shape \(40,\).*samples come first"
    yield "one-hot", lambda: small().fit(X, np.eye(2)[y]), r"argmax\(1\)"
    yield "values for labels", lambda: small().fit(rows, rng.rand(40)), "task='regression'"
    yield "a gap", lambda: small().fit(gap, y), r"NaN.*column 'debt', first in row 7; 1 of 40.*explain_pipeline"
    yield "text", lambda: small().fit(text, y), r"\['job'\] hold no numbers.*explain_pipeline"
    yield "weights", lambda: small(classifier=torch.nn.Linear(3, 2).state_dict()).fit(rows, y), "load_state_dict"
    yield "a path", lambda: small(classifier="net.pt").fit(rows, y), r"torch.load\(path\)"
    yield "a density's name", lambda: small(density="kernl").fit(rows, y), "Did you mean 'kernel'"
    yield "a target's name", lambda: small().fit(rows, names).explain(rows[:2], "yess"), "Did you mean 'yes'"
    yield "a target's kind", lambda: small().fit(rows, y).explain(rows[:2], "1"), "Did you mean 1"


@pytest.mark.parametrize("case", list(what_newcomers_pass()), ids=lambda case: case[0])
def test_what_newcomers_pass_is_told_with_its_fix(case):
    _, call, words = case
    with pytest.raises((TypeError, ValueError), match=f"(?s){words}"):
        call()


def test_channels_at_the_other_end_and_lists_of_arrays():
    X, y = np.random.RandomState(0).rand(40, 3, 8, 8).astype(np.float32), np.arange(40) % 2
    explainer = small().fit(list(X), y)  # as if they were stacked
    assert explainer.layout_.net_shape == (3, 8, 8)
    with pytest.raises(ValueError, match=r"come last: pass np.moveaxis\(X, -1, 1\)"):
        explainer.explain(np.moveaxis(X[:2], 1, -1))
    tensors = [torch.from_numpy(x) for x in X[:2]]
    np.testing.assert_array_equal(explainer.explain(tensors).x_cf, explainer.explain(X[:2]).x_cf)


def test_flattened_images_are_noticed_and_tables_are_not():
    X, y = np.random.RandomState(0).rand(40, 784).astype(np.float32).round(1), np.arange(40) % 2
    for pixels, words in ((X, r"X.reshape\(-1, 1, 28, 28\), or"), (255 * X, r"X.reshape\(-1, 1, 28, 28\) / 255")):
        with pytest.warns(UserWarning, match=words):
            small().fit(pixels, y)
    for table in (X[:, :30], X - 0.5, (X > 0.5).astype(np.float32)):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "X has .* columns, as many as")
            small().fit(table, y)
