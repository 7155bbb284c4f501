"""Explainers compared on the same rows: metrics with intervals, and frontiers of distance against plausibility."""

from cfexplain.evaluation.evaluation import BUILT_IN, Evaluation, evaluate
from cfexplain.evaluation.frontier import Frontier, compare_frontier, pareto_optimal
from cfexplain.evaluation.metric import Metric, find_metric
from cfexplain.evaluation.protocol import protocol_metrics

__all__ = ["BUILT_IN", "Evaluation", "Frontier", "Metric", "compare_frontier", "evaluate", "find_metric",
           "pareto_optimal", "protocol_metrics"]
