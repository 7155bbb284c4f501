"""What a torch module's outputs mean: logits or probabilities, one column or K, and the shape the module is fed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.borrowed import frozen
from cfexplain.foundation.exceptions import ClassifierOutputError, warn_caller
from cfexplain.foundation.partial_tiles import PartialTiles
from cfexplain.foundation.tiles import TileSizes, in_tiles, tile_for
from cfexplain.foundation.weight_cache import cached_by_weights
from cfexplain.persistence import MayBeAbsent, stored_by_attributes

__all__ = ["ModuleScores", "check_device", "check_finite", "finite_rows", "log_scores", "read_module", "tiled"]

_LOOKED_AT = 2048  # rows of the fit data on which outputs are inspected: enough to know, cheap for a large network
_PROBE = 5  # rows of the first call; more than an image has channels, so that a batch is not taken for one image
_SAME_VALUES = ("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Select", "Slice", "Alias", "ToCopy", "Clone")


@stored_by_attributes(check=lambda scores: scores.kind in ("logits", "probabilities"))
@dataclass
class ModuleScores:
    """A module, and how to feed it and read it.

    `nonlinearity` is a skorch net's own ``predict_nonlinearity``; `first_of_tuple` follows skorch, where a module may
    return more than its prediction.
    """

    module: nn.Module
    sample_shape: tuple[int, ...]
    kind: str = "logits"
    nonlinearity: Callable[[Tensor], Tensor] | None = None
    first_of_tuple: bool = False
    channels_last: MayBeAbsent[bool] = False

    def outputs(self, x: Tensor) -> Any:
        """The module's own answer to `x` of shape (B, ...): it sees its own dtype and sample shape."""
        out = self.module(self.shaped(self._cast(x)))
        if self.first_of_tuple and isinstance(out, tuple):
            out = out[0]
        return out if self.nonlinearity is None else self.nonlinearity(out)

    def shaped(self, x: Tensor) -> Tensor:
        """`x` of shape (B, C, H, W) or (B, d) in the shape, and with the channels, that the module wants."""
        return (x.permute(0, 2, 3, 1) if self.channels_last else x).reshape(len(x), *self.sample_shape)

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(_floating_dtype(self.module) or x.dtype)

    def columns(self, x: Tensor) -> Tensor:
        """The module's answer as (B, 1) or (B, K), in the dtype of `x`."""
        return self.outputs(x).reshape(len(x), -1).to(x.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return log_scores(self.columns(x), self.kind)

    def over(self, X: np.ndarray, device: str | torch.device, function: Callable[[Tensor], Tensor], name: str) -> np.ndarray:
        """`function`, which is called `name`, of the scores of the rows of `X`, as `tiled` has it; of rows of a table, many
        are asked about at once, where each keeps its bits.
        """
        if X.ndim > 2 or torch.device(device).type != "cpu":
            return tiled(function, X, device)
        sizes = cached_by_weights(
            self.module, ("tile sizes", X.shape[1]), lambda: TileSizes(tile_for(X.shape[1:]), X.shape[1]))
        return tiled(function, X, device, sizes, (name, *self._reading))

    @property
    def _reading(self) -> tuple:
        """What tells two ways to read one module apart."""
        return self.kind, self.sample_shape, self.channels_last, self.first_of_tuple, self.nonlinearity

    def of_few(self, n: int) -> Callable[[Tensor], Tensor]:
        """Itself for a tile of which the first `n` rows matter: no more images are computed than it takes."""
        partial = cached_by_weights(self.module, "partial tiles", PartialTiles)
        return lambda x: (partial(self._reading, self, x, n) if x.ndim == 4 and n < len(x) and x.device.type == "cpu"
                          else self(x))


def log_scores(columns: Tensor, kind: str) -> Tensor:
    """Logits of shape (B, K), K >= 2, whose softmax is what the classifier says.

    One column becomes ``[0, logit]`` or ``[log(1 - p), log p]``; probabilities are clamped at the smallest normal
    number of their dtype before the logarithm, so that 0 and 1 give finite logits.

    Examples
    --------
    >>> import torch
    >>> log_scores(torch.tensor([[0.25]]), "probabilities").softmax(1)
    tensor([[0.7500, 0.2500]])
    """
    if kind == "probabilities":
        if columns.shape[1] == 1:
            columns = torch.cat([1 - columns, columns], dim=1)
        return columns.clamp_min(torch.finfo(columns.dtype).tiny).log()
    if columns.shape[1] == 1:
        columns = torch.cat([torch.zeros_like(columns), columns], dim=1)
    return columns


def tiled(function: Callable[[Tensor], Tensor], X: np.ndarray, device: str | torch.device,
          sizes: TileSizes | None = None, name: Hashable = None) -> np.ndarray:
    """``function`` over the rows of `X`, on `device` and in tiles: a row's bits do not depend on its batch.

    With `sizes`, in which `name` stands for the function, in other numbers of rows where the bits allow it.
    """

    def on_device(x: Tensor) -> Tensor:
        return function(x.to(device)).cpu()

    rows = torch.from_numpy(np.ascontiguousarray(X))
    with torch.no_grad():
        return in_tiles(on_device, rows, tile=tile_for(X.shape[1:]),
                        places=sizes.choice(name, on_device, rows) if sizes else None).numpy()


def check_device(module: nn.Module, device: str | torch.device) -> None:
    """Refuse a module that is elsewhere: moving it would change the user's model, moving the data would hide a cost.

    Raises
    ------
    ValueError
        Naming both devices and what to pass.
    """
    wanted = torch.device(device)
    found = sorted({str(tensor.device) for tensor in chain(module.parameters(), module.buffers())})
    wrong = [name for name in found if not _same_device(torch.device(name), wanted)]
    if wrong:
        names = " and ".join(f"'{name}'" for name in found)
        fix = f"Pass device='{wrong[0]}' to the explainer, or move" if len(found) == 1 else "Move"
        raise ValueError(
            f"The classifier is on {names}, but the explainer computes on device='{wanted}', and a user's model is "
            f"never moved. {fix} the model yourself: classifier.to('{wanted}')."
        )


def _same_device(found: torch.device, wanted: torch.device) -> bool:
    if found.type != wanted.type or found.type == "cpu":
        return found.type == wanted.type
    current = torch.cuda.current_device() if found.type == "cuda" else 0
    return (current if found.index is None else found.index) == (current if wanted.index is None else wanted.index)


def check_finite(scores: np.ndarray) -> None:
    """Raise :class:`ClassifierOutputError` with the number of rows that have NaN or infinity."""
    bad = int((~np.isfinite(scores)).any(axis=1).sum())
    if bad:
        raise ClassifierOutputError(
            f"The classifier is producing NaN or infinity on valid data: {bad} of {len(scores)} rows looked at. Check "
            "its weights, and that X is scaled as the classifier was trained."
        )


def finite_rows(scores: np.ndarray, name: str = "The classifier") -> np.ndarray:
    """Which rows of what a model said at ``fit`` are numbers, bool (n,): a few that are not are left out, with a warning.

    Raises
    ------
    ClassifierOutputError
        If more than a tenth of the rows have NaN or infinity.
    """
    finite = np.isfinite(scores.reshape(len(scores), -1)).all(1)
    if 10 * (~finite).sum() > len(scores):
        check_finite(scores.reshape(len(scores), -1))
    elif not finite.all():
        warn_caller(f"{name} gives NaN or infinity for {int((~finite).sum())} of {len(scores)} rows looked at: they are "
                      "left out here, and such a row gets the status 'model_failed' when it is explained.", UserWarning)
    return finite


def read_module(
    module: nn.Module,
    X: np.ndarray,
    layout: Layout,
    *,
    outputs: str = "auto",
    expected: str | None = None,
    nonlinearity: Callable[[Tensor], Tensor] | None = None,
    first_of_tuple: bool = False,
    device: str | torch.device = "cpu",
) -> tuple[ModuleScores, int]:
    """Find out on data how `module` is fed and read; return that and its number of output columns.

    Parameters
    ----------
    X : ndarray of shape (n, C, H, W) or (n, d)
        The fit data; up to 2,048 evenly spaced rows are looked at.
    outputs : {"auto", "logits", "probabilities"}
        What the user says.
    expected : {None, "logits", "probabilities"}
        What the module's training criterion implies (skorch); used where the user says "auto".

    Raises
    ------
    ClassifierOutputError
        No layout works, outputs are not finite, carry no gradient, are not what was declared, or cannot be told apart.
    """
    check_device(module, device)
    rows = np.unique(np.linspace(0, len(X) - 1, min(len(X), _LOOKED_AT)).astype(int))
    with frozen(module):
        scores, ends_in_sigmoid = _find_layout(
            ModuleScores(module, layout.net_shape, "logits", nonlinearity, first_of_tuple), X, layout, device
        )
        seen = tiled(scores.columns, X[rows], device)
        precision = torch.finfo(_floating_dtype(module) or torch.float32).eps
    seen = seen[finite_rows(seen)]
    one = seen.shape[1] == 1
    if outputs == "auto" and nonlinearity is None:
        scores.kind = expected or _detect(seen, one and ends_in_sigmoid, precision)
    else:
        scores.kind = outputs if nonlinearity is None else "probabilities"
    if scores.kind == "probabilities" and not _are_probabilities(seen, precision):
        raise ClassifierOutputError(
            f"The classifier's outputs were read as probabilities, but {_describe(seen)}. If the module returns "
            'scores before the softmax or sigmoid, pass classifier_output="logits".'
        )
    return scores, seen.shape[1]


def _find_layout(
    scores: ModuleScores, X: np.ndarray, layout: Layout, device: str | torch.device
) -> tuple[ModuleScores, bool]:
    """Try the shapes in which the module may want its samples; also: is the last operation a sigmoid?"""
    x = torch.from_numpy(X[np.arange(_PROBE) % len(X)]).to(device)
    failures, cause = [], None
    for shape, last in layout.fed:
        scores.sample_shape, scores.channels_last = shape, last
        try:
            with torch.enable_grad():
                out = scores.outputs(x.clone().requires_grad_())
        except Exception as error:  # the module's own, whatever it is: shown to the user below
            lines = str(error).strip().splitlines() or [""]
            failures.append(f"input {(_PROBE, *shape)}: {type(error).__name__}: {lines[0]}")
            cause = cause or error
            continue
        problem = _unusable(out)
        if problem is None:
            if not out.requires_grad:
                raise ClassifierOutputError(
                    "The classifier's outputs carry no gradient with respect to its inputs, which the search needs. "
                    "Remove torch.no_grad(), .detach() and NumPy code from the module's forward; a model that cannot "
                    "be differentiated can be wrapped as a scikit-learn estimator: then a surrogate is distilled."
                )
            return scores, _ends_in_sigmoid(out)
        failures.append(f"input {(_PROBE, *shape)}: {problem}")
    raise ClassifierOutputError(
        "The classifier takes none of the layouts of this data, or returns something other than one row of scores a "
        "sample, a float tensor of shape (B,), (B, 1) or (B, K). Tried\n  " + "\n  ".join(failures) + "\n"
        "Pass X in the layout that the module was trained on (image_shape=(C, H, W) for flattened images), or wrap the "
        "module in one that reshapes its input and returns the scores alone."
    ) from cause


def _unusable(out: Any) -> str | None:
    if not isinstance(out, Tensor):
        return f"returned a {type(out).__name__}, not a tensor"
    if not out.is_floating_point():
        return f"returned {out.dtype} of shape {tuple(out.shape)}, not floats"
    if out.ndim not in (1, 2) or out.shape[0] != _PROBE or 0 in out.shape:
        return f"returned shape {tuple(out.shape)}"
    return None


def _ends_in_sigmoid(out: Tensor) -> bool:
    """Follow the graph back from `out` through reshapes and casts: nn.Sigmoid and torch.sigmoid look the same there."""
    node = out.grad_fn
    while node is not None and node.name().rstrip("0123456789").removesuffix("Backward") in _SAME_VALUES:
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith("SigmoidBackward")


def _floating_dtype(module: nn.Module) -> torch.dtype | None:
    tensors = chain(module.parameters(), module.buffers())
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)


