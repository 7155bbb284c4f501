"""log p(z | y) by a normalising flow: how typical a code is for a class, and the same code in another class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import DensityMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d, validate_data
from torch import Tensor, nn

from cfexplain.density.attributes import AttributeBase
from cfexplain.density.base import ClassDensity, as_unseen, or_impossible
from cfexplain.density.class_flow import ClassFlow, check_sizes
from cfexplain.density.flow_building import FLOWS, WIDTH, build_flow, fitting_sizes, flow_name, of_few_features
from cfexplain.density.flow_training import standards, train_flow
from cfexplain.density.frozen import FrozenDensity, freeze
from cfexplain.foundation.optional import check_device
from cfexplain.foundation.parameters import TRAINING, Number, Rule, check_parameters
from cfexplain.foundation.random import draw_seed, seeded_torch
from cfexplain.foundation.settings import own_defaults, own_modes
from cfexplain.foundation.tiles import in_tiles
from cfexplain.ops.coupling_flow import NotPackable
from cfexplain.persistence import MayBeAbsent, storable
from cfexplain.persistence.networks import State, check_repeats, check_size, dense_size

__all__ = ["ConditionalFlow"]

_UPDATES = 1200  # of MNIST's 60,000 codes
_TILE = 256  # rows evaluated at once, always: the bits of a row then do not depend on how many others came with it


def _untrained_flow(density: ConditionalFlow, state: State) -> nn.Module:
    """The flow that a file holds the weights of, of a density that has its parameters and sizes."""
    features, count = int(density.n_features_in_), len(density.classes_)
    if isinstance(density.flow, str):
        transforms, hidden = density._sizes()
        check_repeats(density, state, {"transforms": transforms}, hidden)
        context = count if density.base == "gaussian" and count > 1 else 0
        hidden = of_few_features(hidden, features)
        widths = [features // 2 + context, *hidden, features // 2] if features > 1 or context else []
        check_size(features + dense_size(widths, transforms)
                   + (features * count if density.base == "attributes" else 0), state)
    return density._build_flow(features, count)


@storable(network="flow_", build=_untrained_flow)
class ConditionalFlow(DensityMixin, ClassDensity):
    """Class-conditional density log p(z | y) by a normalising flow, as a scikit-learn density estimator.

    Parameters
    ----------
    flow : {"nice", "realnvp", "maf", "nsf"}, zuko.flows.Flow or callable, default="nice"
        "nice" and "realnvp" are affine couplings (fast both ways), "maf" is affine autoregressive, "nsf" a spline
        (both with an inverse of d passes). One feature leaves affine maps nothing to condition on (they could only be
        Gaussian), so with ``features == 1`` every name builds "nsf"; see `flow_name_`. An instance is copied, then
        trained; it must have the features of Z, and as context the number of classes (0 for one class or
        ``base="attributes"``). A callable gets ``(features, context)`` and returns a flow.
    transforms : int or "auto", default="auto"
        Layers of a named flow. "auto": from 4 for a few hundred rows to 8 for as many numbers as MNIST's codes have.
    hidden_features : tuple of int or "auto", default="auto"
        Hidden layers of the networks of a named flow; at most 64 wide for four features or fewer. "auto": two, as wide as
        the rows and features of Z give something to learn, from (64, 64) to (256, 256).
    base : {"gaussian", "attributes"}, default="gaussian"
        "gaussian": the class is the flow's context. "attributes": as PluGeN, which PLACE builds on, an unconditional
        flow to a base that holds the class in its first dimension(s), see
        :class:`~cfexplain.density.attributes.AttributeBase`.
    attribute_scale : float, default=0.7
        Standard deviation of the attribute dimensions (PluGeN's value).
    batch_size : int, default=512
        At most a quarter of the rows is taken, so that an epoch has a few updates (not less than 32).
    lr : float or "auto", default="auto"
        The highest learning rate. "auto": 2e-3 for layers of 256, twice that for half the width.
    weight_decay : float, default=0.0
    training_budget : float, default=1.0
        Multiplies the gradient updates: 1200 for 60,000 rows, and less for fewer, as their fourth root. Training ends
        before, if the loss of held-out rows stops falling.
    random_state : int, RandomState or None, default=None
    verbose : int or "auto", default=0
        1 shows progress; "auto" as in `PLACEExplainer`.
    device : str, default="cpu"

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
    class_prior_ : ndarray of shape (K,)
        Shares of the classes in the training rows.
    flow_ : ClassFlow
        The frozen torch module, in the dtype of Z.
    flow_name_ : str
        The flow that was built: a name of the list above, or the class of the flow given.
    transforms_, hidden_features_ : int, tuple of int
        Sizes of a named flow, as they were given or chosen.
    loc_, scale_ : ndarray of shape (d,)
        Mean and standard deviation of the training samples; a constant column has scale 1.
    log_densities_ : list of K ndarrays
        log p(z | k) of the training codes of class k, sorted; densities that are not finite are -inf.
    n_features_in_ : int
    history_ : list of dict
        Losses, an entry an epoch, in nats of standardised codes.

    Notes
    -----
    Training adds noise: the posterior's standard deviations where `std` is given, and everywhere ``n ** -0.25`` of a
    column's deviation (6 % for 60,000 rows, 30 % for 120), which keeps the density of discrete columns bounded and a
    flow on few rows from overfitting. A named flow starts at the identity, and the epoch with the best validation loss
    is kept. A constant column has no density: it is modelled as N(value, 1).

    Rows are evaluated in tiles of fixed size: a row gets the same bits alone or among others.

    References
    ----------
    Dinh et al., "Density estimation using Real NVP", ICLR 2017; Proszewska et al./Wołczyk et al., "PluGeN", AAAI 2022.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["left", "right"], 100)
    >>> Z = rng.normal(size=(200, 2)) + np.where(y == "left", -3, 3)[:, None]
    >>> density = ConditionalFlow(transforms=2, training_budget=0.1, random_state=0).fit(Z, y)
    >>> own, other = density.score_samples(Z[:1], "left"), density.score_samples(Z[:1], "right")
    >>> bool(own > other), density.swap(Z[:1], "left", "right").shape
    (True, (1, 2))
    """

    parameter_rules: ClassVar[Mapping[str, Rule]] = {
        **TRAINING, "transforms": Number(1, whole=True, words=("auto",)),
        "lr": Number(0, between=True, words=("auto",)), "attribute_scale": Number(0, between=True)}

    class_prior_: np.ndarray
    loc_: np.ndarray
    scale_: np.ndarray
    flow_name_: str
    transforms_: MayBeAbsent[int]  # not in files from before sizes were chosen
    hidden_features_: MayBeAbsent[tuple[int, ...]]
    flow_: ClassFlow
    history_: list[dict[str, Any]]

    def __init__(
        self,
        flow: Any = "nice",
        *,
        transforms: int | str = "auto",
        hidden_features: tuple[int, ...] | str = "auto",
        base: str = "gaussian",
        attribute_scale: float = 0.7,
        batch_size: int = 512,
        lr: float | str = "auto",
        weight_decay: float = 0.0,
        training_budget: float = 1.0,
        random_state: int | np.random.RandomState | None = None,
        verbose: int | str = 0,
        device: str = "cpu",
    ):
        self.flow = flow
        self.transforms = transforms
        self.hidden_features = hidden_features
        self.base = base
        self.attribute_scale = attribute_scale
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.training_budget = training_budget
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    # ------------------------------------------------------------------ learning

    @own_modes()
    def fit(self, Z: ArrayLike, y: ArrayLike | None = None, *, std: ArrayLike | None = None) -> ConditionalFlow:
        """Train the flow on codes `Z` of classes `y`.

        Parameters
        ----------
        Z : array-like of shape (n, d)
        y : array-like of shape (n,), optional
            Class labels; None is one class, labelled 0.
        std : array-like of shape (n, d), optional
            Posterior standard deviations of the codes: every batch trains on ``Z + std * noise``, so that the density
            is smooth on the scale that a decoder cannot resolve.

        Raises
        ------
        ValueError
            A class with fewer than 2 rows, too few features for the attributes, a parameter out of range, `std` of
            another shape or negative, a flow of other sizes.
        """
        from cfexplain.nets.training import held_out_rows, updates_for  # it loads skorch

        self._check_parameters()
        dtypes = (np.float64, np.float32)
        if y is None:
            Z = np.asarray(validate_data(self, Z, dtype=dtypes, ensure_min_samples=2))
            y = np.zeros(len(Z), dtype=int)
        else:
            Z, y = (np.asarray(part) for part in validate_data(self, Z, y, dtype=dtypes))
            check_classification_targets(y)
        self.classes_, codes = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        counts = np.bincount(codes)
        if counts.min() < 2:
            raise ValueError(
                f"Class {self.classes_.tolist()[counts.argmin()]!r} has only 1 sample; a density needs at least 2 "
                "samples of every class. Add samples, merge classes, or leave the class out."
            )
        self.class_prior_ = counts / len(Z)
        spread = self._check_std(std, Z)
        self.loc_, self.scale_, constant = standards(Z, spread)
        seed = draw_seed(self.random_state)
        self.flow_name_ = flow_name(self.flow, Z.shape[1])
        self._choose_sizes(*Z.shape)
        self.flow_ = self._build_flow(Z.shape[1], len(self.classes_), seed=seed)
        noise = np.hypot(spread / self.scale_, np.where(constant, 1.0, len(Z) ** -0.25))
        lr: Any = 2e-3 * WIDTH / min(WIDTH, max(64, *self.hidden_features_, 0)) if self.lr == "auto" else self.lr
        self.history_ = train_flow(
            self.flow_, (Z - self.loc_) / self.scale_, noise, codes, seed, named=isinstance(self.flow, str), lr=lr,
            updates=updates_for(len(Z), _UPDATES, self.training_budget), weight_decay=self.weight_decay,
            batch_size=min(self.batch_size, max(32, len(Z) // 4)), device=self.device, verbose=self.verbose)
        self.flow_.to(torch.float64 if Z.dtype == np.float64 else torch.float32)
        self.flow_.loc.copy_(torch.from_numpy(self.loc_))
        self.flow_.scale.copy_(torch.from_numpy(self.scale_))
        densities = self._in_tiles(self.flow_.log_prob, Z, codes)
        self.log_densities_ = as_unseen(densities, codes, held_out_rows(len(Z), seed, strata=codes), len(self.classes_))
        return self

    @own_defaults()
    def _build_flow(self, features: int, n_classes: int, *, seed: int = 0) -> ClassFlow:
        """An untrained :class:`ClassFlow`, from the constructor's parameters and the sizes alone.

        A fitted flow comes back from ``_build_flow(n_features_in_, len(classes_)).load_state_dict(...)``.
        """
        context = n_classes if self.base == "gaussian" and n_classes > 1 else 0
        attributes = AttributeBase(features, n_classes, self.attribute_scale) if self.base == "attributes" else None
        with seeded_torch(seed):
            flow = build_flow(self.flow, features, context, self._sizes() if isinstance(self.flow, str) else None)
        module = ClassFlow(flow.float(), features, n_classes, attributes).eval().requires_grad_(False)
        check_sizes(module, features, context)
        return module

    def _choose_sizes(self, rows: int, features: int) -> None:
        """``transforms_`` and ``hidden_features_``: couplings that MNIST's 60,000 codes fill are too many for 1,000 rows."""
        transforms, hidden = fitting_sizes(rows, features)
        self.transforms_ = transforms if self.transforms == "auto" else int(self.transforms)
        self.hidden_features_ = hidden if isinstance(self.hidden_features, str) else tuple(
            int(width) for width in self.hidden_features)

    def _sizes(self) -> tuple[int, list[int]]:
        """Of the flow that parameters, or what `fit` chose, describe."""
        transforms: Any = self.transforms_ if self.transforms == "auto" else self.transforms
        hidden: Any = self.hidden_features_ if isinstance(self.hidden_features, str) else self.hidden_features
        return int(transforms), [int(width) for width in hidden]

    def _check_parameters(self) -> None:
        if isinstance(self.flow, str) and self.flow not in FLOWS:
            raise ValueError(f"flow={self.flow!r} is not known. Use one of {sorted(FLOWS)}, or a zuko.flows.Flow.")
        if not isinstance(self.flow, str) and not callable(self.flow):
            raise TypeError(f"flow must be a name of {sorted(FLOWS)}, a zuko.flows.Flow or a callable "
                            f"(features, context) -> Flow, got {self.flow!r}.")
        if self.base not in ("gaussian", "attributes"):
            raise ValueError(f"base={self.base!r} is not known. Use 'gaussian' or 'attributes'.")
        check_parameters(self)
        check_device(self.device)
        hidden: Any = self.hidden_features
        if isinstance(hidden, str) and hidden != "auto" or not isinstance(hidden, str) and any(
                not isinstance(width, Integral) or width < 1 for width in hidden):
            raise ValueError(f"hidden_features={hidden!r} must be integers of at least 1, or 'auto'.")

    def _check_std(self, std: ArrayLike | None, Z: np.ndarray) -> np.ndarray:
        if std is None:
            return np.zeros(Z.shape[1])
        std = np.asarray(check_array(std, dtype=np.float64, input_name="std"))
        if std.shape != Z.shape or std.min() < 0:
            raise ValueError(
                f"std must hold standard deviations, none below 0, in the shape of Z {Z.shape}; got shape {std.shape} "
                f"with least value {std.min():g}. From log variances: np.exp(log_var / 2)."
            )
        return std

    # ------------------------------------------------------------------ densities

    def score_samples(self, Z: ArrayLike, y: Any = None) -> np.ndarray:
        """log p(z | y) of every row, in nats.

        Parameters
        ----------
        Z : array-like of shape (n, d)
        y : label or array-like of shape (n,), optional
            None: the marginal, log Σₖ prior(k) p(z | k).

        Returns
        -------
        ndarray of shape (n,), in the dtype of the fit
            -inf where the flow overflows.
        """
        Z = self._check_codes(Z)
        if y is not None:
            return or_impossible(self._in_tiles(self.flow_.log_prob, Z, self._indices(y, len(Z))))
        joint = np.stack([
            or_impossible(self._in_tiles(self.flow_.log_prob, Z, np.full(len(Z), k))) + math.log(share)
            for k, share in enumerate(self.class_prior_)
        ])
        return torch.from_numpy(joint).logsumexp(0).numpy()

    def score(self, Z: ArrayLike, y: Any = None) -> float:
        """Mean log density of the rows, in nats (as ``GaussianMixture``); see :meth:`score_samples`."""
        return float(self.score_samples(Z, y).mean())

    def logp_and_grad(self, Z: ArrayLike, y: Any, backend: str = "auto") -> tuple[np.ndarray, np.ndarray]:
        """log p(z | y) of every row, (n,), in nats, and its gradient in z, (n, d); `backend` as in :meth:`frozen`.

        In the dtype of the fit; in float64 if ``backend="reference"``. Where the flow overflows, -inf and any gradient.
        """
        frozen, Z = self.frozen(backend), self._check_codes(Z)
        logp, grad = self._in_tiles(frozen.logp_and_grad, Z, self._indices(y, len(Z)),
                                    dtype=torch.float64 if backend == "reference" else None)
        return or_impossible(logp), grad

    # ------------------------------------------------------------------ codes

    def sample(self, n_samples: int = 1, y: Any = None, random_state: Any = None) -> np.ndarray:
        """Draw codes: (n_samples, d). `y` is a label or one a row; None draws labels from the prior."""
        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(f"n_samples={n_samples!r} must be an integer of at least 1.")
        seed = draw_seed(random_state)
        if y is None:
            codes = np.random.RandomState(seed).choice(len(self.classes_), size=n_samples, p=self.class_prior_)
        else:
            codes = self._indices(y, n_samples)
        with seeded_torch(seed), torch.no_grad():
            u = self.flow_.base(torch.as_tensor(np.array(codes), device=self.flow_.loc.device)).sample()
        return self._in_tiles(self.flow_.from_base, u, codes)

    def swap(self, Z: ArrayLike, y: Any, target: Any) -> np.ndarray:
        """The codes `Z` of classes `y` in class `target`: f⁻¹(f(z | y) | target), (n, d).

        The base code is kept and the class is changed, exactly and without a gradient step; with
        ``base="attributes"`` the attribute dimensions move by the difference of the class means. Rows that are in
        `target` already come back bit for bit. `y` and `target` are labels, or one a row.
        """
        Z = self._check_codes(Z)
        return self._in_tiles(self.flow_.swap, Z, self._indices(y, len(Z)), self._indices(target, len(Z)))

    # ------------------------------------------------------------------ the torch side, for the search

    def log_prob(self, z: Tensor, c: Tensor) -> Tensor:
        """log p(z | c), (B,), differentiable in `z`; `c` are class indices. See :class:`ClassFlow` for these four.

        Where nothing is differentiated, affine couplings are computed packed, which is the same to rounding.
        """
        packed = self._packed(z)
        return self.flow_.log_prob(z, c) if packed is None else packed(z, c)

    def _packed(self, z: Tensor) -> FrozenDensity | None:
        """A faster way through the flow for codes like `z`, if there is one; its gradient has no gradient of its own."""
        if torch.is_grad_enabled() or z.dtype != self.flow_.loc.dtype:
            return None
        try:
            return self.frozen("packed")
        except NotPackable:
            return None

    def frozen(self, backend: str = "auto", precision: str = "float32") -> FrozenDensity:
        """:meth:`log_prob` of the weights as they are now, as fast as can be; ``frozen().backend`` is what was chosen.

        Parameters
        ----------
        backend : {"auto", "reference", "zuko", "packed", "triton"}, default="auto"
            "reference", "packed" and "triton" (CUDA) have gradients derived by hand, for affine couplings. "auto" takes
            "triton" where it can, else "packed", else "zuko", autograd; ``frozen().reason`` says why not the faster one.
        precision : {"float32", "tf32", "bfloat16"}, default="float32"
            Of the operands of "triton".

        Raises
        ------
        NotPackable, RuntimeError, ImportError
            A backend named that cannot take this flow, has no device for it, or is not installed.
        """
        check_is_fitted(self)
        return freeze(self.flow_, backend, precision)

    def to_base(self, z: Tensor, c: Tensor) -> Tensor:
        return self.flow_.to_base(z, c)

    def from_base(self, u: Tensor, c: Tensor) -> Tensor:
        return self.flow_.from_base(u, c)

    def swap_codes(self, z: Tensor, c: Tensor, t: Tensor, fraction: float | Tensor = 1.0) -> Tensor:
        packed = self._packed(z) if isinstance(fraction, float) and fraction == 1 and self.flow_.attributes is None else None
        return self.flow_.swap(z, c, t, fraction) if packed is None else packed.swap(z, c, t)

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> ConditionalFlow:
        """Move the fitted module; returns self."""
        check_is_fitted(self)
        self.flow_.to(device=device, dtype=dtype)
        return self

    # ------------------------------------------------------------------ rows and labels

    def _check_codes(self, Z: ArrayLike) -> np.ndarray:
        check_is_fitted(self)
        return validate_data(self, Z, reset=False, dtype=(np.float64, np.float32))

    def _in_tiles(self, function: Callable[..., Any], z: np.ndarray | Tensor, *codes: np.ndarray,
                  dtype: torch.dtype | None = None) -> Any:
        """``function(z, *codes)`` in tiles of ``_TILE`` rows, the last one filled up with copies of the last row."""
        like = self.flow_.loc
        z = (z if isinstance(z, Tensor) else torch.from_numpy(np.array(z))).to(like.device, dtype or like.dtype)
        columns = [z, *(torch.as_tensor(np.array(c), dtype=torch.long, device=like.device) for c in codes)]
        with own_modes(like.device), torch.no_grad():
            out = in_tiles(function, *columns, tile=_TILE)
        return tuple(o.cpu().numpy() for o in out) if isinstance(out, tuple) else out.cpu().numpy()
