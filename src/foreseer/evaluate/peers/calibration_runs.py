"""What learned solvers learn from: reference runs of the calibration prompts, a part of them held out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreseer.calibration.identity import fingerprint, identity_of
from foreseer.calibration.record import record_run
from foreseer.calibration.sampler import SamplerError, sampler_matrix
from foreseer.checks import check_texts
from foreseer.evaluate.entries.base import Entry
from foreseer.evaluate.peers.base import PeerError
from foreseer.evaluate.peers.noise_path import NoisePath
from foreseer.evaluate.peers.own_scheduler import replaced_scheduler
from foreseer.evaluate.peers.tableau import Tableau
from foreseer.evaluate.peers.tableau_scheduler import TableauSampler, base_scheduler
from foreseer.pipelines import call_arguments, drawn

HELD_OUT = 0.25  # share of the prompts that only choose
LEAST_ERROR = 1e-15  # relative to the power: 150 dB, below what float32 resolves


@dataclass(frozen=True)
class CalibrationPrompts:
    """Prompts for learned solvers: those that a rollout gets, with the same seeds.

    Attributes:
        prompts: at least two; the last quarter is held out and chooses among candidates.
        seed: of the first prompt's initial noise; the next has the next. Not one that is measured.
        batch: prompts per call of the pipeline.
        passes: of the network after which a training ends, per sample; a backward pass counts as two. The round of
            iterations that reaches this number is finished.
        folder: where trained solvers and unfinished trainings are kept; ``None`` for nowhere.

    Raises:
        PeerError: fewer than two prompts, or a batch below 1.
    """

    prompts: Sequence[str]
    seed: int = 10_000
    batch: int = 8
    passes: int = 500_000
    folder: Path | None = None

    def __post_init__(self) -> None:
        check_texts("prompts", self.prompts, PeerError)
        if len(self.prompts) < 2 or self.batch < 1:
            raise PeerError(
                f"Learned solvers need two prompts or more and a batch of at least 1; received {len(self.prompts)} "
                f"prompts and {self.batch}."
            )

    @property
    def digest(self) -> str:
        """Short digest of the prompts, their seed and the limit of passes: what results depend on."""
        return fingerprint(repr((list(self.prompts), self.seed, self.passes)))

    @property
    def held_out(self) -> list[int]:
        """Indices of the prompts that choose."""
        count = max(1, round(HELD_OUT * len(self.prompts)))
        return list(range(len(self.prompts) - count, len(self.prompts)))

    @property
    def fitted(self) -> list[int]:
        """Indices of the prompts that coefficients are fitted on."""
        return list(range(self.held_out[0]))


@dataclass
class CalibrationRuns:
    """Runs of one pipeline on the calibration prompts; everything computed once is kept.

    Attributes:
        pipe: a diffusers pipeline, nothing attached.
        steps: T, of the reference.
        calibration: the prompts; ``None`` where no peer may learn.
        options: keyword arguments of the pipeline's call.
        prompt: of the short runs that only read noise levels.
    """

    pipe: Any
    steps: int
    calibration: CalibrationPrompts | None
    options: dict[str, Any]
    prompt: str
    _made: dict[str, Any] = field(default_factory=dict, repr=False)

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, computed for the first call with this key and kept."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    @property
    def prompts(self) -> CalibrationPrompts:
        """The calibration prompts.

        Raises:
            PeerError: none were given.
        """
        if self.calibration is None:
            raise PeerError(
                "A learned solver needs prompts to learn from, the same as a rollout: give --calibration-prompts FILE, "
                "or Probe.of(pipe, steps, calibration_prompts=CalibrationPrompts(prompts))."
            )
        return self.calibration

    @cached_property
    def targets(self) -> Tensor:
        """Final samples of the reference runs, shape (P, *sample), on the CPU."""
        made = [self.run(indices, self.steps) for indices in self.batches(range(len(self.prompts.prompts)))]
        return torch.cat([sample.cpu() for sample in made])

    @cached_property
    def trajectories(self) -> list[tuple[Tensor, Tensor]]:
        """Samples, shape (T + 1, D), and outputs, shape (T, D), of the base run on each fitted prompt."""
        made = []
        for indices in self.batches(self.prompts.fitted):
            with replaced_scheduler(self.pipe, base_scheduler(self.pipe.scheduler)):
                with record_run(self.pipe) as trajectory, torch.no_grad():
                    self.pipe(**self.arguments(indices, self.steps))
                assert trajectory.start is not None
                outputs = torch.stack(trajectory.outputs).float().cpu().unflatten(1, (len(indices), -1))
                sample = trajectory.start.float().cpu().unflatten(0, (len(indices), -1))
            matrix = torch.as_tensor(linear_rows(trajectory.scheduler)).float()
            samples = torch.tensordot(matrix, torch.cat([sample[None], outputs]), 1)
            made += [(samples[:, index], outputs[:, index]) for index in range(len(indices))]
        return made

    def path(self, steps: int) -> NoisePath:
        """Noise levels of a run of ``steps`` steps on this pipeline."""
        with replaced_scheduler(self.pipe, base_scheduler(self.pipe.scheduler)):
            return NoisePath.from_scheduler(*self._begun(steps))

    def scheduler(self, steps: int) -> Any:
        """The base scheduler, its timesteps set as the pipeline does for ``steps`` steps."""
        with replaced_scheduler(self.pipe, base_scheduler(self.pipe.scheduler)):
            return self._begun(steps)[0]

    def _begun(self, steps: int) -> tuple[Any, int]:
        with record_run(self.pipe, stop_after=1) as trajectory:
            self.pipe(**self._arguments([self.prompt], [0], steps))
        return trajectory.scheduler, trajectory.first_step

    def run(self, indices: Sequence[int], steps: int, entry: Entry | None = None) -> Tensor:
        """Final samples of some calibration prompts."""
        with entry.attached(self.pipe) if entry is not None else nullcontext(), torch.no_grad():
            return latents_of(self.pipe(**self.arguments(indices, steps)))

    def fidelity(self, entry: Entry) -> float:
        """Mean decibels on the held-out prompts: -10 log10 of the squared error over the reference's."""
        total = 0.0
        for indices in self.batches(self.prompts.held_out):
            samples = self.run(indices, entry.steps, entry)
            total += float(decibels(samples, self.targets[indices].to(samples)).sum())
        return total / len(self.prompts.held_out)

    def choose(self, candidates: Sequence[Tableau], name: str, title: str, nfe: int) -> TableauSampler:
        """Candidate with the best fidelity on the held-out prompts; without prompts the first."""
        samplers = [
            TableauSampler(name, title, nfe, nfe, dict(tableau.settings), tableau=tableau) for tableau in candidates
        ]
        if self.calibration is None or len(samplers) == 1:
            return samplers[0]
        return max(samplers, key=self.fidelity)

    def batches(self, indices: Sequence[int]) -> Iterator[list[int]]:
        """``indices`` in batches."""
        for start in range(0, len(indices), self.prompts.batch):
            yield list(indices[start : start + self.prompts.batch])

    def arguments(self, indices: Sequence[int], steps: int) -> dict[str, Any]:
        """Keyword arguments of a call that draws some calibration prompts to their final samples."""
        prompts = [self.prompts.prompts[index] for index in indices]
        return self._arguments(prompts, [self.prompts.seed + index for index in indices], steps)

    def _arguments(self, prompts: list[str], seeds: list[int], steps: int) -> dict[str, Any]:
        given = {**self.options, "num_inference_steps": steps}
        if "output_type" in inspect.signature(self.pipe.__call__).parameters:
            given["output_type"] = "latent"
        arguments = [call_arguments(self.pipe, prompt, given) for prompt in prompts]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        if len(prompts) == 1:
            return {**arguments[0], "generator": generators[0]}
        joined = {name: _joined([call[name] for call in arguments], name) for name in arguments[0]}
        return {**joined, "generator": generators}

    def identity(self, **more: Any) -> str:
        """Digest of what a training depends on: pipeline, prompts, options, and ``more``."""
        prompts = self.prompts
        words = identity_of(self.pipe, prompts.prompts, self.steps, prompts.seed, self.options)
        return fingerprint(repr(sorted({**words, **more}.items())))


