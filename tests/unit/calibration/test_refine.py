"""Refinement: all rows fitted together through runs, judged on held-out prompts."""

import dataclasses
import math

import diffusers
import numpy as np
import pytest

import foreseer as fs
from foreseer.attach.run.scheduler_identity import scheduler_identity
from foreseer.calibration.calibrate import CalibrationError
from foreseer.calibration.final_error import FinalError, MeasurePlan, Reference
from foreseer.calibration.job_checks import split_prompts
from foreseer.calibration.jobs import Work
from foreseer.calibration.row_directions import row_directions
from foreseer.calibration.sampler import sampler_matrix
from foreseer.plan.mixing import ChannelMixing, MixedSegment
from tests.support.loop_pipeline import SIZE, LoopPipeline, relative, sample

STEPS, NFE = 10, 4
PROMPTS = [f"training prompt {index}" for index in range(5)]


@pytest.fixture(scope="module")
def loop():
    return LoopPipeline(diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0))


@pytest.fixture(scope="module")
def kernel(loop):
    return fs.calibrate(loop, PROMPTS, num_inference_steps=STEPS, sensitivity_prompts=0)


@pytest.fixture(scope="module")
def rolled(loop, kernel):
    return fs.rollout(loop, kernel, PROMPTS[:4], nfe=NFE)


def measured_error(pipe, plan, **options):
    """Root mean square relative error of the final sample on prompts and seeds that nothing was fitted on."""
    errors = []
    for seed in range(500, 503):
        truth = sample(pipe, f"unseen prompt {seed}", seed, num_inference_steps=STEPS, **options)
        with fs.accelerate(pipe, plan, strict=True):
            errors.append(
                relative(sample(pipe, f"unseen prompt {seed}", seed, num_inference_steps=STEPS, **options), truth)
            )
    return math.sqrt(np.mean(np.square(errors)))


class CountedCalls:
    """Calls of a network, counted from outside."""

    def __init__(self, module):
        self.count = 0
        self._handle = module.register_forward_pre_hook(self._add)

    def _add(self, *args):
        self.count += 1

    def remove(self):
        self._handle.remove()


def test_refined_rows_beat_a_rollouts_on_prompts_that_nothing_was_fitted_on(loop, rolled):
    refined = fs.refine(loop, rolled, PROMPTS, held_out=2)
    before, after = measured_error(loop, rolled), measured_error(loop, refined)
    assert after < 0.95 * before
    assert refined.computed_steps == rolled.computed_steps
    assert "2 held out" in refined.provenance["refined"]
    named = scheduler_identity(loop.scheduler)
    assert named.items() <= rolled.provenance.items()
    by_formula = fs.Plan.compile(rolled.grid, rolled.computed_steps, fs.forecast.Reuse())
    by_formula = fs.refine(loop, by_formula, PROMPTS[:2], held_out=1, max_passes=1)
    assert named.items() <= by_formula.provenance.items()
    expected = float(refined.provenance["expected_error"].split()[0])
    assert abs(math.log(expected / after)) < math.log(1.6)


def test_a_step_that_held_out_prompts_do_not_tell_from_chance_is_not_kept(loop, rolled, monkeypatch):
    """The last prompt's error rises by half of what the other falls: no more than chance."""
    measured, first = MeasurePlan.run, {}

    def at_odds(self, worker, unit):
        row = np.frombuffer(measured(self, worker, unit)).copy()
        before = first.setdefault(unit.home, row[1])
        if unit.payload[0] == PROMPTS[-1]:
            row[1] = before * (before / row[1]) ** 0.5
        return row.tobytes()

    monkeypatch.setattr(MeasurePlan, "run", at_odds)
    kept = fs.refine(loop, rolled, PROMPTS, held_out=2)
    assert "held-out prompts do not tell" in kept.provenance["refined"]
    for name, rows in rolled.branch_rows.items() or [("", rolled.rows)]:
        np.testing.assert_array_equal(kept.branch_rows.get(name, kept.rows), rows)


def test_refinement_sees_through_the_rounding_of_a_quantised_network(kernel):
    coarse = LoopPipeline(diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0))
    coarse.transformer.register_forward_pre_hook(lambda module, inputs: ((128 * inputs[0]).round() / 128, *inputs[1:]))
    rolled = fs.rollout(coarse, kernel, PROMPTS[:4], nfe=NFE)
    refined = fs.refine(coarse, rolled, PROMPTS, held_out=2, difference=0.03)
    assert measured_error(coarse, refined) < 0.95 * measured_error(coarse, rolled)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_rows_of_a_formula_are_refined_and_branches_get_their_own(loop, kernel, guidance):
    taylor = fs.forecast.TaylorSeer(order=2)
    plan = fs.Policy(fs.schedule.Optimal(kernel, NFE, forecaster=taylor), taylor).compile(kernel.grid)
    options = {"guidance_scale": guidance}
    refined = fs.refine(loop, plan, PROMPTS, held_out=2, iterations=1, **options)
    assert measured_error(loop, refined, **options) < 0.5 * measured_error(loop, plan, **options)
    assert tuple(refined.branch_rows) == (() if guidance == 1.0 else ("call 1", "call 2"))


