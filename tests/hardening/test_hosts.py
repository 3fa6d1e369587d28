"""What others do to an attached model, before or after: the policy is neither dropped nor doubled."""

from __future__ import annotations

import copy
import pickle
import tempfile
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers.hooks import HookRegistry, ModelHook
from torch import Tensor, nn

import foreseer as fs
from foreseer.attach.hooks import is_hooked
from foreseer.errors import AttachError
from tests.attach.common import TinyDenoiser, flow_scheduler, policy, sample
from tests.pipelines import TinyPipeline, build, randomise

WHEN = pytest.mark.parametrize("when", ["before", "after"])
SITES = pytest.mark.parametrize("site", ["output", "last_block"])


def check_served(tiny: TinyPipeline, change: Callable[[], Any], when: str, site: str = "output") -> None:
    """Two runs in a row are those of a plain attachment, with ``change`` made before or after attaching."""
    with fs.accelerate(tiny.pipe, policy(site)):
        expected = tiny.run()
    if when == "before":
        change()
    with fs.accelerate(tiny.pipe, policy(site)) as handle:
        if when == "after":
            tiny.run()
            change()
        for _ in range(2):
            found = tiny.run()
            assert handle.record.nfe == 4
            assert handle.record.failed_open == []
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert not any(is_hooked(module) for module in tiny.modules)


