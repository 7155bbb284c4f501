"""A network as a search wants it: a copy without anything that only training needs, in the fastest form of its function."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrizations, parametrize
from torch.utils._pytree import tree_leaves, tree_map_only

from cfexplain.ops.freezing.fuse import Counts, Fused, fuse

__all__ = ["FreezeReport", "FrozenModule", "freeze_for_search"]

_PRECISIONS = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class FreezeReport:
    """What `freeze_for_search` did.

    Attributes
    ----------
    precision : {"float32", "bfloat16", "float64"}
    traced : bool
        Whether the whole forward could be read and rewritten, apart from the parts that `left` names.
    folded : int
        BatchNorms folded into a layer beside them.
    swapped : int
        ReLUs moved behind a max-pooling.
    removed : int
        Dropouts and identities taken out.
    baked : int
        Parametrizations (spectral norm, weight norm, orthogonal) replaced by the weights that they give.
    channels_last : bool
        Whether some 2-d convolutions run in channels last.
    left : tuple of str
        What was left as it is, and why.
    """

    precision: str
    traced: bool
    folded: int
    swapped: int
    removed: int
    baked: int
    channels_last: bool
    left: tuple[str, ...]


class FrozenModule(nn.Module):
    """A frozen copy of a network, made by `freeze_for_search`; stays in evaluation mode.

    Computes in its own precision; floating-point outputs come back in the dtype of the (first floating-point) input, and
    so does the gradient of each input.

    Attributes
    ----------
    report : FreezeReport
    """

    def __init__(self, net: nn.Module, hidden: list[nn.Module], precision: torch.dtype):
        super().__init__()
        self.net, self.hidden, self.precision = net, nn.ModuleList(hidden), precision
        self.report: FreezeReport | None = None
        _cast(self, precision)
        for part in self.modules():
            part.training = False

    def train(self, mode: bool = True) -> FrozenModule:
        """Stays as it is: nothing here is trained."""
        return self

    @property
    def has_features(self) -> bool:
        """Whether `with_features` can be asked."""
        return isinstance(self.net, Fused) and self.net.deep is not None

    def with_features(self, x: Tensor) -> tuple[Any, Tensor]:
        """What the network makes of `x`, and what its last linear layer was given, (B, ...)."""
        return self(x, deep=True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.net, Fused) and (len(args) != 1 or kwargs.keys() - {"deep"}):
            raise TypeError(
                f"A frozen network takes one input, as it was read with; got {len(args)} and the keywords "
                f"{sorted(kwargs)}. Wrap the network in a module whose forward takes one tensor, and freeze that.")
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outside = next((tensor.dtype for tensor in given if tensor.is_floating_point()), None)
        half = self.precision == torch.bfloat16
        inside = torch.float32 if half else self.precision  # autocast brings single layers to bfloat16
        if any(tensor.dtype != inside for tensor in given):
            args, kwargs = tree_map_only(Tensor, lambda t: t.to(inside) if t.is_floating_point() else t, (args, kwargs))
        device = given[0].device.type if given else "cpu"
        if half or torch.is_autocast_enabled(device):
            with torch.autocast(device, torch.bfloat16, enabled=half, cache_enabled=False):
                out = self.net(*args, **kwargs)
        else:
            out = self.net(*args, **kwargs)
        if outside is None or (isinstance(out, Tensor) and out.dtype == outside):
            return out
        return tree_map_only(Tensor, lambda t: t.to(outside) if t.is_floating_point() else t, out)


def freeze_for_search(
    module: nn.Module,
    *,
    precision: str = "float32",
    channels_last: bool | str = "auto",
    example: Tensor | tuple[Tensor, ...] | None = None,
) -> FrozenModule:
    """A copy of `module` that computes the same in evaluation mode, as fast as that goes, for inputs' gradients only.

    BatchNorm is folded into the convolution or linear layer before or after it, ReLU is moved behind max-pooling (the
    same values and gradients, but for the sign of zeros), dropout and identities are taken out, spectral and weight norm
    are replaced by their weights, no parameter asks for a gradient, and 2-d convolutions run in channels last. Each only
    where it is exactly right: ``frozen.report`` says what was done, and what was left and why. `module` itself stays as
    it is in every respect.

    Parameters
    ----------
    module : nn.Module
        Any network; rewritten if it takes one tensor and its forward can be read by ``torch.fx``.
    precision : {"float32", "bfloat16", "float64"}
        Of weights and activations. "bfloat16" keeps the input, normalisation layers' weights and whatever else autocast
        keeps in float32, and computes convolutions, linear layers and what follows them in bfloat16.
    channels_last : "auto" or bool
        Memory format of 2-d convolutional networks inside; inputs are converted, outputs contiguous. "auto": unless in
        float64.
    example : Tensor or tuple of Tensor, optional
        A batch of inputs, in a dtype that `module` takes. Values and input gradients of the rewritten network are
        compared with the original's on it (in float64, where they differ by more than rounding usually does), and if they
        disagree a warning is given and the copy is left as it is.

    Returns
    -------
    FrozenModule
        On the same device.

    Raises
    ------
    TypeError
        `module` is no nn.Module, or cannot be copied.
    ValueError
        `precision` or `channels_last` is not known, or `module` has lazy parameters that no batch has shaped yet.

    Notes
    -----
    Forward and backward hooks are copied with the modules that have them, which are not rewritten. The parametrizations
    of ``torch.nn.utils.parametrizations`` are baked, others are evaluated at each call, as in the original. Where a
    module's forward cannot be read (control flow that depends on the input, say), its plain ``nn.Sequential`` parts are
    still rewritten; such a forward must not change their weights. A forward that compares ``type(x)`` is read wrongly
    without a sign; `example` finds that. For another process, send the network and freeze it there.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout())
    >>> frozen = freeze_for_search(net)
    >>> frozen.report.folded, frozen.report.swapped, frozen.report.removed, frozen.report.left
    (1, 1, 1, ())
    >>> x = torch.rand(2, 3, 8, 8)
    >>> torch.allclose(frozen(x), net.eval()(x), atol=1e-5)
    True
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"freeze_for_search takes a torch nn.Module, got {type(module).__name__}.")
    if precision not in _PRECISIONS:
        raise ValueError(f"precision={precision!r} is not known; choose one of {sorted(_PRECISIONS)}.")
    if channels_last not in (True, False, "auto"):
        raise ValueError(f"channels_last={channels_last!r} is not known; choose True, False or 'auto'.")
    module = getattr(module, "_orig_mod", module)  # torch.compile's wrapper: the same function
    plain, baked, left = _copied(module)
    counts = Counts(left=left)
    last = precision != "float64" if channels_last == "auto" else bool(channels_last)
    net, hidden = fuse(copy.deepcopy(plain), counts, last)
    if example is not None:
        problem = _disagreement(net, hidden, plain, example if isinstance(example, tuple) else (example,))
        if problem is not None:
            warnings.warn(f"The network is searched as it is, unfused: {problem}", RuntimeWarning, stacklevel=2)
            net, hidden, counts = plain, [], Counts(left=[*left, problem])
    frozen = FrozenModule(net, hidden, _PRECISIONS[precision])
    frozen.report = FreezeReport(precision, isinstance(net, Fused), counts.folded, counts.swapped, counts.removed, baked,
                                 counts.channels_last, tuple(counts.left))
    return frozen


