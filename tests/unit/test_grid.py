"""A grid is the levels that a scheduler visits, strictly decreasing, or it is refused."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreseer.errors import GridError
from foreseer.grid import Grid

# They need arguments.
NOT_MADE = {"AmusedScheduler", "RFD4ProteinaScheduler", "VQDiffusionScheduler"}

try:
    import diffusers.schedulers
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.utils import logging

    logging.set_verbosity_error()
    SCHEDULERS = [name for name in dir(diffusers.schedulers) if name.endswith("Scheduler") and name not in NOT_MADE]
except ImportError:
    SCHEDULERS = []

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
needs_diffusers = pytest.mark.skipif(not SCHEDULERS, reason="diffusers is not installed")
STEPS = {"SCMScheduler": 2, "ConsistencyDecoderScheduler": 2}
OPTIONS = {"HeliosScheduler": {"stage_index": 0}, "HeliosDMDScheduler": {"stage_index": 0}}
# They visit a level twice, or go from clean to noise.
REFUSED = {
    "DDIMInverseScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverSDEScheduler",
    "DiscreteDDIMScheduler",
    "EntropyBoundScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "PNDMScheduler",
    "RePaintScheduler",
}
# Their last timestep, 0, is where the run ends.
ENDS_CLEAN = {"DDPMWuerstchenScheduler", "SCMScheduler"}
# They have steps from the moment that they are made, or never say how many.
STARTED = {
    "BlockRefinementScheduler",
    "ConsistencyDecoderScheduler",
    "DDPMWuerstchenScheduler",
    "DiscreteDDIMScheduler",
    "EntropyBoundScheduler",
    "FlowMapEulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "IPNDMScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "ScoreSdeVeScheduler",
    "ScoreSdeVpScheduler",
}

levels = (
    st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=40)
    .map(np.cumsum)
    .map(lambda sums: np.ascontiguousarray(sums[::-1], dtype=np.float64))
)


def make_scheduler(name):
    scheduler = getattr(diffusers.schedulers, name)()
    return scheduler, lambda: scheduler.set_timesteps(STEPS.get(name, 20), **OPTIONS.get(name, {}))


@needs_diffusers
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_gives_its_levels_or_a_refusal(name):
    scheduler, start = make_scheduler(name)
    start()
    if name in REFUSED:
        with pytest.raises(GridError, match=name):
            Grid.from_scheduler(scheduler)
        return
    grid = Grid.from_scheduler(scheduler)
    assert len(grid) == len(scheduler.timesteps) - (name in ENDS_CLEAN)
    assert np.all(np.diff(grid.levels) < 0)
    assert grid.final_level <= grid.levels[-1]


@needs_diffusers
@pytest.mark.parametrize("name", sorted({*SCHEDULERS} - STARTED))
def test_a_scheduler_without_steps_is_refused(name):
    scheduler, start = make_scheduler(name)
    with pytest.raises(GridError, match=name):
        Grid.from_scheduler(scheduler)
    start()
    assert scheduler.num_inference_steps >= 2  # else it belongs to STARTED


@needs_diffusers
@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DDIMScheduler"])
def test_a_timestep_of_0_that_begins_a_step_is_a_step(name):
    scheduler = getattr(diffusers.schedulers, name)(timestep_spacing="leading")
    scheduler.set_timesteps(20)
    assert scheduler.timesteps[-1] == 0
    assert len(Grid.from_scheduler(scheduler)) == 20


@needs_diffusers
@pytest.mark.parametrize("shift", [1.0, 3.0, 17.0])
def test_bfloat16_timesteps_do_not_spoil_the_levels(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(400)
    exact = scheduler.sigmas[:-1].double().numpy()
    scheduler.timesteps = scheduler.timesteps.to(torch.bfloat16)
    assert len(set(scheduler.timesteps.tolist())) < 400
    grid = Grid.from_scheduler(scheduler)
    assert grid.unit == "sigma"
    assert grid.levels.tolist() == exact.tolist()


@needs_diffusers
@pytest.mark.parametrize(
    "options", [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}]
)
def test_dynamic_shift_and_given_sigmas_are_read(options):
    if options.get("use_beta_sigmas"):
        pytest.importorskip("scipy")
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **options)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 28, 28), mu=1.15)
    grid = Grid.from_scheduler(scheduler)
    assert np.array_equal(grid.levels, scheduler.sigmas[:-1].double().numpy())
    assert (len(grid), grid.final_level) == (28, 0.0)


@needs_diffusers
def test_inverted_sigmas_are_the_same_grid():
    plain, inverted = FlowMatchEulerDiscreteScheduler(), FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    plain.set_timesteps(20)
    inverted.set_timesteps(20)
    assert inverted.sigmas[0] < inverted.sigmas[1]
    assert Grid.from_scheduler(inverted).matches(Grid.from_scheduler(plain))
    assert Grid.from_scheduler(inverted).final_level == 0.0


@pytest.mark.parametrize(
    "bad",
    [
        [],
        None,
        3.0,
        "1.0",
        "noise",
        ["a", "b"],
        ["1.0", "0.5"],
        [[1.0, 0.5]],
        [[1.0], [0.5, 0.25]],
        np.ones((2, 2)),
        [1.0, 1.0],
        [0.5, 1.0],
        [1.0, 0.5, 0.5, 0.1],
        [1.0, float("nan")],
        [float("inf"), 1.0],
        [1.0, None],
        [1 + 2j, 0.0],
        {1.0: 0.5},
    ],
    ids=repr,
)
def test_what_is_no_row_of_falling_numbers_is_refused(bad, as_users_call):
    with pytest.raises(GridError):
        Grid(bad)


@pytest.mark.parametrize(
    "options",
    [{"unit": "percent"}, {"unit": None}, {"final_level": 0.9}]
    + [{"final_level": value} for value in (float("nan"), float("inf"), "zero", None)],
    ids=repr,
)
def test_wrong_unit_and_final_level_are_refused(options, as_users_call):
    with pytest.raises(GridError):
        Grid([1.0, 0.5], **options)


def test_the_message_names_the_repeated_step():
    with pytest.raises(GridError, match=r"step 1 has 0\.5 and step 2 has 0\.5"):
        Grid([1.0, 0.5, 0.5])


@given(levels, st.sampled_from(["sigma", "timestep"]))
def test_equal_grids_are_equal_hash_alike_and_match(values, unit):
    grid, same = Grid(values, unit), Grid(values.tolist(), unit)
    assert grid == same
    assert hash(grid) == hash(same)
    assert grid.key == same.key
    assert grid.matches(same)
    assert list(grid) == values.tolist()
    other_unit = Grid(values, "timestep" if unit == "sigma" else "sigma")
    for other in (other_unit, Grid(values, unit, -1.0), Grid(values * 1.001, unit), Grid(np.append(values, 0.0), unit)):
        assert grid != other
    assert not grid.matches(other_unit)
    assert not grid.matches(Grid(values * 1.001, unit))
    assert not grid.matches(Grid(np.append(values, 0.0), unit))
    assert grid.matches(Grid(values * (1 + 1e-6), unit))


def test_a_grid_is_frozen_and_keeps_its_own_copy():
    values = np.array([1.0, 0.5])
    grid = Grid(values)
    values[0] = 9.0
    assert grid.levels.tolist() == [1.0, 0.5]
    with pytest.raises(ValueError, match="read-only"):
        grid.levels[0] = 2.0
    with pytest.raises(FrozenInstanceError):
        grid.unit = "timestep"


@given(levels, st.data())
def test_tails_are_what_remains_and_compose(values, data):
    grid = Grid(values, final_level=-0.5)
    first = data.draw(st.integers(0, len(grid) - 1))
    second = data.draw(st.integers(0, len(grid) - 1 - first))
    assert grid.tail(first) == Grid(values[first:], final_level=-0.5)
    assert grid.tail(first).tail(second) == grid.tail(first + second)
    for outside in (-1, len(grid)):
        with pytest.raises(GridError, match="not on a grid"):
            grid.tail(outside)


@given(st.integers(1, 200))
def test_uniform_levels_fall_from_one_by_equal_amounts(steps):
    grid = Grid.uniform(steps)
    assert len(grid) == steps
    assert np.allclose(np.append(grid.levels, grid.final_level), 1 - np.arange(steps + 1) / steps, atol=1e-15, rtol=0)


@pytest.mark.parametrize("steps", [0, -1])
def test_a_uniform_grid_needs_a_step(steps):
    with pytest.raises(GridError, match="whole number of at least 1"):
        Grid.uniform(steps)
