"""What a search of a table is made of, as matrices and numbers: dense networks, a coupling flow, terms, rules.

Nothing here knows an explainer. Weights are kept in float64 on the CPU, so that the reference and the kernel start from the
same numbers.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from cfexplain.ops.coupling_flow import PackedFlow
from cfexplain.ops.freezing.fuse import AlignedLinear

__all__ = ["ACTIVATIONS", "DECISIONS", "NUMBERS", "Dense", "Network", "NotCovered", "TableSearch", "read_network"]

# by number, as the kernel knows them
ACTIVATIONS = ("identity", "relu", "silu", "tanh", "sigmoid", "gelu", "elu", "leaky_relu")
DECISIONS = ("none", "log_odds_hinge", "probability_hinge", "log_probability", "probability", "cross_entropy")
# of each row, (N, 8): weights of the terms and what their conditions ask for
NUMBERS = ("decision", "needed", "distance", "density", "typical", "opinion", "opinion_needed", "input")

_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu", nn.SiLU: "silu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.GELU: "gelu", nn.ELU: "elu",
    nn.LeakyReLU: "leaky_relu"}
_FUNCTIONS: dict[Any, str] = {
    **{f: "relu" for f in (torch.relu, F.relu, "relu")}, F.silu: "silu",
    **{f: "tanh" for f in (torch.tanh, F.tanh, "tanh")}, **{f: "sigmoid" for f in (torch.sigmoid, F.sigmoid, "sigmoid")}}
# a number added or multiplied: (names of the function, what it does)
_AFFINE = {operator.add: "add", torch.add: "add", "add": "add", operator.sub: "sub", torch.sub: "sub", "sub": "sub",
           operator.mul: "mul", torch.mul: "mul", "mul": "mul", operator.truediv: "div", torch.div: "div", "div": "div"}


class NotCovered(ValueError):
    """The one-launch search does not know a part; the message names it."""


@dataclass(frozen=True)
class Dense:
    """activation(h @ weight + bias)."""

    weight: Tensor  # (in, out)
    bias: Tensor  # (out,)
    activation: str = "identity"


@dataclass(frozen=True)
class Network:
    """Dense layers of ``(x - loc) * inverse_scale``; the last one has no activation.

    The scale is kept apart: folded into the first layer, a column of 1000 ± 1 would lose three digits in float32.
    """

    loc: Tensor  # (in,)
    inverse_scale: Tensor  # (in,)
    layers: tuple[Dense, ...]

    @torch.no_grad()
    def agrees(self, x: Tensor, expected: Tensor) -> bool:
        """Whether these layers give `expected` for the rows x, but for rounding."""
        h = (x.double() - self.loc.to(x.device)) * self.inverse_scale.to(x.device)
        for layer in self.layers:
            h = activated(h @ layer.weight.to(h) + layer.bias.to(h), layer.activation)
        return h.shape == expected.shape and torch.allclose(h, expected.double(), rtol=1e-3, atol=1e-4)

    def folded(self) -> tuple[Dense, ...]:
        """The layers alone, with the scale in the first one: for inputs whose mean is about their spread."""
        first = self.layers[0]
        weight = self.inverse_scale[:, None] * first.weight
        return (Dense(weight, first.bias - self.loc @ weight, first.activation), *self.layers[1:])


@dataclass(frozen=True)
class TableSearch:
    """One kind of search, whatever the rows.

    Attributes
    ----------
    features, dim, classes : int
        Columns of x, numbers of a code, classes of the classifier.
    classifier : Network
        To `classes` logits.
    decoder : tuple of Dense, or None
        From code to x; None where they are the same.
    residual : bool
        x′ = x + (g(z) − g(z₀)) instead of g(z).
    held, low, high : Tensor of shape (features,), or None
        Columns that stay (bool), and bounds of the others; all three or none.
    opinions : tuple of tuple of Dense
        Classifiers of the code, from code to `classes` logits.
    flow : PackedFlow or None
        log p(z | c).
    decision : str
        Of `DECISIONS`: LogOddsHinge, DecisionHinge, TargetLogProbability, TargetProbability, CrossEntropy.
    density : {"none", "typical", "likelihood"}
    distance, opinion : bool
        Whether ‖z − z₀‖ and the least convinced of `opinions` count.
    input_norm : {0, 1, 2}
        ‖x − x′‖₁ or ‖x − x′‖₂²; 0 for none.
    log_odds_slack, density_slack : float
        How far beyond its condition a hinge aims.
    needs_valid : bool
    weights, needed : dict of str to float
        Of the terms, by the names of `NUMBERS`; what the conditions ask for, unless each row has its own.
    own_weights : dict of str to str
        Name of the term -> key under which `rows` may hold a weight for each row.
    """

    features: int
    dim: int
    classes: int
    classifier: Network
    decoder: tuple[Dense, ...] | None = None
    residual: bool = False
    held: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None
    opinions: tuple[tuple[Dense, ...], ...] = ()
    flow: PackedFlow | None = None
    decision: str = "log_odds_hinge"
    density: str = "none"
    distance: bool = False
    opinion: bool = False
    input_norm: int = 0
    log_odds_slack: float = 0.0
    density_slack: float = 0.0
    needs_valid: bool = True
    weights: dict[str, float] = field(default_factory=dict)
    needed: dict[str, float] = field(default_factory=dict)
    own_weights: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.decision not in DECISIONS:
            raise ValueError(f"decision={self.decision!r} is not known; choose one of {DECISIONS}.")
        if self.density != "none" and self.flow is None:
            raise ValueError(f"density={self.density!r} needs a flow.")
        if self.opinion and not self.opinions:
            raise ValueError("opinion=True needs opinions.")
        if self.decoder is None and self.features != self.dim:
            raise ValueError(f"Without a decoder a code of {self.dim} numbers is no row of {self.features} columns.")

    @property
    def rules(self) -> bool:
        return self.held is not None

    def numbers(self, rows: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """`NUMBERS` of each of the rows, (N, 8), in the dtype and on the device of `like` (N, ...)."""
        n = len(like)
        columns = []
        for name in NUMBERS:
            key = name if name in ("needed", "typical", "opinion_needed") else self.own_weights.get(name)
            constant = self.weights.get(name, self.needed.get(name, 0.0))
            own = rows.get(key) if key is not None and name not in self.needed else None
            columns.append(like.new_full((n,), constant) if own is None else own.to(like))
        return torch.stack(columns, 1).contiguous()


def read_network(graph: fx.GraphModule, example: Tensor) -> Network:
    """The dense layers that a traced network computes.

    Parameters
    ----------
    graph : GraphModule
        Of one input (B, d): linear layers, known activations, numbers added or multiplied, and reshapes that move nothing,
        one after the other.
    example : Tensor of shape (B, d)
        On which the layers are compared with the graph.

    Raises
    ------
    NotCovered
        Naming the part that is none of these.

    Examples
    --------
    >>> import torch
    >>> from torch import fx, nn
    >>> net = fx.symbolic_trace(nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 2)))
    >>> [(tuple(f.weight.shape), f.activation) for f in read_network(net, torch.randn(5, 3)).layers]
    [((3, 8), 'silu'), ((8, 2), 'identity')]
    >>> read_network(fx.symbolic_trace(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))), torch.randn(5, 3))
    Traceback (most recent call last):
    ...
    cfexplain.ops.table_search.packing.NotCovered: LayerNorm is no linear layer, activation or scale
    """
    reader = _Reader(graph, example.shape[1])
    with torch.no_grad():
        expected = reader.run(example)
        network = reader.network()
    if not network.agrees(example, expected):
        raise NotCovered("read as dense layers, the network answers otherwise than it does itself")
    return network


def activated(h: Tensor, name: str) -> Tensor:
    return h if name == "identity" else getattr(F, name)(h)


class _Reader(fx.Interpreter):
    """Runs the graph and notes what happens to the rows on the way."""

    def __init__(self, graph: fx.GraphModule, features: int):
        super().__init__(graph)
        self.extra_traceback = False
        self.layers: list[Dense] = []
        # what is still to be done to the input of the next layer: h * scale + shift
        self.scale = torch.ones(features, dtype=torch.float64)
        self.shift = torch.zeros(features, dtype=torch.float64)
        self.input_scale: tuple[Tensor, Tensor] | None = None
        self.carrier: fx.Node | None = None
        self.seen: set[fx.Node] = set()

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        given = [n for n in node.all_input_nodes if n in self.seen]
        if node.op == "placeholder":
            if self.carrier is not None:
                raise NotCovered("a network of two inputs")
        elif not given or not isinstance(result, Tensor):
            if node.op == "output" and not isinstance(result, Tensor):
                raise NotCovered("a network that returns more than one tensor")
            return result  # made of weights, or a dtype, a shape
        elif given != [self.carrier]:
            raise NotCovered(f"{node.name} reads a layer before the last one")
        elif node.op != "output":
            self._note(node, self.env[given[0]], result)
        self.carrier = node
        self.seen.add(node)
        return result

    def _note(self, node: fx.Node, before: Tensor, after: Tensor) -> None:
        module = self.fetch_attr(str(node.target)) if node.op == "call_module" else None
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        if type(module) is nn.Linear or type(module) is AlignedLinear:
            return self._linear(module.weight, module.bias)
        if node.target is F.linear and args and args[0] is before:
            weight, bias = [*args[1:], *kwargs.values(), None][:2]
            return self._linear(weight, bias)
        name = _activation(module) if module is not None else _FUNCTIONS.get(node.target)
        if name is not None and len(args) == 1 and not kwargs.get("approximate"):
            return self._activation(name)
        operation = _AFFINE.get(node.target)
        if operation is not None and len(args) == 2 and not kwargs:
            return self._affine(operation, *args, before=before)
        if after.shape == before.shape and node.op == "call_method" and torch.equal(after.to(before), before):
            return None  # a reshape, a cast
        if type(module) is nn.Flatten and after.shape == before.shape:
            return None
        what = type(module).__name__ if module is not None else getattr(node.target, "__name__", str(node.target))
        raise NotCovered(f"{what} is no linear layer, activation or scale")

    def _linear(self, weight: Tensor, bias: Tensor | None) -> None:
        weight = weight.detach().double().cpu().T
        bias = torch.zeros(weight.shape[1], dtype=torch.float64) if bias is None else bias.detach().double().cpu()
        if self.layers:
            weight, bias = self.scale[:, None] * weight, bias + self.shift @ weight
        else:
            # a column of scale 0 is a constant; of the others (x - loc) * scale
            loc = torch.where(self.scale != 0, -self.shift / torch.where(self.scale != 0, self.scale, 1.0), 0.0)
            bias = bias + torch.where(self.scale == 0, self.shift, 0.0) @ weight
            self.input_scale = loc, self.scale
        self.layers.append(Dense(weight.contiguous(), bias))
        self.scale, self.shift = torch.ones_like(bias), torch.zeros_like(bias)

    def _activation(self, name: str) -> None:
        if not self.layers or self.layers[-1].activation != "identity":
            raise NotCovered(f"{name} of what is no linear layer")
        self._settle()
        last = self.layers[-1]
        self.layers[-1] = Dense(last.weight, last.bias, name)

    def _affine(self, what: str, one: Any, other: Any, before: Tensor) -> None:
        turned = other is before
        given = one if turned else other
        number = (given if isinstance(given, Tensor) else torch.tensor(given, dtype=torch.float32, device="cpu")
                  ).detach().double().cpu()
        width = len(self.scale)
        if number.ndim > 1 or number.numel() not in (1, width):
            raise NotCovered(f"a network that adds or multiplies a tensor of shape {tuple(number.shape)}")
        if turned and what in ("sub", "div"):
            if what == "div":
                raise NotCovered("a network that divides by its layers")
            self.scale, self.shift = -self.scale, number - self.shift
        elif what in ("add", "sub"):
            self.shift = self.shift + (number if what == "add" else -number)
        else:
            factor = number if what == "mul" else 1 / number
            self.scale, self.shift = self.scale * factor, self.shift * factor

    def _settle(self) -> None:
        """Fold what is still to be done into the last layer."""
        last = self.layers[-1]
        if last.activation == "identity":
            self.layers[-1] = Dense(last.weight * self.scale, last.bias * self.scale + self.shift)
            self.scale, self.shift = torch.ones_like(self.scale), torch.zeros_like(self.shift)

    def network(self) -> Network:
        if self.input_scale is None:
            raise NotCovered("a network without a linear layer")
        self._settle()
        if self.layers[-1].activation != "identity":  # what follows a network takes a layer without
            eye = torch.eye(len(self.scale), dtype=torch.float64)
            self.layers.append(Dense(self.scale[:, None] * eye, self.shift))
        return Network(*self.input_scale, tuple(self.layers))


def _activation(module: nn.Module) -> str | None:
    """The name of `module` as an activation, in the form that the kernel knows."""
    name = _MODULES.get(type(module))
    known = {"gelu": ("approximate", "none"), "elu": ("alpha", 1.0), "leaky_relu": ("negative_slope", 0.01)}
    if name in known and getattr(module, known[name][0]) != known[name][1]:
        raise NotCovered(f"{type(module).__name__} with {known[name][0]}={getattr(module, known[name][0])!r}")
    return name
