"""How a search computes: the explainer's own parts, or frozen copies of them, in tiles or in the slots of a CUDA graph.

Every backend finds the same, to float rounding. ``eager`` is the readable truth: the explainer's networks as they are. What
is found is always judged by them.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from cfexplain.classifiers.outputs import ModuleScores
from cfexplain.density import ConditionalFlow
from cfexplain.explainers.attributes import ExplainerParameters
from cfexplain.foundation.optional import import_triton, no_cuda
from cfexplain.foundation.precision import computes_in_bfloat16, has_matrix_units
from cfexplain.foundation.weight_cache import cached_by_weights
from cfexplain.nets.flow_nets import VectorFlowNet
from cfexplain.ops.coupling_flow import NotPackable, PackedFlow
from cfexplain.ops.freezing import freeze_for_search
from cfexplain.ops.freezing.freeze import FrozenModule
from cfexplain.ops.freezing.fuse import Fused
from cfexplain.ops.freezing.trace import is_hooked
from cfexplain.search import search, search_in_slots

if TYPE_CHECKING:
    from cfexplain.ops.coupling_flow.triton import TritonFlow

__all__ = ["BACKENDS", "Engine", "check_backend", "eager_engine", "make_engine"]

BACKENDS = ("auto", "eager", "packed", "graph", "triton")
PRECISIONS = ("auto", "float32", "bfloat16")
# Rows that pass through a graph's slots at once
SLOTS = 2048
# Numbers of a picture from which convolutions gain from matrix units: those of 32×32 gain little
_LARGE = 64 * 64
_PLAIN = (int, float, str, type(None), torch.dtype, torch.device)


@dataclass
class Engine:
    """What a search asks, in the form that one backend computes it.

    Attributes
    ----------
    backend : str
        Its name; in brackets what was left as it is, what rounds without having been told to, and why a table takes more
        than one launch.
    classifier : ClassifierAdapter or RegressorAdapter
    decoders : list of callable ``code -> what it decodes to``
        One for each of the coordinates' stages, the last one to x.
    log_density : callable ``(z, target) -> (B,)``
    search : callable, like `cfexplain.search.search`
    """

    backend: str
    classifier: Any
    decoders: list[Callable[[Tensor], Tensor]]
    log_density: Callable[[Tensor, Tensor], Tensor]
    search: Callable[..., Any] = search
    rounds: bool = False  # whether the search decodes in less than the networks' own precision
    # whether several threads may search with it: no code of the user's runs that may keep something between two calls
    shared: bool = False
    # whether every linear layer treats every row alike of its own accord (see `cfexplain.foundation.tiles.aligned`)
    aligned: bool = False


def check_backend(backend: str, precision: str, device: torch.device) -> str:
    """The name that ``"auto"`` stands for, or `backend` if it can be had.

    Raises
    ------
    ValueError
        An unknown name, a precision for a backend that has none, or that the processor lacks, or CUDA graphs where there is
        no CUDA device.
    ImportError
        "triton", which is not installed, or too old.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is not known; choose one of {BACKENDS}.")
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is not known; choose one of {PRECISIONS}.")
    if backend == "eager" and precision == "bfloat16":
        raise ValueError(f"precision={precision!r} is of frozen copies, but backend='eager' searches with the networks as "
                         "they are. Use backend='packed'.")
    if precision == "bfloat16" and not computes_in_bfloat16(device):
        raise ValueError(f"precision='bfloat16' was asked for, but {str(device)!r} only emulates it, which is slower than "
                         "float32: a processor needs AVX512-BF16 or AMX. Use precision='auto'.")
    if backend in ("graph", "triton"):
        if device.type != "cuda":
            raise ValueError(f"backend={backend!r} captures CUDA graphs, but the explainer computes on {str(device)!r}"
                             f"{no_cuda()}. Fit it with device='cuda' where there is one, or use backend='auto'.")
        if backend == "triton":
            import_triton("backend='triton'")
    return "packed" if backend == "auto" else backend


def eager_engine(explainer: ExplainerParameters) -> Engine:
    """The explainer's own parts."""
    return Engine("eager", explainer.classifier_, [stage.decode for stage in explainer.coordinates_.stages],
                  explainer.density_.log_prob)


