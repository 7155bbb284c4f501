"""The same function with fewer and cheaper layers: BatchNorm folded, ReLU after max-pooling, channels last.

Everything here works on networks of our own, in evaluation mode, and changes them in place.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

from cfexplain.foundation.tiles import baddbmm, linear
from cfexplain.ops.freezing.trace import is_hooked, is_in_place, trace_around

__all__ = ["AlignedLinear", "Counts", "Fused", "fuse"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONVS = {nn.BatchNorm1d: (nn.Conv1d, nn.ConvTranspose1d), nn.BatchNorm2d: (nn.Conv2d, nn.ConvTranspose2d),
          nn.BatchNorm3d: (nn.Conv3d, nn.ConvTranspose3d)}
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
_POOLING = (F.max_pool1d, F.max_pool2d, F.max_pool3d, F.adaptive_max_pool1d, F.adaptive_max_pool2d,
            F.adaptive_max_pool3d, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d)
# Layers of torch's that multiply by matrices somewhere inside
_MULTIPLYING = (nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder,
                nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.RNNBase, nn.RNNCellBase)
_ALIGNED: dict[Any, Any] = {F.linear: linear, torch.baddbmm: baddbmm}
_DROPPING = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)
_RESHAPING = ("view", "reshape", "flatten", "unflatten", "view_as", "reshape_as", "ravel")
_BY_STRIDES = ("as_strided", "stride", "is_contiguous", "data_ptr", "storage_offset", "untyped_storage")


@dataclass
class Counts:
    """What was done, and why something was left."""

    folded: int = 0
    swapped: int = 0
    removed: int = 0
    channels_last: bool = False
    left: list[str] = field(default_factory=list)


class Fused(nn.Module):
    """A rewritten graph of one input. In channels last inside, if so; what comes out is contiguous.

    Attributes
    ----------
    aligned : bool
        Whether its linear layers treat every row alike of their own accord (see `cfexplain.foundation.tiles.aligned`).
    deep : GraphModule or None
        The same graph, which also returns what its last linear layer is given; None where not all linear layers are known.
    """

    def __init__(self, graph: fx.GraphModule, channels_last: bool, aligned: bool = False):
        super().__init__()
        self.graph, self.channels_last, self.aligned = graph, channels_last, aligned
        self.deep = _with_features(graph) if aligned else None

    def forward(self, x: Tensor, deep: bool = False) -> Any:
        graph: Any = self.deep if deep else self.graph
        if not self.channels_last:
            return graph(x)
        if isinstance(x, Tensor) and x.ndim == 4:
            # strides of one channel are ambiguous, and convolutions would take them for contiguous ones
            x = (x.reshape(len(x), *x.shape[2:], 1).permute(0, 3, 1, 2) if x.shape[1] == 1
                 else x.contiguous(memory_format=torch.channels_last))
        out = graph(x)
        return out.contiguous() if isinstance(out, Tensor) else tree_map_only(Tensor, Tensor.contiguous, out)


def fuse(module: nn.Module, counts: Counts, channels_last: bool) -> tuple[nn.Module, list[nn.Module]]:
    """`module` rewritten, and the rewritten parts that its own tree of modules does not show.

    Where the forward of `module` cannot be traced, its calls of plain ``nn.Sequential`` parts are rewritten; their
    layers stay where they are, for a forward that indexes them.
    """
    root = nn.Sequential(module)
    graph, leaves = trace_around(root)
    hidden: list[nn.Module] = []
    called = {root.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"} & set(leaves)
    names = {part: name.removeprefix("0").removeprefix(".") or type(module).__name__ for name, part in root.named_modules()}
    for part in sorted(called, key=lambda part: names[part]):
        counts.left.append(f"{names[part]} is not rewritten: {leaves[part]}")
        if not is_hooked(part) and not isinstance(part, torch.jit.ScriptModule):
            hidden += _inside(part, counts, channels_last)
    if module in called:
        return module, hidden
    return _rewritten(root, graph, leaves, counts, channels_last), hidden


def _inside(part: nn.Module, counts: Counts, channels_last: bool) -> list[nn.Module]:
    """Rewrite the calls of the sequential parts of a module whose forward is not known."""
    hidden: list[nn.Module] = []
    for child in part.children():
        if is_hooked(child) or isinstance(child, torch.jit.ScriptModule):
            continue
        if type(child) is not nn.Sequential:
            hidden += _inside(child, counts, channels_last)
            continue
        fused, more = fuse(copy.deepcopy(child), counts, channels_last)
        # past nn.Module's own __setattr__: as a submodule it would turn up where the parent iterates over the layers
        object.__setattr__(child, "forward", fused)
        hidden += [fused, *more]
    return hidden


def _rewritten(root: nn.Module, graph: fx.Graph, leaves: dict, counts: Counts, channels_last: bool) -> Fused:
    net = fx.GraphModule(root, graph)
    _remove_nothings(net, counts)
    for node in list(graph.nodes):
        norm = _called(net, node, _NORMS)
        if norm is not None:
            problem = _fold(net, node, norm)
            counts.folded += problem is None
            if problem is not None:
                counts.left.append(f"{str(node.target).removeprefix('0.')} is not folded: {problem}")
    _swap(net, counts)
    convolves = any(isinstance(part, nn.Conv2d | nn.ConvTranspose2d) for part in net.modules())
    problem = _lay_out(net, leaves) if channels_last and convolves else "no 2-d convolution"
    if channels_last and convolves and problem is not None:
        counts.left.append(f"not in channels last: {problem}")
    counts.channels_last |= problem is None
    aligned = _align(net, leaves)
    net.graph.lint()
    net.delete_all_unused_submodules()
    net.recompile()
    return Fused(net, problem is None, aligned)


def _called(net: fx.GraphModule, node: Any, kinds: tuple[type, ...]) -> Any:
    """The module that `node` calls on one tensor, if it is exactly of one of `kinds` and nobody watches it."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    module = net.get_submodule(str(node.target))
    return module if type(module) in kinds and not is_hooked(module) else None


