"""One face for every classifier a user may bring: labels outside, differentiable logits inside."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from torch import Tensor, nn

from cfexplain.classifiers.features import PenultimateFeatures
from cfexplain.classifiers.labels import check_count, reconcile, show
from cfexplain.classifiers.outputs import ModuleScores, check_finite, read_module, tiled
from cfexplain.classifiers.surrogate import BlackBox, distil
from cfexplain.classifiers.training import train_classifier
from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.borrowed import frozen
from cfexplain.foundation.exceptions import ClassifierOutputError, NotFittedError
from cfexplain.foundation.labels import class_indices
from cfexplain.foundation.optional import is_instance
from cfexplain.persistence import stored_by_attributes

__all__ = ["ClassifierAdapter", "adapt_classifier"]

_OUTPUTS = ("auto", "logits", "probabilities")


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
    outputs_ : {"logits", "probabilities"}
        How the outputs of the differentiable module are read.
    module : nn.Module
        The differentiable module: the user's, or the trained one.
    device : torch.device
    """

    classes_: np.ndarray
    device: torch.device
    surrogate_fidelity_: float | None
    _scores: ModuleScores
    _black_box: BlackBox | None

    def __init__(
        self,
        scores: ModuleScores,
        classes: np.ndarray,
        device: str | torch.device,
        black_box: BlackBox | None = None,
        fidelity: float | None = None,
    ):
        self._scores, self._black_box = scores, black_box
        self.classes_, self.device, self.surrogate_fidelity_ = classes, torch.device(device), fidelity

    @property
    def is_surrogate(self) -> bool:
        return self._black_box is not None

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
        with PenultimateFeatures() as seen:
            logits = self._scores(x)
        if seen.features is None or len(seen.features) != len(x):
            raise ClassifierOutputError(
                "The classifier's last layer is not linear, so it has no penultimate features to compare. Leave the "
                "term out: feature_weight=0.")
        return logits, seen.features.to(x.dtype)

    def frozen(self) -> AbstractContextManager[Any]:
        """Evaluation mode and no parameter gradients while the block runs; afterwards everything is as it was."""
        return frozen(self.module)

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
        if self._black_box is not None:
            return self._black_box.predict_proba(X).astype(X.dtype) if len(X) else self._nothing(X)
        return self._soft(X)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Labels of shape (n,), from the explained classifier itself (never its surrogate)."""
        if self._black_box is not None:
            return self._black_box.predict(X) if len(X) else self.classes_[:0]
        return self.predict_surrogate(X)

    def predict_surrogate(self, X: np.ndarray) -> np.ndarray:
        """Labels by the differentiable module: the surrogate where there is one, the classifier itself elsewhere."""
        return self.classes_[self._soft(X).argmax(1)]

    def _soft(self, X: np.ndarray) -> np.ndarray:
        if not len(X):
            return self._nothing(X)
        with self.frozen():
            probabilities = tiled(lambda x: self._scores(x).softmax(1), X, self.device)
        check_finite(probabilities)
        return probabilities

    def _nothing(self, X: np.ndarray) -> np.ndarray:
        return np.zeros((0, len(self.classes_)), dtype=X.dtype)


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
        assert self._black_box is not None
        smallest = np.finfo(np.float32).tiny
        proba = self._black_box.predict_proba(x.detach().cpu().numpy()).clip(smallest)
        return torch.from_numpy(np.log(proba)).to(x)

    def logits_and_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raise ClassifierOutputError("The classifier is no network: it has no features to compare.")

    def frozen(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def predict_surrogate(self, X: np.ndarray) -> np.ndarray:
        return self.predict(X)


class ExactAdapter(ClassifierAdapter):
    """A model with a differentiable twin that computes the same: searched by the twin, judged by the model."""

    is_surrogate = False

    def __init__(self, scores: ModuleScores, black_box: BlackBox, device: str | torch.device):
        super().__init__(scores, black_box.classes_, device, black_box)


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
    verbose: int = 0,
    differentiable: bool = True,
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
        return ClassifierAdapter(scores, classes, device)
    if is_instance(classifier, "skorch", "NeuralNet"):
        return _adapt_skorch(classifier, X, classes, layout, outputs, device)
    if isinstance(classifier, type) or not callable(getattr(classifier, "predict", None)):
        what = f"the class {classifier.__name__}" if isinstance(classifier, type) else f"a {type(classifier).__name__}"
        raise TypeError(
            f"classifier is {what}. Expected a torch nn.Module, a fitted skorch net, a fitted scikit-learn classifier "
            "or Pipeline (an object with predict), a FrozenEstimator around one of them, or None to train a default "
            "classifier. A class must be instantiated and fitted; a function can be wrapped in an nn.Module."
        )
    black_box = BlackBox(classifier, X, y, classes, layout)
    if not differentiable:
        return AskedAdapter(black_box, device)
    exact = classifier.as_module(X) if hasattr(classifier, "as_module") else None
    if exact is not None:
        return ExactAdapter(read_module(exact, X, layout, outputs="logits", device=device)[0], black_box, device)
    net, fidelity = distil(black_box, X, **training)
    scores = ModuleScores(net.to(dtype), layout.net_shape)
    return ClassifierAdapter(scores, black_box.classes_, device, black_box, fidelity)


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
    if threshold != 0.5:
        warnings.warn(
            f"{name} decides at threshold={threshold:g}; the explainer decides for the class of the highest "
            "probability, that is at 0.5. Shift the module's bias by -log(threshold / (1 - threshold)) to explain "
            "decisions at the threshold.",
            UserWarning,
            stacklevel=3,
        )
    return ClassifierAdapter(scores, classes, device)


def _what_criterion_implies(net: Any, criterion: Any) -> str | None:
    if isinstance(criterion, nn.CrossEntropyLoss | nn.BCEWithLogitsLoss):
        return "logits"
    if isinstance(criterion, nn.BCELoss):
        return "probabilities"
    if isinstance(criterion, nn.NLLLoss):
        # NeuralNetClassifier takes the logarithm itself; a plain NeuralNet trains log-probabilities, which are logits
        return "probabilities" if is_instance(net, "skorch", "NeuralNetClassifier") else "logits"
    return None