def _copied(module: nn.Module) -> tuple[nn.Module, int, list[str]]:
    """A copy in evaluation mode without parameter gradients, how many parametrizations were baked, and which were not."""
    lazy = [name for name, p in _named_tensors(module) if is_lazy(p)]
    if lazy:
        raise ValueError(f"The parameter {lazy[0]!r} has no shape yet. Call the network on one batch before freezing it.")
    # what a forward has left behind with a graph (old-style weight norm does) cannot be copied as it is
    kept = [value for part in module.modules() for value in (*vars(part).values(), *part.buffers(recurse=False))]
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in kept if isinstance(t, Tensor) and not t.is_leaf}
    try:
        with torch.no_grad():
            module = copy.deepcopy(module, memo)
    except Exception as error:  # a lock, an open file, a generator: whatever a user's module holds
        raise TypeError(f"The {type(module).__name__} cannot be copied ({error}), and it is not changed in place. Give it "
                        "a __deepcopy__ or take out what cannot be copied.") from error
    for part in module.modules():
        part.training = False  # not through train(), which some modules override with side effects
    for _, tensor in _named_tensors(module):
        tensor.requires_grad_(False)
        tensor.grad = None
    return module, *_bake(module)


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(module.named_parameters(), module.named_buffers())


def _bake(module: nn.Module) -> tuple[int, list[str]]:
    """Replace known parametrizations of our copy by the weights that they give in evaluation mode."""
    baked, left = 0, []
    for name, part in list(module.named_modules()):
        if isinstance(part, torch.jit.ScriptModule) or not parametrize.is_parametrized(part):
            continue
        kinds = {type(kind) for steps in part.parametrizations.values() for kind in steps}
        unknown = sorted(kind.__name__ for kind in kinds if kind.__module__ != parametrizations.__name__)
        if unknown:
            left.append(f"{name or type(part).__name__} is not rewritten: parametrized by {', '.join(unknown)}")
            continue
        with torch.no_grad():
            weights = {key: getattr(part, key).detach().clone() for key in part.parametrizations}
        # not remove_parametrizations(): the copy shares its class with the original, which that function changes
        part.__class__ = type(part).__bases__[0]
        del part.parametrizations
        for key, weight in weights.items():
            part.register_parameter(key, nn.Parameter(weight, requires_grad=False))
        baked += len(weights)
    return baked, left


