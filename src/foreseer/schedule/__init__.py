"""Schedules: which steps compute. One file per rule, and one line here; NumPy only."""

from foreseer.schedule.base import Schedule as Schedule
from foreseer.schedule.base import check_computed_steps as check_computed_steps
from foreseer.schedule.explicit import Explicit as Explicit
from foreseer.schedule.growing import Growing as Growing
from foreseer.schedule.joint import Joint as Joint
from foreseer.schedule.optimal import Optimal as Optimal
from foreseer.schedule.uniform import Uniform as Uniform
