"""Measures of counterfactuals: arrays in, one float64 value a row out; `fid` and `kid` are one number for a set."""

from cfexplain.metrics.decision import confidence_gain, oracle_agreement, validity
from cfexplain.metrics.density import density_percentile_of, log_density_of
from cfexplain.metrics.distances import lp_distance, region_locality, sparsity
from cfexplain.metrics.distribution import fid, kid
from cfexplain.metrics.manifold import class_autoencoders, im1, im2
from cfexplain.metrics.neighbours import distance_to_class, neighbour_share
from cfexplain.metrics.realism import identity_distance, realism_percentile, sharpness, sharpness_ratio
from cfexplain.metrics.similarity import lpips, ssim
from cfexplain.metrics.stability import stability

__all__ = [
    "class_autoencoders",
    "confidence_gain",
    "density_percentile_of",
    "distance_to_class",
    "fid",
    "identity_distance",
    "im1",
    "im2",
    "kid",
    "log_density_of",
    "lp_distance",
    "lpips",
    "neighbour_share",
    "oracle_agreement",
    "realism_percentile",
    "region_locality",
    "sharpness",
    "sharpness_ratio",
    "sparsity",
    "ssim",
    "stability",
    "validity",
]