def _remove_nothings(net: fx.GraphModule, counts: Counts) -> None:
    nodes: list[Any] = list(net.graph.nodes)
    for node in nodes:
        module = _called(net, node, _NOTHING)
        idle = module is not None and (type(module) is nn.Identity or not module.training)
        if idle or (node.target in _DROPPING and node.kwargs.get("training") is False):
            _skip(net, node)
            counts.removed += 1


class AlignedLinear(nn.Linear):
    """A linear layer that treats every row alike."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def _align(net: fx.GraphModule, leaves: dict) -> bool:
    """Let all linear layers of the graph treat every row alike; whether these are all that there are."""
    modules: dict[Any, Any] = dict(net.named_modules())
    for node in net.graph.nodes:
        module = _called(net, node, (nn.Linear,))
        if module is not None:
            module = copy.copy(module)  # another part may hold it
            module.__class__ = AlignedLinear
            name = f"linear_{sum(key.startswith('linear_') for key in net._modules)}"
            net.add_submodule(name, module)
            node.target = name
        elif node.target in _ALIGNED:
            node.target = _ALIGNED[node.target]
        elif node.op == "call_module" and (modules[node.target] in leaves or any(
                isinstance(part, _MULTIPLYING) for part in modules[node.target].modules())):
            return False
    return True


def _with_features(net: fx.GraphModule) -> fx.GraphModule | None:
    """`net` with a second output, the input of its last linear layer; None if it has none."""
    last: Any = next((node for node in reversed(net.graph.nodes) if node.target in _ALIGNED.values()
                      or isinstance(_called(net, node, (AlignedLinear,)), AlignedLinear)), None)
    if last is None or not last.args:
        return None
    graph = fx.Graph()
    copies: dict[Any, Any] = {}
    out = graph.graph_copy(net.graph, copies)
    graph.output((out, copies[last.args[0]]))
    return fx.GraphModule(net, graph)


# ------------------------------------------------------------- BatchNorm


class _ByRank(nn.Module):
    """A folded layer, and the pair itself for inputs of another rank, where BatchNorm's channels are not the layer's."""

    def __init__(self, folded: nn.Module, pair: nn.Sequential, ndim: int):
        super().__init__()
        self.folded, self.pair, self.ndim = folded, pair, ndim

    def forward(self, x: Tensor) -> Tensor:
        return self.folded(x) if x.ndim == self.ndim else self.pair(x)


def _fold(net: fx.GraphModule, node: Any, norm: Any) -> str | None:
    """Fold the BatchNorm at `node` into its neighbour; why not, where that cannot be done."""
    if norm.training or norm.running_mean is None:
        return "it normalises by statistics of the batch"
    before = node.args[0]
    kinds = (*_CONVS[type(norm)], *((nn.Linear,) if type(norm) is nn.BatchNorm1d else ()))
    layer = _called(net, before, kinds)
    if layer is not None and len(before.users) == 1:
        _put(net, before, _after(layer, norm), nn.Sequential(layer, norm))
        _skip(net, node)
        return None
    dense = _linear_before_unflatten(net, before, norm)
    if dense is not None:
        _put(net, dense, _after(net.get_submodule(dense.target), norm, repeat=True))
        _skip(net, node)
        return None
    after = next(iter(node.users), None)
    follower = _called(net, after, kinds)
    if follower is None or len(node.users) > 1:
        return ("no layer beside it can take it up" if layer is None else
                "the output of the layer before it is also used elsewhere")
    scale, shift = _affine(norm)
    if isinstance(follower, nn.Linear):
        # what the last linear layer is given is what others take for the network's features
        later = list(net.graph.nodes)[list(net.graph.nodes).index(after) + 1 :]
        if not any(_called(net, other, (nn.Linear,)) for other in later):
            return "the linear layer after it is the last one, whose input is read as features"
    elif shift.any():
        bare = follower.padding in (0, "valid") or set(follower.padding) == {0} or follower.padding_mode != "zeros"
        if isinstance(follower, _TRANSPOSED) or not bare:
            return "the convolution after it pads with zeros, which are not moved by it"
    _put(net, after, _before(follower, scale, shift), nn.Sequential(norm, follower))
    _skip(net, node)
    return None


def _skip(net: fx.GraphModule, node: Any) -> None:
    node.replace_all_uses_with(node.args[0])
    net.graph.erase_node(node)


def _put(net: fx.GraphModule, node: Any, folded: nn.Module, pair: nn.Sequential | None = None) -> None:
    """Let `node` call `folded`. A layer that is called elsewhere too stays as it is there."""
    if pair is not None and any(isinstance(part, nn.BatchNorm1d) for part in pair):
        folded = _ByRank(folded, pair, 2 if isinstance(folded, nn.Linear) else 3)
    name = f"folded_{sum(key.startswith('folded_') for key in net._modules)}"
    net.add_submodule(name, folded)
    node.target = name


def _linear_before_unflatten(net: fx.GraphModule, node: Any, norm: Any) -> Any:
    """A linear layer whose features are unflattened to the channels of `norm` and their positions."""
    unflatten = _called(net, node, (nn.Unflatten,))
    if unflatten is None or len(node.users) != 1 or unflatten.dim != 1:
        return None
    sizes = tuple(unflatten.unflattened_size)
    # so many sizes for this BatchNorm mean that what is unflattened has two dimensions
    fits = sizes[:1] == (norm.num_features,) and len(sizes) == 1 + int(type(norm).__name__[-2])
    linear = node.args[0]
    layer = _called(net, linear, (nn.Linear,))
    whole = layer is not None and layer.out_features == math.prod(sizes)
    return linear if fits and whole and len(linear.users) == 1 else None


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """What BatchNorm does in evaluation, ``scale * x + shift``, each (C,) in float64."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


