"""Images with their channels last are read as what they are, and come back so, with the bits of channels first."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

import cfexplain
from cfexplain import DiffeomorphicExplainer, GradientExplainer, PLACEExplainer
from cfexplain.coordinates import VAE, Identity
from cfexplain.foundation.arrays import Layout, read_channels
from cfexplain.metrics import ssim

rng = np.random.RandomState(0)
FIRST = rng.rand(40, 3, 12, 10).astype(np.float32)
y = np.arange(40) % 2
FIRST[y == 1, 0] *= 0.5
LAST = np.ascontiguousarray(FIRST.transpose(0, 2, 3, 1))
NOISE = rng.rand(40, 3, 12, 10).astype(np.float32)  # of which an untrained network says nothing about y
SMALL = {"training_budget": 0.002, "max_steps": 4, "random_state": 0}
pytestmark = pytest.mark.filterwarnings("ignore")


def moved(images):
    return images.transpose(0, 2, 3, 1)


@pytest.mark.parametrize(("shape", "read", "sure"), [
    ((3, 28, 28), "first", True), ((28, 28, 3), "last", True), ((28, 28, 1), "last", True), ((60, 40, 4), "last", True),
    ((1, 4, 4), "first", True), ((4, 4, 1), "last", True), ((512, 4, 4), "first", True), ((13, 64, 64), "first", True),
    ((3, 28, 3), "first", False), ((3, 3, 3), "first", False), ((64, 64, 13), "first", False)])
def test_the_shape_tells_where_channels_are(shape, read, sure):
    assert read_channels(shape) == (read, sure)


@pytest.fixture(scope="module")
def place():
    return PLACEExplainer(**SMALL).fit(FIRST, y), PLACEExplainer(**SMALL).fit(LAST, y)


def test_results_have_the_bits_of_channels_first(place):
    first, last = (explainer.explain(images[:5], record_path=True)
                   for explainer, images in zip(place, (FIRST, LAST), strict=True))
    assert place[1].layout_ == Layout((12, 10, 3), (3, 12, 10), "last") and last.metadata["channels"] == "last"
    assert last.x_cf.shape == (5, 12, 10, 3) and last.x_cf.flags.c_contiguous
    for name in ("x", "x_cf", "reconstruction"):
        np.testing.assert_array_equal(getattr(last, name), moved(getattr(first, name)))
    np.testing.assert_array_equal(last.z_cf, first.z_cf)
    for a, b in zip(place[0].decode_path(first), place[1].decode_path(last), strict=True):
        np.testing.assert_array_equal(b.x, moved(a.x))
    assert (ssim(last.x, last.x_cf, sigma=1.0) == ssim(first.x, first.x_cf, sigma=1.0)).all()


def test_tensors_files_stores_pictures_and_reports_know_the_layout(place, tmp_path):
    explainer, images = place[1], LAST[:5]
    cf = explainer.explain(images, record_path=True)
    out = explainer.transform(torch.from_numpy(images))
    assert isinstance(out, torch.Tensor) and (out.numpy() == cf.x_cf).all()
    explainer.save(tmp_path / "explainer.safetensors")
    assert (cfexplain.load(tmp_path / "explainer.safetensors").explain(images).x_cf == cf.x_cf).all()
    cf.save(tmp_path / "cf.safetensors")
    assert cfexplain.load(tmp_path / "cf.safetensors").metadata["channels"] == "last"
    assert (explainer.explain_to(tmp_path / "rows", images, block_size=2).concatenate().x_cf == cf.x_cf).all()
    cf.to_html(tmp_path / "report.html", explainer=explainer)
    cf.plot()
    cfexplain.evaluate({"place": explainer}, images)


def test_a_model_is_fed_what_it_takes():
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 10 * 8, 2))
    a, b = (PLACEExplainer(conv, **SMALL).fit(images, y).explain(images[:4]) for images in (NOISE, moved(NOISE)))
    np.testing.assert_array_equal(b.x_cf, moved(a.x_cf))
    rows = KNeighborsClassifier().fit(LAST.reshape(40, -1), y)  # flat rows in the user's own order
    explainer = PLACEExplainer(rows, **SMALL).fit(LAST, y)
    assert (explainer.predict(LAST) == rows.predict(LAST.reshape(40, -1))).all()

    class Keras:
        classes_ = np.array([0, 1])

        def predict(self, images):
            assert images.shape[1:] == (12, 10, 3)
            return (images[..., 0].mean((1, 2)) < 0.4).astype(int)

    explainer = PLACEExplainer(Keras(), **SMALL).fit(LAST, y)
    assert (explainer.predict(LAST) == Keras().predict(LAST)).all()


def test_a_module_that_flattens_sees_its_own_order():
    order = nn.Sequential(nn.Flatten(), nn.Linear(360, 2))
    explainer = PLACEExplainer(order, **SMALL).fit(moved(NOISE), y)
    said = order(torch.from_numpy(moved(NOISE).copy())).argmax(1).detach().numpy()
    assert (explainer.predict(moved(NOISE)) == said).all()


def test_flat_rows_and_regions_and_coordinates():
    a = PLACEExplainer(image_shape=(3, 12, 10), **SMALL).fit(FIRST.reshape(40, -1), y).explain(FIRST[:3].reshape(3, -1))
    b = PLACEExplainer(image_shape=(12, 10, 3), **SMALL).fit(LAST.reshape(40, -1), y).explain(LAST[:3].reshape(3, -1))
    np.testing.assert_array_equal(b.x_cf.reshape(3, 12, 10, 3), moved(a.x_cf.reshape(3, 3, 12, 10)))
    region = np.zeros((12, 10, 3), dtype=bool)
    region[2:6] = True
    cf = GradientExplainer(region=region, **SMALL).fit(LAST, y).explain(LAST[:3])
    assert (cf.x_cf[:, ~region] == LAST[:3][:, ~region]).all()
    for coordinates in (VAE(training_budget=0.002, random_state=0), Identity()):
        fitted = coordinates.fit(LAST)
        assert fitted.inverse_transform(fitted.transform(LAST[:2])).shape == (2, 12, 10, 3)


def test_the_parameter_decides_and_doubt_is_said():
    assert PLACEExplainer(channels="first", **SMALL).fit(rng.rand(20, 6, 6, 3), y[:20]).layout_.net_shape == (6, 6, 3)
    assert PLACEExplainer(channels="last", **SMALL).fit(rng.rand(20, 6, 6, 8), y[:20]).layout_.net_shape == (8, 6, 6)
    with pytest.warns(UserWarning, match=r"read as \(C, H, W\).*channels=\"last\"") as caught:
        Identity().fit(rng.rand(20, 3, 28, 3))
    assert caught[0].filename == __file__
    with pytest.raises(ValueError, match="channels"):
        Identity(channels="middle").fit(LAST)


def test_odd_sides_name_what_works():
    with pytest.raises(ValueError, match=r"generator=Flow\(pad=True\)"):
        DiffeomorphicExplainer(**SMALL).fit(rng.rand(40, 7, 7), y)
