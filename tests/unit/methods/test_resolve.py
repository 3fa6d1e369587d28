"""From a name, a file or an object to a policy."""

from __future__ import annotations

import dataclasses
import re
import sys
from types import ModuleType

import numpy as np
import pytest

import foreseer as fs
from foreseer.errors import ForeseerError, ForeseerWarning, PlanError
from foreseer.forecast import Forecaster, Reuse
from foreseer.gate import GatedPolicy
from foreseer.hosts.choice import Choice
from foreseer.methods import METHODS, BudgetPolicy, find, names, policy_for, resolve
from foreseer.methods import resolve as resolve_function
from foreseer.methods.method import method_of
from foreseer.methods.profile import Profile, ProfileError
from tests.support.toy_gates import KERNEL

GRID = fs.Grid.uniform(50)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.schedule and method.forecaster])
@pytest.mark.parametrize("steps", [50, 28, 20])
def test_budgets_bind_to_the_runs_step_count(name, steps):
    policy = resolve(name, speedup=5)
    grid = fs.Grid.uniform(steps)
    try:
        expected = METHODS[name].policy(steps, round(steps / 5))
    except ForeseerError:
        with pytest.raises(ForeseerError):
            policy.compile(grid)
    else:
        assert policy.compile(grid) == expected.compile(grid)
        assert policy.compile(grid).nfe <= round(steps / 5) or name == "spectrum"


def test_nfe_above_the_steps_is_refused_for_that_run_only():
    policy = resolve("taylorseer", nfe=30)
    assert policy.compile(GRID).nfe == 30
    with pytest.raises(ForeseerError, match="30"):
        policy.compile(fs.Grid.uniform(20))


def test_published_settings_and_sites():
    assert resolve("taylorseer").compile(GRID) == METHODS["taylorseer"].policy(50).compile(GRID)
    assert resolve("taylorseer", nfe=10, site="output").site == "output"
    assert isinstance(resolve("teacache", nfe=8), BudgetPolicy)
    assert resolve("teacache", nfe=8, steps=20).max_nfe == 8


def test_with_a_kernel_steps_are_searched_and_l2p_is_trained():
    grid = KERNEL.grid
    searched = resolve("newton", nfe=5, profile=KERNEL).compile(grid)
    assert searched.nfe == 5
    assert searched.computed_steps != METHODS["newton"].policy(len(grid), 5).compile(grid).computed_steps
    assert resolve("l2p", nfe=5, profile=KERNEL).compile(grid).nfe == 5
    assert resolve("kernel", nfe=5, profile=KERNEL).compile(grid) == fs.learned(KERNEL, nfe=5).compile(grid)
    assert isinstance(resolve("gated", nfe=5, profile=KERNEL), GatedPolicy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("taylorsear",), "did you mean 'taylorseer'"),
        (("kernel",), "needs a kernel"),
        (("steps",), "no plan"),
        (("l2p",), "needs its trained matrix"),
        (("no.such.module:Thing",), "cannot be loaded"),
        (("json:loads",), "cannot be loaded"),
    ],
)
def test_what_cannot_be_resolved_is_refused(arguments, message):
    with pytest.raises(PlanError, match=message):
        resolve(*arguments)


def test_budgets_exclude_one_another():
    with pytest.raises(ForeseerError, match="nfe and speedup"):
        resolve("taylorseer", nfe=5, speedup=3)
    with pytest.raises(PlanError, match="a kernel or profile can"):
        resolve("taylorseer", max_error=0.1)
    with pytest.raises(PlanError, match="speedup"):
        resolve("taylorseer", speedup=0.5)


class Halves(Forecaster):
    """A forecaster of a user's own: half of the last feature."""

    def _weights(self, computed, steps, grid):
        weights = np.zeros((steps.size, computed.size))
        weights[:, -1] = 0.5
        return weights


def test_methods_of_ones_own_by_module_and_attribute(monkeypatch):
    module = ModuleType("users_methods")
    module.Halves, module.policy = Halves, fs.Policy(fs.schedule.Uniform(interval=5), Reuse())
    monkeypatch.setitem(sys.modules, "users_methods", module)
    plan = resolve("users_methods:Halves", nfe=10).compile(GRID)
    assert plan.nfe == 10
    assert plan.rows[plan.forecast_steps[0]].sum() == 0.5
    assert resolve("users_methods:policy").compile(GRID).nfe == 10


