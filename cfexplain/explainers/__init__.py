"""Explainers: one paper, one thin class, and what all of them share."""

from cfexplain.explainers.attributes import ExplainerAttributes, ExplainerParameters, fitted
from cfexplain.explainers.base import CounterfactualExplainer
from cfexplain.explainers.clarity import CLARITYExplainer
from cfexplain.explainers.class_direction import ClassDirectionExplainer
from cfexplain.explainers.decoded_path import DecodedPath, decode_path
from cfexplain.explainers.diffeomorphic import DiffeomorphicExplainer
from cfexplain.explainers.found import Found
from cfexplain.explainers.gradient import GradientExplainer
from cfexplain.explainers.leap import LeapExplainer
from cfexplain.explainers.place import PLACEExplainer
from cfexplain.explainers.prototype import PrototypeExplainer
from cfexplain.explainers.revise import REVISEExplainer
from cfexplain.explainers.scanned import ScanExplainer
from cfexplain.explainers.task import Goal

__all__ = [
    "CLARITYExplainer", "ClassDirectionExplainer", "CounterfactualExplainer", "DecodedPath", "DiffeomorphicExplainer",
    "ExplainerAttributes", "ExplainerParameters", "Found", "Goal", "GradientExplainer", "LeapExplainer", "PLACEExplainer",
    "PrototypeExplainer", "REVISEExplainer", "ScanExplainer", "decode_path", "fitted"]
