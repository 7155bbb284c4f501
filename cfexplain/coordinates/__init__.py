"""Coordinates to search in: scikit-learn transformers X <-> Z with a differentiable torch side."""

from cfexplain.coordinates.autoencoder import Autoencoder
from cfexplain.coordinates.base import Coordinates
from cfexplain.coordinates.flow import Flow
from cfexplain.coordinates.gan import GAN
from cfexplain.coordinates.generator import GeneratorCoordinates
from cfexplain.coordinates.identity import Identity
from cfexplain.coordinates.inversion import Inversion, invert
from cfexplain.coordinates.pretrained import PretrainedCoordinates
from cfexplain.coordinates.pretrained_autoencoder import PretrainedAutoencoder
from cfexplain.coordinates.two_stage import TwoStage
from cfexplain.coordinates.vae import VAE

__all__ = [
    "GAN", "VAE", "Autoencoder", "Coordinates", "Flow", "GeneratorCoordinates", "Identity", "Inversion",
    "PretrainedAutoencoder", "PretrainedCoordinates", "TwoStage", "invert"]
