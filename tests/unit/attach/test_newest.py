"""Models that only the newest diffusers has: half of the steps are forecast, none fails open."""

from __future__ import annotations

import diffusers
import pytest
import torch

import foreseer as fs
from tests.support.attaching import policy
from tests.support.newest_table import NEWEST
from tests.support.pipelines import build

ELSEWHERE = {
    "chroma_inpaint",  # fails unattached: the pipeline reads a setting of Flux that its network lacks
    "kandinsky_6_sr",  # slow, and warns: flex attention without compilation
}
NAMES = [name for name, row in NEWEST.items() if hasattr(diffusers, row.kind) and name not in ELSEWHERE]


@pytest.mark.parametrize("name", NAMES)
def test_half_of_the_steps_are_forecast(name: str) -> None:
    tiny = build(name)
    plain = tiny.run(6)
    with fs.accelerate(tiny.pipe, policy(rule=fs.schedule.Uniform(1)), strict=True):
        assert torch.equal(tiny.run(6), plain)
    with fs.accelerate(tiny.pipe, policy(), strict=True) as handle:
        assert not torch.equal(tiny.run(6), plain)
    assert handle.record.forecast
    assert set(map(tuple, handle.record.forecast.values())) == {(1, 3, 5)}
    assert handle.record.calls == 2 * handle.record.forward_passes