def _after(layer: Any, norm: Any, repeat: bool = False) -> nn.Module:
    """`norm` of `layer` as one layer, in float64; with `repeat` each channel stands for a run of features."""
    scale, shift = _affine(norm)
    if repeat:
        run = layer.out_features // len(scale)
        scale, shift = scale.repeat_interleave(run), shift.repeat_interleave(run)
    weight, bias = layer.weight.double(), 0.0 if layer.bias is None else layer.bias.double()
    if isinstance(layer, _TRANSPOSED):  # (in, out / groups, ...): a group of inputs makes a group of outputs
        grouped = weight.unflatten(0, (layer.groups, -1))
        by_output = scale.view(layer.groups, 1, -1, *[1] * (weight.ndim - 2))
        weight = (grouped * by_output).flatten(0, 1)
    else:
        weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    return _with(layer, weight, bias * scale + shift)


def _before(layer: Any, scale: Tensor, shift: Tensor) -> nn.Module:
    """`layer` of ``scale * x + shift`` as one layer, in float64."""
    weight = layer.weight.double()
    positions = [1] * (weight.ndim - 2)
    if isinstance(layer, _TRANSPOSED):
        return _with(layer, weight * scale.view(-1, 1, *positions), layer.bias)  # only where nothing is shifted
    groups = getattr(layer, "groups", 1)
    grouped = weight.unflatten(0, (groups, -1))  # (groups, out / groups, in / groups, ...)
    moved = (grouped * shift.view(groups, 1, -1, *positions)).flatten(0, 1).flatten(1).sum(1)
    weight = (grouped * scale.view(groups, 1, -1, *positions)).flatten(0, 1)
    return _with(layer, weight, moved if layer.bias is None else moved + layer.bias.double())


