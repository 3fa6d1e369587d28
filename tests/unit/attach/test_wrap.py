"""`fs.wrap`: a policy around a plain function."""

from __future__ import annotations

import json
import threading
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import foreseer as fs
from foreseer.errors import AttachError, ForeseerWarning, PlanError
from tests.support.attaching import policy

GRID = fs.Grid.uniform(10)


def curve(x: Tensor, t: float) -> Tensor:
    """Something that moves with the time and the input."""
    return torch.sin(x + 3.0 * t)


def loop(denoise: Any, grid: fs.Grid = GRID, **options: Any) -> Tensor:
    """Euler."""
    x = torch.linspace(-1.0, 1.0, 6)
    for step, t in enumerate(grid):
        x = x - denoise(step, x, t, **options) / len(grid)
    return x


def test_the_loop_of_the_design_page() -> None:
    calls = []
    denoise = fs.wrap(lambda x, t: calls.append(t) or curve(x, t), policy(), GRID)
    velocities = {step: denoise(step, torch.ones(3), t) for step, t in enumerate(GRID)}
    assert calls == [GRID.levels[step] for step in (0, 2, 4, 6, 8)]
    assert denoise.record.computed == {"": [0, 2, 4, 6, 8]}
    assert denoise.record.forecast == {"": [1, 3, 5, 7, 9]}
    assert denoise.record.nfe == denoise.plan.nfe == 5
    truth = {step: curve(torch.ones(3), t) for step, t in enumerate(GRID)}
    for step in (3, 5, 7, 9):  # two-point extrapolation at half a step beyond
        expected = 1.5 * truth[step - 1] - 0.5 * truth[step - 3]
        torch.testing.assert_close(velocities[step], expected, rtol=1e-6, atol=1e-6)


def test_a_straight_line_is_forecast_without_error() -> None:
    denoise = fs.wrap(lambda x, t: x * 0 + 2.0 * t - 1.0, policy(rule=fs.schedule.Uniform(5, warmup=2)), GRID)
    found = [float(denoise(step, torch.zeros(1, dtype=torch.float64), t)) for step, t in enumerate(GRID)]
    assert denoise.record.nfe == 3
    np.testing.assert_allclose(found, 2.0 * GRID.levels - 1.0, atol=1e-12)


def test_a_plan_stands_for_its_policy() -> None:
    plan = policy().compile(GRID)
    assert torch.equal(loop(fs.wrap(curve, plan, GRID)), loop(fs.wrap(curve, policy(), GRID)))


@pytest.mark.parametrize("step", [0, 3, 10, -1])
def test_a_step_out_of_order_is_refused(step: int) -> None:
    denoise = fs.wrap(curve, policy(), GRID)
    for early in range(4):
        denoise(early, torch.ones(2), GRID.levels[early])
    with pytest.raises(AttachError, match=f"Step {step} came after step 3 on a grid of 10 steps.*new fs.wrap"):
        denoise(step, torch.ones(2), 0.5)


def test_another_site_is_refused() -> None:
    with pytest.raises(AttachError, match="last_block"):
        fs.wrap(curve, policy("last_block"), GRID)


def test_a_plan_for_another_grid_is_refused() -> None:
    with pytest.raises(PlanError, match="another grid"):
        fs.wrap(curve, policy().compile(GRID), fs.Grid.uniform(11))


def test_two_branches_do_not_mix() -> None:
    joint = fs.wrap(lambda x, t, sign: sign * curve(x, t), policy(), GRID)
    together = []
    for step, t in enumerate(GRID):
        x = torch.ones(3)
        together.append([joint(step, x, t, sign, branch=name) for name, sign in (("cond", 1.0), ("uncond", -2.0))])
    for index, sign in enumerate((1.0, -2.0)):
        alone = fs.wrap(lambda x, t, sign=sign: sign * curve(x, t), policy(), GRID)
        for step, t in enumerate(GRID):
            assert torch.equal(together[step][index], alone(step, torch.ones(3), t))
    assert joint.record.forward_passes == 10
    assert joint.record.nfe == 5


@pytest.mark.parametrize("change", ["shape", "dtype", "a step left out"])
def test_a_broken_branch_begins_anew_on_the_rest_of_the_grid(change: str) -> None:
    denoise = fs.wrap(curve, policy(), GRID)
    for step in range(5):
        denoise(step, torch.ones(3), GRID.levels[step])
    inputs = {"shape": torch.ones(2, 3), "dtype": torch.ones(3).double(), "a step left out": torch.ones(3)}[change]
    first = 6 if change == "a step left out" else 5
    fresh = fs.wrap(curve, policy(), GRID.tail(first))
    for step in range(first, 10):
        found = denoise(step, inputs, GRID.levels[step])
        assert torch.equal(found, fresh(step - first, inputs, GRID.levels[step]))
    assert denoise.record.computed[""] == [0, 2, 4, *range(first, 10, 2)]


