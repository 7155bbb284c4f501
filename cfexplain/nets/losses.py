"""What the loss of a training is given, and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

__all__ = ["Loss", "Rows"]

Rows = Mapping[str, Tensor]
Loss = Callable[[Any, Rows, float], Tensor]  # of a network of any class: a loss a row
