"""L2P's training, learned policies and rollout, on recorded and on new trajectories."""

import dataclasses
import itertools
import math

import diffusers
import numpy as np
import pytest
import torch

import foreseer as fs
from foreseer.calibration.calibrate import CalibrationError
from foreseer.calibration.frontier import trace_frontier
from foreseer.calibration.record import record_run
from foreseer.calibration.sensitivity import DRIFTS, best_drift, best_sensitivity
from foreseer.kernel.expected import final_errors, step_errors
from foreseer.kernel.interpolate import resampled
from foreseer.kernel.kernel import DRIFT, SENSITIVITY
from foreseer.methods.learned import searches_with_feedback
from foreseer.methods.train_l2p import train_l2p
from foreseer.methods.validate import MOST_RIDGE, RIDGES, best_ridge, expected_error, held_out_errors
from foreseer.schedule.search import Search
from tests.support.loop_pipeline import LoopPipeline, relative, sample
from tests.unit.calibration.conftest import STEPS, TRAINING

HELD_OUT = [f"held-out prompt {index}" for index in range(6)]


def measured_error(pipe, policy, steps=STEPS, allow_other_guidance=False, **options):
    """Root mean square relative error of the final sample on prompts and seeds that calibration never saw."""
    errors = []
    for index, prompt in enumerate(HELD_OUT):
        truth = sample(pipe, prompt, 500 + index, num_inference_steps=steps, **options)
        with fs.accelerate(pipe, policy, strict=True, allow_other_guidance=allow_other_guidance):
            errors.append(relative(sample(pipe, prompt, 500 + index, num_inference_steps=steps, **options), truth))
    return math.sqrt(np.mean(np.square(errors)))


def test_l2p_in_gram_space_takes_the_path_of_adam_on_trajectories(loop, kernel):
    trajectories = []
    for index, prompt in enumerate(TRAINING):
        with record_run(loop) as trajectory:
            sample(loop, prompt, index, num_inference_steps=STEPS)
        trajectories.append(torch.stack(trajectory.outputs).double())
    features = torch.stack(trajectories)
    weights = torch.eye(STEPS, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([weights], lr=0.01)
    for _ in range(201):
        optimiser.zero_grad()
        predicted = torch.tril(weights)[:-1] @ features
        torch.nn.functional.mse_loss(predicted[:, : STEPS - 1], features[:, 1:]).backward()
        optimiser.step()
    trained = np.asarray(train_l2p(kernel).matrix)
    assert np.abs(trained - np.tril(weights.detach().numpy()))[:-1].max() < 1e-4
    assert np.abs(trained - np.eye(STEPS)).max() > 0.05


@pytest.mark.parametrize("nfe", [5, 8])
def test_rollout_beats_kernel_rows_which_beat_fixed_formulas(loop, kernel, nfe):
    learned = measured_error(loop, fs.learned(kernel, nfe=nfe))
    rolled = measured_error(loop, fs.Policy.from_plan(fs.rollout(loop, kernel, TRAINING, nfe=nfe)))
    fixed = [
        measured_error(loop, fs.methods.find(name).policy(STEPS, nfe, "output"))
        for name in ("reuse", "taylorseer", "newton", "spectrum")
    ]
    assert rolled < learned < min(fixed)


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
        diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
        diffusers.DDIMScheduler(clip_sample=False, prediction_type="v_prediction"),
    ],
    ids=["DPM-Solver++", "UniPC", "DDIM"],
)
def test_rollout_steers_back_through_other_samplers(scheduler):
    pipe = LoopPipeline(scheduler)
    kernel = fs.calibrate(pipe, TRAINING, num_inference_steps=STEPS)
    schedule = fs.schedule.Uniform.for_nfe(7, STEPS, warmup=2)
    rows = fs.Policy(schedule, fs.forecast.KernelRows(kernel))
    plan = fs.rollout(pipe, kernel, TRAINING, schedule=schedule)
    assert measured_error(pipe, fs.Policy.from_plan(plan)) < measured_error(pipe, rows)


def test_rollout_with_guidance_serves_both_branches(loop):
    kernel = fs.calibrate(loop, TRAINING, num_inference_steps=STEPS, guidance_scale=3.0)
    plan = fs.rollout(loop, kernel, TRAINING, nfe=7, guidance_scale=3.0)
    rolled = measured_error(loop, fs.Policy.from_plan(plan), guidance_scale=3.0)
    assert rolled < measured_error(loop, fs.learned(kernel, nfe=7), guidance_scale=3.0)


