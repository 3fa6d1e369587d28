"""By which arguments calls are known to go on with a branch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from foreseer.attach.conditioning import Conditioning, Places


def call(places: Places, prompt: Tensor, sample: Tensor | None = None) -> Conditioning:
    made = Conditioning((torch.ones(4) if sample is None else sample, 0.5), {"prompt": prompt}, (1, "t"))
    made.places = places
    return made


def goes_on(branch: Conditioning, later: Conditioning) -> bool:
    """Whether it may, and then does."""
    found = branch.may_go_on(later)
    if found:
        branch.go_on(later)
    return found


def test_what_stays_goes_on_and_another_object_does_not() -> None:
    places, prompt = Places(), torch.ones(2)
    branch = call(places, prompt)
    assert goes_on(branch, call(places, prompt))
    assert not branch.may_go_on(call(places, torch.ones(2)))
    assert goes_on(branch, call(places, prompt))


def test_what_is_made_anew_for_every_call_tells_nothing() -> None:
    places = Places()
    for _ in range(2):
        branch = call(places, torch.ones(2))
        assert all(goes_on(branch, call(places, torch.ones(2))) for _ in range(4))


def test_a_replaced_prompt_of_which_nobody_keeps_the_first_is_seen_at_the_third_call_and_from_then_on() -> None:
    places, other = Places(), torch.zeros(2)
    branch = call(places, torch.ones(2))
    assert goes_on(branch, call(places, other))  # may have been made anew
    assert not goes_on(branch, call(places, other))  # was not
    branch = call(places, torch.ones(2))
    assert not goes_on(branch, call(places, other))


def test_a_prompt_that_someone_keeps_and_nobody_gives_is_anothers() -> None:
    places, prompt = Places(), torch.ones(2)
    assert not call(places, prompt).may_go_on(call(places, torch.ones(2)))


def test_a_buffer_written_to_before_every_call_costs_one_step() -> None:
    places, prompt = Places(), torch.ones(2)
    found = []
    branch = call(places, prompt)
    for _ in range(6):
        prompt += 1
        later = call(places, prompt)
        found.append(goes_on(branch, later))
        branch = branch if found[-1] else later
    assert found == [False, True, True, True, True, True]


def test_a_prompt_written_to_later_is_another() -> None:
    places, prompt = Places(), torch.ones(2)
    branch = call(places, prompt)
    assert goes_on(branch, call(places, prompt))
    prompt += 1
    assert not goes_on(branch, call(places, prompt))


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_samples_are_known_again_whatever_their_scale(scale: float) -> None:
    places, prompt = Places(), torch.ones(2)
    samples = torch.randn(3, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    branches = [call(places, prompt, sample) for sample in samples]
    for index, sample in enumerate(samples):
        later = call(places, prompt, scale * sample + 0.5)
        likeness = [branch.likeness(later) for branch in branches]
        assert max(range(3), key=likeness.__getitem__) == index
    assert branches[0].likeness(call(places, prompt, torch.full((4, 64, 64), torch.nan))) == 0.0
    assert branches[0].likeness(call(places, prompt, torch.ones(1))) == 0.0


def test_inference_tensors_count_no_writes_and_are_known_all_the_same() -> None:
    with torch.inference_mode():
        places, prompt = Places(), torch.ones(2)
        branch = call(places, prompt)
        assert goes_on(branch, call(places, prompt))
