"""Guidance branches with separate computed steps, on tiny pipelines and in user-defined loops."""

import gc
import re
import warnings
import weakref
from types import MappingProxyType

import numpy as np
import pytest
import torch

import foreseer as fs
from foreseer.attach.accelerate import attach
from foreseer.attach.sites.output import OutputSite
from foreseer.errors import FailedOpenError, ForeseerWarning
from foreseer.runtime import BranchRun
from tests.support.attaching import reference, tiny

STEPS = 8
COND, UNCOND = (0, 1, 3, 4, 6), (0, 2, 4, 5)
UNION = (0, 1, 2, 3, 4, 5, 6)


def reuse(computed, grid):
    return np.array(fs.forecast.Reuse().rows(computed, grid))


def plan_on(grid, site="output", cross=None):
    """Both branches reuse; at steps where cond computes alone, uncond takes of cond what ``cross`` says."""
    total = len(grid)
    own = {"cond": reuse(COND, grid), "uncond": reuse(UNCOND, grid)}
    rows = np.zeros((total, total))
    for place, weight in (cross or {}).items():
        rows[place] = weight
    return fs.Plan(grid, UNION, reuse(UNION, grid), site, {}, own, {("uncond", "cond"): rows})


def grid_of(name):
    pipe = tiny(name).pipe
    tiny(name).run(STEPS)
    return fs.Grid.from_scheduler(pipe.scheduler)


class Remembering(OutputSite):
    """Keeps what the network gave and what was forecast, by branch and step."""

    def __init__(self, computed, made):
        self.computed, self.made = computed, made

    def compute(self, call, branch):
        output, tensors = super().compute(call, branch)
        self.computed[branch.name, branch.run.last_step + 1] = tensors[0].clone()
        return output, tensors

    def forecast(self, call, branch, feature):
        self.made[branch.name, branch.run.last_step] = feature[0].clone()
        return super().forecast(call, branch, feature)


@pytest.mark.parametrize("name", ["wan", "qwen_image"])
@pytest.mark.parametrize("site", ["output", "last_block"])
def test_each_branch_computes_at_its_own_steps_and_the_record_tells_the_truth(name, site):
    plan = plan_on(grid_of(name), site, {(1, 1): 0.5, (3, 1): -0.25, (3, 3): 0.5})
    with fs.accelerate(tiny(name).pipe, plan, strict=True) as handle:
        first, second = tiny(name).run(STEPS), tiny(name).run(STEPS)
    record = handle.record
    assert record.computed == {"cond": list(COND), "uncond": list(UNCOND)}
    assert record.forecast == {"cond": [2, 5, 7], "uncond": [1, 3, 6, 7]}
    assert (record.nfe, record.forward_passes, record.failed_open) == (7, 9, [])
    assert record.forecast_steps == (7,)
    elements = record.feature_elements["uncond"]
    assert record.forecast_flops == 2 * elements * (3 + 2 + 3 + 1 + 1)
    assert torch.equal(first, second)
    assert not torch.equal(first, reference(name))


@pytest.mark.parametrize("keep", ["device", "host"])
def test_forecasts_are_the_rows_on_both_histories(keep):
    pipe, weights = tiny("wan").pipe, {(1, 0): -0.5, (1, 1): 0.5, (3, 1): -0.25, (3, 3): 0.25, (6, 6): 2.0, (7, 4): 1.0}
    plan, computed, made = plan_on(grid_of("wan"), cross=weights), {}, {}
    site = Remembering(computed, made)
    with attach(pipe, plan, strict=True, keep=keep, make_site=lambda module: site):
        tiny("wan").run(STEPS)
    assert set(made) == {*(("cond", step) for step in (2, 5, 7)), *(("uncond", step) for step in (1, 3, 6, 7))}
    for (branch, step), forecast in made.items():
        last = max(one for one in {"cond": COND, "uncond": UNCOND}[branch] if one < step)
        expected = computed[branch, last].clone()
        for (row, column), weight in weights.items() if branch == "uncond" else ():
            if row == step:
                expected = expected + weight * computed["cond", column]
        assert torch.allclose(forecast, expected, atol=1e-5)


