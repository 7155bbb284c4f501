"""A dcGAN of our own learns and inverts digits."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits

from cfexplain.coordinates import GAN, Inversion, invert
from cfexplain.foundation.exceptions import DataRangeError


@pytest.fixture(scope="module")
def digits():
    return (load_digits().images / 16).astype(np.float32)


@pytest.fixture(scope="module")
def gan(digits):
    return GAN(latent_dim=12, width=8, training_budget=0.12, inversion=Inversion(steps=20, restarts=2),
               random_state=0).fit(digits)


def test_a_gan_learns_and_inverts_digits(gan, digits):
    samples = gan.sample(500, random_state=0)
    assert samples.shape == (500, 8, 8) and samples.min() >= 0 and samples.max() <= 1
    # pixel by pixel like the data, and not one picture
    assert np.abs(samples.mean(0) - digits.mean(0)).mean() < 0.08
    assert samples.std(0).mean() > 0.6 * digits.std(0).mean()
    held = digits[:60]
    back = gan.inverse_transform(gan.transform(held))
    assert np.square(back - held).mean() < 0.5 * np.square(digits.mean(0) - held).mean()
    assert gan.inversion_error_.shape == (256,)
    np.testing.assert_array_equal(gan.sample(2, random_state=1), gan.sample(2, random_state=1))
    assert {"generator_loss", "discriminator_loss"} <= set(gan.history_[-1])


def test_a_row_of_a_gan_has_the_same_bits_in_any_company(gan, digits):
    images = digits[:40]
    Z, order = gan.transform(images), np.random.default_rng(1).permutation(40)
    np.testing.assert_array_equal(gan.transform(images[order]), Z[order])
    np.testing.assert_array_equal(gan.transform(images[33:34]), Z[33:34])


def test_the_encoders_guess_is_where_the_inversion_begins(gan, digits):
    x = torch.from_numpy(digits[:20, None])
    guess = gan.module_.encoder(x)
    own = np.sqrt(np.square(gan.decode(guess).numpy() - x.numpy()).mean((1, 2, 3)))
    z, error = invert(gan.decode, x, 12, Inversion(steps=0, restarts=1), guess)
    torch.testing.assert_close(z, guess)
    np.testing.assert_allclose(error, own, rtol=1e-5)
    assert (gan.module_.invert(x)[1].numpy() < own).mean() > 0.9


def test_networks_rest_and_a_gan_can_be_stored(gan, digits):
    assert not any(p.requires_grad for p in gan.module_.parameters())
    assert not any(part.training for part in gan.module_.modules())
    again = pickle.loads(pickle.dumps(gan))
    np.testing.assert_array_equal(again.transform(digits[:2]), gan.transform(digits[:2]))
    assert clone(gan).get_params() == gan.get_params()
    rebuilt = gan._make_module()
    rebuilt.load_state_dict(gan.module_.state_dict())
    x = torch.from_numpy(digits[:2, None])
    assert torch.equal(rebuilt.encode(x), gan.module_.encode(x))


def test_training_follows_the_seed_and_leaves_the_global_generators_alone(digits):
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    quick = {"latent_dim": 3, "width": 4, "training_budget": 0.004, "inversion": Inversion(steps=2, restarts=1)}
    one, two, other = (GAN(**quick, random_state=seed).fit(digits[:70]).sample(2, 0) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert not np.allclose(one, other)
    assert (np.random.get_state()[1] == numpy_state).all() and torch.equal(torch.random.get_rng_state(), torch_state)
    flat = GAN(**quick, random_state=0, image_shape=(1, 8, 8), data_range=(-1.0, 1.0))
    flat.fit(2 * digits[:70].reshape(70, -1).astype(np.float64) - 1)
    np.testing.assert_allclose(flat.sample(2, 0).reshape(2, 8, 8), 2 * one - 1, atol=1e-3)
    assert flat.transform(np.zeros((2, 64))).dtype == np.float64


@pytest.mark.parametrize(("make", "error", "words"), [
    (lambda: GAN(latent_dim=0), ValueError, "latent_dim=0"), (lambda: GAN(lr=-1), ValueError, "lr"),
    (lambda: GAN(training_budget=0), ValueError, "training_budget"), (lambda: GAN(width=1.5), ValueError, "width"),
    (lambda: GAN(inversion=3), TypeError, "Inversion"), (lambda: GAN(data_range=(-3, -1)), DataRangeError, "data_range")])
def test_bad_parameters_of_a_gan(digits, make, error, words):
    with pytest.raises(error, match=words):
        make().fit(digits[:20])
    with pytest.raises(ValueError, match="table of 64 columns"):
        GAN().fit(digits[:20].reshape(20, -1))
