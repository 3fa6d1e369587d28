"""Apply a plan to features: the store, the weighted sum, one step's decision."""

from foreseer.runtime.branch import BranchRun
from foreseer.runtime.combine import weighted_sum
from foreseer.runtime.store import KEEPS, FeatureStore, Keep

__all__ = ["KEEPS", "BranchRun", "FeatureStore", "Keep", "weighted_sum"]
