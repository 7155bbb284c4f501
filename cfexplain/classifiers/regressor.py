"""One face for every regressor a user may bring: values outside, a differentiable function inside."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from sklearn.base import is_classifier
from sklearn.frozen import FrozenEstimator
from torch import Tensor, nn

from cfexplain.classifiers.examined import check_direction, check_repeats, spread_rows
from cfexplain.classifiers.outputs import ModuleScores, finite_rows, read_module, tiled
from cfexplain.classifiers.surrogate import BlackBox, can_predict, rows_between
from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.borrowed import frozen
from cfexplain.foundation.exceptions import ClassifierOutputError, NotFittedError, warn_caller
from cfexplain.foundation.optional import is_instance
from cfexplain.foundation.random import seeded_torch
from cfexplain.nets.classifiers import ClassifierNet
from cfexplain.nets.losses import Rows
from cfexplain.persistence import stored_by_attributes, stored_by_sizes

__all__ = ["RegressorAdapter", "adapt_regressor"]

_BETWEEN = 12_000  # rows made up around the data, labelled by the teacher
_FAITHFUL = 0.8


@stored_by_attributes()
class RegressorAdapter:
    """A regressor as the explainers see it; made by :func:`adapt_regressor`. It never changes the user's model.

    Attributes
    ----------
    is_surrogate : bool
        Whether :meth:`logits` is a distilled network in place of a model that torch cannot differentiate.
    surrogate_fidelity_ : float or None
        R² of the surrogate against the real model on held-out rows.
    module : nn.Module
    """

    device: torch.device
    surrogate_fidelity_: float | None
    _scores: ModuleScores
    _black_box: _BlackBoxRegressor | None

    def __init__(self, scores: ModuleScores, device: str | torch.device, black_box: _BlackBoxRegressor | None = None,
                 fidelity: float | None = None):
        self._scores, self._black_box = scores, black_box
        self.device, self.surrogate_fidelity_ = torch.device(device), fidelity

    @property
    def is_surrogate(self) -> bool:
        return self._black_box is not None

    @property
    def module(self) -> nn.Module:
        return self._scores.module

    def logits(self, x: Tensor) -> Tensor:
        """The value of each row as one column, (B, 1), differentiable in `x`."""
        return self._scores.columns(x)

    def frozen(self) -> AbstractContextManager[nn.Module]:
        """Evaluation mode and no parameter gradients while the block runs; afterwards everything is as it was."""
        return frozen(self.module)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Values, shape (n,), of the explained regressor itself (never its surrogate), in the dtype of `X`.

        NaN where it gives NaN or infinity.
        """
        if not len(X):
            return np.zeros(0, dtype=X.dtype)
        if self._black_box is not None:
            return self._black_box.values(X).astype(X.dtype)
        with self.frozen():
            values = self._scores.over(X, self.device, self._scores.columns, "values")
        return np.where(np.isfinite(values[:, 0]), values[:, 0], np.nan)


