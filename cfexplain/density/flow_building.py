"""Which flow is built, by name and size; or the user's own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from cfexplain.density.class_flow import start_at_identity
from cfexplain.foundation.numbers import fitting_width

__all__ = ["FLOWS", "WIDTH", "build_flow", "fitting_sizes", "flow_name", "of_few_features"]

# Names of the classes in zuko.flows
FLOWS = {"nice": "NICE", "realnvp": "RealNVP", "maf": "MAF", "nsf": "NSF"}
TRANSFORMS, WIDTH = 8, 256  # at most, of flows of sizes "auto"


def flow_name(flow: Any, features: int) -> str:
    """The flow that is built of `flow`: one of `FLOWS`, or the class of the one given."""
    if not isinstance(flow, str):
        return type(flow).__name__ if isinstance(flow, nn.Module) else "callable"
    return "nsf" if features == 1 else flow


def fitting_sizes(rows: int, features: int) -> tuple[int, tuple[int, int]]:
    """Transforms and hidden layers: couplings that MNIST's 60,000 codes fill are too many for 1,000 rows.

    >>> fitting_sizes(60_000, 32), fitting_sizes(150, 4)
    ((8, (256, 256)), (4, (64, 64)))
    """
    share = min(1.0, rows * features / (60_000 * 32))
    width = fitting_width(share**0.25, WIDTH)
    return 2 * max(2, round(TRANSFORMS / 2 * share ** (1 / 6))), (width, width)


def of_few_features(hidden: Sequence[int], features: int) -> list[int]:
    """Hidden layers as they are built: at most 64 wide for four features or fewer."""
    return [min(width, 64) for width in hidden] if features <= 4 else list(hidden)


def build_flow(given: Any, features: int, context: int, sizes: tuple[int, Sequence[int]] | None) -> Any:
    """An untrained zuko flow by name, of `sizes` (transforms, hidden layers); or the user's own.

    Raises
    ------
    TypeError
        What is given neither is a flow nor returns one.
    """
    import zuko  # loaded where a flow is

    if isinstance(given, str):
        assert sizes is not None
        transforms, hidden = sizes
        flow = getattr(zuko.flows, FLOWS[flow_name(given, features)])(
            features, context, transforms=transforms, hidden_features=of_few_features(hidden, features))
        start_at_identity(flow)
    else:
        flow = copy.deepcopy(given) if isinstance(given, nn.Module) else given(features, context)
    if not isinstance(flow, zuko.flows.Flow):
        raise TypeError(
            f"flow={given!r} must be or return a zuko.flows.Flow, got {type(flow).__name__}. Example: "
            "flow=lambda features, context: zuko.flows.NSF(features, context, passes=2).")
    return flow
