"""Mistakes of users are refused with a message, instead of doing nothing or something else."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import peft
import pytest
import torch
from torch import nn

import foreseer as fs
from foreseer.attach.network.architecture import architecture_of, how_it_differs
from foreseer.attach.run.scheduler_identity import how_schedulers_differ, scheduler_identity
from foreseer.calibration.calibrate import CalibrationError
from foreseer.calibration.frontier import trace_frontier
from foreseer.errors import AttachError
from foreseer.kernel import KernelError
from foreseer.methods.validate import expected_error
from foreseer.pipelines import PipelineError, call_arguments, load_pipeline
from foreseer.plan.explain import NO_SCHEDULER
from tests.support.attaching import STEPS, denoiser, flow_scheduler, policy, sample, tiny
from tests.support.pipelines import build

GRID = fs.Grid.uniform(4)


def test_a_detached_handle_is_not_entered() -> None:
    handle = fs.accelerate(tiny("flux").pipe, policy())
    handle.detach()
    with pytest.raises(AttachError, match="was detached"), handle:
        pass


def test_a_lost_handle_is_detached() -> None:
    pipe = tiny("flux").pipe
    fs.accelerate(pipe, policy())
    with pytest.raises(AttachError, match=r"already: .*fs\.detach\(pipe\)"):
        fs.accelerate(pipe, policy())
    fs.detach(pipe.transformer)
    handle = fs.accelerate(pipe, policy())
    fs.detach(pipe)
    assert not handle.attached
    fs.detach(pipe)
    assert repr(handle) == "<Handle: Detached; no run yet.>"
    with pytest.raises(AttachError, match="SimpleNamespace has no scheduler"):
        fs.detach(SimpleNamespace())
    for wrong in (None, 3, [], "emoji", Path("emoji")):
        with pytest.raises(AttachError, match="Expected a diffusers pipeline, loaded, or a network; received"):
            fs.detach(wrong)


def test_a_wrapped_function_takes_a_grid_and_whole_steps(as_users_call: None) -> None:
    with pytest.raises(AttachError, match="expected a Grid"):
        fs.wrap(lambda x, t: x, policy(), [1.0, 0.5])
    denoise = fs.wrap(lambda x, t: x, policy(), GRID)
    with pytest.raises(AttachError, match=r"step is 0.5; expected an integer"):
        denoise(0.5, torch.ones(1), 1.0)


def test_prompts_and_steps_are_not_given_twice() -> None:
    pipe, _ = load_pipeline("emoji")
    pipe.set_progress_bar_config(disable=True)
    call = {"height": 32, "width": 32, "max_sequence_length": 16}
    with pytest.raises(PipelineError, match="prompts and seeds are given on their own"):
        fs.calibrate(pipe, ["a red apple"], num_inference_steps=4, prompt="a cactus", **call)
    kernel = fs.calibrate(pipe, ["a red apple"], num_inference_steps=4, sensitivity_prompts=0, **call)
    with pytest.raises(CalibrationError, match="The grid has 4 steps, and num_inference_steps is 6"):
        fs.rollout(pipe, kernel, ["a red apple"], nfe=2, num_inference_steps=6, **call)


def test_guidance_that_diffusers_would_drop_is_refused() -> None:
    pipe, _ = load_pipeline("emoji")
    with pytest.raises(PipelineError, match=r"true_cfg_scale is 3, .*without a negative prompt"):
        fs.calibrate(pipe, ["a red apple"], num_inference_steps=4, true_cfg_scale=3.0)
    assert call_arguments(pipe, "a red apple", {"true_cfg_scale": 3.0, "negative_prompt": ""})["true_cfg_scale"] == 3.0
    with pytest.raises(PipelineError, match="without a negative prompt"):
        call_arguments(pipe, "a red apple", {"true_cfg_scale": 3.0, "negative_prompt_2": "a blur"})
    with pytest.raises(PipelineError, match="takes no true_cfg_scale"):
        call_arguments(tiny("sd3").pipe, "a red apple", {"true_cfg_scale": 3.0})
    assert call_arguments(pipe, "a red apple", {"true_cfg_scale": 1.0}) == {
        "prompt": "a red apple",
        "true_cfg_scale": 1.0,
    }


def learned_on_flux(**sizes: int) -> fs.Policy:
    described = json.loads(architecture_of([tiny("flux").pipe.transformer]))
    provenance = {"denoiser": json.dumps([{**described[0], **sizes}])}
    return fs.Policy.from_plan(fs.Plan.compile(GRID, (0, 2), fs.forecast.Reuse(), provenance=provenance))


def test_rows_of_another_network_are_refused_unless_allowed() -> None:
    fs.accelerate(tiny("flux").pipe, learned_on_flux()).detach()
    difference = "on a FluxTransformer2DModel, and this is a SD3Transformer2DModel"
    with pytest.raises(AttachError, match=f"{difference}.*allow_other_network=True"):
        fs.accelerate(tiny("sd3").pipe, learned_on_flux())
    with pytest.warns(fs.ForeseerWarning, match=difference):
        fs.accelerate(tiny("sd3").pipe, learned_on_flux(), allow_other_network=True).detach()
    layers = tiny("flux").pipe.transformer.config.num_layers
    with pytest.raises(AttachError, match=rf"one with num_layers 57 \({layers} here\)"):
        fs.accelerate(tiny("flux").pipe, learned_on_flux(num_layers=57))


@torch.no_grad()
@pytest.mark.parametrize(
    ("planned", "said"),
    [
        ({"scheduler": "UniPCMultistepScheduler"}, "for UniPCMultistepScheduler, and this run uses FlowMatchEuler"),
        ({"scheduler_config": "0123456789abcdef"}, "another configuration of FlowMatchEulerDiscreteScheduler than"),
        ({}, None),
    ],
)
def test_a_plan_for_another_scheduler_warns_in_its_first_run(planned: dict[str, str], said: str | None) -> None:
    scheduler = flow_scheduler()
    scheduler.set_timesteps(STEPS)
    provenance = {**scheduler_identity(scheduler), **planned}
    plan = fs.Plan.compile(fs.Grid.from_scheduler(scheduler), (0, 2), fs.forecast.Reuse(), provenance=provenance)
    with fs.accelerate(denoiser(), plan, scheduler=scheduler) as handle, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sample(denoiser(), scheduler)
        sample(denoiser(), scheduler)
    assert [said in str(each.message) for each in caught] == [True] * (said is not None)
    assert NO_SCHEDULER not in handle.summary() + str(plan.explain())


def test_a_scheduler_of_equal_settings_is_no_other(tmp_path: Path) -> None:
    flow = diffusers.FlowMatchEulerDiscreteScheduler
    shifted = flow(shift=2.0)
    planned = scheduler_identity(shifted)
    other = diffusers.DPMSolverMultistepScheduler.from_config(shifted.config, use_flow_sigmas=True)
    back = flow.from_config(other.config)
    assert "use_flow_sigmas" in back.config  # kept from the scheduler before, and without effect
    assert how_schedulers_differ(planned, back) == ""
    assert "another configuration" in how_schedulers_differ(planned, flow(shift=1.5))
    older = copy.deepcopy(shifted)  # as of a diffusers that does not have the option
    older._internal_dict = {name: value for name, value in shifted.config.items() if name != "stochastic_sampling"}
    assert scheduler_identity(older) == planned
    of_betas = diffusers.DDIMScheduler(trained_betas=np.linspace(1e-4, 2e-2, 1000))
    of_betas.save_pretrained(tmp_path)
    assert how_schedulers_differ(scheduler_identity(of_betas), type(of_betas).from_pretrained(tmp_path)) == ""
    pipe, kernel = load_pipeline("emoji")[0], fs.Kernel.load(fs.zoo.kernel_path())
    assert how_schedulers_differ(kernel.provenance, pipe.scheduler) == ""


@torch.no_grad()
def test_a_plan_that_names_no_scheduler_says_so() -> None:
    scheduler = flow_scheduler()
    scheduler.set_timesteps(STEPS)
    recorder = fs.Recorder(fs.Grid.from_scheduler(scheduler), provenance={"model": "mine"})
    for seed in range(2):
        recorder.add(list(torch.randn(STEPS, 20, generator=torch.Generator().manual_seed(seed))))
    kernel = recorder.kernel()
    plan = fs.learned(kernel, nfe=3).compile(kernel.grid)
    assert f"scheduler: {NO_SCHEDULER}" in str(plan.explain())
    with fs.accelerate(denoiser(), plan, scheduler=scheduler) as handle:
        sample(denoiser(), scheduler)
    assert NO_SCHEDULER in handle.summary()
    of_model = replace(kernel, provenance=scheduler_identity(scheduler))
    for serving in (fs.Profile(kernel, (plan,)), fs.Profile(of_model, (plan,))):  # a profile's kernel names it for them
        with fs.accelerate(denoiser(), serving, nfe=3, scheduler=scheduler) as handle:
            sample(denoiser(), scheduler)
        assert (NO_SCHEDULER in handle.summary()) == (serving.kernel is kernel)


def test_a_network_that_is_wrapped_is_no_other() -> None:
    model = build("flux").pipe.transformer
    known = architecture_of([model])
    wrapping = type("FSDPFluxTransformer2DModel", (type(model),), {"__module__": "elsewhere"})
    wrapped = copy.copy(model)
    wrapped.__class__ = wrapping
    assert how_it_differs(wrapped, known) == ""
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["to_q"]))
    assert how_it_differs(adapted, known) == ""
    assert how_it_differs(model, architecture_of([adapted])) == ""
    assert "num_layers" in how_it_differs(adapted, known.replace('"num_layers": ', '"num_layers": 5'))

    own = denoiser()
    own.config = SimpleNamespace(width=3)  # no mapping, as dataclasses are none
    assert how_it_differs(own, known) == ""
    del own.config


def test_networks_without_a_configuration_are_told_apart_by_their_parameters() -> None:
    def own(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(2, width), nn.Linear(width, 2))

    known = architecture_of([own(3)])
    assert how_it_differs(own(3), known) == ""
    assert how_it_differs(torch.compile(own(3)), known) == ""  # pyright: ignore[reportArgumentType]
    adapted = peft.get_peft_model(own(3), peft.LoraConfig(target_modules=["0"]))  # pyright: ignore[reportArgumentType]
    assert how_it_differs(adapted, known) == ""
    assert how_it_differs(own(4), '[{"class": ""}]') == ""  # a file of before
    assert how_it_differs(nn.Identity(), known) == ""
    packed = own(4)
    packed[0].weight = nn.Parameter(torch.zeros(8, dtype=torch.uint8), requires_grad=False)
    assert how_it_differs(packed, known) == ""
    assert "a Sequential whose parameters have other names or shapes" in how_it_differs(own(4), known)

    kernel = fs.Kernel.load(fs.zoo.kernel_path())
    rows = fs.learned(replace(kernel, provenance={"denoiser": known}), nfe=3)
    with pytest.raises(AttachError, match=r"a Sequential whose parameters .* this TinyDenoiser's"):
        fs.accelerate(denoiser(), rows, scheduler=flow_scheduler())


@pytest.mark.parametrize("known", ["", "[]", "{}", "null", "7", '["words"]', "[" * 100_000, '[{"class": 3}]', "[[1]]"])
def test_words_that_describe_no_network_are_no_error(known: str) -> None:
    assert isinstance(how_it_differs(tiny("flux").pipe.transformer, known), str)


def test_a_run_counts_once_in_a_kernel() -> None:
    pipe, _ = load_pipeline("emoji")
    pipe.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 4, "height": 32, "width": 32, "max_sequence_length": 16, "sensitivity_prompts": 0}
    kernel = fs.calibrate(pipe, ["a red apple", "a cactus"], **call)
    with pytest.raises(KernelError, match="would count twice"):
        kernel.merge(kernel)
    with pytest.raises(KernelError, match="would count twice"):
        kernel.merge(fs.calibrate(pipe, ["a red apple"], **call))
    assert kernel.merge(fs.calibrate(pipe, ["a red apple"], seed=7, **call)).prompts == 3
    assert kernel.merge(kernel, allow_overlap=True).prompts == 4
    latents = torch.randn(1, 16, pipe.transformer.config.in_channels, generator=torch.Generator().manual_seed(1))
    twice = fs.calibrate(pipe, ["a red apple"] * 2, latents=latents, **call)  # the same run twice, as asked
    assert np.array_equal(*twice.grams)
    with fs.accelerate(pipe, fs.learned(kernel, nfe=3)) as handle:
        assert handle.policy.learned_on["denoiser"] == architecture_of([pipe.transformer])
    alone = kernel.subset([0])
    assert trace_frontier(alone, 2)[0].to_dict()["spread"] is None
    assert "(one prompt) (worst prompt" in str(expected_error(alone, (0, 2), 1e-6))


@pytest.mark.parametrize("replaced", ["denoiser", "calls"])
def test_where_warnings_are_errors_detaching_leaves_nothing_all_the_same(replaced: str) -> None:
    fresh = build("flux")
    pipe, network = fresh.pipe, fresh.pipe.transformer
    handle = fs.accelerate(pipe, policy("last_block"))
    fresh.run()
    if replaced == "denoiser":
        pipe.transformer = build("flux").pipe.transformer
    else:
        vars(network)["_compiled_call_impl"] = network._call_impl
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(fs.ForeseerWarning, match="replaced"):
            handle.detach()
        handle.detach()
    assert not handle.attached
    assert not hasattr(network, "_diffusers_hook")
    assert not any("compile" in vars(part) for part in network.modules())
