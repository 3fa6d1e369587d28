"""Every scheduler that diffusers ships either works or fails open; the page's table says which."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

import foreseer as fs
from tests.attach.common import policy
from tests.hardening.schedulers import OUTCOMES
from tests.pipelines import randomise

STEPS = 8
SHIPPED = [
    name
    for name in dir(diffusers)
    if name.endswith("Scheduler") and not name.startswith("Flax") and inspect.isclass(getattr(diffusers, name))
]


class Model(nn.Module):
    """A network of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return torch.tanh(self.layer(x)) * (0.5 + timestep.float().mean() / 2000)


def sample(model: nn.Module, scheduler: Any) -> Tensor:
    """A run with noise of its own where the scheduler asks for noise."""
    takes = inspect.signature(scheduler.step).parameters
    noise = {"generator": torch.Generator().manual_seed(1)} if "generator" in takes else {}
    scheduler.set_timesteps(STEPS)
    x = torch.randn(1, 4, 8, 4, generator=torch.Generator().manual_seed(0)) * getattr(
        scheduler, "init_noise_sigma", 1.0
    )
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(model(scaled, torch.as_tensor(t)), t, x, return_dict=False, **noise)[0]
    return x


@pytest.mark.cell("runs", "every scheduler: see the table below", "works")
@pytest.mark.parametrize("name", [name for name in SHIPPED if OUTCOMES.get(name, ("works", ""))[0] != "not tried"])
def test_a_scheduler_works_or_fails_open(name: str) -> None:
    model, make = randomise(Model(), 1), getattr(diffusers, name)
    outcome, _ = OUTCOMES[name]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sample(model, make())
        scheduler = make()
        with fs.accelerate(model, policy(rule=fs.schedule.Uniform(1)), scheduler=scheduler):
            assert torch.equal(sample(model, scheduler), expected)
        scheduler = make()
        with fs.accelerate(model, policy(), scheduler=scheduler) as handle:
            first = sample(model, scheduler)
            assert torch.equal(sample(model, scheduler), first)
    if outcome == "works":
        assert handle.record.failed_open == []
        assert handle.record.nfe == (handle.record.steps + 1) // 2
        assert torch.isfinite(first).all()
    else:
        assert torch.equal(first, expected)
        assert handle.record.forecast == {}
        assert len(handle.record.failed_open) == handle.record.evaluations > 0


@pytest.mark.cell("runs", "no scheduler unknown", "works")
def test_every_shipped_scheduler_is_in_the_table() -> None:
    assert set(SHIPPED) <= set(OUTCOMES)
    assert len(SHIPPED) > 30