def make_engine(explainer: ExplainerParameters, backend: str, precision: str, example: Tensor) -> Engine:
    """The parts of `explainer` as `backend` computes them.

    Parameters
    ----------
    backend : str
        As `check_backend` returns it.
    example : Tensor of shape (B, ...)
        A few rows, on which frozen networks are compared with the originals.
    """
    engine = eager_engine(explainer)
    if backend == "eager":
        return engine
    if precision == "auto" and _gains_from_rounding(explainer):
        precision = "bfloat16"
    left, remarks, rounding = [], [], []
    if backend == "triton" and not explainer.layout_.is_image:
        from cfexplain.explainers.one_launch import search_in_one_launch  # imports Triton
        from cfexplain.ops.table_search import NotCovered

        try:
            return replace(engine, backend="triton (one launch)", search=search_in_one_launch(explainer, precision, example))
        except NotCovered as reason:
            remarks.append(f"not one launch: {reason}")
    decoders: list[Callable[[Tensor], Tensor]] = []

    @functools.cache
    @torch.no_grad()
    def code(stage: int) -> Tensor | None:
        """What this stage decodes of the example."""
        if not explainer.coordinates_.encodes_at_once:
            return None
        before = None if not stage else code(stage - 1)
        return explainer.coordinates_.encode(example) if before is None else decoders[stage - 1](before).flatten(1)

    classifier = _frozen_classifier(explainer.classifier_, precision, example)
    for i, (stage, plain) in enumerate(zip(explainer.coordinates_.stages, engine.decoders, strict=True)):
        wanted = "bfloat16" if precision == "auto" and stage.computes_in == "bfloat16" else precision
        decode = _frozen_decoder(stage, wanted, functools.partial(code, i))
        if backend == "triton" and decode is not None and isinstance(stage.module_, VectorFlowNet):
            try:
                decode = _inverse(_in_one_kernel(stage.module_))
            except NotPackable as reason:
                remarks.append(f"decoder packed: {reason}")
        decoders.append(decode or plain)
        part = "decoder" if stage is explainer.coordinates_ else f"{type(stage).__name__}'s decoder"
        if decode is None:
            left.append(part)
        elif isinstance(decode, FrozenModule) and decode.precision == torch.bfloat16:
            rounding.append(part)
    if classifier is None:
        left.insert(0, "classifier")
    log_density = engine.log_density
    if isinstance(explainer.density_, ConditionalFlow):
        try:
            log_density = explainer.density_.frozen("triton" if backend == "triton" else "packed")
        except NotPackable:
            if backend == "triton":  # asked for by name
                raise
            left.append("density")
    way = search
    if backend in ("graph", "triton"):
        way = functools.partial(_in_slots, step="triton" if backend == "triton" else "reference")
    name = backend + (", bfloat16" if precision == "bfloat16" else "")
    if rounding and precision != "bfloat16":
        remarks.insert(0, f"{', '.join(rounding)} in bfloat16")
    if left:
        remarks.insert(0, f"{', '.join(left)} eager")
    shared = backend == "packed" and not left and all(
        _is_pure(net) for net in (classifier.module, *(stage.module_ for stage in explainer.coordinates_.stages)))
    own = [net.net for net in (getattr(classifier, "module", None), *decoders) if isinstance(net, FrozenModule)]
    aligned = not left and explainer.detail != "learned" and all(isinstance(net, Fused) and net.aligned for net in own)
    return Engine(name + (f" ({'; '.join(remarks)})" if remarks else ""), classifier or engine.classifier,
                  decoders, log_density, way, precision == "bfloat16" or bool(rounding), shared, aligned)


def _gains_from_rounding(explainer: ExplainerParameters) -> bool:
    """Whether a search computes in bfloat16 by itself: of networks that convolve over large pictures, in matrix units."""
    layout, networks = explainer.layout_, [explainer.classifier_.module, *(
        stage.module_ for stage in explainer.coordinates_.stages)]
    return layout.is_image and math.prod(layout.net_shape) >= _LARGE and any(
        isinstance(part, _ConvNd) for net in networks if net is not None for part in net.modules()
    ) and has_matrix_units(explainer.device_)


def _is_pure(net: nn.Module) -> bool:
    """Whether a call of `net` leaves nothing behind for the next: its forward could be read, or is torch's or our own."""
    if isinstance(net, FrozenModule):
        return net.report is not None and net.report.traced and not net.report.left
    return all(type(part).__module__.split(".")[0] in ("cfexplain", "torch", "zuko") and not is_hooked(part)
               for part in net.modules())


def _in_slots(evaluate: Callable, start: Tensor, reference: Tensor, rows: Any, options: Any, report: Callable | None,
              *, step: str) -> Any:
    return search_in_slots(evaluate, start, rows, options, slots=SLOTS, reference=reference, step=step, graph=True,
                           on_progress=report)


