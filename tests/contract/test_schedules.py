"""What every registered schedule keeps to, whatever its rule and options."""

from dataclasses import FrozenInstanceError

import pytest

import foreseer.schedule
from foreseer.errors import ScheduleError
from foreseer.grid import Grid
from foreseer.schedule import Schedule
from tests.support.registry import STEPS, entries, make, variants, wrong_values

GRID = Grid.uniform(STEPS)
SCHEDULES = entries(foreseer.schedule, Schedule)
EVERY = pytest.mark.parametrize("cls", SCHEDULES, ids=lambda cls: cls.__name__)


def serves(schedule):
    """Whether the schedule fits a run of the kernel's length: an explicit list may be for another one."""
    try:
        return bool(schedule.on(GRID))
    except ScheduleError:
        return False


def fitting(cls):
    """The variants that serve a run of the kernel's length."""
    return [schedule for schedule in variants(cls) if serves(schedule)]


def is_valid(steps, total):
    return isinstance(steps, tuple) and steps[0] == 0 and steps[-1] < total and list(steps) == sorted({*steps})


def test_the_registry_is_walked():
    assert {cls.__name__ for cls in SCHEDULES} >= {"Uniform", "Growing", "Explicit", "Optimal", "Joint"}


@EVERY
def test_steps_ascend_from_0_within_the_run_and_are_always_the_same(cls):
    schedules = fitting(cls)
    assert schedules
    for schedule in schedules:
        steps = schedule.on(GRID)
        assert is_valid(steps, STEPS)
        assert all(type(step) is int for step in steps)
        assert schedule.on(Grid.uniform(STEPS)) == steps == schedule.computed_steps(STEPS)


@EVERY
def test_a_run_that_begins_late_computes_its_first_step(cls):
    for schedule in fitting(cls)[:4]:
        for first in (1, 5):
            assert is_valid(schedule.on(GRID, first), STEPS - first)
            assert is_valid(schedule.on(GRID, first, spent=2), STEPS - first)


@EVERY
def test_branches_compute_at_some_of_the_steps(cls):
    for schedule in fitting(cls):
        for steps in schedule.branch_steps(GRID).values():
            assert is_valid(steps, STEPS)
            assert {*steps} < {*schedule.on(GRID)}


@EVERY
def test_a_schedule_is_frozen_and_names_itself(cls):
    schedule = make(cls)
    with pytest.raises(FrozenInstanceError):
        setattr(schedule, next(iter(schedule.__dataclass_fields__)), 1)
    assert hash(schedule) == hash(schedule)
    assert repr(schedule).startswith(f"{cls.__name__}(")


@EVERY
@pytest.mark.parametrize("steps", [0, -3, 2.5, "12", None])
def test_impossible_run_lengths_are_refused(cls, steps, as_users_call):
    with pytest.raises(ScheduleError, match="steps"):
        make(cls).computed_steps(steps)


@EVERY
def test_options_of_a_wrong_kind_are_refused(cls, as_users_call):
    for name, value in wrong_values(cls):
        with pytest.raises(ScheduleError):
            make(cls, **{name: value})
