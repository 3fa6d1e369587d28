"""A gate decides, the forecaster's rows follow, the maximum holds: on plain functions."""

from dataclasses import dataclass

import pytest
import torch

import foreseer as fs
from foreseer.errors import ForeseerWarning
from foreseer.forecast import Newton, Reuse
from foreseer.gate import Gate, GatedPolicy, GateRun
from foreseer.schedule import Explicit

GRID = fs.Grid.uniform(10)


@dataclass(frozen=True)
class At(Gate):
    """Computes at given steps, and records its arguments."""

    steps: tuple[int, ...]
    heard: tuple[list, list] = ([], [])

    def begin(self, setting):
        self.heard[0].clear()
        self.heard[1].clear()
        return _At(self)


class _At(GateRun):
    def __init__(self, gate):
        self.gate = gate

    def computes(self, step, left, signal):
        self.gate.heard[0].append((step, left))
        return step in self.gate.steps

    def computed(self, step, feature, forecast):
        found = forecast()
        self.gate.heard[1].append((step, None if found is None else found[0].clone()))


def run(policy, model=lambda x, t: x * t**2, branches=("",), grid=GRID):
    denoise = fs.wrap(model, policy, grid)
    x = torch.ones(3, dtype=torch.float64)
    with torch.no_grad():
        return denoise, [[denoise(i, x, t, branch=name) for name in branches] for i, t in enumerate(grid)]


def test_a_gate_that_decides_as_a_schedule_does_gives_that_plans_run_and_plan():
    steps = (0, 1, 3, 6)
    gated, outputs = run(GatedPolicy(At(steps), Newton(order=2)))
    planned, expected = run(fs.Policy(Explicit(steps, of=10), Newton(order=2)))
    assert torch.equal(torch.cat([one for (one,) in outputs]), torch.cat([one for (one,) in expected]))
    assert gated.plan is not None
    assert gated.plan.computed_steps == planned.plan.computed_steps == steps
    assert (gated.plan.rows == planned.plan.rows).all()
    assert gated.record.to_dict()["computed"] == {"": list(steps)}
    assert gated.record.forecast_flops == planned.record.forecast_flops > 0


def test_the_forecast_that_would_have_been_made_is_told_at_computed_steps():
    gate = At((0, 1, 3, 6))
    run(GatedPolicy(gate, Newton(order=1)))
    levels = [t**2 for t in GRID]
    told = dict(gate.heard[1])
    assert told[0] is None
    assert float(told[1][0]) == pytest.approx(levels[0])
    assert float(told[3][0]) == pytest.approx(levels[1] + 2 * (levels[1] - levels[0]))
    assert float(told[6][0]) == pytest.approx(levels[3] + 1.5 * (levels[3] - levels[1]))


def test_no_more_steps_than_the_maximum_compute():
    gate = At(tuple(range(10)))
    gated, _ = run(GatedPolicy(gate, Reuse(), max_nfe=4))
    assert gated.record.computed_steps == (0, 1, 2, 3)
    assert gate.heard[0] == [(i, max(0, 4 - i)) for i in range(10)]
    assert gated.record.failed_open == []


def test_a_step_that_cannot_be_forecast_is_computed_beyond_the_maximum_and_it_is_said():
    def model(x, t):
        return x * float("nan") if t == 1.0 else x * t

    with pytest.warns(ForeseerWarning, match="not finite"):
        gated, _ = run(GatedPolicy(At(()), Newton(order=0), max_nfe=1), model)
    assert gated.record.computed_steps == (0, 1)
    assert [one.step for one in gated.record.failed_open] == [1]


@pytest.mark.parametrize("deciding", ["first", "each"])
def test_branches_decide_together_or_each_for_itself(deciding):
    calls = []

    @dataclass(frozen=True)
    class Once(Gate):
        def begin(self, setting):
            number = len(calls)
            calls.append(number)
            return _At(At((2 + number,)))

    calls.clear()
    gated, _ = run(GatedPolicy(Once(), Reuse(), decided_by=deciding), branches=("cond", "uncond"))
    second = [0, 2] if deciding == "first" else [0, 3]
    assert gated.record.computed == {"cond": [0, 2], "uncond": second}
    assert gated.record.nfe == (2 if deciding == "first" else 3)


def test_features_that_no_later_row_needs_are_freed():
    held = []

    class Watch(_At):
        def computes(self, step, left, signal):
            held.append(max(len(branch.applied.store) for branch in denoise._run._branches.values()))
            return True

    @dataclass(frozen=True)
    class All(Gate):
        def begin(self, setting):
            return Watch(At(()))

    denoise = fs.wrap(lambda x, t: x * t, GatedPolicy(All(), Newton(order=2)), GRID)
    for i, t in enumerate(GRID):
        denoise(i, torch.ones(2), t)
    assert max(held) == 3
    assert len(denoise._run._branches[""].applied.store) == 0
