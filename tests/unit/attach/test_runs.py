"""Runs of many kinds: image to image, other schedulers, a bare module, host memory, threads."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from functools import cache
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import foreseer as fs
from foreseer.gate import GatedPolicy, StepControl
from foreseer.site import SITES
from tests.support.attaching import (
    STEPS,
    accelerated,
    denoise_flux,
    denoiser,
    flow_scheduler,
    policy,
    reference,
    sample,
    tiny,
)
from tests.support.pipelines import TinyPipeline, assemble, build, embeds, pair, pooled, square, tiny_vae

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


def image_to_image(name: str) -> Any:
    """A run of ``strength`` as a function, on the tiny model of ``name``."""
    model = tiny(name).pipe.transformer
    if name == "flux":
        pipe = assemble(diffusers.FluxImg2ImgPipeline, transformer=model, vae=tiny_vae(), scheduler=flow_scheduler())
        given = {"prompt_embeds": embeds(1, 6, 32), "pooled_prompt_embeds": embeds(1, 32)}
    else:
        pipe = assemble(
            diffusers.StableDiffusion3Img2ImgPipeline, transformer=model, vae=tiny_vae(), scheduler=flow_scheduler()
        )
        given = {**pair(1), **pooled(1)}
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))

    def run(strength: float) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": 10, "strength": strength, "generator": generator}
        return pipe(**given, image=image, **square(16), **options).images

    return pipe, run


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(("name", "branch"), [("flux", "call 1"), ("sd3", "call 1")])
def test_image_to_image_begins_where_it_begins(name: str, branch: str, site: str) -> None:
    pipe, run = image_to_image(name)
    expected = {strength: run(strength) for strength in (0.6, 1.0)}
    with fs.accelerate(pipe, policy(site, fs.schedule.Uniform(1))) as handle:
        assert torch.equal(run(0.6), expected[0.6])
        assert handle.record.computed == {branch: [4, 5, 6, 7, 8, 9]}
    with fs.accelerate(pipe, policy(site)) as handle:
        first = run(0.6)
        assert handle.record.computed == {branch: [4, 6, 8]}
        assert handle.record.forecast == {branch: [5, 7, 9]}
        assert handle.record.steps == 10
        plan = handle.record.plans[branch]
        assert plan.grid == fs.Grid.from_scheduler(pipe.scheduler).tail(4)
        run(1.0)
        assert handle.record.computed == {branch: [0, 2, 4, 6, 8]}
        assert torch.equal(run(0.6), first)
    assert handle.record.failed_open == []
    assert not torch.equal(first, expected[0.6])


@cache
def in_bfloat16(name: str) -> TinyPipeline:
    found = build(name)
    found.pipe.to(torch.bfloat16)
    call = found.call
    found.call = lambda pipe, batch, size, **options: call(_HalfInputs(pipe), batch, size, **options)
    return found


class _HalfInputs:
    """Calls a pipeline with its embeddings in bfloat16."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def __call__(self, **given: Any) -> Any:
        floats = {name for name, value in given.items() if isinstance(value, Tensor) and value.is_floating_point()}
        return self._pipe(**{name: value.bfloat16() if name in floats else value for name, value in given.items()})


ROUNDED = ("flux", "sd3", "chroma", "lumina2", "qwen_image", "wan", "ltx", "cogvideox", "sdxl")