def _precision(module: nn.Module, wanted: str) -> str | None:
    """Of the frozen copy: the module's own, unless bfloat16 is wanted of a float32; None where it cannot be had."""
    own = next((t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), torch.float32)
    if own not in (torch.float32, torch.float64):
        return None
    return "bfloat16" if wanted == "bfloat16" and own == torch.float32 else str(own).removeprefix("torch.")


@dataclass
class _FrozenScores(ModuleScores):
    """A frozen module: it takes the caller's dtype as it is and answers in it."""

    def _cast(self, x: Tensor) -> Tensor:
        return x


def _frozen(module: nn.Module, function: nn.Module, precision: str, example: Callable[[], Tensor | None],
            ) -> FrozenModule:
    """`function`, which is `module` or calls it, frozen: as long as tensors and attributes stay, or both answer alike."""
    attributes = _attributes(module)

    def make() -> tuple[FrozenModule, tuple | None]:
        return freeze_for_search(function, precision=precision, example=example()), attributes

    def is_valid(made: tuple[FrozenModule, tuple | None]) -> bool:
        if attributes is not None:
            return made[1] == attributes
        rows = example()
        return rows is None or _alike(function, made[0], rows)

    return cached_by_weights(module, (type(function), precision), make, is_valid)[0]


def _attributes(module: nn.Module) -> tuple | None:
    """What decides beside its tensors what a network of torch's and our own layers computes; None of others, of which nobody
    knows.
    """
    if not _is_pure(module):
        return None
    known = [(name, value) for part in module.modules() for name, value in vars(part).items()
             if not (name == "training" or (name.startswith("_") and isinstance(value, dict | set)))]
    plain = all(isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(isinstance(v, _PLAIN) for v in value))
                for _, value in known)
    return tuple(known) if plain else None


def _packed(module: VectorFlowNet) -> PackedFlow | None:
    """A table's flow, packed; None if it is no affine coupling."""
    try:
        return cached_by_weights(module, "packed", module.packed)
    except NotPackable:
        return None


def _in_one_kernel(module: VectorFlowNet) -> TritonFlow:
    from cfexplain.ops.coupling_flow.triton import prepare  # imports Triton

    return cached_by_weights(module, "triton", lambda: prepare(module.packed()))


def _inverse(flow: PackedFlow | TritonFlow) -> Callable[[Tensor], Tensor]:
    from cfexplain.ops.coupling_flow import differentiable  # registering its operator takes a while

    return lambda u: differentiable.from_base(flow, u, u.new_zeros(len(u), dtype=torch.long))


def _alike(function: nn.Module, net: FrozenModule, example: Tensor) -> bool:
    """To the rounding of the copy's precision: an attribute that is no tensor may have changed, too."""
    with torch.no_grad():
        pairs = zip(tree_leaves(function(example)), tree_leaves(net(example)), strict=True)
        rtol = torch.finfo(torch.bfloat16 if net.precision == torch.bfloat16 else example.dtype).eps ** 0.5
        return all(bool((a - b).norm() <= rtol * a.norm()) for a, b in pairs if isinstance(a, Tensor))


def _frozen_classifier(adapter: Any, precision: str, example: Tensor) -> Any:
    """A copy of the adapter around a frozen copy of its module; None where that cannot be had."""
    module = adapter.module
    wanted = None if module is None else _precision(module, precision)
    if wanted is None:
        return None
    scores = adapter._scores
    dtype = next((p.dtype for p in module.parameters()), example.dtype)
    example = scores.shaped(example.to(dtype))
    try:
        net = _frozen(module, module, wanted, lambda: example)
    except TypeError:  # a module that cannot be copied is searched as it is
        return None
    twin = copy.copy(adapter)
    twin._scores = _FrozenScores(**{**vars(scores), "module": net})
    return twin


def _frozen_decoder(coordinates: Any, precision: str, z: Callable[[], Tensor | None]) -> Callable | None:
    module = coordinates.module_
    if isinstance(module, VectorFlowNet):
        flow = _packed(module)
        return None if flow is None else _inverse(flow)
    wanted = _precision(module, precision)
    if wanted is None:
        return None
    net = _frozen(module, coordinates.decode_module(), wanted, z)
    # one that could not be rewritten is worth the copy only if it rounds
    return net if net.report is not None and (net.report.traced or wanted == "bfloat16") else None
