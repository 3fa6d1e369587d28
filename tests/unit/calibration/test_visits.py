"""Learned rows with schedulers that visit noise levels more than once."""

from __future__ import annotations

import math
from functools import cache
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import foreseer as fs
from foreseer.errors import GridError
from foreseer.kernel.interpolate import resampled
from foreseer.kernel.level_interpolation import LevelInterpolation
from tests.support.loop_pipeline import SIZE, LoopPipeline, relative, sample

STEPS, SHORTER = 8, 6
TRAINING, HELD_OUT = [f"training prompt {index}" for index in range(5)], ["one", "another"]
BETAS = {"beta_schedule": "scaled_linear"}
SCHEDULERS = {
    "flow heun": lambda: diffusers.FlowMatchHeunDiscreteScheduler(shift=2.0),
    "heun": lambda: diffusers.HeunDiscreteScheduler(**BETAS),
    "pndm": lambda: diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True),
}
EACH = pytest.mark.parametrize("name", SCHEDULERS)


@cache
def loop(name: str) -> LoopPipeline:
    return LoopPipeline(SCHEDULERS[name]())


@cache
def kernel(name: str) -> fs.Kernel:
    return fs.calibrate(loop(name), TRAINING, num_inference_steps=STEPS, sensitivity_prompts=0)


def error(name: str, method: Any, steps: int = STEPS, **options: Any) -> tuple[float, fs.Handle]:
    """Mean relative error of the final samples of held-out prompts."""
    pipe = loop(name)
    draw = [
        lambda seed=seed, prompt=prompt: sample(pipe, prompt, seed, num_inference_steps=steps)
        for seed, prompt in enumerate(HELD_OUT)
    ]
    references = [each() for each in draw]
    with fs.accelerate(pipe, method, **options) as handle:
        errors = [relative(each(), reference) for each, reference in zip(draw, references, strict=True)]
    assert handle.record is not None
    return float(np.mean(errors)), handle


@EACH
def test_every_call_is_a_step_and_the_last_row_of_the_sampler_matrix_knows_both_visits(name: str) -> None:
    calls, learned = loop(name).scheduler, kernel(name)
    calls.set_timesteps(STEPS)
    assert len(learned.grid) == len(calls.timesteps) > STEPS
    assert sum(map(bool, learned.grid.visits)) == len(calls.timesteps) - STEPS
    assert learned.sampler is not None
    assert learned.has_final_error
    every_second = fs.Policy(fs.schedule.Uniform(interval=2), fs.forecast.KernelRows(learned))
    with fs.accelerate(loop(name), every_second) as handle:  # more calls than twice 8, but not more levels: no warning
        sample(loop(name), "one", 0, num_inference_steps=2 * STEPS)
    assert handle.record is not None
    assert handle.record.nfe == math.ceil(handle.record.steps / 2)


@pytest.mark.parametrize("name", ["flow heun", "pndm"])
def test_learned_rows_miss_less_than_formulas_at_the_same_number_of_computed_calls(name: str) -> None:
    theirs = [error(name, formula, nfe=2, site="output") for formula in ("taylorseer", "adams-bashforth")]
    nfe = theirs[0][1].record.nfe
    ours, handle = error(name, kernel(name), nfe=nfe)
    assert (handle.record.nfe, handle.record.failed_open) == (nfe, [])
    assert len(handle.record.forecast["call 1"]) == len(kernel(name).grid) - nfe
    for missed, formula in theirs:
        assert (formula.record.nfe, formula.record.failed_open) == (nfe, [])
        assert ours < missed / 4


@pytest.mark.parametrize("name", ["flow heun", "pndm"])
def test_another_number_of_steps_is_served_by_interpolation_of_each_visit(name: str) -> None:
    ours, handle = error(name, kernel(name), SHORTER, nfe=5)
    assert (handle.record.nfe, handle.record.failed_open) == (5, [])
    assert ours < error(name, "taylorseer", SHORTER, nfe=3, site="output")[0]
    learned, wanted = kernel(name), handle.record.plans["call 1"].grid
    first, of_wanted = (np.flatnonzero(np.array(grid.visits) == 0) for grid in (learned.grid, wanted))
    plain, shorter = (
        fs.Grid(grid.levels[kept], grid.unit, grid.final_level)
        for grid, kept in ((learned.grid, first), (wanted, of_wanted))
    )
    of_first_visits = fs.Kernel(plain, learned.grams[:, first[:, None], first]).on(shorter)
    guess = learned.on(wanted)
    np.testing.assert_allclose(guess.grams[:, of_wanted[:, None], of_wanted], of_first_visits.grams, atol=1e-9)
    again = np.flatnonzero(wanted.visits)
    apart = np.eye(len(wanted))[again] - np.eye(len(wanted))[again - 1]
    assert (np.einsum("ki,ij,kj->k", apart, guess.pooled, apart) < 0.05 * np.diag(guess.pooled)[again]).all()


