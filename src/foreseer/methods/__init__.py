"""Policies from the name of a method or from a kernel.

These modules import NumPy only, except for gates.
"""

from foreseer.methods.method import BudgetPolicy, Method
from foreseer.methods.registry import L2P_STEPS, METHODS
from foreseer.methods.resolve import find, names, policy_for, resolve

__all__ = ["L2P_STEPS", "METHODS", "BudgetPolicy", "Method", "find", "names", "policy_for", "resolve"]
