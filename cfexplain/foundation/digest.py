"""SHA-256 digests of content: of any object, of a network's weights, and of the arrays of a file.

Each is the same in every process and on every device. `pickle` will not do: its bytes depend on which parts are one object,
and a tensor's on its address. Stored results and saved explainers hold these digests, so that their values must not change.
"""

from __future__ import annotations

import functools
import hashlib
import json
import types
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["arrays_digest", "digest", "named_weights", "weights_digest"]

# Attributes of a module that do not change what it computes in evaluation mode
_NOT_CONTENT = frozenset(["training", "_is_full_backward_hook", "call_super_init", "_compiled_call_impl"])
# What an estimator records of its training, such as how long an epoch took
_RECORD = "history_"


def digest(value: Any, *, without: Iterable[str] = ()) -> str:
    """SHA-256 of the content of `value`, as 64 hexadecimal digits.

    Parameters
    ----------
    value : object
        Numbers, strings, containers, arrays, tensors, modules, functions, estimators, and objects made of these.
    without : iterable of str
        Attributes of `value` itself that are left out.

    Raises
    ------
    TypeError
        A part has no content that can be read (a lock, a socket, a generator); the message says which.

    Examples
    --------
    >>> digest({"a": 1, "b": [2.0]}) == digest({"b": [2.0], "a": 1})
    True
    >>> digest(torch.zeros(2)) == digest(torch.zeros(2).double())
    False
    """
    try:
        if without:
            state = {name: part for name, part in vars(value).items() if name not in set(without)}
            return _Digester().object(type(value), state, type(value).__name__).hex()
        return _Digester().of(value, type(value).__name__).hex()
    except RecursionError as error:
        raise TypeError(f"A {type(value).__name__} is nested too deeply to be read.") from error


def weights_digest(modules: Iterable[nn.Module]) -> str:
    """SHA-256 of names, shapes, dtypes and bytes of every weight and buffer; on any device the same.

    >>> net = nn.Linear(2, 1)
    >>> before = weights_digest([net])
    >>> _ = nn.init.zeros_(net.bias)
    >>> weights_digest([net]) == before
    False
    """
    made = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(named_weights(module).items()):
            made.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            made.update(_bytes(tensor.detach().cpu().contiguous()))
    return made.hexdigest()


