"""`torch.compile` before and after attaching: compiled code runs at the computed steps only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foreseer as fs
from foreseer.attach.interception import is_hooked
from foreseer.errors import AttachError
from tests.robustness.served import FORECAST, WHEN
from tests.support.attaching import TinyDenoiser, flow_scheduler, policy, sample
from tests.support.pipelines import TinyPipeline, build, randomise


class Counting:
    """A backend that runs each graph as it is, and counts.

    Attributes:
        graphs: how many were compiled.
        runs: how often one was run.
    """

    def __init__(self) -> None:
        self.graphs = self.runs = 0

    def __call__(self, graph: torch.fx.GraphModule, example_inputs: list[Any]) -> Any:
        self.graphs += 1

        def run(*args: Any) -> Any:
            self.runs += 1
            return graph.forward(*args)

        return run


def compile_as(how: str, tiny: TinyPipeline, backend: Any) -> None:
    """Compile the transformer in one of the four forms, with no graph break allowed."""
    model, options = tiny.pipe.transformer, {"backend": backend, "fullgraph": True}
    if how == "repeated blocks":
        model.compile_repeated_blocks(**options)
    elif how == "forward":
        model.forward = torch.compile(model.forward, **options)
    elif how == "in place":
        model.compile(**options)
    else:
        tiny.pipe.transformer = torch.compile(model, **options)


FORMS = (
    ("repeated blocks", "output"),
    ("repeated blocks", "last_block"),
    ("forward", "output"),
    ("in place", "output"),
    ("wrapped", "output"),
)
CASES = [(*form, when) for form in FORMS for when in ("before", "after") if form[0] != "wrapped" or when == "before"]


@pytest.mark.cell(
    "hosts",
    "torch.compile of blocks, `forward` or model before attaching: no graph break",
    "works",
)
@pytest.mark.cell("hosts", "torch.compile of blocks or `forward` while attached: no graph break", "works")
@pytest.mark.cell("hosts", "torch.compile of blocks with a site inside the network", "works")
@pytest.mark.usefixtures("as_users_call")  # run-time checks of annotations are no part of what users compile
@pytest.mark.parametrize(("how", "site", "when"), CASES)
@pytest.mark.parametrize("name", ["flux", pytest.param("qwen_image", marks=pytest.mark.slow)])
def test_compiled(how: str, site: str, when: str, name: str) -> None:
    torch._dynamo.reset()
    tiny, backend = build(name), Counting()
    model = tiny.pipe.transformer
    blocks = [each for each in model.modules() if type(each).__name__ in model._repeated_blocks]
    units = len(tiny.branches) * (len(blocks) if how == "repeated blocks" else 1)  # compiled parts that a step calls
    with fs.accelerate(tiny.pipe, policy(site)):
        expected = tiny.run()
    if when == "before":
        compile_as(how, tiny, backend)
    with fs.accelerate(tiny.pipe, policy(site)) as handle:
        if when == "after":
            assert torch.equal(tiny.run(), expected)
            compile_as(how, tiny, backend)
        tiny.run()  # last block: the boundary is put to the proof here
        compiled, backend.runs = backend.graphs, 0
        for _ in range(2):
            assert torch.allclose(tiny.run(), expected, rtol=1e-5, atol=1e-5)
            assert handle.record.forecast == dict.fromkeys(tiny.branches, FORECAST)
            assert handle.record.failed_open == []
        assert backend.graphs == compiled > 0
        assert backend.runs == 2 * 4 * units
    model = getattr(tiny.pipe.transformer, "_orig_mod", tiny.pipe.transformer)
    assert not is_hooked(model)
    assert not any("compile" in vars(module) for module in model.modules())
    tiny.run()
    assert backend.runs == (2 * 4 + 8) * units  # a compiled module stays compiled when it is detached


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


@pytest.mark.slow
@pytest.mark.cell("hosts", "torch.compile with inductor", "works")
@WHEN
@pytest.mark.parametrize("how", ["blocks", "in place"])
def test_inductor(how: str, when: str) -> None:
    torch._dynamo.reset()
    model, scheduler = small(), flow_scheduler()

    def compile_it() -> None:
        for one in model.blocks if how == "blocks" else [model]:
            one.compile(backend="inductor", fullgraph=True)

    with torch.no_grad():
        with fs.accelerate(model, policy(), scheduler=scheduler):
            expected = sample(model, scheduler)
        if when == "before":
            compile_it()
        with fs.accelerate(model, policy(), scheduler=scheduler) as handle:
            if when == "after":
                compile_it()
            found = sample(model, scheduler)
    assert torch.allclose(found, expected, atol=1e-5)
    assert handle.record.nfe == 4


@pytest.mark.cell("hosts", "`torch.compile(model)` of an attached model", "refused")
def test_compiled_around_an_attached_model() -> None:
    torch._dynamo.reset()
    model, scheduler = randomise(TinyDenoiser(), 5), flow_scheduler()
    with torch.no_grad(), fs.accelerate(model, policy(), scheduler=scheduler):
        around = torch.compile(model, backend="eager")
        with pytest.raises(AttachError, match=r"Detach \(handle.detach\(\)\), compile, attach again"):
            sample(around, scheduler)


@pytest.mark.cell("hosts", "`model.compile()` while attached at a site inside the network", "refused")
def test_compiled_in_place_under_an_inside_site() -> None:
    model = randomise(TinyDenoiser(), 5)
    with (
        fs.accelerate(model, policy("last_block"), scheduler=flow_scheduler()),
        pytest.raises(AttachError, match="lies inside of this"),
    ):
        model.compile(backend="eager")
