"""Moves of computed steps: measured on rollouts, replaying what they share, within a budget."""

import diffusers
import pytest

import foreseer as fs
from foreseer.calibration.calibrate import CalibrationError
from foreseer.calibration.move_steps import climb, neighbours
from tests.support.loop_pipeline import LoopPipeline
from tests.unit.calibration.test_refine import CountedCalls, measured_error

STEPS = 10
PROMPTS = [f"training prompt {index}" for index in range(4)]
BAD = (0, 1, 2, 9)


@pytest.fixture(scope="module")
def loop():
    return LoopPipeline(diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0))


@pytest.fixture(scope="module")
def kernel(loop):
    return fs.calibrate(loop, PROMPTS, num_inference_steps=STEPS, sensitivity_prompts=0)


@pytest.fixture(scope="module")
def rolled(loop, kernel):
    return fs.rollout(loop, kernel, PROMPTS[:3], schedule=fs.schedule.Explicit(BAD, of=STEPS))


def test_bad_steps_are_moved_to_better_ones(loop, kernel, rolled):
    calls, seen = CountedCalls(loop.transformer), []
    moved = fs.move_steps(
        loop, rolled, kernel, PROMPTS, max_passes=120, progress=lambda done, total: seen.append((done, total))
    )
    calls.remove()
    assert moved.computed_steps != BAD
    assert measured_error(loop, moved) < 0.8 * measured_error(loop, rolled)
    references = 1 + len(PROMPTS) * STEPS  # the first is a run that ends after one step
    assert calls.count - references == seen[-1][0] <= 120
    assert "sets of steps tried" in moved.provenance["moved"]


def test_replayed_outputs_change_no_row(loop, kernel, rolled):
    moved = fs.move_steps(loop, rolled, kernel, PROMPTS, max_passes=60)
    alone = fs.rollout(loop, kernel, PROMPTS[:3], schedule=fs.schedule.Explicit(moved.computed_steps, of=STEPS))
    assert moved.rows == pytest.approx(alone.rows, abs=1e-9)


def test_without_a_budget_for_one_move_the_plan_stays(loop, kernel, rolled):
    for budget in (3, 17):
        stayed = fs.move_steps(loop, rolled, kernel, PROMPTS, max_passes=budget)
        assert stayed == rolled
        assert stayed.provenance["moved"].startswith("none")


def test_the_search_tries_each_set_once_and_ends_where_no_move_helps():
    tried = []

    def error(steps, near):
        tried.append(steps)
        assert sum(abs(a - b) for a, b in zip(steps, near, strict=True)) <= 1
        return 1.0 + sum((step - wanted) ** 2 for step, wanted in zip(steps, (0, 4, 8, 11), strict=True))

    best, errors = climb((0, 1, 2, 3), error, lambda steps: neighbours(steps, 14))
    assert best == (0, 4, 8, 11)
    assert len(tried) == len(set(tried)) == len(errors)
    assert climb((0, 3), lambda steps, near: None, lambda steps: neighbours(steps, 9)) == ((0, 3), {})


def test_what_cannot_be_moved_is_refused(loop, kernel, rolled):
    other = fs.calibrate(loop, PROMPTS[:1], num_inference_steps=8, sensitivity_prompts=0)
    with pytest.raises(CalibrationError, match="grid"):
        fs.move_steps(loop, rolled, other, PROMPTS, max_passes=10)
    with pytest.raises(CalibrationError, match="max_passes"):
        fs.move_steps(loop, rolled, kernel, PROMPTS, max_passes=0)
