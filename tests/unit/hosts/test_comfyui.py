"""The ComfyUI wrappers on a stand-in of the wrapper contract."""

from __future__ import annotations

import itertools
import logging
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import foreseer as fs
from foreseer.hosts.choice import Choice, ChoiceError
from foreseer.hosts.comfyui.patch import ModelPatch, _network_input, patch_of, take_off
from foreseer.hosts.comfyui.pieces import cut
from foreseer.hosts.comfyui.recording import RecordError, Recording, summarise
from foreseer.hosts.comfyui.refining import Refinement
from foreseer.hosts.comfyui.rolling import RolledRun
from foreseer.hosts.comfyui.run_report import RunReport
from foreseer.hosts.comfyui.sampler_run import SamplingRun
from tests.unit.hosts.comfyui_standin import SAMPLERS, Guider, Network, Patcher, Sampler, noise, sigmas

STEPS = 12


def sample(model: Patcher, sampler: str = "euler", levels: Tensor | None = None, conds: Any = None, **options: Any):
    torch.manual_seed(0)  # for the ancestral sampler
    guider = Guider(model, conds)
    guider.last = guider.sample(
        noise(options.pop("seed", 0)),
        Sampler(SAMPLERS[sampler]),
        sigmas(STEPS) if levels is None else levels,
        **options,
    )
    return guider.last


def patched(speedup: float = 2.0, shift: float = 0.0, **options: Any) -> Patcher:
    return ModelPatch(Choice(speedup=speedup, **options)).put_on(Patcher(Network(shift)))


def report(model: Patcher) -> RunReport:
    return patch_of(model).reports[-1]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_if_every_step_computes_the_sample_is_the_same_to_the_bit(sampler: str) -> None:
    model = patched(speedup=1.0)
    assert torch.equal(sample(model, sampler), sample(Patcher(Network()), sampler))
    assert report(model).forecast == 0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_report_adds_up_with_the_calls_of_the_network(sampler: str) -> None:
    plain, model = Patcher(Network()), patched()
    sample(plain, sampler)
    sample(model, sampler)
    assert report(model).calls == plain.model.calls
    assert report(model).forward_passes == model.model.calls
    computed = sum(record.forward_passes for record in report(model).records)
    forecast = sum(len(steps) for record in report(model).records for steps in record.forecast.values())
    assert forecast == report(model).forecast
    if sampler != "euler_cfg_pp":
        assert computed + report(model).between_levels == model.model.calls < plain.model.calls


@pytest.mark.parametrize("sampler", ["euler", "two_step", "ancestral"])
def test_half_the_steps_compute_and_the_result_is_near(sampler: str) -> None:
    plain, model = Patcher(Network()), patched()
    expected, found = sample(plain, sampler), sample(model, sampler)
    assert (plain.model.calls, model.model.calls) == (12, 6)
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.1


def test_computed_steps_return_the_networks_own_tensor() -> None:
    model, seen = patched(), []
    network = model.model
    model.model = lambda *args: seen.append(network(*args)) or seen[-1]
    sample(model, callback=lambda step: seen.append(step["denoised"]))
    assert sum(first is second for first, second in itertools.pairwise(seen)) == network.calls == 6


def test_cfg_pp_computes_all_and_says_why() -> None:
    model = patched()
    assert torch.equal(sample(model, "euler_cfg_pp"), sample(Patcher(Network()), "euler_cfg_pp"))
    assert "cfg++" in report(model).reasons[0]
    model.model_options["sampler_post_cfg_function"] = [lambda args: args["denoised"]]  # the user's own is no reason
    sample(model)
    assert report(model).forecast == 6


def test_calls_between_levels_are_computed_and_not_kept() -> None:
    model = patched()
    sample(model, "midpoint")
    assert report(model).between_levels == STEPS
    assert report(model).records[0].nfe == 6
    assert report(model).forward_passes == STEPS + 6


