"""Densities that a user named, brought, or froze."""

from __future__ import annotations

from typing import Any

from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from cfexplain.coordinates import Coordinates
from cfexplain.density.base import ClassDensity
from cfexplain.density.conditional_flow import ConditionalFlow
from cfexplain.density.kernel import KernelDensity
from cfexplain.density.prior import Prior
from cfexplain.foundation.names import check_known

__all__ = ["NAMES", "check_density", "make_density"]

NAMES = ("prior", "kernel")


def make_density(spec: Any, coordinates: Coordinates, defaults: dict[str, Any]) -> tuple[ClassDensity, bool]:
    """The density that `spec` means, and whether it still has to be fitted.

    Parameters
    ----------
    spec : None, "prior", "kernel", ConditionalFlow, KernelDensity, or FrozenEstimator
        None is a `ConditionalFlow`, "prior" the `Prior` of the coordinates, "kernel" a `KernelDensity`, which nothing is
        trained for. An estimator is cloned; inside ``FrozenEstimator`` it is used as it is.
    coordinates : Coordinates
        Fitted.
    defaults : dict
        ``training_budget``, ``random_state``, … of the explainer.

    Raises
    ------
    TypeError, ValueError
        `spec` is none of these.
    """
    if spec is None:
        return ConditionalFlow(**defaults), True
    if isinstance(spec, str) and spec == "prior":
        return Prior(coordinates), True
    if isinstance(spec, str) and spec == "kernel":
        return KernelDensity(random_state=defaults["random_state"]), True
    if isinstance(spec, FrozenEstimator):
        return spec.estimator, False
    check_density(spec)
    made = clone(spec)
    return (made.set_params(random_state=defaults["random_state"]) if made.random_state is None else made), True


def check_density(spec: Any) -> None:
    """Raise TypeError, or ValueError for an unknown name, where `spec` is no density; before anything is trained."""
    if isinstance(spec, str):
        check_known(spec, NAMES, "density")
    elif not (spec is None or isinstance(spec, (ConditionalFlow, KernelDensity, FrozenEstimator))):
        raise TypeError("density must be None, 'prior', 'kernel', a ConditionalFlow, a KernelDensity or FrozenEstimator of "
                        f"one, got {type(spec).__name__}.")
