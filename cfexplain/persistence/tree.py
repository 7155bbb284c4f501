"""Python values as JSON and arrays, and back: plain data, and objects of the fixed registry; nothing is executed.

A node is a JSON number, string, bool, null or list, which mean themselves, or an object with one key, which says what its
value means: ``{"tuple": […]}``, ``{"array": "name"}``, ``{"object": ["VAE", 3, {…}]}``, … Arrays stand beside the tree, by
name. An object that is met twice is stored once, and is one object again after reading.
"""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cfexplain.persistence.table import kind_named, kind_of
from cfexplain.persistence.user_objects import LoadedObjects, RefusedError, SavedObjects

__all__ = ["Reader", "Writer"]

_SCALARS = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8",
            "bool", "str")
_DEVICES = ("cpu", "cuda", "mps", "xpu")


class Writer:
    """Takes values apart.

    Parameters
    ----------
    users : SavedObjects
        Where objects go that only the user can make.

    Attributes
    ----------
    arrays : dict of str to ndarray
    """

    def __init__(self, users: SavedObjects):
        self.users = users
        self.arrays: dict[str, np.ndarray] = {}
        self._ids: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._alive: list[Any] = []  # what an id stands for must not go away, or the id would be given to another

    def value(self, value: Any, where: str, slot: str = "", *, strict: bool = True) -> Any:
        """The node of `value`.

        Parameters
        ----------
        where : str
            For messages, and for the names of arrays: ``coordinates_.module_``.
        slot : str
            What the user calls the parameter that `value` is, or belongs to: ``coordinates__encoder``.
        strict : bool
            Whether an object that is not known is an error. In a parameter it is the user's, who will give it again.

        Raises
        ------
        TypeError
            Naming `where`.
        """
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind is list or kind is tuple:
            names = _names_of(value, slot)
            items = [self.value(v, f"{where}[{i}]", names[i], strict=strict) for i, v in enumerate(value)]
            return items if kind is list else {"tuple": items}
        if kind is dict:
            return {"dict": [[self.value(k, f"a key of {where}"),
                              self.value(v, f"{where}[{k!r}]", f"{slot}__{k}", strict=strict)] for k, v in value.items()]}
        if isinstance(value, np.generic):
            return {"scalar": [_scalar_name(value, where), self.value(value.item(), where)]}
        if kind is np.ndarray:
            return self.array(value, where)
        if kind is Tensor:
            return {"tensor": [self.tensor(value, where), str(value.device)]}
        if isinstance(value, PurePath):
            return str(value)  # which every parameter that takes a path takes, too
        if isinstance(value, np.dtype):
            return {"dtype": value.name}
        if kind is torch.device:
            return {"device": str(value)}
        if kind is np.random.RandomState:
            name, key, *rest = value.get_state(legacy=True)
            return {"random_state": [name, self.array(key, where), *map(self.value, rest, [where] * len(rest))]}
        return self._object(value, where, slot, strict)

    def array(self, array: np.ndarray, where: str) -> dict[str, Any]:
        """A node for an array, stored once however often it is met. Its order is kept: a sum over an axis depends on it."""
        transposed = array.flags.f_contiguous and not array.flags.c_contiguous
        if id(array) not in self._names:
            self._names[id(array)] = self._store(array.T if transposed else array, where)
            self._alive.append(array)
        name = self._names[id(array)]
        return {"transposed": name} if transposed else {"array": name}

    def tensor(self, tensor: Tensor, where: str) -> str:
        """The name under which a tensor is stored."""
        if id(tensor) not in self._names:
            if tensor.dtype in (torch.bfloat16, torch.complex64, torch.complex128) or tensor.layout != torch.strided:
                raise TypeError(f"{where} is a tensor of {tensor.dtype} ({tensor.layout}), which cannot be saved; only "
                                "dense tensors of float64, float32, float16, integers and bools can.")
            self._names[id(tensor)] = self._store(tensor.detach().cpu().numpy(), where)
            self._alive.append(tensor)
        return self._names[id(tensor)]

    def _store(self, array: np.ndarray, where: str) -> str:
        if array.dtype.kind not in "fiubUO" or array.dtype.itemsize > 8 and array.dtype.kind not in "UO":
            raise TypeError(f"{where} is an array of {array.dtype}, which cannot be saved; only numbers, bools and str can.")
        name = where
        while name in self.arrays:
            name += "'"
        self.arrays[name] = array
        return name

    def _object(self, value: Any, where: str, slot: str, strict: bool) -> dict[str, Any]:
        known = self._ids.get(id(value))
        if known is not None:
            return {"same": known}
        place = self.users.place_of(value)
        if place is not None:
            return {"given": place}
        kind = kind_of(type(value))
        if kind is None:
            if strict or not slot:
                raise TypeError(
                    f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which the file format of "
                    "save() does not know, so that nothing was written. It holds numbers, strings, arrays and the package's "
                    "own parts; networks and estimators of your own belong in a parameter (fitted ones inside "
                    "FrozenEstimator), and are given again to load(). pickle holds everything.")
            return {"given": self.users.add(slot, value, where)}
        fields = kind.take(value, self, where, slot)
        self._alive.append(value)
        self._ids[id(value)] = len(self._ids)
        return {"object": [kind.name, self._ids[id(value)], fields]}


