"""Gates: schedules decided while sampling. One file a rule; they see tensors."""

from foreseer.gate.base import Gate, GateError, GateRun, Setting, SignalError
from foreseer.gate.policy import AnyPolicy, GatedPolicy
from foreseer.gate.run import GatedBranch, PolicyRun

__all__ = [
    "AnyPolicy",
    "Gate",
    "GateError",
    "GateRun",
    "GatedBranch",
    "GatedPolicy",
    "PolicyRun",
    "Setting",
    "SignalError",
]
