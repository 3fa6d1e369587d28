"""A network that returns several tensors: each has separate rows, or the reason is recorded."""

import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import foreseer as fs
from tests.support.loop_pipeline import relative
from tests.support.networks_video import LTX2_GUIDES_MORE
from tests.support.parts import PROMPT
from tests.support.pipelines import ROWS, Prompted, build
from tests.support.sound_pipeline import BEATS, SIZE, SoundPipeline

STEPS = 20
NFE = 7
PROMPTS = [f"training prompt {index}" for index in range(4)]
SEEDS = (91,)


@pytest.fixture(scope="module")
def pipe():
    return SoundPipeline()


@pytest.fixture(scope="module")
def kernel(pipe):
    return fs.calibrate(pipe, PROMPTS, num_inference_steps=STEPS, sensitivity_prompts=0)


def sampled(pipe, seed, policy=None, **options):
    """Video, sound and record of one run."""
    call = {"num_inference_steps": STEPS, "generator": torch.Generator().manual_seed(seed), **options}
    if policy is None:
        result, record = pipe("a held-out prompt", **call), None
    else:
        with fs.accelerate(pipe, policy, strict=True) as handle:
            result = pipe("a held-out prompt", **call)
        record = handle.record
    return result.images.double(), result.sound.double(), record


def rows_of(kernel):
    """Kernel rows on even steps, which need no search."""
    rows = fs.forecast.KernelRows(kernel, ridge=1e-5, feedback_gain=0.5)
    return fs.Policy(fs.schedule.Uniform.for_nfe(NFE, STEPS, warmup=2), rows)


def errors(pipe, policy, **options):
    """Mean relative errors of video and sound, and the last record."""
    found = []
    for seed in SEEDS:
        run, truth = sampled(pipe, seed, policy, **options), sampled(pipe, seed, **options)
        found.append([relative(one, other) for one, other in zip(run[:2], truth[:2], strict=True)])
        record = run[2]
    return (*np.mean(found, axis=0).tolist(), record)


def shared(policy, grid):
    """The same plan without rows of further tensors."""
    return replace(policy.compile(grid), part_rows={})


@pytest.mark.parametrize("options", [{}, {"guidance_scale": 3.0}, {"batch": 3}], ids=["plain", "guided", "batch"])
def test_the_sound_follows_separate_rows(pipe, kernel, options, tmp_path):
    call = {name: value for name, value in options.items() if name != "batch"}
    if call:
        kernel = fs.calibrate(pipe, PROMPTS, num_inference_steps=STEPS, sensitivity_prompts=0, **call)
        assert kernel.branches is not None
    assert kernel.parts.names == ("tensor 2",)
    kernel.save(tmp_path / "a.kernel.safetensors")
    policy = fs.learned(fs.Kernel.load(tmp_path / "a.kernel.safetensors"), nfe=NFE)
    video, sound, record = errors(pipe, policy, **options)
    assert record.nfe == NFE
    assert record.forward_passes == NFE * len(record.computed)
    assert len(record.computed) == 1 + len(call)
    assert not record.notes
    video_before, sound_before, _ = errors(pipe, shared(policy, kernel.grid), **options)
    assert video == pytest.approx(video_before)  # the sound has no effect on this video
    assert sound < 0.5 * sound_before


def test_the_moments_are_those_of_the_guided_sound(pipe):
    """By hand: second moments of what is passed to the sound's scheduler, not of what the network returns."""
    options = {"num_inference_steps": STEPS, "sensitivity_prompts": 0}
    kernel = fs.calibrate(pipe, PROMPTS[:1], **options, guidance_scale=3.0)
    given = []
    step = type(pipe.scheduler).step

    class Watched(type(pipe.scheduler)):
        def step(self, output, t, sample, **more):
            given.append(output.double().reshape(-1))
            return step(self, output, t, sample, **more)

    watched = SoundPipeline()
    watched.scheduler = Watched(shift=2.0)
    watched(PROMPTS[0], STEPS, torch.Generator().manual_seed(0), guidance_scale=3.0)
    sounds = torch.stack(given[1::2])
    assert kernel.parts.grams[0] == pytest.approx((sounds @ sounds.T).numpy() / sounds.shape[1], rel=1e-6)
    assert kernel.subset([0]).parts is None
    assert kernel.merge(kernel, allow_overlap=True).parts.grams == pytest.approx(kernel.parts.grams)


def test_other_grids_and_late_starts_have_separate_rows_too(pipe, kernel):
    policy = rows_of(kernel)
    for plan in (policy.compile(kernel.grid, 3), policy.compile(fs.Grid(kernel.grid.levels[::2], kernel.grid.unit))):
        assert plan.part_rows.keys() == {"tensor 2"}
        assert not np.allclose(plan.part_rows["tensor 2"], plan.rows)
    _, sound, _ = errors(pipe, policy, num_inference_steps=14)
    _, sound_before, _ = errors(pipe, rows_of(replace(kernel, parts=None)), num_inference_steps=14)
    assert sound < 0.7 * sound_before


def test_a_sound_sampled_by_a_formula_has_separate_rows_without_guidance_only():
    pipe = SoundPipeline(copies=False)
    options = {"num_inference_steps": STEPS, "sensitivity_prompts": 0}
    kernel = fs.calibrate(pipe, PROMPTS, **options)
    policy = rows_of(kernel)
    assert errors(pipe, policy)[1] < 0.5 * errors(pipe, shared(policy, kernel.grid))[1]
    guided = fs.calibrate(pipe, PROMPTS[:2], **options, guidance_scale=3.0)
    assert guided.parts is None
    assert guided.provenance["tensors"].startswith("share the rows of the first: guidance combines them")
    assert guided.branches is None
    assert guided.provenance["branches"].startswith("share their rows")
    assert errors(pipe, rows_of(guided), guidance_scale=3.0)[2].nfe == NFE