class Reader:
    """Makes values again, of the classes that have registered.

    Parameters
    ----------
    arrays : dict of str to ndarray
    users : LoadedObjects
        What the user gave.
    saved : str
        Device of the explainer that was saved.
    device : str or torch.device, optional
        Where its parts go; default: where they were.

    Attributes
    ----------
    used : set of str
        Arrays that were read.
    """

    def __init__(self, arrays: dict[str, np.ndarray], users: LoadedObjects, saved: str, device: Any = None):
        self.arrays, self.users, self.moved = arrays, users, device is not None
        self.saved = _device(saved)
        self.device = torch.device(device) if self.moved else self.saved
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise RefusedError(f"The explainer computes on {str(self.device)!r}, but this torch sees no CUDA device. Load "
                               "it with device='cpu'.")
        self.used: set[str] = set()
        self._made: dict[int, Any] = {}

    def value(self, node: Any) -> Any:
        """What `node` stands for; any error of the kinds ValueError, TypeError, LookupError if it stands for nothing."""
        if node is None or isinstance(node, (bool, int, str)):
            return node
        if isinstance(node, float):
            if not math.isfinite(node):
                raise ValueError("a number that is not finite")
            return node
        if isinstance(node, list):
            return [self.value(item) for item in node]
        ((tag, body),) = node.items()
        if tag not in _TAGS:
            raise ValueError(f"a value of the unknown kind {tag!r}")
        return getattr(self, f"_{tag}")(body)

    def tensor(self, name: str, device: torch.device) -> Tensor:
        """A tensor in memory of its own, aligned as torch aligns: kernels may round by alignment."""
        array = self._array(name)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{name} holds text, not numbers")
        return torch.from_numpy(np.asarray(array)).clone().to(device)

    def place(self, saved: str) -> torch.device:
        """Where something goes that was on the device `saved`: with the explainer, if it was there."""
        return self.device if _device(saved).type == self.saved.type else torch.device("cpu")

    def _float(self, body: Any) -> float:
        if body not in ("nan", "inf", "-inf"):
            raise ValueError(f"the number {body!r}")
        return float(body)

    def _tuple(self, body: Any) -> tuple[Any, ...]:
        if not isinstance(body, list):
            raise ValueError("a tuple that is no list")
        return tuple(self.value(item) for item in body)

    def _dict(self, body: Any) -> dict[Any, Any]:
        return {self.value(key): self.value(item) for key, item in body}

    def _scalar(self, body: Any) -> np.generic:
        name, node = body
        if name not in _SCALARS:
            raise ValueError(f"a number of dtype {name!r}")
        value = self.value(node)
        made = np.str_(value) if name == "str" else np.dtype(name).type(value)
        if isinstance(value, str) != (name == "str") or not isinstance(value, (bool, int, float, str)):
            raise ValueError(f"{value!r} as {name}")
        return made

    def _array(self, body: Any) -> np.ndarray:
        self.used.add(body)
        return self.arrays[body]

    def _transposed(self, body: Any) -> np.ndarray:
        return self._array(body).T

    def _tensor(self, body: Any) -> Tensor:
        name, device = body
        return self.tensor(name, self.place(device))

    def _dtype(self, body: Any) -> np.dtype:
        if body not in _SCALARS[:-1]:
            raise ValueError(f"the dtype {body!r}")
        return np.dtype(body)

    def _device(self, body: Any) -> torch.device:
        return self.place(body)

    def _random_state(self, body: Any) -> np.random.RandomState:
        name, key, place, has_gauss, gauss = (body[0], *map(self.value, body[1:]))
        # NumPy believes the place in the key, and would read beyond it
        fits = key.dtype == np.uint32 and key.shape == (624,) and type(place) is int and 0 <= place <= 624
        if name != "MT19937" or not fits:
            raise ValueError("a damaged RandomState")
        made = np.random.RandomState(0)
        made.set_state((name, key, place, int(bool(has_gauss)), float(gauss)))
        return made

    def _same(self, body: Any) -> Any:
        return self._made[body]

    def _given(self, body: Any) -> Any:
        return self.users.get(*body)

    def _object(self, body: Any) -> Any:
        name, number, fields = body
        kind = kind_named(name)
        if kind is None:
            raise ValueError(f"an object of the unknown class {name!r}")
        if not isinstance(number, int) or number in self._made or not isinstance(fields, dict):
            raise ValueError(f"a damaged {name}")
        made = kind.make(fields, self)
        self._made[number] = made
        return made


_TAGS = frozenset({"float", "tuple", "dict", "scalar", "array", "transposed", "tensor", "dtype", "device", "random_state",
                   "same", "given", "object"})


def _device(name: Any) -> torch.device:
    if not isinstance(name, str) or name.partition(":")[0] not in _DEVICES:
        raise ValueError(f"the device {name!r}")
    return torch.device(name)


def _scalar_name(value: np.generic, where: str) -> str:
    name = "str" if isinstance(value, np.str_) else value.dtype.name
    if name not in _SCALARS:
        raise TypeError(f"{where} is a number of {value.dtype}, which cannot be saved; pass a Python number or a string.")
    return name


def _names_of(items: list | tuple, slot: str) -> list[str]:
    """What the user calls the items of a parameter: a pair of networks is an encoder and a decoder."""
    if not slot:
        return [""] * len(items)
    pair = len(items) == 2 and slot.rpartition("__")[2] in ("coordinates", "generator", "autoencoder")
    return [f"{slot}__{name}" for name in (("encoder", "decoder") if pair else range(len(items)))]
