"""Better solvers at equal evaluations: DPM-Solver++ 2M, UniPC and Heun on the pipeline's own noise levels."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from foreseer.attach.handle import Handle
from foreseer.evaluate.contender import Contender
from foreseer.evaluate.peers.base import PeerError
from foreseer.evaluate.peers.probe import Probe

Solver = Literal["dpm-solver", "unipc", "heun"]
TITLES: dict[Solver, str] = {"dpm-solver": "DPM-Solver++ 2M", "unipc": "UniPC", "heun": "Heun"}
# At noise level 1 the logarithm of the signal-to-noise ratio is infinite; diffusers' UniPC begins this much below it.
_BELOW_ONE = 1e-6


@dataclass(frozen=True)
class SolverSwap(Contender):
    """Another solver in place of the pipeline's scheduler, every step computed."""

    solver: Solver = field(kw_only=True)

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Handle | None]:
        """Swap the scheduler, and put the same object back."""
        own = pipe.__dict__["scheduler"]
        # Not by attribute assignment: a pipeline then rewrites its configuration to name the new class.
        pipe.__dict__["scheduler"] = build(self.solver, own)
        try:
            yield None
        finally:
            pipe.__dict__["scheduler"] = own


def make_solver(name: Solver, probe: Probe, nfe: int) -> SolverSwap:
    """The solver with as many steps as land on ``nfe`` evaluations.

    Raises:
        PeerError: the pipeline's scheduler has no counterpart.
    """
    build(name, probe.pipe.scheduler)
    steps = (nfe + 1) // 2 if name == "heun" else nfe
    settings: dict[str, Any] = {"scheduler": _kind(name, is_flow(probe.pipe.scheduler)).__name__, "steps": steps}
    if name == "heun":
        settings["evaluations"] = 2 * steps - 1
    return SolverSwap(name, TITLES[name], steps, nfe, settings, solver=name)


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler is one of flow matching: its samples are (1 - sigma) data + sigma noise."""
    return type(scheduler).__name__.startswith("FlowMatch") or bool(scheduler.config.get("use_flow_sigmas", False))


def build(name: Solver, own: Any) -> Any:
    """A scheduler of that solver, for a pipeline whose scheduler is ``own``.

    Raises:
        PeerError: ``own`` runs from data to noise, or its configuration does not fit the solver.
    """
    flow = is_flow(own)
    if flow and own.config.get("invert_sigmas", False):
        raise PeerError(f"{TITLES[name]} does not run on {type(own).__name__} with invert_sigmas: its levels rise.")
    kind = _kind(name, flow)
    if not flow:
        try:
            return kind.from_config(own.config)
        except (ValueError, NotImplementedError, TypeError) as error:
            raise PeerError(f"{TITLES[name]} does not take {type(own).__name__}'s configuration: {error}") from error
    train_steps = own.config.num_train_timesteps
    if name == "heun":
        return OwnLevels(own, kind(num_train_timesteps=train_steps), visits=2)
    made = kind(num_train_timesteps=train_steps, use_flow_sigmas=True, prediction_type="flow_prediction")
    return OwnLevels(own, made)


def _kind(name: Solver, flow: bool) -> Any:
    import diffusers

    if name == "heun":
        return diffusers.FlowMatchHeunDiscreteScheduler if flow else diffusers.HeunDiscreteScheduler
    return diffusers.DPMSolverMultistepScheduler if name == "dpm-solver" else diffusers.UniPCMultistepScheduler


class OwnLevels:
    """A solver's steps on the noise levels of a pipeline's own flow-matching scheduler.

    diffusers' solvers make levels of their own for flow matching (another spacing and shift, timesteps rounded to whole
    numbers), and pipelines choose what to hand a scheduler by its configuration. So to the pipeline this is its own
    scheduler, whose levels are then given to the solver.

    Args:
        own: the pipeline's scheduler; a copy of it is used.
        solver: what steps.
        visits: evaluations at each level but the first.
    """

    def __init__(self, own: Any, solver: Any, visits: int = 1) -> None:
        self._own = copy.deepcopy(own)
        self._solver = solver
        self._visits = visits
        self.order = solver.order
        self.set_timesteps = self._levels_of(self._own.set_timesteps)
        self.step: Callable[..., Any] = solver.step

    def _levels_of(self, set_timesteps: Callable[..., None]) -> Callable[..., None]:
        """Pipelines read the signature to know which of steps, sigmas, timesteps and shift they may pass: keep it."""

        @functools.wraps(set_timesteps)
        def wrapped(*args: Any, **kwargs: Any) -> None:
            set_timesteps(*args, **kwargs)
            levels, times = self._own.sigmas.clone(), self._own.timesteps
            self._solver.set_timesteps(len(times), device=times.device)  # also forgets the last run
            levels[0] = levels[0].clamp(max=1 - _BELOW_ONE)
            if self._visits == 2:
                levels = torch.cat([levels[:1], levels[1:-1].repeat_interleave(2), levels[-1:]])
                times = torch.cat([times[:1], times[1:].repeat_interleave(2)])
            self._solver.sigmas, self._solver.timesteps = levels.cpu(), times
            self._solver.num_inference_steps = len(times)

        return wrapped

    @property
    def timesteps(self) -> torch.Tensor:
        """What the pipeline's loop visits."""
        return self._solver.timesteps

    @property
    def sigmas(self) -> torch.Tensor:
        """The noise levels, with where the last step ends."""
        return self._solver.sigmas

    @property
    def step_index(self) -> int | None:
        """The step that comes next."""
        return self._solver.step_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Where the run begins."""
        self._own.set_begin_index(begin_index)
        self._solver.set_begin_index(begin_index)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_own":  # a copy asks before anything is set
            raise AttributeError(name)
        return getattr(self._own, name)
