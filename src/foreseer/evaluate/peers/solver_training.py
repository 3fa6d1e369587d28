"""Train a solver's coefficients by gradients through the network; resumable."""

from __future__ import annotations

import inspect
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import LBFGS

from foreseer.evaluate.peers.base import PeerError
from foreseer.evaluate.peers.calibration_runs import CalibrationRuns, decibels, frozen_weights, latents_of
from foreseer.evaluate.peers.own_scheduler import replaced_scheduler
from foreseer.evaluate.peers.tableau_scheduler import Coefficients, TableauSampler, TableauScheduler, base_scheduler
from foreseer.files import Artifact

Loss = Literal["psnr", "mse"]
PASSES_OF_A_GRADIENT = 3  # forward, and backward at twice its cost
ITERATIONS = 10  # of L-BFGS between judgements on the held-out prompts
HISTORY = 30  # pairs of steps and gradients' changes
PATIENCE = 3  # judgements without a gain before training ends
LEAST_GAIN = 0.01  # dB
_LISTS = ("ro", "old_dirs", "old_stps")  # of torch's L-BFGS: up to HISTORY numbers or vectors each
_STATE = Artifact(
    "solver-training",
    version=1,
    arrays={
        **dict.fromkeys(("parameters", "best", "d", "prev_flat_grad"), (np.float64, "P")),
        "ro": (np.float64, "H"),
        **dict.fromkeys(("old_dirs", "old_stps"), (np.float64, "H P")),
    },
    optional=_LISTS,
    metadata=("identity", "progress", "optimizer"),
    error=PeerError,
    most_bytes=2**30,
)


class LearnableSolver(ABC):
    """A solver's coefficients as a function of a vector of parameters.

    Attributes:
        name: of the peer.
        title: what tables print.
        loss: ``psnr``: the mean over samples of the squared error in dB; ``mse``: the mean squared error, in dB.
        initial: the parameters to begin with, shape (P,), float64.
        begins: what solver these are, as reports show it.
    """

    name: str
    title: str
    loss: Loss
    initial: Tensor
    begins: dict[str, Any]

    @abstractmethod
    def coefficients(self, parameters: Tensor) -> Coefficients:
        """The tableau of some parameters, differentiable."""


@dataclass
class _Progress:
    """Where a training stands; what a checkpoint holds besides vectors."""

    rounds: int = 0
    passes: int = 0
    stale: int = 0
    best: float = -math.inf
    first: float = -math.inf


