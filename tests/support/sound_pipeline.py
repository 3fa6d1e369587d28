"""A pipeline whose network returns a video and its sound, which bend differently with the noise level."""

from __future__ import annotations

import copy
import hashlib
import itertools
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from tests.support.loop_pipeline import SIZE, SmoothDenoiser

BEATS = 40


class VideoAndSound(nn.Module):
    """The smooth denoiser, and beside it a sound that turns faster.

    Attributes:
        dtype: of the sound's output.
        silent: whether the sound's output is ``None``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.video = SmoothDenoiser()
        generator = torch.Generator().manual_seed(5)
        self.beat = nn.Parameter(torch.randn(BEATS, BEATS, generator=generator) / BEATS**0.5)
        self.dtype = torch.float32
        self.silent = False

    def forward(self, hidden_states: Tensor, sound: Tensor, timestep: Tensor, words: Tensor) -> Any:
        """Tuple of the video's output and of the sound's."""
        (video,) = self.video(hidden_states, timestep, words)
        if self.silent:
            return video, None
        t = timestep / 1000
        turned = sound @ self.beat * torch.sin(7 * t) + sound * torch.cos(9 * t)
        return video, (turned + 0.3 * words.mean() * torch.exp(-6 * t)).to(self.dtype)


class SoundPipeline:
    """Samples video and sound, the sound with a copy of the scheduler as LTX-2 does, or by a formula."""

    def __init__(self, *, copies: bool = True) -> None:
        self.scheduler: Any = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
        self.transformer = VideoAndSound().eval().requires_grad_(False)
        self.copies = copies

    @torch.no_grad()
    def __call__(
        self,
        prompt: str,
        num_inference_steps: int = 20,
        generator: torch.Generator | None = None,
        guidance_scale: float = 1.0,
        batch: int = 1,
        output_type: str = "latent",
    ) -> Any:
        """The final samples of one prompt: ``images`` and ``sound``."""
        self.scheduler.set_timesteps(num_inference_steps)
        for_sound = copy.deepcopy(self.scheduler) if self.copies else None
        seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big")
        words = torch.randn(1, 4, SIZE, generator=torch.Generator().manual_seed(seed))
        video = torch.randn(batch, 4, SIZE, generator=generator)
        sound = torch.randn(batch, 3, BEATS, generator=generator)
        levels = itertools.pairwise(self.scheduler.sigmas)
        for t, (sigma, after) in zip(self.scheduler.timesteps, levels, strict=True):
            outputs: Any = self.transformer(video, sound, timestep=t, words=words)
            if guidance_scale != 1.0:
                without = self.transformer(video, sound, timestep=t, words=torch.zeros_like(words))
                pairs = zip(outputs, without, strict=True)
                outputs = [one if one is None else no + guidance_scale * (one - no) for one, no in pairs]
            video = self.scheduler.step(outputs[0], t, video, return_dict=False)[0]
            if outputs[1] is not None and for_sound is not None:
                sound = for_sound.step(outputs[1].float(), t, sound, return_dict=False)[0]
            elif outputs[1] is not None:
                sound = sound + (after - sigma) * outputs[1].float()
        return SimpleNamespace(images=video, sound=sound)