def test_a_level_visited_twice_is_a_branch_of_its_own() -> None:
    model = patched()
    sample(model, "heun")
    (record,) = report(model).records
    assert set(record.computed) == {"visit 1", "visit 2"}
    assert {*record.computed["visit 2"], *record.forecast["visit 2"]} == set(range(1, STEPS))
    assert report(model).forecast > STEPS // 2


CONTROL = SimpleNamespace(timestep_range=(100.0, 2.0), previous_controlnet=None)


@pytest.mark.parametrize(
    ("condition", "cuts"),
    [
        ({"timestep_end": 2.0}, 1),
        ({"timestep_start": 8.0, "timestep_end": 1.0}, 2),
        ({"control": CONTROL}, 1),
        ({"control": SimpleNamespace(timestep_range=None, previous_controlnet=CONTROL)}, 1),
        ({"timestep_start": 100.0, "timestep_end": 0.0}, 0),
    ],
)
def test_the_run_is_cut_where_conditions_change(condition: dict[str, Any], cuts: int) -> None:
    model = patched()
    conds = {"positive": [{"value": 0.4}, {"value": 1.5, **condition}], "negative": [{}]}
    sample(model, conds=conds)
    records = report(model).records
    assert len(records) == cuts + 1
    assert sum(record.steps for record in records) == STEPS
    for record in records:  # the first step of each piece computes, and each has its own budget
        assert record.computed["visit 1"][0] == 0
        assert record.nfe <= max(1, round(record.steps / 2)) + 1


def keyframes(*frames: tuple[float, int]) -> dict[str, Any]:
    group = SimpleNamespace(
        keyframes=[SimpleNamespace(start_t=start, guarantee_steps=steps) for start, steps in frames]
    )
    return {"hooks": SimpleNamespace(hooks=[SimpleNamespace(hook_keyframe=group)])}


@pytest.mark.parametrize(
    ("starts", "guarantees", "cuts"),
    [
        ((None, 4), (1, 1), [0, 4]),
        ((None, 4, 5), (1, 3, 1), [0, 4, 7]),  # the second keyframe is kept for three steps
        ((None, 4, 5), (1, 1, 1), [0, 4, 5]),
        ((None, None), (1, 1), [0]),  # the second takes over at once: the first begins above the run's levels
        ((None,), (1,), [0]),
    ],
)
def test_the_run_is_cut_at_keyframes_of_hooks(
    starts: tuple[int | None, ...], guarantees: tuple[int, ...], cuts: list[int]
) -> None:
    levels = sigmas(STEPS).tolist()[:-1]
    times = [1e9 if start is None else levels[start] + 1e-3 for start in starts]
    conds = {"positive": [{"value": 0.2, **keyframes(*zip(times, guarantees, strict=True))}]}
    pieces = cut(levels, conds)
    assert [piece.start for piece in pieces] == cuts
    assert pieces[-1].stop == STEPS
    model = patched()
    sample(model, conds=conds)
    records = report(model).records
    assert len(records) == sum(piece.stop - piece.start > max(guarantees) for piece in pieces)
    for record in records:
        assert set(range(max(guarantees) if len(starts) > 1 else 1)) <= set(record.computed["visit 1"])


@pytest.mark.parametrize(
    ("levels", "reason"),
    [
        (torch.tensor([0.5, 1.0, 2.0, 4.0]), "strictly decrease"),
        (torch.tensor([4.0, 2.0, 2.0, 1.0, 0.0]), "strictly decrease"),
        (torch.tensor([4.0, 0.0]), None),
    ],
)
def test_what_is_no_grid_or_too_short_is_computed(levels: Tensor, reason: str | None) -> None:
    model = patched()
    assert torch.equal(sample(model, levels=levels), sample(Patcher(Network()), levels=levels))
    assert report(model).forecast == 0
    assert any(reason in one for one in report(model).reasons) if reason else not report(model).reasons


