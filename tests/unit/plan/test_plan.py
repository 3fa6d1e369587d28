"""A plan holds the forecaster's rows, checked and frozen; its explanation is true."""

import copy
import json
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreseer.errors import ForeseerError, PlanError
from foreseer.forecast import Chebyshev, Newton, Reuse, TaylorSeer
from foreseer.grid import Grid
from foreseer.plan import Plan
from foreseer.schedule import Growing
from tests.support.plans import held_during, make_plan, needed_after, plans

GRID = Grid.uniform(6)
COMPUTED = (0, 1, 4)
ROWS = np.array(
    [
        [1.0, 0, 0, 0, 0, 0],
        [0, 1.0, 0, 0, 0, 0],
        [-1.0, 2.0, 0, 0, 0, 0],
        [-2.0, 3.0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1.0, 0],
        [0, -0.25, 0, 0, 1.25, 0],
    ]
)


@pytest.mark.parametrize("forecaster", [Reuse(), TaylorSeer(3), Newton(2, "noise"), Chebyshev()], ids=repr)
def test_compile_puts_each_row_under_its_computed_steps(forecaster):
    grid, computed = Grid.uniform(50), Growing(2.0, 5, 3.0).computed_steps(50)
    plan = Plan.compile(grid, computed, forecaster, "last_block")
    assert (plan.computed_steps, plan.nfe, plan.site) == (computed, 10, "last_block")
    assert plan.forecast_steps == tuple(sorted(set(range(50)) - set(computed)))
    for step in range(50):
        before = [j for j in computed if j < step]
        expected = np.zeros(50)
        if step in computed:
            expected[step] = 1.0
        else:
            expected[before] = forecaster.row(before, step, grid)
        assert plan.rows[step] == pytest.approx(expected, abs=1e-12)  # made with its segment's, all in one product
        assert not plan.rows[step][expected == 0].any()
    assert repr(forecaster) in plan.provenance.values()


def test_a_plan_is_frozen():
    rows, provenance = ROWS.copy(), {"from": "test"}
    plan = Plan(GRID, COMPUTED, rows, "output", provenance)
    rows[2, 0], provenance["from"] = 9.0, "elsewhere"
    assert np.array_equal(plan.rows, ROWS)
    assert dict(plan.provenance) == {"from": "test"}
    with pytest.raises(ValueError, match="read-only"):
        plan.rows[2, 0] = 0.0
    with pytest.raises(TypeError):
        plan.provenance["from"] = "elsewhere"
    with pytest.raises(TypeError):
        plan.last_uses[0] = 5
    for name in ("grid", "rows", "computed_steps", "site", "provenance", "other"):
        with pytest.raises(FrozenInstanceError):
            setattr(plan, name, None)


@given(plans)
def test_a_plan_survives_copies_and_pickle(plan):
    for again in (copy.copy(plan), copy.deepcopy(plan), pickle.loads(pickle.dumps(plan)), replace(plan)):
        assert again == plan
        assert hash(again) == hash(plan)
        assert dict(again.provenance) == dict(plan.provenance)
        assert not again.rows.flags.writeable


def changed(step, column, value):
    rows = ROWS.copy()
    rows[step, column] = value
    return rows


