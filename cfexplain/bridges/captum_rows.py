"""Between Captum's tensors and an explainer: layouts, devices, class indices, and scores that Captum can differentiate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from cfexplain.explainers import CounterfactualExplainer
from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.exceptions import DataRangeError, TargetError
from cfexplain.result import Counterfactuals

__all__ = ["OUTPUTS", "Explained", "Forward", "TensorExplainer"]

OUTPUTS = ("log_odds", "logit", "probability")


@dataclass
class Explained:
    """The result of one call, and how to convert it to tensors like the inputs."""

    cf: Counterfactuals
    inputs: Tensor
    is_tuple: bool
    layout: Layout

    def restored(self, rows: np.ndarray) -> Any:
        """`rows` (n, …) in shape, dtype, device and packing of the inputs."""
        rows = rows if self.inputs.shape[1:] == self.layout.user_shape else self.layout.to_net(rows)
        out = torch.from_numpy(np.ascontiguousarray(rows))
        out = out.to(self.inputs.device, self.inputs.dtype if self.inputs.is_floating_point() else out.dtype)
        return (out,) if self.is_tuple else out


@dataclass
class TensorExplainer:
    """A fitted explainer that takes and returns tensors and class indices, as Captum does.

    Parameters
    ----------
    explainer : CounterfactualExplainer
        Fitted.
    clip : bool
        Bring pixels outside ``data_range`` back to it before they are explained.
    options : dict
        Of ``explain``.
    """

    explainer: CounterfactualExplainer
    clip: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.explainer, CounterfactualExplainer):
            raise TypeError(f"Expected a fitted explainer of cfexplain, got a {type(self.explainer).__name__}. Of a "
                            "pipeline pass its last step, and inputs as that step sees them.")
        check_is_fitted(self.explainer)
        known = {"n_jobs", "backend", "precision", "k"}
        if not set(self.options) <= known:
            raise TypeError(f"{sorted(set(self.options) - known)} are no options of explain(); known are {sorted(known)}.")

    def explain(self, inputs: Any, target: Any, label: Any, **more: Any) -> Explained:
        """Counterfactuals of a tensor, or of a tuple that holds one.

        Raises
        ------
        TypeError
            Inputs that are no tensor.
        ValueError
            Several inputs, or rows of another shape than at fit.
        TargetError
            A target that is no class index, or both a target and a label.
        """
        is_tuple = isinstance(inputs, tuple)
        if is_tuple:
            if len(inputs) != 1:
                raise ValueError(f"Got {len(inputs)} input tensors; an explainer explains one.")
            (inputs,) = inputs
        if not isinstance(inputs, Tensor):
            raise TypeError(f"Captum works on torch tensors, got a {type(inputs).__name__}; pass "
                            "torch.as_tensor(inputs), or call explainer.explain(inputs) itself.")
        wanted, layout = self._target(target, label), self.explainer.layout_
        check_shape(inputs, layout)
        x = inputs.detach().cpu()
        if x.is_floating_point():  # the search runs in the explainer's dtype; the result gets that of the inputs
            x = x.to(torch.from_numpy(np.empty(0, self.explainer.dtype_)).dtype)
            if self.clip and layout.is_image:
                x = x.clamp(*self.explainer.data_range)
        with torch.enable_grad():  # Captum's metrics call this under no_grad
            try:
                # one map for each input: of several answers the best
                cf = self.explainer.explain(layout.to_user(layout.either_to_net(x)), wanted, **self.options, **more).best()
            except DataRangeError as error:
                if x.is_floating_point() and not self.clip:
                    raise DataRangeError(f"{error} If it is Captum's noise that left the range, pass clip=True where the "
                                         "explainer was passed.") from error
                raise
        return Explained(cf, inputs, is_tuple, layout)

    def _target(self, target: Any, label: Any) -> Any:
        """The target for ``explain``: labels for Captum's class indices."""
        if target is None:
            return label
        if label is not None:
            raise TargetError(f"Pass target={target!r}, a class index, or label={label!r}, a class; not both.")
        if self.explainer.is_regression:
            raise TargetError("The explainer explains a regressor, which has no class indices. Pass what is wanted as "
                              "label=: a value, one a row, an interval (low, high), 'maximize' or 'minimize'.")
        classes = self.explainer.classes_
        try:
            index = target.detach().cpu().numpy() if isinstance(target, Tensor) else np.asarray(target)
        except ValueError as error:
            raise TargetError(f"target={target!r} is neither a class index nor a list of them.") from error
        if index.dtype.kind not in "iu" or index.ndim > 1:
            raise TargetError(
                f"target={target!r} is not a class index. As everywhere in Captum a target is an int, or a list or a tensor "
                f"of one int a row, from 0 to {len(classes) - 1}; pass a class itself as label=.")
        if index.size and not (index.min() >= 0 and index.max() < len(classes)):
            raise TargetError(f"target={target!r} holds indices outside 0 to {len(classes) - 1}; the classes are "
                              f"{classes.tolist()!r}. Pass a class itself as label=.")
        return classes[index.item() if index.size == 1 else index]


class Forward:
    """The outputs of the explained model as a function that Captum can differentiate and pick a column of.

    ``forward(x)`` has the shape (n, K): log-odds, logits or probabilities of each class, for `x` in the layout of ``fit`` or
    of the network. For a regressor it is the value, (n, 1). If the explainer has a surrogate, it is the surrogate's output.
    """

    def __init__(self, explainer: CounterfactualExplainer, output: str = "log_odds"):
        if output not in OUTPUTS:
            raise ValueError(f"output={output!r} is not known; choose one of {OUTPUTS}.")
        self.explainer, self.output = explainer, output

    def __call__(self, x: Tensor) -> Tensor:
        explainer = self.explainer
        check_shape(x, explainer.layout_)
        like = torch.from_numpy(np.empty(0, explainer.dtype_))
        rows = explainer.layout_.either_to_net(x).to(explainer.device_, like.dtype)
        with explainer.classifier_.frozen():
            scores = explainer.classifier_.logits(rows)
        if not explainer.is_regression:
            scores = scores.softmax(1) if self.output == "probability" else (
                log_odds_table(scores) if self.output == "log_odds" else scores)
        return scores.to(x.device, x.dtype if x.is_floating_point() else scores.dtype)


def log_odds_table(logits: Tensor) -> Tensor:
    """log p(k) − log(1 − p(k)) of every class k, (n, K), from logits (n, K).

    >>> log_odds_table(torch.tensor([[0.0, 2.0]])), log_odds_table(torch.tensor([[0.0, 90.0, 0.0]]))[0, 1]
    (tensor([[-2.,  2.]]), tensor(89.3069))
    """
    top = torch.zeros_like(logits, dtype=torch.bool).scatter(1, logits.argmax(1, keepdim=True), True)
    # only the largest p can be so near 1 that 1 − p loses its digits: there 1 − p is the sum of the others
    p = torch.where(top, 0, logits.softmax(1))
    rest = torch.where(top, logits.masked_fill(top, -torch.inf).logsumexp(1, keepdim=True),
                       logits.logsumexp(1, keepdim=True) + torch.log1p(-p))
    return logits - rest


def check_shape(x: Tensor, layout: Any) -> None:
    if x.shape[1:] not in (layout.user_shape, layout.net_shape):
        shapes = " or ".join(str(("n", *shape)).replace("'", "") for shape in dict.fromkeys([
            layout.user_shape, layout.net_shape]))
        raise ValueError(f"inputs have the shape {tuple(x.shape)}; expected {shapes}, as at fit. For one sample, pass "
                         "inputs[None].")
