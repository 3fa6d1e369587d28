"""Plans in which parts of a feature, a network's modules or further tensors, have separate rows."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest

from foreseer.errors import PlanError, PlanFileError
from foreseer.files import checksum
from foreseer.plan import Plan
from foreseer.plan.file import PLAN_FILE
from tests.support.plans import make_plan

BASE = make_plan(3)


def scaled(factor, plan=BASE):
    """The plan's rows with other weights at forecast steps."""
    rows = np.array(plan.rows)
    rows[list(plan.forecast_steps)] *= factor
    return rows


PLAN = replace(BASE, part_rows={"tensor 2": scaled(2.0), "tensor 3": scaled(-0.5)})


def test_plans_with_rows_of_parts_come_back_from_files_and_copies(tmp_path):
    path = tmp_path / "a.plan.safetensors"
    PLAN.save(path)
    for again in (Plan.load(path), pickle.loads(pickle.dumps(PLAN)), copy.deepcopy(PLAN)):
        assert again == PLAN
        assert list(again.part_rows) == ["tensor 2", "tensor 3"]
    assert PLAN != BASE
    assert replace(PLAN, part_rows={**PLAN.part_rows, "tensor 2": scaled(3.0)}) != PLAN
    with pytest.raises(ValueError, match="read-only"):
        PLAN.part_rows["tensor 2"][0, 0] = 0.0


def test_a_file_of_the_third_version_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(PLAN_FILE, "version", 3)
    BASE.save(tmp_path / "a.plan.safetensors")
    monkeypatch.undo()
    assert Plan.load(tmp_path / "a.plan.safetensors") == BASE


@pytest.mark.parametrize("names", [None, '["tensor 2"]', '["tensor 2", "tensor 2"]', '["", "tensor 2"]', '{"a": 1}'])
def test_files_whose_names_of_parts_do_not_fit_are_refused(tmp_path, as_users_call, names):
    from safetensors.numpy import save_file

    path = tmp_path / "a.plan.safetensors"
    PLAN.save(path)
    arrays, metadata = PLAN_FILE.load(path)
    metadata = {key: value for key, value in {**metadata, "parts": names}.items() if value is not None}
    save_file(arrays, path, {**metadata, "checksum": checksum(arrays, metadata)})
    with pytest.raises(PlanFileError):
        Plan.load(path)


def test_rows_of_parts_are_checked(as_users_call):
    wrong = np.array(BASE.rows)
    wrong[BASE.forecast_steps[1], BASE.forecast_steps[0]] = 1.0
    for rows, message in ((wrong, "only computed steps"), (BASE.rows[:-1], "shape"), (BASE.rows * np.nan, "finite")):
        with pytest.raises(PlanError, match=message):
            replace(BASE, part_rows={"tensor 2": rows})
    for part_rows in ({3: BASE.rows}, [BASE.rows], {"": BASE.rows}):
        with pytest.raises(PlanError, match="by the part's name"):
            replace(BASE, part_rows=part_rows)
    with pytest.raises(PlanError, match="names both a branch and a part"):
        replace(PLAN, branch_rows={"tensor 2": BASE.rows})


def test_a_feature_is_held_for_as_long_as_a_part_needs_it():
    last, source = BASE.forecast_steps[-1], BASE.computed_steps[0]
    rows = scaled(1.0)
    rows[last, source] = 0.25
    plan = replace(BASE, part_rows={"tensor 2": rows})
    assert plan.last_uses[source] == last
    assert plan.last_uses == plan.of_branch("cond").last_uses
    cond = replace(plan, branch_rows={"cond": BASE.rows}).of_branch("cond")
    assert cond.last_uses[source] == last


def test_a_branch_that_computes_at_fewer_steps_has_no_parts():
    fewer = np.array(BASE.rows)
    skipped, before = BASE.computed_steps[2], BASE.computed_steps[1]
    fewer[:, skipped] = 0.0
    fewer[skipped, before] = 1.0
    plan = replace(PLAN, branch_rows={"cond": BASE.rows, "uncond": fewer})
    assert plan.of_branch("cond").names_of(3) == ("", "tensor 2", "tensor 3")
    assert plan.of_branch("cond").names_of(2) == plan.of_branch("cond").names_of(1) == ()
    assert plan.of_branch("uncond").names_of(3) == ()
    assert plan.of_branch("uncond").of_part("tensor 2") is plan.of_branch("uncond")
    assert plan.of_branch("cond").of_part("tensor 2").rows is plan.part_rows["tensor 2"]


def test_the_last_part_of_a_run_keeps_the_rows_of_parts():
    steps = 8
    rows = np.eye(steps)
    rows[[1, 2, 3], [1, 2, 3]] = 0.0
    rows[[5, 6, 7], [5, 6, 7]] = 0.0
    rows[1:4, 0] = rows[5:, 4] = 1.0
    plan = Plan(make_plan(0, steps).grid, (0, 4), rows, part_rows={"tensor 2": rows})
    assert np.array_equal(plan.tail(4).part_rows["tensor 2"], rows[4:, 4:])
    needing = np.array(rows)
    needing[6, 0] = 0.5
    with pytest.raises(PlanError, match="need features of step 0"):
        replace(plan, part_rows={"tensor 2": needing}).tail(4)


def test_the_explanation_has_a_table_for_each_part():
    text = str(PLAN.explain((4,)))
    assert text.index("shared rows") < text.index("rows of tensor 2:") < text.index("rows of tensor 3:")
    explained = PLAN.explain((4,))
    assert explained.parts["tensor 2"].forecasts[0].l1_gain == pytest.approx(2 * explained.forecasts[0].l1_gain)
    assert explained.parts["tensor 2"].most_live == explained.most_live
    assert "shared rows" not in str(BASE.explain())
