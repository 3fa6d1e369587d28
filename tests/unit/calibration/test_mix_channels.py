"""Corrections that mix channels: fitted on moments, chosen by held-out prompts, better on others."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

import foreseer as fs
from foreseer.calibration.calibrate import CalibrationError
from foreseer.calibration.mix_channels import channel_axis_of
from foreseer.calibration.mixing_moments import MixingMoments, choose_matrices
from tests.support.loop_pipeline import relative
from tests.unit.calibration.test_refine import CountedCalls

STEPS, NFE, CHANNELS = 10, 4, 6
PROMPTS = [f"training prompt {index}" for index in range(4)]


class TokenDenoiser(nn.Module):
    """Channels rotate and bend with the noise level, beyond the span of earlier outputs."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        first, second = torch.randn(2, CHANNELS, CHANNELS, generator=generator) / CHANNELS**0.5
        self.first, self.turn = nn.Parameter(first), nn.Parameter(second - second.T)

    def forward(self, hidden_states, timestep, words, return_dict=False):
        t = (timestep / 1000).reshape(-1)[0]
        turned = hidden_states @ torch.matrix_exp(2.0 * t * self.turn)
        return (turned - words + 0.2 * torch.tanh(hidden_states @ self.first),)


class TokenPipeline:
    """Samples of shape (1, N, C), or (1, C, N, 1), by one network call per step, or two under guidance."""

    def __init__(self, tokens=40, picture=False):
        self.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
        self.transformer = TokenDenoiser().eval().requires_grad_(False)
        self.tokens, self.picture = tokens, picture
        if picture:
            network = self.transformer.forward
            self.transformer.forward = lambda hidden_states, timestep, words: (
                network(hidden_states[..., 0].mT, timestep, words)[0].mT[..., None],
            )

    @torch.no_grad()
    def __call__(self, prompt, num_inference_steps=STEPS, generator=None, guidance_scale=1.0, output_type="latent"):
        self.scheduler.set_timesteps(num_inference_steps)
        words = torch.randn(1, 1, CHANNELS, generator=torch.Generator().manual_seed(sum(prompt.encode())))
        shape = (1, CHANNELS, self.tokens, 1) if self.picture else (1, self.tokens, CHANNELS)
        sample = torch.randn(shape, generator=generator)
        for t in self.scheduler.timesteps:
            output = self.transformer(sample, timestep=t, words=words)[0]
            if guidance_scale != 1.0:
                without = self.transformer(sample, timestep=t, words=torch.zeros_like(words))[0]
                output = without + guidance_scale * (output - without)
            sample = self.scheduler.step(output, t, sample, return_dict=False)[0]
        return SimpleNamespace(images=sample)


def measured_error(pipe, plan, **options):
    errors = []
    for seed in range(500, 512):
        samples = []
        for attached in (None, plan):
            handle = fs.accelerate(pipe, attached, strict=True) if attached is not None else None
            generator = torch.Generator().manual_seed(seed)
            samples.append(pipe(f"unseen {seed}", generator=generator, **options).images.double())
            if handle is not None:
                handle.detach()
        errors.append(relative(samples[1], samples[0]))
    return float(np.sqrt(np.mean(np.square(errors))))


def rolled(pipe, **options):
    """A rollout that weighs outputs alone, so that all of what they leave is for the channels."""
    kernel = fs.calibrate(pipe, PROMPTS, num_inference_steps=STEPS, sensitivity_prompts=0, **options)
    steps = fs.schedule.Explicit((0, 2, 4, 7), of=STEPS)
    return replace(fs.rollout(pipe, kernel, PROMPTS[:3], schedule=steps, **options), start_row=None)


@pytest.mark.parametrize("picture", [False, True])
def test_mixing_comes_nearer_where_outputs_leave_the_span_of_earlier_ones(picture):
    pipe = TokenPipeline(picture=picture)
    plan = rolled(pipe)
    calls = CountedCalls(pipe.transformer)
    mixed = fs.mix_channels(pipe, plan, PROMPTS, held_out=1)
    calls.remove()
    assert calls.count == 1 + len(PROMPTS) * (STEPS + NFE) + 2 * NFE
    assert mixed.mixing.axis == (1 if picture else -1)
    assert mixed.mixing.channels == CHANNELS
    before, after = measured_error(pipe, plan), measured_error(pipe, mixed)
    assert after < 0.5 * before
    assert float(mixed.provenance["expected_error"].split()[0]) == pytest.approx(after, rel=0.5)
    assert np.array_equal(mixed.rows, plan.rows)
    larger = TokenPipeline(tokens=100, picture=picture)
    assert measured_error(larger, mixed) < 0.6 * measured_error(larger, plan)


