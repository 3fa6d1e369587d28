"""Schedules: which steps compute. One file per rule; NumPy only."""

from foreseer.schedule.base import Schedule, check_computed_steps
from foreseer.schedule.explicit import Explicit
from foreseer.schedule.growing import Growing
from foreseer.schedule.joint import Joint
from foreseer.schedule.optimal import Optimal
from foreseer.schedule.uniform import Uniform

__all__ = ["Explicit", "Growing", "Joint", "Optimal", "Schedule", "Uniform", "check_computed_steps"]
