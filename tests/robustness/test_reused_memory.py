"""Compiled networks that write every output into the same memory, as CUDA graphs do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import foreseer as fs
from foreseer.forecast import Reuse
from foreseer.gate import FirstBlock, GatedPolicy, TeaCache
from tests.support.attaching import flow_scheduler, policy, sample
from tests.support.loop_pipeline import LoopPipeline
from tests.support.pipelines import randomise


def reusing(graph: torch.fx.GraphModule, example_inputs: list[Any]) -> Any:
    """A backend of `torch.compile` that returns the same tensors at every call with the same weights.

    It fills them as a CUDA graph does: autograd counts no write.
    """
    memory: dict[tuple[int, ...], tuple[Tensor, ...]] = {}

    def run(*args: Any) -> Any:
        outputs = graph.forward(*args)
        weights = tuple(argument.data_ptr() for argument in args if isinstance(argument, nn.Parameter))
        kept = memory.setdefault(weights, tuple(torch.empty_like(output) for output in outputs))
        for buffer, output in zip(kept, outputs, strict=True):
            buffer.data.copy_(output)
        return kept

    return run


class Layer(nn.Module):
    """A linear layer that Dynamo compiles by itself, unlike `nn.Linear`."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out, width))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + self.weight)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = Scale()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.layer(self.norm(x)))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.embed_time = Layer(4, 16), nn.Linear(1, 16)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = Layer(16, 4)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        hidden = self.embed(x) + self.embed_time(timestep.float().reshape(-1, 1, 1) / 1000)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


def gated(gate: Any, site: str) -> GatedPolicy:
    return GatedPolicy(gate, Reuse(), site=site, decided_by="each")


CHOSEN = {
    "output": policy("output"),
    "last block": policy("last_block"),
    "residual": policy("residual"),
    "TeaCache": gated(TeaCache(0.2), "output"),
    "first block": gated(FirstBlock(0.2), "residual(kept=1)"),
}


@pytest.mark.cell(
    "hosts", "torch.compile of a network or its parts that reuse the memory of their outputs (CUDA graphs)", "works"
)
@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize("parts", ["whole", "embed", "blocks", "norm", "head"])
def test_what_is_kept_outlives_the_memory_of_outputs(parts: str) -> None:
    torch._dynamo.reset()
    model, scheduler = randomise(Network(), 5), flow_scheduler()
    chosen = CHOSEN if parts != "whole" else {"output": CHOSEN["output"]}

    def run(name: str) -> tuple[Tensor, Any]:
        with torch.no_grad(), fs.accelerate(model, chosen[name], scheduler=scheduler) as handle:
            latents = sample(model, scheduler)
        assert handle.record is not None
        assert handle.record.failed_open == []
        return latents, handle.record.computed

    expected = {name: run(name) for name in chosen}
    if parts == "whole":
        model.compile(backend=reusing)
    for name, module in model.named_modules():
        if parts in name.split(".") and name.endswith((parts, "0", "1", "2")):
            module.compile(backend=reusing)
    for name, (latents, computed) in expected.items():
        assert 1 < len(next(iter(computed.values()))) < 8
        again, steps = run(name)
        assert torch.allclose(again, latents, atol=1e-5), name
        assert steps == computed, name


@pytest.mark.cell("hosts", "rows fitted to a compiled network that reuses the memory of its outputs", "works")
@pytest.mark.usefixtures("as_users_call")
def test_fitting_replays_copies_of_what_a_compiled_network_returned() -> None:
    """Rows that follow outputs overwritten since then would be others."""
    torch._dynamo.reset()
    pipe, prompts = LoopPipeline(flow_scheduler()), ["a", "b"]
    kernel = fs.calibrate(pipe, prompts, num_inference_steps=8, sensitivity_prompts=0)
    expected = fs.rollout(pipe, kernel, prompts, nfe=3)
    refined = fs.refine(pipe, expected, prompts, iterations=1)
    pipe.transformer.compile(backend=reusing)
    again = fs.rollout(pipe, kernel, prompts, nfe=3)
    assert np.allclose(again.rows, expected.rows, atol=1e-3)
    assert np.allclose(fs.refine(pipe, expected, prompts, iterations=1).rows, refined.rows, atol=1e-3)
