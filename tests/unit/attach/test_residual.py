"""The change site: ranges of blocks that are bypassed, their change forecast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foreseer as fs
from foreseer.attach.interception import HOOK_NAME
from foreseer.errors import PlanError
from foreseer.runtime import BranchRun
from foreseer.site import Residual, read_site
from tests.support.attaching import STEPS, TinyDenoiser, flow_scheduler, reference, sample, tiny
from tests.support.pipelines import TinyPipeline, randomise

DELTA = Residual(blocks=(0.25, 1.0), late=(0.0, 0.75), boundary=0.5)
NAMES = ("flux", "sd3", "wan", "dit", "flux2")


def blocks_of(module: nn.Module) -> list[nn.Module]:
    lists = ("transformer_blocks", "single_transformer_blocks", "blocks")
    return [block for name in lists for block in getattr(module, name, ())]


def grid_of(name: str, steps: int) -> fs.Grid:
    """The noise levels of a run."""
    with fs.accelerate(tiny(name).pipe, fs.Policy(fs.schedule.Uniform(interval=1), fs.forecast.Reuse())) as handle:
        tiny(name).run(steps)
    return next(iter(handle.record.plans.values())).grid


def policy(site: Residual, rule: fs.schedule.Schedule | None = None) -> fs.Policy:
    return fs.Policy(rule or fs.schedule.Uniform(interval=3), fs.forecast.Reuse(), site=site)


@contextmanager
def counting(blocks: list[nn.Module]) -> Iterator[list[int]]:
    """How often each block's first layer with weights ran."""
    counts = [0] * len(blocks)
    hooks = []
    for index, block in enumerate(blocks):

        def count(*_: object, index: int = index) -> None:
            counts[index] += 1

        linear = next(one for one in block.modules() if isinstance(one, nn.Linear))
        hooks.append(linear.register_forward_hook(count))
    yield counts
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("site", [Residual(), DELTA], ids=["all", "delta"])
@pytest.mark.parametrize("name", NAMES)
def test_all_compute_is_bit_identical_and_a_second_run_the_first_again(name: str, site: Change) -> None:
    with fs.accelerate(tiny(name).pipe, policy(site, fs.schedule.Uniform(interval=1))) as handle:
        assert torch.equal(tiny(name).run(), reference(name))
    with fs.accelerate(tiny(name).pipe, policy(site)) as handle:
        first, second = tiny(name).run(), tiny(name).run()
        assert handle.record.nfe == 3
        assert handle.record.failed_open == []
        other = tiny(name).run(batch=2)
        assert handle.record.failed_open == []
    with fs.accelerate(tiny(name).pipe, policy(site)):
        assert torch.equal(other, tiny(name).run(batch=2))
    assert torch.equal(first, second)
    assert not torch.equal(first, reference(name))


