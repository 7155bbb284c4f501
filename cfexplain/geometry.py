"""What a generative model knows of the data manifold: its tangent spaces, from the Jacobian of the decoder.

Diffeomorphic Counterfactuals, section 3: a step along the gradient in Z moves x by γ ∇f, where the inverse metric
γ = J Jᵀ (eq. 14) of a well-trained model is small in all directions that leave the data. The singular value
decomposition J = U Σ Vᵀ (eq. 23) shows these directions. J of an image model is too large to build; the leading part of
its decomposition needs only products with J and Jᵀ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from cfexplain.coordinates import Coordinates
from cfexplain.foundation.arrays import in_container, read_samples, to_numpy
from cfexplain.foundation.random import draw_seed
from cfexplain.foundation.settings import own_modes

__all__ = ["TangentSpace", "tangent_space"]


@dataclass(frozen=True, eq=False, repr=False)
class TangentSpace:
    """Leading directions of the data manifold at n points, as :func:`tangent_space` finds them.

    Attributes
    ----------
    vectors : ndarray of shape (n, k, *sample shape)
        Orthonormal directions u in X (left singular vectors of J), by falling singular value.
    codes : ndarray of shape (n, k, d)
        Orthonormal directions v in Z (right singular vectors): to first order, a step v in Z is the step σu in X. The
        entry of v that is largest in magnitude is positive.
    singular_values : ndarray of shape (n, k)
        σ, in units of X per unit of Z; not negative.
    residuals : ndarray of shape (n, k)
        ‖J v − σ u‖. An exact singular value lies within this of each σ.
    z : ndarray of shape (n, d)
        Codes of the points. The vectors are tangent at decode(z), which is x itself only where the coordinates are exact.
    coordinates : Coordinates
    """

    vectors: np.ndarray
    codes: np.ndarray
    singular_values: np.ndarray
    residuals: np.ndarray
    z: np.ndarray
    coordinates: Coordinates

    def __len__(self) -> int:
        return len(self.z)

    def __repr__(self) -> str:
        n, k, d = self.codes.shape
        return f"TangentSpace({n} points, {k} directions, samples of shape {self.vectors.shape[2:]}, codes of length {d})"

    @property
    def spectrum(self) -> np.ndarray:
        """Eigenvalues σ² of the inverse metric γ = J Jᵀ (eq. 14 and 23), (n, k); their mean over rows is figure 7, right."""
        return self.singular_values**2

    def intrinsic_dimension(self, rule: float | str = "gap") -> np.ndarray:
        """An estimate of the dimension of the data manifold at each point, (n,), from the k leading eigenvalues λ = σ².

        Parameters
        ----------
        rule : float in (0, 1), "gap" or "participation"
            - a float: the number of λ that are at least `rule` times the largest (Fukunaga & Olsen, 1971). 1 … k.
            - "gap": the i < k with the largest λᵢ / λᵢ₊₁ (the eigengap). 1 … k − 1, so k must exceed the dimension.
            - "participation": (Σ λ)² / Σ λ², the participation ratio (Abbott, Rajan & Sompolinsky, 2011): how many equal
              eigenvalues would be as spread as these. A real number in 1 … k.

        Notes
        -----
        Only the k eigenvalues that were computed count: an estimate near k says that k was too small.

        Raises
        ------
        ValueError
            Another rule; or "gap" with k = 1; or a Jacobian that is zero.
        """
        spectrum = self.spectrum.astype(np.float64)
        if not (spectrum[:, 0] > 0).all():
            rows = np.flatnonzero(spectrum[:, 0] <= 0)[:5].tolist()
            raise ValueError(f"The decoder does not change with its code at rows {rows}: there is no dimension to count.")
        spectrum = spectrum / spectrum[:, :1]
        if rule == "participation":
            return spectrum.sum(1) ** 2 / (spectrum**2).sum(1)
        if rule == "gap":
            if spectrum.shape[1] < 2:
                raise ValueError("rule='gap' compares neighbouring eigenvalues; ask tangent_space for k=2 or more.")
            # below rounding all eigenvalues are alike: the first gap that falls so far is the one
            floor = np.finfo(self.singular_values.dtype).eps ** 2
            spectrum = np.maximum(spectrum, floor)
            return 1 + (spectrum[:, :-1] / spectrum[:, 1:]).argmax(1)
        if isinstance(rule, str) or not 0 < rule < 1:
            raise ValueError(f"rule={rule!r} is not known; choose 'gap', 'participation' or a threshold between 0 and 1.")
        return (spectrum >= rule).sum(1)

    def project(self, delta: ArrayLike | Tensor) -> Any:
        """The part U Uᵀ δ of each step that is tangent to the manifold, in the shape and kind of `delta`.

        Parameters
        ----------
        delta : array or tensor of shape (n, *sample shape)
            Steps in X, one a point, as x' − x.

        Raises
        ------
        ValueError
            Another shape, or NaN or infinite values.
        """
        amounts, frame, _ = self._amounts(delta)
        return self._restore((amounts[:, :, None] * frame).sum(1), delta)

    def share(self, delta: ArrayLike | Tensor) -> np.ndarray:
        """The share ‖Uᵀ δ‖² / ‖δ‖² of the squared length of each step that is tangent, (n,), float64 in 0 … 1.

        1: the step stays on the manifold to first order; a random step scores k / (number of values in a sample) on
        average. NaN for a step of length zero. Parameters and errors are those of :meth:`project`.
        """
        amounts, _, flat = self._amounts(delta)
        length = (flat**2).sum(1)
        share = np.divide((amounts**2).sum(1), length, out=np.full(len(flat), np.nan), where=length > 0)
        return np.clip(share, 0, 1)

    def step_on_manifold(self, delta: ArrayLike | Tensor) -> Any:
        """x' = decode(z + V Σ⁻¹ Uᵀ δ): the point that the model reaches by the tangent part of each step.

        To first order x' − decode(z) is :meth:`project`; the decoder bends the rest of the way along the manifold.
        Directions whose σ is zero to rounding are left out. `delta` and errors are those of :meth:`project`.
        """
        amounts, _, flat = self._amounts(delta)
        sigma = self.singular_values.astype(np.float64)
        least = sigma[:, :1] * max(flat.shape[1], self.z.shape[1]) * np.finfo(self.singular_values.dtype).eps
        scaled = np.divide(amounts, sigma, out=np.zeros_like(amounts), where=sigma > least)
        z = self.z + (scaled[:, :, None] * self.codes).sum(1)
        return self._restore(self.coordinates.inverse_transform(z.astype(self.z.dtype)), delta)

    def _amounts(self, delta: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Uᵀ δ (n, k), U (n, k, D) and δ (n, D), float64."""
        delta = np.asarray(to_numpy(delta), dtype=np.float64)
        expected = (len(self), *self.vectors.shape[2:])
        if delta.shape != expected:
            raise ValueError(f"Expected one step a point, of shape {expected}, got {delta.shape}.")
        flat = delta.reshape(len(delta), -1)
        if not np.isfinite(flat).all():
            rows = np.flatnonzero(~np.isfinite(flat).all(1))[:5].tolist()
            raise ValueError(f"delta has NaN or infinite values, first in rows {rows}; leave these rows out.")
        frame = self.vectors.reshape(*self.vectors.shape[:2], -1).astype(np.float64)
        return (frame * flat[:, None]).sum(2), frame, flat

    def _restore(self, rows: np.ndarray, like: Any) -> Any:
        if not isinstance(like, Tensor):
            rows = rows.astype(np.result_type(getattr(like, "dtype", np.float64), np.float32), copy=False)
        return in_container(rows.reshape(len(rows), *self.coordinates.layout_.user_shape), like)