def test_interpolation_gives_the_recorded_visits_back() -> None:
    grid = kernel("heun").grid
    same = LevelInterpolation.grids(grid, grid, kernel("heun").pooled)
    np.testing.assert_allclose(same.weights, np.eye(len(grid)), atol=1e-4)  # visits lie a millionth apart
    plain = fs.Grid(grid.levels[np.array(grid.visits) == 0], grid.unit, grid.final_level)
    joined = LevelInterpolation.grids(plain, grid, kernel("heun").pooled[::2, ::2][: len(plain), : len(plain)])
    assert np.array_equal(joined.weights[1], joined.weights[2])  # where no second visits were recorded, the first's
    with pytest.raises(GridError, match="more than once"):
        resampled(grid, 5)


def test_rollout_and_its_file(tmp_path: Any) -> None:
    plan = fs.rollout(loop("flow heun"), kernel("flow heun"), TRAINING, nfe=4)
    plan.save(tmp_path / "plan.safetensors")
    ours, handle = error("flow heun", fs.Plan.load(tmp_path / "plan.safetensors"))
    assert (handle.record.nfe, handle.record.failed_open) == (4, [])
    assert ours < 0.05
    assert plan.grid.repeats


def test_branches_of_guidance_have_separate_rows() -> None:
    pipe = loop("heun")
    learned = fs.calibrate(pipe, TRAINING[:3], num_inference_steps=6, sensitivity_prompts=0, guidance_scale=3.0)
    assert learned.branches is not None
    with fs.accelerate(pipe, learned, nfe=5) as handle:
        sample(pipe, "one", 0, num_inference_steps=6, guidance_scale=3.0)
    assert [len(steps) for steps in handle.record.computed.values()] == [5, 5]
    assert set(handle.record.plans["call 1"].plan.branch_rows) == {"call 1", "call 2"}


class SeveralRuns(LoopPipeline):
    """A call that steps back once per step, and makes a second run after the first."""

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, prompt: str, num_inference_steps: int = 20, generator: Any = None, output_type: str = "latent"
    ) -> Any:
        scheduler, step = self.scheduler, self.scheduler.step

        def twice(output: Any, *given: Any, **more: Any) -> Any:
            step(output, *given, **more)
            scheduler._step_index -= 1
            return step(output, *given, **more)

        scheduler.step = twice
        try:
            result = super().__call__(prompt, num_inference_steps, generator)
        finally:
            scheduler.step = step
        super().__call__(f"{prompt}, the second part", num_inference_steps - 1, generator)
        return result


class FromPicture(LoopPipeline):
    """A run that begins late, as image to image does: at the second visit of PNDM's second level."""

    @torch.no_grad()
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, prompt: str, num_inference_steps: int = 20, generator: Any = None, output_type: str = "latent"
    ) -> Any:
        self.scheduler.set_timesteps(num_inference_steps)
        x = words = torch.randn(1, 4, SIZE, generator=generator)
        for t in self.scheduler.timesteps[2:]:
            x = self.scheduler.step(self.transformer(x, t, words)[0], t, x, return_dict=False)[0]
        return SimpleNamespace(images=x)


@pytest.mark.parametrize("learned", [True, False])
def test_a_run_that_begins_after_the_repeated_level_is_one_sequence(learned: bool) -> None:
    pipe = FromPicture(diffusers.PNDMScheduler(skip_prk_steps=True))
    method: Any = fs.calibrate(pipe, ["one"], num_inference_steps=8, sensitivity_prompts=0)
    assert not method.grid.repeats
    method, options = (method, {}) if learned else ("taylorseer", {"site": "output"})
    with fs.accelerate(pipe, method, nfe=4, **options) as handle:
        pipe("another", 8, torch.Generator().manual_seed(1))
    assert handle.record is not None
    assert (handle.record.nfe, handle.record.failed_open, handle.record.begun_late) == (4, [], [])


def test_the_first_run_of_a_call_is_recorded_and_a_repeated_step_counts_once() -> None:
    euler = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    plain, several = (
        fs.calibrate(kind(euler), TRAINING[:2], num_inference_steps=5, sensitivity_prompts=0)
        for kind in (LoopPipeline, SeveralRuns)
    )
    assert several.grid == plain.grid
    assert np.array_equal(several.grams, plain.grams)
    assert several.final_squares is not None
    assert plain.final_squares is not None
    assert np.array_equal(several.final_squares, plain.final_squares)