class Entry:
    """An entry point of an installed package."""

    def __init__(self, name, definition):
        self.name, self.value, self._definition = name, f"package:{name}", definition

    def load(self):
        if isinstance(self._definition, Exception):
            raise self._definition
        return self._definition


def test_entry_points_are_found_and_one_that_fails_is_left_out(monkeypatch):
    module = sys.modules[resolve_function.__module__]
    entries = [Entry("halves", Halves), Entry("broken", ImportError("no such library"))]
    monkeypatch.setattr(module, "entry_points", lambda group: entries if group == "foreseer.methods" else [])
    module._installed.cache_clear()
    try:
        with pytest.warns(ForeseerWarning, match="'broken' of package:broken was left out: ImportError: no such"):
            assert names()[-1] == "halves"
        assert find("halves").title == "halves"
        with pytest.raises(PlanError, match="broken"):
            find("broken")
    finally:
        module._installed.cache_clear()


def test_requests_in_every_form(tmp_path):
    plan = fs.learned(KERNEL, nfe=5).compile(KERNEL.grid)
    profile = Profile(KERNEL, (plan,))
    files = {"plan": plan, "kernel": KERNEL, "profile": profile}
    for name, part in files.items():
        part.save(tmp_path / f"{name}.safetensors")
    assert policy_for(None).compile(GRID).nfe == 20
    assert policy_for("newton", nfe=9).compile(GRID).nfe == 9
    assert policy_for(plan).compile(KERNEL.grid) is plan
    for request in (profile, KERNEL, *(tmp_path / f"{name}.safetensors" for name in ("kernel", "profile"))):
        assert policy_for(request, nfe=5).compile(KERNEL.grid).nfe == 5
        assert policy_for(request, speedup=4).compile(KERNEL.grid).nfe == 4
    assert policy_for(str(tmp_path / "plan.safetensors")).compile(KERNEL.grid) == plan
    assert policy_for("newton", quality="exact").compile(GRID).nfe == 50


def test_the_default_is_one_for_calls_hosts_and_profiles():
    plan = policy_for(None).compile(GRID)
    assert plan == policy_for("generic", speedup=2.5).compile(GRID)
    for policy in (Choice().policy(GRID), Choice().standing_policy()):
        compiled = policy.compile(GRID)
        assert compiled.computed_steps == plan.computed_steps
        assert np.array_equal(compiled.rows, plan.rows)
    grid, learned = KERNEL.grid, [fs.learned(KERNEL, nfe=nfe).compile(KERNEL.grid) for nfe in (8, 5)]
    assert policy_for(KERNEL).compile(grid).nfe == round(len(grid) / 2.5)
    profile = Profile(KERNEL, tuple(learned))
    for policy in (policy_for(profile), Choice(profile=profile).standing_policy()):
        assert policy.compile(grid) is learned[0]  # the refined plan with the most computed steps
        assert policy.compile(fs.Grid.uniform(10)).nfe == 5  # its speedup on another grid


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize(
    "call",
    [
        lambda **target: fs.learned(KERNEL, **target),
        lambda **target: fs.gated(KERNEL, **target),
        lambda **target: fs.schedule.Optimal(KERNEL, **target),
        lambda **target: BudgetPolicy(METHODS["reuse"], **target),
    ],
)
def test_a_target_is_asked_for_in_the_same_way_everywhere(call):
    with pytest.raises(ForeseerError, match=r"Give exactly one of .* and \w+; received none\.$"):
        call()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"speedup": 0.5}, r"^speedup is 0.5; expected a finite number of at least 1\.$"),
        ({"nfe": 0}, r"^nfe is 0; expected a whole number of at least 1\.$"),
        ({"max_error": 0.0}, r"^max_error is 0; expected a positive number"),
    ],
)
def test_a_target_out_of_range_is_named_as_it_was_given(target, message):
    for call in (fs.learned, policy_for, fs.schedule.Optimal):
        with pytest.raises(ForeseerError, match=message):
            call(KERNEL, **target)


@pytest.mark.parametrize(
    ("request_", "options", "message"),
    [
        (3, {}, "received int"),
        ("newton", {"quality": "high"}, "needs a profile"),
        ("newton", {"nfe": 3, "quality": "exact"}, "Give one of"),
        (KERNEL, {"quality": "best"}, "expected one of exact"),
        ("missing.safetensors", {}, "no file missing"),
    ],
)
def test_requests_that_are_refused(request_, options, message):
    with pytest.raises(PlanError, match=message):
        policy_for(request_, **options)