def test_gradients_are_never_lost() -> None:
    scale = torch.tensor(2.0, requires_grad=True)
    denoise = fs.wrap(lambda x, t: scale * curve(x, t), policy(), GRID)
    for step in range(2):
        with pytest.warns(ForeseerWarning, match="gradients") if step else nullcontext():
            assert denoise(step, torch.ones(3), GRID.levels[step]).requires_grad
    assert denoise.record.computed == {"": [0, 1]}
    assert [(one.step, one.reason.split(":")[0]) for one in denoise.record.failed_open] == [
        (1, "gradients are enabled")
    ]
    with torch.no_grad():
        denoise(2, torch.ones(3), GRID.levels[2])
        denoise(3, torch.ones(3), GRID.levels[3])
    assert denoise.record.forecast == {"": [3]}


def test_without_parameters_gradients_do_not_matter() -> None:
    denoise = fs.wrap(curve, policy(), GRID)
    assert torch.is_grad_enabled()
    loop(denoise)
    assert denoise.record.failed_open == []
    assert denoise.record.nfe == 5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_feature_that_is_not_finite_is_not_used(value: float) -> None:
    def model(x: Tensor, t: float) -> Tensor:
        return curve(x, t).index_fill(0, torch.tensor([1]), value) if t == GRID.levels[2] else curve(x, t)

    denoise = fs.wrap(model, policy(), GRID)
    with pytest.warns(ForeseerWarning, match="not finite") as said:
        found = [denoise(step, torch.ones(3), t) for step, t in enumerate(GRID)]
    assert len(said) == 1
    assert [one.step for one in denoise.record.failed_open] == [3, 5]
    assert {one.reason for one in denoise.record.failed_open} == {"the feature of step 2 is not finite"}
    assert [step for step, one in enumerate(found) if not torch.isfinite(one).all()] == [2]


def test_a_feature_written_to_by_the_loop_is_not_used() -> None:
    denoise = fs.wrap(curve, policy(), GRID)
    with pytest.warns(ForeseerWarning, match="changed in place"):
        for step, t in enumerate(GRID):
            velocity = denoise(step, torch.ones(3), t)
            if step == 4:
                velocity.mul_(100.0)
    assert [one.step for one in denoise.record.failed_open] == [5, 7]
    assert "changed in place" in denoise.record.failed_open[0].reason


@pytest.mark.parametrize("guard", [torch.inference_mode, torch.no_grad])
def test_a_copy_is_safe_from_the_loop(guard: Any) -> None:
    """Host copies, and inference tensors, which do not say when they are written to."""
    keep = "host" if guard is torch.no_grad else "device"
    denoise, truth = fs.wrap(curve, policy(), GRID, keep=keep), fs.wrap(curve, policy(), GRID)
    for step, t in enumerate(GRID):
        expected = truth(step, torch.ones(3), t)
        with guard():
            velocity = denoise(step, torch.ones(3), t)
            assert torch.equal(velocity, expected)
            velocity.zero_()
    assert denoise.record.failed_open == []
    assert denoise.record.nfe == 5


def test_a_plan_that_cannot_begin_anew_computes_and_says_so() -> None:
    denoise = fs.wrap(curve, fs.Policy.from_plan(policy().compile(GRID)), GRID)
    with pytest.warns(ForeseerWarning, match="another grid"):
        for step, t in enumerate(GRID):
            x = torch.ones(3 if step < 4 else 5)
            assert denoise(step, x, t).shape == x.shape
    assert {one.step for one in denoise.record.failed_open} == set(range(4, len(GRID)))


def test_containers_come_back_as_they_were() -> None:
    def model(x: Tensor, t: float) -> dict[str, Any]:
        return {"video": curve(x, t), "rest": (None, [2 * curve(x, t)])}

    denoise = fs.wrap(model, policy(), GRID)
    plain = fs.wrap(curve, policy(), GRID)
    for step, t in enumerate(GRID):
        found, expected = denoise(step, torch.ones(3), t), plain(step, torch.ones(3), t)
        assert list(found) == ["video", "rest"]
        assert found["rest"][0] is None
        assert torch.equal(found["video"], expected)
        torch.testing.assert_close(found["rest"][1][0], 2 * expected)


def test_no_feature_is_left_after_the_run() -> None:
    denoise = fs.wrap(curve, policy(), GRID)
    held = []
    for step, t in enumerate(GRID):
        denoise(step, torch.ones(6), t)
        held.append(denoise._run._branches[""].applied.store.bytes)
    assert max(held) == 2 * 6 * 4
    assert held[-1] == 0