def test_exact_where_the_row_is_the_truth():
    """The same prompt on both sides: cond's output at a step equals uncond's."""
    pipe = tiny("wan")
    embeds = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(3))
    same = {"prompt_embeds": embeds, "negative_prompt_embeds": embeds, "height": 32, "width": 32, "num_frames": 5}

    def run():
        given = {**same, "num_inference_steps": STEPS, "output_type": "latent"}
        return pipe.pipe(**given, generator=torch.Generator().manual_seed(0)).frames

    truth, grid = run(), grid_of("wan")
    every = tuple(range(STEPS))
    cross, first = np.zeros((STEPS, STEPS)), reuse((0,), grid)
    cross[every[1:], every[1:]] = 1.0
    cross[every[1:], 0] = -1.0  # takes away what the branch's own row of reuse adds: both are equal at step 0
    own = {"cond": np.eye(STEPS), "uncond": first}
    plan = fs.Plan(grid, every, np.eye(STEPS), branch_rows=own, cross_rows={("uncond", "cond"): cross})
    with fs.accelerate(pipe.pipe, plan, strict=True) as handle:
        found = run()
    assert handle.record.forward_passes == STEPS + 1
    assert torch.allclose(found, truth, atol=1e-4)
    assert not torch.equal(found, torch.zeros_like(found))


def loop(denoise, order=("cond", "uncond"), begins=0, shape=(1, 3)):
    """A run of eight steps; the last branch begins late, or has features of another shape."""
    return [
        {
            name: denoise(step, torch.ones(1, 3) if name == order[0] else torch.ones(shape), branch=name)
            for name in (order if step >= begins else order[:1])
        }
        for step in range(STEPS)
    ]


WEIGHTS = {(1, 1): 0.5, (3, 3): 0.5}


def wrapped(keep="device"):
    return fs.wrap(lambda x: x * 2.0, plan_on(fs.Grid.uniform(STEPS), cross=WEIGHTS), fs.Grid.uniform(STEPS), keep=keep)


def test_a_wrapped_function_is_served_alike():
    denoise = wrapped()
    outputs = loop(denoise)
    assert denoise.record.computed == {"cond": list(COND), "uncond": list(UNCOND)}
    assert outputs[1]["uncond"].tolist() == [[3.0] * 3]
    assert outputs[6]["uncond"].tolist() == [[2.0] * 3]
    assert (denoise.record.nfe, denoise.record.forward_passes, denoise.record.failed_open) == (7, 9, [])


@pytest.mark.parametrize(
    ("options", "steps", "words"),
    [
        ({"order": ("uncond", "cond")}, [1, 3], "the feature of step . is missing"),
        ({"shape": (2, 3)}, [1, 3], "another shape"),
    ],
    ids=["called first", "another shape"],
)
def test_without_the_other_branchs_feature_the_step_is_computed_and_the_record_says_why(options, steps, words):
    denoise = wrapped()
    with pytest.warns(ForeseerWarning, match="needs features of cond"):
        outputs = loop(denoise, **options)
    assert all(one.abs().max() == 2.0 for step in outputs for one in step.values())
    assert [(one.step, one.branch) for one in denoise.record.failed_open] == [(step, "uncond") for step in steps]
    assert all(re.search(words, one.reason) for one in denoise.record.failed_open)
    assert set(steps) <= set(denoise.record.computed["uncond"])


class EverySecond(fs.schedule.Schedule):
    """Every step computes, uncond at every second."""

    def _computed_steps(self, steps):
        return range(steps)

    def branch_steps(self, grid, first_step=0):
        return {"uncond": tuple(range(0, len(grid) - first_step, 2))}


class Taking(fs.forecast.Reuse):
    """Adds half of what cond gives at the step itself."""

    def cross_rows(self, computed_steps, grid, branch_steps=MappingProxyType({})):
        rows = np.diag([0.5 * (step % 2) for step in range(len(grid))])
        return {("uncond", "cond"): rows}

    def branch_rows(self, computed_steps, grid, branch_steps=MappingProxyType({})):
        return {"cond": self.rows(computed_steps, grid), **super().branch_rows(computed_steps, grid, branch_steps)}


