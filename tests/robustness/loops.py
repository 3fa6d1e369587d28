"""The smallest sampling loop for every kind of scheduler in diffusers, and a network for it.

Each loop calls network and scheduler as the pipelines do that come with the scheduler: what the network is given for a
timestep, which call belongs to which step, and the scheduler's further arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import diffusers
import diffusers.schedulers
import torch
from torch import Generator, Tensor, nn

from tests.support.pipelines import randomise

STEPS = 8
CLASSES, LENGTH = 9, 6  # of tokens
_SHAPE = (1, 4, 8, 4)


class Network(nn.Module):
    """One layer: ``model(x, timestep)``, an output of ``width`` times four channels."""

    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4 * width)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return torch.tanh(self.layer(x)) * (0.5 + timestep.float().mean() / 2000)


class OfRatio(Network):
    """The same, its time named as Stable Cascade's networks name it."""

    def forward(self, sample: Tensor, timestep_ratio: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(sample, timestep_ratio)


class OfTokens(nn.Module):
    """Logits of a clean token at each place, shape (batch, places, classes); no timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 4)
        self.layer = nn.Linear(4, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.embed(tokens) + self.embed(tokens.roll(1, -1))))


class OfTokensAndTime(OfTokens):
    """Log probabilities of a clean token, (batch, classes without mask, places), as in VQ-Diffusion."""

    def forward(self, tokens: Tensor, timestep: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits = super().forward(tokens)[..., :-1] * (1 + timestep.float().mean() / 100)
        return logits.log_softmax(-1).transpose(1, 2)


Loop = Callable[[nn.Module, Any, Generator], Tensor]


def noise(generator: Generator, scheduler: Any, shape: tuple[int, ...] = _SHAPE) -> Tensor:
    """What a run begins from."""
    return torch.randn(shape, generator=generator) * getattr(scheduler, "init_noise_sigma", 1.0)


def plain(model: nn.Module, scheduler: Any, generator: Generator, steps: int = STEPS) -> Tensor:
    """Stable Diffusion's: noise for the scheduler's step where it asks for some."""
    given = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    scheduler.set_timesteps(steps)
    x = noise(generator, scheduler)
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(model(scaled, torch.as_tensor(t)), t, x, return_dict=False, **given)[0]
    return x


def cogvideox(model: nn.Module, scheduler: Any, generator: Generator) -> Tensor:
    """CogVideoX's: a step takes the last clean estimate and timestep, and gives the next estimate too."""
    scheduler.set_timesteps(STEPS)
    x, clean, before = noise(generator, scheduler), None, None
    for t in scheduler.timesteps:
        x, clean = scheduler.step(model(x, t), clean, t, before, x, generator=generator, return_dict=False)
        before = t
    return x


def sana_sprint(model: nn.Module, scheduler: Any, generator: Generator) -> Tensor:
    """Sana Sprint's: the network is given another function of the angle; the last level is not a step."""
    scheduler.set_timesteps(STEPS, intermediate_timesteps=None)
    scheduler.set_begin_index(0)
    x = clean = noise(generator, scheduler)
    for t in scheduler.timesteps[:-1]:
        time = torch.sin(t) / (torch.cos(t) + torch.sin(t))
        x, clean = scheduler.step(model(x, time[None]), t, x, generator=generator, return_dict=False)
    return clean


def stable_cascade(model: nn.Module, scheduler: Any, generator: Generator) -> Tensor:
    """Stable Cascade's: ratios, one an image; the last level is not a step."""
    scheduler.set_timesteps(STEPS)
    x = noise(generator, scheduler)
    for t in scheduler.timesteps[:-1]:
        ratio = t.expand(1)
        x = scheduler.step(model(x, timestep_ratio=ratio), ratio, x, generator=generator, return_dict=False)[0]
    return x


def repaint(model: nn.Module, scheduler: Any, generator: Generator, jump_length: int = 2) -> Tensor:
    """RePaint's: it jumps back to more noise repeatedly, unless the jump is longer than the run."""
    scheduler.set_timesteps(STEPS, jump_length=jump_length, jump_n_sample=2)
    x, last = noise(generator, scheduler), scheduler.timesteps[0] + 1
    picture, mask = torch.zeros(_SHAPE), torch.ones(_SHAPE).tril()
    for t in scheduler.timesteps:
        if t < last:
            x = scheduler.step(model(x, t), t, x, picture, mask, generator, return_dict=False)[0]
        else:
            x = scheduler.undo_step(x, last, generator)
        last = t
    return x


def score_sde(model: nn.Module, scheduler: Any, generator: Generator) -> Tensor:
    """Score SDE's: at each level a correction and a prediction, the network given the noise scale."""
    scheduler.set_timesteps(STEPS)
    scheduler.set_sigmas(STEPS)
    x = noise(generator, scheduler)
    for sigma, t in zip(scheduler.sigmas, scheduler.timesteps, strict=True):
        x = scheduler.step_correct(model(x, sigma), x, generator=generator, return_dict=False)[0]
        x = scheduler.step_pred(model(x, sigma), t, x, generator=generator, return_dict=False)[0]
    return x


def score_sde_vp(model: nn.Module, scheduler: Any, generator: Generator) -> Tensor:
    """Score SDE's with preserved variance: no correction; the network gets training timesteps."""
    scheduler.set_timesteps(STEPS)
    x = noise(generator, scheduler)
    for t in scheduler.timesteps:
        x, _ = scheduler.step_pred(model(x, t * (len(scheduler) - 1)), x, t, generator=generator)
    return x


def karras(model: nn.Module, scheduler: Any, generator: Generator) -> Tensor:
    """Karras et al.'s: noise before each step, and a correction by a second call at the next level."""
    scheduler.set_timesteps(STEPS)
    x = noise(generator, scheduler)
    for t in scheduler.timesteps:
        sigma, after = scheduler.schedule[t], scheduler.schedule[t - 1] if t > 0 else 0
        noisy, level = scheduler.add_noise_to_input(x, sigma, generator=generator)
        output = (level / 2) * model((noisy + 1) / 2, level / 2)
        x, slope = scheduler.step(output, level, after, noisy, return_dict=False)
        if after != 0:
            output = (after / 2) * model((x + 1) / 2, after / 2)
            x = scheduler.step_correct(output, level, after, noisy, x, slope, return_dict=False)[0]
    return x


def helios(model: nn.Module, scheduler: Any, generator: Generator) -> Tensor:
    """Helios': three stages, each a run at twice the size; the network gets whole timesteps."""
    distilled = "DMD" in type(scheduler).__name__
    x = noise(generator, scheduler, (1, 4, 1, 2, 4))
    for stage in range(3):
        scheduler.set_timesteps(STEPS, stage)
        if stage:
            x = x.repeat_interleave(2, -2)
            x = 0.7 * x + 0.7 * torch.randn(x.shape, generator=generator)
        beginning, given = x, {}
        for index, t in enumerate(scheduler.timesteps):
            if distilled:
                given = {"dmd_sigmas": scheduler.sigmas, "dmd_timesteps": scheduler.timesteps}
                given.update(cur_sampling_step=index, dmd_noisy_tensor=beginning, all_timesteps=scheduler.timesteps)
            output = model(x, t.expand(1).to(torch.int64))
            x = scheduler.step(output, t, x, generator=generator, return_dict=False, **given)[0]
    return x


def proteina(model: nn.Module, scheduler: Any, generator: Generator) -> Tensor:
    """RFD4-Proteina's, of one modality: times rise from noise to clean."""
    scheduler.set_timesteps(2 * STEPS)
    x, mask = noise(generator, scheduler, (1, LENGTH, 4)), torch.ones(1, LENGTH, dtype=torch.bool)
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t.expand(1)), t, x, mask, generator=generator, return_dict=False)[0]
    return x


