"""The wrappers in the real ComfyUI with tiny models; skipped unless COMFYUI_PATH is set."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from foreseer.hosts.choice import Choice
from foreseer.hosts.comfyui.matrix import sampler_matrix
from foreseer.hosts.comfyui.patch import ModelPatch, patch_of
from foreseer.hosts.comfyui.recording import Recording, summarise
from foreseer.hosts.comfyui.run_report import RunReport
from tests.unit.hosts import comfyui_real as real

pytestmark = pytest.mark.skipif(not real.COMFYUI_PATH, reason="COMFYUI_PATH names no checkout of ComfyUI")
FAMILIES = list(real.FAMILIES)


def patched(family: str, speedup: float = 2.0, **options: Any) -> Any:
    return ModelPatch(Choice(speedup=speedup, **options)).put_on(real.model(family))


def report(model: Any) -> RunReport:
    return patch_of(model).reports[-1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_bit_identity_and_counts(family: str, cfg: float) -> None:
    plain = real.sample(real.model(family), family, cfg=cfg)
    assert torch.equal(real.sample(patched(family, 1.0), family, cfg=cfg), plain)
    model = patched(family)
    with real.Counter(model) as counter:
        found = real.sample(model, family, cfg=cfg)
    report_ = report(model)
    assert (report_.calls, report_.forward_passes, report_.forecast) == (8, 4, 4)
    assert counter.calls in (4, 8)  # cond and uncond in one batch or apart
    assert not torch.equal(found, plain)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_stale(family: str) -> None:
    """A patched model runs again with other prompts, sizes and steps, interrupted or unloaded."""
    package = real.comfy()
    model = patched(family)
    shape = real.FAMILIES[family][1]
    runs = [{"seed": 1}, {"steps": 11}, {"latent_image": torch.zeros(*shape[:-1], 12)}, {"seed": 1}]
    found = [real.sample(model, family, **run) for run in runs]
    fresh = [real.sample(patched(family), family, **run) for run in runs]
    assert all(torch.equal(one, other) for one, other in zip(found, fresh, strict=True))

    def interrupt(step: int, *_: Any) -> None:
        if step == 3:
            raise package.model_management.InterruptProcessingException

    with pytest.raises(package.model_management.InterruptProcessingException):
        real.sample(model, family, callback=interrupt)
    assert report(model).calls == 4
    assert "foreseer" not in model.model_options["transformer_options"]
    package.model_management.unload_all_models()
    assert torch.equal(real.sample(model, family, seed=1), fresh[0])


def test_image_to_image_split_samplers_and_masks() -> None:
    latent = torch.randn(real.FAMILIES["SD3"][1], generator=torch.Generator().manual_seed(4))
    model = patched("SD3")
    real.sample(model, "SD3", latent_image=latent, denoise=0.5)
    assert (report(model).steps, report(model).forecast) == (8, 4)
    real.sample(model, "SD3", start_step=2, last_step=6)
    assert (report(model).steps, report(model).forecast) == (4, 2)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1.0
    found = real.sample(model, "SD3", latent_image=latent, noise_mask=mask)
    assert report(model).forecast == 4
    assert torch.allclose(found[..., :4], latent[..., :4], atol=1e-5)  # outside the mask the picture stays


def test_two_models_in_two_samplers_are_each_a_run_of_its_own() -> None:
    def both() -> tuple[Any, Any, Tensor]:
        high, low = patched("WAN21_T2V"), patched("WAN21_T2V", first_steps=2)
        latent = real.sample(high, "WAN21_T2V", last_step=4)
        return high, low, real.sample(low, "WAN21_T2V", latent_image=latent, start_step=4)

    high, low, found = both()
    assert [(report(model).steps, report(model).forward_passes) for model in (high, low)] == [(4, 2), (4, 2)]
    assert report(low).records[0].computed["visit 1"] == [0, 1]
    real.sample(high, "WAN21_T2V", last_step=4)  # the first sampler again does not touch what the second one did
    assert torch.equal(both()[2], found)


def test_conditions_that_change_cut_the_run() -> None:
    import node_helpers

    values = node_helpers.conditioning_set_values
    early = values(real.conditioning(1, "SD15"), {"start_percent": 0.0, "end_percent": 0.5})
    late = values(real.conditioning(5, "SD15"), {"start_percent": 0.5, "end_percent": 1.0})
    model = patched("SD15")
    real.sample(model, "SD15", steps=12, positive=early + late)
    assert len(report(model).records) == 2
    assert sum(record.steps for record in report(model).records) == 12
    assert torch.equal(
        real.sample(patched("SD15", 1.0), "SD15", steps=12, positive=early + late),
        real.sample(real.model("SD15"), "SD15", steps=12, positive=early + late),
    )


def test_controlnet_ranges_cut_the_run() -> None:
    package = real.comfy()
    import comfy.controlnet

    class Nothing(comfy.controlnet.ControlBase):
        """Counts its evaluations and adds nothing."""

        calls = 0

        def get_control(self, x_noisy: Tensor, t: Tensor, cond: Any, batched_number: int, options: Any) -> Any:
            inside = self.timestep_range[0] >= t[0] >= self.timestep_range[1]
            Nothing.calls += bool(inside)

        def copy(self) -> Any:
            copy = Nothing()
            self.copy_to(copy)
            return copy

    control = Nothing()
    control.timestep_percent_range = (0.0, 0.4)
    assert package is not None
    model = patched("SD15")
    positive = real.conditioning(1, "SD15", control=control, control_apply_to_uncond=False)
    real.sample(model, "SD15", steps=12, positive=positive)
    assert len(report(model).records) == 2
    assert 0 < Nothing.calls < 6  # not evaluated at forecast steps


def test_keyframes_of_hooks_cut_the_run() -> None:
    package = real.comfy()
    import comfy.hooks

    weight = "diffusion_model.out.2.weight"
    shape = real.model("SD15").model.state_dict()[weight].shape
    group = comfy.hooks.create_hook_lora({weight: ("diff", (0.02 * torch.ones(shape),))}, 1.0, 0.0)
    frames = comfy.hooks.HookKeyframeGroup()
    for start, strength in ((0.0, 1.0), (0.5, 0.1)):
        frames.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start))
    group.set_keyframes_on_hooks(frames)
    positive = package.hooks.set_hooks_for_conditioning(real.conditioning(1, "SD15"), group)
    model = patched("SD15")
    plain = real.sample(real.model("SD15"), "SD15", steps=12, positive=positive)
    assert torch.equal(real.sample(patched("SD15", 1.0), "SD15", steps=12, positive=positive), plain)
    real.sample(model, "SD15", steps=12, positive=positive)
    assert len(report(model).records) == 2


def test_areas_and_combined_conditions() -> None:
    import node_helpers

    left = node_helpers.conditioning_set_values(real.conditioning(1, "SD15"), {"area": (8, 4, 0, 0), "strength": 1.0})
    model = patched("SD15")
    both = left + real.conditioning(3, "SD15")
    assert torch.equal(
        real.sample(patched("SD15", 1.0), "SD15", positive=both, cfg=4.0),
        real.sample(real.model("SD15"), "SD15", positive=both, cfg=4.0),
    )
    real.sample(model, "SD15", positive=both, cfg=4.0)
    assert report(model).forecast == 4


def test_context_windows_are_skipped_with_the_step() -> None:
    package = real.comfy()
    import comfy.context_windows as windows

    def windowed(model: Any) -> Any:
        model = model.clone()
        model.model_options["context_handler"] = windows.IndexListContextHandler(
            context_schedule=windows.get_matching_context_schedule(windows.ContextSchedules.STATIC_STANDARD),
            fuse_method=windows.get_matching_fuse_method(windows.ContextFuseMethods.PYRAMID),
            context_length=3,
            context_overlap=1,
            context_stride=1,
            closed_loop=False,
            dim=2,
        )
        windows.create_prepare_sampling_wrapper(model)
        return model

    assert package is not None
    latent = torch.zeros(1, 16, 7, 8, 8)
    counts = []
    for model in (windowed(real.model("WAN21_T2V")), windowed(patched("WAN21_T2V"))):
        with real.Counter(model) as counter:
            real.sample(model, "WAN21_T2V", latent_image=latent)
        counts.append(counter.calls)
    assert counts[1] * 2 == counts[0] > 16


def test_torch_compile_is_inside() -> None:
    real.comfy()
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = patched("SD3")
    expected = real.sample(model, "SD3")
    compiled = model.clone()
    set_torch_compile_wrapper(compiled, backend="eager")
    assert torch.allclose(real.sample(compiled, "SD3"), expected, atol=1e-5)
    assert report(model).forecast == 4


def test_another_cache_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    real.comfy()
    from comfy_extras.nodes_easycache import LazyCacheNode

    model = patched("SD3")
    lazy = LazyCacheNode.execute(model, 0.2, 0.1, 0.95, False).result[0]
    with caplog.at_level(logging.WARNING, "foreseer"):
        real.sample(lazy, "SD3")
    assert "lazycache" in caplog.text


@pytest.mark.parametrize("family", FAMILIES)
def test_a_recorded_profile_serves_the_sampler(family: str) -> None:
    package = real.comfy()
    recording = Recording()
    recorder = recording.put_on(real.model(family))
    plain = [real.sample(real.model(family), family, seed=seed) for seed in range(3)]
    for seed in range(3):
        found = real.sample(recorder, family, seed=seed)
        assert torch.equal(found, plain[seed])
    profile = recording.kernel({})
    assert profile.sampler is not None
    model = ModelPatch(Choice(profile=profile, nfe=4)).put_on(real.model(family))
    with torch.no_grad():
        expected = real.sample(real.model(family), family, seed=50)
        found = real.sample(model, family, seed=50)
    assert report(model).forward_passes == 4
    assert report(model).expected_error is not None
    assert torch.isfinite(found).all()
    assert found.shape == expected.shape
    assert package is not None


def test_a_profile_is_refined_on_the_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foreseer.hosts.comfyui.recording.SPEEDUPS", (2.0,))
    plain = real.model("SD3")
    recording = Recording(keep=True)

    def sample(wrappers: Any, index: int) -> Tensor:
        patched_ = wrappers.put_on(plain)
        found = real.sample(patched_, "SD3", "dpmpp_2m", seed=index, positive=real.conditioning(10 + index))
        assert "foreseer" not in patched_.model_options["transformer_options"]
        return found

    for index in range(4):
        sample(recording, index)
    with real.Counter(plain) as counter:
        profile = recording.profile({}, sample)
    assert counter.calls == (3 + 2) * 4  # three rolled out, one held out and run under both kinds of rows
    for plan in profile.plans:
        assert plan.nfe == 4
        model = ModelPatch(Choice(profile=profile, nfe=4)).put_on(plain)
        real.sample(model, "SD3", "dpmpp_2m", seed=20)
        assert report(model).forward_passes == 4
        assert report(model).expected_error == plan.expected_error
    print(summarise(profile))


@pytest.mark.parametrize(
    ("sampler", "linear"),
    [
        *[(name, True) for name in ("euler", "ddim", "dpmpp_2m", "res_multistep", "deis", "ipndm", "lms", "uni_pc")],
        *[(name, False) for name in ("euler_ancestral", "dpmpp_sde", "lcm", "heun", "dpm_2", "euler_cfg_pp")],
    ],
)
def test_samplers_that_are_matrices(sampler: str, linear: bool) -> None:
    found: list[Any] = []

    def keep(executor: Any, guider: Any, sigmas: Tensor, *args: Any, **kwargs: Any) -> Any:
        found.append(sampler_matrix(executor.class_obj, guider, sigmas))
        return executor(guider, sigmas, *args, **kwargs)

    model = real.model("SD15").clone()
    model.add_wrapper_with_key("sampler_sample", "test", keep)
    real.sample(model, "SD15", sampler)
    assert (found[0] is not None) == linear