def test_branches_at_steps_of_their_own_are_refined(loop):
    kernel = fs.calibrate(loop, PROMPTS, num_inference_steps=STEPS, sensitivity_prompts=0, guidance_scale=3.0)
    plan = fs.rollout(loop, kernel, PROMPTS[:4], forward_passes=7, guidance_scale=3.0)
    refined = fs.refine(loop, plan, PROMPTS, held_out=2, iterations=1, guidance_scale=3.0)
    assert measured_error(loop, refined, guidance_scale=3.0) < measured_error(loop, plan, guidance_scale=3.0)
    for name in plan.branch_rows:
        assert refined.of_branch(name).computed_steps == plan.of_branch(name).computed_steps


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
        diffusers.DDIMScheduler(clip_sample=True, clip_sample_range=2.0, prediction_type="v_prediction"),
    ],
    ids=["DPM-Solver++", "DDIM that clips"],
)
def test_any_scheduler_whose_runs_repeat_is_refined_through_the_runs(scheduler):
    pipe = LoopPipeline(scheduler)
    pipe.scheduler.set_timesteps(STEPS)
    grid = fs.Grid.from_scheduler(pipe.scheduler)
    plan = fs.Policy(fs.schedule.Uniform.for_nfe(NFE, STEPS, warmup=2), fs.forecast.AdamsBashforth()).compile(grid)
    refined = fs.refine(pipe, plan, PROMPTS, held_out=2, iterations=1)
    assert measured_error(pipe, refined) < 0.7 * measured_error(pipe, plan)


def test_a_finer_teacher_is_come_nearer_to(loop, rolled):
    refined = fs.refine(loop, rolled, PROMPTS, held_out=2, teacher_steps=4 * STEPS, iterations=1)

    def distance(plan):
        found = []
        for seed in range(500, 504):
            exact = sample(loop, "a word", seed, num_inference_steps=4 * STEPS)
            with fs.accelerate(loop, plan, strict=True):
                found.append(float((sample(loop, "a word", seed, num_inference_steps=STEPS) - exact).norm()))
        return np.mean(found)

    assert distance(refined) < distance(rolled)


def test_derivatives_are_those_of_whole_runs_and_calls_are_saved(loop, rolled):
    """Brute force: each row changed, the whole run repeated, nothing replayed."""
    truth = sample(loop, PROMPTS[0], 0, num_inference_steps=STEPS).reshape(-1)
    generator = np.random.default_rng(0)
    features = generator.normal(size=(STEPS, 3 * STEPS))
    loop.scheduler.set_timesteps(STEPS)
    effects = sampler_matrix(loop.scheduler)[:, 1:]
    directions = row_directions(rolled, {"": features @ features.T}, effects, 1e-6)
    final = FinalError(loop, {"num_inference_steps": STEPS}, Work(None, 0))
    calls, difference = CountedCalls(loop.transformer), 1e-3
    moments = final.linearise(directions, Reference(PROMPTS[0], 0, truth.float()), difference)
    calls.remove()
    ends = (*rolled.computed_steps[1:], STEPS)
    skipping = [k for k, end in enumerate(ends) if end > rolled.computed_steps[k] + 1]
    assert len(skipping) >= NFE - 1
    assert directions.size == sum(k + 1 for k in skipping)
    assert calls.count == NFE + sum((k + 1) * (NFE - 1 - k) for k in skipping)

    def error(plan):
        with fs.accelerate(loop, plan, strict=True):
            return (sample(loop, PROMPTS[0], 0, num_inference_steps=STEPS).reshape(-1) - truth) / truth.norm()

    size = difference * float(truth.square().mean().sqrt())
    base = error(rolled)
    columns = np.stack(
        [(error(directions.change(size * unit)) - base).numpy() / size for unit in np.eye(directions.size)]
    )
    largest = np.abs(columns @ columns.T).max()
    assert moments.curvature == pytest.approx(columns @ columns.T, abs=1e-4 * largest)
    assert moments.square == pytest.approx(float(base @ base), rel=1e-3)


def test_a_change_moves_the_sample_at_the_segments_end_by_the_features_it_names(loop, rolled):
    loop.scheduler.set_timesteps(STEPS)
    effects = sampler_matrix(loop.scheduler)[:, 1:]
    directions = row_directions(rolled, {"": np.eye(STEPS)}, effects, 1e-6)
    ends = dict(zip(rolled.computed_steps, (*rolled.computed_steps[1:], STEPS), strict=True))
    for index, start in enumerate(directions.starts):
        change = directions.change(np.eye(directions.size)[index]).rows - rolled.rows
        assert not change[: start + 1].any()
        assert not change[ends[start] :].any()
        moved = effects[ends[start]] @ change
        assert np.linalg.norm(moved) == pytest.approx(1.0)  # features of unit Gram matrix: one of them, or a rotation
        assert not moved[[step not in rolled.computed_steps[: start + 1] for step in range(STEPS)]].any()


