"""Maps by Captum's methods, each with fitting default arguments, on a copy of the user's network."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cfexplain.foundation.arrays import Layout
from cfexplain.foundation.optional import optional_import
from cfexplain.foundation.random import seeded_torch
from cfexplain.result import Counterfactuals

__all__ = ["EXPLAINS", "Score", "draw_maps", "given_maps", "read_methods", "score_of"]

EXPLAINS = ("contrast", "source", "target")
# Captum's methods that take a baseline, and those that take several
_BASELINE = ("IntegratedGradients", "DeepLift", "Occlusion", "FeatureAblation", "ShapleyValueSampling", "ShapleyValues",
             "KernelShap", "Lime")
_BACKGROUND = ("GradientShap", "DeepLiftShap")
# Rows in one pass of the network; GradientShap's samples for each row, since Captum's default of 5 is too noisy
_AT_ONE_INPUT, _SAMPLES = 256, 50
# These methods keep one input for each module, so they are wrong for a module that is used twice
_ONE_INPUT = ("LRP", "DeepLift", "DeepLiftShap")
# Layers that only reshape: LRP's epsilon rule passes relevance through them unchanged
_SHAPES = (nn.Flatten, nn.Unflatten, nn.Identity)


class Score(nn.Module):
    """The number that a saliency map explains: a logit, or the difference of two, of a copy of the explained network.

    ``score(x, plus, minus)`` has the shape (B,): the logit of class `plus` (B,) minus that of `minus` (B,); a negative index
    stands for none.
    """

    def __init__(self, read: Callable[[Tensor], Tensor], net: nn.Module | None):
        super().__init__()
        self.net, self._read = net, read

    def forward(self, x: Tensor, plus: Tensor, minus: Tensor) -> Tensor:
        logits = self._read(x)
        plus, minus = (torch.where(index < 0, 0.0, logits.gather(1, index.clamp_min(0)[:, None])[:, 0]) for index in (
            plus, minus))
        return plus - minus


def score_of(adapter: Any) -> Score:
    """The score of a copy of the adapter's network: Captum adds hooks to modules, and some methods change their weights."""
    if adapter.module is None:
        return Score(adapter.logits, None)
    try:
        net = copy.deepcopy(adapter.module)
    except Exception as error:
        raise TypeError(f"The {type(adapter.module).__name__} cannot be copied ({type(error).__name__}: {error}), and "
                        "Captum would change the original while it works.") from error
    for part in net.modules():
        part.training = False
        if getattr(part, "inplace", False) is True:  # Captum's hooks need the inputs, which in-place layers overwrite
            part.inplace = False
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return Score(replace(adapter._scores, module=net), net)


def read_methods(methods: Any) -> dict[str, str | np.ndarray | Callable]:
    """Labels of methods, and for each the name of a class of ``captum.attr``, an array or a callable.

    Raises
    ------
    ValueError
        No method, a name that is not known, or one of a layer or neuron.
    TypeError
        Something that is neither name nor array nor callable.
    """
    attr = optional_import("captum.attr", "compare_saliency()")
    if isinstance(methods, str):
        methods = (methods,)
    named = dict(methods) if isinstance(methods, Mapping) else {str(name): name for name in methods}
    if not named:
        raise ValueError("methods is empty; name at least one class of captum.attr, such as 'Saliency'.")
    known = sorted(name for name in attr.__all__ if _explains_inputs(attr, name))
    for label, method in named.items():
        if label in ("counterfactual", "random"):
            raise ValueError(f"{label!r} is the name of a control; call the method something else.")
        if isinstance(method, Tensor | np.ndarray):
            named[label] = method.detach().cpu().numpy() if isinstance(method, Tensor) else method
            continue
        if isinstance(method, str):
            if method not in known:
                raise ValueError(f"{method!r} is no method of captum.attr that explains inputs by itself; known are "
                                 f"{known}.")
        elif not callable(method) or inspect.isclass(method):
            raise TypeError(f"The method {label!r} is {method!r}; expected a name of captum.attr, an array of "
                            "attributions, or a callable (score, x, plus, minus) -> attributions like x.")
    return named


