"""`torch.compile` of blocks, and sites and gates that stand between the blocks or inside of them."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

import foreseer as fs
from foreseer.attach.interception import is_hooked
from foreseer.forecast import Reuse
from foreseer.gate import FirstBlock, GatedPolicy, TeaCache
from tests.robustness.served import WHEN
from tests.support.attaching import policy
from tests.support.pipelines import TinyPipeline, build

LOST = "did not call all modules|not called as when|other (order|modules|blocks)"
BETWEEN = {
    "change": policy("change"),
    "TeaCache": GatedPolicy(TeaCache(0.3), Reuse(), site="change", decided_by="each"),
    "first block": GatedPolicy(FirstBlock(0.8), Reuse(), site="change(kept=1)", decided_by="each"),
}


def compile_blocks(tiny: TinyPipeline, how: str = "in place") -> None:
    torch._dynamo.reset()
    model, options = tiny.pipe.transformer, {"backend": "eager", "fullgraph": True}
    if how == "in place":
        model.compile_repeated_blocks(**options)
        return
    for block in (*model.transformer_blocks, *model.single_transformer_blocks):
        block.forward = torch.compile(block.forward, **options)


@pytest.mark.cell(
    "hosts", "torch.compile of blocks with a site or gate between them (residual, TeaCache, first block)", "works"
)
@pytest.mark.usefixtures("as_users_call")
@WHEN
@pytest.mark.parametrize("chosen", BETWEEN.values(), ids=BETWEEN)
def test_between_compiled_blocks(chosen: Policy, when: str) -> None:
    tiny = build("flux")
    with fs.accelerate(tiny.pipe, chosen) as handle:
        expected = {batch: tiny.run(batch=batch) for batch in (2, 1)}
        computed = handle.record.computed
    assert len(computed["cond"]) < 8
    if when == "before":
        compile_blocks(tiny)
    with fs.accelerate(tiny.pipe, chosen) as handle:
        if when == "after":
            tiny.run()
            compile_blocks(tiny)
        for batch in (1, 2, 1):
            assert torch.allclose(tiny.run(batch=batch), expected[batch], atol=1e-4)
            assert handle.record.failed_open == []
        assert handle.record.computed == computed
    modules = list(tiny.pipe.transformer.modules())
    assert not any(is_hooked(module) or "compile" in vars(module) for module in modules)
    compiled = [module for module in modules if module._compiled_call_impl is not None]
    assert len(compiled) == 3  # as after compiling: detaching leaves them so


@pytest.mark.cell("hosts", "torch.compile of blocks with a site inside them (modules, tokens)", "fails open")
@pytest.mark.usefixtures("as_users_call")
@WHEN
@pytest.mark.parametrize("how", ["in place", "forward"])
@pytest.mark.parametrize("site", ["modules", "tokens"])
def test_inside_of_compiled_blocks(site: str, how: str, when: str) -> None:
    tiny = build("flux")
    reference = tiny.run()
    if when == "before":
        compile_blocks(tiny, how)
    with fs.accelerate(tiny.pipe, policy(site)) as handle:
        if when == "after":
            assert not torch.equal(tiny.run(), reference)
            assert handle.record.failed_open == []
            compile_blocks(tiny, how)
        with pytest.warns(fs.ForeseerWarning, match="blocks of FluxTransformer2DModel are compiled"):
            found = tiny.run()
        assert torch.allclose(found, reference, atol=1e-5)
        assert handle.record.forecast == {}
        assert [failure.step for failure in handle.record.failed_open] == list(range(8))


@pytest.mark.cell("hosts", "blocks or head replaced during a run: computed from there on", "fails open")
@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize("at", [0, 1, 2])  # before a forecast step, or a computed one
@pytest.mark.parametrize(
    ("site", "lost"),
    [
        *itertools.product(["modules", "tokens", "change", "last_block"], ["single_transformer_blocks", "both"]),
        ("last_block", "norm_out"),
    ],
)
def test_interceptions_lost_in_mid_run(site: str, lost: str, at: int) -> None:
    tiny = build("flux")
    model, reference = tiny.pipe.transformer, tiny.run()
    names = ("transformer_blocks", "single_transformer_blocks") if lost == "both" else (lost,)
    parts = {name: getattr(model, name) for name in names}

    def lose(pipe: object, index: int, t: object, given: dict[str, object]) -> dict[str, object]:
        if index == at:  # as one who puts copies of the blocks in their place
            for name, part in parts.items():
                setattr(model, name, copy.deepcopy(part))
        return {}

    with fs.accelerate(tiny.pipe, policy(site)) as handle:
        with pytest.warns(fs.ForeseerWarning, match=LOST):
            found = tiny.run(callback_on_step_end=lose)
        assert handle.record.failed_open[0].step == at + 1
        assert handle.record.forecast.get("cond", []) == list(range(1, at + 1, 2))
        assert torch.isfinite(found).all()
        for name, part in parts.items():
            setattr(model, name, part)
        again = tiny.run()
        assert handle.record.failed_open == []
        assert torch.equal(tiny.run(), again)
    assert torch.equal(tiny.run(), reference)
