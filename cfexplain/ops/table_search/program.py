"""A search as the kernel reads it: a list of matrix products, the numbers that they take, and a plan of the working memory.

Working memory is a line of columns for the rows of one program, cut into regions, each filled up to whole blocks. A block is
M rows of `block` columns side by side; weights lie in tiles of `block` by `block`. So every address is a base and constants.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cfexplain.foundation.settings import own_defaults
from cfexplain.ops.table_search.packing import ACTIVATIONS, Dense, NotCovered, TableSearch

__all__ = ["FIELDS", "PLAN", "Program", "assemble"]

# Of one product, in this order: region and width of its input and of its output, where its weights and biases lie and how
# many numbers further those of the next class, activation and where its slope goes, a region by which the result is
# multiplied (`by`: 1, by where it is positive, 2, by itself), whether it is added to what is there.
FIELDS = ("source", "depth", "target", "width", "weight", "bias", "per_class", "activation", "slope", "factor", "by",
          "accumulate")
# Of the search: first product of each group and the first one after it (what opinions say is found together with the decoded
# point), regions, and where vectors lie. The kernel knows these numbers.
PLAN = (
    "decode", "decode_end", "classify", "classify_end", "classify_back", "classify_back_end", "decode_back",
    "decode_back_end", "flow", "flow_back", "flow_step",
    "code", "code_width", "picture", "input", "input_width", "mask", "change", "logits", "g_logits", "logits_width",
    "g_input", "g_code", "opinions", "g_opinions", "members", "flow_x", "flow_ts", "flow_ts_step", "g_ts", "g_flow",
    "layers", "loc", "inverse_scale", "low", "high", "held", "flow_loc", "flow_inverse_scale", "base_loc", "base_step",
    "base_inverse_scale")


@dataclass(frozen=True)
class Program:
    """Tensors of a search on one device.

    Attributes
    ----------
    products : Tensor of int32, shape (n, 12)
        `FIELDS` of each.
    plan : Tensor of int32, shape (len(PLAN),)
    numbers : Tensor of float32, shape (n,)
        Weights, biases and vectors, one after the other.
    columns : int
        Of working memory, a row.
    block : int
    """

    products: Tensor
    plan: Tensor
    numbers: Tensor
    columns: int
    block: int

    def to(self, device: torch.device) -> Program:
        return replace(self, products=self.products.to(device), plan=self.plan.to(device), numbers=self.numbers.to(device))


@own_defaults()
def assemble(search: TableSearch, block: int) -> Program:
    """Lay `search` out in blocks of `block` columns, a power of two from 16 on."""
    return _Assembler(block).search(search)


class _Assembler:
    def __init__(self, block: int):
        self.block, self.columns, self.length = block, 0, 0
        self.products: list[list[int]] = []
        self.numbers: list[Tensor] = []
        self.plan = dict.fromkeys(PLAN, 0)

    def search(self, search: TableSearch) -> Program:
        plan, code = self.plan, self.region(search.dim)
        g_code = self.region(search.dim)
        plan |= {"code": code, "code_width": self.wide(search.dim), "picture": code, "g_code": g_code, "g_input": g_code,
                 "input_width": self.wide(search.features), "logits_width": self.wide(search.classes)}
        tape, opinions = None, []
        if search.decoder is not None:
            plan["picture"], tape = self.forward(search.decoder, code)
            plan["g_input"] = self.region(search.features)
        if search.opinion:
            opinions = self.opinions(search, code)
        plan["decode_end"] = plan["classify"] = len(self.products)
        plan["input"] = self.region(search.features)
        if search.rules:
            plan["mask"] = self.region(search.features)
        if search.input_norm:
            plan["change"] = self.region(search.features)
        plan["logits"], classified = self.forward(search.classifier.layers, plan["input"])
        plan["classify_end"] = plan["classify_back"] = len(self.products)
        plan["g_logits"] = self.region(search.classes)
        self.backward(classified, plan["g_logits"], plan["g_input"])
        plan["classify_back_end"] = plan["decode_back"] = len(self.products)
        if tape is not None:
            self.backward(tape, plan["g_input"], g_code)
        for m, member in enumerate(opinions):
            self.backward(member, plan["g_opinions"] + m * plan["logits_width"], g_code, accumulate=1)
        plan["decode_back_end"] = len(self.products)
        if search.density != "none":
            self.flow(search, code)
        network = search.classifier
        plan |= {"loc": self.vector(network.loc), "inverse_scale": self.vector(network.inverse_scale)}
        if search.held is not None and search.low is not None and search.high is not None:
            plan |= {"low": self.vector(search.low, -torch.inf), "high": self.vector(search.high, torch.inf),
                     "held": self.vector(search.held.double(), 1.0)}
        numbers = torch.cat(self.numbers)
        if max(len(numbers), 64 * self.columns) >= 2**31:
            raise NotCovered(f"{len(numbers)} weights and {self.columns} columns of work, which int32 does not count")
        return Program(torch.tensor(self.products, dtype=torch.int32),
                       torch.tensor([plan[name] for name in PLAN], dtype=torch.int32), numbers, self.columns, self.block)

    # ---- memory
    def wide(self, width: int) -> int:
        return -(-width // self.block) * self.block

    def region(self, width: int) -> int:
        begin = self.columns
        self.columns += self.wide(width)
        return begin

    def vector(self, values: Tensor, fill: float = 0.0) -> int:
        """Where `values` (..., n) lie, each line filled up to whole blocks."""
        begin = self.length
        values = F.pad(values.double().cpu(), (0, self.wide(values.shape[-1]) - values.shape[-1]), value=fill)
        self.numbers.append(values.float().flatten())
        self.length += values.numel()
        return begin

    def matrix(self, weight: Tensor) -> int:
        """Where `weight` (in, out) lies: tiles of `block` by `block`, those of one output side by side."""
        rows, columns = (self.wide(side) for side in weight.shape)
        weight = F.pad(weight.double().cpu(), (0, columns - weight.shape[1], 0, rows - weight.shape[0]))
        tiles = weight.view(rows // self.block, self.block, columns // self.block, self.block)
        return self.vector(tiles.permute(2, 0, 1, 3).flatten())

    # ---- products
    def product(self, source: int, target: int, weight: Tensor, bias: Tensor, **fields: int) -> None:
        """``weight`` (in, out); ``bias`` (out,), or (K, out) with a line a class."""
        given = dict(fields, source=source, depth=self.wide(weight.shape[0]), target=target,
                     width=self.wide(weight.shape[1]), weight=self.matrix(weight), bias=self.vector(bias),
                     per_class=self.wide(bias.shape[-1]) if bias.ndim == 2 else 0)
        self.products.append([given.get(name, 0) for name in FIELDS])

    def forward(self, layers: tuple[Dense, ...], source: int, target: int | None = None
                ) -> tuple[int, list[tuple[Dense, dict[str, int]]]]:
        """Where the output goes, and each layer with the factor that its output's gradient takes."""
        tape: list[tuple[Dense, dict[str, int]]] = []
        for i, layer in enumerate(layers):
            width, last = layer.weight.shape[1], i == len(layers) - 1
            to = target if last and target is not None else self.region(width)
            slope, by = (to, 1) if layer.activation == "relu" else (0, 0)
            if layer.activation not in ("identity", "relu"):
                slope, by = self.region(width), 2
            self.product(source, to, layer.weight, layer.bias, slope=slope,
                         activation=ACTIVATIONS.index(layer.activation))
            tape.append((layer, {"factor": slope, "by": by}))
            source = to
        return source, tape

    def backward(self, tape: list[tuple[Dense, dict[str, int]]], source: int, target: int, accumulate: int = 0) -> None:
        """The gradient of a network's input, of its output's gradient in `source`."""
        for i in reversed(range(len(tape))):
            weight = tape[i][0].weight.T
            to = self.region(weight.shape[1]) if i else target
            factor = tape[i - 1][1] if i else {}
            self.product(source, to, weight, weight.new_zeros(weight.shape[1]), accumulate=0 if i else accumulate, **factor)
            source = to

    def opinions(self, search: TableSearch, code: int) -> list[list[tuple[Dense, dict[str, int]]]]:
        plan, members, width = self.plan, search.opinions, self.plan["logits_width"]
        plan["members"] = len(members)
        plan["opinions"], plan["g_opinions"] = (self.region(width * len(members)) for _ in range(2))
        return [self.forward(member, code, plan["opinions"] + m * width)[1] for m, member in enumerate(members)]

    def flow(self, search: TableSearch, code: int) -> None:
        """Couplings in the order of z's columns: a network reads all of them, by weights that are 0 for those it must not
        see, and gives t = s = 0 for those that it must not move. So no column ever changes place."""
        assert search.flow is not None
        plan, flow, width = self.plan, search.flow.to("cpu", torch.float64), self.wide(search.dim)
        plan["layers"], plan["flow_step"] = flow.layers, len(flow.weights)
        plan["flow_x"] = self.region((flow.layers + 1) * width)
        plan["flow_ts"], plan["flow_ts_step"] = self.region(flow.layers * 2 * width), 2 * width
        plan["g_ts"], plan["g_flow"] = self.region(2 * width), self.region(width)
        columns, tapes = _columns(flow, search.dim), []
        plan["flow"] = len(self.products)
        for layer in range(flow.layers):
            dense = _coupling(flow, layer, columns[layer], search.dim, width)
            tapes.append(self.forward(dense, plan["flow_x"] + layer * width, plan["flow_ts"] + layer * 2 * width)[1])
        plan["flow_back"] = len(self.products)
        for tape in tapes:
            self.backward(tape, plan["g_ts"], plan["g_flow"], accumulate=1)

        places, after = flow.places, columns[-1]
        final = torch.tensor([after.index(column) for column in range(search.dim)])
        plan |= {"flow_loc": self.vector(flow.loc[places]), "flow_inverse_scale": self.vector(flow.inverse_scale[places]),
                 "base_loc": self.vector(flow.base_loc[:, final]), "base_step": width if len(flow.base_loc) > 1 else 0,
                 "base_inverse_scale": self.vector(flow.base_inverse_scale[final])}


