"""Shared by attachment tests: cached tiny pipelines, policies, and a sampling loop."""

from __future__ import annotations

from functools import cache
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

import foreseer as fs
from tests.support.pipelines import TOKENS, WIDTH, TinyPipeline, build, embeds, randomise

STEPS = 8
EVERY_SECOND = fs.schedule.Uniform(interval=2, warmup=1)


@cache
def tiny(name: str) -> TinyPipeline:
    """A tiny pipeline, made once; tests leave it as they found it."""
    return build(name)


@cache
def reference(name: str, steps: int = STEPS) -> Tensor:
    """Its unaccelerated run."""
    return tiny(name).run(steps)


def policy(site: str = "output", rule: fs.schedule.Schedule = EVERY_SECOND) -> fs.Policy:
    """Two-point extrapolation at every second step."""
    return fs.Policy(rule, fs.forecast.Newton(order=1), site=site)


def accelerated(name: str, steps: int = STEPS, site: str = "output", **options: Any) -> Tensor:
    """What a fresh attachment gives."""
    with fs.accelerate(tiny(name).pipe, policy(site)):
        return tiny(name).run(steps, **options)


class TinyDenoiser(nn.Module):
    """Blocks between an embedding and a head, called as ``model(x, timestep)``."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 16)
        self.embed_time = nn.Linear(1, 16)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.head = nn.Linear(16, 4)
        self.calls = 0

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        self.calls += 1
        hidden = self.embed(x) + self.embed_time(timestep.float().reshape(-1, 1, 1) / 1000)
        for block in self.blocks:
            hidden = hidden + torch.tanh(block(hidden))
        return self.head(hidden)


@cache
def denoiser() -> TinyDenoiser:
    """The model of the hand-written loop."""
    return randomise(TinyDenoiser(), 5)


def flow_scheduler() -> Any:
    """Its scheduler."""
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)


def sample(model: nn.Module, scheduler: Any, steps: int = STEPS, batch: int = 1, seed: int = 0) -> Tensor:
    """A hand-written sampling loop."""
    latents = torch.randn(batch, 5, 4, generator=torch.Generator().manual_seed(seed))
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        velocity = model(latents, t.expand(batch))
        latents = scheduler.step(velocity, t, latents, return_dict=False)[0]
    return latents


def denoise_flux(module: nn.Module, timestep: float) -> Tensor:
    """One call of Flux's transformer, outside any run."""
    with torch.no_grad():
        return module(
            hidden_states=embeds(1, 4, 16),
            timestep=torch.full((1,), timestep / 1000),
            pooled_projections=embeds(1, WIDTH),
            encoder_hidden_states=embeds(1, TOKENS, WIDTH),
            txt_ids=torch.zeros(TOKENS, 3),
            img_ids=torch.zeros(4, 3),
            return_dict=False,
        )[0]
