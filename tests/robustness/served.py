"""Shared by tests of hosts: an attachment that is changed from outside must continue unaffected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import foreseer as fs
from foreseer.attach.interception import is_hooked
from tests.support.attaching import policy
from tests.support.pipelines import TinyPipeline

WHEN = pytest.mark.parametrize("when", ["before", "after"])
PIPELINES = pytest.mark.parametrize("name", ["flux", pytest.param("sdxl", marks=pytest.mark.slow)])
TRANSFORMERS = pytest.mark.parametrize("name", ["flux", pytest.param("sd3", marks=pytest.mark.slow)])
SITES = pytest.mark.parametrize("site", ["output", "last_block"])
COMPUTED, FORECAST = [0, 2, 4, 6], [1, 3, 5, 7]


def check_served(tiny: TinyPipeline, change: Callable[[], Any], when: str, site: str = "output") -> None:
    """Two runs in a row are those of a plain attachment, with ``change`` made before or after attaching."""
    with fs.accelerate(tiny.pipe, policy(site)):
        expected = tiny.run()
    if when == "before":
        change()
    with fs.accelerate(tiny.pipe, policy(site)) as handle:
        if when == "after":
            tiny.run()
            change()
        for _ in range(2):
            found = tiny.run()
            assert handle.record.nfe == 4
            assert handle.record.failed_open == []
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert not any(is_hooked(module) for module in tiny.modules)
