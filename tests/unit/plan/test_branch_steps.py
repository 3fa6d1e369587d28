"""Plans in which guidance branches compute at separate steps and use each other's features."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest

from foreseer.errors import PlanError, PlanFileError
from foreseer.files import checksum
from foreseer.forecast import Newton, Reuse
from foreseer.grid import Grid
from foreseer.plan import Plan, Policy
from foreseer.plan.file import PLAN_FILE
from foreseer.schedule import Explicit, Schedule

GRID = Grid.uniform(8)
CROSSING = ("uncond", "cond")


def reuse(computed):
    return np.array(Reuse().rows(computed, GRID))


def cross(weights):
    """Rows over another branch: by (step, column)."""
    rows = np.zeros((8, 8))
    for place, weight in weights.items():
        rows[place] = weight
    return rows


WEIGHTS = {(3, 0): -0.5, (3, 3): 0.5, (6, 3): 0.25, (6, 5): 2.0}
OWN = {"cond": reuse((0, 3, 5)), "uncond": reuse((0, 2, 4))}
PLAN = Plan(GRID, (0, 2, 3, 4, 5), reuse((0, 2, 3, 4, 5)), "output", {}, OWN, {CROSSING: cross(WEIGHTS)})


def test_each_branch_computes_at_its_own_steps_and_takes_what_others_gave_until_then():
    cond, uncond = PLAN.of_branch("cond"), PLAN.of_branch("uncond")
    assert (cond.computed_steps, uncond.computed_steps, PLAN.nfe) == ((0, 3, 5), (0, 2, 4), 5)
    assert uncond.sparse_cross_rows == {3: (("cond", [0, 3], [-0.5, 0.5]),), 6: (("cond", [3, 5], [0.25, 2.0]),)}
    assert not cond.sparse_cross_rows
    assert [uncond.weights_at(step) for step in range(8)] == [0, 1, 0, 3, 0, 1, 3, 1]


def test_a_feature_lives_until_the_last_branch_has_used_it():
    cond, uncond = PLAN.of_branch("cond"), PLAN.of_branch("uncond")
    assert cond.last_uses == {0: 3, 3: 6, 5: 7}  # 0 and 3 for uncond's sake: alone they would end at 2 and 4
    assert cond.live_steps(3) == (0, 3)
    assert cond.live_steps(6) == (3, 5)
    assert cond.most_live == 2
    assert uncond.released == {3: (("cond", 0),), 6: (("cond", 3),)}
    assert cond.freed_after == {4: (0,), 7: (3, 5)}  # a call later, should uncond not come any more
    assert not cond.released


def test_plans_come_back_from_files_and_copies_and_differ_by_their_crossing_rows(tmp_path):
    path = tmp_path / "a.plan.safetensors"
    PLAN.save(path)
    for again in (Plan.load(path), pickle.loads(pickle.dumps(PLAN)), copy.deepcopy(PLAN)):
        assert again == PLAN
        assert hash(again) == hash(PLAN)
        assert list(again.cross_rows) == [CROSSING]
    view = PLAN.of_branch("uncond")
    again = pickle.loads(pickle.dumps(view))
    assert again == view
    assert again.sparse_cross_rows == view.sparse_cross_rows
    assert replace(PLAN, cross_rows={}) != PLAN
    assert replace(PLAN, cross_rows={CROSSING: cross({(3, 3): 0.5})}) != PLAN
    assert Plan(GRID, (0, 2, 4), OWN["uncond"]).of_branch("") != view


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({CROSSING: cross({(3, 4): 1.0})}, "Row 3 weighs step 4"),  # cond does not compute at 4
        ({CROSSING: cross({(3, 5): 1.0})}, "Row 3 weighs step 5"),  # later
        ({CROSSING: cross({(4, 3): 1.0})}, "Row 4 weighs step 3"),  # uncond computes at 4
        ({CROSSING: cross({(3, 3): np.nan})}, "finite"),
        ({CROSSING: np.zeros((7, 8))}, "shape"),
        ({CROSSING: "rows"}, "numbers"),
        ({("cond", "uncond"): cross({})}, "the later called"),
        ({("uncond", "uncond"): cross({})}, "the later called"),
        ({("uncond", "third"): cross({})}, "third"),
        ({"uncond": cross({})}, "names of both"),
        ([cross({})], "names of both"),
    ],
)
def test_crossing_rows_are_checked(as_users_call, rows, words):
    with pytest.raises(PlanError, match=words):
        replace(PLAN, cross_rows=rows)


def test_steps_of_branches_are_checked(as_users_call):
    late = reuse((0, 2))
    late[0] = 0.0
    for rows in (reuse((0, 1)), late):
        with pytest.raises(PlanError, match="A branch computes at"):
            replace(PLAN, branch_rows={"cond": OWN["cond"], "uncond": rows}, cross_rows={})
    with pytest.raises(ValueError, match="read-only"):
        PLAN.cross_rows[CROSSING][3, 0] = 1.0


DAMAGE = {
    "no pairs": {"crossing": None},
    "names": {"crossing": '["uncond", "cond"]'},
    "one name": {"crossing": '[["uncond"]]'},
    "numbers": {"crossing": "[[1, 2]]"},
    "twice": {"crossing": '[["uncond", "cond"], ["uncond", "cond"]]'},
    "a list in it": {"crossing": '[[["uncond"], "cond"]]'},
    "backwards": {"crossing": '[["cond", "uncond"]]'},
    "deep": {"crossing": "[" * 100_000},
    "null": {"crossing": "null"},
    "no branches": {"branches": "[]"},
    "a later version": {"version": "6"},
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_files_whose_crossing_rows_do_not_fit_are_refused(tmp_path, as_users_call, change):
    from safetensors.numpy import save_file

    path = tmp_path / "a.plan.safetensors"
    PLAN.save(path)
    arrays, metadata = PLAN_FILE.load(path)
    metadata = {key: value for key, value in {**metadata, **change}.items() if value is not None}
    save_file(arrays, path, {**metadata, "checksum": checksum(arrays, metadata)})
    with pytest.raises(PlanFileError):
        Plan.load(path)


def test_a_file_of_the_first_version_is_read(tmp_path):
    from safetensors.numpy import save_file

    path, plan = tmp_path / "a.plan.safetensors", Plan(GRID, (0, 3), reuse((0, 3)))
    plan.save(path)
    arrays, metadata = PLAN_FILE.load(path)
    metadata["version"] = "1"
    save_file(arrays, path, {**metadata, "checksum": checksum(arrays, metadata)})
    assert Plan.load(path) == plan


def test_the_explanation_tells_evaluations_and_what_is_taken():
    told = PLAN.explain((4,), "float32")
    text = str(told)
    assert "forward passes: 6 (cond 3, uncond 3)" in text
    assert "computed of uncond: 0 2 4" in text
    assert "2:+1.000 | cond 0:-0.500 3:+0.500" in text
    found = told.branches["uncond"].forecasts[1]
    assert (found.step, found.taken) == (3, {"cond": {0: -0.5, 3: 0.5}})
    assert (found.row_sum, found.l1_gain) == (1.0, 2.0)
    assert "forward passes:" not in str(replace(PLAN, branch_rows={}, cross_rows={}).explain())


def test_any_forecaster_serves_branches_with_steps_of_their_own():
    class Apart(Schedule):
        def _computed_steps(self, steps):
            return (0, 2, 4, 6)

        def branch_steps(self, grid, first_step=0):
            return {"uncond": (0, 4)}

    plan = Policy(Apart(), Newton(order=1)).compile(GRID)
    assert plan.of_branch("uncond").computed_steps == (0, 4)
    assert np.array_equal(plan.of_branch("uncond").rows, Newton(order=1).rows((0, 4), GRID))
    assert plan.of_branch("cond").computed_steps == (0, 2, 4, 6)
    assert not Policy(Explicit((0, 4)), Newton(order=1)).compile(GRID).branch_rows