@own_modes()
def tangent_space(
    coordinates: Coordinates,
    x: ArrayLike | Tensor,
    k: int,
    *,
    n_iter: int = 2,
    oversample: int = 8,
    random_state: Any = None,
) -> TangentSpace:
    """The k leading directions of the data manifold at each x: the truncated SVD of the decoder's Jacobian at z = encode(x).

    Randomised subspace iteration (Halko, Martinsson & Tropp, 2011, algorithm 4.4) with products J v and Jᵀ u by automatic
    differentiation, a tile of rows at a time: a row's Jacobian depends on its own code only, so one product serves all
    rows of a tile. J v is the derivative of the backward pass, which is linear in the vector it carries, by that vector;
    so any decoder will do whose backward pass can be differentiated. Costs about 2 (k + `oversample`) (`n_iter` + 1)
    backward passes a tile; memory is that of k + `oversample` samples a row, never of J.

    Parameters
    ----------
    coordinates : Coordinates
        Fitted: a flow, a VAE, a GAN, or networks of your own (`PretrainedCoordinates`).
    x : array-like or tensor of shape (n, *sample shape)
        Samples in the layout that `coordinates` was fitted on.
    k : int
        Number of directions, at most the smaller of the lengths of a code and of a sample.
    n_iter : int, default=2
        Power iterations: more where singular values fall slowly. The result's ``residuals`` tell whether they were enough.
    oversample : int, default=8
        Directions that are carried along beyond k. With k + `oversample` at least the length of a code (or of a sample)
        the decomposition is exact to rounding, without iterations.
    random_state : int, RandomState or None
        Of the random start.

    Returns
    -------
    TangentSpace
        In ``coordinates.dtype_``. A row has the same bits in any company.

    Raises
    ------
    TypeError
        `coordinates` are not Coordinates, or their `decode` cannot be differentiated.
    ValueError
        `k`, `n_iter`, `oversample` or `x` cannot be used.
    NotFittedError
        `coordinates` are not fitted.

    Notes
    -----
    The Jacobian is the one that automatic differentiation sees: a decoder that clips without touching the gradient has
    the tangent space of its unclipped image, and at a kink (ReLU) that of one side.

    References
    ----------
    Dombrowski, Gerken, Müller & Kessel, *Diffeomorphic Counterfactuals with Generative Models*, sections 3.2 and 4.1.2.
    Halko, Martinsson & Tropp, *Finding structure with randomness*, SIAM Review 53, 2011.

    Examples
    --------
    A diffeomorphism z -> x that is thin around a helix: the manifold is a line, and a step along x₁ leaves it.

    >>> import numpy as np, torch
    >>> from cfexplain.coordinates import PretrainedCoordinates
    >>> from cfexplain.datasets import make_helix
    >>> class Thin(torch.nn.Module):
    ...     def decode(self, z):
    ...         t = z[:, 2]
    ...         return torch.stack([t.sin() + z[:, 0] / 50, t.cos() + z[:, 1] / 50, t], 1)
    ...     def encode(self, x):
    ...         t = x[:, 2]
    ...         return torch.stack([50 * (x[:, 0] - t.sin()), 50 * (x[:, 1] - t.cos()), t], 1)
    >>> X, y = make_helix(100, random_state=0)
    >>> space = tangent_space(PretrainedCoordinates(Thin(), standardize=False).fit(X), X, k=3, random_state=0)
    >>> space.spectrum.mean(0).round(4).tolist(), set(space.intrinsic_dimension("gap").tolist())
    ([2.0002, 0.0004, 0.0002], {1})
    >>> line = tangent_space(space.coordinates, X, k=1, random_state=0)
    >>> along = np.stack([np.cos(X[:, 2]), -np.sin(X[:, 2]), np.ones(100)], 1)
    >>> float(line.share(along).min().round(3)), float(line.share([[1, 0, 0]] * 100).mean().round(2))
    (1.0, 0.27)
    """
    if not isinstance(coordinates, Coordinates):
        raise TypeError(
            f"coordinates must be cfexplain Coordinates, got {type(coordinates).__name__}. Wrap networks of your own in "
            "PretrainedCoordinates; a fitted explainer has its coordinates as explainer.coordinates_.")
    check_is_fitted(coordinates)
    for name, value, least in (("k", k, 1), ("n_iter", n_iter, 0), ("oversample", oversample, 0)):
        if isinstance(value, (bool, str)) or int(value) != value or value < least:
            raise ValueError(f"{name}={value!r} must be an integer of at least {least}.")
    X = read_samples(coordinates, x, reset=False, data_range=coordinates.data_range)
    d, values = coordinates.latent_dim_, X[0].size
    if k > min(d, values):
        raise ValueError(
            f"k={k}, but a Jacobian from codes of length {d} to samples of {values} values has {min(d, values)} "
            "singular values.")
    width = min(k + oversample, d, values)
    start = torch.randn(
        d, width, dtype=torch.float64, generator=torch.Generator().manual_seed(draw_seed(random_state)))
    start = torch.linalg.qr(start)[0].to(getattr(torch, np.dtype(coordinates.dtype_).name))
    decompose = partial(
        _decompose, coordinates.decode, start=start, k=k, n_iter=0 if width == min(d, values) else n_iter)
    Z = coordinates.encode_dataset(X)[0]
    vectors, codes, sigma, residuals = coordinates.in_tiles(decompose, Z)
    layout = coordinates.layout_
    vectors = layout.to_user(vectors.reshape(len(X) * k, -1)).reshape(len(X), k, *layout.user_shape)
    return TangentSpace(vectors, codes, sigma, residuals, Z, coordinates)


