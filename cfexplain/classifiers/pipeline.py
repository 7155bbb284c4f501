"""A fitted pipeline on tables of mixed types, as a classifier of their codes: with gradients where they can be had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.metaestimators import available_if
from torch import Tensor, nn

from cfexplain.classifiers.adapter import ClassifierAdapter, adapt_classifier
from cfexplain.classifiers.labels import check_one_target, read_predictions, without_failed
from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.optional import is_instance
from cfexplain.tables.mixed import MixedTable

__all__ = ["PipelineModel", "unwrapped"]

# Relative error up to which preprocessing counts as affine: pipelines compute in float32 where their network does
_AFFINE = 1e-5
_CHECKED = 2048
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "tanh": nn.Tanh, "logistic": nn.Sigmoid, "identity": nn.Identity}


def unwrapped(estimator: Any) -> Any:
    """What is inside a FrozenEstimator or a fitted search (GridSearchCV and its like)."""
    while True:
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        else:
            return estimator


class PipelineModel:
    """What the pipeline says of rows, given as DataFrames or as codes.

    Parameters
    ----------
    pipe : fitted Pipeline or estimator
        Its last step may be a bare nn.Module, which is given float32 tensors and reads them as `adapt_classifier` does.
    table : MixedTable
    as_array : bool
        The pipeline was fitted on arrays without column names.

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
    """

    def __init__(self, pipe: Any, table: MixedTable, as_array: bool = False):
        self.pipe, self.table, self.as_array = pipe, table, as_array
        self.final = unwrapped(pipe.steps[-1][1]) if isinstance(pipe, Pipeline) else pipe
        self._adapter: ClassifierAdapter | None = None
        if not isinstance(self.final, nn.Module):
            check_one_target(pipe.classes_, type(self.final).__name__)
            self.classes_ = np.asarray(pipe.classes_)

    # ------------------------------------------------------------------ what it says
    def read_module(self, frame: Any, y: np.ndarray, outputs: str) -> None:
        """For a bare module as the last step: which labels its outputs are, in the order of the sorted `y`."""
        features = self.features(frame).astype(np.float32)
        self._adapter = adapt_classifier(
            self.final, features, y, layout=Layout(features.shape[1:], features.shape[1:]), outputs=outputs)
        self.classes_ = self._adapter.classes_

    def features(self, frame: Any) -> np.ndarray:
        """What the last step is given, as a dense array."""
        steps = self.pipe.steps[:-1] if isinstance(self.pipe, Pipeline) else ()
        out = Pipeline(list(steps)).transform(self._fed(frame)) if steps else frame
        return np.asarray(out.toarray() if hasattr(out, "toarray") else out)

    def _fed(self, frame: Any) -> Any:
        return frame.to_numpy() if self.as_array else frame

    def answers_frame(self, frame: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Class indices by the pipeline's own ``predict``, and probabilities if it has them; -1 and NaN where it fails."""
        if self._adapter is not None:
            return self._adapter.answers(self.features(frame).astype(np.float32))
        predicted, proba = read_predictions(self.pipe.predict(self._fed(frame)), self.classes_, len(frame),
                                            type(self.final).__name__)
        if hasattr(self, "predict_proba"):
            proba = self.predict_proba_frame(frame)
        return (predicted, None) if proba is None else without_failed(predicted, proba)

    def predict_frame(self, frame: Any) -> np.ndarray:
        """Labels of shape (n,): the pipeline's own ``predict``, in whatever form it gives them."""
        if self._adapter is not None:
            return self._adapter.predict(self.features(frame).astype(np.float32))
        said = np.asarray(self.pipe.predict(self._fed(frame)))
        if said.ndim == 1:
            return said
        return self.classes_[read_predictions(said, self.classes_, len(frame), type(self.final).__name__)[0]]

    def predict_proba_frame(self, frame: Any) -> np.ndarray:
        """(n, K)"""
        if self._adapter is not None:
            return self._adapter.predict_proba(self.features(frame).astype(np.float32))
        return np.asarray(self.pipe.predict_proba(self._fed(frame)))

    def predict(self, codes: np.ndarray) -> np.ndarray:
        return self.predict_frame(self._frame(codes))

    @available_if(lambda self: self._adapter is not None or hasattr(self.pipe, "predict_proba"))
    def predict_proba(self, codes: np.ndarray) -> np.ndarray:
        return self.predict_proba_frame(self._frame(codes))

    @available_if(lambda self: hasattr(self.pipe, "decision_function"))
    def decision_function(self, codes: np.ndarray) -> np.ndarray:
        return self.pipe.decision_function(self._fed(self._frame(codes)))

    def _frame(self, codes: np.ndarray) -> Any:
        return self.table.frame(self.table.decode(np.asarray(codes)))

    # ----------------------------------------------------------------- its gradient
    def as_module(self, codes: np.ndarray) -> nn.Module | None:
        """Codes to logits as a differentiable module, if that is exactly what the pipeline computes; else None.

        Every preprocessing that is affine in the codes is written as one linear layer, whatever its steps are called:
        scalers, encoders (any function of a single category is), imputers, PCA. It is found by asking about single
        changes, and kept only if it agrees with the pipeline on rows of `codes` and on rows mixed of them.
        """
        if not isinstance(self.pipe, Pipeline):
            return None
        last = self._last_module(codes)
        if last is None:
            return None
        affine = self._affine(codes)
        if affine is None:
            return None
        module = _Composed(*affine, *last).eval()
        if self._adapter is None and not is_instance(self.final, "skorch", "NeuralNet"):
            with torch.no_grad():
                said = module(torch.from_numpy(codes[:_CHECKED])).softmax(1).numpy()
            if not np.allclose(said, self.predict_proba(codes[:_CHECKED]), atol=1e-5):
                return None
        return module

    def _last_module(self, codes: np.ndarray) -> tuple[nn.Module, ClassifierAdapter | None] | None:
        if self._adapter is not None:
            return self._adapter.module, self._adapter
        if is_instance(self.final, "skorch", "NeuralNet"):
            features = self.features(self._frame(codes)).astype(np.float32)
            adapter = adapt_classifier(self.final, features, self.classes_, self.classes_,
                                       layout=Layout(features.shape[1:], features.shape[1:]))
            return adapter.module, adapter
        net = _as_net(self.final) if hasattr(self.pipe, "predict_proba") else None
        return None if net is None else (net, None)

    def _affine(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """A (width, features) and b, such that features = codes @ A + b; None if there are no such."""
        asked, pairs = self._single_changes()
        answers = self.features(self.table.frame(asked)).astype(np.float64)
        at = self.table.codes(asked)
        A = np.zeros((self.table.width, answers.shape[1]))
        for place, row in pairs:  # numbers: the slope; categories and flags: the jump from the first row
            change = at[row] - at[0]
            if change[place]:
                A[place] = (answers[row] - answers[0] - change @ A) / change[place]
        b = answers[0] - at[0] @ A
        rows = codes[np.unique(np.linspace(0, len(codes) - 1, min(len(codes), _CHECKED)).astype(int))]
        seen = self.table.decode(rows)
        for values in (seen, np.random.default_rng(0).permuted(seen, axis=0)):
            wanted = self.features(self.table.frame(values)).astype(np.float64)
            error = np.abs(self.table.codes(values) @ A + b - wanted).max()
            if not error <= _AFFINE * max(1.0, float(np.abs(wanted).max())):
                return None
        return A, b

    def _single_changes(self) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Values of rows, the first with nothing special, each other with one change; and (place, row) of each change."""
        columns = self.table.searched
        base = np.array([column["low"] if column["kind"] == "number" else 0.0 for column in columns])
        rows, pairs = [base], []
        for i, column in enumerate(columns):
            first, last = self.table.places[column["name"]]
            others = [column["high"]] if column["kind"] == "number" else range(1, last - first)
            for k, value in enumerate(others, start=0 if column["kind"] == "number" else 1):
                rows.append(np.where(np.arange(len(base)) == i, value, base))
                pairs.append((first + k, len(rows) - 1))
            if column["name"] in self.table.missing:
                rows.append(np.where(np.arange(len(base)) == i, np.nan, base))
                pairs.append((self.table.missing[column["name"]], len(rows) - 1))
        return np.array(rows), pairs


class _Composed(nn.Module):
    """Codes (B, width) to logits (B, K): one affine layer, then the last step."""

    A: Tensor
    b: Tensor

    def __init__(self, A: np.ndarray, b: np.ndarray, net: nn.Module, adapter: ClassifierAdapter | None):
        super().__init__()
        self.net = net
        # as the adapter's bound method, so that copies of this module carry copies of both
        self.read = None if adapter is None else adapter.logits
        self.register_buffer("A", torch.from_numpy(A))
        self.register_buffer("b", torch.from_numpy(b))

    def forward(self, codes: Tensor) -> Tensor:
        features = codes.to(self.A.dtype) @ self.A + self.b
        return (self.net if self.read is None else self.read)(features).to(codes.dtype)


def _as_net(final: Any) -> nn.Module | None:
    """A linear classifier or an MLP of scikit-learn as a module of its logits; whoever asks checks the probabilities."""
    if hasattr(final, "coefs_") and hasattr(final, "activation"):
        weights, biases = final.coefs_, final.intercepts_
        activation = _ACTIVATIONS[final.activation]
    elif np.ndim(getattr(final, "coef_", 0)) == 2:
        weights, biases, activation = [np.asarray(final.coef_).T], [np.ravel(final.intercept_)], nn.Identity
    else:
        return None
    layers: list[nn.Module] = []
    for weight, bias in zip(weights, biases, strict=True):
        layer = nn.Linear(weight.shape[0], weight.shape[1], dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight.T, dtype=np.float64)))
            layer.bias.copy_(torch.from_numpy(np.broadcast_to(np.asarray(bias, dtype=np.float64), layer.bias.shape).copy()))
        layers += [layer, activation()]
    net = nn.Sequential(*layers[:-1])
    return nn.Sequential(net, _BothSides()) if net[-1].out_features == 1 else net


class _BothSides(nn.Module):
    """One logit as the logits of two classes."""

    def forward(self, logit: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(logit), logit], dim=1)