def test_two_threads_give_what_one_gives() -> None:
    grids = [fs.Grid.uniform(40), fs.Grid.uniform(60)]
    serial = [loop(fs.wrap(curve, shared, grid), grid) for shared, grid in zip([policy()] * 2, grids, strict=True)]
    shared, found, start = policy(), {}, threading.Barrier(2)

    def work(index: int) -> None:
        start.wait()
        found[index] = [loop(fs.wrap(curve, shared, grids[index]), grids[index]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert all(torch.equal(one, serial[index]) for index in range(2) for one in found[index])
    assert [len(found[index]) for index in range(2)] == [5, 5]


def test_the_record_is_plain_data() -> None:
    denoise = fs.wrap(curve, policy(), GRID)
    loop(denoise)
    read = json.loads(json.dumps(denoise.record.to_dict()))
    assert read["computed"] == {"": [0, 2, 4, 6, 8]}
    assert (read["steps"], read["nfe"], read["forward_passes"], read["failed_open"]) == (10, 5, 5, [])
    assert read["forecast_seconds"] > 0


def test_options_are_checked(as_users_call: None) -> None:
    with pytest.raises(AttachError, match="keep"):
        fs.wrap(curve, policy(), GRID, keep="hst")
    with pytest.raises(AttachError, match="Policy"):
        fs.wrap(curve, None, GRID)


def test_an_unknown_container_is_computed_and_said() -> None:
    class Odd:
        pass

    denoise = fs.wrap(lambda x, t: Odd(), policy(), GRID)
    with pytest.warns(ForeseerWarning, match="Odd"):
        found = [denoise(step, torch.ones(3), t) for step, t in enumerate(GRID)]
    assert all(isinstance(one, Odd) for one in found)
    assert denoise.record.computed == {"": list(range(len(GRID)))}


def test_branches_with_rows_of_their_own_go_by_their_names() -> None:
    grid = fs.Grid.uniform(4)
    rows = np.eye(4)
    rows[1:] = [1.0, 0.0, 0.0, 0.0]
    double = rows * np.array([[1.0], [2.0], [2.0], [2.0]])
    plan = fs.Plan(grid, (0,), rows, branch_rows={"cond": double})
    denoise = fs.wrap(lambda x: x, fs.Policy.from_plan(plan), grid)
    for step in range(4):
        outputs = {name: denoise(step, torch.ones(2), branch=name).tolist() for name in ("cond", "uncond", "")}
    assert outputs == {"cond": [2.0, 2.0], "uncond": [1.0, 1.0], "": [1.0, 1.0]}
    assert np.array_equal(denoise.record.plans["cond"].rows, double)
    assert denoise.record.plans["uncond"].plan is plan


def test_complex_outputs_are_forecast() -> None:
    denoise = fs.wrap(lambda x, t: (1.0 + 2.0j) * t * x, policy(), GRID)
    ones = torch.ones(2, dtype=torch.complex64)
    for step, t in enumerate(GRID):
        assert torch.allclose(denoise(step, ones, t), (1.0 + 2.0j) * t * ones) or step == 1  # from one feature
    assert denoise.record.forecast == {"": [1, 3, 5, 7, 9]}


@pytest.mark.parametrize("sizes", [(1, 2), (2, 1)])
def test_features_of_another_shape_are_not_summed(sizes: tuple[int, int]) -> None:
    calls = []

    def grows(x: Tensor, t: float) -> Tensor:
        calls.append(t)
        return torch.ones(sizes[len(calls) > 1], 3)

    denoise = fs.wrap(grows, policy(), GRID)
    shapes = [denoise(step, torch.ones(3), t).shape for step, t in enumerate(GRID)]
    assert shapes == [(sizes[0], 3)] * 2 + [(sizes[1], 3)] * 8
    assert denoise.record.forecast == {"": [1, 3, 5, 7, 9]}
    assert denoise.record.begun_late == [(2, "")]


def test_a_gradient_asked_for_at_one_step_is_the_networks_own() -> None:
    denoise = fs.wrap(curve, policy(), GRID)
    for step, t in enumerate(GRID):
        x = torch.linspace(-1.0, 1.0, 6, requires_grad=step == 3)
        with torch.set_grad_enabled(step == 3):
            if step != 3:
                denoise(step, x, t)
                continue
            with pytest.warns(ForeseerWarning, match="gradients are enabled"):
                output = denoise(step, x, t)
            (gradient,) = torch.autograd.grad(output.sum(), x)
            assert torch.allclose(gradient, torch.cos(x + 3.0 * t))
    assert denoise.record.forecast == {"": [1, 5, 7, 9]}


@pytest.mark.parametrize("transform", ["jvp", "vmap"])
def test_under_transforms_every_step_is_computed(transform: str) -> None:
    denoise, x = fs.wrap(curve, policy(), GRID), torch.linspace(-1.0, 1.0, 6)
    with pytest.warns(ForeseerWarning, match=r"a torch.func transform"):
        for step, t in enumerate(GRID):
            if transform == "jvp":
                output, tangent = torch.func.jvp(partial(denoise, step, t=t), (x,), (torch.ones(6),))
                assert torch.allclose(tangent, torch.cos(x + 3.0 * t))
            else:
                output = torch.func.vmap(partial(denoise, step, t=t))(x[:, None])[:, 0]
            assert torch.equal(output, curve(x, t))
    assert denoise.record.forecast == {}
