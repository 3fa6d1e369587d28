"""The noise levels that one run visits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64

from foreseer.checks import frozen
from foreseer.errors import GridError
from foreseer.scheduler_levels import Unit, has_steps, inverts_sigmas, repeated_levels, to_array, visited

VISIT = 1e-6  # a further visit of a level lies this share of the level below the visit before
_SMALLEST = 1e-3  # of the largest level; smaller levels are taken for that large


@dataclass(frozen=True, eq=False)
class Grid:
    r"""The noise levels $t_0 > t_1 > \dots > t_{T-1}$ of one run, one per step.

    Args:
        noise_levels: shape (T,), strictly decreasing. "Time" means noise level everywhere in Foreseer.
        unit: unit of the levels: ``"sigma"`` (noise scale, 0 is clean) or ``"timestep"`` (index of a training step).
        final_level: level at which the last step ends; 0 unless the sampler stops before the clean sample.

    Raises:
        GridError: there is no level, a level is not finite, or the levels do not strictly decrease.

    >>> grid = Grid([1.0, 0.75, 0.5, 0.25])
    >>> len(grid), grid.unit, grid.tail(2).noise_levels.tolist()
    (4, 'sigma', [0.5, 0.25])
    """

    noise_levels: Float64[np.ndarray, " T"] | Sequence[float]
    unit: Unit = "sigma"
    final_level: float = 0.0
    _key: bytes = field(init=False, repr=False, default=b"")

    def __post_init__(self) -> None:
        levels = _as_levels(self.noise_levels)
        if self.unit not in ("sigma", "timestep"):
            raise GridError(f"Unknown unit {self.unit!r}: a grid's unit is 'sigma' or 'timestep'.")
        final = self.final_level
        if not isinstance(final, int | float | np.number) or not -np.inf < final <= levels[-1]:
            raise GridError(f"final_level is {final!r}; expected a number of at most the last level {levels[-1]:g}.")
        object.__setattr__(self, "noise_levels", levels)
        object.__setattr__(self, "final_level", float(self.final_level))
        object.__setattr__(self, "_key", levels.tobytes() + f"{self.unit} {self.final_level!r}".encode())

    @classmethod
    def uniform(cls, steps: int) -> Grid:
        """Return the levels 1, 1 - 1/T, ..., 1/T of flow matching without a shift.

        >>> Grid.uniform(4).noise_levels.tolist()
        [1.0, 0.75, 0.5, 0.25]
        """
        if not isinstance(steps, int | np.integer) or steps < 1:
            raise GridError(f"steps is {steps!r}; expected a whole number of at least 1.")
        return cls(1.0 - np.arange(steps) / steps)

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> Grid:
        """Read the levels of a diffusers scheduler after ``set_timesteps``.

        Its ``sigmas`` if there is one per step (bfloat16 pipelines round timesteps into duplicates, sigmas are
        kept in float32), else its ``timesteps``. With ``invert_sigmas`` in its configuration, levels are 1 - sigma.

        Raises:
            GridError: ``set_timesteps`` was not called, or the scheduler visits a level twice (Heun, PNDM).
        """
        if not has_steps(scheduler):
            raise GridError(f"{type(scheduler).__name__} has no steps yet: call its set_timesteps(n) first.")
        grid = getattr(scheduler, "grid", None)
        if isinstance(grid, cls):  # that of an fs.Sampler
            return grid
        timesteps = to_array(visited(scheduler))
        sigmas = to_array(scheduler.sigmas) if getattr(scheduler, "sigmas", None) is not None else np.empty(0)
        name = type(scheduler).__name__
        if sigmas.size == timesteps.size + 1:
            sigmas = 1.0 - sigmas if inverts_sigmas(scheduler) else sigmas
            return _named(name, sigmas[:-1], "sigma", float(min(sigmas[-1], sigmas[-2])))
        if timesteps.size < len(scheduler.timesteps):
            return _named(name, timesteps, "timestep", 0.0)
        # A scheduler without sigmas places the clean sample one spacing below its last timestep.
        spacing = timesteps[-2] - timesteps[-1] if timesteps.size > 1 else timesteps[-1] + 1.0
        return _named(name, timesteps, "timestep", float(timesteps[-1] - max(spacing, 0.0)))

    @classmethod
    def of_calls(cls, scheduler: Any) -> Grid:
        """Read one level per call of the network; levels may be visited more than once in a row.

        Each further visit (Heun's: t0, t1, t1, t2, t2, ...) becomes a separate level, a millionth below (``VISIT``).
        For a scheduler with one visit per level this is :meth:`from_scheduler`.

        Raises:
            GridError: ``set_timesteps`` was not called, or levels rise.

        >>> from types import SimpleNamespace
        >>> grid = Grid.of_calls(SimpleNamespace(timesteps=[9.0, 6.0, 6.0, 3.0], num_inference_steps=3))
        >>> grid.visits, grid.lengths.round(3).tolist()
        ((0, 0, 1, 0), [3.0, 1.5, 1.5, 3.0])
        """
        try:
            return cls.from_scheduler(scheduler)
        except GridError:
            if not has_steps(scheduler):
                raise
            levels, unit = repeated_levels(scheduler)
            apart = levels[:-1].copy()
            for step in range(1, apart.size):
                if f"{levels[step]:.6g}" == f"{levels[step - 1]:.6g}":  # each visit has its own rounding
                    apart[step] = apart[step - 1] - VISIT * max(abs(apart[step - 1]), _SMALLEST * np.abs(apart).max())
            return _named(type(scheduler).__name__, apart, unit, float(min(levels[-1], apart[-1])))

    @cached_property
    def visits(self) -> tuple[int, ...]:
        """For each step, how many steps directly before it are at the same level; all 0 unless levels repeat."""
        levels, visits = self.levels, [0]
        close = 2 * VISIT * np.maximum(np.abs(levels), _SMALLEST * np.abs(levels).max())
        for near in (levels[:-1] - levels[1:] <= close[:-1]).tolist():
            visits.append(visits[-1] + 1 if near else 0)
        return tuple(visits)

    @property
    def repeats(self) -> bool:
        """Whether a level is visited more than once."""
        return any(self.visits)

    @property
    def lengths(self) -> Float64[np.ndarray, " T"]:
        """Length of each step in noise level, shape (T,); the visits of a level share its length equally."""
        first = np.flatnonzero(np.array(self.visits) == 0)
        between = -np.diff(np.append(self.levels[first], self.final_level))
        counts = np.diff(np.append(first, len(self)))
        return np.repeat(between / counts, counts)

    def tail(self, first_step: int) -> Grid:
        """Return the grid from ``first_step`` on (image to image, or a branch that starts late)."""
        if not 0 <= first_step < len(self):
            raise GridError(f"Step {first_step} is not on a grid of {len(self)} steps.")
        return self if first_step == 0 else Grid(self.levels[first_step:], self.unit, self.final_level)

    @property
    def levels(self) -> Float64[np.ndarray, " T"]:
        """The noise levels as a read-only float64 array of shape (T,)."""
        return self.noise_levels  # pyright: ignore[reportReturnType]

    @property
    def key(self) -> bytes:
        """Hash key: equal for two grids if and only if the grids are equal."""
        return self._key

    def matches(self, other: Grid, tolerance: float = 1e-4) -> bool:
        """Return whether both grids have the same levels to relative ``tolerance``, for levels from float32."""
        if self is other or self._key == other._key:
            return True
        if len(self) != len(other) or self.unit != other.unit:
            return False
        own, others = (np.append(grid.levels, grid.final_level) for grid in (self, other))
        return np.allclose(own, others, rtol=tolerance, atol=1e-7 * float(np.max(np.abs(own))))

    def __len__(self) -> int:
        return int(self.levels.size)

    def __iter__(self) -> Iterator[float]:
        return iter(self.levels.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def level_sequences(
    scheduler: Any, joined: bool = False, first: int = 0
) -> tuple[tuple[Grid, ...], tuple[tuple[int, int], ...]]:
    """Split the levels of a scheduler into sequences without repeats: first visits, second visits, ...

    Heun's method calls the network twice at each level but the first; each sequence of visits is smooth for itself.

    Args:
        scheduler: after ``set_timesteps``.
        joined: whether visits of a level that follow each other stay in one sequence, :meth:`Grid.of_calls`.
        first: the run's first step (image to image).

    Returns:
        The sequences' grids, and for each step of the scheduler (sequence, position in it).

    Raises:
        GridError: ``set_timesteps`` was not called, or levels rise.

    >>> from types import SimpleNamespace
    >>> grids, places = level_sequences(SimpleNamespace(timesteps=[9.0, 6.0, 6.0, 3.0], num_inference_steps=3))
    >>> [grid.noise_levels.tolist() for grid in grids], places
    ([[9.0, 6.0, 3.0], [6.0]], ((0, 0), (0, 1), (1, 0), (0, 2)))
    """
    rises = None
    try:
        grid = Grid.of_calls(scheduler)
        if joined or not grid.tail(min(first, len(grid) - 1)).repeats:
            return (grid,), tuple((0, step) for step in range(len(grid)))
    except GridError as error:
        if not has_steps(scheduler):
            raise
        rises = error
    levels, unit = repeated_levels(scheduler)
    visits: dict[str, int] = {}
    sequences: list[list[float]] = []
    places: list[tuple[int, int]] = []
    for level in levels[:-1].tolist():
        rounded = f"{level:.6g}"  # some schedulers compute the same level twice, each with its own rounding
        visit = visits.get(rounded, 0)
        visits[rounded] = visit + 1
        if visit == len(sequences):
            sequences.append([])
        places.append((visit, len(sequences[visit])))
        sequences[visit].append(level)
    if rises is not None and len(sequences) < 2:
        raise rises
    final = min(float(levels[-1]), float(levels[-2]))
    return tuple(_named(type(scheduler).__name__, np.asarray(each), unit, final) for each in sequences), tuple(places)


def _as_levels(values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise GridError(f"Noise levels must be numbers: {error}.") from error
    if array.dtype.kind not in "iuf":
        raise GridError(f"Noise levels must be numbers, received {array.dtype}.")
    levels = frozen(array)
    if levels.ndim != 1 or levels.size == 0:
        raise GridError(f"Noise levels have shape {levels.shape}; expected (T,) with at least one step.")
    if not np.all(np.isfinite(levels)):
        raise GridError(f"Noise level {int(np.argmin(np.isfinite(levels)))} is not finite.")
    decreasing = levels[1:] < levels[:-1]
    if not np.all(decreasing):
        step = int(np.argmin(decreasing))
        raise GridError(
            f"Noise levels must strictly decrease, but step {step} has {levels[step]:g} and step {step + 1} has "
            f"{levels[step + 1]:g}. Give each level once, from noise to clean; a scheduler that visits a level twice "
            f"(Heun, PNDM) has several grids."
        )
    return levels


def _named(scheduler_name: str, levels: np.ndarray, unit: Unit, final_level: float) -> Grid:
    try:
        return Grid(levels, unit, final_level)
    except GridError as error:
        raise GridError(f"{scheduler_name}: {error}") from error
