"""Coordinates to search in: scikit-learn transformers X <-> Z with a differentiable torch side."""

from cfexplain.coordinates._base import Coordinates
from cfexplain.coordinates.autoencoder import Autoencoder
from cfexplain.coordinates.identity import Identity
from cfexplain.coordinates.user import PretrainedCoordinates
from cfexplain.coordinates.vae import VAE

__all__ = ["VAE", "Autoencoder", "Coordinates", "Identity", "PretrainedCoordinates"]