def _with(layer: Any, weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer = copy.deepcopy(layer)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return layer


# ------------------------------------------------------ ReLU and max-pooling

_FRESH = (_ByRank, nn.Linear, *_NORMS, *(kind for kinds in _CONVS.values() for kind in kinds))  # outputs of their own


def _swap(net: fx.GraphModule, counts: Counts) -> None:
    """ReLU after max-pooling instead of before it: a quarter of the work for windows of four.

    max(relu(a), relu(b)) is relu(max(a, b)). The gradient is the same too, ties included: where the largest of a window
    is positive, the same first largest one gets it; elsewhere ReLU lets nothing through, whichever one was chosen.
    """
    nodes: list[Any] = list(net.graph.nodes)
    for pool in nodes:
        relu: Any = pool.args[0] if pool.args else None
        if not _pools(net, pool) or not _is_relu(net, relu) or len(relu.users) != 1:
            continue
        source = relu.args[0]
        if is_in_place(relu, _called(net, relu, (nn.ReLU,))) and not (
                len(source.users) == 1 and _called(net, source, _FRESH)):
            continue  # others may look at what the ReLU writes to
        if _may_be_written_to(net, pool):
            continue  # the gradient of ReLU reads its output, that of pooling does not
        with net.graph.inserting_after(pool):
            moved = net.graph.node_copy(relu)
        pool.replace_all_uses_with(moved)
        moved.replace_input_with(source, pool)
        pool.replace_input_with(relu, source)
        net.graph.erase_node(relu)
        counts.swapped += 1


def _may_be_written_to(net: fx.GraphModule, node: fx.Node) -> bool:
    """Whether something that follows writes to the output of `node`, or to a view of it."""
    aliases: list[Any] = [node]
    seen: set[fx.Node] = set()
    while aliases:
        alias = aliases.pop()
        seen.add(alias)
        for user in alias.users:
            module = net.get_submodule(str(user.target)) if user.op == "call_module" else None
            if is_in_place(user, module):
                if user.args[0] is alias:
                    return True
                continue
            if module is not None and not (type(module).__module__.startswith("torch.nn") or type(module) is _ByRank):
                return True  # a part of which nothing is known
            if user not in seen and (module is None or isinstance(module, nn.Flatten | nn.Unflatten | nn.Identity)):
                aliases.append(user)
    return False


def _pools(net: fx.GraphModule, node: fx.Node) -> bool:
    module = _called(net, node, _POOLS)
    if module is not None:
        return not module.return_indices
    return node.op == "call_function" and node.target in _POOLING and not node.kwargs.get("return_indices")


def _is_relu(net: fx.GraphModule, node: Any) -> bool:
    if not isinstance(node, fx.Node) or len(node.args) != 1:
        return False
    if node.op == "call_function":
        return node.target in (F.relu, torch.relu)
    return _called(net, node, (nn.ReLU,)) is not None or (node.op == "call_method" and node.target == "relu")


# ---------------------------------------------------------- channels last


def _lay_out(net: fx.GraphModule, leaves: dict) -> str | None:
    """Make the graph fit for activations and weights in channels last; why not, where that cannot be done."""
    nodes: list[Any] = list(net.graph.nodes)
    modules: dict[str, Any] = dict(net.named_modules())
    writes = any(is_in_place(node, modules.get(str(node.target))) for node in nodes)
    for node in nodes:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if node.op != "call_module" and name in _BY_STRIDES:
            return f"it calls {name}"
        reshapes = name in _RESHAPING or isinstance(modules.get(name), nn.Flatten | nn.Unflatten)
        if reshapes and writes and sum(not _asks(user) for user in node.all_input_nodes[0].users) > 1:
            return "it may write to a reshaped view of a tensor that it still reads"
    for node in nodes:
        module: Any = modules.get(str(node.target)) if node.op == "call_module" else None
        if node.op == "call_method" and node.target == "view" and not _reinterprets(node):
            node.target = "reshape"  # a view of channels last does not always exist
        elif module in leaves:
            for given in node.all_input_nodes:
                with net.graph.inserting_before(node):
                    node.replace_input_with(given, net.graph.call_function(_contiguous, (given,)))
        elif type(module) in (nn.Conv2d, nn.ConvTranspose2d):
            name = f"convolution_{sum(key.startswith('convolution_') for key in net._modules)}"
            module = copy.deepcopy(module)  # another part may hold it, and expect contiguous outputs
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
            net.add_submodule(name, module)
            node.target = name
    return None


def _asks(node: Any) -> bool:
    """Whether `node` is a question for the size or kind of a tensor, and not for its values."""
    name = node.args[1] if node.target is getattr else node.target
    return name in ("size", "shape", "dim", "ndim", "numel", "dtype", "device", "is_floating_point")


def _reinterprets(node: Any) -> bool:
    kinds = [arg.args[1:] if isinstance(arg, fx.Node) and arg.target is getattr else arg
             for arg in (*node.args[1:], *node.kwargs.values())]
    return any(isinstance(kind, torch.dtype) or kind == ("dtype",) for kind in kinds)


def _contiguous(value: object) -> object:
    return value.contiguous() if isinstance(value, Tensor) else value
