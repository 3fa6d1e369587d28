"""Runs in which a second network takes over from the first, as Wan 2.2's."""

import diffusers
import numpy as np
import pytest

import foreseer as fs
from foreseer.calibration.calibrate import CalibrationError
from foreseer.errors import PlanError
from foreseer.plan import FixedPlan
from tests.support.loop_pipeline import RelayPipeline, relative, sample

STEPS, NFE = 16, 6
PROMPTS = [f"training prompt {index}" for index in range(4)]


@pytest.fixture(scope="module")
def relay():
    return RelayPipeline(diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0))


@pytest.fixture(scope="module")
def kernel(relay):
    return fs.calibrate(relay, PROMPTS, num_inference_steps=STEPS, sensitivity_prompts=0)


@pytest.fixture(scope="module")
def handover(relay):
    relay.scheduler.set_timesteps(STEPS)
    return int((relay.scheduler.timesteps >= 500).sum())


def measured_error(pipe, policy, **options):
    """Error of the final samples of prompts that nothing was fitted on; no step fails open."""
    errors = []
    for seed, prompt in ((70, "a new prompt"), (71, "another")):
        with fs.accelerate(pipe, policy, strict=True) as handle:
            drawn = sample(pipe, prompt, seed, num_inference_steps=STEPS, **options)
        assert handle.record.nfe == NFE
        assert {name.split()[0] for name in handle.record.forecast} == {"transformer", "transformer_2"}
        errors.append(relative(drawn, sample(pipe, prompt, seed, num_inference_steps=STEPS, **options)))
    return float(np.sqrt(np.mean(np.square(errors))))


def test_a_rollout_steers_through_both_networks(relay, kernel, handover, tmp_path):
    plan = fs.rollout(relay, kernel, PROMPTS, nfe=NFE)
    assert handover in plan.computed_steps
    assert not plan.rows[handover:, :handover].any()
    by_kernel, rolled = measured_error(relay, fs.learned(kernel, nfe=NFE)), measured_error(relay, plan)
    assert rolled < by_kernel
    plan.save(tmp_path / "relay.plan")
    assert measured_error(relay, fs.Plan.load(tmp_path / "relay.plan")) == rolled
    refined = fs.refine(relay, plan, PROMPTS, iterations=1)
    assert not refined.rows[handover:, :handover].any()
    assert measured_error(relay, refined) < 0.8 * rolled
    late = fs.rollout(relay, kernel, PROMPTS, schedule=fs.schedule.Explicit((0, 7, handover, 12, 13, 14), of=STEPS))
    moved = fs.move_steps(relay, late, kernel, PROMPTS, max_passes=400)
    assert handover in moved.computed_steps
    assert measured_error(relay, moved) < 0.7 * measured_error(relay, late)
    mixed = fs.mix_channels(relay, plan, PROMPTS)
    assert measured_error(relay, mixed) < 1.2 * rolled


def test_branches_of_guidance_compute_together_where_a_network_takes_over(relay, handover):
    guided = {"guidance_scale": 2.0}
    kernel = fs.calibrate(relay, PROMPTS[:2], num_inference_steps=STEPS, sensitivity_prompts=0, **guided)
    plan = fs.rollout(relay, kernel, PROMPTS[:2], nfe=NFE, **guided)
    assert len(plan.branch_rows) == 2
    assert measured_error(relay, plan, **guided) < measured_error(relay, fs.learned(kernel, nfe=NFE), **guided)
    with pytest.raises(CalibrationError, match=rf"takes the run over at step {handover}: .* Give nfe instead"):
        fs.rollout(relay, kernel, PROMPTS[:2], forward_passes=11, **guided)


@pytest.mark.usefixtures("as_users_call")
def test_a_plan_can_begin_only_where_later_rows_need_nothing_from_before():
    grid = fs.Grid.uniform(8)
    plan = fs.Plan.compile(grid, (0, 2, 4, 6), fs.forecast.Newton(order=1))
    with pytest.raises(PlanError, match="cannot begin at step 4: later steps need features of step 2"):
        plan.tail(4)
    for wrong in ("a", -1, 1.5):
        with pytest.raises(PlanError, match="first_step"):
            plan.tail(wrong)
    with pytest.raises(PlanError, match="another grid"):
        FixedPlan(plan).compile(grid, 4)
    reuse = fs.Plan.compile(grid, (0, 2, 4, 6), fs.forecast.Reuse())
    policy = FixedPlan(reuse)
    assert policy.compile(grid, 4) is policy.compile(grid, 4)
    assert policy.compile(grid, 4) == fs.Plan.compile(grid.tail(4), (0, 2), fs.forecast.Reuse())
    with pytest.raises(PlanError, match="another grid"):
        policy.compile(grid, 3)  # not a computed step