def test_a_plan_keeps_its_budget_and_a_foreign_file_is_named(tmp_path):
    plan = fs.learned(KERNEL, nfe=5).compile(KERNEL.grid)
    with pytest.raises(PlanError, match="leave nfe out"):
        policy_for(plan, nfe=3)
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    with pytest.raises(PlanError, match="not a profile, plan or kernel"):
        policy_for(tmp_path / "other.safetensors")


def test_profiles_come_back_from_files_and_choose_their_parts(tmp_path):
    plans = []
    for nfe, error in ((8, "0.0100 +- 0.0010"), (5, "0.0400")):
        compiled = fs.learned(KERNEL, nfe=nfe).compile(KERNEL.grid)
        provenance = {**compiled.provenance, "expected_error": error}
        plans.append(fs.Plan(compiled.grid, compiled.computed_steps, compiled.rows, provenance=provenance))
    profile = Profile(KERNEL, tuple(plans), {"model": "someone/model"})
    profile.save(tmp_path / "a.profile.safetensors")
    again = Profile.load(tmp_path / "a.profile.safetensors")
    assert again.budgets == (8, 5)
    assert again.plans == profile.plans
    assert np.array_equal(again.kernel.grams, KERNEL.grams)
    assert dict(again.provenance) == {"model": "someone/model"}
    assert again.policy(nfe=8).compile(KERNEL.grid) == plans[0]
    assert again.policy(quality="high").compile(KERNEL.grid) == plans[0]
    assert again.policy(quality="balanced").compile(KERNEL.grid) == plans[1]
    assert again.policy(nfe=6).compile(KERNEL.grid).nfe == 6
    assert again.policy(nfe=5).compile(fs.Grid.uniform(10)).nfe == 5  # another grid: kernel rows
    assert "base_model: someone/model" in again.card()
    assert re.search(r"\| 8 of 16 \| 0\.\d{4} \| 0\.0100 \|", again.card())


def test_damaged_profiles_are_refused(tmp_path):
    path = tmp_path / "a.profile.safetensors"
    Profile(KERNEL).save(path)
    content = path.read_bytes()
    for damaged in (content[:-5], content[:100], b"", content.replace(b"foreseer.profile", b"foreseer.kernel!")):
        path.write_bytes(damaged)
        with pytest.raises(ProfileError):
            Profile.load(path)
    with pytest.raises(ProfileError, match="missing"):
        Profile.load(tmp_path / "missing.safetensors")


@pytest.mark.usefixtures("as_users_call")
def test_a_site_is_for_methods_by_name_only():
    policy = fs.Policy(fs.schedule.Uniform(interval=4), fs.forecast.Reuse())
    plan = policy.compile(fs.Grid.uniform(8))
    for request in (policy, plan):
        with pytest.raises(PlanError, match="has its own site"):
            policy_for(request, site="last_block")
    assert policy_for("reuse", site="last_block").site == "last_block"


def test_a_policy_of_ones_own_follows_the_budget():
    grid = fs.Grid.uniform(50)
    policy = fs.Policy(fs.schedule.Uniform(interval=4, warmup=2), fs.forecast.Reuse())
    made = method_of("mine", policy)
    assert made.policy(50, 5).compile(grid).nfe == 5
    assert made.policy(50, 10).compile(grid).computed_steps[:2] == (0, 1)
    assert made.policy(50).compile(grid).computed_steps == policy.compile(grid).computed_steps


@pytest.mark.usefixtures("as_users_call")
def test_a_schedule_without_budgets_refuses_one():
    made = method_of("mine", fs.Policy(fs.schedule.Explicit((0, 3), of=8), fs.forecast.Reuse()))
    assert made.policy(8).compile(fs.Grid.uniform(8)).nfe == 2
    with pytest.raises(PlanError, match="whatever the budget"):
        made.policy(8, 4)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.0123 (0.01 to 0.02)", 0.0123), ("0.5", 0.5), ("", None), ("unknown", None), ("  ", None)],
)
def test_the_expected_error_of_a_plan_is_read_from_its_provenance(text, value):
    plan = fs.Policy(fs.schedule.Uniform(interval=4), fs.forecast.Reuse()).compile(fs.Grid.uniform(8))
    assert dataclasses.replace(plan, provenance={"expected_error": text}).expected_error == value
