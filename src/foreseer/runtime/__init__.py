"""Apply rows to features: the store, the weighted sum, one branch's steps. Torch begins here."""

from foreseer.runtime.branch import BranchRun, Forecast, PolicyRun
from foreseer.runtime.combine import weighted_sum
from foreseer.runtime.store import KEEPS, FeatureStore, Keep

__all__ = ["KEEPS", "BranchRun", "FeatureStore", "Forecast", "Keep", "PolicyRun", "weighted_sum"]
