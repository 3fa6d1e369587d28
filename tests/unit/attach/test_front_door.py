"""`fs.accelerate` as a newcomer calls it."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import foreseer as fs
from foreseer.attach.accelerate import attach
from foreseer.attach.denoiser_hook import DenoiserHook
from foreseer.attach.interception import listener_of
from foreseer.attach.sites.output import OutputSite
from foreseer.errors import AttachError, PlanError
from tests.support.attaching import STEPS, denoiser, flow_scheduler, policy, reference, sample, tiny
from tests.support.pipelines import randomise


class Plain(torch.nn.Module):
    """A network without blocks: it has an output, and nothing else that could be skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(x) + timestep.reshape(-1, 1, 1) / 1000)


def test_nothing_but_a_pipeline() -> None:
    with fs.accelerate(tiny("flux").pipe) as handle:
        assert str(handle) == "Attached; no run yet."
        tiny("flux").run()
        assert handle.record is not None
        assert handle.record.nfe == round(STEPS / 2.5)
        assert str(handle) == "3 of 8 steps computed, 2.7x fewer forward passes"
        assert "cond" in handle.summary()


@pytest.mark.parametrize(("options", "nfe"), [({"speedup": 2}, 4), ({"nfe": 3}, 3), ({"speedup": 8}, 1)])
@pytest.mark.parametrize("method", ["taylorseer", "newton", "reuse", "adams-bashforth"])
def test_a_name_and_a_budget(method: str, options: dict[str, float], nfe: int) -> None:
    with fs.accelerate(tiny("flux").pipe, method, **options) as handle:
        tiny("flux").run()
        assert handle.record is not None
        assert handle.record.nfe == nfe
        assert handle.record.failed_open == []


def test_quality_exact_is_the_reference() -> None:
    with fs.accelerate(tiny("flux").pipe, quality="exact"):
        assert torch.equal(tiny("flux").run(), reference("flux"))


def test_a_site_that_the_model_lacks_falls_back_to_the_output() -> None:
    model, scheduler = randomise(Plain(), 3), flow_scheduler()
    with torch.no_grad(), fs.accelerate(model, "taylorseer", nfe=3, scheduler=scheduler) as handle:
        with pytest.warns(fs.ForeseerWarning, match=r"'last_block' is not available: .* output is forecast instead"):
            sample(model, scheduler)
        assert handle.record is not None
        assert (handle.record.nfe, handle.record.failed_open) == (3, [])
        sample(model, scheduler)
        assert handle.record.nfe == 3


class Guided(torch.nn.Module):
    """Blocks of the output's width, and a head; later calls without a prompt skip both."""

    def __init__(self, leaves: int) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))
        self.head = torch.nn.Linear(4, 4)
        self.leaves, self.calls = leaves, 0

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, prompt: torch.Tensor | None = None) -> torch.Tensor:
        self.calls += prompt is None
        if prompt is None and self.calls > self.leaves:
            return torch.tanh(x + timestep.reshape(-1, 1, 1) / 1000)
        hidden = x if prompt is None else x + prompt
        for block in self.blocks:
            hidden = hidden + torch.tanh(block(hidden))
        return torch.tanh(self.head(hidden) + timestep.reshape(-1, 1, 1) / 1000)


def sample_guided(leaves: int, site: str | None = None, meanwhile: Callable[[Any], None] = id) -> torch.Tensor:
    """The last sample under guidance; with a site, TaylorSeer there, with the output site as fallback.

    ``meanwhile`` may do to the denoiser's hook, before the run, what another thread would do during it.
    """
    torch.manual_seed(0)
    model, scheduler = randomise(Guided(leaves), 3), flow_scheduler()
    scheduler.set_timesteps(STEPS)
    x, prompt = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0)), torch.ones(4) / 2
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(warnings.catch_warnings(action="ignore", category=fs.ForeseerWarning))
        if site is not None:
            taylorseer = fs.Policy(fs.schedule.Uniform(interval=2), fs.forecast.TaylorSeer(order=1), site)
            stack.enter_context(attach(model, taylorseer, scheduler=scheduler, fallback=True))
            meanwhile(listener_of(model))
        for t in scheduler.timesteps:
            guided = 3 * model(x, t[None], prompt=prompt) - 2 * model(x, t[None])
            x = scheduler.step(guided, t, x).prev_sample
    return x


@pytest.mark.parametrize("leaves", [0, 1, 2])
def test_branches_begin_again_where_the_site_changes_in_the_middle_of_a_run(leaves: int) -> None:
    """Features of blocks have the output's shape here: only the site differs."""
    wanted = sample_guided(leaves)
    error = torch.linalg.vector_norm(sample_guided(leaves, "last_block") - wanted)
    assert error < 0.08 * torch.linalg.vector_norm(wanted)  # .03 to .07; up to .15 where features of both are mixed


def test_a_site_that_another_thread_changes_while_the_network_runs() -> None:
    """The feature is of the site that took it, whatever the hook's site is afterwards."""

    def change(hook: DenoiserHook) -> None:
        taken, calls = hook.site.compute, itertools.count()

        def compute(*args: Any) -> tuple[Any, list[torch.Tensor]]:
            found = taken(*args)
            if next(calls) == 3:
                hook.site = OutputSite()
            return found

        hook.site.compute = compute

    wanted = sample_guided(STEPS)
    error = torch.linalg.vector_norm(sample_guided(STEPS, "last_block", change) - wanted)
    assert error < 0.08 * torch.linalg.vector_norm(wanted)


def test_a_site_asked_for_by_name_does_not_fall_back() -> None:
    model, scheduler = randomise(Plain(), 3), flow_scheduler()
    with (
        torch.no_grad(),
        fs.accelerate(model, "taylorseer", nfe=3, site="last_block", scheduler=scheduler) as handle,
        pytest.warns(fs.ForeseerWarning, match="computed instead of forecast"),
    ):
        sample(model, scheduler)
    assert handle.record is not None
    assert handle.record.nfe == STEPS


def test_a_model_compiled_as_a_whole_is_served_at_its_output() -> None:
    model, scheduler = denoiser(), flow_scheduler()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad(), fs.accelerate(compiled, "taylorseer", nfe=3, scheduler=scheduler) as handle:
        sample(compiled, scheduler)
        assert handle.record is not None
        assert handle.record.nfe == 3


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("taylorsear", {}, "did you mean 'taylorseer'"),
        (7, {}, "received int"),
        ("newton", {"nfe": 3, "speedup": 2}, "Give one of"),
        (policy(), {"nfe": 3}, "leave nfe out"),
    ],
)
def test_refusals(method: object, options: dict[str, float], message: str, as_users_call: None) -> None:
    with pytest.raises(PlanError, match=message):
        fs.accelerate(tiny("flux").pipe, method, **options)  # pyright: ignore[reportArgumentType]
    with pytest.raises(AttachError, match="Expected a diffusers pipeline, loaded"):
        fs.accelerate(object(), "newton", nfe=3)
    with pytest.raises(AttachError, match="SimpleNamespace has no scheduler"):
        fs.accelerate(SimpleNamespace(), "newton", nfe=3)
