"""Compile once: a grid, a schedule and a forecaster become a frozen plan. NumPy only, never torch."""

from foreseer.plan.differences import DifferenceExpansion
from foreseer.plan.explain import PlanExplanation
from foreseer.plan.plan import Plan
from foreseer.plan.policy import Policy

__all__ = ["DifferenceExpansion", "Plan", "PlanExplanation", "Policy"]