def test_guidance_that_begins_late_is_computed_and_the_record_says_why():
    grid = fs.Grid.uniform(STEPS)
    denoise = fs.wrap(lambda x: x * 2.0, fs.Policy(EverySecond(), Taking()), grid)
    loop(denoise)
    assert denoise.record.computed["uncond"] == [0, 2, 4, 6]
    denoise = fs.wrap(lambda x: x * 2.0, fs.Policy(EverySecond(), Taking()), grid)
    with pytest.warns(ForeseerWarning, match="needs features of cond, which did not begin at the same step"):
        loop(denoise, begins=3)
    assert denoise.record.computed == {"cond": list(range(STEPS)), "uncond": [3, 4, 5, 6, 7]}
    assert [(one.step, one.branch) for one in denoise.record.failed_open] == [(4, "uncond"), (6, "uncond")]
    assert (denoise.record.nfe, denoise.record.forward_passes) == (8, 13)


def test_a_feature_that_is_not_finite_or_was_changed_is_not_taken():
    denoise = wrapped()
    with pytest.warns(ForeseerWarning, match="cond: the feature of step 1 was changed in place"):
        for step in range(2):
            output = denoise(step, torch.ones(3), branch="cond")
            if step:
                output.add_(1.0)
            denoise(step, torch.ones(3), branch="uncond")


def test_strict_handles_raise_where_branches_are_called_in_another_order():
    grid = grid_of("wan")
    plan = plan_on(grid, cross={(1, 1): 0.5})
    own = dict(reversed(plan.branch_rows.items()))  # the plan expects uncond to be called first
    backwards = fs.Plan(grid, UNION, plan.rows, branch_rows=own, cross_rows={("cond", "uncond"): cond_takes()})
    with fs.accelerate(tiny("wan").pipe, backwards, strict=True), pytest.raises(FailedOpenError, match="uncond"):
        tiny("wan").run(STEPS)


def cond_takes():
    rows = np.zeros((STEPS, STEPS))
    rows[2, 2] = 0.5
    return rows


def test_features_are_given_back_as_soon_as_the_last_branch_has_used_them():
    plan = plan_on(fs.Grid.uniform(STEPS), cross={(3, 1): -0.25, (3, 3): 0.5, (6, 0): 0.125})
    runs: dict[str, BranchRun] = {}
    for name in ("cond", "uncond"):
        runs[name] = BranchRun(plan.of_branch(name), 0, "device", runs)
    held = []
    for step in range(STEPS):
        for run in runs.values():
            if run.forecasts(step):
                assert run.why_not(step) is None
                list(run.forecast(step))
            else:
                run.computed(step, [torch.ones(2)])
        held.append((runs["cond"].store.steps, runs["uncond"].store.steps))
    # cond's 0 until uncond's step 6, its 1 until step 3, 4 and 6 for its own reuse
    assert [cond for cond, _ in held] == [(0,), (0, 1), (0, 1), (0,), (0, 4), (0,), (6,), ()]
    assert [uncond for _, uncond in held] == [(0,), (), (2,), (), (), (5,), (5,), ()]
    alone = BranchRun(plan.of_branch("cond"), 0)  # uncond never comes
    for step in range(STEPS):
        alone.computed(step, [torch.ones(2)])
    assert not alone.store.steps


def test_runs_do_not_keep_one_another_alive():
    denoise = wrapped()
    loop(denoise)
    runs = [weakref.ref(branch.applied) for branch in denoise._run._branches.values()]
    gc.disable()
    try:
        del denoise
        assert [run() for run in runs] == [None, None]
    finally:
        gc.enable()


def test_guidance_that_stops_early_and_a_run_without_it_are_served():
    denoise = wrapped()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(STEPS):
            denoise(step, torch.ones(3), branch="cond")
            if step < 4:
                denoise(step, torch.ones(3), branch="uncond")
    assert denoise.record.computed == {"cond": list(COND), "uncond": [0, 2]}
    assert not denoise._run._branches["cond"].applied.store.steps
