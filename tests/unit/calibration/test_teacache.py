"""TeaCache's polynomial, fitted to a pipeline; thresholds found for a budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import foreseer as fs
from foreseer.calibration.calibrate import CalibrationError
from foreseer.calibration.fit_teacache import fit_teacache
from foreseer.evaluate.entries.tune_gates import GateTuning
from foreseer.gate import FirstBlock, GatedPolicy, StepControl, TeaCache
from foreseer.pipelines import load_pipeline
from tests.support.loop_pipeline import LoopPipeline

STEPS, PROMPTS = 16, ("a green pear", "a blue boat")
SIZE = {"height": 64, "width": 64, "max_sequence_length": 16}


@pytest.fixture(scope="module")
def pipe() -> Any:
    """The bundled pipeline."""
    found, _ = load_pipeline("emoji", "float32", "cpu")
    found.set_progress_bar_config(disable=True)
    return found


def test_the_fit_is_that_of_changes_recorded_by_hand(pipe: Any) -> None:
    block = pipe.transformer.transformer_blocks[0] if len(pipe.transformer.transformer_blocks) else None
    block = block or pipe.transformer.single_transformer_blocks[0]
    seen: dict[str, list[torch.Tensor]] = {"in": [], "out": []}
    hooks = [
        block.attn.to_q.register_forward_pre_hook(lambda _, args: seen["in"].append(args[0].clone())),
        pipe.transformer.register_forward_hook(lambda *given: seen["out"].append(given[2][0].clone())),
    ]
    pairs = []
    for index, prompt in enumerate(PROMPTS):
        for values in seen.values():
            values.clear()
        pipe(
            prompt,
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(3 + index),
            output_type="latent",
            **SIZE,
        )
        for step in range(1, STEPS):
            moved = [float((v[step] - v[step - 1]).abs().sum() / v[step - 1].abs().sum()) for v in seen.values()]
            pairs.append(moved)
    for hook in hooks:
        hook.remove()
    fit = fit_teacache(pipe, PROMPTS, num_inference_steps=STEPS, seed=3, **SIZE)
    np.testing.assert_allclose(fit.changes, pairs, rtol=1e-4)
    powers = np.vander(np.asarray(pairs)[:, 0], 5)
    missed = powers @ np.asarray(fit.coefficients) - np.asarray(pairs)[:, 1]
    best = np.linalg.lstsq(powers, np.asarray(pairs)[:, 1], rcond=None)[0]
    assert np.sqrt(np.mean(missed**2)) == pytest.approx(fit.residual, rel=1e-2)
    assert fit.residual <= np.sqrt(np.mean((powers @ best - np.asarray(pairs)[:, 1]) ** 2)) * 1.01
    assert fit.gate(0.3) == TeaCache(0.3, fit.coefficients)
    assert not any("compile" in vars(module) for module in pipe.transformer.modules())


@pytest.mark.parametrize("gate", [TeaCache(), FirstBlock(), StepControl(order=1)], ids=["teacache", "first", "control"])
def test_the_threshold_found_spends_the_budget_on_the_trials(pipe: Any, gate: Any) -> None:
    trials = GateTuning(pipe, STEPS, SIZE, PROMPTS)
    settled = trials.tune(GatedPolicy(gate, fs.forecast.Reuse(), "output"), nfe=7)
    assert abs(settled.nfe - 7) < 1
    assert trials.mean_nfe(settled.policy) == settled.nfe
    assert getattr(settled.policy.gate, settled.knob) == settled.value
    assert type(settled.policy.gate) is type(gate)


def test_what_cannot_be_fitted_is_refused(pipe: Any) -> None:
    with pytest.raises(CalibrationError, match="4 pairs of changes do not determine a polynomial of degree 4"):
        fit_teacache(pipe, PROMPTS[:1], num_inference_steps=5, **SIZE)
    with pytest.raises(CalibrationError, match="expected a list of a few prompts"):
        fit_teacache(pipe, "a pear")
    from tests.support.attaching import flow_scheduler

    with pytest.raises(CalibrationError, match="SmoothDenoiser has no block that takes its sample"):
        fit_teacache(LoopPipeline(flow_scheduler()), PROMPTS, num_inference_steps=6)