def _explains_inputs(attr: Any, name: str) -> bool:
    kind = getattr(attr, name, None)
    if not inspect.isclass(kind) or not issubclass(kind, attr.Attribution):
        return False
    parts = (attr.LayerAttribution, attr.NeuronAttribution)
    needs = [p for p in list(inspect.signature(kind.__init__).parameters.values())[2:] if p.default is p.empty
             and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    wraps = ("Attribution", "GradientAttribution", "PerturbationAttribution", "NoiseTunnel", "DataLoaderAttribution",
             "LimeBase", "LLMAttribution", "LLMGradientAttribution", "RemoteLLMAttribution")
    return not issubclass(kind, parts) and not needs and name not in wraps


def draw_maps(score: Score, method: str | Callable, x: Tensor, plus: Tensor, minus: Tensor, *, baseline: Tensor,
              background: Tensor, options: Mapping[str, Any], batch_size: int, seed: int) -> tuple[np.ndarray, float]:
    """|attribution| summed over channels, (n, H, W) or (n, d), and the relative error of the attributions' sums.

    Parameters
    ----------
    x : Tensor of shape (n, C, H, W) or (n, d)
    plus, minus : Tensor of int, shape (n,)
        Classes of the score; see `Score`.
    baseline : Tensor of shape (1, …)
    background : Tensor of shape (m, …)
        For methods that take a distribution of baselines.

    Returns
    -------
    maps : ndarray
    gap : float
        Median over rows of |sum − expected sum| / |expected sum|, by Captum's convergence delta; NaN for a method whose
        attributions need not sum to anything.

    Raises
    ------
    Exception
        Whatever Captum raises, and TypeError or ValueError where its numbers would silently be wrong.
    """
    if isinstance(method, str):
        _check_network(score, method, x[:1], plus[:1], minus[:1])
    maps: list[Tensor] = []
    gaps: list[float] = []
    with _seeded(seed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*hooks.*|.*did not already require gradients.*", module="captum")
        if method in _BACKGROUND:  # every sample of every row at once, in Captum
            batch_size = max(1, min(batch_size, _AT_ONE_INPUT // int(options.get("n_samples", _SAMPLES))))
        for batch in torch.arange(len(x)).split(batch_size):
            rows, up, down = x[batch].clone(), plus[batch], minus[batch]
            gap: Tensor | None = None
            if not isinstance(method, str):
                out = method(score, rows, up, down)
            elif method == "LRP" and bool((down >= 0).any()):
                # LRP propagates the relevance of one logit; the contrast is a difference of two
                none = torch.full_like(down, -1)
                (out, gap), (subtracted, its_gap) = (
                    _captum(score, method, rows, k, none, baseline, background, options) for k in (up, down))
                out = out - subtracted
                if gap is not None and its_gap is not None:
                    gap = (gap - its_gap).abs() / score(rows, up, down).detach().abs()
            else:
                out, gap = _captum(score, method, rows, up, down, baseline, background, options)
                if gap is not None:
                    gap = gap.abs() / _expected(score, method, rows, up, down, baseline, background).abs()
            if not isinstance(out, Tensor) or out.shape != rows.shape:
                what = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
                raise ValueError(f"returned {what}, expected a tensor of shape {tuple(rows.shape)}")
            maps.append(out.detach().abs().cpu())
            gaps += [] if gap is None else gap.detach().cpu().tolist()
    sizes = torch.cat(maps).double().numpy()
    if not np.isfinite(sizes).all():
        bad = int((~np.isfinite(sizes.reshape(len(sizes), -1))).any(1).sum())
        raise ValueError(f"NaN or infinite attributions in {bad} of {len(sizes)} rows")
    return (sizes.sum(1) if sizes.ndim == 4 else sizes), float(np.median(gaps)) if gaps else np.nan


def given_maps(label: str, given: np.ndarray, cf: Counterfactuals, used: np.ndarray, layout: Layout) -> np.ndarray:
    """|attribution| summed over channels of the rows `used`, from attributions of every row of `cf`.

    Raises
    ------
    ValueError
        They have another shape than ``cf.x``, or are not finite.
    """
    if given.shape not in (cf.x.shape, (len(cf), *layout.net_shape)):
        raise ValueError(f"The attributions {label!r} have the shape {given.shape}; expected that of cf.x, {cf.x.shape}.")
    out = np.abs(layout.either_to_net(given[used]).astype(float))
    if not np.isfinite(out).all():
        raise ValueError(f"The attributions {label!r} hold NaN or infinite values.")
    return out.sum(1) if layout.is_image else out


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's and NumPy's global generators, from which Captum draws, and restore their states afterwards."""
    with seeded_torch(seed):
        state = np.random.get_state()
        try:
            np.random.seed(seed)
            yield
        finally:
            np.random.set_state(state)


def _captum(score: Score, method: str, x: Tensor, plus: Tensor, minus: Tensor, baseline: Tensor, background: Tensor,
            options: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
    """Attributions, and Captum's convergence delta where it has one."""
    attr = optional_import("captum.attr", "compare_saliency()")
    if method == "LRP":
        rules = optional_import("captum.attr._utils.lrp_rules", "LRP")
        for part in score.modules():
            if isinstance(part, _SHAPES):
                part.rule = rules.EpsilonRule()
    made = getattr(attr, method)(score)
    arguments: dict[str, Any] = {"additional_forward_args": (plus, minus)}
    if method in _BASELINE:
        arguments["baselines"] = baseline.expand_as(x).clone()
    if method in _BACKGROUND:
        arguments["baselines"] = background
    if method == "GradientShap":
        arguments["n_samples"] = _SAMPLES
    if method == "IntegratedGradients":
        arguments["internal_batch_size"] = max(_AT_ONE_INPUT, len(x))
    if method == "Occlusion":
        arguments |= window(tuple(x.shape[1:]))
    if made.has_convergence_delta():
        arguments["return_convergence_delta"] = True
    out = made.attribute(x, **{**arguments, **options})
    if not isinstance(out, tuple):
        return out, None
    gap = out[1]  # GradientShap has one for each of its samples
    return out[0], gap if len(gap) == len(x) else gap.reshape(len(x), -1).mean(1)


def window(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Occlusion's window: a ninth of an image's sides, moved by half of itself; one column of a table.

    >>> window((1, 28, 28)), window((30,))
    ({'sliding_window_shapes': (1, 3, 3), 'strides': (1, 1, 1)}, {'sliding_window_shapes': (1,), 'strides': (1,)})
    """
    if len(shape) == 1:
        return {"sliding_window_shapes": (1,), "strides": (1,)}
    sides = [max(1, round(side / 9)) for side in shape[1:]]
    return {"sliding_window_shapes": (shape[0], *sides), "strides": (shape[0], *(max(1, side // 2) for side in sides))}


def _expected(score: Score, method: str, x: Tensor, plus: Tensor, minus: Tensor, baseline: Tensor,
              background: Tensor) -> Tensor:
    """The number that the attributions of each row should sum to."""
    with torch.no_grad():
        explained = score(x, plus, minus)
        if method == "LRP":
            return explained
        if method in _BASELINE:
            return explained - score(baseline.expand_as(x), plus, minus)
        means = [score(background, k.expand(len(background)), o.expand(len(background))).mean() for k, o in zip(
            plus, minus, strict=True)]
        return explained - torch.stack(means)


def _check_network(score: Score, method: str, x: Tensor, plus: Tensor, minus: Tensor) -> None:
    """Refuse networks for which Captum fails with an unclear error or returns wrong numbers."""
    attr = optional_import("captum.attr", "compare_saliency()")
    if score.net is None:
        if issubclass(getattr(attr, method), attr.GradientAttribution):
            raise TypeError("the model has no gradient: it is only asked")
        return
    if method not in _ONE_INPUT:
        return
    calls: dict[nn.Module, int] = {}
    leaves = {part: name for name, part in score.net.named_modules() if not list(part.children())}
    hooks = [part.register_forward_hook(lambda part, *_: calls.update({part: calls.get(part, 0) + 1})) for part in leaves]
    try:
        with torch.no_grad():
            score(x, plus, minus)
    finally:
        for hook in hooks:
            hook.remove()
    twice = [leaves[part] or type(part).__name__ for part, k in calls.items() if k > 1]
    if twice:
        raise TypeError(f"the network uses {', '.join(twice[:3])}{', …' if len(twice) > 3 else ''} more than once, and "
                        f"{method} keeps one input a module")
