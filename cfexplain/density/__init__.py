"""Density estimators of codes given a class: how typical is this code for that class?"""

from __future__ import annotations

from cfexplain.density.base import ClassDensity
from cfexplain.density.class_flow import ClassFlow
from cfexplain.density.conditional_flow import ConditionalFlow
from cfexplain.density.kernel import KernelDensity
from cfexplain.density.prior import Prior

__all__ = ["ClassDensity", "ClassFlow", "ConditionalFlow", "KernelDensity", "Prior"]