def test_an_interrupted_refinement_resumes_to_the_same_plan(loop, rolled, tmp_path):
    options = {"held_out": 1, "iterations": 2, "seed": 3}
    expected = fs.refine(loop, rolled, PROMPTS[:4], **options)
    stops = iter([40, 60, 10**9])

    def run():
        last = next(stops)
        seen = []

        def progress(done, total):
            seen.append((done, total))
            if done > last:
                raise KeyboardInterrupt

        return fs.refine(loop, rolled, PROMPTS[:4], checkpoint=tmp_path, progress=progress, **options), seen

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run()
    resumed, seen = run()
    assert np.array_equal(resumed.rows, expected.rows)
    assert resumed.provenance["expected_error"] == expected.provenance["expected_error"]
    assert seen[-1][0] == seen[-1][1]


def test_passes_are_counted_and_a_budget_is_kept(loop, rolled):
    seen = []
    calls = CountedCalls(loop.transformer)
    options = {"held_out": 1, "progress": lambda done, total: seen.append((done, total))}
    fs.refine(loop, rolled, PROMPTS[:3], iterations=1, **options)
    calls.remove()
    first_step = 1  # of a run that finds the call's options, ended there
    assert calls.count == seen[-1][0] + first_step == seen[-1][1] + first_step
    spent = seen[-1][0]
    for budget in (3 * STEPS + NFE, 3 * STEPS + 2 * NFE + 10):
        seen.clear()
        plan = fs.refine(loop, rolled, PROMPTS[:3], max_passes=budget, **options)
        assert "max_passes" in plan.provenance["refined"]
        assert seen[-1][0] < spent
        assert np.array_equal(plan.rows, rolled.rows)


def test_damaged_checkpoints_are_repaired_or_refused(loop, rolled, tmp_path):
    options = {"held_out": 1, "iterations": 1, "checkpoint": tmp_path}
    expected = fs.refine(loop, rolled, PROMPTS[:3], **options)
    units, samples = list(tmp_path.glob("*.unit")), list(tmp_path.glob("final-*.safetensors"))
    assert len(samples) == 3
    for path in (*units, *samples):
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CalibrationError, match="damaged"):
        fs.refine(loop, rolled, PROMPTS[:3], **options)
    for path in samples:
        path.unlink()
    assert np.array_equal(fs.refine(loop, rolled, PROMPTS[:3], **options).rows, expected.rows)


def test_what_cannot_be_refined_is_refused(loop, kernel, rolled):
    with pytest.raises(CalibrationError, match="held out"):
        fs.refine(loop, rolled, PROMPTS[:1])
    with pytest.raises(CalibrationError, match="held_out"):
        fs.refine(loop, rolled, PROMPTS, held_out=0)
    with pytest.raises(CalibrationError, match="iterations"):
        fs.refine(loop, rolled, PROMPTS, iterations=0)
    with pytest.raises(CalibrationError, match="last_block"):
        fs.refine(loop, dataclasses.replace(rolled, site="last_block", start_row=None), PROMPTS)
    with pytest.raises(CalibrationError, match="follow one plan"):
        fs.refine(loop, dataclasses.replace(rolled, grid=fs.Grid.uniform(STEPS)), PROMPTS)
    fitted, judges = split_prompts(["a", "b"], ["c"], seed=7)
    assert (fitted, judges) == ([(7, "a"), (8, "b")], [(9, "c")])


def test_a_checkpoint_of_a_plan_that_differs_in_its_mixing_alone_is_not_resumed(loop, tmp_path):
    loop.scheduler.set_timesteps(6)
    grid = fs.Grid.from_scheduler(loop.scheduler)
    plan = fs.Policy(fs.schedule.Uniform(interval=2), fs.forecast.Reuse()).compile(grid)
    matrices = 0.05 * np.random.default_rng(0).normal(size=(1, SIZE, SIZE)).astype(np.float32)
    mixing = ChannelMixing(-1, (MixedSegment("", (1,), np.ones(1), (0,), matrices),))
    mixed = dataclasses.replace(plan, mixing=mixing)
    options = {"held_out": 1, "iterations": 1}
    expected = fs.refine(loop, mixed, PROMPTS[:2], **options)
    fs.refine(loop, plan, PROMPTS[:2], checkpoint=tmp_path, **options)
    resumed = fs.refine(loop, mixed, PROMPTS[:2], checkpoint=tmp_path, **options)
    assert resumed == expected
    assert resumed.mixing == mixed.mixing
