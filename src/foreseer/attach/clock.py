"""Which run and which step a call of the denoiser belongs to. The scheduler knows; calls are never just counted."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from foreseer.attach.hooks import unwrapped
from foreseer.errors import GridError
from foreseer.grid import Grid

# How a pipeline hands the scheduler's timestep t to its denoiser: t, t / 1000, or 1 - t / 1000.
_SCALES: tuple[Callable[[float], float], ...] = (lambda t: t, lambda t: 1000.0 * t, lambda t: 1000.0 * (1.0 - t))
_PRECISION = 1e-5  # relative: what a timestep may lose on its way to the denoiser in float32
_TIMESTEP_NAMES = ("timestep", "timesteps", "t", "sigma", "timestep_ratio", "r")


class UnknownStepError(ValueError):
    """The step of a call cannot be told; the call must be computed."""


class StepClock:
    """Reads step indices from a scheduler.

    One clock serves one denoiser in one thread. The run's identity is the scheduler's ``timesteps`` tensor, a new
    object after every ``set_timesteps``. The step is the scheduler's ``step_index``, before its first ``step`` its
    ``begin_index``, and else the position of the timestep argument in ``timesteps``.
    """

    def __init__(self, module: nn.Module, known: dict[str, Callable[[float], float]] | None = None) -> None:
        self.timestep_position = _find_timestep(type(unwrapped(module)))
        self._known = {} if known is None else known
        self.timesteps: Any = None
        self._count = 0
        self._levels = np.empty(0)
        self._slack = 0.0  # a quarter of the least distance of two levels
        self._scale: Callable[[float], float] | None = None
        self._strange = False

    def new_run(self, scheduler: Any) -> bool:
        """Whether ``scheduler`` has other timesteps than at the last call; takes note of them."""
        timesteps = getattr(scheduler, "timesteps", None)
        if timesteps is self.timesteps and timesteps is not None:
            return False
        self.timesteps = timesteps
        self._count = len(timesteps) if timesteps is not None else 0
        self._levels = np.empty(0)
        self._scale = None
        self._strange = False
        return True

    def grid(self, scheduler: Any) -> Grid:
        """The grid of the current run.

        Raises:
            UnknownStepError: the scheduler has none.
        """
        try:
            return Grid.from_scheduler(scheduler)
        except GridError as error:
            raise UnknownStepError(str(error)) from error

    def step(self, scheduler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        """The step that the scheduler is at.

        Raises:
            UnknownStepError: the scheduler does not say and the timestep argument matches no step, or several.
        """
        if self.timesteps is None:
            raise UnknownStepError(f"{type(scheduler).__name__} has no timesteps: call its set_timesteps(n) first")
        index = getattr(scheduler, "step_index", None)
        if index is None:
            index = getattr(scheduler, "begin_index", None)
        if index is None:
            return self._match(args, kwargs, counts_steps=hasattr(scheduler, "step_index"))
        index = int(index)
        if index >= self._count:
            raise UnknownStepError("the scheduler is past its last step; this call is not part of its run")
        return index

    def confirm(self, calls: Sequence[tuple[int, Any]]) -> str | None:
        """Why a branch's calls are not all the scheduler's, or ``None``: a timestep argument is another step's.

        Reading an argument waits for a GPU, so this is for branches about to be forecast. Which scale it is on is
        settled once a denoiser, for all threads; an argument on an unknown scale is not looked at. A run in which one
        was on none of them settles nothing: another function of the level may meet a scale by chance.

        Args:
            calls: the step that each was taken for, and its timestep argument.
        """
        for step, argument in calls:
            if argument is None:
                continue
            given, scale = _read(argument), self._known.get("scale")
            if scale is None:
                fitting = [one for one in _SCALES if self._fits(one, step, given)]
                self._strange = self._strange or not fitting
                if len(fitting) == 1 and not self._strange:
                    self._known["scale"] = fitting[0]
            elif not self._fits(scale, step, given):
                value = f"{given.value:g}"
                return f"the timestep {value} is not of the scheduler's step {step}: a call belongs to another run"
        return None

    def _fits(self, scale: Callable[[float], float], step: int, given: _Timestep) -> bool:
        level = self._all_levels()[step : step + 1]
        return bool(given.distances(scale, level)[0] <= max(given.rounding(scale), self._slack))

    @property
    def settled(self) -> bool:
        """Whether the scale of the timestep argument is known, or not to be learned from this run."""
        return "scale" in self._known or self._strange

    def _all_levels(self) -> np.ndarray:
        if not self._levels.size:
            self._levels = np.asarray([float(t) for t in self.timesteps], dtype=np.float64)
            gaps = np.abs(np.diff(self._levels))
            self._slack = 0.25 * float(gaps[gaps > 0].min()) if np.any(gaps > 0) else 0.0
        return self._levels

    def _match(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], counts_steps: bool) -> int:
        """The only level within rounding of the timestep argument; the first of several if none was taken yet.

        Which scale the argument is on is settled by the run's first call: the one that puts it earliest in the run.
        """
        self._all_levels()
        given = self._timestep(args, kwargs)
        fits = []
        for scale in _SCALES if self._scale is None else (self._scale,):
            steps = np.flatnonzero(given.distances(scale, self._levels) <= given.rounding(scale))
            if steps.size == 1 or (steps.size and counts_steps):
                fits.append((int(steps[0]), scale))
        if not fits:
            raise UnknownStepError(
                f"the timestep {given.value:g} is not one of the scheduler's {len(self._levels)}, or it may be several"
            )
        step, self._scale = min(fits, key=lambda fit: fit[0])
        return step

    def argument(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The timestep argument, ``None`` where there is none."""
        position, name = self.timestep_position
        value = kwargs.get(name) if name in kwargs else args[position] if position < len(args) else None
        given = value.numel() > 0 if isinstance(value, Tensor) else isinstance(value, int | float)
        return value if given else None

    def _timestep(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Timestep:
        argument = self.argument(args, kwargs)
        if argument is None:
            raise UnknownStepError("the scheduler has no step_index and the denoiser was given no timestep")
        return _read(argument)


class _Timestep(NamedTuple):
    """A timestep argument: its value (the largest of several), the relative precision of its dtype, and if it is whole.

    A whole one may have been cut off (Helios gives its network 898 for 898.4).
    """

    value: float
    precision: float
    whole: bool

    def rounding(self, scale: Callable[[float], float]) -> float:
        """What it may have lost, on the scheduler's scale."""
        error = self.precision * max(1.0, abs(self.value))
        return abs(scale(self.value + error) - scale(self.value))

    def distances(self, scale: Callable[[float], float], levels: np.ndarray) -> np.ndarray:
        """How far it is from each of the scheduler's timesteps."""
        off = np.abs(levels - scale(self.value))
        return np.minimum(off, np.abs(np.floor(levels) - scale(self.value))) if self.whole else off


def _read(argument: Tensor | int | float) -> _Timestep:
    if not isinstance(argument, Tensor):
        return _Timestep(float(argument), _PRECISION, isinstance(argument, int))
    whole = not argument.is_floating_point()
    rounding = 0.0 if whole else torch.finfo(argument.dtype).eps / 2
    return _Timestep(float(argument.detach().max()), max(rounding, _PRECISION), whole)


def takes_timestep(kind: type[nn.Module]) -> bool:
    """Whether the ``forward`` of a module names a timestep among its arguments."""
    return bool(_find_timestep(kind)[1])


@lru_cache(maxsize=64)
def _find_timestep(kind: type[nn.Module]) -> tuple[int, str]:
    """Position and name of the timestep among the arguments of a module's ``forward``."""
    parameters = list(inspect.signature(kind.forward).parameters)[1:]
    for name in _TIMESTEP_NAMES:
        if name in parameters:
            return parameters.index(name), name
    return len(parameters) + 1000, ""