def _detect(seen: np.ndarray, ends_in_sigmoid: bool, precision: float) -> str:
    one = seen.shape[1] == 1
    if seen.min() < 0 or seen.max() > 1:
        return "logits"
    if ends_in_sigmoid or (not one and _are_probabilities(seen, precision)):
        return "probabilities"
    raise ClassifierOutputError(
        f"It cannot be told whether the classifier returns logits or probabilities: {_describe(seen)}. Say which: "
        'classifier_output="logits" (before the softmax or sigmoid) or classifier_output="probabilities".'
    )


def _are_probabilities(seen: np.ndarray, precision: float) -> bool:
    if seen.min() < 0 or seen.max() > 1:
        return False
    # a softmax in half precision sums to 1 within a few of its own units
    return seen.shape[1] == 1 or bool((np.abs(seen.sum(1, dtype=np.float64) - 1) <= max(1e-4, 4 * precision)).all())


def _describe(seen: np.ndarray) -> str:
    text = f"its outputs lie in [{seen.min():.4g}, {seen.max():.4g}]"
    if seen.shape[1] == 1:
        return text + " in one column"
    sums = seen.sum(1, dtype=np.float64)
    return text + f" and rows sum to {sums.min():.4g}" + (f" to {sums.max():.4g}" if np.ptp(sums) > 1e-4 else "")
