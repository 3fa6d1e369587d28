"""The boundary between blocks and head."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
from torch import Tensor, nn

import foreseer as fs
from foreseer.attach.interception import HOOK_NAME
from foreseer.attach.sites.last_block import LastBlockSite
from tests.support.attaching import STEPS, TinyDenoiser, accelerated, flow_scheduler, policy, reference, sample, tiny
from tests.support.pipelines import build, randomise

FIRST_OF_THE_HEAD = {
    "flux": "norm_out",
    "sd3": "norm_out",
    "wan": "norm_out",
    "sdxl": "conv_norm_out",
    "dit": "norm_out",
    "cogvideox": "norm_final",
    "z_image": "all_final_layer.2-1",
    "kandinsky5": "out_layer",
}


def site_of(module: nn.Module) -> LastBlockSite:
    return module._diffusers_hook.get_hook(HOOK_NAME).site


@pytest.mark.parametrize("name", FIRST_OF_THE_HEAD)
def test_the_head_begins_right_after_the_blocks(name: str) -> None:
    """Anything later would take its modulation, the timestep's, from a forecast."""
    module = tiny(name).modules[0]
    with fs.accelerate(tiny(name).pipe, policy("last_block")):
        tiny(name).run()
        heads = [path for path, one in module.named_modules() if one in site_of(module)._boundary.heads]
    assert heads == [FIRST_OF_THE_HEAD[name]]


def test_the_head_runs_with_the_current_timestep() -> None:
    """Flux by hand: reuse of the hidden state, modulated again."""
    run, pipe = tiny("flux"), tiny("flux").pipe
    hidden, outputs, embeddings = [], [], []
    hooks = [
        pipe.transformer.norm_out.register_forward_pre_hook(lambda _, args: hidden.append(args[0].clone())),
        pipe.transformer.time_text_embed.register_forward_hook(lambda *given: embeddings.append(given[2])),
        pipe.transformer.register_forward_hook(lambda *given: outputs.append(given[2][0])),
    ]
    everything_but_one = fs.schedule.Explicit([step for step in range(STEPS) if step != 4])
    reuse = fs.Policy(everything_but_one, fs.forecast.Reuse(), site="last_block")
    with fs.accelerate(pipe, reuse) as handle:
        run.run()  # the boundary is found
        for found in (hidden, outputs, embeddings):
            found.clear()
        run.run()
    for hook in hooks:
        hook.remove()
    assert handle.record.forecast == {"cond": [4]}
    with torch.no_grad():
        expected = pipe.transformer.proj_out(pipe.transformer.norm_out(hidden[3], embeddings[4]))
    assert torch.equal(outputs[4], expected)
    assert not torch.equal(embeddings[4], embeddings[3])
    assert not torch.equal(outputs[4], outputs[3])


class NoSeam(TinyDenoiser):
    """A way around the blocks: from inside of one to the output."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        hidden = self.blocks[0](self.embed(x))
        return self.head(torch.tanh(self.blocks[1](hidden))) + hidden[..., :4]


class TwoHeads(TinyDenoiser):
    """Two streams, each with its own head."""

    def __init__(self) -> None:
        super().__init__()
        self.other_head = nn.Linear(16, 4)
        self.blocks = nn.ModuleList(Split() for _ in range(2))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        first, second = self.embed(x), self.embed(x) + self.embed_time(timestep.reshape(-1, 1, 1) / 1000)
        for block in self.blocks:
            first, second = block(first, second)
        return self.head(first) + self.other_head(second)


class Split(nn.Module):
    """A block of two streams."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(self.one(first + second)), torch.tanh(self.two(first - second))


def test_a_model_without_a_seam_is_computed_and_says_so() -> None:
    model, scheduler = randomise(NoSeam(), 2), flow_scheduler()
    with torch.no_grad():
        expected = sample(model, scheduler)
        with fs.accelerate(model, policy("last_block"), scheduler=scheduler) as handle:
            with pytest.warns(fs.ForeseerWarning, match="no boundary between blocks and head of NoSeam.*site='output'"):
                found = sample(model, scheduler)
            assert torch.equal(sample(model, scheduler), expected)
    assert torch.equal(found, expected)
    assert handle.record.computed == {"call 1": list(range(STEPS))}
    assert handle.record.forecast == {}


