"""Recording of a run: the (guided) network output at every step, and the final sample."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreseer.errors import CalibrationError, GridError
from foreseer.grid import Grid
from foreseer.guidance import guidance_text
from foreseer.pipelines.call_guidance import guidance_of_run

CHUNK = 2**18  # elements of one feature multiplied at a time


class StopRun(BaseException):  # so that nothing on the way takes it for a failure
    """Ends a pipeline's run after the step that was asked for."""


@dataclass
class Trajectory:
    """One run as its scheduler saw it.

    If a call makes several runs (chunks of a video, a second stage), it is the first.

    Attributes:
        outputs: one flattened tensor per step: the guided network output passed to ``scheduler.step``.
        first_step: the run's first step on the scheduler's grid (not 0 for image to image).
        scheduler: a copy of the scheduler as it was before the first step.
        start: the sample before the first step, flattened.
        shape: of a sample.
        sample: the last sample.
        guidance: of the run, as text; empty if unknown.
        copies: for each copy of the scheduler that the pipeline made, the flattened outputs passed to its ``step``:
            pipelines step a copy for each further output of their network (LTX-2's sound).
    """

    outputs: list[Tensor] = field(default_factory=list)
    first_step: int = 0
    scheduler: Any = None
    start: Tensor | None = None
    shape: tuple[int, ...] = ()
    sample: Tensor | None = None
    guidance: str = ""
    copies: list[list[Tensor]] = field(default_factory=list)
    _steps: int | None = None
    _last_index: int | None = None  # the scheduler's step_index at the last step

    @property
    def complete(self) -> bool:
        """Whether the run has ended: later calls of the network and steps belong to another."""
        return len(self.outputs) == self._steps

    @property
    def grid(self) -> Grid:
        """The noise levels of the run.

        Raises:
            CalibrationError: the pipeline's own scheduler made no step, or goes back to more noise.
        """
        if self.scheduler is None:
            raise CalibrationError(
                "The pipeline made no step with its own scheduler (it may step copies): nothing can be calibrated on "
                "it. Use a method that needs no calibration (foreseer methods)."
            )
        try:
            return Grid.of_calls(self.scheduler).tail(self.first_step)
        except GridError as error:
            raise CalibrationError(
                f"{error} To calibrate, give the pipeline a scheduler that never goes back to more noise, such as "
                "Euler or DDIM: pipe.scheduler = ....from_config(pipe.scheduler.config)."
            ) from error


@contextmanager
def record_run(pipe: Any, stop_after: int | None = None) -> Iterator[Trajectory]:
    """Record the next run of ``pipe``; its scheduler is left as it was.

    Args:
        pipe: a diffusers pipeline.
        stop_after: end the run once this many steps were recorded, by an exception that does not leave the block.
    """
    trajectory = Trajectory()
    scheduler = pipe.scheduler
    step = scheduler.step

    def recorded_step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        index = getattr(scheduler, "step_index", None)
        again = index is not None and index == trajectory._last_index  # Cosmos steps back, to guide clean samples
        if trajectory.complete and not again:
            return step(model_output, timestep, sample, *args, **kwargs)
        if trajectory.scheduler is None:
            trajectory.scheduler = copy.deepcopy(scheduler)
            vars(trajectory.scheduler).pop("step", None)
            trajectory.first_step = _first_step(scheduler, timestep)
            trajectory.start = sample.detach().reshape(-1).clone()
            trajectory.shape = tuple(sample.shape)
            trajectory.guidance = guidance_text(guidance_of_run(pipe))
            with suppress(CalibrationError):
                trajectory._steps = len(trajectory.grid)
        if not again:
            trajectory.outputs.append(model_output.detach().reshape(-1).clone())
        if len(trajectory.outputs) == stop_after:
            raise StopRun
        result = step(model_output, timestep, sample, *args, **kwargs)
        index = getattr(scheduler, "step_index", None)
        trajectory._last_index = None if index is None else index - 1
        trajectory.sample = result[0] if isinstance(result, tuple) else result.prev_sample
        return result

    with suppress(StopRun), stepping(scheduler, recorded_step, trajectory.copies):
        yield trajectory


def _first_step(scheduler: Any, timestep: Any) -> int:
    """First step of a run: the scheduler's ``begin_index``, else the place of ``timestep`` in its list."""
    begin = getattr(scheduler, "begin_index", None)
    if begin is None:
        from foreseer.attach.run.step_reader import index_of_view  # ComfyUI records without diffusers

        begin = index_of_view(timestep, scheduler.timesteps)
    if begin is not None:
        return int(begin)
    value = float(torch.as_tensor(timestep).reshape(-1)[0])
    return next((index for index, level in enumerate(scheduler.timesteps) if float(level) == value), 0)


@contextmanager
def stepping(scheduler: Any, step: Callable[..., Any], copies: list[list[Tensor]] | None = None) -> Iterator[None]:
    """Have this one ``scheduler`` step by ``step``, and afterwards as before.

    A copy that a pipeline makes of it meanwhile (LTX-2's, for the audio) steps by itself. A list of the outputs that it
    is given is appended to ``copies``.
    """
    before = vars(scheduler).get("step")
    scheduler.step = _OwnStep(scheduler, step, copies)
    try:
        yield
    finally:
        del scheduler.step
        if before is not None:
            scheduler.step = before


class _OwnStep:
    """A scheduler's step that copies of the scheduler do not inherit."""

    def __init__(self, scheduler: Any, step: Callable[..., Any], copies: list[list[Tensor]] | None = None) -> None:
        self._scheduler = scheduler
        self._step = step
        self._copies = copies
        # Pipelines read in the signature whether a step takes eta and a generator.
        self.__signature__ = inspect.signature(scheduler.step)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._step(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self._scheduler) not in memo:  # only its attributes are copied, to be set back (panorama's views)
            return self
        own = MethodType(type(self._scheduler).step, memo[id(self._scheduler)])
        if self._copies is None:
            return own
        outputs: list[Tensor] = []
        self._copies.append(outputs)

        def recorded_step(model_output: Tensor, *args: Any, **kwargs: Any) -> Any:
            outputs.append(model_output.detach().reshape(-1).clone())
            return own(model_output, *args, **kwargs)

        return _OwnStep(own.__self__, recorded_step)


def gram(first: list[Tensor], second: list[Tensor]) -> np.ndarray:
    """Return the inner products of all pairs divided by the number of elements.

    The result is float64, of shape (len(first), len(second)).
    """
    size = first[0].numel()
    total = np.zeros((len(first), len(second)))
    for start in range(0, size, CHUNK):
        left = torch.stack([one[start : start + CHUNK] for one in first]).double()
        right = left if second is first else torch.stack([one[start : start + CHUNK] for one in second]).double()
        total += (left @ right.T).cpu().numpy()
    return total / size