def adapt_regressor(
    regressor: Any,
    X: np.ndarray,
    y: np.ndarray,
    *,
    layout: Layout,
    outputs: str = "auto",
    device: str | torch.device = "cpu",
    seed: int = 0,
    training_budget: float = 1.0,
    verbose: int | str = 0,
    examine: bool = False,
) -> RegressorAdapter:
    """See any regressor as a differentiable function of one column; train a default one, or a surrogate, where needed.

    Parameters
    ----------
    regressor : nn.Module, skorch net, FrozenEstimator, fitted estimator with ``predict``, or None
        A module or skorch net that returns (B,) or (B, 1) is used as it is. Any other fitted estimator is distilled into
        a surrogate, on which the search runs, while its ``predict`` stays its own. None trains a network.
    X : ndarray of shape (n, C, H, W) or (n, d)
    y : ndarray of shape (n,)
    outputs : ignored
        Present for symmetry with `adapt_classifier`: a value is a value.
    examine : bool, default=False
        Ask a regressor that is given about a few rows, before anything is distilled: does it rise with y
        (`check_direction`), and does it agree with itself when it is asked again (`check_repeats`)?

    Raises
    ------
    ClassifierOutputError
        The model does not return one value a row.
    NotFittedError, TypeError, ValueError
        As `adapt_classifier`.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from cfexplain.foundation.arrays import Layout
    >>> X = np.array([[-3.0], [3.0]])
    >>> adapter = adapt_regressor(torch.nn.Linear(1, 1).double(), X, X[:, 0], layout=Layout((1,), (1,)))
    >>> adapter.predict(X).shape, adapter.is_surrogate
    ((2,), False)
    """
    while isinstance(regressor, FrozenEstimator):
        regressor = regressor.estimator
    try:
        y = np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("y of a regression must hold numbers.") from error
    training: dict[str, Any] = {"seed": seed, "training_budget": training_budget, "device": device, "verbose": verbose}
    dtype = torch.from_numpy(np.empty(0, dtype=X.dtype)).dtype
    if regressor is None:
        net = _train(X, y, name="regressor", **training)
        return RegressorAdapter(ModuleScores(net.to(dtype), layout.net_shape), device)
    skorch, module = is_instance(regressor, "skorch", "NeuralNet"), regressor
    if skorch or isinstance(regressor, nn.Module):
        if skorch:
            _refuse_classifier(regressor)
            if not getattr(regressor, "initialized_", False):
                raise NotFittedError(f"classifier={type(regressor).__name__} is not fitted: call its fit(X, y) first.")
            module = regressor.module_
        scores, columns = read_module(module, X, layout, outputs="logits", first_of_tuple=skorch, device=device)
        if skorch and callable(regressor.predict_nonlinearity):
            scores.nonlinearity = regressor.predict_nonlinearity
        if columns != 1:
            raise ClassifierOutputError(
                f"The model returns {columns} columns; a regressor returns one value a row, (B,) or (B, 1). For a "
                "classifier pass task='classification'.")
        adapter = RegressorAdapter(scores, device)
        if examine:
            _examine(adapter.predict, type(regressor).__name__, X, y)
        return adapter
    if isinstance(regressor, type) or not callable(getattr(regressor, "predict", None)):
        raise TypeError(
            f"classifier={regressor!r} is no regressor. Expected a torch nn.Module, a fitted skorch net, a fitted "
            "scikit-learn regressor or Pipeline, a FrozenEstimator around one of them, or None to train one.")
    black_box = _BlackBoxRegressor(regressor, X, layout)
    if examine:
        _examine(black_box.values, black_box.name, X, y)
    net, fidelity = _distil(black_box, X, **training)
    return RegressorAdapter(ModuleScores(net.to(dtype), layout.net_shape), device, black_box, fidelity)


def _examine(ask: Callable[[np.ndarray], np.ndarray], name: str, X: np.ndarray, y: np.ndarray) -> None:
    rows, name = spread_rows(len(X)), f"The regressor ({name})"
    values = ask(X[rows])
    check_repeats(ask, X[rows], name, float(np.std(values[np.isfinite(values)])) if np.isfinite(values).any() else 1.0)
    check_direction(values, y[rows], name)


def _refuse_classifier(model: Any) -> None:
    if hasattr(model, "__sklearn_tags__") and is_classifier(model):
        raise TypeError(f"classifier={type(model).__name__} is a classifier; task='regression' expects a regressor.")


@stored_by_attributes("estimator", "name", "sample_shape", "channels_last", check=can_predict)
class _BlackBoxRegressor(BlackBox):
    """A fitted regressor, asked in the layout that it was trained on."""

    def __init__(self, estimator: Any, X: np.ndarray, layout: Layout):
        self.estimator, self.name = estimator, type(estimator).__name__
        _refuse_classifier(estimator)
        self.sample_shape = self._find_layout(X, layout)

    def values(self, X: np.ndarray) -> np.ndarray:
        values = np.asarray(self._ask("predict", X), dtype=np.float64)
        if values.size != len(X):
            raise ClassifierOutputError(f"{self.name}.predict returned shape {values.shape} for {len(X)} rows; expected "
                                        "one value a row.")
        return np.where(np.isfinite(values), values, np.nan).reshape(-1)


