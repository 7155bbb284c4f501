"""Density estimators of codes given a class: how typical is this code for that class?"""

from __future__ import annotations

from cfexplain.density._class_flow import ClassFlow
from cfexplain.density.conditional_flow import ConditionalFlow

__all__ = ["ClassFlow", "ConditionalFlow"]
