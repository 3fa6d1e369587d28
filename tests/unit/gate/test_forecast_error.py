"""The forecast-error gate: how hard an image is decides what is spent on it."""

from functools import cache

import numpy as np
import pytest
import torch

import foreseer as fs
from foreseer.errors import ScheduleError
from foreseer.forecast import KernelRows, TaylorSeer
from foreseer.gate import ForecastErrorGate, GatedPolicy, GateError
from foreseer.gate.forecast_error import moments_of
from foreseer.gate.replanner import FARTHEST, Replanner
from foreseer.gate.squared_errors import mean_squares
from foreseer.kernel.branches import Branches
from tests.support.toy_gates import GRID, KERNEL, STEPS, trajectories

ROWS = KernelRows(KERNEL)


@cache
def policy(max_error=0.1, trust=1.0, max_nfe=None, forecaster=ROWS):
    return GatedPolicy(ForecastErrorGate(KERNEL, max_error, trust), forecaster, max_nfe=max_nfe)


def sample(policy, features):
    """Run features of shape (B, T, width) through the policy."""
    denoise = fs.wrap(lambda step: torch.from_numpy(features[:, step]), policy, GRID)
    with torch.no_grad():
        outputs = [denoise(step, step) for step in range(STEPS)]
    return denoise.record, np.stack([one.numpy() for one in outputs], axis=1)


def spent(policy, wiggle, prompts=6):
    """Evaluations of unseen images, one a run."""
    return [sample(policy, one[None])[0].nfe for one in trajectories(prompts, wiggle, seed=5)]


def test_without_trust_every_image_gets_the_fewest_steps_whose_expected_error_is_within_the_target():
    course = Replanner(KERNEL, ROWS, 0.0)
    allowed = 0.1 * course.scale
    records = [sample(policy(trust=0.0), one[None])[0] for one in trajectories(4, 3.0, seed=5)]
    assert len({record.computed_steps for record in records}) == 1
    steps = records[0].computed_steps
    assert course.search.cost(steps) <= allowed < course.search.cost(course.search.best_after((0,), len(steps) - 1))


def test_harder_images_get_more_evaluations_and_easier_ones_fewer():
    easy, typical, hard = (np.mean(spent(policy(), wiggle)) for wiggle in (0.25, 1.0, 4.0))
    assert easy + 1 <= typical <= hard - 1


def test_what_was_spent_keeps_errors_alike():
    """The final error of images that are four times as hard grows by less than a fixed schedule's."""
    lengths = -np.diff(np.append(GRID.levels, 0.0))

    def final_error(chosen, wiggle):
        features = trajectories(8, wiggle, seed=9)
        missed = [sample(chosen, one[None])[1][0] - one for one in features]
        return np.sqrt(np.mean([(lengths @ one) ** 2 for one in missed]))

    gated, fixed = (final_error(one, 4.0) / final_error(one, 1.0) for one in (policy(), policy(trust=0.0)))
    assert gated < 0.8 * fixed


@pytest.mark.parametrize("most", [1, 2, 4, 7])
def test_the_maximum_is_never_exceeded_and_the_steps_are_spread_as_the_search_would(most):
    record, _ = sample(policy(max_error=1e-6, max_nfe=most), trajectories(1, 5.0, seed=1))
    assert record.computed_steps == Replanner(KERNEL, ROWS, 1.0).search.best_after((0,), most)
    assert record.failed_open == []


def test_of_a_batch_the_hardest_image_decides():
    features = np.concatenate([trajectories(1, 0.2, seed=3), trajectories(1, 5.0, seed=3)])
    alone = sample(policy(), features[1:])[0]
    together = sample(policy(), features)[0]
    assert together.computed_steps == alone.computed_steps
    assert together.nfe > sample(policy(), features[:1])[0].nfe


def test_other_rows_behind_the_same_gate():
    record, _ = sample(policy(0.3, forecaster=TaylorSeer(order=1)), trajectories(1, seed=2))
    course = Replanner(KERNEL, TaylorSeer(order=1), 1.0)
    assert record.computed_steps[:2] == course.search.fewest_within((0,), 0.3 * course.scale, STEPS, 4)[:2]
    plan = next(iter(record.plans.values()))
    assert (plan.rows == TaylorSeer(order=1).rows(record.computed_steps, GRID)).all()


def test_difficulty_is_the_mean_of_comparisons_shrunk_and_no_single_one_rules():
    course = Replanner(KERNEL, ROWS, 1.0)
    assert course.difficulty([]) == 1.0
    assert course.difficulty([np.array([np.log(4.0)])]) == pytest.approx(2.0)
    assert course.difficulty([np.log([2.0, 4.0]), np.log([2.0, 4.0])]) == pytest.approx(4.0 ** (2 / 3))
    assert course.difficulty([np.array([1e9])]) == pytest.approx(np.exp(FARTHEST / 2))


