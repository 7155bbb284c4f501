"""One face for every classifier a user may bring: labels outside, differentiable logits inside."""

from __future__ import annotations

import copy
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from torch import Tensor, nn

from cfexplain.classifiers.examined import check_agreement, check_repeats, spread_rows
from cfexplain.classifiers.features import PenultimateFeatures
from cfexplain.classifiers.labels import check_count, reconcile, show, without_failed
from cfexplain.classifiers.outputs import ModuleScores, check_finite, read_module
from cfexplain.classifiers.surrogate import BlackBox, distil
from cfexplain.classifiers.training import train_classifier
from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.borrowed import frozen
from cfexplain.foundation.exceptions import ClassifierOutputError, NotFittedError
from cfexplain.foundation.labels import class_indices
from cfexplain.foundation.numbers import log_odds_of
from cfexplain.foundation.optional import is_instance
from cfexplain.persistence import MayBeAbsent, stored_by_attributes

__all__ = ["ClassifierAdapter", "adapt_classifier"]

_OUTPUTS = ("auto", "logits", "probabilities")
_A_DECISION = 1e-6  # log-odds, in favour of what was decided


@stored_by_attributes()
class ClassifierAdapter:
    """A classifier as the explainers see it; made by :func:`adapt_classifier`.

    It refers to the user's model and never changes it. Copying or pickling an adapter copies the model with it.

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
        The user's labels; column k of every answer is ``classes_[k]``.
    is_surrogate : bool
        Whether :meth:`logits` are those of a distilled network in place of a model that torch cannot differentiate.
    surrogate_fidelity_ : float or None
        Share of held-out rows on which surrogate and real model agree; None where there is no surrogate.
    bias : Tensor of shape (K,), or None
        What the classifier adds to its log-probabilities before it decides for the largest: a threshold, or costs. None
        where it adds nothing.
    outputs_ : {"logits", "probabilities"}
        How the outputs of the differentiable module are read.
    module : nn.Module
        The differentiable module: the user's, or the trained one.
    device : torch.device
    """

    classes_: np.ndarray
    device: torch.device
    surrogate_fidelity_: float | None
    bias: MayBeAbsent[Tensor | None] = None  # not in files of earlier versions
    _scores: ModuleScores
    _black_box: BlackBox | None

    def __init__(
        self,
        scores: ModuleScores,
        classes: np.ndarray,
        device: str | torch.device,
        black_box: BlackBox | None = None,
        fidelity: float | None = None,
        bias: np.ndarray | None = None,
    ):
        self._scores, self._black_box = scores, black_box
        self.classes_, self.device, self.surrogate_fidelity_ = classes, torch.device(device), fidelity
        self.bias = None if bias is None else torch.tensor(bias, dtype=torch.float64, device=self.device)

    @property
    def is_surrogate(self) -> bool:
        return self._black_box is not None

    @property
    def name(self) -> str:
        """What kind of thing is explained, for messages."""
        return type(self.module).__name__ if self._black_box is None else self._black_box.name

    @property
    def outputs_(self) -> str:
        return self._scores.kind

    @property
    def module(self) -> nn.Module:
        return self._scores.module

    def logits(self, x: Tensor) -> Tensor:
        """Logits of shape (B, K), K >= 2, differentiable in `x` of shape (B, C, H, W) or (B, d).

        Their softmax is what the classifier says. Computed in the module's own dtype and returned in that of `x`.
        Modes are left alone: call it inside :meth:`frozen`.
        """
        return self._scores(x)

    def logits_and_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`logits`, and what the module's last linear layer was given, (B, f), in the dtype of `x`.

        Raises
        ------
        ClassifierOutputError
            If the module has no linear layer to look at.
        """
        frozen: Any = self.module
        if getattr(frozen, "has_features", False):  # a copy for the search, which knows
            known: list[Tensor] = []

            def module(x: Tensor) -> Any:
                out, features = frozen.with_features(x)
                known.append(features.flatten(1))
                return out

            scores = copy.copy(self._scores)
            scores.module = module  # type: ignore[assignment]
            logits = scores(x)
            features = known[0]
        else:
            with PenultimateFeatures() as seen:
                logits = self._scores(x)
            features = seen.features
        if features is None or len(features) != len(x):
            raise ClassifierOutputError(
                "The classifier's last layer is not linear, so it has no penultimate features to compare. Leave the "
                "term out: feature_weight=0.")
        return logits, features.to(x.dtype)

    def verdict(self, x: Tensor, logits: Tensor) -> Tensor | None:
        """Scores (B, K) of which the decision is the largest, where it is not the largest of the `logits` of `x`."""
        return None if self.bias is None else logits + self.bias.to(logits.dtype)

    def frozen(self) -> AbstractContextManager[Any]:
        """Evaluation mode and no parameter gradients while the block runs; afterwards everything is as it was."""
        return frozen(self.module)

    def answers(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the explained classifier itself says: its decisions as class indices (n,), and probabilities (n, K).

        A decision is what its own ``predict`` says, be it the most probable class or not. Rows of which it gives NaN or
        infinity have -1 and NaN.
        """
        if not len(X):
            return np.zeros(0, dtype=np.int64), np.zeros((0, len(self.classes_)), dtype=X.dtype)
        if self._black_box is not None:
            predicted, proba = self._black_box.answers(X)
            return predicted, proba.astype(X.dtype)
        return self._own_answers(X)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """What the explained classifier itself says (never its surrogate).

        Parameters
        ----------
        X : ndarray of shape (n, C, H, W) or (n, d)

        Returns
        -------
        probabilities : ndarray of shape (n, K), in the dtype of `X`

        Raises
        ------
        ClassifierOutputError
            If the classifier returns NaN or infinity.
        """
        return self.checked(self.answers(X))[1]

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Labels of shape (n,), from the explained classifier itself (never its surrogate); else as `predict_proba`."""
        return self.classes_[self.checked(self.answers(X))[0]]

    def predict_surrogate(self, X: np.ndarray) -> np.ndarray:
        """Labels by the differentiable module: the surrogate where there is one, the classifier itself elsewhere."""
        return self.classes_[self.checked(self._own_answers(X))[0]]

    @staticmethod
    def checked(answers: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """`answers`, if there are some for every row; else a `ClassifierOutputError`."""
        if len(answers[1]):
            check_finite(answers[1])
        return answers

    def _own_answers(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the differentiable module."""
        bias, scores = self.bias, self._scores.of_few(len(X))
        with self.frozen():
            if bias is None:
                proba = self._scores.over(X, self.device, lambda x: scores(x).softmax(1), "proba")
                return without_failed(proba.argmax(1), proba)
            logits = torch.from_numpy(self._scores.over(X, self.device, scores, "logits"))
        return without_failed((logits + bias.to(logits)).argmax(1).numpy(), logits.softmax(1).numpy())


