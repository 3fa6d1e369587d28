"""Pictures of many requests, drawn side by side, each at its own step."""

from __future__ import annotations

import copy
import io
import itertools
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps
from torch import Tensor

import foreseer as fs
from examples.serve.asked import Asked

KEPT_POLICIES = 64
EVERY_STEP = fs.Policy(fs.schedule.Uniform(interval=1), fs.forecast.Reuse())


@dataclass(frozen=True)
class Drawn:
    """A picture and what it took.

    Attributes:
        png: the file.
        steps: of the sampler.
        nfe: network evaluations.
        failed_open: steps computed although they were to be forecast.
    """

    png: bytes
    steps: int
    nfe: int
    failed_open: int


class CancelledError(Exception):
    """Nobody waits for the picture any more."""


@dataclass(eq=False)
class Sketch:
    """A picture on its way from noise.

    Attributes:
        asked: the request.
        policy: computes and forecasts its steps.
        scheduler: of this picture alone.
        grid: its noise levels.
        latents: where it stands.
        inputs: what else the network is given; those in ``SHARED`` are the same for pictures of one size.
        step: the next one.
        number: unlike that of any other sketch.
    """

    asked: Asked
    policy: fs.Policy
    scheduler: Any
    grid: fs.Grid
    latents: Tensor
    inputs: dict[str, Tensor]
    step: int = 0
    number: int = field(default_factory=itertools.count().__next__)

    @property
    def done(self) -> bool:
        """Whether all steps were taken."""
        return self.step == len(self.grid)


