"""Losses of reconstructions against their definition."""

import numpy as np
import torch
from scipy import stats

from cfexplain.nets.losses import edges_loss, normal_loss


def test_the_loss_of_edges_is_a_negative_log_density_of_pixels_and_of_edges():
    errors = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 2, 6, 8)))
    halved = errors.reshape(5, 2, 3, 2, 4, 2).mean((3, 5))
    edges = (errors - torch.nn.Upsample(scale_factor=2, mode="bilinear")(halved)).numpy()
    pixels = -stats.norm.logpdf(errors, scale=np.sqrt(np.square(errors).mean())) - np.log(2 * np.pi) / 2
    of_edges = -stats.laplace.logpdf(edges, scale=np.abs(edges).mean()) - np.log(2)
    expected = pixels.sum((1, 2, 3)) + 4 * of_edges.sum((1, 2, 3))
    np.testing.assert_allclose(edges_loss(errors), expected, rtol=1e-9)


def test_its_weights_do_not_depend_on_the_unit_and_perfect_images_are_finite():
    errors = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 1, 8, 8))).requires_grad_()
    slope, = torch.autograd.grad(edges_loss(errors).sum(), errors)
    tenth = (errors.detach() / 10).requires_grad_()
    np.testing.assert_allclose(torch.autograd.grad(edges_loss(tenth).sum(), tenth)[0], 10 * slope, rtol=1e-9)
    assert torch.isfinite(edges_loss(torch.zeros(3, 3, 5, 7))).all() and edges_loss(torch.ones(3, 1, 2, 3)).shape == (3,)


def test_edges_of_three_colours_are_those_of_brightness():
    grey = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 1, 8, 8)))
    hue = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)[None, :, None, None] * grey.flip(0) / 10
    pixels = {name: normal_loss(errors) for name, errors in {"grey": grey.expand(-1, 3, -1, -1), "hues": grey + hue}.items()}
    of_edges = edges_loss(grey.expand(-1, 3, -1, -1)) - pixels["grey"]
    np.testing.assert_allclose(of_edges, 3 * (edges_loss(grey) - normal_loss(grey)), rtol=1e-9)
    np.testing.assert_allclose(edges_loss(grey + hue) - pixels["hues"], of_edges, rtol=1e-9)