@stored_by_sizes(lambda scaled: {"net_shape": list(scaled.net.net_shape), "n_classes": scaled.net.body[-1].out_features},
                 lambda **sizes: _Scaled(ClassifierNet(**sizes), 0.0, 1.0))
class _Scaled(nn.Module):
    """A network of standardised values, in y's own units."""

    def __init__(self, net: nn.Module, mean: float, scale: float):
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(x)
        return self.mean.to(out) + self.scale.to(out) * out


def _train(X: np.ndarray, y: np.ndarray, *, seed: int, training_budget: float, device: str | torch.device,
           verbose: int | str, name: str, updates: int | None = None) -> _Scaled:
    """A network that gives `y` for `X` with the least squared error, in float32."""
    from cfexplain.nets.training import train_network, updates_for  # skorch is loaded when something is trained

    with seeded_torch(seed):
        net = ClassifierNet(X.shape[1:], 1).set_scale(X)
    mean, scale = float(np.mean(y)), float(np.std(y)) or 1.0
    rows = {"x": net.standardise(torch.from_numpy(X)).float(), "y": torch.from_numpy((y - mean) / scale).float()}
    train_network(
        net.body, _squared_error, rows, weight_decay=1e-3, seed=seed, device=device, verbose=verbose, name=name,
        updates=updates_for(len(X), 1500, training_budget) if updates is None else math.ceil(updates * training_budget))
    return _Scaled(net, mean, scale).to(device).eval().requires_grad_(False)


def _squared_error(module: nn.Module, rows: Rows, _: float) -> Tensor:
    return (module(rows["x"])[:, 0] - rows["y"]).square()


def _distil(teacher: _BlackBoxRegressor, X: np.ndarray, **training: Any) -> tuple[_Scaled, float]:
    """A network that answers as `teacher` does on the data and between it, and its R² on rows kept from it."""
    rng = np.random.default_rng(training["seed"])
    order = rng.permutation(len(X))
    held, own = order[: max(1, len(X) // 5)], order[len(X) // 5 :]
    values = teacher.values(X[own])
    own, values = own[finite_rows(values, teacher.name)], values[np.isfinite(values)]
    halves = (values > np.median(values)).astype(int)  # pairs of a low and a high value: what a search walks between
    made_up = rows_between(X[own], halves, max(500, int(_BETWEEN * min(1.0, training["training_budget"]))), rng)
    between = teacher.values(made_up)
    known = np.isfinite(between)  # rows that are made up may lie where the model has no answer
    repeats = max(1, len(made_up) // len(own))
    net = _train(np.concatenate([X[own]] * repeats + [made_up[known]]),
                 np.concatenate([values] * repeats + [between[known]]), updates=3000, name="surrogate", **training)
    net.to(torch.from_numpy(X).dtype)  # not float32 for a float64 X: columns of 10^9 ± 1 are standardised inside
    wanted, got = teacher.values(X[held]), tiled(net, X[held], training["device"])[:, 0]
    wanted, got = wanted[np.isfinite(wanted)], got[np.isfinite(wanted)]
    spread = float(np.square(wanted - wanted.mean()).sum())
    fidelity = 1 - float(np.square(got - wanted).sum()) / spread if spread > 0 else float(np.allclose(got, wanted))
    if fidelity < _FAITHFUL:
        warn_caller(
            f"The surrogate explains {fidelity:.0%} of the variance of {teacher.name} on {len(held)} held-out rows "
            f"(below {_FAITHFUL:.0%}): counterfactuals are searched on the surrogate and checked with the real model, so "
            "more of them will fail the check. Pass more rows, a larger training_budget, or a torch module.",
            UserWarning)
    return net, fidelity
