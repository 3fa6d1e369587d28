"""`fs.Run` and `fs.Runs`: the call-level core, driven as a host drives it."""

from __future__ import annotations

import random
import threading
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import foreseer as fs
from foreseer.errors import AttachError, ForeseerWarning, PlanError
from foreseer.gate import StepControl
from tests.unit.runtime.test_mix import plan_with_mixing

POLICY = fs.Policy(fs.schedule.Uniform(interval=2, warmup=1), fs.forecast.Newton(order=1))
GRID = fs.Grid.uniform(10)


def network(x: Tensor, t: float, sign: float = 1.0) -> Tensor:
    return sign * torch.sin(x + 3.0 * t)


def start(seed: int, size: int = 6) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


class Sampler:
    """A host's request: Euler with two branches, one call at a time."""

    def __init__(self, runs: fs.Runs, run_id: Any, grid: fs.Grid, seed: int) -> None:
        self.runs, self.run_id, self.grid, self.x, self.step, self.calls = runs, run_id, grid, start(seed), 0, 0

    def advance(self) -> bool:
        """One step; whether there is another."""
        t = self.grid.levels[self.step]
        outputs = []
        for branch, sign in (("cond", 1.0), ("uncond", -0.3)):
            output = self.runs.forecast(self.run_id, self.step, self.grid, branch, [self.x])
            if output is None:
                self.calls += 1
                output = network(self.x, float(t), sign)
                self.runs.computed(self.run_id, self.step, output, branch)
            outputs.append(output)
        self.x = self.x - (outputs[1] + 2.0 * (outputs[0] - outputs[1])) / len(self.grid)
        self.step += 1
        return self.step < len(self.grid)


def alone(policy: Any, grid: fs.Grid, seed: int) -> Tensor:
    sampler = Sampler(fs.Runs(policy), "alone", grid, seed)
    while sampler.advance():
        pass
    return sampler.x


@pytest.mark.parametrize("policy", [POLICY, fs.GatedPolicy(StepControl(0.05, order=1), fs.forecast.TaylorSeer(1))])
def test_a_run_gives_what_wrap_gives(policy: Any) -> None:
    denoise, run = fs.wrap(network, policy, GRID), fs.Run(policy, GRID)
    x = start(0)
    for step, t in enumerate(GRID):
        expected = denoise(step, x, t)
        output = run.forecast(step, inputs=[x])
        if output is None:
            output = network(x, t)
            run.computed(step, output)
        assert torch.equal(output, expected)
    assert run.record.computed == denoise.record.computed
    assert run.record.forecast == denoise.record.forecast != {}
    assert run.finished


def test_three_hundred_runs_interleaved_are_each_as_if_alone() -> None:
    runs, order = fs.Runs(POLICY), random.Random(3)
    grids = [fs.Grid.uniform(steps) for steps in (6, 9, 14)]
    live = [Sampler(runs, index, grids[index % 3], index) for index in range(300)]
    samplers = list(live)
    most = 0
    while live:
        sampler = order.choice(live)
        if not sampler.advance():
            record = runs.end(sampler.run_id)
            received = len(sampler.grid) * 2
            assert record.forward_passes == sampler.calls
            assert record.forward_passes + sum(map(len, record.forecast.values())) == received
            assert record.failed_open == []
            live.remove(sampler)
        most = max(most, len(runs))
    assert most > 200
    assert len(runs) == 0
    for index, sampler in enumerate(samplers):
        assert torch.equal(sampler.x, alone(POLICY, sampler.grid, index))


def test_threads_share_a_table() -> None:
    runs, failures = fs.Runs(POLICY), []
    samplers = [Sampler(runs, index, GRID, index) for index in range(80)]

    def work(mine: list[Sampler]) -> None:
        try:
            for _ in GRID:
                for sampler in mine:
                    sampler.advance()
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(samplers[index::4],)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for index, sampler in enumerate(samplers):
        assert runs.end(index).nfe == 5
        assert torch.equal(sampler.x, alone(POLICY, GRID, index))


def test_features_are_freed_at_the_end_and_when_dropped() -> None:
    class Counted(torch.Tensor):
        """Subclass, so that the garbage collector's list of objects can be searched for it."""

    def alive() -> int:
        import gc

        gc.collect()
        return sum(type(candidate) is Counted for candidate in gc.get_objects())

    runs = fs.Runs(POLICY)
    for stop in (10, 5):
        for step in range(stop):
            if runs.forecast("run", step, GRID) is None:
                runs.computed("run", step, torch.ones(3).as_subclass(Counted))
        if stop == 5:
            assert alive() > 0
            runs.drop("run")
        assert alive() == 0
        runs.drop("run")


