"""The crowd counter: shapes, gradients, maps, locations of heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from benchmarks.diffeomorphic.counting import CountingUNet, counting_loss, head_locations, head_map, train_counter
from cfexplain.foundation.random import seeded_torch

SIZE = (32, 32)


def unet(width=4, in_channels=3):
    with seeded_torch(0):
        return CountingUNet(width, in_channels)


def blobs(n, seed=0):
    """Dark discs on a light ground, n images with 0 to 5 of them."""
    rng = np.random.default_rng(seed)
    heads = [rng.uniform(3, 29, size=(k % 6, 2)) for k in range(n)]
    maps = head_map(heads, None, SIZE)
    images = 0.8 - 0.6 * maps[:, None] + 0.02 * rng.normal(size=(n, 3, *SIZE))
    return images.clip(0, 1).astype(np.float32), maps, np.array([len(h) for h in heads], dtype=np.float32), heads


@pytest.mark.parametrize(("channels", "size"), [(3, (64, 64)), (1, (32, 48)), (3, (8, 8))])
def test_shapes_and_ranges(channels, size):
    net, x = unet(in_channels=channels).eval(), torch.rand(2, channels, *size)
    count, density = net(x), net.density_map(x)
    assert count.shape == (2, 1) and (count > 0).all()
    assert density.shape == (2, 1, *size) and density.min() >= 0 and density.max() <= 1


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 3, 30, 32), (2, 1, 32, 32)])
def test_images_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="multiples of 8"):
        unet()(torch.rand(shape))


def test_gradients_are_those_of_finite_differences():
    net = unet(width=2, in_channels=1).double().eval()
    with seeded_torch(1):
        x = torch.rand(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(net, x)
    assert torch.autograd.gradcheck(net.density_map, x)


def test_a_count_of_almost_zero_still_has_a_gradient():
    net = unet().eval()
    torch.nn.init.constant_(net.count[-1].bias, -8.0)
    x = torch.rand(1, 3, *SIZE, requires_grad=True)
    count = net(x)
    assert count.item() < 1e-2
    assert torch.autograd.grad(count.log().sum(), x)[0].abs().max() > 0


def test_loss_is_squared_error_and_cross_entropy_a_row():
    images, maps, counts, _ = blobs(3)
    net, x = unet().double().eval(), torch.from_numpy(images).double()
    with torch.no_grad():
        got = counting_loss(net, x, torch.from_numpy(counts), torch.from_numpy(maps).double(), map_weight=0.5)
        count, p = net(x).numpy()[:, 0], net.density_map(x).numpy()[:, 0]
    entropy = -(maps * np.log(p) + (1 - maps) * np.log1p(-p)).sum((1, 2))
    np.testing.assert_allclose(got.numpy(), (count - counts) ** 2 + 0.5 * entropy, rtol=1e-9)


def test_a_small_network_learns_to_count_blobs():
    images, maps, counts, _ = blobs(8)
    net = unet()
    train_counter(net, images, maps, counts, 60, 0, batch_size=8, lr=1e-2, validation_fraction=0)
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    with torch.no_grad():
        found = net(torch.from_numpy(images))[:, 0].numpy()
    assert np.sqrt(np.mean((found - counts) ** 2)) < 0.5


def test_a_seed_reproduces_and_training_leaves_the_global_generator_alone():
    images, maps, counts, _ = blobs(8)
    before, states = torch.random.get_rng_state(), []
    for seed in (0, 0, 1):
        net = unet(width=2)
        train_counter(net, images, maps, counts, 2, seed, batch_size=4)
        states.append(torch.cat([p.flatten() for p in net.parameters()]))
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_arrays_that_do_not_belong_together_are_refused():
    images, maps, counts, _ = blobs(4)
    with pytest.raises(ValueError, match="Expected X"):
        train_counter(unet(), images, maps[:3], counts, 1, 0)
    with pytest.raises(ValueError, match="Expected X"):
        train_counter(unet(), images, maps[:, :16], counts, 1, 0)


def test_head_map_against_a_double_loop():
    heads, offsets = np.array([[4.5, 9.25], [6.0, 9.0], [20.0, 5.0]]), np.array([0, 2, 2, 3])
    maps = head_map(heads, offsets, (12, 24), sigma=1.3)
    assert maps.dtype == np.float32 and maps.shape == (3, 12, 24)
    for image, points in zip(maps, (heads[:2], heads[:0], heads[2:]), strict=True):
        expected = np.ones((12, 24))
        for row in range(12):
            for column in range(24):
                for x, y in points:
                    expected[row, column] *= 1 - np.exp(-((column + 0.5 - x) ** 2 + (row + 0.5 - y) ** 2) / (2 * 1.3**2))
        np.testing.assert_allclose(image, 1 - expected, atol=1e-6)
    np.testing.assert_array_equal(head_map([heads[:2], heads[:0], heads[2:]], None, (12, 24), sigma=1.3), maps)


@pytest.mark.parametrize("sigma", [1.0, 1.5, 3.0])
def test_mass_of_heads_apart(sigma):
    maps = head_map([np.array([[16.2, 15.7], [48.0, 50.3]])], None, (64, 64), sigma)
    np.testing.assert_allclose(maps.sum(), 2 * 2 * np.pi * sigma**2, rtol=1e-3)


def test_head_map_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match="sigma"):
        head_map([np.zeros((1, 2))], None, SIZE, sigma=0)
    with pytest.raises(ValueError, match="number of heads"):
        head_map(np.zeros((3, 2)), np.array([0, 1]), SIZE)


@pytest.mark.parametrize("number", [1, 2, 5, 9])
def test_locations_of_known_heads(number):
    rng = np.random.default_rng(number)
    cells = rng.permutation(16)[:number]
    heads = np.column_stack([cells % 4, cells // 4]) * 16 + rng.uniform(4, 12, size=(number, 2))
    density = 0.9 * head_map([heads], None, (64, 64))[0] + 0.01  # the background has more mass than the heads
    found = head_locations(density, number + 0.3, random_state=0)
    assert found.shape == (number, 2)
    apart = cdist(heads, found)
    assert apart[linear_sum_assignment(apart)].max() < 1.5
    np.testing.assert_array_equal(found, head_locations(torch.from_numpy(density), number - 0.3, random_state=0))


def test_locations_without_heads_and_of_odd_maps():
    assert head_locations(np.zeros(SIZE), 0.2).shape == (0, 2)
    assert head_locations(np.full(SIZE, 1e-4), -0.7).shape == (0, 2)
    lone = np.zeros(SIZE)
    lone[7, 3] = 1.0
    np.testing.assert_allclose(head_locations(lone, 3.0, random_state=0), [[3.5, 7.5]] * 3, atol=0.5)
    assert head_locations(np.full(SIZE, 1e-6), 10.0, random_state=0).shape == (10, 2)
    with pytest.raises(ValueError, match="zero everywhere"):
        head_locations(np.zeros(SIZE), 2.0)
    for bad in (np.zeros((1, *SIZE)), np.full(SIZE, np.nan), np.full(SIZE, -1.0)):
        with pytest.raises(ValueError, match="density_map must be"):
            head_locations(bad, 1.0)


def test_locations_leave_the_global_generator_alone():
    before = np.random.get_state()[1].copy()
    head_locations(head_map([np.array([[5.0, 5.0]])], None, SIZE)[0], 1.0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
