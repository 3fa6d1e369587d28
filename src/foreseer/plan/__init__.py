"""Plans (immutable: grid, computed steps and forecast rows) and policies, which compile to plans.

Nothing here imports torch.
"""

from foreseer.plan.compiled import CompiledRows
from foreseer.plan.differences import DifferenceExpansion
from foreseer.plan.explain import PlanExplanation
from foreseer.plan.plan import Plan
from foreseer.plan.policy import FixedPlan, Policy, ScheduledPolicy
from foreseer.plan.run_decisions import BranchDecisions, PlanDecisions, RunDecisions

__all__ = [
    "BranchDecisions",
    "CompiledRows",
    "DifferenceExpansion",
    "FixedPlan",
    "Plan",
    "PlanDecisions",
    "PlanExplanation",
    "Policy",
    "RunDecisions",
    "ScheduledPolicy",
]