class Painter:
    """A FLUX pipeline whose network serves pictures at different steps.

    In each turn every picture takes a step. :meth:`foreseer.Runs.answer` forecasts for those whose policy says so, and
    asks for the outputs of the others. No picture can see another's policy or features.

    Args:
        pipe: a ``FluxPipeline``, used by nobody else meanwhile.
        kernel: of the pipeline, at the output.
        guidance: an input of the network.
        text_tokens: length of the encoded prompt.
        batch: whether pictures of one size are computed in one call of the network. That is what a GPU wants; the last
            bits of a picture then depend on who else is drawn, which they do not otherwise.
    """

    SHARED = ("txt_ids", "img_ids")

    def __init__(self, pipe: Any, kernel: fs.Kernel, guidance: float, text_tokens: int, *, batch: bool = False) -> None:
        self.pipe, self.kernel, self.batch = pipe, kernel, batch
        self._guidance, self._text_tokens = guidance, text_tokens
        self._policies: OrderedDict[int, fs.Policy] = OrderedDict()
        self._runs = fs.Runs()

    def policy(self, asked: Asked) -> fs.Policy:
        """The policy for a request; what it searched, steps and rows, is kept with it."""
        if asked.nfe >= asked.steps:
            return EVERY_STEP
        policy = self._policies.pop(asked.nfe, None) or fs.learned(self.kernel, nfe=asked.nfe)
        self._policies[asked.nfe] = policy
        if len(self._policies) > KEPT_POLICIES:
            self._policies.popitem(last=False)
        return policy

    @torch.no_grad()
    def begin(self, asked: Asked) -> Sketch:
        """Encode the prompt, draw the noise, and set the noise levels, as the pipeline does."""
        pipe, scheduler = self.pipe, copy.deepcopy(self.pipe.scheduler)
        device, generator = pipe._execution_device, torch.Generator().manual_seed(asked.seed)
        text, pooled, text_ids = pipe.encode_prompt(
            asked.prompt, None, device=device, max_sequence_length=self._text_tokens
        )
        channels = pipe.transformer.config.in_channels // 4
        latents, ids = pipe.prepare_latents(1, channels, asked.height, asked.width, text.dtype, device, generator, None)
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        shift = calculate_shift(latents.shape[1], *(scheduler.config[name] for name in names))
        levels = np.linspace(1.0, 1 / asked.steps, asked.steps).tolist()
        retrieve_timesteps(scheduler, asked.steps, device, sigmas=levels, mu=shift)
        scheduler.set_begin_index(0)
        guidance = torch.full([1], self._guidance, device=device, dtype=torch.float32)
        inputs = {"encoder_hidden_states": text, "pooled_projections": pooled, "guidance": guidance}
        inputs |= {"txt_ids": text_ids, "img_ids": ids}
        return Sketch(asked, self.policy(asked), scheduler, fs.Grid.from_scheduler(scheduler), latents, inputs)

    @torch.no_grad()
    def turn(self, sketches: Sequence[Sketch]) -> None:
        """Take one step of every sketch; none may be done."""
        calls = [
            fs.RunCall(sketch.number, sketch.step, sketch.grid, inputs=(sketch.latents,), policy=sketch.policy)
            for sketch in sketches
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fs.ForeseerWarning)  # fail-opens are counted
            outputs = self._runs.answer(calls, lambda missing: self._computed([sketches[index] for index in missing]))
        for sketch, output in zip(sketches, outputs, strict=True):
            timestep = sketch.scheduler.timesteps[sketch.step]
            sketch.latents = sketch.scheduler.step(output, timestep, sketch.latents, return_dict=False)[0]
            sketch.step += 1

    @torch.no_grad()
    def finish(self, sketch: Sketch) -> Drawn:
        """Decode a sketch that is done."""
        pipe, asked, record = self.pipe, sketch.asked, self._runs.end(sketch.number)
        latents = pipe._unpack_latents(sketch.latents, asked.height, asked.width, pipe.vae_scale_factor)
        latents = latents / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
        (picture,) = pipe.image_processor.postprocess(pipe.vae.decode(latents, return_dict=False)[0])
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return Drawn(buffer.getvalue(), asked.steps, record.nfe, len(record.failed_open))

    def drop(self, sketch: Sketch) -> None:
        """Give a sketch up."""
        self._runs.drop(sketch.number)

    def draw(self, asked: Asked, cancelled: Callable[[], bool] = lambda: False) -> Drawn:
        """Draw one picture alone.

        Args:
            asked: the request.
            cancelled: asked before the first step and after each; nothing more is done once it says so.

        Raises:
            CancelledError: it was cancelled.
        """
        if cancelled():
            raise CancelledError
        sketch = self.begin(asked)
        while not sketch.done:
            if cancelled():
                self.drop(sketch)
                raise CancelledError
            self.turn([sketch])
        return self.finish(sketch)

    def _computed(self, sketches: Sequence[Sketch]) -> list[Tensor]:
        """The network's outputs for sketches at their steps, in order."""
        outputs: dict[int, Tensor] = {}
        for group in self._groups(sketches):
            inputs = {
                name: tensor if name in self.SHARED else torch.cat([sketch.inputs[name] for sketch in group])
                for name, tensor in group[0].inputs.items()
            }
            timesteps = torch.stack([sketch.scheduler.timesteps[sketch.step] for sketch in group])
            latents = torch.cat([sketch.latents for sketch in group])
            timesteps = timesteps.to(latents.dtype) / 1000
            output = self.pipe.transformer(hidden_states=latents, timestep=timesteps, return_dict=False, **inputs)[0]
            outputs |= {sketch.number: row for sketch, row in zip(group, output.split(1), strict=True)}
        return [outputs[sketch.number] for sketch in sketches]

    def _groups(self, sketches: Sequence[Sketch]) -> Iterator[Sequence[Sketch]]:
        """What is computed in one call: pictures of one size, or one picture."""
        groups: dict[Any, list[Sketch]] = {}
        for sketch in sketches:
            size = (sketch.asked.height, sketch.asked.width)
            groups.setdefault(size if self.batch else sketch.number, []).append(sketch)
        yield from groups.values()


def emoji(batch: bool = False) -> Painter:
    """The bundled pipeline, after a first picture: the default request's steps are searched."""
    from foreseer import zoo

    sampling = zoo.sampling(zoo.path())
    kernel = fs.Kernel.load(zoo.kernel_path())
    painter = Painter(zoo.load(), kernel, sampling["guidance_scale"], sampling["max_sequence_length"], batch=batch)
    painter.draw(Asked(prompt=sampling["prompts"][0]))
    return painter