def test_a_dropped_run_begins_fresh() -> None:
    runs = fs.Runs(POLICY)
    for value in (1.0, 5.0):
        assert runs.forecast("run", 0, GRID) is None
        runs.computed("run", 0, torch.full((2,), value))
        assert runs.forecast("run", 1, GRID).tolist() == [value, value]
        runs.drop("run")
    with pytest.raises(AttachError, match="no run 'run'"):
        runs.end("run")
    with pytest.raises(AttachError, match="no run 'run'"):
        runs.computed("run", 2, torch.ones(2))


def test_a_call_that_failed_may_be_made_again() -> None:
    runs = fs.Runs(POLICY)
    for _ in range(2):  # the network raised after the first
        assert runs.forecast("run", 0, GRID) is None
    runs.computed("run", 0, torch.ones(2))
    assert runs.end("run").computed == {"": [0]}


def test_what_was_not_asked_for_is_refused() -> None:
    runs = fs.Runs(POLICY)
    runs.begin("run", GRID)
    with pytest.raises(AttachError, match=r"step 0 .* asked for no step"):
        runs.computed("run", 0, torch.ones(2))
    runs.forecast("run", 0, GRID)
    with pytest.raises(AttachError, match=r"step 1 .* asked for 0"):
        runs.computed("run", 1, torch.ones(2))
    runs.computed("run", 0, torch.ones(2))
    for step in (0, 10):
        with pytest.raises(AttachError, match=f"Step {step} came after step 0 on a grid of 10 steps"):
            runs.forecast("run", step, GRID)
    with pytest.raises(AttachError, match="another of 11"):
        runs.forecast("run", 1, fs.Grid.uniform(11))
    with pytest.raises(AttachError, match="has no policy"):
        fs.Runs().forecast("run", 0, GRID)


def test_a_policy_that_cannot_be_served_is_refused_at_once() -> None:
    with pytest.raises(AttachError, match="'last_block'"):
        fs.Run(fs.Policy(POLICY.schedule, POLICY.forecaster, site="last_block"), GRID)
    with pytest.raises(PlanError, match="another grid"):
        fs.Run(POLICY.compile(fs.Grid.uniform(5)), GRID)
    gated = fs.methods.find("teacache").policy(site="output")
    with pytest.raises(AttachError, match="measures inside the network"):
        fs.Run(gated, GRID)


def test_a_gate_decides_on_the_signal_that_the_host_shows() -> None:
    policy = fs.methods.find("first-block").policy(site="output")
    run = fs.Run(policy, GRID, signals=[policy.gate.signal])
    shown = []
    for step, t in enumerate(GRID):
        signal = torch.full((4,), 1.0 if step < 5 else 3.0)
        if run.forecast(step, signal=lambda step=step, signal=signal: shown.append(step) or [signal]) is None:
            run.computed(step, torch.full((4,), float(t)))
    assert run.record.computed_steps == (0, 5)  # only where the signal moved
    assert shown == list(range(10)) or shown == list(range(1, 10))


def test_budgets_of_a_batch_differ_and_the_network_is_called_once_per_step() -> None:
    runs, batches = fs.Runs(), []
    grid = fs.Grid.uniform(8)
    policies = {"slow": fs.Policy(fs.schedule.Uniform(1), fs.forecast.Reuse()), "fast": POLICY}
    for step in range(8):
        calls = [fs.RunCall(name, step, grid, policy=policy) for name, policy in policies.items()]

        def compute(indices: list[int], step: int = step) -> list[Tensor]:
            batches.append(tuple(indices))
            return [torch.full((1,), step + 100.0 * index) for index in indices]

        slow, fast = runs.answer(calls, compute)
        assert float(slow) == step
        if step % 2 == 0:
            assert float(fast) == step + 100.0
    assert batches == [(0, 1), (0,)] * 4
    assert (runs.end("slow").nfe, runs.end("fast").nfe) == (8, 4)


def test_a_batch_with_nothing_to_compute_does_not_call_the_network() -> None:
    runs = fs.Runs(POLICY)
    runs.answer([fs.RunCall("a", 0, GRID)], lambda indices: [torch.ones(1)])
    outputs = runs.answer([fs.RunCall("a", 1, GRID)], lambda indices: pytest.fail("called"))
    assert outputs[0].tolist() == [1.0]


def test_a_transform_of_the_output_is_never_kept() -> None:
    run = fs.Run(POLICY, GRID)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeseerWarning)
        for step, t in enumerate(GRID):

            def call(x: Tensor, step: int = step, t: float = t) -> Tensor:
                assert run.forecast(step, inputs=[x]) is None
                output = network(x, t)
                run.computed(step, output)
                return output

            assert torch.func.vmap(call)(torch.ones(3, 2)).shape == (3, 2)
    assert run.record.forecast == {}
    assert run.record.computed == {"": list(range(10))}


