"""A fitted pipeline on tables of mixed types, as a classifier of their codes: with gradients where they can be had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils.metaestimators import available_if
from torch import Tensor, nn

from cfexplain.classifiers.adapter import ClassifierAdapter, adapt_classifier
from cfexplain.classifiers.labels import check_one_target, read_predictions, without_failed
from cfexplain.classifiers.pipeline_steps import steps_of, transformed, unwrapped
from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.exceptions import ClassifierOutputError
from cfexplain.foundation.labels import class_indices, is_missing
from cfexplain.foundation.optional import is_instance
from cfexplain.persistence import stored_by_attributes
from cfexplain.persistence.table import Kind, register
from cfexplain.persistence.tree import Reader, Writer
from cfexplain.persistence.user_objects import without_frozen
from cfexplain.tables.mixed import MixedTable, TableRows

__all__ = ["PipelineModel", "attach_last_step"]

# Relative error up to which preprocessing counts as affine: pipelines compute in float32 where their network does
_AFFINE = 1e-5
_CHECKED = 2048
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "tanh": nn.Tanh, "logistic": nn.Sigmoid, "identity": nn.Identity}


def _can_be_asked(model: PipelineModel) -> bool:
    model.pipe = without_frozen(model.pipe)
    return callable(getattr(model.pipe, "predict", None)) or model.adapter is not None


@stored_by_attributes("pipe", "table", "reads", "own", "adapter", check=_can_be_asked)
class PipelineModel:
    """What the pipeline says of rows, given as DataFrames or as codes.

    What its ``predict`` returns is taken as it is: labels, their positions, scores of shape (n, K), or the probability of
    the second of two classes, whatever shape (n,), (n, 1) or (n, K) it has.

    Parameters
    ----------
    pipe : fitted Pipeline, estimator, or anything with ``predict``
        Its last step may be a bare nn.Module, which is given float32 tensors and reads them as `adapt_classifier` does.
    table : MixedTable

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
        Set by `read_classes`; of a regressor there are none.
    reads : {"labels", "positions", "scores", "probability", "values"}
        What ``predict`` returns.
    """

    pipe: Any
    table: MixedTable
    reads: str
    own: np.ndarray | None
    adapter: ClassifierAdapter | None

    def __init__(self, pipe: Any, table: MixedTable):
        self.pipe, self.table = without_frozen(pipe), table
        self.reads, self.own, self.adapter = "values", None, None

    def __deepcopy__(self, memo: Any) -> PipelineModel:
        return self  # nothing in it is changed, and what it holds is the user's

    @property
    def final(self) -> Any:
        """The last step."""
        return steps_of(self.pipe)[1]

    # ------------------------------------------------------------------ what it says
    def read_classes(self, frame: Any, y: np.ndarray | None, classes: Any = None, outputs: str = "auto") -> np.ndarray:
        """Find out which classes there are, and how ``predict`` names them; returns those of `frame` as class indices.

        Parameters
        ----------
        frame : DataFrame
            Training rows.
        y : ndarray of shape (n,), optional
        classes : array-like of shape (K,), optional
            In the order of the pipeline's outputs. Default: its own ``classes_``, else the sorted labels of `y`, else what
            it predicts.
        outputs : {"auto", "logits", "probabilities"}
            What a bare module returns.

        Raises
        ------
        ValueError
            What ``predict`` returns does not fit the classes.
        """
        given = None if classes is None else np.asarray(classes)
        if given is not None and (given.ndim != 1 or len(given) < 2 or len(set(given.tolist())) < len(given)):
            raise ValueError(f"classes={classes!r} must list two or more different labels, in the order of the outputs.")
        if isinstance(self.final, nn.Module):
            if given is None and y is None:
                raise ValueError("y_train is missing: an nn.Module does not know the labels of its outputs. Pass it, or "
                                 "classes=[…] in the order of the outputs.")
            features = self.features(frame).astype(np.float32)
            self.adapter = adapt_classifier(self.final, features, np.empty(0) if y is None else y, given,
                                            layout=Layout(features.shape[1:], features.shape[1:]), outputs=outputs)
            self.reads, self.classes_ = "labels", self.adapter.classes_
            return self.answers_frame(frame)[0]
        own = getattr(self.pipe, "classes_", None)
        check_one_target(own, self.name)
        self.own = None if own is None else np.asarray(own)
        answers = self._asked("predict", frame)
        known = given if given is not None else self.own if self.own is not None else None if y is None else np.unique(y)
        if known is None:
            if answers.ndim > 1 or (answers.dtype.kind == "f" and (answers != np.round(answers)).any()):
                raise ValueError(f"{self.name}.predict returned {_described(answers)}, and the pipeline has no classes_: it "
                                 "is not known which label each output stands for. Pass classes=[…] in the order of the "
                                 "outputs, or y_train.")
            known = np.unique(answers)
        if self.own is not None and len(self.own) != len(known):
            raise ValueError(f"classes={classes!r} has {len(known)} labels, but the pipeline's classes_ are "
                             f"{self.own.tolist()}. Pass as many, in that order.")
        self.classes_, self.reads = known, self._reading(answers, known)
        return self._indices(answers)

    def _reading(self, answers: np.ndarray, classes: np.ndarray) -> str:
        known = answers if answers.ndim > 1 else answers[~is_missing(answers)]
        if answers.ndim > 1:
            if answers.shape[1] == len(classes):
                return "scores"
        elif (self.own is None and known.dtype.kind == "f" and set(classes.tolist()) == {0, 1}
              and ((known >= 0) & (known <= 1)).all()):
            return "probability"
        else:
            try:
                own = classes if self.own is None else self.own
                return "labels" if read_predictions(answers, own, len(answers), self.name)[1] is None else "probability"
            except ClassifierOutputError:
                if known.dtype.kind in "fiub" and (class_indices(known, np.arange(len(classes))) >= 0).all():
                    return "positions"
        raise ValueError(
            f"{self.name}.predict returned {_described(answers)}, which does not fit the classes {classes.tolist()[:12]}. "
            "Expected labels, their positions, one column a class, or the probability of the second of two: pass "
            "classes=[…] in the order of the outputs, and y_train in the same labels.")

    @property
    def name(self) -> str:
        """What messages call the model."""
        return type(self.final).__name__

    def _indices(self, answers: np.ndarray) -> np.ndarray:
        """Class indices; -1 where the model gives none."""
        if self.reads == "labels":
            known = self.classes_ if self.own is None else self.own
            return read_predictions(answers, known, len(answers), self.name)[0]
        if self.reads == "positions":
            return class_indices(answers, np.arange(len(self.classes_)))
        failed, answers = ~np.isfinite(answers.astype(float)), np.nan_to_num(answers.astype(float))
        if self.reads == "scores":
            return np.where(failed.any(1), -1, answers.argmax(1))
        return np.where(failed, -1, answers > 0.5)

    def _asked(self, method: str, frame: Any) -> np.ndarray:
        """(n,) or (n, K)"""
        try:
            answers = getattr(self.pipe, method)(self.table.fed(frame))
        except NotFittedError as error:
            raise NotFittedError(f"pipe is not fitted: {error} Call pipe.fit(X_train, y_train) first.") from error
        except Exception as error:  # the pipeline's own, whatever it is
            raise ValueError(f"The pipeline does not take these rows: {method} raised {type(error).__name__}: {error}. Pass "
                             "them as it was fitted on them.") from error
        if isinstance(answers, list) and answers and np.ndim(answers[0]) > 1:
            raise ValueError(f"{self.name}.{method} answers several targets at once; expected one class a row.")
        answers = np.asarray(answers)
        if answers.ndim == 2 and answers.shape[1] == 1:
            answers = answers[:, 0]
        if answers.ndim not in (1, 2) or len(answers) != len(frame):
            raise ValueError(f"{self.name}.{method} returned shape {answers.shape} for {len(frame)} rows; expected (n,) or "
                             "(n, K).")
        return answers

    def features(self, frame: Any) -> np.ndarray:
        """What the last step is given, as a dense array."""
        out = transformed(steps_of(self.pipe)[0], self.table.fed(frame))
        return np.asarray(out.toarray() if hasattr(out, "toarray") else out)

    def answers_frame(self, frame: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Class indices by the pipeline's own ``predict``, and probabilities if it has them; -1 and NaN where it fails."""
        if self.adapter is not None:
            return self.adapter.answers(self.features(frame).astype(np.float32))
        predicted = self._indices(self._asked("predict", frame))
        return without_failed(predicted, self.predict_proba_frame(frame)) if self.gives_probabilities else (predicted, None)

    def predict_frame(self, frame: Any) -> np.ndarray:
        """Labels (None where it fails), or values, of shape (n,): the pipeline's own ``predict``."""
        if self.adapter is not None:
            return self.adapter.predict(self.features(frame).astype(np.float32))
        answers = self._asked("predict", frame)
        if self.reads == "values":
            return answers.astype(float)
        places = self._indices(answers)
        labels = self.classes_[places]
        if (places < 0).any():
            labels = labels.astype(object)
            labels[places < 0] = None
        return labels

    def predict_proba_frame(self, frame: Any) -> np.ndarray:
        """(n, K)"""
        if self.adapter is not None:
            return self.adapter.predict_proba(self.features(frame).astype(np.float32))
        answers = self._asked("predict_proba" if hasattr(self.pipe, "predict_proba") else "predict", frame).astype(float)
        if answers.ndim == 1:
            answers = np.column_stack([1 - answers, answers])
        if answers.shape[1] != len(self.classes_):
            raise ValueError(f"{self.name} gives {answers.shape[1]} probabilities a row for the {len(self.classes_)} "
                             f"classes {self.classes_.tolist()[:12]}.")
        known = answers[np.isfinite(answers).all(1)]
        shares = hasattr(self.pipe, "predict_proba") or ((known >= 0).all() and np.allclose(known.sum(1), 1, atol=1e-3))
        return answers if shares else softmax(answers, axis=1)

    def predict(self, codes: np.ndarray, like: TableRows | None = None) -> np.ndarray:
        """Labels, or values, of codes; `like` are the same rows before, for what codes do not say."""
        return self.predict_frame(self.table.whole_frame(np.asarray(codes), like))

    @property
    def gives_probabilities(self) -> bool:
        """Whether there is more to learn of a row than its label."""
        return self.adapter is not None or hasattr(self.pipe, "predict_proba") or self.reads in ("scores", "probability")

    @available_if(lambda self: self.gives_probabilities)
    def predict_proba(self, codes: np.ndarray) -> np.ndarray:
        return self.predict_proba_frame(self.table.whole_frame(np.asarray(codes)))

    @available_if(lambda self: self.reads != "values" and hasattr(self.pipe, "decision_function"))
    def decision_function(self, codes: np.ndarray) -> np.ndarray:
        return self.pipe.decision_function(self.table.fed(self.table.whole_frame(np.asarray(codes))))

    # ----------------------------------------------------------------- its gradient
    def as_module(self, codes: np.ndarray) -> nn.Module | None:
        """Codes to logits as a differentiable module, if that is exactly what the pipeline computes; else None.

        Every preprocessing that is affine in the codes is written as one linear layer, whatever its steps are called:
        scalers, encoders (any function of a single category is), imputers, PCA. It is found by asking about single
        changes, and kept only if it agrees with the pipeline on rows of `codes` and on rows mixed of them.
        """
        try:
            return self._as_module(codes)
        except Exception:  # steps of any kind, which owe nothing but `predict`: there is a surrogate for those
            return None

    def _as_module(self, codes: np.ndarray) -> nn.Module | None:
        if not isinstance(unwrapped(self.pipe), Pipeline):
            return None
        last = self._last_module(codes)
        if last is None:
            return None
        affine = self._affine(codes)
        if affine is None:
            return None
        module = _Composed(*affine, *last).eval()
        if self.adapter is None and not is_instance(self.final, "skorch", "NeuralNet"):
            with torch.no_grad():
                said = module(torch.from_numpy(codes[:_CHECKED])).softmax(1).numpy()
            if not np.allclose(said, self.predict_proba(codes[:_CHECKED]), atol=1e-5):
                return None
        return module

    def _last_module(self, codes: np.ndarray) -> tuple[nn.Module, ClassifierAdapter | None] | None:
        if self.adapter is not None:
            return self.adapter.module, self.adapter
        if is_instance(self.final, "skorch", "NeuralNet"):
            features = self.features(self.table.whole_frame(codes)).astype(np.float32)
            adapter = adapt_classifier(self.final, features, self.classes_, self.classes_,
                                       layout=Layout(features.shape[1:], features.shape[1:]))
            return adapter.module, adapter
        net = _as_net(self.final) if hasattr(self.pipe, "predict_proba") else None
        return None if net is None else (net, None)

    def _affine(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """A (width, features) and b, such that features = codes @ A + b; None if there are no such."""
        asked, pairs = self._single_changes()
        answers = self.features(self.table.usual_frame(asked)).astype(np.float64)
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
            wanted = self.features(self.table.usual_frame(values)).astype(np.float64)
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
        self.adapter = adapter  # copies of this module carry copies of both
        self.register_buffer("A", torch.from_numpy(A))
        self.register_buffer("b", torch.from_numpy(b))

    def forward(self, codes: Tensor) -> Tensor:
        features = codes.to(self.A.dtype) @ self.A + self.b
        return (self.net if self.adapter is None else self.adapter.logits)(features).to(codes.dtype)


def _take_composed(module: _Composed, out: Writer, where: str, slot: str) -> dict[str, Any]:
    return {name: out.value(getattr(module, name), f"{where}.{name}") for name in ("A", "b", "adapter")}


def _make_composed(fields: dict[str, Any], read: Reader) -> _Composed:
    A, b, adapter = (read.value(fields[name]) for name in ("A", "b", "adapter"))
    if not (isinstance(A, Tensor) and isinstance(b, Tensor) and A.ndim == 2 and b.shape == A.shape[1:]
            and isinstance(adapter, ClassifierAdapter | None)):
        raise ValueError("an affine layer whose parts do not fit each other")
    return _Composed(A.numpy(), b.numpy(), nn.Identity() if adapter is None else adapter.module, adapter).eval()


register(Kind(_Composed, _take_composed, _make_composed))


def attach_last_step(module: nn.Module, model: PipelineModel) -> None:
    """Give a module of `as_module` that comes from a file the last step of the pipeline, which no file holds."""
    if isinstance(module, _Composed) and module.adapter is None:
        net = _as_net(model.final)
        if net is None:
            raise ValueError(f"a linear last step or an MLP, but the pipeline ends in a {model.name}")
        module.net = net


def _described(answers: np.ndarray) -> str:
    if answers.ndim > 1:
        return f"shape {answers.shape}"
    some = ", ".join(map(repr, np.unique(answers)[:4].tolist()))
    return f"values of {answers.dtype} such as {some}"


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
