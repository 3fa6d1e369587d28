"""A branch run forecasts what the plan says and holds exactly the features that later rows need."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foreseer.grid import Grid
from foreseer.plan import Plan
from foreseer.runtime import BranchRun
from tests.support.plans import make_plan, needed_after, plans


def held(run, steps):
    return {step for step in range(steps) if run.store.why_unusable(step) is None}


@given(plan=plans, first_step=st.integers(0, 9), keep=st.sampled_from(["device", "host"]), seed=st.integers(0, 2**31))
def test_forecasts_are_the_rows_on_features_and_memory_is_what_later_rows_need(plan, first_step, keep, seed):
    steps = len(plan.grid)
    features = torch.randn(steps, 2, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    run = BranchRun(plan.of_branch(""), first_step, keep)
    for local in range(steps):
        step = first_step + local
        assert run.last_step == step - 1
        assert run.forecasts(step) == (local not in plan.computed_steps)
        if not run.forecasts(step):
            run.computed(step, list(features[local].clone()))
        elif not plan.rows[local].any():
            assert "no weight" in run.why_not(step)
            run.computed(step, list(features[local].clone()))
        else:
            assert run.why_not(step) is None
            forecast = torch.stack(list(run.forecast(step)))
            expected = torch.einsum("j,jab->ab", torch.from_numpy(np.array(plan.rows[local])), features)
            assert torch.allclose(forecast, expected, rtol=1e-12, atol=1e-12)
        assert held(run, steps) == needed_after(plan, local)
        assert len(run.store) == len(needed_after(plan, local))
    assert run.store.bytes == 0


def test_a_run_accepts_features_of_one_layout_only():
    run = BranchRun(make_plan(0, steps=8).of_branch(""), 3)
    assert run.last_step == 2
    assert run.accepts([torch.ones(5)])
    run.computed(3, [torch.ones(2)])
    assert run.last_step == 3
    assert run.accepts([torch.zeros(2)])
    assert not run.accepts([torch.ones(3)])
    assert not run.accepts([torch.ones(2, dtype=torch.float64)])
    assert not run.accepts([torch.ones(2), torch.ones(2)])


ROWS = np.eye(6)
ROWS[1] = ROWS[2] = [1.0, 0, 0, 0, 0, 0]
ROWS[4] = ROWS[5] = [0, 0, 0, 1.0, 0, 0]
TWO_REUSES = Plan(Grid.uniform(6), (0, 3), ROWS)


@pytest.mark.parametrize("fault", ["nan", "in place"])
def test_a_feature_that_cannot_be_trusted_stops_the_forecast(fault):
    run, feature = BranchRun(TWO_REUSES.of_branch(""), 0), torch.ones(4)
    if fault == "nan":
        feature[2] = float("nan")
    run.computed(0, [feature])
    if fault == "in place":
        feature.add_(1.0)
    assert fault.replace("nan", "not finite") in run.why_not(1)
    run.computed(1, [torch.ones(4)])
    assert run.why_not(2) is not None
    run.computed(2, [torch.ones(4)])
    run.computed(3, [torch.full((4,), 3.0)])
    assert run.why_not(4) is None
    assert run.forecast(4)[0].tolist() == [3.0] * 4


def test_a_missing_feature_stops_the_forecast():
    run = BranchRun(TWO_REUSES.of_branch(""), 0)
    assert "step 0 is missing" in run.why_not(1)


def test_a_step_computed_in_place_of_its_forecast_frees_what_only_it_needed():
    run = BranchRun(TWO_REUSES.of_branch(""), 0)
    run.computed(0, [torch.full((4,), float("nan"))])
    run.computed(1, [torch.ones(4)])
    assert len(run.store) == 1
    run.computed(2, [torch.ones(4)])  # the last row that needs feature 0
    assert len(run.store) == 0


def test_runs_of_one_plan_share_nothing():
    first, second = BranchRun(TWO_REUSES.of_branch(""), 0), BranchRun(TWO_REUSES.of_branch(""), 0)
    first.computed(0, [torch.ones(2)])
    second.computed(0, [torch.full((2,), 5.0)])
    assert first.forecast(1)[0].tolist() == [1.0, 1.0]
    assert second.forecast(1)[0].tolist() == [5.0, 5.0]


@pytest.mark.parametrize("field", ["part_rows", "branch_rows"])  # the latter in files of format versions 1 to 3
@pytest.mark.parametrize("keep", ["device", "host"])
def test_parts_of_the_network_go_by_rows_of_their_own(keep, field):
    rows = {"attn": np.eye(6), "mlp": np.eye(6)}
    for name, weights in (("attn", [0.5, 0.0]), ("mlp", [0.0, 2.0])):
        rows[name][[1, 2], :1] = 3.0
        rows[name][[4, 5]] = 0.0
        rows[name][4:, [0, 3]] = weights
        rows[name][[1, 2], [1, 2]] = 0.0
    plan = Plan(Grid.uniform(6), (0, 3), ROWS, **{field: rows})
    run = BranchRun(plan.of_branch(""), 0, keep)
    names = ["attn", "mlp", "attn", "elsewhere"]
    run.computed(0, [torch.full((2,), float(k)) for k in range(4)], names)
    assert [tensor[0].item() for tensor in run.forecast(1)] == [0.0, 3.0, 6.0, 3.0]
    run.computed(2, [], names)
    assert len(run.store) == 1  # only attention weighs step 0 still
    run.computed(3, [torch.full((2,), 10.0 + k) for k in range(4)], names)
    assert [tensor[0].item() for tensor in run.forecast(4)] == [0.0, 22.0, 1.0, 13.0]
    run.forecast(5)
    assert len(run.store) == 0


def doubled(factor):
    rows = np.array(ROWS)
    rows[[1, 2], 0] = rows[[4, 5], 3] = factor
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_further_tensors_follow_their_rows_if_the_plan_has_as_many(dtype):
    plan = Plan(Grid.uniform(6), (0, 3), ROWS, part_rows={"tensor 2": doubled(2.0), "tensor 3": doubled(0.0)})
    for count, weights in ((3, [1.0, 2.0, 1.0]), (2, [1.0, 1.0]), (1, [1.0]), (4, [1.0] * 4)):
        run = BranchRun(plan.of_branch("call 1"), 0)
        run.computed(0, [torch.full((2,), float(1 + k)).to(dtype if k else torch.float32) for k in range(count)])
        assert run.why_not(1) is None
        found = [tensor[0].item() for tensor in run.forecast(1)]
        assert found == [weight * (1 + k) for k, weight in enumerate(weights)]  # without weights: the shared row
        assert (run.note is None) == (count == 3)
        run.computed(2, [])  # a step that no row needs
        assert (run.note is None) == (count == 3)


def test_what_another_branch_lends_is_no_part_of_a_further_tensor():
    rows, cross = np.array(ROWS), np.zeros((6, 6))
    cross[1, 0] = 10.0
    given = {"branch_rows": {"cond": rows, "uncond": rows}, "cross_rows": {("uncond", "cond"): cross}}
    plan = Plan(Grid.uniform(6), (0, 3), rows, part_rows={"tensor 2": doubled(2.0)}, **given)
    runs = {}
    for name in ("cond", "uncond"):
        runs[name] = BranchRun(plan.of_branch(name), 0, others=runs)
        runs[name].computed(0, [torch.ones(2), torch.ones(2)])
    assert [tensor[0].item() for tensor in runs["cond"].forecast(1)] == [1.0, 2.0]
    assert [tensor[0].item() for tensor in runs["uncond"].forecast(1)] == [11.0, 2.0]