@stored_by_attributes()
class AskedAdapter(ClassifierAdapter):
    """A model that is only asked: nothing stands in for it, and nothing is differentiated.

    Its logits are the logarithms of its own probabilities, without a gradient.
    """

    _scores: None  # type: ignore[assignment]
    _black_box: BlackBox
    is_surrogate = False
    outputs_ = "probabilities"
    module = None  # type: ignore[assignment]

    def __init__(self, black_box: BlackBox, device: str | torch.device):
        super().__init__(None, black_box.classes_, device, black_box)  # type: ignore[arg-type]

    def logits(self, x: Tensor) -> Tensor:
        proba = self._black_box.probabilities(x.detach().cpu().numpy())
        proba = np.where(np.isfinite(proba).all(1, keepdims=True), proba, np.nan).clip(np.finfo(np.float32).tiny)
        return torch.from_numpy(np.log(proba)).to(x)

    def verdict(self, x: Tensor, logits: Tensor) -> Tensor | None:
        """What ``predict`` decides, all but without a distance: how near another decision is, nobody knows."""
        if self._black_box.asks == "predict":
            return None
        decided = torch.from_numpy(self._black_box.decided(x.detach().cpu().numpy())).to(x.device)
        return _A_DECISION * (decided[:, None] == torch.arange(len(self.classes_), device=x.device)).to(logits)

    def logits_and_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raise ClassifierOutputError("The classifier is no network: it has no features to compare.")

    def frozen(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def predict_surrogate(self, X: np.ndarray) -> np.ndarray:
        return self.predict(X)


@stored_by_attributes()
class ExactAdapter(ClassifierAdapter):
    """A model with a differentiable twin that computes the same: searched by the twin, judged by the model."""

    is_surrogate = False

    def __init__(self, scores: ModuleScores, black_box: BlackBox, device: str | torch.device,
                 bias: np.ndarray | None = None):
        super().__init__(scores, black_box.classes_, device, black_box, bias=bias)


def adapt_classifier(
    classifier: Any,
    X: np.ndarray,
    y: np.ndarray,
    classes: np.ndarray | None = None,
    *,
    layout: Layout,
    outputs: str = "auto",
    dtype: torch.dtype | np.dtype | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
    training_budget: float = 1.0,
    verbose: int | str = 0,
    differentiable: bool = True,
    examine: bool = False,
) -> ClassifierAdapter:
    """See any classifier as differentiable logits; train a default one, or a surrogate, where that is needed.

    Parameters
    ----------
    classifier : nn.Module, skorch net, FrozenEstimator, fitted estimator with ``predict``, or None
        A module or skorch net is used as it is. Any other fitted estimator is distilled into a surrogate, on which the
        search runs, while ``predict`` stays its own. None trains a CNN (images) or an MLP (tables).
    X : ndarray of shape (n, C, H, W) or (n, d), float32 or float64
        The fit data: outputs are read on it, the trained networks learn from it.
    y : ndarray of shape (n,)
        The user's labels.
    classes : ndarray of shape (K,), optional
        Labels of a bare module's outputs, in their order. Default: the sorted labels of y.
    layout : Layout
        How samples look to the user and to the networks: a module may want either.
    outputs : {"auto", "logits", "probabilities"}
        What a module returns. "auto" asks a skorch net's criterion (NLLLoss and BCELoss: probabilities,
        CrossEntropyLoss and BCEWithLogitsLoss: logits), then the outputs on `X`: K columns are probabilities if they
        lie in [0, 1] and sum to 1, one column if it also comes out of a sigmoid.
    dtype : torch.dtype or numpy dtype, optional
        Of trained networks. Default: that of `X`.
    differentiable : bool, default=True
        False: whoever asks needs no gradient, so that nothing is distilled.
    examine : bool, default=False
        Ask a classifier that is given about a few rows, before anything is distilled: does it agree with y
        (`check_agreement`), and with itself when it is asked again (`check_repeats`)?

    Raises
    ------
    ClassifierOutputError
        The outputs cannot be read as scores of the classes; the message says why and what to pass.
    NotFittedError
        The skorch net or estimator is not fitted.
    TypeError
        The classifier is none of the kinds above.
    ValueError
        The module is on another device, `outputs` is none of the three, or y has one class only.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from cfexplain.foundation.arrays import Layout
    >>> from cfexplain.classifiers import adapt_classifier
    >>> X, y = np.array([[-3.0], [3.0]]), np.array(["no", "yes"])
    >>> adapter = adapt_classifier(torch.nn.Linear(1, 1), X, y, layout=Layout((1,), (1,)), outputs="logits")
    >>> adapter.classes_.tolist(), adapter.predict_proba(X).shape, adapter.is_surrogate
    (['no', 'yes'], (2, 2), False)
    """
    if outputs not in _OUTPUTS:
        raise ValueError(f'classifier_output={outputs!r} is not known; expected "auto", "logits" or "probabilities".')
    classes = np.unique(y) if classes is None else np.asarray(classes)
    if not isinstance(dtype, torch.dtype):
        dtype = torch.from_numpy(np.empty(0, dtype=X.dtype if dtype is None else dtype)).dtype
    training: dict[str, Any] = {"seed": seed, "training_budget": training_budget, "device": device, "verbose": verbose}
    while isinstance(classifier, FrozenEstimator):
        classifier = classifier.estimator
    if classifier is None:
        if len(classes) < 2:
            raise ValueError(f"y has one class only, {show(classes)}; a classifier needs at least two.")
        net = train_classifier(X, np.eye(len(classes))[class_indices(y, classes)], **training)
        return ClassifierAdapter(ModuleScores(net.to(dtype), layout.net_shape), classes, device)
    if isinstance(classifier, nn.Module):
        scores, columns = read_module(classifier, X, layout, outputs=outputs, device=device)
        check_count(columns, classes, "y has")
        adapter = ClassifierAdapter(scores, classes, device)
        return _examined(adapter, X, y) if examine else adapter
    if is_instance(classifier, "skorch", "NeuralNet"):
        adapter = _adapt_skorch(classifier, X, classes, layout, outputs, device)
        return _examined(adapter, X, y) if examine else adapter
    if isinstance(classifier, type) or not callable(getattr(classifier, "predict", None)):
        what = f"the class {classifier.__name__}" if isinstance(classifier, type) else f"a {type(classifier).__name__}"
        raise TypeError(
            f"classifier is {what}. Expected a torch nn.Module, a fitted skorch net, a fitted scikit-learn classifier "
            "or Pipeline (an object with predict), a FrozenEstimator around one of them, or None to train a default "
            "classifier. " + (
                "A file is read first: cfexplain.load(path) for an explainer, torch.load(path) for a network of yours."
                if isinstance(classifier, (str, os.PathLike)) else
                "A dict of weights is no network: build the network, and net.load_state_dict(weights)."
                if isinstance(classifier, dict) else
                "A class must be instantiated and fitted; a function can be wrapped in an nn.Module.")
        )
    black_box = BlackBox(classifier, X, y, classes, layout)
    if examine:
        _examined(black_box, X, y)
    if not differentiable:
        return AskedAdapter(black_box, device)
    bias, explained = black_box.decision_bias(X)
    exact = classifier.as_module(X) if hasattr(classifier, "as_module") else None
    if exact is not None:
        return ExactAdapter(read_module(exact, X, layout, outputs="logits", device=device)[0], black_box, device, bias)
    net, fidelity = distil(black_box, X, bias=bias, soft=bias is not None or explained == 1, **training)
    scores = ModuleScores(net.to(dtype), layout.net_shape)
    return ClassifierAdapter(scores, black_box.classes_, device, black_box, fidelity, bias)


def _examined(model: Any, X: np.ndarray, y: np.ndarray) -> Any:
    """`model`, an adapter or a black box, asked about a few rows of the fit data."""
    rows, name = spread_rows(len(X), len(model.classes_)), f"The classifier ({model.name})"
    check_repeats(lambda x: model.answers(x)[1], X[rows], name)
    check_agreement(model.answers(X[rows])[0], class_indices(y[rows], model.classes_), model.classes_, name)
    return model


def _adapt_skorch(
    net: Any, X: np.ndarray, classes: np.ndarray, layout: Layout, outputs: str, device: str | torch.device
) -> ClassifierAdapter:
    name = type(net).__name__
    if not getattr(net, "initialized_", False):
        raise NotFittedError(
            f"classifier={name} is not fitted: it has no module yet. Call classifier.fit(X, y), or "
            "classifier.initialize() and classifier.load_params(...), before the explainer's fit. (scikit-learn's "
            "clone un-fits a skorch net: wrap it as FrozenEstimator(net) where it is cloned.)"
        )
    criterion = getattr(net.criterion_, "_orig_mod", net.criterion_)  # torch.compile's wrapper
    scores, columns = read_module(
        net.module_, X, layout, outputs=outputs, expected=_what_criterion_implies(net, criterion),
        nonlinearity=net.predict_nonlinearity if callable(net.predict_nonlinearity) else None,
        first_of_tuple=True, device=device,
    )
    if columns > 1 and outputs == "auto" and isinstance(criterion, nn.BCELoss | nn.BCEWithLogitsLoss):
        raise ClassifierOutputError(
            f"{name} was trained with {type(criterion).__name__} on {columns} outputs: that is one yes or no an "
            "output, not one class of several. Train it with CrossEntropyLoss, or say how to read it: "
            'classifier_output="logits" takes the softmax of its outputs.'
        )
    # an attribute error here means that the net saw no y: its weights were loaded, or it was trained on a Dataset
    own = getattr(net, "classes_", None)
    if own is not None:
        classes = reconcile(np.asarray(own), classes, encoded=True)
    check_count(columns, classes, "y has" if own is None else "its classes_ are")
    threshold = getattr(net, "threshold", 0.5)
    bias = None if threshold == 0.5 else np.array([0.0, -log_odds_of(threshold)])
    return ClassifierAdapter(scores, classes, device, bias=bias)


def _what_criterion_implies(net: Any, criterion: Any) -> str | None:
    if isinstance(criterion, nn.CrossEntropyLoss | nn.BCEWithLogitsLoss):
        return "logits"
    if isinstance(criterion, nn.BCELoss):
        return "probabilities"
    if isinstance(criterion, nn.NLLLoss):
        # NeuralNetClassifier takes the logarithm itself; a plain NeuralNet trains log-probabilities, which are logits
        return "probabilities" if is_instance(net, "skorch", "NeuralNetClassifier") else "logits"
    return None
