"""Gates: schedules decided while sampling. One file per rule; they see tensors."""

from foreseer.gate.base import Gate, GateError, GateRun, Setting, SignalError
from foreseer.gate.first_block import FirstBlock
from foreseer.gate.forecast_error import ForecastErrorGate
from foreseer.gate.gated_policy import GatedPolicy
from foreseer.gate.step_control import StepControl
from foreseer.gate.teacache import TeaCache

__all__ = [
    "FirstBlock",
    "ForecastErrorGate",
    "Gate",
    "GateError",
    "GateRun",
    "GatedPolicy",
    "Setting",
    "SignalError",
    "StepControl",
    "TeaCache",
]
