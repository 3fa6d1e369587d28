"""Peers that are tableaus: exact solvers, learned levels, learned weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from foreseer.evaluate.entries.base import Entry
from foreseer.evaluate.peers.base import PeerError
from foreseer.evaluate.peers.bns import BNS
from foreseer.evaluate.peers.calibration_runs import CalibrationRuns, linear_rows
from foreseer.evaluate.peers.deis import deis_candidates
from foreseer.evaluate.peers.dpm_solver_v3 import dpm_solver_v3_candidates
from foreseer.evaluate.peers.dyweight import DyWeight
from foreseer.evaluate.peers.gits import gits_candidates, unipc_tableau
from foreseer.evaluate.peers.ipndm import ipndm_candidates
from foreseer.evaluate.peers.probe import Probe
from foreseer.evaluate.peers.solver_training import SolverTraining
from foreseer.evaluate.peers.tableau import Tableau

Candidates = Callable[[CalibrationRuns, int], Sequence[Tableau]]
# By name: the title, and from the runs and a number of steps to the settings to choose from, the published one first.
CANDIDATES: dict[str, tuple[str, Candidates]] = {
    "deis": ("DEIS", lambda runs, steps: deis_candidates(runs.path(steps))),
    "ipndm": ("iPNDM", lambda runs, steps: ipndm_candidates(runs.path(steps))),
    "dpm-solver-v3": ("DPM-Solver-v3", dpm_solver_v3_candidates),
    "euler-gits": ("Euler, GITS levels", lambda runs, steps: gits_candidates(runs, steps, unipc=False)),
    "unipc-gits": ("UniPC, GITS levels", lambda runs, steps: gits_candidates(runs, steps, unipc=True)),
}


def make_chosen(probe: Probe, nfe: int | None, *, name: str) -> Entry:
    """Choose a solver's setting by the held-out calibration prompts; without prompts the published one.

    Raises:
        PeerError: no budget, or a solver that learns and no calibration prompts.
    """
    title, candidates = CANDIDATES[name]
    steps = _checked(nfe, title)
    return probe.runs.choose(candidates(probe.runs, steps), name, title, steps)


def make_bns(probe: Probe, nfe: int | None) -> Entry:
    """BNS, trained from the best of the other solvers with scalar weights.

    Raises:
        PeerError: no budget, no calibration prompts, or a run without gradients.
    """
    runs, steps = probe.runs, _checked(nfe, BNS.title)
    path = runs.path(steps)
    begins = [own_tableau(runs, steps), unipc_tableau(runs.pipe.scheduler, path)]
    begins += [*deis_candidates(path), *ipndm_candidates(path)]
    for unipc in (False, True):
        begins += gits_candidates(runs, steps, unipc=unipc)
    first = runs.choose(begins, BNS.name, BNS.title, steps).tableau
    return SolverTraining(BNS(first, float(path.times[-1])), runs).run()


def make_dyweight(probe: Probe, nfe: int | None) -> Entry:
    """DyWeight, trained from iPNDM of order 2 on the pipeline's levels.

    Raises:
        PeerError: no budget, no calibration prompts, a run without gradients, or no flow matching.
    """
    runs, steps = probe.runs, _checked(nfe, DyWeight.title)
    return SolverTraining(DyWeight(runs.path(steps)), runs).run()


def own_tableau(runs: CalibrationRuns, steps: int) -> Tableau:
    """The pipeline's own solver (DDIM where it is not one of flow matching) with fewer steps.

    Raises:
        PeerError: it is stochastic or not linear.
    """
    scheduler = runs.scheduler(steps)
    rows = linear_rows(scheduler)[1:]
    times = np.asarray(scheduler.timesteps.cpu(), dtype=np.float64)
    return Tableau(times, rows[:, 0], np.tril(rows[:, 1:]), settings={"solver": type(scheduler).__name__})


def _checked(nfe: int | None, title: str) -> int:
    if nfe is None:
        raise PeerError(f"{title} has no published setting for this run: give a budget (--nfe).")
    return nfe