@contextmanager
def frozen_weights(pipe: Any) -> Iterator[None]:
    """Let gradients pass through all networks of a pipeline without computing any of their weights'."""
    weights = [
        weight
        for module in getattr(pipe, "components", vars(pipe)).values()
        if isinstance(module, torch.nn.Module)
        for weight in module.parameters()
        if weight.requires_grad
    ]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def linear_rows(scheduler: Any) -> np.ndarray:
    """Sampler matrix of a scheduler whose timesteps are set, shape (T + 1, T + 1).

    Raises:
        PeerError: it is stochastic or not linear.
    """
    try:
        return sampler_matrix(scheduler)
    except SamplerError as error:
        raise PeerError(f"Solvers here need a scheduler that is linear and deterministic. {error}") from error


def decibels(samples: Tensor, targets: Tensor) -> Tensor:
    """-10 log10 of each sample's squared error over its target's squares; shape (P,)."""
    error = (samples.float() - targets.float()).flatten(1).square().mean(1)
    power = targets.float().flatten(1).square().mean(1)
    return -10 * torch.log10((error / power).clamp_min(LEAST_ERROR))


def latents_of(output: Any) -> Tensor:
    """What a pipeline of images or of videos gave with ``output_type="latent"``."""
    return drawn(output).batch


def _joined(values: list[Any], name: str) -> Any:
    """One argument for a batch: texts and class labels in a list, everything else as it is."""
    if name == "class_labels":
        return [label for labels in values for label in labels]
    return list(values) if isinstance(values[0], str) and name.endswith(("prompt", "prompt_2")) else values[0]