class Block(nn.Module):
    """What Dynamo does not know by name, as it does `nn.Linear`."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def small() -> TinyDenoiser:
    model = TinyDenoiser()
    model.blocks = nn.ModuleList(Block(layer) for layer in model.blocks)
    return randomise(model, 5)


def compiled(model: nn.Module, how: str, backend: str = "eager") -> Any:
    """``model`` compiled in one of the four forms, with no graph break allowed; what is to be called."""
    options = {"backend": backend, "fullgraph": True}
    if how == "blocks":
        for block in model.blocks:
            block.compile(**options)
    elif how == "forward":
        model.forward = torch.compile(model.forward, **options)
    elif how == "in place":
        model.compile(**options)
    else:
        return torch.compile(model, **options)
    return model


@pytest.mark.cell(
    "hosts", "torch.compile of blocks, forward, model in place and model, before attaching: no graph break", "works"
)
@pytest.mark.usefixtures("as_users_call")  # run-time checks of annotations are no part of what users compile
@pytest.mark.parametrize("how", ["blocks", "forward", "in place", "wrapped"])
def test_compiled_before(how: str) -> None:
    torch._dynamo.reset()
    plain, scheduler = small(), flow_scheduler()
    with torch.no_grad():
        with fs.accelerate(plain, policy(), scheduler=scheduler):
            expected = sample(plain, scheduler)
        model = compiled(copy.deepcopy(plain), how)
        with fs.accelerate(model, policy(), scheduler=scheduler) as handle:
            for _ in range(2):
                assert torch.allclose(sample(model, scheduler), expected, atol=1e-6)
                assert handle.record.nfe == 4
        assert not is_hooked(model)
        if how == "blocks":
            with fs.accelerate(model, policy("last_block"), scheduler=scheduler) as handle:
                sample(model, scheduler)
            assert handle.record.nfe == 4


@pytest.mark.cell(
    "hosts", "torch.compile of blocks, forward and model in place, while attached: no graph break", "works"
)
@pytest.mark.parametrize("how", ["blocks", "forward", "in place"])
def test_compiled_after(how: str) -> None:
    torch._dynamo.reset()
    model, scheduler = small(), flow_scheduler()
    with torch.no_grad(), fs.accelerate(model, policy(), scheduler=scheduler) as handle:
        expected = sample(model, scheduler)
        compiled(model, how)
        assert torch.allclose(sample(model, scheduler), expected, atol=1e-6)
        assert handle.record.nfe == 4
    assert "compile" not in vars(model)
    assert (model._compiled_call_impl is not None) == (how == "in place")


@pytest.mark.slow
@pytest.mark.cell("hosts", "torch.compile with inductor's kernels, before attaching and while attached", "works")
@pytest.mark.parametrize("how", ["blocks", "in place"])
def test_inductor(how: str) -> None:
    for when in ("before", "after"):
        torch._dynamo.reset()
        model, scheduler = small(), flow_scheduler()
        with torch.no_grad(), fs.accelerate(model, policy(), scheduler=scheduler) as handle:
            expected = sample(model, scheduler)
            if when == "after":
                compiled(model, how, "inductor")
            found = sample(model, scheduler)
        if when == "before":
            compiled(model, how, "inductor")
            with torch.no_grad(), fs.accelerate(model, policy(), scheduler=scheduler) as handle:
                found = sample(model, scheduler)
        assert torch.allclose(found, expected, atol=1e-5)
        assert handle.record.nfe == 4


@pytest.mark.cell("hosts", "torch.compile put around an attached model", "refused")
def test_compiled_around_an_attached_model() -> None:
    torch._dynamo.reset()
    model, scheduler = randomise(TinyDenoiser(), 5), flow_scheduler()
    with torch.no_grad(), fs.accelerate(model, policy(), scheduler=scheduler):
        around = torch.compile(model, backend="eager")
        with pytest.raises(AttachError, match=r"Detach \(handle.detach\(\)\), compile, attach again"):
            sample(around, scheduler)


@pytest.mark.cell("hosts", "a site inside, the model compiled in place while attached", "refused")
def test_compiled_in_place_under_an_inside_site() -> None:
    model = randomise(TinyDenoiser(), 5)
    with (
        fs.accelerate(model, policy("last_block"), scheduler=flow_scheduler()),
        pytest.raises(AttachError, match="lies inside of this"),
    ):
        model.compile(backend="eager")


@pytest.mark.cell("hosts", "model offload", "works")
@WHEN
def test_model_offload(when: str) -> None:
    tiny = build("flux")
    check_served(tiny, lambda: tiny.pipe.enable_model_cpu_offload(device="cpu"), when)


@pytest.mark.cell(
    "hosts", "sequential offload (accelerate's `cpu_offload`, which the pipelines' method calls)", "works"
)
@WHEN
@SITES
def test_sequential_offload(site: str, when: str) -> None:
    accelerate, tiny = pytest.importorskip("accelerate"), build("flux")
    model = tiny.pipe.transformer

    def offload() -> None:
        # As parameters: where the weights come from the device that computes, accelerate 1.15 fails on plain tensors.
        kept = {name: nn.Parameter(one.clone(), requires_grad=False) for name, one in model.state_dict().items()}
        accelerate.cpu_offload(model, torch.device("cpu"), state_dict=kept)

    check_served(tiny, offload, when, site)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.cell("hosts", "group offload, by leaf and by block", "works")
@WHEN
@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
def test_group_offload(kind: str, when: str) -> None:
    tiny = build("flux")
    cpu = torch.device("cpu")
    options = {"onload_device": cpu, "offload_device": cpu, "offload_type": kind, "num_blocks_per_group": 1}
    check_served(tiny, lambda: tiny.pipe.transformer.enable_group_offload(**options), when)


class Passing(ModelHook):
    """Stands in the way and lets pass."""

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.fn_ref.original_forward(*args, **kwargs)


@pytest.mark.cell("hosts", "a hook of others registered before, and removed while attached", "works")
def test_a_lower_hook_removed() -> None:
    tiny = build("flux")
    registry = HookRegistry.check_if_exists_or_initialize(tiny.pipe.transformer)
    registry.register_hook(Passing(), "other")
    check_served(tiny, lambda: registry.remove_hook("other"), "after")


@pytest.mark.cell("hosts", "accelerate's hooks added and removed while attached, as by LoRA loaders", "works")
def test_accelerates_hooks_come_and_go() -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module

    tiny = build("flux")

    def come_and_go() -> None:
        add_hook_to_module(tiny.pipe.transformer, AlignDevicesHook(execution_device="cpu"))
        tiny.run()
        remove_hook_from_module(tiny.pipe.transformer, recurse=True)

    check_served(tiny, come_and_go, "after")


@pytest.mark.cell("hosts", "an accelerate device map", "works")
@WHEN
def test_a_device_map(when: str) -> None:
    from accelerate import dispatch_model

    tiny = build("flux")
    check_served(tiny, lambda: dispatch_model(tiny.pipe.transformer, {"": "cpu"}, force_hooks=True), when)


@pytest.mark.cell("hosts", "attention slicing and VAE tiling", "works")
@WHEN
def test_attention_slicing_and_tiling(when: str) -> None:
    sdxl, dit = build("sdxl"), build("dit")
    check_served(sdxl, sdxl.pipe.enable_attention_slicing, when)
    check_served(dit, dit.pipe.vae.enable_tiling, when)


@pytest.mark.cell("hosts", "gradient checkpointing", "works")
@SITES
def test_gradient_checkpointing(site: str) -> None:
    tiny = build("flux")
    check_served(
        tiny,
        lambda: tiny.pipe.transformer.train() and tiny.pipe.transformer.enable_gradient_checkpointing(),
        "after",
        site,
    )


@pytest.mark.cell("hosts", "save_pretrained of an attached pipeline", "works")
@SITES
def test_saving(site: str) -> None:
    tiny = build("flux")
    plain = tiny.run()
    with fs.accelerate(tiny.pipe, policy(site)), tempfile.TemporaryDirectory() as folder:
        tiny.run()
        tiny.pipe.transformer.save_pretrained(folder)
        loaded = diffusers.FluxTransformer2DModel.from_pretrained(folder)
    assert not is_hooked(loaded)
    tiny.pipe.transformer = loaded
    assert torch.allclose(tiny.run(), plain, atol=1e-4)


@pytest.mark.cell(
    "hosts", "deepcopy and pickle of an attached model: the copy is not attached, and runs its own weights", "works"
)
@SITES
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies(how: str, site: str) -> None:
    tiny = build("flux")
    plain, original = tiny.run(), tiny.pipe.transformer
    with fs.accelerate(tiny.pipe, policy(site)) as handle:
        expected = tiny.run()
        copied = copy.deepcopy(original) if how == "deepcopy" else pickle.loads(pickle.dumps(original))
        assert torch.equal(tiny.run(), expected)
        record = handle.record
        tiny.pipe.transformer = copied
        assert not is_hooked(copied)
        assert torch.equal(tiny.run(), plain)
        for parameter in original.parameters():
            parameter.data.zero_()
        assert torch.equal(tiny.run(), plain)
        with pytest.warns(fs.ForeseerWarning, match="transformer was replaced after attaching"):
            assert handle.record is record
        with fs.accelerate(tiny.pipe, policy(site)) as second:
            assert torch.equal(tiny.run(), expected)
        assert second.record.nfe == 4
        copied.compile(backend="eager")  # the copy's own
        assert copied._compiled_call_impl is not None


@pytest.mark.cell("hosts", "calls replaced by others while attached: said when detaching", "works")
def test_replaced_calls_are_said() -> None:
    model, scheduler = randomise(TinyDenoiser(), 5), flow_scheduler()
    handle = fs.accelerate(model, policy(), scheduler=scheduler)
    replaced = model._compiled_call_impl = lambda x, timestep: x
    with pytest.warns(fs.ForeseerWarning, match="were replaced while Foreseer was attached"):
        handle.detach()
    assert model._compiled_call_impl is replaced
    assert "compile" not in vars(model)