def _cast(module: nn.Module, precision: torch.dtype) -> None:
    """Every floating-point weight to `precision`; to bfloat16 only where autocast would bring it there at each call."""
    for part in module.modules():
        multiplies = isinstance(part, nn.Linear | nn.modules.conv._ConvNd)
        for tensor in chain(part.parameters(recurse=False), part.buffers(recurse=False)):
            if tensor.is_floating_point():
                plain = torch.float32 if precision == torch.bfloat16 else precision
                tensor.data = tensor.data.to(precision if multiplies else plain)


def _disagreement(net: nn.Module, hidden: list[nn.Module], plain: nn.Module, example: tuple[Tensor, ...]) -> str | None:
    """What is wrong with the rewritten `net` on `example`, or None.

    In the precision of `plain` first. What rounding does there to a deep network's gradients (a ReLU that is on in one
    and off in the other) is told from a mistake in float64.
    """
    own = next((t.dtype for _, t in _named_tensors(plain) if t.is_floating_point()), torch.float32)
    problem = None
    for dtype in dict.fromkeys((own, torch.float64)):
        original, rewritten, rest = copy.deepcopy((plain, net, nn.ModuleList(hidden)))
        for part in (original, rewritten, rest):
            _cast(part, dtype)
        if dtype == torch.float64:
            _contiguous(rewritten, rest)  # there are no fast convolutions in channels last
        inputs = tuple(t.to(dtype) if t.is_floating_point() and dtype != own else t for t in example)
        try:
            expected = _response(original, inputs)
        except Exception:  # a forward that only works in its own precision; in that one the error is the user's
            if dtype == own:
                raise
            return problem
        try:
            problem = _difference(expected, _response(rewritten, inputs), torch.finfo(dtype).eps ** 0.5)
        except Exception as error:  # of a graph that was read wrongly
            return f"rewritten, it fails on the example ({type(error).__name__}: {error})"
        if problem is None:
            return None
    return problem


def _contiguous(*modules: nn.Module) -> None:
    for part in chain.from_iterable(module.modules() for module in modules):
        if isinstance(part, Fused):
            part.channels_last = False
        elif isinstance(part, nn.modules.conv._ConvNd) and "weight" in part._parameters:
            part.weight.data = part.weight.data.contiguous()


def _difference(expected: tuple, got: tuple, rtol: float) -> str | None:
    for what, a, b in zip(("outputs", "input gradients"), expected, got, strict=True):
        if [t.shape for t in a] != [t.shape for t in b]:
            return f"rewritten, its {what} on the example have other shapes"
        for one, other in zip(a, b, strict=True):
            scale = one.double().abs().max().item() if one.numel() else 0.0
            error = (one.double() - other.double()).abs().max().item() if one.numel() else 0.0
            if not error <= rtol * scale:
                return f"rewritten, its {what} on the example differ by {error:.3g}, of {scale:.3g} at most"
    return None


def _response(net: nn.Module, example: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Floating-point outputs, and gradients of the sum of their squares in the floating-point inputs."""
    inputs = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in example]
    with torch.enable_grad():
        out = [t for t in tree_leaves(net(*inputs)) if isinstance(t, Tensor) and t.is_floating_point()]
        moving = [t for t in inputs if t.requires_grad]
        loss = sum((t.double().square().sum() for t in out), torch.zeros((), dtype=torch.float64, device="cpu"))
        gradients = torch.autograd.grad(loss, moving, allow_unused=True) if moving and loss.requires_grad else ()
    zeros = (torch.zeros_like(t) if g is None else g for t, g in zip(moving, gradients, strict=False))
    return [t.detach() for t in out], list(zeros)
