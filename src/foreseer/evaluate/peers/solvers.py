"""Better solvers at equal evaluations: DPM-Solver++ 2M, UniPC and Heun on the pipeline's own noise levels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from foreseer.attach.handle import Handle
from foreseer.evaluate.contender import Contender
from foreseer.evaluate.peers.base import PeerError
from foreseer.evaluate.peers.noise_path import LEAST_DATA, is_flow
from foreseer.evaluate.peers.own_scheduler import OwnScheduler, replaced_scheduler
from foreseer.evaluate.peers.probe import Probe

Solver = Literal["dpm-solver", "unipc", "heun"]
TITLES: dict[Solver, str] = {"dpm-solver": "DPM-Solver++ 2M", "unipc": "UniPC", "heun": "Heun"}


@dataclass(frozen=True)
class SolverSwap(Contender):
    """Another solver in place of the pipeline's scheduler, every step computed."""

    solver: Solver = field(kw_only=True)

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Handle | None]:
        """Swap the scheduler, and put the same object back."""
        with replaced_scheduler(pipe, build(self.solver, pipe.scheduler)):
            yield None


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


def build(name: Solver, own: Any) -> Any:
    """A scheduler of that solver on the pipeline's levels; ``own`` is the pipeline's scheduler.

    Raises:
        PeerError: ``own`` runs from data to noise, or its configuration does not fit the solver.
    """
    solver = solver_for(name, own)
    return OwnLevels(own, solver, visits=2 if name == "heun" else 1) if is_flow(own) else solver


def solver_for(name: Solver, own: Any) -> Any:
    """Scheduler of diffusers for that solver, for what the network of a pipeline with scheduler ``own`` predicts.

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
        return kind(num_train_timesteps=train_steps)
    return kind(num_train_timesteps=train_steps, use_flow_sigmas=True, prediction_type="flow_prediction")


def _kind(name: Solver, flow: bool) -> Any:
    import diffusers

    if name == "heun":
        return diffusers.FlowMatchHeunDiscreteScheduler if flow else diffusers.HeunDiscreteScheduler
    return diffusers.DPMSolverMultistepScheduler if name == "dpm-solver" else diffusers.UniPCMultistepScheduler


class OwnLevels(OwnScheduler):
    """A solver's steps on the noise levels of a pipeline's own flow-matching scheduler.

    diffusers' solvers make levels of their own for flow matching (another spacing and shift, timesteps rounded to whole
    numbers). Here the pipeline's scheduler makes the levels, and the solver gets them.

    Args:
        own: the pipeline's scheduler; a copy of it is used.
        solver: what steps.
        visits: evaluations at each level but the first.
    """

    def __init__(self, own: Any, solver: Any, visits: int = 1) -> None:
        super().__init__(own)
        self._solver = solver
        self._visits = visits
        self.order = solver.order
        self.step: Callable[..., Any] = solver.step

    def _after_set(self) -> None:
        levels, times = self._own.sigmas.clone(), self._own.timesteps
        levels[0] = levels[0].clamp(max=1 - LEAST_DATA)
        if self._visits == 2:
            levels = torch.cat([levels[:1], levels[1:-1].repeat_interleave(2), levels[-1:]])
            times = torch.cat([times[:1], times[1:].repeat_interleave(2)])
        set_levels(self._solver, levels.cpu(), times, steps=len(self._own.timesteps))

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


def set_levels(solver: Any, levels: Any, times: Any, *, steps: int | None = None) -> None:
    """Begin a run of a diffusers solver on other noise levels than its own.

    Args:
        solver: a scheduler with ``sigmas`` and ``timesteps``.
        levels: its sigmas, with where the last step ends.
        times: its timesteps.
        steps: that it is asked for; by default one per time.
    """
    times = torch.as_tensor(times)
    solver.set_timesteps(steps or len(times), device=times.device)  # also forgets the last run
    solver.sigmas, solver.timesteps = torch.as_tensor(levels), times
    solver.num_inference_steps = len(times)
