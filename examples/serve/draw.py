"""Draw one request on one pipeline, with a policy that is attached for this run only."""

from __future__ import annotations

import io
import warnings
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

import foreseer as fs
from examples.serve.asked import Asked

KEPT_POLICIES = 64


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


class Painter:
    """A pipeline and a kernel of it.

    A handle is attached for each request and detached after it. Attaching adds a hook, no more; in return no
    run can see another's policy or features, and a request without speedup runs the untouched pipeline. What is costly,
    the search for steps and rows, is kept with the policies.

    Args:
        pipe: a diffusers pipeline; its scheduler and models are used by nobody else meanwhile.
        kernel: of the pipeline, at the output.
        options: more keyword arguments for the pipeline's call.
    """

    def __init__(self, pipe: Any, kernel: fs.Kernel, options: dict[str, Any]) -> None:
        self.pipe, self.kernel, self.options = pipe, kernel, options
        self._policies: OrderedDict[int, fs.Policy] = OrderedDict()
        pipe.set_progress_bar_config(disable=True)

    def policy(self, asked: Asked) -> fs.Policy | None:
        """The policy for a request; ``None`` where every step is to be computed."""
        if asked.nfe >= asked.steps:
            return None
        found = self._policies.pop(asked.nfe, None) or fs.learned(self.kernel, nfe=asked.nfe)
        self._policies[asked.nfe] = found
        if len(self._policies) > KEPT_POLICIES:
            self._policies.popitem(last=False)
        return found

    def draw(self, asked: Asked, cancelled: Callable[[], bool] = lambda: False) -> Drawn:
        """Draw.

        Args:
            asked: the request.
            cancelled: asked before the search for steps, before the run and after each step; nothing more is done once
                it says so.

        Raises:
            CancelledError: it was cancelled.
        """

        def stop(pipe: Any, step: int, t: Any, inputs: dict[str, Any]) -> dict[str, Any]:
            pipe._interrupt = cancelled()
            return {}

        if cancelled():
            raise CancelledError
        policy = self.policy(asked)
        if cancelled():
            raise CancelledError
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fs.ForeseerWarning)  # fail-opens are counted
            with fs.accelerate(self.pipe, policy) if policy is not None else nullcontext() as handle:
                output = self.pipe(
                    **self.options,
                    prompt=asked.prompt,
                    height=asked.height,
                    width=asked.width,
                    num_inference_steps=asked.steps,
                    generator=torch.Generator().manual_seed(asked.seed),
                    callback_on_step_end=stop,
                )
        if cancelled():
            raise CancelledError
        buffer = io.BytesIO()
        output.images[0].save(buffer, "PNG")
        record = handle.record if handle is not None else None
        failed_open = len(record.failed_open) if record is not None else 0
        return Drawn(buffer.getvalue(), asked.steps, record.nfe if record is not None else asked.steps, failed_open)


def emoji() -> Painter:
    """The bundled pipeline, after a first picture: the default request's steps are searched."""
    from foreseer import zoo

    sampling = zoo.sampling(zoo.path())
    options = {name: value for name, value in sampling.items() if name == "max_sequence_length"}
    painter = Painter(zoo.load(), fs.Kernel.load(zoo.kernel_path()), options)
    painter.draw(Asked(prompt=sampling["prompts"][0]))
    return painter
