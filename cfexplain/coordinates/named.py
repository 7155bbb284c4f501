"""Coordinates that a user named, brought, or froze."""

from __future__ import annotations

from typing import Any

from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from cfexplain.coordinates.autoencoder import Autoencoder
from cfexplain.coordinates.base import Coordinates
from cfexplain.coordinates.flow import Flow
from cfexplain.coordinates.gan import GAN
from cfexplain.coordinates.identity import Identity
from cfexplain.coordinates.pretrained import PretrainedCoordinates
from cfexplain.coordinates.pretrained_autoencoder import PretrainedAutoencoder
from cfexplain.coordinates.two_stage import TwoStage
from cfexplain.coordinates.vae import VAE

__all__ = ["make_coordinates"]

NAMED: dict[str, type[Coordinates]] = {
    "vae": VAE, "autoencoder": Autoencoder, "identity": Identity, "flow": Flow, "gan": GAN}


def make_coordinates(spec: Any, defaults: dict[str, Any], inner: str = "vae") -> tuple[Coordinates, bool]:
    """The coordinates that `spec` means, and whether they still have to be fitted.

    Parameters
    ----------
    spec : {"vae", "autoencoder", "identity"}, Coordinates, FrozenEstimator, module, or (encoder, decoder)
        An estimator is cloned and fitted, as scikit-learn does; inside ``FrozenEstimator`` it is used as it is; networks
        of your own are used through `PretrainedCoordinates`.
    inner : str, default="vae"
        The inner coordinates of a `TwoStage` around a `PretrainedAutoencoder`.
    defaults : dict
        ``training_budget``, ``random_state``, … for coordinates made from a name.
    """
    if isinstance(spec, FrozenEstimator):
        return spec.estimator, False
    if isinstance(spec, PretrainedAutoencoder):
        known = TwoStage(spec).get_params(deep=False)
        return TwoStage(clone(spec), inner, **{k: v for k, v in defaults.items() if k in known}), True
    if isinstance(spec, Coordinates):
        made = clone(spec)
        known = made.get_params(deep=False)
        # a seed or a range that the user did not choose follows the explainer's
        return made.set_params(**{k: defaults[k] for k in ("random_state", "data_range")
                                  if k in known and known[k] in (None, (0.0, 1.0))}), True
    if isinstance(spec, str):
        if spec not in NAMED:
            raise ValueError(f"coordinates={spec!r} is not known; choose one of {sorted(NAMED)}, or pass coordinates.")
        known = NAMED[spec]().get_params(deep=False)
        return NAMED[spec](**{k: v for k, v in defaults.items() if k in known}), True
    encoder, decoder = spec if isinstance(spec, (tuple, list)) else (spec, None)
    return PretrainedCoordinates(encoder, decoder, data_range=defaults["data_range"]), True