def named_weights(module: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by name; what torch.compile wraps has the names of what is inside."""
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in module.state_dict().items()
            if isinstance(tensor, Tensor)}


def arrays_digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of `text`, and of names, dtypes, shapes and bytes of `arrays`."""
    made = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        made.update(f"\n{name} {arrays[name].dtype.name} {arrays[name].shape}\n".encode())
        made.update(np.ascontiguousarray(arrays[name]).tobytes())
    return made.hexdigest()


class _Digester:
    """Remembers the digests of parts by identity, so that shared parts are read once and cycles end."""

    def __init__(self) -> None:
        # the objects are kept alive, so that their ids are not reused
        self.known: dict[int, tuple[Any, bytes]] = {}
        self.open: dict[int, int] = {}

    def of(self, value: Any, where: str) -> bytes:
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            return _joined(type(value).__name__.encode(), repr(value).encode())
        number = id(value)
        if number in self.known:
            return self.known[number][1]
        if number in self.open:
            return _joined(b"up", str(len(self.open) - self.open[number]).encode())
        self.open[number] = len(self.open)
        try:
            made = self._made(value, where)
        finally:
            del self.open[number]
        self.known[number] = value, made
        return made

    def object(self, kind: type, state: Mapping[str, Any], where: str) -> bytes:
        state = {name: part for name, part in state.items() if name != _RECORD}
        return _joined(b"object", _name(kind).encode(), self._mapping(state, where))

    def _made(self, value: Any, where: str) -> bytes:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, (np.ndarray, np.generic)):
            return self._array(np.asarray(value), where)
        if isinstance(value, (torch.dtype, torch.device, torch.layout, np.dtype)):
            return _joined(type(value).__name__.encode(), str(value).encode())
        if isinstance(value, (type, types.ModuleType)):
            return _joined(b"name", _name(value).encode())
        if isinstance(value, Mapping):
            return _joined(_name(type(value)).encode(), self._mapping(value, where))
        if isinstance(value, (list, tuple)):
            return _joined(_name(type(value)).encode(), *(self.of(v, f"{where}[{i}]") for i, v in enumerate(value)))
        if isinstance(value, (set, frozenset)):
            return _joined(type(value).__name__.encode(), *sorted(self.of(v, where) for v in value))
        if isinstance(value, torch.Generator):
            return _joined(b"generator", self._tensor(value.get_state()))
        if isinstance(value, nn.Module):
            return self._module(value, where)
        if isinstance(value, types.CodeType):
            return _joined(b"code", value.co_code, self.of(value.co_consts, where), repr(value.co_names).encode())
        if isinstance(value, types.FunctionType):
            return self._function(value, where)
        if isinstance(value, types.MethodType):
            return _joined(b"method", self.of(value.__self__, where), self.of(value.__func__, where))
        if isinstance(value, types.BuiltinFunctionType):
            return _joined(b"built-in", self.of(value.__self__, where), value.__qualname__.encode())
        if hasattr(value, "__dict__") and not isinstance(value, functools.partial) and not _has_slots(type(value)):
            return self.object(type(value), vars(value), where)
        return self._reduced(value, where)

    def _mapping(self, value: Mapping, where: str) -> bytes:
        return _joined(*sorted(_joined(self.of(k, where), self.of(v, f"{where}.{k}")) for k, v in value.items()))

    def _tensor(self, value: Tensor) -> bytes:
        value = value.detach().cpu()
        value = (value.to_dense() if value.layout != torch.strided else value).contiguous()
        shape = f"{value.dtype} {tuple(value.shape)}".encode()
        return _joined(b"tensor", shape, _bytes(value.resolve_conj().resolve_neg()))

    def _array(self, value: np.ndarray, where: str) -> bytes:
        head = f"{value.dtype.str} {value.shape}".encode()
        if value.dtype.names:  # field by field: the padding between fields is not content
            return _joined(b"array", head, *(
                _joined(name.encode(), self._array(value[name], where)) for name in value.dtype.names))
        if value.dtype.hasobject:
            return _joined(b"array", head, *(self.of(v, where) for v in value.ravel().tolist()))
        return _joined(b"array", head, value.tobytes())

    def _module(self, value: nn.Module, where: str) -> bytes:
        state = {name: part for name, part in vars(value).items() if name not in _NOT_CONTENT and "_hooks" not in name}
        children = list((state.pop("_modules", None) or {}).items())  # their order counts
        if isinstance(value, torch.fx.GraphModule):
            state = {"code": value.code, **{name: state[name] for name in ("_parameters", "_buffers")}}
            # functions that torch.export generates to check the shapes of inputs: no part of what the network computes
            children = [(name, child) for name, child in children if name != "_guards_fn"]
        elif isinstance(value, torch.jit.ScriptModule):
            state, children = {"code": getattr(value, "code", ""), "state": dict(value.state_dict())}, list(
                value.named_children())
        return _joined(b"module", _name(type(value)).encode(), self._mapping(state, where), *(
            _joined(name.encode(), self.of(child, f"{where}.{name}")) for name, child in children))

    def _function(self, value: types.FunctionType, where: str) -> bytes:
        name = _name(value)
        if "<" not in name and value.__module__ != "__main__":  # an importable function is known by its name
            return _joined(b"function", name.encode())
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return _joined(b"code of", *(
            self.of(part, where) for part in (value.__code__, cells, value.__defaults__, value.__kwdefaults__)))

    def _reduced(self, value: Any, where: str) -> bytes:
        """What `pickle` would store: for objects that live outside Python, such as the trees of a forest."""
        try:
            reduced = value.__reduce_ex__(2)
        except Exception as error:
            raise TypeError(
                f"{where} is a {type(value).__name__}, of which no digest can be made ({error}). Take it out of the "
                "explainer, or give its class a __reduce__ that returns what it is made of.") from error
        if isinstance(reduced, str):
            return _joined(b"name", reduced.encode())
        parts = [list(part) if i > 2 and part is not None else part for i, part in enumerate(reduced[:5])]
        return _joined(b"reduced", *(self.of(part, where) for part in parts))


def _bytes(value: Tensor) -> memoryview:
    return value.reshape(-1).view(torch.uint8).numpy().data


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', getattr(value, '__name__', ''))}"


def _has_slots(kind: type) -> bool:
    return any("__slots__" in vars(base) and vars(base)["__slots__"] for base in kind.__mro__)


def _joined(*parts: Any) -> bytes:
    """A digest of parts with their lengths, so that other parts with the same concatenation have another digest."""
    made = hashlib.sha256()
    for part in parts:
        made.update(json.dumps(len(part)).encode() + b":")
        made.update(part)
    return made.digest()
