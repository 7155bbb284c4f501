"""Measures of counterfactuals: arrays in, one float64 value a row out."""

from cfexplain.metrics.manifold import class_autoencoders, im1, im2
from cfexplain.metrics.neighbours import distance_to_class, neighbour_share

__all__ = ["class_autoencoders", "distance_to_class", "im1", "im2", "neighbour_share"]