def unmask(model: nn.Module, scheduler: Any, generator: Generator) -> Tensor:
    """aMUSEd's and VQ-Diffusion's: tokens, all masked at first."""
    scheduler.set_timesteps(STEPS)
    takes_time = isinstance(model, OfTokensAndTime)
    tokens = torch.full((1, LENGTH), CLASSES - 1)
    for t in scheduler.timesteps:
        logits = model(tokens, timestep=t).clamp(-70) if takes_time else model(tokens)
        tokens = scheduler.step(logits, t, tokens, generator=generator, return_dict=False)[0]
    return tokens


def canvas(model: nn.Module, scheduler: Any, generator: Generator) -> Tensor:
    """DiffusionGemma's: tokens, all random at first; the scheduler gets the number of steps taken."""
    sized = {"block_length": LENGTH} if "block_length" in inspect.signature(scheduler.set_timesteps).parameters else {}
    scheduler.set_timesteps(STEPS, **sized)
    tokens = torch.randint(0, CLASSES, (1, LENGTH), generator=generator)
    for step in range(STEPS):
        tokens = scheduler.step(model(tokens), step, tokens, generator=generator, return_dict=False)[0]
    return tokens


@dataclass(frozen=True)
class Case:
    """How a scheduler is driven."""

    loop: Loop = plain
    network: Callable[[], nn.Module] = Network
    config: dict[str, Any] = field(default_factory=dict)


_PROTEINA = {"schedule_mode": "log", "noise_mode": "1/t", "tsr_k": 1.5, "tsr_sigma": 1.0, "tail_steps": 2}
_CASES = {
    "Amused": Case(unmask, OfTokens, {"mask_token_id": CLASSES - 1}),
    "BlockRefinement": Case(canvas, OfTokens),
    "CogVideoXDPM": Case(cogvideox),
    "ConsistencyDecoder": Case(partial(plain, steps=2)),
    "DDPMWuerstchen": Case(stable_cascade, OfRatio),
    "DiscreteDDIM": Case(canvas, OfTokens),
    "EntropyBound": Case(canvas, OfTokens),
    "Helios": Case(helios),
    "HeliosDMD": Case(helios),
    "KarrasVe": Case(karras),
    "Piflow": Case(plain, lambda: Network(10)),
    "RFD4Proteina": Case(proteina, Network, _PROTEINA),
    "RePaint": Case(repaint),
    "SCM": Case(sana_sprint),
    "ScoreSdeVe": Case(score_sde),
    "ScoreSdeVp": Case(score_sde_vp),
    "VQDiffusion": Case(unmask, OfTokensAndTime, {"num_vec_classes": CLASSES}),
}


@dataclass
class Drive:
    """A scheduler's loop, ready to run; another ``loop`` than its own may be given."""

    name: str
    loop: Loop | None = None

    def __post_init__(self) -> None:
        self.case = _CASES.get(self.name.removesuffix("Scheduler"), Case())
        self.model = randomise(self.case.network(), 1)

    def scheduler(self) -> Any:
        """A scheduler of this kind."""
        home = diffusers if hasattr(diffusers, self.name) else diffusers.schedulers
        return getattr(home, self.name)(**self.case.config)

    def run(self, scheduler: Any) -> tuple[Tensor, Tensor]:
        """The final sample, and where the random numbers that were drawn left their generators."""
        generator = Generator().manual_seed(1)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(2)
            sample = (self.loop or self.case.loop)(self.model, scheduler, generator)
            return sample, torch.cat([generator.get_state(), torch.get_rng_state()])
