"""`Sampler`: a sampling loop of your own in the form of a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from foreseer.attach.network.containers import UnknownContainerError, flatten
from foreseer.calibration.identity import fingerprint
from foreseer.calibration.sampler import LINEAR_TOLERANCE, SamplerError
from foreseer.checks import check_callable, check_kind
from foreseer.errors import CalibrationError
from foreseer.grid import Grid


class Sampler:
    r"""A model and a sampling loop that share nothing with diffusers, accepted wherever a pipeline is.

    Use it as ``pipe`` of :func:`foreseer.calibrate`, :func:`foreseer.rollout`, :func:`foreseer.refine`,
    :func:`foreseer.tune` and the like; their ``prompts`` are then a list of starts. A plan learned so serves
    :func:`foreseer.wrap` in the same loop. The sampler matrix is measured, by running the loop on known outputs in
    place of the model's.

    Args:
        sample: ``sample(start, denoise)`` returns the final sample. It calls ``denoise(x, t)`` once per level of the
            grid, in order, with the sample x as its first argument. A start is what it begins from: an initial noise,
            or a tuple of a noise and a condition.
        denoise: the model, called as ``sample`` calls it; takes and returns NumPy arrays or tensors. It may be a
            ``torch.nn.Module``.
        grid: the T noise levels of the loop.
        name: identifies the model in kernels and checkpoints; by default the names of the two functions.

    >>> grid = Grid.uniform(4)
    >>> def euler(x, denoise):
    ...     for t in grid:
    ...         x = x - denoise(x, t) / 4
    ...     return x
    >>> sampler = Sampler(euler, lambda x, t: x * (1 + t), grid)
    >>> sampler.matrix(np.ones(3))[-1].tolist()
    [1.0, -0.25, -0.25, -0.25, -0.25]
    """

    def __init__(
        self,
        sample: Callable[[Any, Callable[..., Any]], Any],
        denoise: Callable[..., Any],
        grid: Grid,
        *,
        name: str = "",
    ) -> None:
        check_kind("grid", grid, Grid, CalibrationError)
        check_callable("sample", sample, CalibrationError)
        check_callable("denoise", denoise, CalibrationError)
        self.grid = grid
        self.scheduler = _LoopScheduler(grid)
        self.transformer = _Model(denoise).eval()
        functions = (getattr(each, "__qualname__", type(each).__qualname__) for each in (sample, denoise))
        self.config = SimpleNamespace(_name_or_path=name or " ".join(functions))
        self.device = next((weight.device for weight in self.transformer.parameters()), torch.device("cpu"))
        self._sample = sample

    @property
    def steps(self) -> int:
        """Number of steps T."""
        return len(self.grid)

    @torch.no_grad()
    def __call__(
        self,
        prompt: Any,
        num_inference_steps: int | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "latent",
    ) -> Any:
        """Return the final sample of a start.

        Args:
            prompt: the start.
            num_inference_steps: must be the grid's, if given.
            generator: not used: the start holds the noise.
            output_type: not used.

        Raises:
            CalibrationError: another number of steps, or the loop does not call the model once per level.
        """
        if num_inference_steps not in (None, self.steps):
            raise CalibrationError(f"This sampler's grid has {self.steps} steps; {num_inference_steps} were asked for.")
        scheduler = self.scheduler
        if scheduler.matrix is None:
            try:
                scheduler.matrix = self.matrix(prompt)
            except SamplerError as error:
                scheduler.matrix = error
        scheduler.set_timesteps(self.steps)
        last: list[Tensor] = []  # sample and output of the last step, until the sample after it is known

        def denoise(x: Any, *args: Any, **kwargs: Any) -> Any:
            sample = _tensor(x)
            self.device = sample.device
            if last:
                scheduler.step(last[1], None, last[0], result=sample)
            if scheduler.step_index == self.steps:
                raise CalibrationError(_not_once(self.steps, "more"))
            self.transformer.call = x, args, kwargs
            output = self.transformer(sample, scheduler.timesteps[scheduler.step_index])
            last[:] = sample, _tensor(output)
            return output

        final = self._sample(prompt, denoise)
        if scheduler.step_index != self.steps - 1 or not last:
            raise CalibrationError(_not_once(self.steps, "fewer"))
        scheduler.step(last[1], None, last[0], result=_tensor(final))
        return final

    def matrix(self, start: Any) -> Float64[np.ndarray, "T1 T1"]:
        r"""Measure L with $x_i = L_{i0}\, x_0 + \sum_j L_{i,j+1} F_j$: see :func:`foreseer.sampler_matrix`.

        The loop runs T + 2 times with multiples of its first sample $x_0$ as outputs; the model is not called.

        Raises:
            SamplerError: the loop is stochastic, or not linear in the outputs.
            CalibrationError: it does not call the model once per level.
        """
        steps = self.steps
        base, *changed = (self._probe(start, unit) for unit in np.vstack([np.zeros(steps), np.eye(steps)]))
        first = base[0]
        square = float(first @ first)
        columns = [base, *(samples - base for samples in changed)]
        matrix = np.stack([(column @ first).cpu().numpy() / square for column in columns], axis=1)
        outputs = np.random.default_rng(0).standard_normal(steps)
        expected = torch.as_tensor(matrix @ np.append(1.0, outputs)).to(first)[:, None] * first
        off = float((self._probe(start, outputs) - expected).abs().max() / expected.abs().max())
        if not off <= LINEAR_TOLERANCE:
            raise SamplerError(
                f"The sampling loop is stochastic, or not linear in the model's outputs (off by {off:.1e}): does it "
                "add noise or clip samples?"
            )
        return matrix

    def _probe(self, start: Any, outputs: np.ndarray) -> Tensor:
        """Samples of the loop with multiples of its first sample as outputs, shape (T + 1, D), float64."""
        samples: list[Any] = []
        factors = iter(outputs.tolist())

        def denoise(x: Any, *args: Any, **kwargs: Any) -> Any:
            samples.append(x + 0 * x)  # a copy: loops may work in place
            factor = next(factors, None)
            if factor is None:
                raise CalibrationError(_not_once(self.steps, "more"))
            return factor * samples[0]

        final = self._sample(start, denoise)
        if len(samples) < self.steps:
            raise CalibrationError(_not_once(self.steps, "fewer"))
        return torch.stack([_tensor(sample).reshape(-1).double() for sample in (*samples, final)])


class _Model(nn.Module):
    """The model, called with the loop's own arguments; its hooks see sample and timestep."""

    def __init__(self, denoise: Callable[..., Any]) -> None:
        super().__init__()
        self.denoise = denoise
        self.call: tuple[Any, tuple[Any, ...], dict[str, Any]] = (None, (), {})

    def forward(self, sample: Tensor, timestep: Tensor) -> Any:
        """The model's output for the arguments in ``call``."""
        x, args, kwargs = self.call
        return self.denoise(x, *args, **kwargs)


class _LoopScheduler:
    """What recorders and trackers read of a scheduler; the loop itself takes the steps.

    Attributes:
        matrix: the sampler matrix, or why there is none; ``None`` before the first run.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.config = {"grid": fingerprint(grid.key)}
        self.timesteps = torch.tensor(grid.levels)
        self.num_inference_steps: int | None = None
        self.begin_index = self.step_index = 0
        self.matrix: np.ndarray | SamplerError | None = None

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Begin a run."""
        self.num_inference_steps, self.step_index = num_inference_steps, 0

    def step(self, output: Tensor, timestep: Any, sample: Tensor, *, result: Tensor) -> tuple[Tensor]:
        """Note that the loop has gone from ``sample`` to ``result``."""
        self.step_index += 1
        return (result,)


def _tensor(value: Any) -> Tensor:
    """A sample or an output as a tensor."""
    try:
        (tensor,) = flatten(value)
    except (ValueError, UnknownContainerError) as error:
        raise CalibrationError(
            f"Expected one NumPy array or tensor as sample and as output, received {type(value).__name__}."
        ) from error
    return tensor


def _not_once(steps: int, amount: str) -> str:
    return f"The sampling loop calls denoise {amount} than {steps} times; expected one call per level of its grid."
