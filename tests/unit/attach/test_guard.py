"""Which calls continue a branch, by the arguments that they are given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from foreseer.attach.run.guard import ArgumentMemory, CallInputs, ConstantArguments

SAMPLE = torch.ones(4)


def inputs(prompt: Tensor, sample: Tensor = SAMPLE, **others: Any) -> CallInputs:
    return CallInputs((sample, 0.5), {"prompt": prompt, **others})


def begin(memory: ArgumentMemory, prompt: Tensor, sample: Tensor = SAMPLE) -> ConstantArguments:
    return ConstantArguments(inputs(prompt, sample), memory)


def continues(branch: ConstantArguments, call: CallInputs) -> bool:
    """Whether the call may continue the branch; if so it does."""
    if branch.score(call) < 0:
        return False
    branch.advance(call, subsample=True)
    return True


def test_a_constant_continues_and_another_tensor_in_its_place_does_not() -> None:
    memory, prompt = ArgumentMemory(), torch.ones(2)
    branch = begin(memory, prompt)
    assert continues(branch, inputs(prompt))
    assert branch.score(inputs(torch.ones(2))) == -1
    assert continues(branch, inputs(prompt))
    assert memory.constant == {"prompt"}


@pytest.mark.parametrize("alive", [True, False])
def test_arguments_rebuilt_for_every_call_are_ignored(alive: bool) -> None:
    memory, held = ArgumentMemory(), []
    for _ in range(2):
        branch = begin(memory, torch.ones(2))
        for _ in range(5):
            prompt = torch.ones(2)
            held += [prompt] if alive else []
            assert continues(branch, inputs(prompt))
    assert memory.rebuilt == {"prompt"}


def test_a_prompt_replaced_at_the_second_call_is_noticed_at_the_third_and_from_then_on() -> None:
    memory, other = ArgumentMemory(), torch.zeros(2)
    branch = begin(memory, torch.ones(2))
    assert continues(branch, inputs(other))  # may be rebuilt on every call
    assert not continues(branch, inputs(other))  # is not
    branch = begin(memory, torch.ones(2))
    assert not continues(branch, inputs(other))


def test_prompts_that_alternate_are_noticed_within_the_first_calls() -> None:
    memory, mine, other = ArgumentMemory(), torch.ones(2), torch.zeros(2)
    branch = begin(memory, torch.full((2,), 2.0))
    assert [continues(branch, inputs(prompt)) for prompt in (mine, other, mine)] == [True, True, False]
    branch = begin(memory, mine)
    assert not continues(branch, inputs(other))


def test_of_two_branches_the_one_with_more_identical_arguments_is_continued() -> None:
    prompts = torch.ones(2), torch.ones(2)
    branches = [begin(ArgumentMemory(), prompt) for prompt in prompts]
    assert [branch.score(inputs(prompts[1])) for branch in branches] == [0, 1]


def test_a_buffer_written_to_before_every_call_costs_one_step() -> None:
    memory, prompt = ArgumentMemory(), torch.ones(2)
    results = []
    branch = begin(memory, prompt)
    for _ in range(6):
        prompt += 1
        results.append(continues(branch, inputs(prompt)))
        branch = branch if results[-1] else begin(memory, prompt)
    assert results == [False, True, True, True, True, True]


def test_a_constant_written_to_later_is_another() -> None:
    memory, prompt = ArgumentMemory(), torch.ones(2)
    branch = begin(memory, prompt)
    assert continues(branch, inputs(prompt))
    prompt += 1
    assert not continues(branch, inputs(prompt))


@pytest.mark.parametrize(
    "other",
    [
        inputs(torch.ones(3)),
        inputs(torch.ones(2), torch.ones(5)),
        inputs(torch.ones(2), mode="read"),
        inputs(torch.ones(2), mode=None),
        inputs(torch.ones(2), masks=[torch.ones(1)]),
        inputs(torch.ones(2, dtype=torch.float64)),
        CallInputs((SAMPLE, 0.5, torch.ones(2)), {}),
    ],
)
def test_another_layout_does_not_continue(other: CallInputs) -> None:
    assert begin(ArgumentMemory(), torch.ones(2)).score(other) == -1


def test_the_layout_describes_shapes_and_dtypes_but_no_values() -> None:
    one, other = torch.ones(2, 3), torch.zeros(2, 3)
    assert CallInputs((one, 3), {"time": 0.5, "extra": {"scale": 2}}).layout == (
        CallInputs((other, 4), {"time": 0.7, "extra": {"scale": 3}}).layout
    )


def test_the_timestep_is_no_constant_wherever_it_is_given() -> None:
    timestep = torch.tensor([3.0])
    call = CallInputs((SAMPLE, timestep), {"audio_timestep": timestep, "prompt": torch.ones(2)}, timestep)
    assert set(call.tensors) == {"prompt"}
    assert call.sample is SAMPLE


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_samples_are_recognised_whatever_their_scale(scale: float) -> None:
    memory, prompt = ArgumentMemory(), torch.ones(2)
    samples = torch.randn(3, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    branches = [begin(memory, prompt, sample) for sample in samples]
    for index, sample in enumerate(samples):
        call = inputs(prompt, scale * sample + 0.5)
        cosines = [branch.cosine_similarity(call) for branch in branches]
        assert max(range(3), key=cosines.__getitem__) == index
    assert branches[0].cosine_similarity(inputs(prompt, torch.full((4, 64, 64), torch.nan))) == 0.0
    assert branches[0].cosine_similarity(inputs(prompt, torch.ones(1))) == 0.0


def test_inference_tensors_count_no_writes_and_are_recognised_all_the_same() -> None:
    with torch.inference_mode():
        memory, prompt = ArgumentMemory(), torch.ones(2)
        branch = begin(memory, prompt)
        assert continues(branch, inputs(prompt))