def _decompose(
    decode: Callable[[Tensor], Tensor], z: Tensor, *, start: Tensor, k: int, n_iter: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """U (B, k, D), V (B, k, d), σ (B, k) and residuals (B, k) of the Jacobians at the codes z (B, d)."""
    push, pull = _products(decode, z)
    basis = _orthonormal(push(start.to(z).expand(len(z), -1, -1)))
    for _ in range(n_iter):
        basis = _orthonormal(push(_orthonormal(pull(basis))))

    def leading(pulled: Tensor, basis: Tensor) -> tuple[Tensor, ...]:
        """U, V and σ of J ≈ Q (Jᵀ Q)ᵀ: what is left to decompose is small."""
        codes, sigma, mix = torch.linalg.svd(pulled, full_matrices=False)
        codes, vectors = codes[:, :k], basis @ mix[:k].mT
        largest = codes.gather(0, codes.abs().argmax(0, keepdim=True))
        sign = torch.where(largest < 0, -1.0, 1.0).to(codes)
        return vectors * sign, codes * sign, sigma[:k]

    vectors, codes, sigma = _row_by_row(leading, pull(basis), basis)
    residuals = (push(codes) - vectors * sigma[:, None]).norm(dim=1)
    return vectors.mT.contiguous(), codes.mT.contiguous(), sigma, residuals


def _products(decode: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Callable[[Tensor], Tensor], ...]:
    """V (B, d, c) -> J V (B, D, c), and U (B, D, c) -> Jᵀ U (B, d, c), at one forward pass."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        x = decode(z).flatten(1)
        if not x.requires_grad:
            raise TypeError("decode(z) has no gradient by z: it detaches its result, or computes it outside of torch.")
        carried = torch.zeros_like(x, requires_grad=True)
        (pulled,) = torch.autograd.grad(x, z, carried, create_graph=True)

    def push(codes: Tensor) -> Tensor:
        return _columns(lambda v: torch.autograd.grad(pulled, carried, v, retain_graph=True)[0], codes)

    def pull(vectors: Tensor) -> Tensor:
        return _columns(lambda u: torch.autograd.grad(x, z, u, retain_graph=True)[0], vectors)

    return push, pull


def _columns(product: Callable[[Tensor], Tensor], columns: Tensor) -> Tensor:
    return torch.stack([product(column.contiguous()) for column in columns.unbind(2)], 2)


def _orthonormal(columns: Tensor) -> Tensor:
    return _row_by_row(lambda matrix: (torch.linalg.qr(matrix)[0],), columns)[0]


def _row_by_row(function: Callable[..., tuple[Tensor, ...]], *batches: Tensor) -> tuple[Tensor, ...]:
    """`function` of one matrix at a time, each in memory of its own: LAPACK rounds by where a matrix starts."""
    parts = [function(*(matrix.clone() for matrix in row)) for row in zip(*batches, strict=True)]
    return tuple(torch.stack(column) for column in zip(*parts, strict=True))