def test_inputs_of_another_shape_restart_the_branch() -> None:
    run = fs.Run(POLICY, GRID)
    for step in range(10):
        x = torch.ones(3 if step < 5 else 4)
        output = run.forecast(step, inputs=[x])
        if output is None:
            output = x * step
            run.computed(step, output)
        assert output.shape == x.shape
    assert run.record.begun_late == [(5, "")]
    assert run.record.computed == {"": [0, 2, 4, 5, 7, 9]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_forecast_added_to_a_tensor_is_the_sum(dtype: torch.dtype, mode: Any) -> None:
    runs = [fs.Run(POLICY, GRID), fs.Run(POLICY, GRID)]
    with mode():
        for step, t in enumerate(GRID):
            x = start(step)
            plain, added = runs[0].forecast(step, inputs=[x]), runs[1].forecast(step, inputs=[x], onto=(x, -2.5))
            assert (plain is None) == (added is None)
            if plain is None:
                for run in runs:
                    run.computed(step, network(x, t).to(dtype))
            else:
                assert added.dtype == x.dtype or dtype == torch.float64
                tolerance = 1e-5 if dtype != torch.bfloat16 else 5e-2
                torch.testing.assert_close(added.double(), x.double() - 2.5 * plain.double(), rtol=0, atol=tolerance)


def _fails(indices: list[int]) -> list[Tensor]:
    raise MemoryError


def test_a_batch_whose_computation_failed_may_be_repeated() -> None:
    gated = fs.GatedPolicy(StepControl(0.05, order=1), fs.forecast.TaylorSeer(1))
    every = fs.Policy(fs.schedule.Uniform(1), fs.forecast.Reuse())
    wrong: list[Any] = [_fails, lambda _: [], lambda _: None, lambda indices: [torch.ones(1)] * (len(indices) + 1)]

    def run(disturbed: bool) -> tuple[list[Tensor], list[Any]]:
        runs, outputs = fs.Runs(), []
        for step, t in enumerate(GRID):
            policies = {"every": every, "plan": POLICY, "gated": gated}
            calls = [fs.RunCall(name, step, GRID, policy=policy) for name, policy in policies.items()]
            for compute in wrong if disturbed else []:
                with pytest.raises((MemoryError, AttachError)):
                    runs.answer(calls, compute)
            outputs += runs.answer(calls, lambda indices, t=float(t): [network(start(index), t) for index in indices])
        records = [runs.end(name) for name in ("every", "plan", "gated")]
        return outputs, [(record.computed, record.forecast, record.failed_open) for record in records]

    outputs, records = run(disturbed=True)
    expected, expected_records = run(disturbed=False)
    assert all(map(torch.equal, outputs, expected))
    assert records == expected_records
    assert all(forecast for _, forecast, _ in records[1:])


@pytest.mark.usefixtures("as_users_call")
def test_what_is_no_batch_is_refused_and_begins_no_run() -> None:
    call = fs.RunCall("a", 0, GRID, policy=POLICY)
    other = fs.RunCall("a", 1, GRID, policy=POLICY)
    for calls, message in (
        ([call, call], "two calls of run 'a', branch ''"),
        ([call, other], "two calls of run 'a', branch ''"),
        (None, "calls is a NoneType"),
        ([call, None], "A call is a NoneType"),
    ):
        runs = fs.Runs()
        with pytest.raises(AttachError, match=message):
            runs.answer(calls, _fails)  # pyright: ignore[reportArgumentType]
        assert len(runs) == 0
    runs.begin("a", GRID, POLICY)
    for grid in (None, 5):
        with pytest.raises(AttachError, match="grid is a"):
            runs.forecast("a", 0, grid)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", ["plan", "gate", "channel mixing"])
def test_an_output_with_a_scale_is_forecast_as_their_product(kind: str) -> None:
    policies = {
        "plan": POLICY,
        "gate": fs.GatedPolicy(StepControl(0.2, order=1), fs.forecast.TaylorSeer(1)),
        "channel mixing": plan_with_mixing(-1),
    }
    grid = policies[kind].grid if kind == "channel mixing" else GRID
    whole, scaled = fs.Run(policies[kind], grid), fs.Run(policies[kind], grid)
    x, decided = start(3, 70).reshape(2, 7, 5), []
    for step, t in enumerate(grid):
        expected, found = whole.forecast(step), scaled.forecast(step)
        decided.append(expected is None)
        assert (found is None) == (expected is None)
        if expected is None:
            output, scale = network(x, t), 0.25 * (step + 1)
            whole.computed(step, output)
            scaled.computed(step, output / scale, scale=scale)
        else:
            assert torch.allclose(found, expected, atol=1e-5)
    assert {True, False} == set(decided)
    assert scaled.record.to_dict()["features"] == whole.record.to_dict()["features"]