@pytest.mark.parametrize("change", ["half", "whole numbers", "none", "not finite"])
def test_other_tensors_are_served(change, kernel):
    pipe = SoundPipeline()
    network = pipe.transformer
    if change == "none":
        network.silent = True
    elif change == "not finite":
        network.beat.fill_(float("inf"))
    else:
        network.dtype = {"half": torch.float16, "whole numbers": torch.int32}[change]
    own = fs.calibrate(pipe, PROMPTS[:2], num_inference_steps=STEPS, sensitivity_prompts=0)
    assert (own.parts is not None) == (change in ("half", "whole numbers"))
    assert ("tensors" in own.provenance) == (change == "not finite")
    if change == "not finite":
        return  # every step is computed, as for a video that is not finite
    for policy in (rows_of(own), rows_of(kernel)):
        video, sound, record = errors(pipe, policy)
        assert record.nfe == NFE
        assert video < 0.2
        assert sound < 0.5
        assert bool(record.notes) == (change == "none" and policy.forecaster.kernel is kernel)


def test_branches_compute_at_the_same_steps(pipe):
    """Rows of a branch at fewer steps weigh another branch's features, which suits one tensor only."""
    kernel = fs.calibrate(pipe, PROMPTS[:2], num_inference_steps=STEPS, sensitivity_prompts=0, guidance_scale=3.0)
    for fit in (fs.learned, lambda known, **budget: fs.rollout(pipe, known, PROMPTS[:1], **budget)):
        with pytest.raises(fs.ForeseerError, match=r"returns several tensors.*give nfe"):
            fit(kernel, forward_passes=13)


def test_a_rollout_keeps_the_kernels_rows_of_the_sound(pipe, kernel, tmp_path):
    plan = fs.rollout(pipe, kernel, PROMPTS[:2], schedule=fs.learned(kernel, nfe=NFE).schedule)
    plan.save(tmp_path / "a.plan.safetensors")
    assert fs.Plan.load(tmp_path / "a.plan.safetensors") == plan
    rows = fs.learned(kernel, nfe=NFE).compile(kernel.grid)
    assert rows.computed_steps == plan.computed_steps
    assert plan.part_rows["tensor 2"] == pytest.approx(rows.part_rows["tensor 2"])
    video, sound, _ = errors(pipe, plan)
    video_before, sound_before, _ = errors(pipe, replace(plan, part_rows={}))
    assert video == pytest.approx(video_before)
    assert sound < 0.5 * sound_before


def test_a_loop_recorded_by_hand_has_separate_rows_in_its_wrapper():
    network, grid = SoundPipeline().transformer, fs.Grid.uniform(STEPS)

    def denoise(video, sound, t):
        return network(video, sound, timestep=t, words=torch.zeros(SIZE))

    def loop(denoise, seed):
        generator = torch.Generator().manual_seed(seed)
        video, sound = torch.randn(2, 4, SIZE, generator=generator), torch.randn(2, 3, BEATS, generator=generator)
        for step in range(STEPS):
            outputs = denoise(step, video, sound, torch.tensor(1000 * (1 - step / STEPS)))
            video, sound = video - outputs[0] / STEPS, sound - outputs[1] / STEPS
        return sound

    recorder = fs.Recorder(grid)
    for seed in range(4):
        record = recorder.record(denoise)
        loop(lambda step, *arguments, record=record: record(*arguments), seed)
    kernel = recorder.kernel()
    assert kernel.parts.names == ("tensor 2",)
    policy = rows_of(kernel)
    truth = loop(lambda step, *arguments: denoise(*arguments), 91)
    found = [loop(fs.wrap(denoise, each, grid), 91) for each in (policy, shared(policy, grid))]
    assert relative(found[0], truth) < 0.5 * relative(found[1], truth)


class Unguided(Prompted):
    """LTX-2 without guidance: one call per step."""

    def __call__(self, prompt, num_inference_steps=8, generator=None, output_type="latent"):
        token = PROMPT.set(zlib.crc32(prompt.encode()))
        plain = dict.fromkeys(("guidance_scale", "modality_scale", "audio_guidance_scale", "audio_modality_scale"), 1.0)
        plain |= {"stg_scale": 0.0, "audio_stg_scale": 0.0}
        arguments = {**ROWS["ltx2"].arguments(1, 64), **(plain if LTX2_GUIDES_MORE else {"guidance_scale": 1.0})}
        try:
            result = self.tiny.pipe(**arguments, num_inference_steps=num_inference_steps, generator=generator)
            return SimpleNamespace(images=result.frames, sound=result.audio)
        finally:
            PROMPT.reset(token)


@pytest.mark.filterwarnings("ignore:The rows were learned with no guidance")
def test_ltx_2_samples_its_sound_with_separate_rows():
    torch.manual_seed(0)
    pipe = Unguided(build("ltx2"))
    kernel = fs.calibrate(pipe, PROMPTS, num_inference_steps=STEPS, sensitivity_prompts=0)
    policy = fs.learned(kernel, nfe=5)
    video, sound, record = errors(pipe, policy)
    assert record.nfe == record.forward_passes == 5
    video_before, sound_before, _ = errors(pipe, shared(policy, kernel.grid))
    assert video < 1.05 * video_before
    assert sound < 0.9 * sound_before
    guided = {"strict": True, "allow_other_guidance": True}  # three branches of guidance, a batch
    with fs.accelerate(pipe.tiny.pipe, policy, **guided) as handle:
        pipe.tiny.run(STEPS, batch=2)
    assert handle.record.nfe == 5
    assert len(handle.record.computed) == len(pipe.tiny.branches)
    assert not handle.record.notes