def test_a_model_with_two_heads_has_a_feature_for_each() -> None:
    model, scheduler = randomise(TwoHeads(), 2), flow_scheduler()
    with torch.no_grad(), fs.accelerate(model, policy("last_block"), scheduler=scheduler) as handle:
        sample(model, scheduler)
        assert site_of(model)._boundary.heads == (model.head, model.other_head)
    assert handle.record.failed_open == []
    assert handle.record.nfe == 4


@pytest.mark.parametrize("passes", range(1, 4))
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_an_interrupted_proof_leaves_no_seam(passes: int, error: type[BaseException]) -> None:
    model, scheduler = randomise(TinyDenoiser(), 2), flow_scheduler()
    with torch.no_grad():
        with fs.accelerate(model, policy("last_block"), scheduler=scheduler):
            expected = sample(model, scheduler)
        model.calls, ordinary = 0, type(model).forward

        def fails(x: Tensor, timestep: Tensor) -> Tensor:
            if model.calls == passes - 1:
                model.calls = 10**6
                raise error("stop")
            return ordinary(model, x, timestep)

        model.forward = fails
        with fs.accelerate(model, policy("last_block"), scheduler=scheduler) as handle:
            if error is RuntimeError and passes > 1:  # such as a wrong boundary raises: there is none then
                with pytest.warns(fs.ForeseerWarning, match="no boundary"):
                    sample(model, scheduler)
                assert handle.record.nfe == STEPS
                return
            with pytest.raises(error, match="stop"):
                sample(model, scheduler)
            assert site_of(model)._boundary is None
            assert not any(one._forward_pre_hooks for one in model.modules())
            found = sample(model, scheduler)
            assert handle.record.nfe == 4
    assert torch.equal(found, expected)


def test_layers_left_out_at_some_steps_are_a_branch_of_their_own() -> None:
    """SD3's skip-layer guidance: a late, smaller call that runs other blocks."""
    options = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.1, "skip_layer_guidance_stop": 0.8}
    pipe = tiny("sd3").pipe
    expected = tiny("sd3").run(**options)
    with fs.accelerate(pipe, policy("last_block", fs.schedule.Uniform(1))) as handle:
        assert torch.equal(tiny("sd3").run(**options), expected)
    assert handle.record.computed == {"call 1": list(range(8)), "call 2": list(range(1, 7))}
    with fs.accelerate(pipe, policy("last_block")) as handle:
        found = tiny("sd3").run(**options)
    assert handle.record.failed_open == []
    assert handle.record.computed == {"call 1": [0, 2, 4, 6], "call 2": [1, 3, 5]}
    assert not torch.equal(found, accelerated("sd3", site="last_block"))


def test_compiled_blocks_are_skipped_too() -> None:
    transformer = tiny("sd3").pipe.transformer
    expected = accelerated("sd3", site="last_block")
    for block in transformer.transformer_blocks:
        block.compile(backend="eager")
    try:
        torch.testing.assert_close(tiny("sd3").run(), reference("sd3"))
        with fs.accelerate(tiny("sd3").pipe, policy("last_block")) as handle:
            found = tiny("sd3").run()
        assert handle.record.failed_open == []
        assert handle.record.nfe == 4
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(tiny("sd3").run(), reference("sd3"))
    finally:
        for block in transformer.transformer_blocks:
            block._compiled_call_impl = None


@pytest.mark.parametrize("when", [0, 2, 3])
def test_another_thread_detaches_while_the_network_runs(when: int) -> None:
    fresh = build("flux")
    handle = fs.accelerate(fresh.pipe, policy("last_block"))

    def let_go(*_: object) -> None:
        if (fresh.pipe.scheduler.step_index or 0) == when:
            other = threading.Thread(target=handle.detach_silently)
            other.start()
            other.join(2)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fs.ForeseerWarning)
        fresh.pipe.transformer.norm_out.register_forward_pre_hook(let_go)
        assert torch.isfinite(fresh.run()).all()
    assert not handle.attached
