"""Guidance branches: recorded separately, combined as in the pipeline, forecast by separate rows."""

from dataclasses import replace
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch

import foreseer as fs
from foreseer.calibration.branch_recorder import NotMixedError, find_mixing, record_branches
from foreseer.calibration.record import record_run
from tests.support.loop_pipeline import SIZE, LoopPipeline, relative, sample
from tests.support.pipelines import build
from tests.unit.calibration.conftest import STEPS, TRAINING
from tests.unit.calibration.test_learning import measured_error

CALLS = ("call 1", "call 2")


def linear(output, without):
    return without + 3.0 * (output - without)


def rescaled(output, without):
    """Guidance brought back to the size of the conditional output."""
    guided = linear(output, without)
    return guided * output.norm() / guided.norm()


class GuidedPipeline(LoopPipeline):
    """Combines two outputs, of two calls (the second from ``late`` on) or of one with twice the batch."""

    def __init__(self, combine=linear, batched=False, late=0):
        super().__init__(diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0))
        self.combine, self.batched, self.late = combine, batched, late

    @torch.no_grad()
    def __call__(self, prompt, num_inference_steps=20, generator=None, output_type="latent"):
        self.scheduler.set_timesteps(num_inference_steps)
        words = torch.randn(1, 4, SIZE, generator=torch.Generator().manual_seed(sum(prompt.encode())))
        latent, none = torch.randn(1, 4, SIZE, generator=generator), torch.zeros_like(words)
        for step, t in enumerate(self.scheduler.timesteps):
            if self.batched:
                two = self.transformer(torch.cat([latent] * 2), timestep=t, words=torch.cat([words, none]))[0].chunk(2)
            else:
                two = [self.transformer(latent, timestep=t, words=words)[0]]
                two.append(self.transformer(latent, timestep=t, words=none)[0] if step >= self.late else two[0])
            latent = self.scheduler.step(self.combine(*two), t, latent, return_dict=False)[0]
        return SimpleNamespace(images=latent)


@pytest.fixture(scope="module")
def guided(loop):
    return fs.calibrate(loop, TRAINING, num_inference_steps=STEPS, guidance_scale=3.0)


def recorded(pipe, prompt, seed, **options):
    with record_run(pipe) as trajectory, record_branches(pipe, trajectory) as recorder:
        sample(pipe, prompt, seed, **options)
    return trajectory, recorder


def test_branches_are_recorded_and_their_mixing_found(loop, guided):
    assert guided.branches.names == CALLS
    assert guided.branches.mixing == pytest.approx([3.0, -2.0], abs=1e-5)
    trajectory, recorder = recorded(loop, TRAINING[1], 1, num_inference_steps=STEPS, guidance_scale=3.0)
    features = torch.cat([torch.stack(recorder.features()[name]) for name in CALLS]).double().numpy()
    assert guided.branches.grams[1] == pytest.approx(features @ features.T / features.shape[1], rel=1e-9)
    outputs = torch.stack(trajectory.outputs).double().numpy()
    assert guided.branches.guided @ features == pytest.approx(outputs, abs=1e-5)
    plain = sample(loop, TRAINING[1], 1, num_inference_steps=STEPS, guidance_scale=3.0)
    assert torch.equal(plain, trajectory.sample.double())


def test_rows_of_branches_are_the_least_squares_ones_on_recorded_runs(loop, guided):
    ridge, computed, step = 1e-4, [0, 2, 5], 9
    runs = [recorded(loop, p, i, num_inference_steps=STEPS, guidance_scale=3.0)[1] for i, p in enumerate(TRAINING)]
    cond, uncond = (
        torch.cat([torch.stack(run.features()[name]) for run in runs], dim=1).double().numpy() for name in CALLS
    )
    design, target = np.vstack([cond[computed], uncond[computed]]).T, 3.0 * cond[step] - 2.0 * uncond[step]
    strength = ridge * np.square(design).sum() / 6
    augmented = np.vstack([design, np.sqrt(strength) * np.eye(6)])
    best = np.linalg.lstsq(augmented, np.append(target, np.zeros(6)), rcond=None)[0]
    rows = fs.forecast.KernelRows(guided, ridge=ridge, branch_weight=0.0).branch_rows((*computed, 12), guided.grid)
    found = np.append(3.0 * rows["call 1"][step, computed], -2.0 * rows["call 2"][step, computed])
    assert found == pytest.approx(best, abs=1e-6)
    shared = fs.forecast.KernelRows(guided, ridge=ridge).row(computed, step, guided.grid)
    missed = [np.linalg.norm(design @ weights - target) for weights in (found, np.outer([3.0, -2.0], shared).ravel())]
    assert missed[0] < 0.95 * missed[1]


