"""Calibrated on two prompts, saved, loaded and attached: every pipeline, end to end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import foreseer as fs
from foreseer.runtime import BranchRun
from tests.contract.pipelines.conftest import built
from tests.contract.pipelines.expected import branch_names, seen_steps
from tests.support.pipelines import Prompted, TinyPipeline

STEPS = 6
PROMPTS = ["a red apple", "two green pears"]


def drawn(tiny: TinyPipeline) -> Tensor:
    """The final sample of a prompt that calibration does not see."""
    return Prompted(tiny)("a blue plum", STEPS, torch.Generator().manual_seed(9)).images.double()


def test_a_calibrated_policy_serves_the_pipeline(tiny: TinyPipeline, tmp_path: Path) -> None:
    pipe = Prompted(tiny)
    kernel = fs.calibrate(pipe, PROMPTS, num_inference_steps=STEPS, sensitivity_prompts=0)
    length = STEPS - tiny.first_step(STEPS)
    assert len(kernel.grid) == length
    assert kernel.sampler is not None
    kernel.save(tmp_path / "kernel.safetensors")
    loaded = fs.Kernel.load(tmp_path / "kernel.safetensors")
    assert np.array_equal(loaded.grams, kernel.grams)

    nfe = length - 1
    reference = drawn(tiny)
    with fs.accelerate(pipe, fs.learned(loaded, nfe=nfe), strict=True) as handle:
        sample = drawn(tiny)
    record = handle.record
    assert record is not None
    assert record.nfe == nfe
    assert sorted(record.computed) == sorted(branch_names(tiny))
    for name, seen in seen_steps(tiny, STEPS).items():
        assert sorted(record.computed[name] + record.forecast.get(name, [])) == list(seen)
    error = float((sample - reference).norm() / reference.norm())
    assert error < 0.5
    skipped = kernel.sampler[-1, 1:][[step - tiny.first_step(STEPS) for step in record.forecast_steps]]
    assert (error > 0) == bool(np.any(skipped))  # a step of no length, Z-Image's last of diffusers 0.37, costs nothing


@pytest.mark.parametrize("tiny", ["flux2_klein", "wan", "wan_2_2", "hunyuan_video_1_5", "chroma"], indirect=True)
def test_branches_of_linear_guidance_have_rows_of_their_own(tiny: TinyPipeline) -> None:
    kernel = fs.calibrate(Prompted(tiny), PROMPTS, num_inference_steps=STEPS, sensitivity_prompts=0)
    assert kernel.branches is not None
    assert kernel.branches.names == tiny.branches
    assert abs(float(kernel.branches.mixing.sum()) - 1.0) < 1e-4


@pytest.mark.parametrize("name", ["flux", "ltx2"])
def test_an_uncalibrated_pipeline_is_left_as_it_was(name: str) -> None:
    tiny = built(name)
    before = drawn(tiny)
    fs.calibrate(Prompted(tiny), PROMPTS, num_inference_steps=STEPS)
    assert "step" not in vars(tiny.pipe.scheduler)
    assert torch.equal(drawn(tiny), before)


def test_two_denoisers_keep_histories_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every forecast is the weighted sum of the outputs of the same denoiser and branch."""
    tiny = built("wan_2_2")
    given: dict[int, dict[int, Tensor]] = {}
    wrong, forecasts = [], Counter()
    computed, forecast = BranchRun.computed, BranchRun.forecast

    def keep(run: BranchRun, step: int, tensors: Sequence[Tensor], *names: Any, **rest: Any) -> None:
        given.setdefault(id(run), {})[step - run.first_step] = tensors[0].clone()
        computed(run, step, tensors, *names, **rest)

    def compare(run: BranchRun, step: int) -> Sequence[Tensor]:
        sources, weights = run.rows.sparse_rows[step - run.first_step]
        expected = sum(weight * given[id(run)][source] for source, weight in zip(sources, weights, strict=True))
        found = list(forecast(run, step))
        forecasts[run.first_step] += 1
        wrong.extend([step] if not torch.allclose(found[0], expected, atol=1e-5) else [])
        return found

    monkeypatch.setattr(BranchRun, "computed", keep)
    monkeypatch.setattr(BranchRun, "forecast", compare)
    policy = fs.Policy(fs.schedule.Uniform(interval=2, warmup=1), fs.forecast.Newton(order=1))
    with fs.accelerate(tiny.pipe, policy, strict=True):
        tiny.run(10)
    assert len(given) == 4
    assert len(forecasts) == 2
    assert min(forecasts) == 0
    assert not wrong


@pytest.mark.parametrize("nfe", [5, 7, 9])
def test_two_denoisers_share_one_budget(nfe: int) -> None:
    tiny = built("wan_2_2")
    pipe = Prompted(tiny)
    kernel = fs.calibrate(pipe, PROMPTS, num_inference_steps=12, sensitivity_prompts=0)
    with fs.accelerate(pipe, fs.learned(kernel, nfe=nfe), strict=True) as handle:
        pipe("a blue plum", 12, torch.Generator().manual_seed(9))
    assert handle.record is not None
    assert handle.record.nfe == nfe
