"""What makes a good counterfactual: weighted terms (PLACE, eq. 1), and what they ask of a point of the search."""

from cfexplain.objective.point import Point, ValuePoint
from cfexplain.objective.terms import (
    CrossEntropy,
    DecisionHinge,
    InputDistance,
    LatentDistance,
    LogDensity,
    LogOddsHinge,
    Objective,
    PerceptualDistance,
    SecondOpinion,
    TargetLogProbability,
    TargetProbability,
    TargetValue,
    Term,
    TypicalDensity,
    TypicalFeatures,
    TypicalInk,
    greyness,
)

__all__ = [
    "CrossEntropy",
    "DecisionHinge",
    "InputDistance",
    "LatentDistance",
    "LogDensity",
    "LogOddsHinge",
    "Objective",
    "PerceptualDistance",
    "Point",
    "SecondOpinion",
    "TargetLogProbability",
    "TargetProbability",
    "TargetValue",
    "Term",
    "TypicalDensity",
    "TypicalFeatures",
    "TypicalInk",
    "ValuePoint",
    "greyness",
]