class SolverTraining:
    """L-BFGS on a solver's parameters, all fitted prompts in each evaluation of the loss.

    After each round of a few iterations the held-out prompts judge. Training ends when several rounds brought nothing,
    or when the passes are spent; the best parameters on the held-out prompts are the result. With a folder it is kept
    after each round, and goes on from there.

    The papers train with Adam on fresh noise, for thousands of steps. With a few prompts and a few hundred parameters
    L-BFGS (Nocedal and Wright, Algorithm 7.5, as torch implements it) gets further in fewer passes.

    Args:
        solver: what is trained.
        runs: of the pipeline.
    """

    def __init__(self, solver: LearnableSolver, runs: CalibrationRuns) -> None:
        self.solver, self.runs = solver, runs
        self.parameters = nn.Parameter(solver.initial.double().clone())
        self.best = self.parameters.detach().clone()
        self.optimizer = LBFGS(
            [self.parameters],
            max_iter=ITERATIONS,
            history_size=HISTORY,
            line_search_fn="strong_wolfe",
            tolerance_grad=0.0,
            tolerance_change=0.0,
        )
        self.progress = _Progress()
        self.steps = len(solver.coefficients(solver.initial).times)
        self.identity = runs.identity(solver=solver.name, nfe=self.steps, initial=repr(solver.initial.tolist()))

    def run(self) -> TableauSampler:
        """Train to the end; what an earlier training of the same kind left in the folder is taken up."""
        self._resume()
        progress = self.progress
        if progress.rounds == 0:
            progress.first = progress.best = self._judge()
        while progress.stale < PATIENCE and progress.passes < self.runs.prompts.passes:
            self.optimizer.step(self._loss)
            progress.rounds += 1
            fidelity = self._judge()
            progress.stale = 0 if fidelity > progress.best + LEAST_GAIN else progress.stale + 1
            if fidelity > progress.best:
                progress.best, self.best = fidelity, self.parameters.detach().clone()
            self._keep()
        return self._sampler(self.best, self._settings())

    def _loss(self) -> float:
        """Loss over all fitted prompts, and its gradient in the parameters."""
        prompts = self.runs.prompts
        value, gradient = loss_gradient(self.solver, self.runs, self.parameters, prompts.fitted)
        self.parameters.grad = gradient
        self.progress.passes += PASSES_OF_A_GRADIENT * self.steps * len(prompts.fitted)
        return value

    def _judge(self) -> float:
        self.progress.passes += self.steps * len(self.runs.prompts.held_out)
        parameters = self.parameters.detach()
        if not torch.isfinite(parameters).all():
            return -math.inf
        fidelity = self.runs.fidelity(self._sampler(parameters, {}))
        return fidelity if math.isfinite(fidelity) else -math.inf

    def _sampler(self, parameters: Tensor, settings: dict[str, Any]) -> TableauSampler:
        tableau = self.solver.coefficients(parameters).tableau(settings)
        name, title = self.solver.name, self.solver.title
        return TableauSampler(name, title, self.steps, self.steps, settings, tableau=tableau)

    def _settings(self) -> dict[str, Any]:
        progress, prompts = self.progress, self.runs.prompts
        return {
            "solver": self.solver.title,
            "parameters": self.solver.initial.numel(),
            "begins as": str(self.solver.begins),
            "prompts": len(prompts.prompts),
            "held-out dB before": round(progress.first, 2),
            "held-out dB": round(progress.best, 2),
            "rounds": progress.rounds,
            "passes": progress.passes,
            "ended by": "no further gain" if progress.stale >= PATIENCE else "its limit of passes",
        }

    def _path(self) -> Path | None:
        folder = self.runs.prompts.folder
        return folder / f"{self.solver.name}-{self.steps}.training.safetensors" if folder is not None else None

    def _keep(self) -> None:
        path = self._path()
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        state = self.optimizer.state[self.parameters]
        if "d" not in state:  # the very first gradient was zero
            return
        arrays = {"parameters": self.parameters.detach(), "best": self.best}
        arrays |= {name: state[name] for name in ("d", "prev_flat_grad")}
        arrays |= {name: torch.stack([torch.as_tensor(part) for part in state[name]]) for name in _LISTS if state[name]}
        numbers = {name: float(state[name]) for name in ("t", "H_diag", "prev_loss", "n_iter", "func_evals")}
        words = {"progress": json.dumps(vars(self.progress)), "optimizer": json.dumps(numbers)}
        _STATE.save(
            path,
            {name: array.double().numpy() for name, array in arrays.items()},
            {"identity": self.identity, **words},
        )

    def _resume(self) -> None:
        path = self._path()
        if path is None or not path.is_file():
            return
        arrays, metadata = _STATE.load(path)
        if metadata["identity"] != self.identity or arrays["parameters"].shape != tuple(self.parameters.shape):
            return
        try:
            self.progress = _Progress(**json.loads(metadata["progress"]))
            numbers = {name: float(number) for name, number in json.loads(metadata["optimizer"]).items()}
            whole: dict[str, Any] = {name: int(numbers.pop(name)) for name in ("n_iter", "func_evals")}
            whole["H_diag"] = torch.tensor(numbers.pop("H_diag"), dtype=torch.float64)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PeerError(f"{path} is damaged or no training: remove it.") from error
        tensors = {name: torch.tensor(array) for name, array in arrays.items()}
        self.parameters.data, self.best = tensors["parameters"], tensors["best"]
        lists = {name: list(tensors[name].unbind()) if name in tensors else [] for name in _LISTS}
        vectors = {name: tensors[name] for name in ("d", "prev_flat_grad")}
        self.optimizer.state[self.parameters] = {**numbers, **whole, **lists, **vectors, "al": [None] * HISTORY}


def loss_gradient(
    solver: LearnableSolver, runs: CalibrationRuns, parameters: Tensor, indices: Sequence[int]
) -> tuple[float, Tensor]:
    """Loss on some calibration prompts and its gradient, through the pipeline's whole run.

    Both losses are in decibels. A batch's run holds what its backward pass needs of every network call: memory grows
    with the number of steps.

    Raises:
        PeerError: the pipeline's run cannot be differentiated.
    """
    targets = runs.targets  # before the scheduler is replaced: they may have to be made
    batches = list(runs.batches(indices))
    fidelities, gradients = [], []
    for batch in batches:
        leaf = parameters.detach().clone().requires_grad_()
        fidelity = decibels(_differentiable(runs, solver.coefficients(leaf), batch), targets[batch])
        # Loss and gradient of the mean squared error (later over the mean of all batches) or of decibels.
        part = (10 ** (-fidelity / 10)).sum() if solver.loss == "mse" else -fidelity.sum()
        gradients.append(torch.autograd.grad(part, leaf)[0])
        fidelities.append(fidelity.detach())
    fidelity, gradient = torch.cat(fidelities).double(), torch.stack(gradients).sum(0) / len(indices)
    if solver.loss == "psnr":
        return float(-fidelity.mean()), gradient
    error = (10 ** (-fidelity / 10)).mean()
    return float(10 * torch.log10(error)), 10 / math.log(10) * gradient / error


def _differentiable(runs: CalibrationRuns, coefficients: Coefficients, indices: Sequence[int]) -> Tensor:
    """Final samples of some calibration prompts, with their graph, on the CPU."""
    pipe: Any = runs.pipe
    scheduler = TableauScheduler(base_scheduler(pipe.scheduler), coefficients)
    call = inspect.unwrap(type(pipe).__call__)  # without the no_grad around it
    arguments = runs.arguments(indices, len(coefficients.times))
    with frozen_weights(pipe), replaced_scheduler(pipe, scheduler), torch.enable_grad():
        samples = latents_of(call(pipe, **arguments)).cpu()
    if not samples.requires_grad:
        raise PeerError(f"The run of {type(pipe).__name__} cannot be differentiated: its samples have no graph.")
    return samples