def test_each_branch_of_a_run_is_forecast_by_its_own_rows(loop, guided):
    plan = fs.learned(guided, nfe=6).compile(guided.grid)
    with fs.accelerate(loop, plan, strict=True) as handle, record_run(loop) as trajectory:
        sample(loop, "a word", 3, num_inference_steps=STEPS, guidance_scale=3.0)
    assert handle.record.nfe == 6
    for name in CALLS:
        assert handle.record.plans[name] == plan.of_branch(name)
        assert np.array_equal(handle.record.plans[name].rows, plan.branch_rows[name])
    _, recorder = recorded(loop, "a word", 3, num_inference_steps=STEPS, guidance_scale=3.0)
    first = plan.forecast_steps[0]  # up to there the run is the full one
    features = recorder.features()
    expected = sum(
        weight * plan.branch_rows[name][first, step] * features[name][step]
        for name, weight in zip(CALLS, (3.0, -2.0), strict=True)
        for step in range(first)
    )
    assert torch.allclose(trajectory.outputs[first], expected, atol=1e-4)


@pytest.mark.parametrize("nfe", [5, 7, 9])
def test_rows_of_branches_come_nearer_to_the_full_run_than_shared_ones(loop, guided, nfe):
    apart = measured_error(loop, fs.learned(guided, nfe=nfe), guidance_scale=3.0)
    shared = measured_error(loop, fs.learned(replace(guided, branches=None), nfe=nfe), guidance_scale=3.0)
    assert apart <= shared


def test_rollout_fits_rows_of_branches(loop, guided):
    apart, shared = [], []
    for nfe in (5, 7):
        plan = fs.rollout(loop, guided, TRAINING, nfe=nfe, guidance_scale=3.0)
        assert tuple(plan.branch_rows) == CALLS
        apart.append(measured_error(loop, plan, guidance_scale=3.0))
        assert apart[-1] < measured_error(loop, fs.learned(guided, nfe=nfe), guidance_scale=3.0)
        schedule = fs.schedule.Explicit(plan.computed_steps, of=STEPS)
        one = fs.rollout(loop, replace(guided, branches=None), TRAINING, schedule=schedule, guidance_scale=3.0)
        assert not one.branch_rows
        shared.append(measured_error(loop, one, guidance_scale=3.0))
    assert np.prod(apart) <= 1.05**2 * np.prod(shared)


class Apart(fs.schedule.Schedule):
    """The second branch at every second of the steps, and at one where the first does not compute."""

    def _computed_steps(self, steps):
        return (0, 1, 3, 5, 8, 11, 15)

    def branch_steps(self, grid, first_step=0):
        return {CALLS[0]: (0, 1, 3, 8, 11, 15), CALLS[1]: (0, 3, 5, 11)}


def test_a_rollout_fits_branches_at_steps_of_their_own(loop, guided):
    plan = fs.rollout(loop, guided, TRAINING, schedule=Apart(), guidance_scale=3.0)
    assert [plan.of_branch(name).computed_steps for name in CALLS] == [(0, 1, 3, 8, 11, 15), (0, 3, 5, 11)]
    assert set(np.flatnonzero(plan.cross_rows[CALLS[1], CALLS[0]].any(axis=1))) == {1, 8, 15}
    rolled = measured_error(loop, plan, guidance_scale=3.0)
    policy = fs.Policy(Apart(), fs.forecast.KernelRows(guided))
    assert rolled < measured_error(loop, policy, guidance_scale=3.0)


