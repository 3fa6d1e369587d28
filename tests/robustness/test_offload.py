"""Offloading and device maps, before and after attaching."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import foreseer as fs
from tests.robustness.served import PIPELINES, SITES, WHEN, check_served
from tests.support.attaching import policy
from tests.support.pipelines import build

accelerate = pytest.importorskip("accelerate")
CPU = torch.device("cpu")


@pytest.mark.cell("hosts", "model offload", "works")
@WHEN
@SITES
@PIPELINES
def test_model_offload(site: str, when: str, name: str) -> None:
    tiny = build(name)
    check_served(tiny, lambda: tiny.pipe.enable_model_cpu_offload(device="cpu"), when, site)
    assert isinstance(tiny.modules[0]._hf_hook, accelerate.hooks.CpuOffload)


@pytest.mark.cell("hosts", "sequential offload (accelerate's `cpu_offload`)", "works")
@WHEN
@SITES
@PIPELINES
def test_sequential_offload(site: str, when: str, name: str) -> None:
    tiny = build(name)
    model = tiny.modules[0]
    check_served(tiny, lambda: accelerate.cpu_offload(model, CPU, state_dict=as_parameters(model)), when, site)
    assert all(parameter.is_meta for parameter in model.parameters())


def as_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """State of ``model``; accelerate 1.15 fails on plain tensors that are on the compute device."""
    return {name: nn.Parameter(one.clone(), requires_grad=False) for name, one in model.state_dict().items()}


@pytest.mark.cell("hosts", "sequential offload of a whole pipeline (`enable_sequential_cpu_offload`)", "works")
@WHEN
@SITES
@PIPELINES
def test_sequential_offload_of_a_pipeline(site: str, when: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = accelerate.cpu_offload

    def of_parameters(model: nn.Module, device: Any, **options: Any) -> Any:
        return whole(model, device.type, state_dict=as_parameters(model), **options)

    monkeypatch.setattr(accelerate, "cpu_offload", of_parameters)
    tiny = build(name)
    check_served(tiny, lambda: tiny.pipe.enable_sequential_cpu_offload(device="cpu"), when, site)
    assert all(parameter.is_meta for parameter in tiny.modules[0].parameters())


@pytest.mark.cell(
    "hosts",
    "sequential offload from a CPU to itself (accelerate fails, attached or not)",
    "refused",
)
def test_sequential_offload_to_itself() -> None:
    """Whoever sees this fail: it works now, and `as_parameters` can go."""
    tiny = build("flux")
    tiny.pipe.enable_sequential_cpu_offload(device="cpu")
    with pytest.raises(TypeError, match="requires_grad"):
        tiny.run()
    with fs.accelerate(tiny.pipe, policy()), pytest.raises(TypeError, match="requires_grad"):
        tiny.run()


@pytest.mark.cell("hosts", "group offload, by leaf and by block", "works")
@WHEN
@SITES
@PIPELINES
@pytest.mark.parametrize(("kind", "blocks"), [("leaf_level", None), ("block_level", 1), ("block_level", 2)])
def test_group_offload(kind: str, blocks: int | None, site: str, when: str, name: str) -> None:
    tiny = build(name)
    model = tiny.modules[0]
    options = {"onload_device": CPU, "offload_device": CPU, "offload_type": kind, "num_blocks_per_group": blocks}

    def offload() -> None:
        try:
            model.enable_group_offload(**options)
        except AttributeError as error:
            if "has no attribute 'type'" not in str(error) or torch.accelerator.is_available():
                raise
            pytest.skip("group offload of this diffusers wants an accelerator")

    check_served(tiny, offload, when, site)
    registries = [one._diffusers_hook for one in model.modules() if hasattr(one, "_diffusers_hook")]
    assert sum(one.get_hook("group_offloading") is not None for one in registries) >= 2


@pytest.mark.cell("hosts", "an accelerate device map", "works")
@WHEN
@SITES
@PIPELINES
@pytest.mark.parametrize("parts", [False, True])
def test_a_device_map(parts: bool, site: str, when: str, name: str) -> None:
    tiny = build(name)
    model = tiny.modules[0]
    names = [name for name, _ in model.named_children()] if parts else [""]
    mapped = dict.fromkeys(names, "cpu")
    options = {"main_device": "cpu", "state_dict": as_parameters(model)} if parts else {}
    check_served(tiny, lambda: accelerate.dispatch_model(model, mapped, force_hooks=True, **options), when, site)
    assert isinstance(model._hf_hook, accelerate.hooks.AlignDevicesHook | accelerate.hooks.SequentialHook)