def test_a_budget_of_all_steps_computes_all() -> None:
    model = ModelPatch(Choice(nfe=STEPS + 5)).put_on(Patcher(Network()))
    assert torch.equal(sample(model), sample(Patcher(Network())))


@pytest.mark.parametrize(("speedup", "reads"), [(1.0, 0), (2.0, STEPS)])
def test_the_noise_level_is_read_once_per_call_and_not_if_all_compute(
    speedup: float, reads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read waits for the device."""
    levels, x, read = sigmas(STEPS), noise(), Tensor.tolist
    run = SamplingRun(Choice(speedup=speedup), levels.tolist(), {})
    seen: list[Tensor] = []
    monkeypatch.setattr(Tensor, "tolist", lambda tensor: seen.append(tensor) or read(tensor))
    for level in levels[:-1]:
        run.denoised(x, level.expand(2), lambda: x * 0.5)
    assert len(seen) == reads


def test_parts_of_a_run_each_have_their_own_budget() -> None:
    """Image to image and split samplers are slices of the levels."""
    model = patched(speedup=3.0)
    levels = sigmas(STEPS)
    for part in (levels[6:], levels[:7], levels[2:9]):
        sample(model, levels=part)
        assert report(model).records[0].nfe == round((len(part) - 1) / 3)


def test_other_caches_on_the_same_model_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    model = patched()
    model.add_wrapper_with_key(
        "predict_noise", "lazycache", lambda executor, *args, **kwargs: executor(*args, **kwargs)
    )
    with caplog.at_level(logging.WARNING, "foreseer"):
        sample(model)
    assert "lazycache" in caplog.text
    caplog.clear()
    sample(patched())
    assert caplog.text == ""


def test_an_interrupted_run_leaves_nothing_behind() -> None:
    model, fresh = patched(), patched()

    def interrupt(step: dict[str, Any]) -> None:
        if step["i"] == 5:
            raise InterruptedError

    guider = Guider(model)
    with pytest.raises(InterruptedError):
        guider.sample(noise(7), Sampler(SAMPLERS["euler"]), sigmas(STEPS), callback=interrupt)
    assert "foreseer" not in guider.seen_options["transformer_options"]
    assert report(model).calls == 6
    assert torch.equal(sample(model), sample(fresh))


def test_another_size_or_step_count_in_the_next_run_is_as_if_alone() -> None:
    model = patched()
    sample(model)
    for shape, steps in (((2, 4, 6, 10), 9), ((1, 16, 4, 4), 20)):
        for _ in range(2):
            found = Guider(model).sample(noise(3, shape), Sampler(SAMPLERS["euler"]), sigmas(steps))
            alone = Guider(patched()).sample(noise(3, shape), Sampler(SAMPLERS["euler"]), sigmas(steps))
            assert torch.equal(found, alone)


def test_two_prompts_at_once_on_one_patched_model() -> None:
    model, results, barrier = patched(), {}, threading.Barrier(2)

    def work(seed: int) -> None:
        def wait(step: dict[str, Any]) -> None:
            barrier.wait(10)

        results[seed] = sample(model, seed=seed, callback=wait)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        assert torch.equal(results[seed], sample(patched(), seed=seed))


def test_only_the_clone_is_changed_and_the_later_node_counts() -> None:
    plain = Patcher(Network())
    first = ModelPatch(Choice(speedup=4.0)).put_on(plain)
    second = ModelPatch(Choice(speedup=2.0)).put_on(first)
    assert plain.wrappers == {}
    sample(second)
    assert report(second).forward_passes == 6
    sample(first)
    assert report(first).forward_passes == 3
    off = take_off(second)
    assert patch_of(off) is None
    assert torch.equal(sample(off), sample(plain))


def test_a_network_whose_output_has_another_shape_is_computed() -> None:
    model = patched()
    network = model.model
    model.model = lambda *args: network(*args).mean(dim=1, keepdim=True)
    sample(model)
    assert network.calls == STEPS
    assert "another shape" in report(model).reasons[0]


@pytest.mark.parametrize(("first", "last"), [(3, 2), (1, 1), (2, 0), (6, 0)])
def test_first_and_last_steps_are_part_of_the_budget_which_is_spent(first: int, last: int) -> None:
    model = patched(speedup=2.0, first_steps=first, last_steps=last)
    sample(model)
    computed = report(model).records[0].computed["visit 1"]
    assert {*range(first), *range(STEPS - last, STEPS)} <= set(computed)
    assert len(computed) == STEPS // 2


@pytest.mark.parametrize("method", ["taylorseer", "spectrum", "newton", "reuse", "forecast-error"])
def test_methods_by_name(method: str) -> None:
    model = patched(method=method)
    expected, found = sample(Patcher(Network())), sample(model)
    assert report(model).forecast > 0
    assert float((found - expected).norm() / expected.norm()) < 0.5


def recorded(sampler: str = "euler", runs: int = 4, steps: int = 8, keep: bool = False) -> Recording:
    recording = Recording(keep)
    model = recording.put_on(Patcher(Network()))
    for seed in range(runs):
        sample(model, sampler, sigmas(steps), seed=seed)
    return recording


def test_refined_rows_are_fitted_through_the_samplers_matrix_and_beat_the_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patcher, recording, nfe = Patcher(Network()), Recording(keep=True), 3
    monkeypatch.setattr("foreseer.hosts.comfyui.recording.SPEEDUPS", (4.0,))

    def run(wrappers: Any, seed: int) -> Tensor:
        model = wrappers.put_on(patcher)
        return Guider(model).sample(noise(seed, (1, 16, 16, 16)), Sampler(SAMPLERS["two_step"]), sigmas(12))

    for seed in range(4):
        run(recording, seed)
    patcher.model.calls = 0
    profile = recording.profile({"model": "stand-in"}, run)
    assert patcher.model.calls == (3 + 2) * nfe  # three rolled out; one held out, and run under both kinds of rows
    assert "(refined rows)" in summarise(profile)
    (plan,) = profile.plans
    errors = []
    for served in (profile, profile.kernel):
        patch = ModelPatch(Choice(profile=served, nfe=nfe))
        for seed in (50, 51):
            expected, found = run(SimpleNamespace(put_on=take_off), seed), run(patch, seed)
            errors.append(float((found - expected).norm() / expected.norm()))
            assert patch.reports[-1].forward_passes == nfe
    assert max(errors[:2]) < 0.95 * min(errors[2:])
    assert plan.expected_error == pytest.approx(errors[0], rel=0.1)


def test_gauss_newton_iterations_beat_the_rollout() -> None:
    patcher, recording, nfe = Patcher(Network()), Recording(keep=True), 5

    def run(wrappers: Any, seed: int) -> Tensor:
        model = wrappers.put_on(patcher)
        return Guider(model).sample(noise(seed, (1, 16, 16, 16)), Sampler(SAMPLERS["euler"]), sigmas(12))

    for seed in range(4):
        run(recording, seed)
    errors, calls = [], []
    for iterations in (0, 1):
        patcher.model.calls = 0
        refinement = Refinement(recording.kernel({}), recording.references, run, iterations, 1e-3)
        plan = refinement.plan(nfe)
        calls.append(patcher.model.calls)
        assert plan is not None
        expected, found = run(SimpleNamespace(put_on=take_off), 50), run(RolledRun(plan, {}), 50)
        errors.append(float((found - expected).norm() / expected.norm()))
    assert errors[1] < 0.85 * errors[0]
    assert "1 iterations; typical held-out error" in plan.provenance["refined"]
    most = 3 * (nfe * (nfe + 1) * (nfe - 1) // 6 + nfe) + 6 * nfe  # held out: the start, and up to five dampings
    assert 3 * nfe < calls[1] - calls[0] <= most


@pytest.mark.parametrize(("sampler", "runs"), [("ancestral", 4), ("heun", 2), ("euler", 1)])
def test_without_a_matrix_or_a_run_to_hold_out_the_profile_has_kernel_rows(sampler: str, runs: int) -> None:
    profile = recorded(sampler, runs, keep=True).profile({}, lambda wrappers, index: pytest.fail("sampled again"))
    assert profile.plans == ()
    assert runs == 1 or "(kernel rows)" in summarise(profile)


def test_recording_changes_nothing_and_learns_rows_that_beat_the_default() -> None:
    model, levels = Recording().put_on(Patcher(Network())), sigmas(8)
    assert torch.equal(sample(model), sample(Patcher(Network())))
    profile = recorded().kernel({})
    assert profile.prompts == 4
    expected = sample(Patcher(Network()), levels=levels, seed=100)
    errors = {}
    for name, choice in (("learned", Choice(profile=profile, nfe=3)), ("default", Choice(nfe=3))):
        model = ModelPatch(choice).put_on(Patcher(Network()))
        errors[name] = float((sample(model, levels=levels, seed=100) - expected).norm() / expected.norm())
        assert report(model).forward_passes == 3
        assert (report(model).expected_error is not None) == (name == "learned")
    assert errors["learned"] < 0.5 * errors["default"]


def test_a_quality_of_a_profile_keeps_its_expected_error() -> None:
    profile = recorded(runs=2).kernel({})
    assert "speedup 3: " in summarise(fs.Profile(profile))
    model = ModelPatch(Choice(profile=profile, quality="fast")).put_on(Patcher(Network()))
    sample(model, levels=sigmas(8))
    assert 0 < report(model).expected_error <= 0.1
    assert report(model).forecast > 0


@pytest.mark.parametrize(
    ("sampler", "linear"), [("two_step", True), ("euler", True), ("ancestral", False), ("heun", False)]
)
def test_the_samplers_matrix_reproduces_its_samples(sampler: str, linear: bool) -> None:
    profile = recorded(sampler, runs=2).kernel({})
    assert (profile.sampler is not None) == linear
    if linear:
        model, features, samples = Patcher(Network()), [], []
        guider, levels = Guider(model), sigmas(8)
        network = model.model

        def keep(x: Tensor, sigma: float, conds: Any) -> Tensor:
            denoised = network(x, sigma, conds)
            samples.append(x)
            features.append((x - denoised) / sigma)
            return denoised

        model.model = keep
        final = guider.sample(noise(5), Sampler(SAMPLERS[sampler]), levels)
        row = torch.tensor(profile.sampler[-1], dtype=torch.float32)
        predicted = row[0] * samples[0] + sum(w * F for w, F in zip(row[1:], features, strict=True))
        assert torch.allclose(predicted, final, rtol=1e-4, atol=1e-4)


def test_recording_refuses_what_cannot_be_learned_from() -> None:
    recording = Recording()
    with pytest.raises(RecordError, match="no sampler ran"):
        recording.kernel({})
    model = recording.put_on(Patcher(Network()))
    sample(model)
    with pytest.raises(RecordError, match="different noise levels"):
        sample(model, levels=sigmas(9))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speedup": 0.5}, "speedup is 0.5"),
        ({"speedup": 2.0, "nfe": 3}, "speedup and nfe"),
        ({"method": "fora"}, "Unknown method 'fora'"),
        ({"quality": "high"}, "needs a profile"),
        ({"quality": "best"}, "Unknown quality 'best'"),
        ({"profil": "x"}, "Unknown options profil"),
        ({"first_steps": -1}, "first_steps"),
        ({"profile": 3}, "profile is a int"),
    ],
)
def test_options_are_refused_by_name(options: dict[str, Any], message: str, as_users_call: None) -> None:
    with pytest.raises(ChoiceError, match=message):
        Choice.from_options(options)


@pytest.mark.parametrize("kind", ["kernel", "profile", "profile with a refined plan"])
def test_a_profile_is_read_from_its_file(tmp_path: Any, kind: str) -> None:
    path, kernel = tmp_path / "model.safetensors", recorded(runs=2).kernel({})
    plan = fs.Policy(fs.schedule.Explicit((0, 1, 2, 4, 7)), fs.forecast.Newton(order=1)).compile(kernel.grid)
    plan = replace(plan, provenance={**plan.provenance, "expected_error": "0.0123 +- 0.001"})
    plans = (plan,) if kind.endswith("plan") else ()
    (kernel if kind == "kernel" else fs.Profile(kernel, plans)).save(path)
    choice = Choice.from_options({"profile": str(path), "nfe": 5, "first_steps": 2})
    compiled = choice.policy(kernel.grid).compile(kernel.grid)
    assert compiled.nfe == 5
    assert (compiled.computed_steps == plan.computed_steps) == bool(plans)
    model = ModelPatch(Choice(profile=choice.profile, nfe=5)).put_on(Patcher(Network()))
    sample(model, levels=sigmas(8))
    assert report(model).forward_passes == 5
    assert (report(model).expected_error == 0.0123) == bool(plans)


class OnePlan(Choice):
    """A choice whose plan weighs the run's first sample at step 1."""

    def policy(self, grid: fs.Grid, first_steps: int = 0) -> fs.Policy:
        schedule = fs.schedule.Explicit((0, *range(2, len(grid))), of=len(grid))
        plan = fs.Policy(schedule, fs.forecast.Reuse()).compile(grid)
        return fs.Policy.from_plan(replace(plan, start_row=np.eye(len(grid))[1] * 0.25))


@pytest.mark.parametrize("known", [True, False])
def test_a_plan_weighs_the_first_sample_as_the_network_receives_it(known: bool) -> None:
    levels, first = sigmas(STEPS), noise()
    network_input = (lambda sigma, x: 0.1 * x) if known else None
    run = SamplingRun(OnePlan(), levels.tolist(), {}, network_input=network_input)
    run.denoised(first, levels[:1].expand(2), lambda: first * 0.5)
    x = first * 0.9
    found = run.denoised(x, levels[1:2].expand(2), lambda: x * 0.5)
    if known:
        feature = first * 0.5 / levels[0] + 0.25 * (0.1 * first)
        assert torch.allclose(found, x - levels[1] * feature, atol=1e-6)
    else:
        assert torch.equal(found, x * 0.5)
        run.end()
        assert any("first input" in reason for reason in run.report.reasons)


@pytest.mark.parametrize("change", [lambda given: given.double(), lambda given: given[..., :1]], ids=["dtype", "shape"])
def test_another_dtype_or_shape_of_the_network_s_input_restarts_no_run(change: Any) -> None:
    levels, x = sigmas(STEPS), noise()
    run = SamplingRun(OnePlan(), levels.tolist(), {}, network_input=lambda sigma, x: change(x))
    for level in levels[:-1]:
        x = run.denoised(x, level.expand(2), lambda x=x: x * 0.5) * 0.9
    assert run.report.records[0].begun_late == []


def test_a_model_without_sampling_gives_no_first_sample() -> None:
    def get_model_object(name: str) -> Any:
        raise AttributeError(name)

    assert _network_input(SimpleNamespace(model_patcher=SimpleNamespace(get_model_object=get_model_object))) is None


def test_the_model_says_what_the_network_receives() -> None:
    model = ModelPatch(OnePlan()).put_on(Patcher(Network()))
    guider = Guider(model)
    seen: list[str] = []
    sampling = SimpleNamespace(calculate_input=lambda sigma, x: seen.append("asked") or x)
    guider.model_patcher = SimpleNamespace(get_model_object=lambda name: {"model_sampling": sampling}[name])
    guider.sample(noise(), Sampler(SAMPLERS["euler"]), sigmas(STEPS))
    assert seen == ["asked"]
    assert patch_of(model).reports[-1].forward_passes == STEPS - 1