def test_a_finer_teacher_brings_the_run_nearer_to_the_exact_trajectory(loop, kernel):
    plan = fs.rollout(loop, kernel, TRAINING, nfe=10, teacher_steps=8 * STEPS)
    same = fs.rollout(loop, kernel, TRAINING, nfe=10)

    def distance(policy):
        errors = []
        for index, prompt in enumerate(HELD_OUT):
            exact = sample(loop, prompt, 500 + index, num_inference_steps=8 * STEPS)
            if policy is None:
                errors.append(relative(sample(loop, prompt, 500 + index, num_inference_steps=STEPS), exact))
                continue
            with fs.accelerate(loop, policy, strict=True):
                errors.append(relative(sample(loop, prompt, 500 + index, num_inference_steps=STEPS), exact))
        return np.mean(errors)

    assert distance(fs.Policy.from_plan(plan)) < min(distance(None), distance(fs.Policy.from_plan(same)))


def test_rollout_refuses_what_it_cannot_fit(loop, kernel):
    with pytest.raises(CalibrationError, match="prompts"):
        fs.rollout(loop, kernel, [], nfe=5)
    with pytest.raises(CalibrationError, match="one of"):
        fs.rollout(loop, kernel, TRAINING)
    with pytest.raises(CalibrationError, match="teacher_steps is 13; expected a whole number of at least 20"):
        fs.rollout(loop, kernel, TRAINING[:1], nfe=5, teacher_steps=STEPS - 7)


def test_expected_errors_are_the_open_loop_errors_of_the_recorded_runs(loop, kernel):
    plan = fs.learned(kernel, nfe=6).compile(kernel.grid)
    with record_run(loop) as trajectory:
        sample(loop, TRAINING[1], 1, num_inference_steps=STEPS)
    features = torch.stack(trajectory.outputs).double().numpy()
    residual = features - plan.rows @ features
    expected = np.linalg.norm(residual, axis=1) / np.linalg.norm(features, axis=1)
    assert step_errors(kernel, plan.rows)[1] == pytest.approx(expected, abs=1e-7)
    final = kernel.sampler[-1, 1:] @ residual
    still = dataclasses.replace(kernel, sensitivity=0.0)
    assert final_errors(still, plan.rows)[1] == pytest.approx(np.sqrt(np.mean(final**2)), rel=1e-5)


def test_the_networks_answers_are_part_of_the_expected_error(kernel):
    """By hand: the error before each computed step, weighted by how much of the run is left, squared."""
    computed, sensitivity = (0, 3, 9, 14), 5.0
    rows = fs.forecast.KernelRows(kernel).rows(computed, kernel.grid)
    weights = np.abs(kernel.final_weights)
    left = [weights[step:].sum() / weights.sum() for step in range(STEPS + 1)]
    for prompt in range(2):
        squares = []
        for step in (*computed[1:], STEPS):
            through = np.where(np.arange(STEPS) < step, kernel.final_weights, 0.0) @ (np.eye(STEPS) - rows)
            squares.append(through @ kernel.grams[prompt] @ through)
        answers = [
            sensitivity**2 * left[step] ** 4 * (left[step] - left[until])
            for step, until in zip(computed[1:], (*computed[2:], STEPS), strict=True)
        ]
        expected = math.sqrt(squares[-1] + sum(a * e for a, e in zip(answers, squares[:-1], strict=True)))
        one = dataclasses.replace(kernel, sensitivity=sensitivity)
        assert final_errors(one, rows)[prompt] == pytest.approx(expected, rel=1e-9)


def test_the_measured_response_makes_expected_errors_true(loop, kernel):
    ratios = {None: [], 12.0: []}
    scale = math.sqrt(np.mean(kernel.final_squares))
    for steps in ((0, 4, 8, 12, 16), (0, 1, 2, 6, 12), (0, 7, 14), (0, 2, 5, 9, 13, 17)):
        policy = fs.Policy(fs.schedule.Explicit(steps, of=STEPS), fs.forecast.KernelRows(kernel))
        measured = measured_error(loop, policy)
        for sensitivity, found in ratios.items():
            one = kernel if sensitivity is None else dataclasses.replace(kernel, sensitivity=sensitivity)
            expected = final_errors(one, policy.compile(kernel.grid).rows)
            found.append(abs(math.log(math.sqrt(np.mean(expected**2)) / scale / measured)))
    assert max(ratios[None]) < math.log(2)
    assert np.mean(ratios[None]) < np.mean(ratios[12.0])


