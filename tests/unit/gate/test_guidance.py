"""Gates under guidance: two calls per step, or one with twice the batch."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

import foreseer as fs
from foreseer.errors import ForeseerWarning
from foreseer.forecast import Newton, Reuse
from foreseer.gate import FirstBlock, GatedPolicy, StepControl, TeaCache
from tests.support.pipelines import Prompted, build

STEPS, MOST = 12, 6
CALL = {
    "negative_prompt": "",
    "true_cfg_scale": 3.0,
    "guidance_scale": 1.0,
    "height": 64,
    "width": 64,
    "max_sequence_length": 16,
    "output_type": "latent",
}


@pytest.fixture(scope="module")
def emoji():
    """The bundled pipeline."""
    pipe = fs.zoo.load()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe):
    """The latents of one picture drawn with guidance."""
    given = {**CALL, "num_inference_steps": STEPS, "generator": torch.Generator().manual_seed(1)}
    return pipe("a red apple on a blue background", **given).images


@contextmanager
def counting(module):
    """Counts the calls of ``module``."""
    calls = []
    hook = module.register_forward_hook(lambda *_: calls.append(1))
    try:
        yield calls
    finally:
        hook.remove()


@pytest.fixture(scope="module")
def gates():
    """Functions by name, from the deciding branch and a largest NFE to a policy."""
    kernel = fs.Kernel.load(fs.zoo.kernel_path("emoji"))
    anywhere = {key: value for key, value in kernel.provenance.items() if key != "guidance"}
    learned = fs.gated(replace(kernel, provenance=anywhere), max_error=0.05)
    return {
        "gated": lambda who, most=MOST: GatedPolicy(learned.gate, learned.forecaster, "output", most, who),
        "step control": lambda who, most=MOST: GatedPolicy(StepControl(0.01), Newton(1), "output", most, who),
        "teacache": lambda who, most=MOST: GatedPolicy(TeaCache(0.2), Reuse(), "change", most, who),
        "first block": lambda who, most=MOST: GatedPolicy(FirstBlock(0.2), Reuse(), "change(kept=1)", most, who),
    }


@pytest.mark.parametrize(
    ("gate", "deciding"),
    [("gated", "first"), ("step control", "each"), ("teacache", "first"), ("first block", "each")],
)
def test_branches_keep_the_maximum_and_the_record_tells_the_calls(emoji, gates, gate, deciding):
    with fs.accelerate(emoji, gates[gate](deciding)) as handle:
        first = draw(emoji)  # where the site is proved, too
        with counting(emoji.transformer.single_transformer_blocks[-1]) as calls:
            second = draw(emoji)
    record = handle.record
    assert torch.equal(first, second)
    assert record.failed_open == []
    assert set(record.computed) == {"cond", "uncond"}
    steps = [set(computed) for computed in record.computed.values()]
    assert 1 < len(steps[0] | steps[1]) == record.nfe <= MOST
    assert len(calls) == record.forward_passes == sum(map(len, steps))
    assert {name: plan.computed_steps for name, plan in record.plans.items()} == {
        name: tuple(computed) for name, computed in record.computed.items()
    }
    if deciding == "first":
        assert steps[0] == steps[1]


def test_each_branch_decides_on_what_it_sees_itself(emoji, gates):
    with fs.accelerate(emoji, gates["first block"]("each", None)) as handle:
        draw(emoji)
    apart = handle.record.computed
    assert apart["cond"] != apart["uncond"]
    with fs.accelerate(emoji, gates["first block"]("first", None)) as handle:
        draw(emoji)
    assert handle.record.computed == {"cond": apart["cond"], "uncond": apart["cond"]}


@pytest.fixture(scope="module")
def reference(emoji):
    """The run with every step computed, never attached to."""
    return draw(emoji)


@pytest.mark.parametrize(
    ("gate", "site", "deciding"),
    [
        (TeaCache(0.0), "change", "first"),
        (FirstBlock(0.0), "change(kept=1)", "each"),
        (StepControl(1e-9), "output", "each"),
    ],
)
def test_a_gate_that_computes_every_step_changes_nothing(emoji, reference, gate, site, deciding):
    policy = GatedPolicy(gate, Reuse(), site, decided_by=deciding)
    told = pytest.warns(ForeseerWarning, match="all 12 steps of this run were computed")
    with told, fs.accelerate(emoji, policy) as handle:
        assert torch.equal(draw(emoji), reference)
    assert handle.record.nfe == STEPS
    assert handle.record.forward_passes == 2 * STEPS


def test_guidance_in_one_batch_is_one_branch():
    tiny = build("sdxl")
    kernel = fs.calibrate(Prompted(tiny), ["one", "two", "three"], num_inference_steps=STEPS)
    reference = tiny.run(STEPS)
    every = GatedPolicy(StepControl(1e-9), Newton(1))
    policies = [
        fs.gated(kernel, max_error=0.02, max_nfe=MOST),
        GatedPolicy(StepControl(0.01), Newton(1), max_nfe=MOST),
        GatedPolicy(TeaCache(0.3), Reuse(), max_nfe=MOST),
        GatedPolicy(FirstBlock(0.1), Reuse(), max_nfe=MOST),
    ]
    for policy in policies:
        with fs.accelerate(tiny.pipe, policy) as handle:
            first = tiny.run(STEPS)  # where what the gate looks at is found, too
            with counting(tiny.pipe.unet.up_blocks[-1]) as calls:
                assert torch.equal(tiny.run(STEPS), first)
        assert handle.record.failed_open == []
        assert list(handle.record.computed) == ["call 1"]
        assert 1 < handle.record.nfe == handle.record.forward_passes == len(calls) <= MOST
    with pytest.warns(ForeseerWarning, match="saved nothing"), fs.accelerate(tiny.pipe, every) as handle:
        assert torch.equal(tiny.run(STEPS), reference)
    assert handle.record.nfe == STEPS
