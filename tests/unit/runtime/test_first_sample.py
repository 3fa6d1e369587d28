"""Forecasts that weigh the run's first sample."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import foreseer as fs
from foreseer.runtime import BranchRun
from tests.unit.plan.test_start_row import PLAN, ROW, STEPS

OUTPUT = torch.arange(6.0).view(2, 3)
START = torch.linspace(-1.0, 1.0, 6).view(2, 3)


def begun(plan=PLAN, inputs=(START,), tensors=(OUTPUT,), keep="device"):
    run = BranchRun(plan.of_branch(""), 0, keep)
    run.computed(0, list(tensors), inputs=run.first_inputs(0, inputs))
    return run


@pytest.mark.parametrize("keep", ["device", "host"])
def test_the_forecast_adds_the_first_sample(keep):
    run = begun(keep=keep)
    assert run.why_not(1) is None
    assert torch.equal(run.forecast(1)[0], OUTPUT + 0.5 * START)
    assert torch.equal(run.forecast(2).onto(OUTPUT, 2.0), OUTPUT + 2.0 * (OUTPUT - 0.25 * START))


def test_it_is_the_first_input_of_the_output_s_shape_and_freed_after_its_last_use():
    run = begun(inputs=("words", torch.ones(4), torch.ones(2, 3, dtype=torch.int64), START, torch.zeros(2, 3)))
    assert torch.equal(run.forecast(1)[0], OUTPUT + 0.5 * START)
    for step in (2, 3, 4):
        run.computed(step, [OUTPUT]) if step == 3 else run.forecast(step)
    assert run.store.steps == (3,)


def test_without_such_an_input_the_step_is_computed():
    run = begun(inputs=(torch.ones(4),))
    assert "first input" in run.why_not(1)


def test_a_first_sample_that_is_not_finite_is_not_used():
    assert begun(inputs=(START / 0.0,)).why_not(1) == "the network's first input is not finite"


def test_arrays_that_hold_no_real_numbers_are_no_first_sample():
    words = np.array([["a", None, 1], [2, 3, 4]], dtype=object)
    run = begun(inputs=(words, np.ones((2, 3), complex), np.ones((2, 3), np.longdouble), np.asarray(START)[::-1]))
    assert torch.equal(run.forecast(1)[0], OUTPUT + 0.5 * START.flip(0))


@pytest.mark.parametrize(
    "value", [START.to_sparse(), START.to("meta"), START.to(torch.complex64)], ids=["sparse", "meta", "complex"]
)
def test_tensors_without_dense_real_numbers_are_no_first_sample(value):
    assert "first input" in begun(inputs=(value,)).why_not(1)
    assert torch.equal(begun(inputs=(value, START)).forecast(1)[0], OUTPUT + 0.5 * START)


def test_arrays_of_the_other_byte_order_are_read():
    swapped = np.asarray(START).astype(np.float32().dtype.newbyteorder())
    assert torch.equal(begun(inputs=(swapped,)).forecast(1)[0], OUTPUT + 0.5 * START)


@pytest.mark.parametrize("host", ["run", "wrap"])
def test_a_network_may_write_into_its_input(host):
    """It changes its input in place; the sample that is weighed is the one that it was given."""
    plan, sample = PLAN, START.clone()
    if host == "wrap":
        denoise = fs.wrap(lambda x, t: x.mul_(2.0).clone(), plan, plan.grid)
        first = denoise(0, sample, 0)
        assert torch.allclose(denoise(1, sample, 1), first + 0.5 * START)
        return
    run = fs.Run(plan, plan.grid, warn=False)
    assert run.forecast(0, "", (sample,)) is None
    sample.zero_()
    run.computed(0, OUTPUT)
    assert torch.equal(run.forecast(1, "", (sample,)), OUTPUT + 0.5 * START)


def test_branches_that_the_plan_does_not_know_have_rows_without_it():
    """The weights were fitted beside the rows of branches; the rows that others share were not."""
    own = fs.Plan(PLAN.grid, PLAN.computed_steps, PLAN.rows, branch_rows={"call 1": PLAN.rows}, start_row=ROW)
    assert own.of_branch("call 1").start_weights
    for name in ("", "visit 1", "call 3"):
        assert not own.of_branch(name).start_weights
        assert -1 not in own.of_branch(name).last_uses


def test_a_change_of_layout_that_the_plan_cannot_serve_computes_the_rest():
    """In the middle of a run; it used to raise out of the call."""
    run = fs.Run(PLAN, PLAN.grid, warn=False)
    for step in range(STEPS):
        if run.forecast(step, "", (START,)) is None:
            run.computed(step, OUTPUT.to(torch.float32 if step < 3 else torch.float64))
    assert run.record.computed_steps == (0, 3, 4, 5, 6)
    assert [failed.step for failed in run.record.failed_open] == [3, 4, 5]
    assert "another grid" in run.record.failed_open[0].reason


def test_only_the_first_of_several_tensors_has_it():
    run = begun(tensors=(OUTPUT, torch.ones(5)))
    forecast = run.forecast(1)
    assert torch.equal(forecast[0], OUTPUT + 0.5 * START)
    assert torch.equal(forecast[1], torch.ones(5))


def test_parts_with_rows_of_their_own_have_not():
    plan = replace(PLAN, part_rows={"tensor 2": 2.0 * PLAN.rows - np.diag(np.diag(PLAN.rows))})
    run = begun(plan, tensors=(OUTPUT, OUTPUT))
    forecast = run.forecast(1)
    assert torch.equal(forecast[0], OUTPUT + 0.5 * START)
    assert torch.equal(forecast[1], 2.0 * OUTPUT)


def test_half_precision_weighs_a_sample_of_its_own_precision():
    run = begun(tensors=(OUTPUT.bfloat16(),))
    expected = (OUTPUT + 0.5 * START.bfloat16().float()).bfloat16()
    assert torch.equal(run.forecast(1)[0], expected)


def test_a_wrapped_model_gives_its_first_argument():
    seen = []
    denoise = fs.wrap(lambda x, t: seen.append(t) or x * 2.0, PLAN, PLAN.grid)
    samples = [START + step for step in range(STEPS)]
    outputs = [denoise(step, samples[step], step) for step in range(STEPS)]
    assert seen == [0, 3, 6]
    assert torch.allclose(outputs[2], 2.0 * START + ROW[2] * START)
    assert torch.allclose(outputs[4], 2.0 * samples[3] + ROW[4] * START)


def test_a_run_without_inputs_computes_and_says_why():
    run = fs.Run(PLAN, PLAN.grid, warn=False)
    assert run.forecast(0) is None
    run.computed(0, OUTPUT)
    assert run.forecast(1) is None
    assert "first input" in run.record.failed_open[0].reason