def test_the_response_that_explains_the_errors_is_found():
    open_loop, answers = np.array([1e-4, 4e-4, 2e-5]), np.array([3e-6, 1e-5, 4e-6])
    for sensitivity in (0.0, 0.5, 7.0, 40.0):
        assert best_sensitivity(open_loop, answers, open_loop + sensitivity**2 * answers) == pytest.approx(
            sensitivity, rel=0.03
        )


@pytest.mark.parametrize(
    ("forecaster", "allowed"),
    [(None, 1.05), (fs.forecast.TaylorSeer(order=2), 1.05), (fs.forecast.Newton(order=2), 1.05)],
    ids=["kernel rows", "TaylorSeer", "Newton"],
)
def test_the_search_comes_near_the_best_of_all_sets(kernel, monkeypatch, forecaster, allowed):
    monkeypatch.setattr("foreseer.schedule.search.EXHAUSTIVE", 0)
    small = kernel.on(resampled(kernel.grid, 14))
    search = Search(small, forecaster or fs.forecast.KernelRows(small))
    best = min(search.cost((0, *rest)) for rest in itertools.combinations(range(1, 14), 4))
    assert search.cost(search.best(5)) <= allowed * best


def test_few_sets_are_all_tried(kernel):
    small = kernel.on(resampled(kernel.grid, 14))
    for forecaster in (fs.forecast.KernelRows(small), fs.forecast.TaylorSeer(order=2)):
        search = Search(small, forecaster)
        best = min(search.cost((0, *rest)) for rest in itertools.combinations(range(1, 14), 4))
        assert Search(small, forecaster).cost(search.best(5)) == best


def test_the_cost_of_a_search_is_the_expected_final_error_of_its_plan(kernel):
    corrected = [fs.forecast.KernelRows(kernel, ridge=1e-5, feedback_gain=gain) for gain in (0.0, 0.5, 1.0)]
    for forecaster in (*corrected, fs.forecast.TaylorSeer(order=2)):
        steps = (0, 1, 4, 9, 15)
        expected = np.sqrt(np.mean(final_errors(kernel, forecaster.rows(steps, kernel.grid)) ** 2))
        assert Search(kernel, forecaster).cost(steps) == pytest.approx(expected, rel=1e-6)


def test_targets_are_kept(kernel):
    assert fs.learned(kernel, nfe=6).compile(kernel.grid).nfe == 6
    assert fs.learned(kernel, speedup=4).compile(kernel.grid).nfe == STEPS // 4
    points = trace_frontier(kernel, 12)
    target = points[4].error
    plan = fs.learned(kernel, max_error=1.001 * target).compile(kernel.grid)
    assert plan.nfe <= points[4].nfe
    expected = np.mean(final_errors(kernel, plan.rows) ** 2) / np.mean(kernel.final_squares)
    assert plan.expected_error == pytest.approx(math.sqrt(expected), rel=0.01)
    assert plan.expected_error <= 1.01 * target
    assert sum(point.knee for point in points) == 1
    assert points[0].error > points[-1].error
    with pytest.raises(fs.ForeseerError, match="one of"):
        fs.learned(kernel)


@pytest.mark.parametrize("steps", [14, 10, 28])
def test_one_kernel_serves_other_step_counts_as_well_as_their_own(loop, kernel, steps):
    there = fs.calibrate(loop, TRAINING, num_inference_steps=steps)
    moved = measured_error(loop, fs.learned(kernel, nfe=6), steps)
    own = measured_error(loop, fs.learned(there, nfe=6), steps)
    assert moved < 1.3 * own + 1e-4


def test_cross_validation_fits_each_prompt_on_the_others(kernel):
    computed = (0, 2, 6, 12)
    errors = held_out_errors(kernel, computed, 1e-6, folds=kernel.prompts)
    others = kernel.subset([index for index in range(kernel.prompts) if index != 3])
    rows = fs.forecast.KernelRows(others, ridge=1e-6).rows(computed, kernel.grid)
    expected = final_errors(kernel.subset([3]), rows)[0] / np.sqrt(kernel.final_squares[3])
    assert errors[3] == pytest.approx(expected, rel=1e-9)
    fitted = final_errors(kernel, fs.forecast.KernelRows(kernel, ridge=1e-6).rows(computed, kernel.grid))
    assert np.mean(errors**2) > np.mean(fitted**2 / kernel.final_squares)


