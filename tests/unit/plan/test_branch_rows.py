"""Plans in which branches of guidance have separate rows."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreseer.errors import PlanError, PlanFileError
from foreseer.files import checksum
from foreseer.plan import Plan
from foreseer.plan.explain import explain
from foreseer.plan.file import PLAN_FILE
from tests.support.plans import make_plan


def scaled(plan, factor):
    """The plan's rows with other weights at forecast steps."""
    rows = np.array(plan.rows)
    rows[list(plan.forecast_steps)] *= factor
    return rows


def with_branches(seed=0, **options):
    plan = make_plan(seed, **options)
    return replace(plan, branch_rows={"cond": scaled(plan, 2.0), "uncond": scaled(plan, -0.5)})


PLAN = with_branches(provenance={"made": "by hand"})


def test_each_branch_follows_its_own_rows_and_others_the_shared_ones():
    cond = PLAN.of_branch("cond")
    assert np.array_equal(cond.rows, scaled(PLAN, 2.0))
    assert (cond.grid, cond.computed_steps, cond.site) == (PLAN.grid, PLAN.computed_steps, PLAN.site)
    assert (cond.name, cond.plan) == ("cond", PLAN)
    assert PLAN.of_branch("cond") is cond
    assert PLAN.of_branch("call 3") is PLAN.of_branch("")
    assert PLAN.of_branch("").plan is PLAN
    for step, (used, weights) in PLAN.sparse_rows.items():
        assert cond.sparse_rows[step] == (used, [2.0 * weight for weight in weights])


@given(seed=st.integers(0, 2**31))
def test_branches_come_back_from_files_and_copies(tmp_path_factory, seed):
    plan, path = with_branches(seed), tmp_path_factory.mktemp("plans") / "a.plan.safetensors"
    plan.save(path)
    for again in (Plan.load(path), pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan)):
        assert again == plan
        assert hash(again) == hash(plan)
        assert list(again.branch_rows) == ["cond", "uncond"]


def test_plans_differ_by_the_rows_of_their_branches():
    assert replace(PLAN, branch_rows={}) != PLAN
    assert replace(PLAN, branch_rows={**PLAN.branch_rows, "cond": scaled(PLAN, 3.0)}) != PLAN
    assert replace(PLAN, branch_rows={**PLAN.branch_rows, "third": PLAN.rows}) != PLAN


def test_rows_of_branches_are_checked_and_frozen(as_users_call):
    wrong = np.array(PLAN.rows)
    wrong[PLAN.forecast_steps[1], PLAN.forecast_steps[0]] = 1.0
    for rows, words in ((wrong, "only computed steps"), (PLAN.rows[:-1], "shape"), (PLAN.rows * np.nan, "finite")):
        with pytest.raises(PlanError, match=words):
            replace(PLAN, branch_rows={"cond": rows})
    for given_rows in ({3: PLAN.rows}, [PLAN.rows]):
        with pytest.raises(PlanError, match="by the branch's name"):
            replace(PLAN, branch_rows=given_rows)
    with pytest.raises(ValueError, match="read-only"):
        PLAN.branch_rows["cond"][0, 0] = 0.0
    with pytest.raises(TypeError):
        PLAN.branch_rows["cond"] = PLAN.rows


def test_every_branch_is_explained():
    told = PLAN.explain((4, 4), "float16")
    assert told.branches["cond"] == explain(PLAN.of_branch("cond"), (4, 4), "float16")
    assert set(told.to_dict()["branches"]) == {"cond", "uncond"}
    text = str(told)
    assert text.index("shared rows") < text.index("rows of cond:") < text.index("rows of uncond:")
    assert "rows of" not in str(replace(PLAN, branch_rows={}).explain())


@pytest.mark.parametrize("names", ['["cond"]', '["cond", "cond"]', '{"cond": 1}', "null", "cond", '[["a"], "b"]', None])
def test_files_whose_branches_do_not_fit_are_refused(tmp_path, as_users_call, names):
    from safetensors.numpy import save_file

    path = tmp_path / "a.plan.safetensors"
    PLAN.save(path)
    arrays, metadata = PLAN_FILE.load(path)
    if names is None:
        del metadata["branches"]
    else:
        metadata["branches"] = names
    save_file(arrays, path, {**metadata, "checksum": checksum(arrays, metadata)})
    with pytest.raises(PlanFileError):
        Plan.load(path)
