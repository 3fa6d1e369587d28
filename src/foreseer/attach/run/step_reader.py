"""Which run and which step a call belongs to, read from the scheduler. Calls are never counted."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foreseer.attach.interception import unwrapped
from foreseer.attach.run.scheduler_watch import SchedulerWatch
from foreseer.errors import GridError
from foreseer.grid import Grid, level_sequences
from foreseer.scheduler_levels import has_steps

_TIMESTEP_NAMES = ("timestep", "timesteps", "t", "sigma", "timestep_ratio", "r")


class UnknownStepError(ValueError):
    """The step of a call cannot be determined; the call must be computed."""


@dataclass(frozen=True)
class RunLevels:
    """The noise levels of a run, as sequences in which each level occurs once.

    Attributes:
        grids: the first visits of all levels; then, for schedulers such as Heun's, the second visits, and so on.
        places: for each step of the scheduler, its sequence and its position there.
    """

    grids: tuple[Grid, ...]
    places: tuple[tuple[int, int], ...]

    def done_before(self, step: int) -> tuple[int, ...]:
        """For each sequence, how many of its levels lie before ``step``."""
        return self._done[step]

    @cached_property
    def _done(self) -> tuple[tuple[int, ...], ...]:
        counts = [0] * len(self.grids)
        table = []
        for sequence, _ in self.places:
            table.append(tuple(counts))
            counts[sequence] += 1
        return tuple(table)


class StepReader:
    """Reads runs and steps from a scheduler, for one denoiser in one thread.

    A run begins with ``set_timesteps``. The step is the scheduler's ``step_index``, before its first ``step`` its
    ``begin_index``. A scheduler without them (DDIM, PNDM) is asked where in its ``timesteps`` the call's timestep
    argument lies: views of that tensor are located by their offset, without reading a device.

    Attributes:
        run: identifies the current run; equal for all denoisers of the run.
    """

    def __init__(self, module: nn.Module) -> None:
        self.timestep_position = _find_timestep(type(unwrapped(module)))
        self.run: tuple[int, int] = (0, 0)
        self._watch: SchedulerWatch | None = None
        self._timesteps: Any = None
        self._values: np.ndarray | None = None
        self._count = 0

    def begins_run(self, scheduler: Any) -> bool:
        """Whether a run began since the last call: ``set_timesteps``, another scheduler, or other timesteps."""
        watch = SchedulerWatch.of(scheduler)
        timesteps = getattr(scheduler, "timesteps", None)
        if watch is self._watch and self.run[1] == watch.seen.runs:
            if timesteps is self._timesteps:
                return False
            if self._holds_same_values(timesteps):  # a copy: some pipelines swap the scheduler's state per view
                self._timesteps = timesteps
                return False
            watch.begin_run(timesteps)
        self._watch, self.run = watch, (id(watch), watch.seen.runs)
        self._timesteps, self._values = timesteps, None
        self._count = len(timesteps) if timesteps is not None else 0
        return True

    def levels(self, scheduler: Any, joined: bool = False, first: int = 0) -> RunLevels:
        """The noise levels of the current run, which begins at step ``first``.

        Args:
            scheduler: after ``set_timesteps``.
            joined: whether all visits of a level are one sequence, if levels never rise.
            first: the run's first step.

        Raises:
            UnknownStepError: the scheduler has none, or they neither fall nor repeat.
        """
        try:
            return RunLevels(*level_sequences(scheduler, joined, first))
        except GridError as error:
            raise UnknownStepError(str(error)) from error

    def step(self, scheduler: Any, argument: Any, first: int) -> int:
        """The step that the scheduler is at.

        Args:
            scheduler: after ``set_timesteps``.
            argument: the call's timestep argument.
            first: the run's first step, -1 before its first call. That call is taken for step 0 where the scheduler
                says nothing yet and the argument is not one of its timesteps; it is computed in any case.

        Raises:
            UnknownStepError: the scheduler does not say, and the argument is none of its timesteps, or several.
        """
        index = getattr(scheduler, "step_index", None)
        if index is None:
            index = getattr(scheduler, "begin_index", None)
        if index is None:
            index = self.place_of(argument)
        if index is None:
            index = self._by_value(scheduler, argument, first)
        index = int(index)
        if index >= self._count:
            raise UnknownStepError("the scheduler is past its last step; this call is not part of its run")
        return index

    def place_of(self, argument: Any) -> int | None:
        """Index of a timestep argument that is a view of the run's timesteps, else ``None``. Reads no device."""
        if self._watch is None:
            return None
        for timesteps in (self._timesteps, self._watch.seen.timesteps):
            place = index_of_view(argument, timesteps)
            if place is not None:
                return place
        return None

    def matches(self, step: int, argument: Any, value: float | None) -> bool | None:
        """Return whether a timestep argument belongs to ``step``, up to the rounding of its dtype.

        Return ``None`` if that cannot be decided without reading a device, or as zero is zero in every unit.

        Args:
            step: index into the run's timesteps.
            argument: the timestep argument.
            value: its value, ``None`` if it is not on the host.
        """
        if not value or (isinstance(self._timesteps, Tensor) and not self._timesteps.is_cpu):
            return None
        levels = self._read()
        rounding = 1.0 if _is_whole(argument) else _precision(argument) * abs(value)
        off = np.abs(levels - value)
        return bool(off[step] <= rounding and off[step] <= off.min() + rounding)

    def argument(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The timestep argument of a call, ``None`` where it has none."""
        position, name = self.timestep_position
        if name in kwargs:
            return kwargs[name]
        return args[position] if position < len(args) else None

    def _by_value(self, scheduler: Any, argument: Any, first: int) -> int:
        value = _largest(argument)
        if self._timesteps is None or not has_steps(scheduler):
            raise UnknownStepError(f"{type(scheduler).__name__} has no timesteps: call its set_timesteps(n) first")
        matches = np.flatnonzero(self._read() == value) if value is not None else np.empty(0, dtype=int)
        if matches.size == 0 and _is_whole(argument):  # some networks are given whole timesteps (Helios)
            matches = np.flatnonzero(np.floor(self._read()) == value)
        if hasattr(scheduler, "step_index"):  # it has not stepped: the run is at its first step
            if value == 0:  # in every unit; networks that get 1 - t begin with it (Z-Image)
                return max(first, 0)
            scaled = self._scaled_matches(scheduler, argument, value)
            return int(min((*matches, *scaled), default=max(first, 0)) if matches.size < 2 else max(first, 0))
        if matches.size == 1:
            return int(matches[0])
        found = "the network is given no timestep"
        if value is not None:
            found = f"the timestep {value:g} is not exactly one of its timesteps"
        raise UnknownStepError(f"the scheduler has no step_index, and {found}")

    def _scaled_matches(self, scheduler: Any, argument: Any, value: float | None) -> np.ndarray:
        """Steps whose timestep over the number of training steps, the input of many networks, is ``value``."""
        training_steps = getattr(getattr(scheduler, "config", None), "num_train_timesteps", None)
        if not value or not isinstance(training_steps, int) or _is_whole(argument):
            return np.empty(0, dtype=int)
        off = np.abs(self._read() / training_steps - value)
        return np.flatnonzero(off == off.min()) if off.min() <= _precision(argument) * abs(value) else np.empty(0, int)

    def _read(self) -> np.ndarray:
        if self._values is None:
            self._values = _numbers(self._timesteps)
        return self._values

    def _holds_same_values(self, timesteps: Any) -> bool:
        if timesteps is None or self._timesteps is None or len(timesteps) != self._count:
            return False
        return np.array_equal(_numbers(timesteps), self._read())


def _numbers(timesteps: Any) -> np.ndarray:
    """Timesteps as float64; those on a device are read at once, which waits for it once."""
    values = timesteps.tolist() if isinstance(timesteps, Tensor) else [float(value) for value in timesteps]
    return np.asarray(values, dtype=np.float64)


def index_of_view(argument: Any, timesteps: Any) -> int | None:
    """Index of ``argument`` in ``timesteps`` if it is a view of them, else ``None``. Reads no device."""
    if not isinstance(argument, Tensor) or not isinstance(timesteps, Tensor) or argument.numel() == 0:
        return None
    same = timesteps.dim() == 1 and argument.dtype == timesteps.dtype
    if same and argument.untyped_storage().data_ptr() == timesteps.untyped_storage().data_ptr() != 0:
        return (argument.storage_offset() - timesteps.storage_offset()) // max(1, timesteps.stride(0))
    return None


def reading_on_host(argument: Any) -> float | None:
    """A timestep argument that can be read without waiting for a device, else ``None``."""
    if isinstance(argument, Tensor) and not argument.is_cpu:
        return None
    return _largest(argument)


def _precision(argument: Any) -> float:
    """Relative rounding of a timestep argument."""
    return max(torch.finfo(argument.dtype).eps, 1e-6) if isinstance(argument, Tensor) else 1e-6


def _is_whole(argument: Any) -> bool:
    return isinstance(argument, int) or (isinstance(argument, Tensor) and not argument.is_floating_point())


def _largest(argument: Any) -> float | None:
    if isinstance(argument, Tensor):
        return float(argument.detach().max()) if argument.numel() and not argument.is_meta else None
    return float(argument) if isinstance(argument, int | float) else None


def takes_timestep(kind: type[nn.Module]) -> bool:
    """Whether the ``forward`` of a module class has a timestep among its parameters."""
    return bool(_find_timestep(kind)[1])


@lru_cache(maxsize=64)
def _find_timestep(kind: type[nn.Module]) -> tuple[int, str]:
    """Position and name of the timestep among the parameters of a module's ``forward``."""
    parameters = list(inspect.signature(kind.forward).parameters)[1:]
    for name in _TIMESTEP_NAMES:
        if name in parameters:
            return parameters.index(name), name
    return len(parameters) + 1000, ""
