"""Measures of counterfactuals: arrays in, one float64 value a row out; those of a set, such as `fid`, are one number."""

from cfexplain.metrics.appearance import ink, shade_kept, specks, spread_ratio
from cfexplain.metrics.decision import confidence_gain, oracle_agreement, validity
from cfexplain.metrics.density import density_percentile_of, log_density_of
from cfexplain.metrics.distances import lp_distance, outside_range, region_locality, sparsity
from cfexplain.metrics.distribution import fid, kid
from cfexplain.metrics.field_protocol import (
    attributes_changed,
    correlation_difference,
    cout,
    feature_cosine,
    lpips_diversity,
    sfid,
    verified,
)
from cfexplain.metrics.manifold import class_autoencoders, im1, im2
from cfexplain.metrics.neighbours import distance_to_class, neighbour_share
from cfexplain.metrics.precision_recall import precision_recall, precision_recall_f1
from cfexplain.metrics.realism import identity_distance, realism_percentile, sharpness, sharpness_ratio
from cfexplain.metrics.similarity import lpips, ssim
from cfexplain.metrics.stability import stability

__all__ = [
    "attributes_changed",
    "class_autoencoders",
    "confidence_gain",
    "correlation_difference",
    "cout",
    "density_percentile_of",
    "distance_to_class",
    "feature_cosine",
    "fid",
    "identity_distance",
    "im1",
    "im2",
    "ink",
    "kid",
    "log_density_of",
    "lp_distance",
    "lpips",
    "lpips_diversity",
    "neighbour_share",
    "oracle_agreement",
    "outside_range",
    "precision_recall",
    "precision_recall_f1",
    "realism_percentile",
    "region_locality",
    "sfid",
    "shade_kept",
    "sharpness",
    "sharpness_ratio",
    "sparsity",
    "specks",
    "spread_ratio",
    "ssim",
    "stability",
    "validity",
    "verified",
]
