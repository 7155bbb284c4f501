"""Tangent spaces against dense Jacobians and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zuko
from scipy.linalg import subspace_angles
from sklearn.exceptions import NotFittedError
from torch import nn

from cfexplain.coordinates import VAE, Identity, PretrainedCoordinates
from cfexplain.datasets import helix_distance, make_helix
from cfexplain.geometry import tangent_space
from cfexplain.nets.image_flows import MultiScale


class Model(nn.Module):
    """Any two functions as networks."""

    def __init__(self, encode, decode, *modules):
        super().__init__()
        self.functions, self.parts = (encode, decode), nn.ModuleList(modules)

    def encode(self, x):
        return self.functions[0](x)

    def decode(self, z):
        return self.functions[1](z)


def as_coordinates(model, X, **kwargs):
    return PretrainedCoordinates(model, standardize=False, **kwargs).fit(X)


def dense_svd(coordinates, X):
    """Jacobians (n, D, d) one row at a time by torch's own reverse mode, and their decomposition by NumPy."""
    x = torch.from_numpy(X).reshape(-1, *coordinates.layout_.net_shape)
    z = coordinates.encode(x).detach()
    J = np.stack([torch.autograd.functional.jacobian(lambda row: coordinates.decode(row[None])[0].flatten(), row)
                  for row in z])
    return J, *np.linalg.svd(J, full_matrices=False)


def check_against_dense(space, coordinates, X, atol=1e-6):
    _, U, S, Vt = dense_svd(coordinates, X)
    k = space.codes.shape[1]
    np.testing.assert_allclose(space.singular_values, S[:, :k], atol=atol)
    np.testing.assert_allclose(space.spectrum, S[:, :k] ** 2, atol=10 * atol)
    vectors = space.vectors.reshape(len(X), k, -1)
    for row in range(len(X)):
        assert subspace_angles(vectors[row].T, U[row, :, :k]).max() < 1e-5
        assert subspace_angles(space.codes[row].T, Vt[row, :k].T).max() < 1e-5
    for frame in (vectors, space.codes):
        np.testing.assert_allclose(frame @ frame.transpose(0, 2, 1), np.broadcast_to(np.eye(k), (len(X), k, k)), atol=1e-10)
    largest = np.take_along_axis(space.codes, np.abs(space.codes).argmax(2)[:, :, None], 2)
    assert (largest > 0).all()


