"""The smallest thing that is a pipeline: a scheduler, a smooth denoiser, and the loop between them."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

SIZE = 24


class SmoothDenoiser(nn.Module):
    """Bends with the noise level and with the sample, as a trained network does, and draws no picture."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.mix = nn.Parameter(torch.randn(SIZE, SIZE, generator=generator) / SIZE**0.5)
        self.turn = nn.Parameter(torch.randn(SIZE, SIZE, generator=generator) / SIZE**0.5)

    def forward(self, hidden_states: Tensor, timestep: Tensor, words: Tensor, return_dict: bool = False) -> Any:
        """Tuple of one tensor, like a diffusers transformer's."""
        t = timestep / 1000
        bent = torch.tanh(hidden_states @ self.mix + words * (1 - t)) @ self.turn
        return ((1 - t) * bent + 0.6 * hidden_states * torch.cos(2 * t) - words * torch.exp(-3 * t),)


class LoopPipeline:
    """Draws nothing, but samples like a pipeline: optional guidance in two calls, optional late start."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.transformer = SmoothDenoiser().eval().requires_grad_(False)

    def network(self, t: Tensor) -> nn.Module:
        """The network that computes the step at ``t``."""
        return self.transformer

    @torch.no_grad()
    def __call__(
        self,
        prompt: str,
        num_inference_steps: int = 20,
        generator: torch.Generator | None = None,
        guidance_scale: float = 1.0,
        output_type: str = "latent",
    ) -> Any:
        """The final sample of one prompt."""
        self.scheduler.set_timesteps(num_inference_steps)
        seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big")
        words = torch.randn(1, 4, SIZE, generator=torch.Generator().manual_seed(seed))
        sample = torch.randn(1, 4, SIZE, generator=generator) * getattr(self.scheduler, "init_noise_sigma", 1.0)
        for t in self.scheduler.timesteps:
            scale = getattr(self.scheduler, "scale_model_input", None)
            given = scale(sample, t) if scale is not None else sample
            network = self.network(t)
            output = network(given, timestep=t, words=words)[0]
            if guidance_scale != 1.0:
                without = network(given, timestep=t, words=torch.zeros_like(words))[0]
                output = without + guidance_scale * (output - without)
            sample = self.scheduler.step(output, t, sample, return_dict=False)[0]
        return SimpleNamespace(images=sample)


class RelayPipeline(LoopPipeline):
    """A second network takes over at half of the noise, as in Wan 2.2."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        self.transformer_2 = SmoothDenoiser().eval().requires_grad_(False)
        self.transformer_2.turn.neg_()

    def network(self, t: Tensor) -> nn.Module:
        """The network that computes the step at ``t``."""
        return self.transformer if float(t) >= 500 else self.transformer_2


def sample(pipe: LoopPipeline, prompt: str, seed: int, **options: Any) -> Tensor:
    """The final sample in float64."""
    return pipe(prompt, generator=torch.Generator().manual_seed(seed), **options).images.double()


def relative(one: Tensor, other: Tensor) -> float:
    """Norm of the difference over the norm of ``other``."""
    return float((one - other).norm() / other.norm())