def test_mixing_serves_branches_of_guidance_and_refinement_goes_on_from_it():
    pipe = TokenPipeline()
    plan = rolled(pipe, guidance_scale=3.0)
    assert len(plan.branch_rows) == 2
    mixed = fs.mix_channels(pipe, plan, PROMPTS, held_out=1, guidance_scale=3.0)
    assert {segment.branch for segment in mixed.mixing.segments} == set(plan.branch_rows)
    after = measured_error(pipe, mixed, guidance_scale=3.0)
    assert after < 0.6 * measured_error(pipe, plan, guidance_scale=3.0)
    refined = fs.refine(pipe, mixed, PROMPTS, held_out=1, iterations=1, guidance_scale=3.0)
    assert refined.mixing == mixed.mixing
    assert measured_error(pipe, refined, guidance_scale=3.0) < after


def test_where_mixing_does_not_help_the_plan_stays_and_says_so():
    pipe = TokenPipeline(tokens=1)
    plan = rolled(pipe)
    mixed = fs.mix_channels(pipe, plan, PROMPTS[:2], held_out=1)
    if mixed.mixing is None:
        segments = sum(end - step > 1 for step, end in itertools.pairwise((*plan.computed_steps, STEPS)))
        assert mixed.provenance["mixing"].startswith(f"none: of {segments} segments")
    else:
        assert measured_error(pipe, mixed) < 1.2 * measured_error(pipe, plan)


def test_matrices_are_the_least_squares_ones_of_all_tokens():
    generator = torch.Generator().manual_seed(0)
    prompts = [[torch.randn(50, 3, generator=generator) for _ in range(3)] for _ in range(4)]
    fitted, held = MixingMoments.none(2, 3), MixingMoments.none(2, 3)
    for index, (first, second, missing) in enumerate(prompts):
        moments = MixingMoments.of([first, second], missing + first.roll(1, dims=1))
        fitted, held = (fitted + moments, held) if index < 3 else (fitted, held + moments)
    design = np.vstack([np.hstack([first.numpy(), second.numpy()]) for first, second, _ in prompts[:3]]).astype(float)
    target = np.vstack([(missing + first.roll(1, dims=1)).numpy() for first, _, missing in prompts[:3]]).astype(float)
    best = np.linalg.lstsq(design, target, rcond=None)[0]
    assert fitted.fit(0.0) == pytest.approx(best, abs=1e-6)
    assert fitted.left(best) == pytest.approx(np.square(target - design @ best).sum(), rel=1e-6)
    fit = choose_matrices(fitted, held)
    assert fit.matrices.shape == (2, 3, 3)
    assert fit.kept == pytest.approx(held.left(fit.matrices.reshape(6, 3)) / held.square)
    assert all(held.left(fitted.fit(ridge)) >= fit.kept * held.square for ridge in (1e-7, 1e-3, 1.0))


def test_noise_alone_is_not_fitted():
    generator = torch.Generator().manual_seed(1)
    prompts = [[torch.randn(6, 4, generator=generator) for _ in range(3)] for _ in range(4)]
    fitted, held = MixingMoments.none(2, 4), MixingMoments.none(2, 4)
    for index, (first, second, missing) in enumerate(prompts):
        moments = MixingMoments.of([first, second], missing)
        fitted, held = (fitted + moments, held) if index < 2 else (fitted, held + moments)
    fit = choose_matrices(fitted, held)
    unguarded = held.left(fitted.fit(1e-7)) / held.square
    assert unguarded > 1.2
    assert fit.kept <= 1.0
    assert fit.matrices is None or fit.ridge >= 1.0


def test_what_cannot_be_mixed_is_refused():
    assert channel_axis_of((1, 16, 21, 60, 104)) == 1
    with pytest.raises(CalibrationError, match="channel_axis"):
        channel_axis_of((1, 16))
    pipe = TokenPipeline()
    plan = rolled(pipe)
    every = fs.Policy(fs.schedule.Uniform(interval=1), fs.forecast.Reuse()).compile(plan.grid)
    with pytest.raises(CalibrationError, match="every step"):
        fs.mix_channels(pipe, every, PROMPTS)
    with pytest.raises(CalibrationError, match="held out"):
        fs.mix_channels(pipe, plan, PROMPTS[:1])


def test_a_prompt_that_misses_much_does_not_decide_the_matrices():
    generator = np.random.default_rng(0)
    features = [torch.tensor(generator.normal(size=(40, 2))) for _ in range(2)]
    wanted = (0.01 * features[0], torch.tensor(100.0 * generator.normal(size=(40, 2))))
    moments = [MixingMoments.of([feature], missing) for feature, missing in zip(features, wanted, strict=True)]
    assert np.abs(sum(moments, MixingMoments.none(1, 2)).fit(0.0)).max() > 1.0
    weighed = sum((each.relative() for each in moments), MixingMoments.none(1, 2))
    assert weighed.fit(0.0) == pytest.approx(0.01 * np.eye(2), abs=0.005)