@pytest.mark.parametrize(
    "options",
    [
        {"computed_steps": ()},
        {"computed_steps": (1, 4)},
        {"computed_steps": (0, 4, 1)},
        {"computed_steps": (0, 1, 6)},
        {"computed_steps": (0, 1)},
        {"computed_steps": (0, 1, 2, 4)},
        {"rows": ROWS[:5, :5]},
        {"rows": ROWS[:5]},
        {"rows": ROWS[0]},
        {"rows": changed(2, 0, np.nan)},
        {"rows": changed(2, 0, np.inf)},
        {"rows": changed(0, 0, 2.0)},
        {"rows": changed(1, 0, 0.5)},
        {"rows": changed(2, 2, 1.0)},
        {"rows": changed(3, 2, 0.5)},
        {"rows": changed(2, 4, 0.5)},
        {"rows": changed(3, 5, 0.5)},
        {"rows": [[1.0], [1.0, 2.0]]},
        {"rows": "rows"},
        {"site": "middle"},
        {"site": None},
        {"provenance": {"nfe": 3}},
        {"provenance": {3: "nfe"}},
        {"provenance": ["words"]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_each_invariant_is_checked(options, as_users_call):
    given_options = {"grid": GRID, "computed_steps": COMPUTED, "rows": ROWS, "site": "output", "provenance": {}}
    assert Plan(**given_options).nfe == 3
    with pytest.raises(PlanError):
        Plan(**{**given_options, **options})


def test_compile_refuses_steps_that_are_none():
    for computed in ((), (1, 2), (0, 6), (0, 2, 2)):
        with pytest.raises(ForeseerError):
            Plan.compile(GRID, computed, Reuse())


@given(plans)
def test_uses_and_live_features_are_those_of_brute_force(plan):
    steps = range(len(plan.grid))
    last = {j: max((i for i in steps if i != j and plan.rows[i, j] != 0), default=None) for j in plan.computed_steps}
    assert dict(plan.last_uses) == {j: i for j, i in last.items() if i is not None}
    for step in steps:
        assert set(plan.live_steps(step)) == held_during(plan, step)
    assert plan.most_live == max(len(held_during(plan, step)) for step in steps)
    assert needed_after(plan, steps[-1]) == set(plan.live_steps(len(steps))) == set()


@given(plans, st.sampled_from(["float16", "bfloat16", "float32", "float64"]))
def test_the_explanation_is_what_brute_force_finds(plan, dtype):
    told = plan.explain((2, 3, 5), dtype)
    size = 30 * {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}[dtype]
    skipped = [step for step in range(len(plan.grid)) if step not in plan.computed_steps]
    assert [one.step for one in told.forecasts] == skipped
    for one in told.forecasts:
        weights = {j: plan.rows[one.step, j] for j in plan.computed_steps if plan.rows[one.step, j] != 0}
        assert one.weights == weights
        assert one.row_sum == pytest.approx(sum(weights.values()), abs=1e-12)
        assert one.l1_gain == pytest.approx(sum(map(abs, weights.values())), abs=1e-12)
        assert one.l2_gain == pytest.approx(sum(weight**2 for weight in weights.values()) ** 0.5, abs=1e-12)
        assert one.span == min(one.step - j for j in plan.computed_steps if j < one.step)
        assert one.noise_level == list(plan.grid)[one.step]
        assert one.live_features == len(held_during(plan, one.step))
    assert (told.feature_bytes, told.live_bytes) == (size, size * told.most_live)
    assert told.most_live == max(len(held_during(plan, step)) for step in range(len(plan.grid)))
    bits = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}[dtype]
    assert told.rounding == pytest.approx(2.0**-bits * max((one.l1_gain for one in told.forecasts), default=0.0))
    assert plan.explain().live_bytes is None


@given(plans)
def test_the_explanation_is_words_and_json(plan):
    told = plan.explain((4, 4))
    read = json.loads(json.dumps(told.to_dict()))
    assert read["computed_steps"] == list(plan.computed_steps)
    assert [one["step"] for one in read["forecasts"]] == list(plan.forecast_steps)
    assert read["provenance"] == dict(plan.provenance)
    text = str(told)
    assert f"{plan.nfe} of {len(plan.grid)} steps computed" in text
    assert f"site {plan.site}" in text
    assert len(text.splitlines()) >= 4 + len(plan.forecast_steps)


@pytest.mark.parametrize("options", [{"dtype": "int8"}, {"feature_shape": ()}, {"feature_shape": (3, 0)}])
def test_unknown_dtypes_and_empty_shapes_are_refused(options):
    with pytest.raises(PlanError):
        make_plan(0).explain(**options)


@given(plans)
def test_equal_plans_are_equal_and_others_are_not(plan):
    same = Plan(plan.grid, plan.computed_steps, plan.rows.copy(), plan.site)
    assert plan == same
    assert hash(plan) == hash(same)
    other = Plan(plan.grid, plan.computed_steps, plan.rows, "output" if plan.site == "last_block" else "last_block")
    assert plan != other
    if plan.forecast_steps:
        rows = plan.rows.copy()
        rows[plan.forecast_steps[0], 0] += 1e-9
        assert plan != Plan(plan.grid, plan.computed_steps, rows, plan.site)
