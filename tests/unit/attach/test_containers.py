"""Outputs taken apart and put together again."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.utils import BaseOutput
from torch import Tensor

from foreseer.attach.network.containers import UnknownContainerError, flatten, is_alike, rebuild, strip

Pair = namedtuple("Pair", ["video", "audio"])


@dataclass
class TwoOutputs(BaseOutput):
    """An output object with a field that has no default."""

    video: Tensor
    audio: Tensor | None


A, B, C = torch.ones(2, 3), torch.full((4,), 2.0), torch.full((1,), 3.0)

CONTAINERS: dict[str, tuple[Any, list[Tensor]]] = {
    "tensor": (A, [A]),
    "tuple": ((A, B), [A, B]),
    "tuple of one": ((A,), [A]),
    "list": ([A, B], [A, B]),
    "tuple of a list": (([A, B],), [A, B]),
    "nested": ((A, [B, (C,)]), [A, B, C]),
    "dict": ({"x": A, "y": [B]}, [A, B]),
    "dict with integer keys": ({0: A, 1: B}, [A, B]),
    "ordered dict": (OrderedDict(x=A, y=B), [A, B]),
    "output object": (Transformer2DModelOutput(sample=A), [A]),
    "output object with a None": (TwoOutputs(video=A, audio=None), [A]),
    "named tuple": (Pair(A, B), [A, B]),
    "None leaves": ((A, None, B), [A, B]),
    "plain leaves": ((A, 3, "words", True, 0.5), [A]),
    "empty": ((), []),
}


def same(found: Any, expected: Any) -> bool:
    """Equal in type, structure and values."""
    if type(found) is not type(expected):
        return False
    if isinstance(expected, Tensor):
        return torch.equal(found, expected)
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, tuple | list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found == expected


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_container_is_rebuilt_around_its_tensors(kind: str) -> None:
    container, tensors = CONTAINERS[kind]
    found = flatten(container)
    assert [id(tensor) for tensor in found] == [id(tensor) for tensor in tensors]
    assert same(rebuild(container, iter(tensors)), container)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_template_holds_no_memory_and_takes_new_tensors(kind: str) -> None:
    container, tensors = CONTAINERS[kind]
    template = strip(container)
    assert sum(tensor.numel() for tensor in flatten(template)) == 0
    rebuilt = rebuild(template, iter([tensor + 1 for tensor in tensors]))
    assert type(rebuilt) is type(container)
    assert all(torch.equal(a, b + 1) for a, b in zip(flatten(rebuilt), tensors, strict=True))
    assert same(rebuild(template, iter(tensors)), container)


def test_the_attributes_of_an_output_object_are_the_new_tensors() -> None:
    rebuilt = rebuild(strip(Transformer2DModelOutput(sample=A)), iter([B]))
    assert rebuilt.sample is B
    assert rebuilt[0] is B


@pytest.mark.parametrize("output", [object(), (A, object()), {"x": {1, 2}}, [lambda: A]])
def test_an_unknown_container_is_refused(output: Any) -> None:
    with pytest.raises(UnknownContainerError, match="cannot be rebuilt"):
        flatten(output)


def test_a_container_that_cannot_be_made_again_is_refused() -> None:
    with pytest.raises(UnknownContainerError, match="defaultdict"):
        strip(defaultdict(list, {"x": A}))


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        (A, B, True),
        ((A,), (B,), True),
        ((A,), B, False),
        (A, (B,), False),
        ((A,), (B, A), False),
        ((A, B), (A, B), False),  # not plain: taken apart again, which is never wrong
        ([A], [B], False),
        ((A,), ([B],), False),
        (Transformer2DModelOutput(sample=A), (A,), False),
    ],
    ids=str,
)
def test_only_plain_containers_are_taken_for_the_same(first, second, alike):
    assert is_alike(strip(first), second) is alike
    assert is_alike(None, second) is False
