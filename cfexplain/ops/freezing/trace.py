"""Read what a network computes as a graph (torch.fx), or say why that cannot be done without risk.

Symbolic tracing runs the network's forward once with stand-ins for tensors, and does not see everything that Python can
do there. What it would get wrong without a word is refused here: a forward that asks for the type of its input, switches
gradients or autocast within, writes to its weights, draws random numbers, or keeps a state of its own.
"""

from __future__ import annotations

import operator
import random
import sys
from collections.abc import Callable, Collection
from threading import get_ident
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from cfexplain.foundation.random import global_generators

__all__ = ["Untraceable", "is_hooked", "is_in_place", "trace", "trace_around"]

_AUGMENTED = ("iadd", "iand", "ifloordiv", "ilshift", "imatmul", "imod", "imul", "ior", "ipow", "irshift", "isub",
              "itruediv", "ixor")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Untraceable(Exception):
    """The forward of a module cannot be read as a graph; the message says why."""


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody watches or changes what goes into or comes out of `module`, or its gradients."""
    return any(getattr(module, name, None) for name in _HOOKS)


def is_in_place(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether `node` (a call of `module`, if it is a call of one) may write to the first thing it is given."""
    if node.op == "call_module":
        return bool(getattr(module, "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    written = name.endswith("_") and not name.startswith("_")
    own = getattr(node.target, "__module__", None) in ("_operator", "operator")
    return written or bool(node.kwargs.get("inplace")) or (own and (name == "setitem" or name in _AUGMENTED))


class _Proxy(fx.Proxy):
    """A stand-in for a tensor that does not let itself be taken for something else."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # what isinstance() looks at; `type` is not affected
        frame = sys._getframe(1)
        top = frame.f_globals.get("__name__", "").partition(".")[0]
        if frame.f_code.co_name == "is_tensor" or not (top == "torch" or top in sys.stdlib_module_names):
            raise fx.proxy.TraceError("its forward asks for the type of a tensor")
        return _Proxy

    def __getattr__(self, name: str) -> Any:
        if not hasattr(torch.Tensor, name):  # torch.fx answers to any name, and so to hasattr()
            raise AttributeError(f"a tensor has no attribute {name!r}")
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("tracer", "node"):
            raise fx.proxy.TraceError(f"its forward sets the attribute {name!r} of a tensor")
        super().__setattr__(name, value)


def _augmented(name: str) -> Callable:
    function = getattr(operator, name)
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _name in _AUGMENTED:  # without these, torch.fx takes `a += b` for `a = a + b`, and other names of a keep the old value
    setattr(_Proxy, f"__{_name}__", _augmented(_name))


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def __init__(self, leaves: Collection[nn.Module]):
        super().__init__()
        self.leaves, self.modes, self.thread = leaves, _modes(), get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self.leaves or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        if get_ident() != self.thread:  # another thread's network, which has nothing to do with this trace
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _modes() != self.modes:
            raise fx.proxy.TraceError("its forward switches gradients or autocast")
        return super().create_node(*args, **kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def trace(module: nn.Module, leaves: Collection[nn.Module] = ()) -> fx.Graph:
    """The graph of ``module.forward``; `leaves` and torch's own layers are single nodes of it.

    Raises
    ------
    Untraceable
        `module` is left as it was.
    """
    # Nobody else may draw meanwhile; and torch.fx patches nn.Module, so that two traces at once would undo each other's.
    with global_generators():
        before = [(part, dict(part.__dict__), dict(part._buffers))
                  for part in module.modules() if not isinstance(part, torch.jit.ScriptModule)]
        drawn = _random_states()
        try:
            with torch.enable_grad():
                graph = _Tracer(leaves).trace(module)
        except Exception as error:  # whatever a user's forward raises when it is given stand-ins
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise Untraceable(lines[0]) from error
        finally:
            kept_state = all([_restored(part.__dict__, own) & _restored(part._buffers, buffers)
                              for part, own, buffers in before])
            drew = _restored_random(drawn)
    if not kept_state:
        raise Untraceable("its forward keeps a state of its own")
    if drew:
        raise Untraceable("its forward draws random numbers")
    parts = dict(module.named_modules())
    if any(_writes_to_weights(node, parts.get(str(node.target))) for node in graph.nodes):
        raise Untraceable("its forward writes to its weights")
    return graph


def trace_around(root: nn.Sequential) -> tuple[fx.Graph, dict[nn.Module, str]]:
    """The graph of `root`, with the modules that cannot be traced as single nodes, and why they cannot."""
    leaves = {part: "it has hooks" if is_hooked(part) else "it is a ScriptModule"
              for part in root.modules() if is_hooked(part) or isinstance(part, torch.jit.ScriptModule)}
    try:
        return trace(root, leaves), leaves
    except Untraceable:
        pass
    for _, part in reversed(list(root.named_modules())):  # the innermost first
        torch_own = type(part).__module__.startswith("torch.nn") and type(part) is not nn.Sequential
        if part is root or part in leaves or torch_own:
            continue
        try:
            trace(part, leaves)
        except Untraceable as reason:
            leaves[part] = str(reason)
    try:
        return trace(root, leaves), leaves
    except Untraceable as reason:  # a part that can be traced by itself, but not as it is called here
        leaves |= {part: str(reason) for part in root}
        return trace(root, leaves), leaves


def _modes() -> tuple[bool, ...]:
    return torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")


def _random_states() -> tuple:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *cuda], random.getstate(), np.random.get_state()


def _restored_random(before: tuple) -> bool:
    """Give the global generators the state that they had; True if somebody has drawn from them since."""
    now = _random_states()
    (devices, python, numpy), (devices_now, python_now, numpy_now) = before, now
    drew = (python != python_now or str(numpy[2:]) != str(numpy_now[2:]) or not np.array_equal(numpy[1], numpy_now[1])
            or not all(torch.equal(a, b) for a, b in zip(devices, devices_now, strict=True)))
    if drew:
        torch.set_rng_state(devices[0])
        if len(devices) > 1:
            torch.cuda.set_rng_state_all(devices[1:])
        random.setstate(python)
        np.random.set_state(numpy)
    return drew


def _restored(now: dict, before: dict) -> bool:
    """Undo what tracing has set in `now`; False if there was something to undo."""
    same = True
    for name in set(now) | set(before):
        if name.startswith("_tensor_constant") or now.get(name) is before.get(name):
            continue  # the first: constants that the tracer itself keeps on the module, for the graph to read
        same = False
        if name in before:
            now[name] = before[name]
        else:
            del now[name]
    return same


def _writes_to_weights(node: fx.Node, module: nn.Module | None) -> bool:
    if not is_in_place(node, module):
        return False
    written = node.args[0] if node.args else None
    while isinstance(written, fx.Node) and (written.op == "call_method" or written.target in (getattr, operator.getitem)):
        written = written.args[0]  # a view of something else, perhaps
    return isinstance(written, fx.Node) and written.op == "get_attr"
