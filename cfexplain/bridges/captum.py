"""Captum: counterfactuals as attributions and as perturbations, and gradients integrated along their paths.

Whatever takes a `captum.attr.Attribution` or a `captum.robust.Perturbation` takes these: metrics, `NoiseTunnel`,
`AttackComparator`, and the pictures of ``captum.attr.visualization``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from captum.attr import Attribution, GradientAttribution
from captum.log import log_usage
from captum.robust import Perturbation
from torch import Tensor

from cfexplain.bridges.captum_rows import Forward, TensorExplainer
from cfexplain.bridges.saliency import SaliencyComparison, compare_saliency
from cfexplain.explainers import CounterfactualExplainer
from cfexplain.foundation.exceptions import warn_caller
from cfexplain.foundation.labels import label_indices
from cfexplain.foundation.tiles import in_tiles
from cfexplain.result import Counterfactuals

__all__ = ["CounterfactualAttribution", "CounterfactualPathGradients", "CounterfactualPerturbation", "SaliencyComparison",
           "compare_saliency"]

PATHS = ("search", "latent", "straight")
# Rows whose paths are decoded together; the relative error of a sum above which there is a warning
BLOCK, INCOMPLETE = 32, 0.05


class CounterfactualAttribution(Attribution):
    """x′ − x: what would have to change, as an attribution.

    Parameters
    ----------
    explainer : CounterfactualExplainer
        Fitted: any explainer of the package, of images or tables, for a classifier or a regressor.
    clip : bool, default=False
        Clip images to the explainer's ``data_range`` before they are explained; x is then the clipped image. `NoiseTunnel`
        and ``sensitivity_max`` add noise that leaves it, which otherwise is an error.
    **explain_options
        ``n_jobs``, ``backend`` and ``precision`` of ``explain``.

    Attributes
    ----------
    forward_func : callable ``x -> (n, K)``
        Differentiable log-odds of each class by the explained classifier, or a regressor's value (n, 1): the
        `forward_func` of Captum's metrics.

    Raises
    ------
    TypeError
        `explainer` is not one.
    NotFittedError
        It is not fitted.

    Notes
    -----
    It has no convergence delta: the sum of x′ − x is no output of the model. `CounterfactualPathGradients` has one.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> changes = CounterfactualAttribution(explainer).attribute(torch.tensor(X[:3]), target=1)
    >>> changes.shape, changes.dtype
    (torch.Size([3, 4]), torch.float64)
    """

    def __init__(self, explainer: CounterfactualExplainer, *, clip: bool = False, **explain_options: Any):
        self._explainer = TensorExplainer(explainer, clip, explain_options)
        super().__init__(Forward(explainer))

    # the outermost wrapper is Captum's own: NoiseTunnel looks through it, at __wrapped__
    @log_usage()
    def attribute(self, inputs: Tensor | tuple[Tensor, ...], target: Any = None, *, label: Any = None,
                  absolute: bool = False, return_counterfactuals: bool = False) -> Any:
        """x′ − x of each row.

        Parameters
        ----------
        inputs : Tensor of shape (n, …), or a tuple of one
            In the layout of ``fit``, or (n, C, H, W) as the network sees it; on any device, of any float dtype.
        target : int, list of int or Tensor, optional
            The target class, as everywhere in Captum: an index into ``explainer.classes_``, or one for each row. None: as in
            ``explain``, the explainer's own target or else each row's runner-up.
        label : label, array-like of shape (n,), or target of a regressor, optional
            In place of `target`: a target as ``explain`` takes it.
        absolute : bool, default=False
            \\|x′ − x\\|.
        return_counterfactuals : bool, default=False
            Also return the `Counterfactuals`, which say which rows reached their target; a row that failed is explained by
            its best effort.

        Returns
        -------
        Tensor like `inputs`, in its shape, dtype and device; or that and the `Counterfactuals`

        Raises
        ------
        TargetError
            `target` is no class index, `label` no class, or both were given.
        ValueError, TypeError
            `inputs` cannot be read.
        DataRangeError
            Images outside ``data_range``, unless they are to be clipped.
        """
        found = self._explainer.explain(inputs, target, label)
        change = found.cf.x_cf - found.cf.x
        out = found.restored(np.abs(change) if absolute else change)
        return (out, found.cf) if return_counterfactuals else out


class CounterfactualPathGradients(GradientAttribution):
    """Gradients of the explained model, integrated along the way from x to its counterfactual x′.

    The attribution of feature i is ∫ ∂f/∂xᵢ dxᵢ along a path from x to x′: a path method (Sundararajan et al., *Axiomatic
    Attribution for Deep Networks*, 2017, section 3), of which integrated gradients from x to x′ is the straight case. It is
    complete: it sums to f(x′) − f(x), and a feature that never changes gets 0.

    Parameters
    ----------
    explainer : CounterfactualExplainer
        Fitted. If torch cannot differentiate the model, f is its surrogate.
    path : {"search", "latent", "straight"}, default="search"
        "search": through every decoded point of the search up to the one that was returned. "latent": the straight line
        from z to z′, decoded. "straight": the straight line from x to x′.
    output : {"log_odds", "logit", "probability"}, default="log_odds"
        f, of the target class. For a regressor f is its value.
    clip, **explain_options
        See `CounterfactualAttribution`.

    Attributes
    ----------
    forward_func : callable ``x -> (n, K)``
        f of each class.

    Raises
    ------
    TypeError
        `explainer` is not one.
    NotFittedError
        It is not fitted.
    ValueError
        `path` or `output` is not known, or the model has no gradient.

    Notes
    -----
    The path always begins at x itself. If the first decoded point is not x, because the coordinates lost a part of x
    (``detail="decoder"``) or the search starts elsewhere (``start="swap"``), a straight piece leads there, and its share is
    part of the sum. Between decoded points the path is straight, too. Points that are not finite are left out.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> method = CounterfactualPathGradients(explainer)
    >>> shares, delta = method.attribute(torch.tensor(X[:3]), target=1, return_convergence_delta=True)
    >>> bool((delta.abs() < 0.01 * shares.sum(1).abs()).all())
    True
    """

    def __init__(self, explainer: CounterfactualExplainer, *, path: str = "search", output: str = "log_odds",
                 clip: bool = False, **explain_options: Any):
        self._explainer = TensorExplainer(explainer, clip, explain_options)
        if path not in PATHS:
            raise ValueError(f"path={path!r} is not known; choose one of {PATHS}.")
        if explainer.classifier_.module is None:
            raise ValueError(f"{type(explainer).__name__} only asks its classifier, which has no gradient to integrate. Use "
                             "CounterfactualAttribution, or an explainer that searches by gradients.")
        self.path = path
        super().__init__(Forward(explainer, output))

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: the attribution is a share of f(x′) − f(x), not a slope."""
        return True

    def has_convergence_delta(self) -> bool:
        """True: see `attribute`."""
        return True

    @log_usage()
    def attribute(self, inputs: Tensor | tuple[Tensor, ...], target: Any = None, *, label: Any = None, n_steps: int = 64,
                  return_convergence_delta: bool = False, return_counterfactuals: bool = False) -> Any:
        """Each feature's share of f(x′) − f(x).

        Parameters
        ----------
        inputs, target, label
            See `CounterfactualAttribution.attribute`.
        n_steps : int, default=64
            At least so many gradients for each row (midpoint rule), spread over the pieces between points of the path by
            their lengths, at least one for each piece.
        return_convergence_delta : bool, default=False
            Also return, for each row, the sum of its attributions minus f(x′) − f(x), shape (n,).
        return_counterfactuals : bool, default=False
            Also return the `Counterfactuals`.

        Returns
        -------
        Tensor like `inputs`, followed by the delta and the `Counterfactuals` if requested

        Raises
        ------
        ValueError
            `n_steps` is less than 1; else as `CounterfactualAttribution.attribute`.

        Warns
        -----
        UserWarning
            In some row the sum misses f(x′) − f(x) by more than 5 % of it: use more steps.
        """
        found = self._explainer.explain(inputs, target, label, record_path=self.path == "search")
        shares, delta = self._checked(found.cf, n_steps)
        out = [found.restored(shares)]
        if return_convergence_delta:
            out.append(torch.from_numpy(delta).to(found.inputs.device))
        if return_counterfactuals:
            out.append(found.cf)
        return out[0] if len(out) == 1 else tuple(out)

    def integrate(self, cf: Counterfactuals, n_steps: int = 64) -> tuple[np.ndarray, np.ndarray]:
        """The same for counterfactuals at hand, without Captum's tensors.

        Parameters
        ----------
        cf : Counterfactuals
            Made by this explainer; with ``record_path=True`` for ``path="search"``.
        n_steps : int, default=64

        Returns
        -------
        attributions : ndarray, in the shape of ``cf.x``
        delta : ndarray of shape (n,)

        Raises
        ------
        ValueError
            There is no path, `cf` was made by another explainer, or `n_steps` is less than 1.

        Warns
        -----
        UserWarning
            See `attribute`.
        """
        return self._checked(cf, n_steps)

    def _checked(self, cf: Counterfactuals, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
        if n_steps < 1:
            raise ValueError(f"n_steps={n_steps!r} must be at least 1.")
        explainer = self._explainer.explainer
        if cf.x_cf.shape[1:] != explainer.layout_.user_shape:
            raise ValueError(f"cf has samples of shape {cf.x_cf.shape[1:]}, but the explainer was fitted on samples of "
                             f"shape {explainer.layout_.user_shape}. Pass the explainer that made cf.")
        index = np.zeros(len(cf), int) if explainer.is_regression else label_indices(cf.target, explainer.classes_)
        parts = [self._integrated(cf[i: i + BLOCK], index[i: i + BLOCK], n_steps) for i in range(0, len(cf), BLOCK)]
        shares = np.concatenate([np.zeros_like(cf.x[:0], dtype=float), *parts])
        whole = self._values(cf.x_cf, index) - self._values(cf.x, index)
        delta = shares.reshape(len(cf), -1).sum(1) - whole
        poor = np.abs(delta) > INCOMPLETE * np.maximum(np.abs(whole), 1e-3)
        if poor.any():
            warn_caller(f"In {int(poor.sum())} of {len(cf)} rows the attributions miss f(x') - f(x) by more than "
                          f"{100 * INCOMPLETE:g} %. Pass more than n_steps={n_steps}.", UserWarning)
        return shares, delta

    def _corners(self, cf: Counterfactuals) -> list[np.ndarray]:
        """The points (m, …) through which each row's path goes, x first and x′ last."""
        if self.path == "straight":
            return [np.stack([x, x_cf]) for x, x_cf in zip(cf.x, cf.x_cf, strict=True)]
        if self.path == "latent":
            shares = np.linspace(0, 1, 33, dtype=cf.z.dtype)[:, None]
            cf = replace(cf, path=[z + shares * (z_cf - z) for z, z_cf in zip(cf.z, cf.z_cf, strict=True)])
        corners = []
        for x, x_cf, decoded in zip(cf.x, cf.x_cf, self._explainer.explainer.decode_path(cf), strict=True):
            points = np.concatenate([x[None], decoded.x[: decoded.returned], x_cf[None]])
            corners.append(points[np.isfinite(points.reshape(len(points), -1)).all(1)])
        return corners

    def _integrated(self, cf: Counterfactuals, index: np.ndarray, n_steps: int) -> np.ndarray:
        """∫ ∂f/∂xᵢ dxᵢ of each row, in float64, in the layout of x."""
        middles, moves, rows = [], [], []
        for i, points in enumerate(self._corners(cf)):
            pieces = np.diff(points.astype(float), axis=0)
            length = np.linalg.norm(pieces.reshape(len(pieces), -1), axis=1)
            pieces, points, length = pieces[length > 0], points[:-1][length > 0], length[length > 0]
            counts = np.maximum(1, np.ceil(n_steps * length / max(length.sum(), 1e-300)).astype(int))
            piece = np.repeat(np.arange(len(pieces)), counts)
            within = np.concatenate([(np.arange(k) + 0.5) / k for k in counts]) if len(counts) else np.zeros(0)
            moves.append(pieces[piece] / counts[piece].reshape(-1, *[1] * (pieces.ndim - 1)))
            middles.append(points[piece] + within.reshape(-1, *[1] * (pieces.ndim - 1)) * pieces[piece])
            rows.append(np.full(len(piece), i))
        row, shares = np.concatenate(rows), np.zeros(cf.x.shape)
        if len(row):
            slopes = self._slopes(np.concatenate(middles), index[row])
            np.add.at(shares, row, slopes * np.concatenate(moves))
        return shares

    def _slopes(self, points: np.ndarray, index: np.ndarray) -> np.ndarray:
        def tile(x: Tensor, k: Tensor) -> Tensor:
            x = x.requires_grad_()
            with torch.enable_grad():
                return torch.autograd.grad(self._picked(x, k).sum(), x)[0].cpu()

        return in_tiles(tile, *self._tensors(points, index)).double().numpy()

    def _values(self, points: np.ndarray, index: np.ndarray) -> np.ndarray:
        if not len(points):
            return np.zeros(0)
        with torch.no_grad():
            return in_tiles(lambda x, k: self._picked(x, k).cpu(), *self._tensors(points, index)).double().numpy()

    def _tensors(self, points: np.ndarray, index: np.ndarray) -> tuple[Tensor, Tensor]:
        explainer = self._explainer.explainer
        x, k = (torch.from_numpy(np.ascontiguousarray(a)).to(explainer.device_) for a in (
            points.astype(explainer.dtype_, copy=False), index))
        return x, k

    def _picked(self, x: Tensor, index: Tensor) -> Tensor:
        return self.forward_func(x).gather(1, index[:, None])[:, 0]


class CounterfactualPerturbation(Perturbation):
    """Counterfactuals as a perturbation of ``captum.robust``: a plausible change to another class instead of noise.

    Parameters
    ----------
    explainer, clip, **explain_options
        See `CounterfactualAttribution`.

    Raises
    ------
    TypeError
        `explainer` is not one.
    NotFittedError
        It is not fitted.

    Examples
    --------
    >>> import torch
    >>> from captum.robust import AttackComparator
    >>> from sklearn.datasets import load_iris
    >>> from cfexplain import PLACEExplainer
    >>> X, y = load_iris(return_X_y=True)
    >>> explainer = PLACEExplainer(training_budget=0.1, random_state=0).fit(X, y)
    >>> attack = CounterfactualPerturbation(explainer)
    >>> x = torch.tensor(X[:4])
    >>> explainer.predict(attack.perturb(x, target=1)).tolist()
    [1, 1, 1, 1]
    >>> comparator = AttackComparator(lambda x: torch.tensor(explainer.predict_proba(x)),
    ...                               lambda out: (out.argmax(1) == 1).float().mean())
    >>> comparator.add_attack(attack, "counterfactual", attack_kwargs={"target": 1})
    >>> found = comparator.evaluate(x)
    >>> found["Original"], found["counterfactual"]
    (tensor(0.), {'mean': tensor(1.)})
    """

    def __init__(self, explainer: CounterfactualExplainer, *, clip: bool = False, **explain_options: Any):
        super().__init__()
        self._explainer = TensorExplainer(explainer, clip, explain_options)

    @log_usage()
    def perturb(self, inputs: Tensor | tuple[Tensor, ...], target: Any = None, *, label: Any = None,
                return_counterfactuals: bool = False) -> Any:
        """x′ of each row, in the shape, dtype and on the device of `inputs`.

        `target` is the class to reach, like that of ``FGSM.perturb(..., targeted=True)``; parameters and errors are
        those of `CounterfactualAttribution.attribute`. A row that fails is its best effort.
        """
        found = self._explainer.explain(inputs, target, label)
        out = found.restored(found.cf.x_cf)
        return (out, found.cf) if return_counterfactuals else out
