"""Rows that weigh the run's first sample: checked, saved, explained and cut like the others."""

from dataclasses import replace

import numpy as np
import pytest

import foreseer as fs
from foreseer.errors import PlanError
from foreseer.plan.explain import MUCH_ROUNDING, worst_rounding
from foreseer.plan.invariants import checked_start
from foreseer.plan.mixing import START, ChannelMixing, MixedSegment

STEPS = 8
BASE = fs.Policy(fs.schedule.Explicit((0, 3, 6), of=STEPS), fs.forecast.Reuse()).compile(fs.Grid.uniform(STEPS))
ROW = np.array([0.0, 0.5, -0.25, 0.0, 0.125, 0.0, 0.0, 0.0])
PLAN = replace(BASE, start_row=ROW)


def test_the_weights_survive_a_file(tmp_path):
    PLAN.save(tmp_path / "p.safetensors")
    again = fs.Plan.load(tmp_path / "p.safetensors")
    assert again == PLAN
    assert np.array_equal(again.start_row, ROW)
    assert again != BASE
    with pytest.raises(ValueError, match="read-only"):
        again.start_row[1] = 0.0


def test_weights_of_zero_are_none():
    assert replace(BASE, start_row=np.zeros(STEPS)) == BASE


@pytest.mark.parametrize(
    "row", [np.ones(STEPS), ROW[1:], np.where(ROW, np.nan, 0.0), ROW[:, None], ["a"] * STEPS], ids=str
)
def test_weights_that_have_no_place_are_refused(row):
    with pytest.raises(PlanError, match="first sample's weights"):
        checked_start(row, BASE.computed_steps, STEPS, "output")


def test_inside_the_network_there_is_no_first_sample():
    with pytest.raises(PlanError, match="site is 'last_block'"):
        replace(BASE, site="last_block", start_row=ROW)


def test_the_first_sample_is_held_until_its_last_use():
    rows = PLAN.of_branch("")
    assert rows.last_uses[START] == 4
    assert [START in PLAN.live_steps(step) for step in range(STEPS)] == [True] * 5 + [False] * 3
    assert START in rows.freed_after[4]
    assert PLAN.most_live == BASE.most_live + 1
    assert [rows.weights_at(step) for step in (1, 3, 5)] == [2, 0, 1]


def test_a_tail_may_not_need_the_first_sample():
    with pytest.raises(PlanError, match="first sample"):
        PLAN.tail(3)
    assert PLAN.tail(6) == BASE.tail(6)


def test_corrections_that_mix_it_hold_it_as_long_as_weights_do():
    """The longer of both uses counts; a whole plan is its own tail."""
    segment = MixedSegment("", (4, 5), np.array([0.5, 0.5]), (START, 3), np.zeros((2, 6, 6), np.float32))
    mixing = ChannelMixing(-1, (segment,))
    for weights, last in ((ROW, 5), (np.eye(STEPS)[1], 5), (np.eye(STEPS)[7], 7), (None, 5)):
        plan = replace(BASE, start_row=weights, mixing=mixing)
        assert plan.of_branch("").last_uses[START] == last
        assert plan.tail(0) == plan
    with pytest.raises(PlanError, match="the run's first sample"):
        replace(BASE, mixing=mixing).tail(3)
    with pytest.raises(PlanError, match="Only corrections of the output"):
        replace(BASE, site="last_block", mixing=mixing)


def test_a_large_weight_is_a_large_gain():
    large = replace(BASE, start_row=50.0 * ROW)
    explained = large.explain((4,), "bfloat16")
    assert explained.forecasts[0].l1_gain == 1.0 + 25.0
    assert explained.forecasts[0].row_sum == 1.0
    assert "LARGE GAIN" in str(explained)
    assert worst_rounding(large, "bfloat16") == (1, pytest.approx(explained.forecasts[0].rounding))
    assert worst_rounding(large, "bfloat16")[1] > MUCH_ROUNDING > worst_rounding(BASE, "bfloat16")[1]


def test_the_explanation_names_the_weight():
    explained = PLAN.explain((4,))
    assert [one.start for one in explained.forecasts] == [0.5, -0.25, 0.125, 0.0, 0.0]
    assert "first sample -0.250" in str(explained)
    assert "first sample" not in str(BASE.explain((4,)))


def test_differences_keep_the_weights():
    assert PLAN.to_differences().to_plan() == PLAN