def test_comparisons_tell_a_typical_image_from_one_twice_as_hard():
    """For the kernel's own prompts the mean logarithm is 0; a feature of twice the size adds log 2."""
    told = []
    for size in (1.0, 2.0):
        runs = []
        begin = ForecastErrorGate.begin

        def watched(self, setting, runs=runs, begin=begin):
            runs.append(begin(self, setting))
            return runs[-1]

        for one in trajectories(12):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ForecastErrorGate, "begin", watched)
                sample(policy(), size * one[None])
        told.append(np.mean([run._told[0] for run in runs]))
    assert told == pytest.approx([0.0, np.log(2.0)], abs=1e-6)


def test_a_branch_is_measured_by_its_own_moments():
    grams = np.zeros((12, 2 * STEPS, 2 * STEPS))
    grams[:, :STEPS, :STEPS], grams[:, STEPS:, STEPS:] = 4 * KERNEL.grams, 9 * KERNEL.grams
    branches = Branches(("cond", "uncond"), np.array([1.0, 1.0]), grams)
    both = fs.Kernel(GRID, 13 * KERNEL.grams, KERNEL.sampler, KERNEL.final_squares, branches=branches)
    assert (moments_of(both, "uncond") == 9 * KERNEL.grams).all()
    assert (moments_of(both, "call 3") == both.grams).all()


def test_gated_meets_a_mean_number_of_evaluations_on_the_kernel_s_prompts():
    found = fs.gated(KERNEL, nfe=6, max_nfe=9)
    gate = found.gate
    assert isinstance(gate, ForecastErrorGate)
    replanner = gate.replanner(GRID, found.forecaster)
    assert abs(replanner.simulate(gate.max_error).nfe.mean() - 6) <= 0.5
    assert max(spent(found, 4.0)) <= 9


def test_what_the_gate_simulates_is_what_runs_on_the_kernel_s_features_spend():
    chosen = policy()
    simulation = chosen.gate.replanner(GRID, ROWS).simulate(0.1)
    runs = [sample(chosen, one[None])[0].nfe for one in trajectories(12)]
    assert runs == simulation.nfe.tolist()
    assert 0.02 < np.sqrt(np.mean(simulation.errors**2)) <= 0.15


@pytest.mark.parametrize("wrong", [{}, {"nfe": 6, "max_error": 0.1}, {"nfe": 1}, {"nfe": 99}])
def test_gated_wants_one_target_that_can_be_met(wrong):
    with pytest.raises(ScheduleError):
        fs.gated(KERNEL, **wrong)


@pytest.mark.parametrize("options", [{"max_error": 0}, {"max_error": -1}, {"trust": -0.1}])
def test_options_are_refused(options):
    with pytest.raises(GateError):
        ForecastErrorGate(**{"kernel": KERNEL, "max_error": 0.1, **options})


def test_a_kernel_that_knows_no_final_error_is_refused():
    with pytest.raises(GateError, match="stochastic"):
        fs.gated(fs.Kernel(GRID, KERNEL.grams), max_error=0.1)


def test_mean_squares_are_told_image_by_image_in_float32_at_least():
    first = torch.tensor([[300.0, 300.0], [1.0, 0.0]], dtype=torch.float16)
    assert mean_squares([first]).tolist() == pytest.approx([90000.0, 0.5])
    assert mean_squares([first.float(), torch.zeros(2, 2)]).tolist() == pytest.approx([45000.0, 0.25])
    assert mean_squares([torch.ones(3), torch.zeros(2, 3)]).tolist() == pytest.approx([3 / 9])


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize("wrong", [{"kernel": "one"}, {"kernel": KERNEL, "forecaster": "taylorseer"}])
def test_gated_names_an_argument_of_the_wrong_type(wrong):
    with pytest.raises(GateError, match=list(wrong)[-1]):
        fs.gated(**wrong, nfe=5)


def test_error_feedback_of_a_gate_ends_at_the_next_planned_step_as_that_of_a_plan_does():
    rows = KernelRows(KERNEL, feedback_gain=0.5)
    record, outputs = sample(policy(trust=0.0, forecaster=rows), features := trajectories(1, 3.0, seed=5))
    steps = record.computed_steps
    assert 1 < len(steps) < STEPS - 1
    planned, expected = sample(fs.Plan.compile(GRID, steps, rows), features)
    np.testing.assert_allclose(outputs, expected, rtol=1e-12)
    np.testing.assert_array_equal(record.plans[""].rows, planned.plans[""].rows)
    assert not np.allclose(rows.rows(steps, GRID), ROWS.rows(steps, GRID))
