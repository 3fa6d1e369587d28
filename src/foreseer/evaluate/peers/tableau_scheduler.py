"""Scheduler that executes a tableau on any diffusers pipeline, with gradients if needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreseer.attach.handle import Handle
from foreseer.evaluate.entries.base import Entry
from foreseer.evaluate.peers.base import PeerError, free_denoisers
from foreseer.evaluate.peers.noise_path import is_flow
from foreseer.evaluate.peers.own_scheduler import OwnScheduler, replaced_scheduler
from foreseer.evaluate.peers.tableau import Tableau


@dataclass(frozen=True)
class Coefficients:
    """A tableau as tensors; gradients may flow into them.

    Attributes:
        times: shape (N,).
        start: shape (N, *E).
        weights: shape (N, N, *E), lower triangular.
        constant: shape (N, *E), or ``None`` for zero.
    """

    times: Tensor
    start: Tensor
    weights: Tensor
    constant: Tensor | None = None

    @classmethod
    def of(cls, tableau: Tableau) -> Coefficients:
        """The tensors of a tableau, float64."""
        constant = None if tableau.constant is None else torch.tensor(tableau.constant)
        return cls(torch.tensor(tableau.times), torch.tensor(tableau.start), torch.tensor(tableau.weights), constant)

    def tableau(self, settings: dict[str, Any]) -> Tableau:
        """The present values, frozen."""
        constant = None if self.constant is None else _array(self.constant)
        return Tableau(_array(self.times), _array(self.start), _array(self.weights), constant, settings)


class TableauScheduler(OwnScheduler):
    """Steps of a tableau, for a pipeline whose own scheduler is ``own``.

    Sums are computed in float32 or the coefficients' wider type; samples keep the pipeline's type. All outputs of a
    run are held until its end.

    Args:
        own: a flow-matching scheduler or DDIM (:func:`base_scheduler`); a copy of it is used.
        coefficients: of N steps.
    """

    def __init__(self, own: Any, coefficients: Coefficients) -> None:
        super().__init__(own)
        self.coefficients = coefficients
        self._start: Tensor | None = None
        self._newest: Tensor | None = None
        self._outputs: list[Tensor] = []

    def _after_set(self) -> None:
        steps, expected = len(self._own.timesteps), len(self.coefficients.times)
        if steps != expected:
            raise PeerError(f"This solver has {expected} steps, and the run {steps}: ask for {expected}.")
        self._start = self._newest = None
        self._outputs = []

    @property
    def timesteps(self) -> Tensor:
        """Times that the pipeline's loop visits and gives to the network."""
        return self.coefficients.times.to(device=self._own.timesteps.device, dtype=torch.float32)

    @property
    def step_index(self) -> int | None:
        """The step that comes next."""
        return len(self._outputs) if self._start is not None else None

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Accept 0 only.

        Raises:
            PeerError: the run begins later: its samples are not functions of the first step's sample alone.
        """
        if begin_index:
            raise PeerError(f"A solver of a few steps begins at step 0, and this run at step {begin_index}.")

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample itself: flow matching and DDIM scale nothing."""
        return sample

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """Sample i + 1 of the tableau, from all outputs so far.

        Raises:
            PeerError: more steps than the tableau has, or a pipeline that changes samples between steps.
        """
        index = len(self._outputs)
        if index == len(self.coefficients.times):
            raise PeerError(f"This solver has {index} steps; the run goes on after them.")
        if self._start is None:
            self._start = sample
            self._check_element(sample)
        elif sample is not self._newest and not torch.equal(sample, self._newest):  # pyright: ignore[reportArgumentType]
            raise PeerError("The pipeline changes samples between steps: a solver with fixed weights cannot serve it.")
        self._outputs.append(model_output)
        start, weights, constant = self._row(index, sample)
        total = start * self._start
        for weight, output in zip(weights, self._outputs, strict=False):
            total = total + weight * output
        if constant is not None:
            total = total + constant
        self._newest = total.to(sample.dtype)
        return SimpleNamespace(prev_sample=self._newest) if return_dict else (self._newest,)

    def _row(self, index: int, sample: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Coefficients of sample ``index + 1`` in float32, with axes that fit ``sample``."""
        table = self.coefficients
        # Scalars get axes: a 0-dimensional tensor would not widen bfloat16 to float32.
        element = (1,) * (sample.ndim - table.start.ndim + 1) + tuple(table.start.shape[1:])

        def row(values: Tensor) -> Tensor:
            return values.to(sample.device, torch.float32).reshape(
                *values.shape[: values.ndim - table.start.ndim + 1], *element
            )

        constant = None if table.constant is None else row(table.constant[index])
        return row(table.start[index]), row(table.weights[index, : index + 1]), constant

    def _check_element(self, sample: Tensor) -> None:
        expected = tuple(self.coefficients.start.shape[1:])
        if expected and tuple(sample.shape[1:]) != expected:
            raise PeerError(
                f"This solver's weights are for samples of shape {expected}, the run's have {tuple(sample.shape[1:])}: "
                "give the size that they were made at."
            )


@dataclass(frozen=True)
class TableauSampler(Entry):
    """A solver given by its tableau, in place of the pipeline's scheduler."""

    tableau: Tableau = field(kw_only=True)

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Handle | None]:
        """Swap the scheduler, and put the same object back."""
        free_denoisers(pipe)
        scheduler = TableauScheduler(base_scheduler(pipe.scheduler), Coefficients.of(self.tableau))
        with replaced_scheduler(pipe, scheduler):
            yield None


def base_scheduler(own: Any) -> Any:
    """The pipeline's flow-matching scheduler, else DDIM with its noise schedule, without clipping.

    Raises:
        PeerError: levels that rise, or a configuration that DDIM does not take.
    """
    if is_flow(own):
        if own.config.get("invert_sigmas", False):
            raise PeerError(f"Solvers here do not run on {type(own).__name__} with invert_sigmas: its levels rise.")
        return own
    import diffusers

    try:
        return diffusers.DDIMScheduler.from_config(own.config, clip_sample=False, thresholding=False)
    except (ValueError, NotImplementedError, TypeError) as error:
        raise PeerError(f"DDIM does not take {type(own).__name__}'s configuration: {error}") from error


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()