def _columns(flow: Any, d: int) -> list[list[int]]:
    """The column of z that each place holds before every coupling and after the last; -1 where there is none."""
    half = flow.half
    now = torch.full((2 * half,), -1)
    now[flow.places] = torch.arange(d)
    found = [now.tolist()]
    for layer in range(flow.layers):
        now = now.roll(half)
        if flow.routes is not None:
            now = now[flow.routes[layer]]
        found.append(now.tolist())
    return found


def _coupling(flow: Any, layer: int, columns: list[int], d: int, width: int) -> tuple[Dense, ...]:
    """One coupling's network, from all columns to t of all and, `width` further, s of all; biases (out,), or (K, out)."""
    half = flow.half
    dense = [(w[layer], b[layer]) for w, b in zip(flow.weights, flow.biases, strict=True)]
    read = [(place, column) for place, column in enumerate(columns[:half]) if column >= 0]
    moved = [(place, column) for place, column in enumerate(columns[half:]) if column >= 0]
    first = dense[0][0].new_zeros(d, dense[0][0].shape[1])
    for place, column in read:
        first[column] = dense[0][0][place]
    dense[0] = first, dense[0][1]
    weight, bias = dense[-1]
    wide, shift = weight.new_zeros(len(weight), 2 * width), bias.new_zeros(*bias.shape[:-1], 2 * width)
    for place, column in moved:
        for offset, side in ((0, 0), (width, half)):  # t, then s
            wide[:, offset + column], shift[..., offset + column] = weight[:, side + place], bias[..., side + place]
    dense[-1] = wide, shift
    return tuple(Dense(w, b, "identity" if i == len(dense) - 1 else "relu") for i, (w, b) in enumerate(dense))
