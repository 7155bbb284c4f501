"""The package's own settings of torch and NumPy: nothing that a caller switched on for other work reaches a search.

What is undone here is undone for this thread alone, so that a caller's other threads keep what they set. Only torch's
anomaly detection is the whole process's; it is paused while anybody is inside, and the last one out switches it on again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

__all__ = ["own_defaults", "own_modes", "with_own_modes"]

# Constructors whose numbers are of the default dtype unless they are told another
_OF_DEFAULT_DTYPE = frozenset([torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.eye, torch.linspace,
                               torch.logspace, torch.empty_strided])
# Constructors whose numbers are of the default dtype if they were Python's floats
_OF_PYTHON_NUMBERS = frozenset([torch.tensor, torch.as_tensor, torch.asarray, torch.full, torch.arange, torch.range,
                                torch.scalar_tensor])
Method = TypeVar("Method", bound=Callable)
_lock = Lock()
_paused: dict[str, Any] = {"users": 0, "anomalies": (False, True)}


@contextmanager
def own_modes(device: torch.device | None = None) -> Iterator[None]:
    """A block, or a decorated function, outside inference mode, ``no_grad``, autocast and anomaly detection.

    A tensor that is made under inference mode can never be differentiated afterwards, autocast rounds to bfloat16, and under
    anomaly detection one row without a finite gradient ends a call for all. NumPy's errors are handled as by default. Where
    the caller's default device is not `device`, it is that within the block: torch.distributions moves its numbers there.

    Examples
    --------
    >>> with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
    ...     with own_modes():
    ...         torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    (False, True, False)
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        if device is not None and torch.get_default_device() != device:
            stack.enter_context(torch.device(device))
        if _paused["users"] or torch.is_anomaly_enabled():
            stack.enter_context(_without_anomaly_detection())
        yield


def with_own_modes(method: Method) -> Method:
    """A method that runs in `own_modes`, on the device of what it belongs to, ``self.device_``."""

    @wraps(method)
    def within(self: Any, *args: Any, **kwargs: Any) -> Any:
        with own_modes(getattr(self, "device_", None)):
            return method(self, *args, **kwargs)

    return within  # type: ignore[return-value]


@contextmanager
def _without_anomaly_detection() -> Iterator[None]:
    with _lock:
        if not _paused["users"]:
            _paused["anomalies"] = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
            torch.set_anomaly_enabled(False)
        _paused["users"] += 1
    try:
        yield
    finally:
        with _lock:
            _paused["users"] -= 1
            if not _paused["users"]:
                torch.set_anomaly_enabled(*_paused["anomalies"])


@contextmanager
def own_defaults() -> Iterator[None]:
    """A block in which networks are made, and numbers drawn, in float32 on the CPU, whatever the caller's defaults are.

    What is made can be differentiated, also under the caller's inference mode.

    Examples
    --------
    >>> torch.set_default_dtype(torch.float64)
    >>> with own_defaults():
    ...     torch.nn.Linear(1, 1).weight.dtype
    torch.float32
    >>> torch.set_default_dtype(torch.float32)
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.get_default_dtype() != torch.float32:
            stack.enter_context(_Float32())
        yield


class _Float32(TorchFunctionMode):
    """float32 in place of the default dtype, in this thread: ``torch.set_default_dtype`` is the whole process's."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") is None:
            if function in _OF_DEFAULT_DTYPE:
                return function(*args, **{**kwargs, "dtype": torch.float32})
            if function in _OF_PYTHON_NUMBERS:
                out = function(*args, **kwargs)
                kept = any(hasattr(value, "dtype") for value in (*args, *kwargs.values()))
                return out.float() if out.is_floating_point() and not kept else out
        return function(*args, **kwargs)
