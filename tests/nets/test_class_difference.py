"""What tells like pictures of two classes apart, among latents."""

import numpy as np
import pytest
import torch

from cfexplain.nets.class_difference import differing_places, learn_class_difference

rng = np.random.default_rng(0)
n, shape = 2400, (4, 8, 9)
classes = np.arange(n) % 3
light = rng.normal(size=n)  # what is alike in a whole picture
latents = 0.3 * rng.normal(size=(n, *shape)) + light[:, None, None, None]
# class 1 has something in its middle, the more the lighter it is; class 2 has its contrary
sign = np.array([0.0, 1.0, -1.0])[classes]
latents[:, 0, 3:5, 3:6] += (sign * (1 + 0.5 * light))[:, None, None]
latents = latents.astype(np.float16)


@pytest.fixture(scope="module")
def difference():
    return learn_class_difference(latents, classes, 3, seed=0)


def asked(net, rows, source, target):
    return net(torch.from_numpy(latents[rows].astype(np.float32)), torch.full((len(rows),), source),
               torch.full((len(rows),), target))[0].numpy()


def test_it_is_where_the_classes_differ(difference):
    found = np.abs(asked(difference, np.arange(60), 0, 1))
    assert found[:, 0, 3:5, 3:6].mean() > 8 * found[:, 1:].mean()
    assert not found[:, :, 0].any() and not found[:, :, :, -1].any()
    assert not difference.places[0, 0].any() and difference.places[0, 3, 4] > 0.5


def test_it_depends_on_what_surrounds_the_places(difference):
    """A light picture differs by more than a dark one, as it was made; as much as 400 rows speak against it."""
    rows = np.flatnonzero(classes == 0)[:60]
    found = asked(difference, rows, 0, 1)[:, 0, 3:5, 4].mean(1) / difference.places[0, 3:5, 4].mean().item()
    slope, level = np.polyfit(light[rows], found, 1)
    assert abs(slope - 0.5 * 800 / (800 + 400)) < 0.12 and abs(level - 1) < 0.15


def test_there_and_back_and_nowhere(difference):
    rows = np.arange(20)
    there, back = asked(difference, rows, 1, 2), asked(difference, rows, 2, 1)
    assert np.allclose(there, -back, atol=1e-6) and not asked(difference, rows, 1, 1).any()
    assert np.allclose(there, asked(difference, rows, 1, 0) + asked(difference, rows, 0, 2), atol=1e-5)


def test_the_regression_is_that_of_scikit_learn(difference):
    from sklearn.linear_model import Ridge

    some = latents[classes == 1].astype(np.float32)
    around = difference.surroundings(torch.from_numpy(some)).numpy()[:, 1:]
    ridge = Ridge(alpha=400.0).fit(around, (some - difference.mean.numpy()).reshape(len(some), -1))
    own = difference.surroundings(torch.from_numpy(some[:5])).numpy() @ difference.weights[1].numpy()
    assert np.corrcoef(own.ravel(), ridge.predict(around[:5]).ravel())[0, 1] > 0.999


def test_the_same_bits_whatever_the_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        again = learn_class_difference(latents, classes, 3, seed=0)
        torch.set_num_threads(1)
        once = learn_class_difference(latents, classes, 3, seed=0)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(once.buffers(), again.buffers(), strict=True))


def test_classes_that_do_not_differ():
    noise = rng.normal(size=(200, 2, 5, 5)).astype(np.float32)
    assert differing_places(torch.full((5, 5), -0.1)) is None
    assert learn_class_difference(np.ones_like(noise), np.arange(200) % 2, 2, seed=0) is None
    found = learn_class_difference(noise, np.arange(200) % 2, 2, seed=0)  # by chance, and by little
    assert found is None or found(torch.from_numpy(noise[:9]), torch.zeros(9, dtype=int),
                                  torch.ones(9, dtype=int))[0].square().mean() ** 0.5 < 0.3


def test_what_a_picture_has_of_its_own_has_no_mean(difference):
    rows = np.flatnonzero(classes == 1)
    x, own = torch.from_numpy(latents[rows].astype(np.float32)), torch.full((len(rows),), 1)
    found = difference(x, own, own)[1][:, 0, 3:5, 3:6]
    assert found.mean(0).abs().max() < 0.05 and 0.1 < found.std() < 0.5