@pytest.fixture(scope="module")
def helix_flow():
    """A zuko flow on the helix, trained for a few seconds, in float64."""
    X, _ = make_helix(2000, noise=0.05, random_state=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = zuko.flows.NICE(3, transforms=6, hidden_features=(64, 64))
        rows = torch.from_numpy(X).float() / 2
        optimiser = torch.optim.Adam(flow.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=220)
        for _ in range(220):
            batch = rows[torch.randint(len(rows), (256,))]
            optimiser.zero_grad()
            (-flow().log_prob(batch).mean()).backward()
            nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
            optimiser.step()
            schedule.step()
    flow = flow.double().requires_grad_(False)
    model = Model(lambda x: flow().transform(x / 2), lambda z: 2 * flow().transform.inv(z), flow)
    return as_coordinates(model, X), make_helix(40, random_state=1)[0]


@pytest.fixture(scope="module")
def thin():
    """x = h(t) + a n₁ / 50 + b n₂ / 50 around the helix h: a diffeomorphism with a known Jacobian."""
    def decode(z):
        t = z[:, 2]
        return torch.stack([t.sin() + z[:, 0] / 50, t.cos() + z[:, 1] / 50, t], 1)

    def encode(x):
        t = x[:, 2]
        return torch.stack([50 * (x[:, 0] - t.sin()), 50 * (x[:, 1] - t.cos()), t], 1)

    X, _ = make_helix(50, random_state=0)
    return as_coordinates(Model(encode, decode), X), X


def random_map(d, width, shape, seed=0):
    """A smooth nonlinear map from codes to samples, and some map back."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        values = int(np.prod(shape))
        decoder = nn.Sequential(nn.Linear(d, width), nn.Tanh(), nn.Linear(width, values), nn.Unflatten(1, shape))
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(values, d))
        X = torch.randn(35, *shape, dtype=torch.float64).numpy()
    return PretrainedCoordinates(encoder.double(), decoder.double(), data_range=(-9, 9)).fit(X), X


def test_closed_form_of_a_thin_helix(thin):
    coordinates, X = thin
    space = tangent_space(coordinates, X, 3, random_state=0)
    t = X[:, 2]
    # J = [e₁/50, e₂/50, (cos t, −sin t, 1)]: γ = J Jᵀ by hand
    tangent = np.stack([np.cos(t), -np.sin(t), np.ones_like(t)], 1)
    gamma = tangent[:, :, None] * tangent[:, None] + np.diag([1, 1, 0]) / 50**2
    np.testing.assert_allclose(space.spectrum, np.linalg.eigvalsh(gamma)[:, ::-1], atol=1e-12)
    rebuilt = np.einsum("nka,nk,nkb->nab", space.vectors, space.spectrum, space.vectors)
    np.testing.assert_allclose(rebuilt, gamma, atol=1e-12)
    assert (space.residuals < 1e-12).all()


def test_a_trained_flow_of_the_helix(helix_flow):
    coordinates, X = helix_flow
    check_against_dense(tangent_space(coordinates, X, 3, random_state=0), coordinates, X)
    space = tangent_space(coordinates, X, 1, random_state=0)
    along = np.stack([np.cos(X[:, 2]), -np.sin(X[:, 2]), np.ones(len(X))], 1)
    across = np.stack([np.sin(X[:, 2]), np.cos(X[:, 2]), np.zeros(len(X))], 1)
    assert np.median(space.share(along)) > 0.95 and np.median(space.share(across)) < 0.05  # figure 7, left
    full = tangent_space(coordinates, X, 3, random_state=0)
    assert np.median(full.intrinsic_dimension("gap")) == 1 and np.median(full.intrinsic_dimension("participation")) < 1.1


@pytest.mark.parametrize(("d", "shape", "k"), [(6, (20,), 3), (12, (5,), 5), (4, (2, 5, 6), 4), (1, (9,), 1)], ids=str)
def test_exact_where_the_sketch_is_wide_enough(d, shape, k):
    coordinates, X = random_map(d, 24, shape)
    space = tangent_space(coordinates, X, k, oversample=12, n_iter=0, random_state=3)
    check_against_dense(space, coordinates, X)
    assert space.residuals.max() < 1e-10


def test_power_iterations_converge_where_the_sketch_is_narrow():
    coordinates, X = random_map(30, 40, (33,))
    J, U, S, _ = dense_svd(coordinates, X)
    errors = []
    for n_iter in (0, 2, 6, 40):
        space = tangent_space(coordinates, X, 4, n_iter=n_iter, oversample=5, random_state=0)
        errors.append(np.abs(space.singular_values - S[:, :4]).max())
        # J v − σ u by the dense matrix; an exact singular value lies within it
        by_hand = np.einsum("nab,nkb->nka", J, space.codes) - space.singular_values[:, :, None] * space.vectors
        np.testing.assert_allclose(space.residuals, np.linalg.norm(by_hand, axis=2), atol=1e-10)
        nearest = np.abs(space.singular_values[:, :, None] - S[:, None]).min(2)
        assert (nearest <= space.residuals + 1e-10).all()
    assert errors[0] > errors[1] > errors[2] > errors[3] and errors[3] < 1e-6
    check_against_dense(space, coordinates, X)


def test_decoders_with_a_backward_pass_of_their_own():
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            ctx.save_for_backward(z)
            return z**3

        @staticmethod
        def backward(ctx, gradient):
            return 3 * ctx.saved_tensors[0] ** 2 * gradient

    X = np.random.default_rng(0).uniform(1, 2, size=(7, 4))
    coordinates = as_coordinates(Model(lambda x: x ** (1 / 3), Cube.apply), X)
    space = tangent_space(coordinates, X, 4, random_state=0)
    np.testing.assert_allclose(space.singular_values, np.sort(3 * X ** (2 / 3), axis=1)[:, ::-1], rtol=1e-10)


def test_images_by_a_vae_and_what_they_cost(digits):
    X = digits[0]
    vae = VAE(latent_dim=16, training_budget=0.05, width=8, random_state=0).fit(X)
    calls, decode = [], vae.module_.decode
    vae.module_.decode = lambda z: calls.append(z.shape) or decode(z)
    space = tangent_space(vae, X[:40], 5, random_state=0)
    assert calls == [(32, 16), (32, 16)]  # one forward pass a tile
    del vae.module_.decode
    assert space.vectors.shape == (40, 5, 8, 8) and space.codes.shape == (40, 5, 16) and len(space) == 40
    assert {a.dtype for a in (space.vectors, space.codes, space.singular_values, space.z)} == {np.dtype("float32")}
    np.testing.assert_array_equal(space.z, vae.transform(X[:40]))
    _, _, S, _ = dense_svd(vae, X[:40])
    np.testing.assert_allclose(space.singular_values, S[:, :5], rtol=0.02)
    full = tangent_space(vae, X[:40], 5, oversample=11, random_state=0)
    np.testing.assert_allclose(full.singular_values, S[:, :5], rtol=1e-4)


def test_a_row_has_the_same_bits_in_any_company(digits):
    X = digits[0][:40, :7, :7]  # 49 pixels and 13 latents: no matrix begins where the vector units like it
    vae = VAE(latent_dim=13, training_budget=0.02, width=8, random_state=0).fit(X)
    together = tangent_space(vae, X, 3, random_state=0)
    order = np.random.default_rng(0).permutation(40)
    shuffled = tangent_space(vae, X[order], 3, random_state=0)
    alone = tangent_space(vae, X[17:18], 3, random_state=0)
    for name in ("vectors", "codes", "singular_values", "residuals"):
        np.testing.assert_array_equal(getattr(shuffled, name), getattr(together, name)[order])
        np.testing.assert_array_equal(getattr(alone, name), getattr(together, name)[17:18])


def test_seeds_reproduce_and_global_generators_stay(digits):
    X = digits[0][:5]
    vae = VAE(training_budget=0.01, width=8, random_state=0).fit(digits[0][:200])
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    spaces = [tangent_space(vae, X, 2, n_iter=0, oversample=0, random_state=seed).vectors for seed in (1, 1, 2)]
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(spaces[0], spaces[1])
    assert np.abs(spaces[0] - spaces[2]).max() > 1e-3
    assert not any(p.requires_grad for p in vae.module_.parameters())


def test_images_by_a_multi_scale_flow(digits):
    X = digits[0][:33].astype(np.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = MultiScale((1, 8, 8), levels=2, steps=2, hidden=8).double()
        flow.initialise(torch.from_numpy(X)[:, None] + 0.1 * torch.randn(33, 1, 8, 8))
        for parameter in flow.parameters():
            parameter.requires_grad_(False).add_(0.05 * torch.randn_like(parameter))
    coordinates = as_coordinates(Model(flow.encode, flow.pull, flow), X)
    wide = tangent_space(coordinates, X, 64, random_state=0)
    check = slice(30, 33)
    _, _, S, _ = dense_svd(coordinates, X[check])
    np.testing.assert_allclose(wide.singular_values[check], S, atol=1e-6 * S.max())
    # at d = D every step is tangent, and so is every change of x that the flow can make
    delta = np.random.default_rng(0).normal(size=X.shape)
    np.testing.assert_allclose(wide.share(delta), 1)
    np.testing.assert_allclose(wide.project(delta), delta, atol=1e-9)


def test_intrinsic_dimension_of_known_spectra():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(6, 8))
    scales = torch.tensor([3.0, 2.0, 2.0, 0.1, 0.1, 0.05, 0.01, 0.01], dtype=torch.float64)
    space = tangent_space(as_coordinates(Model(lambda x: x / scales, lambda z: z * scales), X), X, 8, random_state=0)
    eigenvalues = np.sort(scales.numpy() ** 2)[::-1]
    np.testing.assert_allclose(space.spectrum, np.tile(eigenvalues, (6, 1)), rtol=1e-10)
    assert space.intrinsic_dimension().tolist() == space.intrinsic_dimension("gap").tolist() == [3] * 6
    assert space.intrinsic_dimension(0.5).tolist() == [1] * 6 and space.intrinsic_dimension(0.4).tolist() == [3] * 6
    assert space.intrinsic_dimension(1e-6).tolist() == [8] * 6
    np.testing.assert_allclose(space.intrinsic_dimension("participation"), eigenvalues.sum() ** 2 / (eigenvalues**2).sum())
    equal = tangent_space(Identity().fit(X), X, 5, random_state=0)
    np.testing.assert_allclose(equal.intrinsic_dimension("participation"), 5)
    assert equal.intrinsic_dimension(0.999).tolist() == [5] * 6


def test_a_gap_to_zero_is_the_first_of_rounding_not_the_largest():
    X = np.random.default_rng(0).normal(size=(4, 6))
    keep = torch.tensor([1.0, 1.0, 0, 0, 0, 0], dtype=torch.float64)
    space = tangent_space(as_coordinates(Model(lambda x: x, lambda z: z * keep), X), X, 6, random_state=0)
    assert space.intrinsic_dimension("gap").tolist() == [2] * 4


def test_project_and_share_against_dense_projectors(helix_flow):
    coordinates, X = helix_flow
    space = tangent_space(coordinates, X, 2, random_state=0)
    delta = np.random.default_rng(0).normal(size=X.shape)
    projector = np.einsum("nka,nkb->nab", space.vectors, space.vectors)
    expected = np.einsum("nab,nb->na", projector, delta)
    np.testing.assert_allclose(space.project(delta), expected, atol=1e-12)
    np.testing.assert_allclose(space.share(delta), (expected**2).sum(1) / (delta**2).sum(1), atol=1e-12)
    np.testing.assert_allclose(space.share(expected), 1)
    np.testing.assert_allclose(space.share(delta - expected), 0, atol=1e-12)
    assert np.isnan(space.share(np.zeros_like(X))).all()
    as_tensor = space.project(torch.from_numpy(delta).float())
    assert as_tensor.dtype == torch.float32 and as_tensor.shape == delta.shape
    assert space.project(delta.astype(np.float32)).dtype == np.float32
    assert space.project(delta.tolist()).dtype == np.float64


def test_steps_on_the_manifold_follow_the_helix(thin):
    coordinates, X = thin
    line = tangent_space(coordinates, X, 1, random_state=0)
    delta = np.tile([0.0, 0.0, 1.5], (len(X), 1))
    stepped = line.step_on_manifold(delta)
    assert helix_distance(stepped, bounds=None).max() < 1e-3 < helix_distance(X + line.project(delta), bounds=None).min()
    np.testing.assert_allclose(line.step_on_manifold(0 * delta), X, atol=1e-12)
    # to first order it is the projection
    small = 1e-5 * delta
    np.testing.assert_allclose(line.step_on_manifold(small) - X, line.project(small), atol=1e-9)
    # all directions: z + J⁻¹ δ
    J, *_ = dense_svd(coordinates, X)
    full = tangent_space(coordinates, X, 3, random_state=0)
    z = coordinates.transform(X) + np.linalg.solve(J, delta[:, :, None])[:, :, 0]
    np.testing.assert_allclose(full.step_on_manifold(delta), coordinates.inverse_transform(z), atol=1e-8)


def test_directions_of_no_length_take_no_step():
    X = np.random.default_rng(0).normal(size=(4, 3))
    keep = torch.tensor([2.0, 1.0, 0], dtype=torch.float64)
    space = tangent_space(as_coordinates(Model(lambda x: x, lambda z: z * keep), X), X, 3, random_state=0)
    np.testing.assert_allclose(space.step_on_manifold(np.ones((4, 3))), X * keep.numpy() + [1, 1, 0], atol=1e-12)


def test_layouts_and_kinds(digits):
    images = digits[0][:6].astype(np.float64)
    coordinates = Identity().fit(images)
    one = tangent_space(coordinates, images, 2, random_state=0)
    two = tangent_space(coordinates, torch.from_numpy(images), 2, random_state=0)
    assert one.vectors.shape == (6, 2, 8, 8)
    np.testing.assert_array_equal(one.vectors, two.vectors)
    rows = images.reshape(6, 64)
    flat = tangent_space(Identity(image_shape=(1, 8, 8)).fit(rows), rows, 2, random_state=0)
    np.testing.assert_array_equal(flat.vectors, one.vectors.reshape(6, 2, 64))
    assert repr(one) == "TangentSpace(6 points, 2 directions, samples of shape (8, 8), codes of length 64)"


def test_bad_input(thin):
    coordinates, X = thin
    for kwargs, message in [({"k": 4}, "3 singular values"), ({"k": 0}, "k=0 must be"), ({"k": 1.5}, "k=1.5"),
                            ({"k": 1, "n_iter": -1}, "n_iter=-1"), ({"k": 1, "oversample": "2"}, "oversample='2'")]:
        with pytest.raises(ValueError, match=message):
            tangent_space(coordinates, X, **kwargs)
    with pytest.raises(ValueError, match="NaN"):
        tangent_space(coordinates, np.full((2, 3), np.nan), 1)
    with pytest.raises(TypeError, match="explainer.coordinates_"):
        tangent_space(nn.Linear(3, 3), X, 1)
    with pytest.raises(NotFittedError):
        tangent_space(Identity(), X, 1)
    with pytest.raises(TypeError, match="no gradient"):
        tangent_space(as_coordinates(Model(lambda x: x, lambda z: z.detach()), X), X, 1)
    space = tangent_space(coordinates, X, 1, random_state=0)
    with pytest.raises(ValueError, match=r"\(50, 3\), got \(49, 3\)"):
        space.share(X[:-1])
    with pytest.raises(ValueError, match=r"rows \[4\]"):
        space.project(np.where(np.arange(50)[:, None] == 4, np.nan, X))
    with pytest.raises(ValueError, match="k=2 or more"):
        space.intrinsic_dimension("gap")
    for rule in ("knee", 0, 1.0, -0.1):
        with pytest.raises(ValueError, match="is not known"):
            space.intrinsic_dimension(rule)
    still = as_coordinates(Model(lambda x: x, lambda z: 0 * z), X)
    with pytest.raises(ValueError, match="does not change"):
        tangent_space(still, X, 2).intrinsic_dimension()
