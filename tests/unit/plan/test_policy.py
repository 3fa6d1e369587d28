"""A policy compiles to each grid once; a plan as policy serves its own grid only."""

import numpy as np
import pytest

from foreseer.errors import ForecastError, PlanError, ScheduleError
from foreseer.forecast import L2P, Newton, Reuse
from foreseer.grid import Grid
from foreseer.plan import Plan, Policy
from foreseer.schedule import Explicit, Uniform


def test_each_grid_is_compiled_once():
    policy = Policy(Uniform(4.0), Newton(1), "last_block")
    plan = policy.compile(Grid.uniform(20))
    assert policy.compile(Grid.uniform(20)) is plan
    other = policy.compile(Grid.uniform(28))
    assert (plan.nfe, other.nfe, other.site) == (5, 7, "last_block")
    assert policy.compile(Grid.uniform(20)) is plan
    assert plan == Plan.compile(Grid.uniform(20), (0, 4, 8, 12, 16), Newton(1), "last_block")
    assert {"Uniform", "Newton"} <= {word.split("(")[0] for word in plan.provenance.values()}


def test_grids_of_one_length_are_kept_apart():
    policy = Policy(Uniform(2.0), Newton(1, "noise"))
    even, squared = Grid.uniform(9), Grid(Grid.uniform(9).levels ** 2)
    assert not np.array_equal(policy.compile(even).rows, policy.compile(squared).rows)
    assert policy.compile(squared).grid == squared


def test_hundreds_of_grids_stay_right_and_few_are_kept():
    policy = Policy(Uniform(3.0), Reuse())
    for steps in range(1, 200):
        assert len(policy.compile(Grid.uniform(steps)).grid) == steps
    assert policy.compile(Grid.uniform(2)).nfe == 1
    assert len(policy._plans) <= 64


def test_policies_of_equal_words_do_not_share_plans():
    first, second = Policy(Uniform(3.0), Reuse()), Policy(Uniform(3.0), Newton(1))
    assert first.compile(Grid.uniform(9)) != second.compile(Grid.uniform(9))


def test_a_plan_as_policy_serves_its_grid_and_no_other():
    grid = Grid.uniform(20)
    plan = Policy(Uniform(4.0), Reuse(), "last_block").compile(grid)
    policy = Policy.from_plan(plan)
    assert policy.site == "last_block"
    assert policy.compile(grid) is plan
    assert policy.compile(Grid(grid.levels.astype(np.float32).astype(np.float64))) is plan
    for other in (Grid.uniform(21), Grid(grid.levels**2), Grid(grid.levels, "timestep"), grid.tail(1)):
        with pytest.raises(PlanError, match="another grid"):
            policy.compile(other)


def test_what_cannot_serve_a_grid_says_so():
    with pytest.raises(ScheduleError, match="does not exist"):
        Policy(Explicit((0, 9)), Reuse()).compile(Grid.uniform(5))
    with pytest.raises(ForecastError, match="is for runs of 4 steps"):
        Policy(Uniform(2.0), L2P(np.eye(4))).compile(Grid.uniform(5))


PLAN = Policy(Uniform(4.0), Reuse()).compile(Grid.uniform(20))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Policy(Reuse(), Uniform(4.0)),
        lambda: Policy(Uniform, Reuse),
        lambda: Policy((0, 4, 8), Reuse()),
        lambda: Policy(Uniform(4.0), "newton"),
        lambda: Policy(None, None),
        lambda: Policy(Uniform(4.0), Reuse(), "attention"),
        lambda: Policy.from_plan("nine.plan.safetensors"),
        lambda: Policy.from_plan(None),
        lambda: Policy.from_plan(PLAN, otherwise=PLAN),
        lambda: Policy.from_plan(PLAN, otherwise=Policy(Uniform(5.0), Reuse(), "last_block")),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused(make, as_users_call):
    with pytest.raises(PlanError):
        make()


def test_plans_of_different_runs_are_never_mixed_up():
    levels = [float(level) for level in range(40, 0, -1)]
    policy = Policy(Uniform(4.0), Reuse())
    one = policy.compile(Grid(levels, final_level=0.0), 11)
    other = policy.compile(Grid(levels, final_level=0.01), 1)
    assert (len(one.grid), len(other.grid)) == (29, 39)