@pytest.mark.parametrize("site", [Residual(), DELTA], ids=["all", "delta"])
@pytest.mark.parametrize("name", NAMES)
def test_the_true_change_gives_the_reference_to_rounding(
    name: str, site: Residual, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replace each forecast by the true change, recorded beforehand for both ranges at every step."""
    truth: list[list[Tensor]] = []
    every = policy(site, fs.schedule.Uniform(interval=1))
    with monkeypatch.context() as patch, fs.accelerate(tiny(name).pipe, every) as handle:
        patch.setattr(
            "foreseer.attach.sites.residual.ResidualSite._wanted", lambda self, layout, branch: layout.segments
        )
        computed = BranchRun.computed

        def take(run: BranchRun, step: int, tensors: list[Tensor], *rest: Any, **more: Any) -> None:
            truth.append([tensor.clone() for tensor in tensors])
            computed(run, step, tensors, *rest, **more)

        patch.setattr(BranchRun, "computed", take)
        tiny(name).run()
    position, wrong = iter(range(len(truth))), 0
    computed, forecast = BranchRun.computed, BranchRun.forecast

    def count(run: BranchRun, *given: Any, **rest: Any) -> None:
        next(position)
        computed(run, *given, **rest)

    def simulate(run: BranchRun, step: int) -> list[Tensor]:
        nonlocal wrong
        true, reused = truth[next(position)], forecast(run, step)
        wrong += any(one.numel() and not torch.equal(one, other) for one, other in zip(reused, true, strict=True))
        return true

    with fs.accelerate(tiny(name).pipe, policy(site)) as handle:
        monkeypatch.setattr(BranchRun, "computed", count)
        monkeypatch.setattr(BranchRun, "forecast", simulate)
        found = tiny(name).run()
    assert handle.record.failed_open == []
    assert wrong == sum(map(len, handle.record.forecast.values())) > 0
    torch.testing.assert_close(found, reference(name), rtol=1e-4, atol=1e-5)


def delta_by_hand(run: TinyPipeline, computed: set[int], early: set[int], late: set[int]) -> Tensor:
    """Delta-DiT with one branch, by replaced methods: each block in range adds its kept change.

    Reuse of a range's change is reuse of its blocks' changes, added up.
    """
    transformer = run.modules[0]
    kept: dict[int, Any] = {}
    step = -1

    def forward_of(index: int, block: nn.Module) -> Callable[..., Any]:
        ordinary = type(block).forward

        def forward(hidden_states: Tensor, encoder_hidden_states: Tensor, **given: Any) -> Any:
            nonlocal step
            step += index == 0
            if step in computed:
                encoder, hidden = ordinary(block, hidden_states, encoder_hidden_states, **given)
                kept[index] = (encoder - encoder_hidden_states, hidden - hidden_states)
                return encoder, hidden
            if index in (early if step < STEPS / 2 else late):
                return encoder_hidden_states + kept[index][0], hidden_states + kept[index][1]
            return ordinary(block, hidden_states, encoder_hidden_states, **given)

        return forward

    blocks = blocks_of(transformer)
    try:
        for index, block in enumerate(blocks):
            block.forward = forward_of(index, block)
        return run.run()
    finally:
        for block in blocks:
            del block.forward


def test_rear_blocks_early_and_front_blocks_late_as_by_hand() -> None:
    expected = delta_by_hand(tiny("flux"), computed={0, 3, 6}, early={1, 2}, late={0, 1})
    with fs.accelerate(tiny("flux").pipe, policy(DELTA)) as handle:
        found = tiny("flux").run()
    assert handle.record.computed == {"cond": [0, 3, 6]}
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert float((found - reference("flux")).abs().max()) > 100 * float((found - expected).abs().max())


def test_only_the_phase_s_range_is_bypassed() -> None:
    run = tiny("flux")
    with fs.accelerate(run.pipe, policy(DELTA)):
        run.run()
        with counting(blocks_of(run.modules[0])) as counts:
            run.run()
    # Steps 1, 2 skip blocks 1, 2; steps 4, 5, 7 skip blocks 0, 1.
    assert counts == [STEPS - 3, STEPS - 5, STEPS - 2]


@pytest.mark.parametrize("forecaster", [fs.forecast.Newton(order=1), fs.forecast.Reuse()], ids=["newton", "reuse"])
@pytest.mark.parametrize("interval", [2, 3])
def test_two_phases_follow_the_plan_as_one_does(interval: int, forecaster: fs.forecast.Forecaster) -> None:
    """Each phase leaves out the tensors of the other; that is no change of the feature's form."""
    rule = fs.schedule.Uniform(interval=interval, warmup=2)
    two_phases = fs.Policy(rule, forecaster, site=Residual(blocks=(0.5, 1.0), late=(0.0, 0.5), boundary=0.5))
    for attached in (two_phases, two_phases.compile(grid_of("flux", 12))):
        with fs.accelerate(tiny("flux").pipe, attached) as handle:
            tiny("flux").run(12)
        assert handle.record.computed["cond"] == list(two_phases.compile(grid_of("flux", 12)).computed_steps)
        assert (handle.record.begun_late, handle.record.failed_open) == ([], [])


def test_both_changes_are_kept_only_where_the_next_phase_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    run, held = tiny("flux"), []
    computed = BranchRun.computed

    def watch(branch: BranchRun, *given: Any, **rest: Any) -> None:
        computed(branch, *given, **rest)
        held.append(branch.store.bytes)

    monkeypatch.setattr(BranchRun, "computed", watch)
    with fs.accelerate(run.pipe, policy(DELTA)) as handle:
        run.run()
    change = (4 * 4 + 6) * 32 * 4  # of both streams, in bytes
    assert held == [change, 2 * change, change]  # steps 0, 3 (weighed early and late), 6
    assert handle.record.feature_elements == {"cond": change // 4}


class Skips(TinyDenoiser):
    """The first block's output also goes around the second, as in a U-ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock() for _ in range(3))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        first = self.blocks[0](self.embed(x) + self.embed_time(timestep.reshape(-1, 1, 1) / 1000))
        return self.head(self.blocks[2](self.blocks[1](first)) + torch.sin(first))


class InPlace(TinyDenoiser):
    """A block that writes into its input."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        hidden = self.embed(x) + self.embed_time(timestep.reshape(-1, 1, 1) / 1000)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


class ResidualBlock(nn.Module):
    def __init__(self, in_place: bool = False) -> None:
        super().__init__()
        self.layer, self.in_place = nn.Linear(16, 16), in_place

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.add_(self.layer(hidden)) if self.in_place else hidden + self.layer(hidden)


def test_an_inner_output_that_is_used_elsewhere_splits_the_range() -> None:
    model, scheduler = randomise(Skips(), 2), flow_scheduler()
    with torch.no_grad(), fs.accelerate(model, policy(Residual()), scheduler=scheduler) as handle:
        sample(model, scheduler)
        layout = model._diffusers_hook.get_hook(HOOK_NAME).site._latest
    assert [(segment.first, segment.last) for segment in layout.early] == [(0, 0), (1, 1), (2, 2)]
    assert handle.record.nfe == 3
    assert handle.record.failed_open == []


def test_blocks_without_a_change_are_computed_and_the_record_says_why() -> None:
    model, scheduler = randomise(InPlace(), 2), flow_scheduler()
    model.blocks = randomise(nn.ModuleList(ResidualBlock(in_place=True) for _ in range(2)), 3)
    with torch.no_grad():
        expected = sample(model, scheduler)
        attached = fs.accelerate(model, policy(Residual()), scheduler=scheduler)
        with attached as handle, pytest.warns(fs.ForeseerWarning, match="write into their inputs"):
            assert torch.equal(sample(model, scheduler), expected)
    assert handle.record.nfe == STEPS
    reason = r"DownBlock2D.*the shape of none of its inputs; use site='output'"
    with fs.accelerate(tiny("sdxl").pipe, policy(Residual())), pytest.warns(fs.ForeseerWarning, match=reason):
        assert torch.equal(tiny("sdxl").run(2), reference("sdxl", 2))


def test_a_range_that_holds_no_block_is_refused() -> None:
    reason = "the range from 0 to 0.1 holds none of 2 blocks"
    attached = fs.accelerate(tiny("sd3").pipe, policy(Residual((0.0, 0.1))))
    with attached as handle, pytest.warns(fs.ForeseerWarning, match=reason):
        tiny("sd3").run(2)
    assert handle.record.nfe == 2


@pytest.mark.parametrize("given", [(0.5, 0.5), (0.5, 0.2), (-0.1, 1.0), (0.0, 1.5), (0.0,), "ab", (0.0, "1")])
def test_ranges_are_checked(given: Any, as_users_call: None) -> None:
    for options in ({"blocks": given}, {"late": given}):
        with pytest.raises(PlanError, match=next(iter(options))):
            Residual(**options)


def test_the_options_are_text() -> None:
    assert read_site("change(kept=1)") == Residual(kept=1)  # the name in files of earlier versions
    assert str(DELTA) == "residual(blocks=[0.25, 1.0], late=[0.0, 0.75])"
    assert read_site(str(DELTA)) == DELTA
    assert policy(DELTA).compile(fs.Grid.uniform(8)).site == str(DELTA)


def test_skipped_layers_are_a_branch_of_their_own() -> None:
    """SD3's skip-layer guidance: a late call that runs other blocks has a separate layout."""
    options = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.1, "skip_layer_guidance_stop": 0.8}
    with fs.accelerate(tiny("sd3").pipe, policy(Residual(), fs.schedule.Uniform(interval=1))) as handle:
        assert torch.equal(tiny("sd3").run(**options), reference_with(options))
    with fs.accelerate(tiny("sd3").pipe, policy(Residual(), fs.schedule.Uniform(interval=2))) as handle:
        first = tiny("sd3").run(**options)
        assert torch.equal(tiny("sd3").run(**options), first)
    assert handle.record.failed_open == []
    assert handle.record.computed == {"call 1": [0, 2, 4, 6], "call 2": [1, 3, 5]}


def reference_with(options: dict[str, Any]) -> Tensor:
    return tiny("sd3").run(**options)
