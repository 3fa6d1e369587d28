"""Gates: schedules decided while sampling. One file a rule; they see tensors."""

from foreseer.gate.base import Gate, GateError, GateRun, Setting, SignalError
from foreseer.gate.first_block import FirstBlock
from foreseer.gate.forecast_error import ForecastErrorGate
from foreseer.gate.policy import AnyPolicy, GatedPolicy
from foreseer.gate.run import GatedBranch, PolicyRun
from foreseer.gate.step_control import StepControl
from foreseer.gate.teacache import TeaCache

__all__ = [
    "AnyPolicy",
    "FirstBlock",
    "ForecastErrorGate",
    "Gate",
    "GateError",
    "GateRun",
    "GatedBranch",
    "GatedPolicy",
    "PolicyRun",
    "Setting",
    "SignalError",
    "StepControl",
    "TeaCache",
]