@pytest.mark.parametrize("evaluations", [10, 13])
def test_budgets_of_calls_are_kept_by_kernel_rows_and_by_rollout(loop, guided, evaluations):
    policy = fs.learned(guided, forward_passes=evaluations)
    errors = []
    for given in (policy, fs.rollout(loop, guided, TRAINING, forward_passes=evaluations, guidance_scale=3.0)):
        with fs.accelerate(loop, given, strict=True) as handle:
            sample(loop, "a word", 3, num_inference_steps=STEPS, guidance_scale=3.0)
        assert handle.record.forward_passes == evaluations
        errors.append(measured_error(loop, given, guidance_scale=3.0))
    assert errors[1] < errors[0] < 0.5
    assert errors[0] < measured_error(loop, fs.learned(guided, nfe=evaluations // 2 - 1), guidance_scale=3.0)
    with pytest.raises(fs.ForeseerError, match="one of nfe"):
        fs.learned(guided, forward_passes=evaluations, nfe=5)
    with pytest.raises(fs.ForeseerError, match="one of nfe, forward_passes"):
        fs.rollout(loop, guided, TRAINING, forward_passes=evaluations, nfe=5)


def test_a_late_part_of_a_run_and_another_step_count_have_rows_of_branches(loop, guided):
    policy = fs.learned(guided, nfe=6)
    for plan in (policy.compile(guided.grid, 3), policy.compile(fs.Grid(guided.grid.levels[::2], guided.grid.unit))):
        assert tuple(plan.branch_rows) == CALLS
    error = measured_error(loop, fs.learned(guided, nfe=6), steps=14, guidance_scale=3.0)
    assert error <= 1.1 * measured_error(
        loop, fs.learned(replace(guided, branches=None), nfe=6), steps=14, guidance_scale=3.0
    )


@pytest.mark.filterwarnings("ignore:The rows were learned with guidance")
def test_rows_of_branches_also_serve_a_run_without_guidance(loop, guided):
    """One call is left, by the name of the first: its own forecast counted in the fit."""
    policy = fs.learned(guided, nfe=7)
    greedy = fs.Policy(policy.schedule, replace(policy.forecaster, branch_weight=0.0))
    allowed = {"allow_other_guidance": True}
    assert measured_error(loop, policy, **allowed) < min(0.1, measured_error(loop, greedy, **allowed))


def test_one_call_of_twice_the_batch_has_no_branches():
    pipe = GuidedPipeline(batched=True)
    kernel = fs.calibrate(pipe, TRAINING[:3], num_inference_steps=STEPS)
    assert kernel.branches is None
    assert "branches" not in kernel.provenance
    for plan in (fs.learned(kernel, nfe=6).compile(kernel.grid), fs.rollout(pipe, kernel, TRAINING[:2], nfe=6)):
        assert not plan.branch_rows
        assert measured_error(pipe, plan) < 0.1


@pytest.mark.parametrize(
    ("combine", "words"),
    [(rescaled, "not a fixed linear combination"), (lambda output, without: output + 0.0 * without, "is zero")],
    ids=["rescaled", "no part"],
)
def test_other_guidance_shares_its_rows_and_the_kernel_says_why(combine, words):
    pipe = GuidedPipeline(combine)
    kernel = fs.calibrate(pipe, TRAINING[:3], num_inference_steps=STEPS)
    assert kernel.branches is None
    assert words in kernel.provenance["branches"]
    assert kernel.provenance["branches"].startswith("share their rows")
    plan = fs.rollout(pipe, kernel, TRAINING[:3], nfe=8)
    assert not plan.branch_rows
    assert measured_error(pipe, plan) < 0.1


def test_guidance_that_begins_late_shares_its_rows():
    pipe = GuidedPipeline(late=4)
    kernel = fs.calibrate(pipe, TRAINING[:3], num_inference_steps=STEPS)
    assert kernel.branches is None
    assert measured_error(pipe, fs.learned(kernel, nfe=8)) < 0.2


def test_a_rollout_of_other_guidance_than_the_kernels_shares_its_rows(guided):
    plan = fs.rollout(GuidedPipeline(rescaled), guided, TRAINING[:2], nfe=8)
    assert not plan.branch_rows


def test_an_interrupted_calibration_of_branches_goes_on_where_it_was(loop, guided, tmp_path):
    folder = tmp_path / "kept"

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fs.calibrate(loop, TRAINING, num_inference_steps=STEPS, guidance_scale=3.0, checkpoint=folder, progress=stop)
    assert len(list(folder.iterdir())) == 3
    again = fs.calibrate(loop, TRAINING, num_inference_steps=STEPS, guidance_scale=3.0, checkpoint=folder)
    assert np.array_equal(again.branches.grams, guided.branches.grams)
    assert again.provenance == guided.provenance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_mixing_is_found_in_every_dtype_and_what_is_not_linear_is_refused(dtype):
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(6, 500, generator=generator)
    features = {
        name: list((common + 0.3 * torch.randn(6, 500, generator=generator)).to(dtype)) for name in ("a", "b", "c")
    }
    a, b, c = (torch.stack(one) for one in features.values())
    mixing = find_mixing(features, list(a + 4.0 * (b - a) + 0.5 * (a - c)))
    assert mixing == pytest.approx([-2.5, 4.0, -0.5], abs=0.03 if dtype is not torch.float32 else 1e-5)
    with pytest.raises(NotMixedError, match="not a fixed linear"):
        find_mixing(features, [one * (1 + 0.1 * step) for step, one in enumerate(a + 4.0 * (b - a))])
    with pytest.raises(NotMixedError, match="differ in size"):
        find_mixing(features, list(a[:, :100]))


def test_the_bundled_pipelines_true_guidance_is_found():
    pipe = fs.zoo.load()
    pipe.set_progress_bar_config(disable=True)
    call = {"height": 64, "width": 64, "max_sequence_length": 16, "true_cfg_scale": 3.0, "negative_prompt": ""}
    kernel = fs.calibrate(pipe, ["a red apple"], num_inference_steps=6, sensitivity_prompts=0, **call)
    assert kernel.branches.names == ("cond", "uncond")
    assert kernel.branches.mixing == pytest.approx([3.0, -2.0], abs=1e-4)


def test_pipelines_of_other_kinds_are_recorded_as_before():
    for name, branches in (("flux", None), ("sd3", None)):
        tiny = build(name)
        with record_run(tiny.pipe) as trajectory, record_branches(tiny.pipe, trajectory) as recorder:
            recorded_sample = tiny.run(4)
        assert recorder.branches() is branches
        assert relative(recorded_sample, tiny.run(4)) == 0.0
