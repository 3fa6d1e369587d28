"""Better solvers at equal NFE: DPM-Solver++ 2M, UniPC and Heun on the pipeline's own noise levels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from foreseer.attach.handle import Handle
from foreseer.evaluate.entries.base import Entry
from foreseer.evaluate.peers.base import PeerError
from foreseer.evaluate.peers.noise_path import LEAST_DATA, is_flow
from foreseer.evaluate.peers.own_scheduler import OwnScheduler, replaced_scheduler
from foreseer.evaluate.peers.probe import Probe

Solver = Literal["dpm-solver", "unipc", "heun"]
TITLES: dict[Solver, str] = {"dpm-solver": "DPM-Solver++ 2M", "unipc": "UniPC", "heun": "Heun"}


@dataclass(frozen=True)
class SolverSwap(Entry):
    """Entry that replaces the pipeline's scheduler by another solver and computes every step.

    Attributes:
        solver: the solver.
    """

    solver: Solver = field(kw_only=True)

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Handle | None]:
        """Replace the scheduler; put the same object back at the end."""
        with replaced_scheduler(pipe, build(self.solver, pipe.scheduler)):
            yield None


def make_solver(probe: Probe, nfe: int | None, *, solver: Solver) -> SolverSwap:
    """Make the entry of a solver with as many steps as take ``nfe`` calls of the network per branch.

    Raises:
        PeerError: the solver cannot replace the pipeline's scheduler.
    """
    scheduler = probe.pipe.scheduler
    build(solver, scheduler)
    budget = probe.steps if nfe is None else nfe
    steps = (budget + 1) // 2 if solver == "heun" else budget
    settings: dict[str, Any] = {"scheduler": _kind(solver, is_flow(scheduler)).__name__, "steps": steps}
    if solver == "heun":
        settings["nfe"] = 2 * steps - 1
    return SolverSwap(solver, TITLES[solver], steps, nfe, settings, solver=solver)


def build(name: Solver, own: Any) -> Any:
    """Build the solver's scheduler on the levels of ``own``, the pipeline's scheduler.

    Raises:
        PeerError: ``own`` runs from data to noise, or its configuration does not fit the solver.
    """
    solver = solver_for(name, own)
    return OwnLevels(own, solver, visits=2 if name == "heun" else 1) if is_flow(own) else solver


def solver_for(name: Solver, own: Any) -> Any:
    """Build diffusers' scheduler of the solver for the prediction type of ``own``.

    Raises:
        PeerError: ``own`` runs from data to noise, or its configuration does not fit the solver.
    """
    flow = is_flow(own)
    if flow and own.config.get("invert_sigmas", False):
        raise PeerError(
            f"{TITLES[name]} cannot replace {type(own).__name__} with invert_sigmas, whose noise levels rise; use a "
            "scheduler whose levels fall."
        )
    kind = _kind(name, flow)
    if not flow:
        try:
            return kind.from_config(own.config)
        except (ValueError, NotImplementedError, TypeError) as error:
            raise PeerError(f"{TITLES[name]} does not support {type(own).__name__}'s configuration: {error}") from error
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
    """Scheduler that steps by a solver on the noise levels of a pipeline's own flow-matching scheduler.

    diffusers' solvers choose other levels for flow matching (another spacing and shift, integer timesteps). Here the
    pipeline's scheduler chooses the levels, and the solver receives them.

    Args:
        own: the pipeline's scheduler; it is copied.
        solver: diffusers' scheduler of the solver.
        visits: calls of the network at each level except the first.
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
        """Timesteps that the pipeline's loop visits."""
        return self._solver.timesteps

    @property
    def sigmas(self) -> torch.Tensor:
        """Noise levels, including the one at which the last step ends."""
        return self._solver.sigmas

    @property
    def step_index(self) -> int | None:
        """Index of the next step."""
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