def test_the_ridge_of_a_learned_policy_is_cross_validated_and_counts_the_drift(kernel):
    still = dataclasses.replace(kernel, drift=0.0)
    policy = fs.learned(still, nfe=6)
    steps, feedback = policy.compile(kernel.grid).computed_steps, {"feedback_gain": policy.forecaster.feedback_gain}
    found = best_ridge(still, steps, **feedback)
    assert policy.forecaster.ridge == found.ridge
    assert all(found.mean <= expected_error(still, steps, r, **feedback).mean for r in RIDGES)
    assert found.spread > 0
    for drift, ridge in ((1e-12, found.ridge), (2.0, 2 * found.mean**2), (1e9, MOST_RIDGE)):
        moved = fs.learned(dataclasses.replace(kernel, drift=drift), nfe=6)
        assert moved.compile(kernel.grid).computed_steps == steps  # steps are searched as before
        assert moved.forecaster.ridge == pytest.approx(ridge, rel=1e-12)


def test_calibrate_keeps_the_drift_under_which_plans_err_least(loop, kernel):
    errors = np.ones((2, 2, len(DRIFTS)))
    errors[:, :, 3] = 0.9
    assert best_drift(errors) == DRIFTS[3]
    errors[0, 0, 1] = 0.1  # one trial that errs little outweighs four that err slightly less: 1/4 log 10 > log 1/.9
    assert best_drift(errors) == DRIFTS[1]
    errors[0, 0, 0] = 0.0  # without any error it has no finite logarithm
    assert best_drift(errors) == 0.0
    assert kernel.drift in DRIFTS
    options = {"num_inference_steps": STEPS}
    assert fs.calibrate(loop, TRAINING[:1], sensitivity_prompts=0, **options).drift == DRIFT
    measured = {
        drift: forecast_errors(loop, dataclasses.replace(kernel, drift=drift, sensitivity=SENSITIVITY))
        for drift in DRIFTS
    }
    assert measured[kernel.drift] == min(measured.values())


def forecast_errors(loop, kernel):
    """Geometric mean of the measured errors, on the prompts and budgets of `calibrate`."""
    return math.sqrt(math.prod(typical_errors(loop, fs.learned(kernel, nfe=nfe), TRAINING[:4]) for nfe in (3, 5)))


def typical_errors(loop, policy, prompts):
    """Geometric mean of the measured errors of prompts that something was learned on."""
    errors = []
    for seed, prompt in enumerate(prompts):
        truth = sample(loop, prompt, seed, num_inference_steps=STEPS)
        with fs.accelerate(loop, policy, strict=True):
            errors.append(relative(sample(loop, prompt, seed, num_inference_steps=STEPS), truth))
    return np.exp(np.mean(np.log(errors)))


def test_a_rollout_keeps_the_steps_with_the_least_measured_error(loop, kernel):
    supposed, prompts = dataclasses.replace(kernel, sensitivity=40.0), TRAINING[:3]
    searches = searches_with_feedback(supposed, nfe=5)
    plans = [fs.rollout(loop, supposed, prompts, schedule=search) for search in searches]
    errors = {plan.computed_steps: typical_errors(loop, fs.Policy.from_plan(plan), prompts) for plan in plans}
    assert len(errors) == len(searches) > 1
    kept = fs.rollout(loop, supposed, prompts, nfe=5)
    assert errors[kept.computed_steps] == min(errors.values())
    assert f"{len(searches)} sets of steps rolled out" in kept.provenance["searched"]
    assert all("searched" not in plan.provenance for plan in plans)


def test_a_rollout_plan_lets_kernel_rows_serve_other_grids_and_says_so(loop, kernel):
    plan = fs.rollout(loop, kernel, TRAINING[:2], nfe=6)
    policy = fs.Policy.from_plan(plan, otherwise=fs.learned(kernel, nfe=6))
    with fs.accelerate(loop, policy, strict=True) as handle:
        sample(loop, "a word", 1, num_inference_steps=STEPS)
        assert "note" not in handle.record.plans["call 1"].plan.provenance
        sample(loop, "a word", 1, num_inference_steps=14)
    assert handle.record.nfe == 6
    assert "replaces a plan made for another grid" in handle.record.plans["call 1"].plan.provenance["note"]
