"""From a call to its run, branch and step."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

import foreseer as fs
from foreseer.attach.run.tracker import Call, Tracker
from foreseer.plan import ScheduledPolicy
from tests.support.attaching import EVERY_SECOND, flow_scheduler, policy

STEPS = 10


class Model(nn.Module):
    def forward(self, x: Tensor, timestep: Any) -> Tensor:
        return x


def tracker_of(rule: fs.Policy | None = None) -> Tracker:
    return Tracker(Model(), rule or policy(), "device")


def call(tracker: Tracker, scheduler: Any, step: int, context: str | None = None, shape: int = 1) -> Call:
    """A call at ``step``, computed; Tracker and BranchRun go on from it."""
    told, _ = tracker.enter(scheduler, context, (torch.ones(shape), scheduler.timesteps[step]), {})
    assert told.step == step
    if told.branch is not None:
        told.branch.run.computed(step, [torch.ones(1)])
    return told


@pytest.fixture
def scheduler() -> Any:
    made = diffusers.DDIMScheduler()
    made.set_timesteps(STEPS)
    return made


def test_calls_are_named_by_context_or_else_by_order(scheduler: Any) -> None:
    tracker = tracker_of()
    names = [call(tracker, scheduler, 0, context).name for context in (None, None, "cond", "uncond", "cond")]
    assert names == ["call 1", "call 2", "cond", "uncond", "cond 2"]
    assert [call(tracker, scheduler, 1, context).name for context in ("cond", None)] == ["cond", "call 1"]


def test_a_branch_lives_on_from_step_to_step(scheduler: Any) -> None:
    tracker = tracker_of()
    first = call(tracker, scheduler, 0)
    assert all(call(tracker, scheduler, step).branch is first.branch for step in range(1, STEPS))
    assert first.branch is not None
    assert first.branch.run.rows.computed_steps == EVERY_SECOND.computed_steps(STEPS)


def test_a_late_branch_begins_on_the_rest_of_the_grid(scheduler: Any) -> None:
    tracker = tracker_of()
    for step in range(3):
        call(tracker, scheduler, step, "cond")
    call(tracker, scheduler, 3, "cond")
    late = call(tracker, scheduler, 3, "uncond")
    assert late.reason is None
    assert late.branch is not None
    assert late.branch.run.first_step == 3
    assert len(late.branch.run.rows.grid) == STEPS - 3
    assert not late.branch.run.forecasts(3)
    assert late.branch.run.forecasts(4)


@pytest.mark.parametrize("change", ["a step is left out", "the shape changes"])
def test_a_broken_branch_begins_anew(scheduler: Any, change: str) -> None:
    tracker = tracker_of()
    first = call(tracker, scheduler, 0)
    call(tracker, scheduler, 1)
    broken = call(tracker, scheduler, 3) if change == "a step is left out" else call(tracker, scheduler, 2, shape=2)
    assert broken.branch is not None
    assert broken.branch is not first.branch
    assert broken.branch.run.first_step == broken.step
    assert not broken.branch.run.forecasts(broken.step)


def test_going_back_to_the_first_step_is_a_new_run(scheduler: Any) -> None:
    tracker = tracker_of()
    branches = [call(tracker, scheduler, step).branch for step in range(4)]
    told, fresh = tracker.enter(scheduler, None, (torch.ones(1), scheduler.timesteps[0]), {})
    assert fresh
    assert told.branch not in branches
    assert told.branch is not None
    assert len(told.branch.run.store) == 0


def test_new_timesteps_are_a_new_run(scheduler: Any) -> None:
    tracker = tracker_of()
    first = call(tracker, scheduler, 0)
    scheduler.set_timesteps(STEPS)
    told, fresh = tracker.enter(scheduler, None, (torch.ones(1), scheduler.timesteps[0]), {})
    assert fresh
    assert told.name == "call 1"
    assert told.branch is not first.branch


def test_an_unknown_timestep_has_a_reason_and_no_branch(scheduler: Any) -> None:
    tracker = tracker_of()
    first = call(tracker, scheduler, 0)
    told, fresh = tracker.enter(scheduler, None, (torch.ones(1), 7.5), {})
    assert (told.step, told.branch, fresh) == (-1, None, False)
    assert "7.5 is not exactly one of its timesteps" in str(told.reason)
    assert call(tracker, scheduler, 1).branch is first.branch


def test_a_loop_that_goes_backwards_is_computed_from_there_on(scheduler: Any) -> None:
    tracker = tracker_of()
    for step in (9, 8, 7):
        told, _ = tracker.enter(scheduler, None, (torch.ones(1), scheduler.timesteps[step]), {})
    assert (told.step, told.branch) == (-1, None)
    assert "back through the scheduler's steps" in str(told.reason)


def test_calls_with_another_timestep_than_the_steps_own_belong_to_another_run() -> None:
    scheduler = flow_scheduler()
    scheduler.set_timesteps(4)
    tracker = tracker_of()
    told = [tracker.enter(scheduler, None, (torch.ones(1), torch.tensor([t])), {})[0] for t in (0.9, 0.9, 0.6, 0.3)]
    assert [one.step for one in told] == [0, 0, -1, -1]
    assert "another run" in str(told[-1].reason)


def test_rising_levels_give_the_reason_at_every_step() -> None:
    scheduler = diffusers.DDIMInverseScheduler()
    scheduler.set_timesteps(4)
    tracker = tracker_of()
    told, fresh = tracker.enter(scheduler, None, (torch.ones(1), scheduler.timesteps[0]), {})
    assert fresh
    assert told.branch is None
    assert "DDIMInverseScheduler" in str(told.reason)


def test_a_refused_policy_gives_the_reason_and_is_asked_once(scheduler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = policy(rule=fs.schedule.Explicit((0, 2), of=5))
    tracker = tracker_of(refusing)
    asked = []
    compiled = ScheduledPolicy.compile
    monkeypatch.setattr(ScheduledPolicy, "compile", lambda self, *given: asked.append(given) or compiled(self, *given))
    told = [call(tracker, scheduler, 0, context) for context in ("cond", "uncond")]
    assert [one.branch for one in told] == [None, None]
    assert all("5 steps" in str(one.reason) for one in told)
    assert len(asked) == 1


def test_reset_forgets_everything(scheduler: Any) -> None:
    tracker = tracker_of()
    before = call(tracker, scheduler, 0).branch
    tracker.reset()
    assert tracker.total == 0
    assert tracker._branches == {}
    flow = flow_scheduler()
    flow.set_timesteps(4)
    told, fresh = tracker.enter(flow, None, (torch.ones(1), flow.timesteps[0]), {})
    assert fresh
    assert told.branch is not before
