"""Every scheduler that diffusers ships either works or fails open; the page's table says which."""

from __future__ import annotations

import inspect
import warnings
from functools import partial

import diffusers
import diffusers.schedulers
import pytest
import torch

import foreseer as fs
from tests.robustness.loops import Drive, repaint
from tests.robustness.schedulers import OUTCOMES, SAID
from tests.support.attaching import policy

SHIPPED = sorted(
    {
        name
        for home in (diffusers, diffusers.schedulers)
        for name in dir(home)
        if name.endswith("Scheduler") and not name.startswith("Flax") and inspect.isclass(getattr(home, name))
    }
)


@pytest.mark.cell("runs", "every scheduler of diffusers (table below)", "works")
@pytest.mark.cell("runs", "a stochastic scheduler: the same random numbers as without forecasts", "works")
@pytest.mark.parametrize("name", SHIPPED)
def test_a_scheduler_works_or_fails_open(name: str) -> None:
    outcome, why = OUTCOMES[name]
    drive = Drive(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, drawn = drive.run(drive.scheduler())
        scheduler = drive.scheduler()
        with fs.accelerate(drive.model, policy(rule=fs.schedule.Uniform(1)), scheduler=scheduler):
            assert torch.equal(drive.run(scheduler)[0], expected)
        scheduler = drive.scheduler()
        with fs.accelerate(drive.model, policy(), scheduler=scheduler) as handle:
            for _ in range(2):
                sample, drawn_now = drive.run(scheduler)
                record = handle.record
                assert torch.equal(drawn_now, drawn)
                if outcome == "works":
                    assert record.failed_open == record.begun_late == []
                    halves = [
                        (len(done) + len(record.forecast.get(name, ())) + 1) // 2
                        for name, done in record.computed.items()
                    ]
                    assert [len(done) for done in record.computed.values()] == halves
                    assert len(record.computed_steps) + len(record.forecast_steps) == record.steps > 1
                    assert torch.isfinite(sample.double()).all()
                else:
                    assert torch.equal(sample, expected)
                    assert record.forecast == {}
                    assert len(record.failed_open) == record.forward_passes > 0
                    said = next(said for begins, said in SAID.items() if why.startswith(begins))
                    assert said in record.failed_open[0].reason
            assert torch.equal(drive.run(scheduler)[0], sample)


@pytest.mark.cell("runs", "RePaint without jumps back to more noise", "works")
def test_repaint_without_jumps() -> None:
    drive = Drive("RePaintScheduler", partial(repaint, jump_length=10))
    scheduler = drive.scheduler()
    with fs.accelerate(drive.model, policy(), scheduler=scheduler) as handle:
        drive.run(scheduler)
    assert handle.record.forecast_steps == (1, 3, 5, 7)
    assert handle.record.failed_open == []


@pytest.mark.cell("runs", "the table below names every scheduler of diffusers", "works")
def test_every_shipped_scheduler_is_in_the_table() -> None:
    assert set(SHIPPED) <= set(OUTCOMES)
    assert {outcome for outcome, _ in OUTCOMES.values()} == {"works", "fails open"}
    assert len(SHIPPED) > 30