# The blocks of a U-Net change the shape of what they take: they have no change to forecast.
@pytest.mark.parametrize(
    ("name", "site"), [(name, site) for name in ROUNDED for site in SITES if (name, site) != ("sdxl", "residual")]
)
def test_bfloat16_rounds_timesteps_but_loses_no_step(name: str, site: str) -> None:
    run, steps = in_bfloat16(name), 20
    expected = run.run(steps)
    with fs.accelerate(run.pipe, policy(site, fs.schedule.Uniform(1))) as handle:
        assert torch.equal(run.run(steps), expected)
    with fs.accelerate(run.pipe, policy(site)) as handle:
        found = run.run(steps)
    assert handle.record.failed_open == []
    assert handle.record.computed == {branch: list(range(0, steps, 2)) for branch in run.branches}
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("site", [site for site in SITES if site != "tokens"])  # Sana's MLPs mix tokens
@pytest.mark.parametrize("kind", ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler"])
def test_another_scheduler_between_runs(kind: str, site: str) -> None:
    pipe = tiny("sana").pipe
    ordinary = pipe.scheduler
    try:
        with fs.accelerate(pipe, policy(site)) as handle:
            pipe.scheduler = flow_scheduler()
            first = tiny("sana").run()
            euler = handle.record.plans["call 1"].grid
            pipe.scheduler = getattr(diffusers, kind)(**FLOW)
            second = tiny("sana").run()
            solver = handle.record.plans["call 1"].grid
            pipe.scheduler = flow_scheduler()
            assert torch.equal(tiny("sana").run(), first)
        assert handle.record.failed_open == []
        assert handle.record.nfe == 4
        assert not euler.matches(solver)
        pipe.scheduler = getattr(diffusers, kind)(**FLOW)
        assert torch.equal(accelerated("sana", site=site), second)
    finally:
        pipe.scheduler = ordinary


@pytest.mark.parametrize("site", SITES)
def test_a_bare_module_in_a_loop_of_ones_own(site: str) -> None:
    model, scheduler = denoiser(), flow_scheduler()
    with torch.no_grad():
        expected = sample(model, scheduler)
        with fs.accelerate(model, policy(site, fs.schedule.Uniform(1)), scheduler=scheduler):
            assert torch.equal(sample(model, scheduler), expected)
        with fs.accelerate(model, policy(site), scheduler=scheduler) as handle:
            first = sample(model, scheduler)
            assert handle.record.computed == {"call 1": [0, 2, 4, 6]}
            calls = model.calls
            sample(model, scheduler, steps=11, batch=3)
            assert handle.record.computed == {"call 1": [0, 2, 4, 6, 8, 10]}
            assert model.calls - calls == (6 if site == "output" else 11)
            assert torch.equal(sample(model, scheduler), first)
        assert torch.equal(sample(model, scheduler), expected)
    assert (first - expected).abs().max() < 0.3 * expected.abs().max()


def test_extrapolation_is_nearer_than_reuse_on_a_smooth_model() -> None:
    model, scheduler = denoiser(), flow_scheduler()
    errors = {}
    with torch.no_grad():
        expected = sample(model, scheduler, steps=30)
        for forecaster in (fs.forecast.Reuse(), fs.forecast.Newton(order=1), fs.forecast.TaylorSeer(order=1)):
            rule = fs.Policy(fs.schedule.Uniform(interval=2, warmup=3), forecaster)
            with fs.accelerate(model, rule, scheduler=scheduler):
                errors[type(forecaster).__name__] = float((sample(model, scheduler, steps=30) - expected).norm())
    assert errors["Newton"] < 0.5 * errors["Reuse"]
    assert errors["TaylorSeer"] < 0.5 * errors["Reuse"]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", ["flux", "z_image", "dit"])
def test_host_memory_gives_the_same_bits(name: str, site: str) -> None:
    with fs.accelerate(tiny(name).pipe, policy(site), keep="host") as handle:
        found = tiny(name).run()
    assert torch.equal(found, accelerated(name, site=site))
    assert handle.record.failed_open == []


def test_inference_mode_gives_the_same_bits() -> None:
    with fs.accelerate(tiny("flux").pipe, policy()) as handle, torch.inference_mode():
        found = tiny("flux").run()
    assert torch.equal(found.clone(), accelerated("flux"))
    assert handle.record.failed_open == []


@pytest.mark.parametrize("name", ["qwen_image", "wan_2_2"])
def test_the_record_is_plain_data(name: str) -> None:
    with fs.accelerate(tiny(name).pipe, policy()) as handle:
        assert handle.record is None
        tiny(name).run()
    read = json.loads(json.dumps(handle.record.to_dict()))
    assert read["computed"] == handle.record.computed
    assert read["forecast"] == handle.record.forecast
    assert read["forward_passes"] == sum(map(len, read["computed"].values()))
    assert (read["steps"], read["failed_open"]) == (STEPS, [])
    assert 0 < read["forecast_seconds"] < 10


def test_a_handle_keeps_no_pipeline_alive() -> None:
    pipe = assemble(diffusers.FluxPipeline, transformer=tiny("flux").pipe.transformer, scheduler=flow_scheduler())
    gone = weakref.ref(pipe)
    with fs.accelerate(pipe, policy()):
        del pipe
        gc.collect()
        assert gone() is None
        with pytest.warns(fs.ForeseerWarning, match="set_timesteps"):
            denoise_flux(tiny("flux").pipe.transformer, 500.0)
    assert torch.equal(tiny("flux").run(), reference("flux"))


class OneSchedulerAThread:
    """Stands for the scheduler of whichever thread asks."""

    def __init__(self) -> None:
        self._own = threading.local()

    def __getattr__(self, name: str) -> Any:
        if not hasattr(self._own, "scheduler"):
            self._own.scheduler = flow_scheduler()
        return getattr(self._own.scheduler, name)


@pytest.mark.parametrize("site", SITES)
def test_threads_on_one_model_do_not_mix(site: str) -> None:
    model, settings = denoiser(), {index: {"steps": 6 + index, "seed": index} for index in range(3)}
    found: dict[int, list[Tensor]] = {}
    records: dict[int, dict[str, list[int]]] = {}
    start = threading.Barrier(3)
    scheduler = OneSchedulerAThread()
    with fs.accelerate(model, policy(site), scheduler=scheduler) as handle:

        def work(index: int) -> None:
            with torch.no_grad():
                start.wait()
                found[index] = [sample(model, scheduler, **settings[index]) for _ in range(6)]
                records[index] = handle.record.computed

        threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    for index, options in settings.items():
        own = flow_scheduler()
        with torch.no_grad(), fs.accelerate(model, policy(site), scheduler=own):
            expected = sample(model, own, **options)
        assert len(found[index]) == 6
        assert all(torch.equal(one, expected) for one in found[index])
        assert records[index] == {"call 1": list(range(0, options["steps"], 2))}


def test_calls_at_unknown_steps_count_as_evaluations() -> None:
    from foreseer.attach.run_record import RunRecord

    record = RunRecord(steps=10, computed={"call 1": [-1] * 10, "call 2": [-1] * 9})
    assert record.computed_steps == ()
    assert record.nfe == 10
    assert RunRecord(steps=4, computed={"cond": [0, 2]}).nfe == 2


@pytest.mark.parametrize("most", [4, 6])
def test_a_gates_maximum_counts_both_denoisers(most: int) -> None:
    gated = GatedPolicy(StepControl(tolerance=1e-6, warmup=2), fs.forecast.Newton(order=1), max_nfe=most)
    with fs.accelerate(tiny("wan_2_2").pipe, gated) as handle:
        tiny("wan_2_2").run(16)
    assert handle.record is not None
    assert handle.record.nfe == most
    assert {name.split()[0] for name in handle.record.computed} == {"transformer", "transformer_2"}
