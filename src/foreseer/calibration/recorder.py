"""`Recorder`: a kernel from a loop of your own, or from stored trajectories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from foreseer.attach.network.containers import flatten
from foreseer.calibration.record import gram
from foreseer.checks import check_callable, check_kind, check_provenance
from foreseer.errors import CalibrationError
from foreseer.grid import Grid
from foreseer.kernel import Kernel
from foreseer.kernel.parts import Parts, tensor_names


class Recorder:
    """Records the second moments of a model's outputs, run by run.

    Outputs are kept for one run only. If an output holds several tensors, the sample is of the first, and the further
    ones have separate rows in :func:`foreseer.wrap`.

    Args:
        grid: the T noise levels of the runs.
        matrix: sampler matrix of the loop, shape (T + 1, T + 1), from :meth:`foreseer.Sampler.matrix` or
            :func:`foreseer.sampler_matrix`; with it, expected errors of the final sample are known.
        provenance: text that the kernel keeps (``{"model": "mine"}``).

    >>> import torch
    >>> recorder = Recorder(Grid.uniform(4))
    >>> for seed in range(3):
    ...     denoise, x = recorder.record(lambda x, t: x * t), torch.full((2,), 1.0 + seed)
    ...     for t in recorder.grid:
    ...         x = x - denoise(x, t) / 4
    >>> recorder.kernel()
    <kernel of 3 prompts on 4 steps, ?>
    """

    def __init__(
        self,
        grid: Grid,
        matrix: Float64[np.ndarray, "T1 T1"] | None = None,
        *,
        provenance: dict[str, str] | None = None,
    ) -> None:
        check_kind("grid", grid, Grid, CalibrationError)
        self.grid = grid
        self._matrix = None if matrix is None else self._checked(matrix)
        self._provenance = check_provenance(provenance or {}, CalibrationError)
        self._grams: list[np.ndarray] = []
        self._further: list[np.ndarray] = []  # shape (M - 1, T, T) for outputs of M tensors
        self._squares: list[float] = []

    def record(self, denoise: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``denoise`` for one run: call it once per level, in order, with the sample first.

        The run counts once its last step is computed. Arrays and tensors may be of any shape. Call ``record``
        again for each run, also after one that was broken off.

        Raises:
            CalibrationError: ``denoise`` is not callable; on a call, the run is complete.
        """
        check_callable("denoise", denoise, CalibrationError)
        outputs: list[Any] = []
        first: list[Any] = []

        def recorded(x: Any, *args: Any, **kwargs: Any) -> Any:
            if len(outputs) == len(self.grid):
                raise CalibrationError("This run is complete: call record again for the next one.")
            if not outputs:
                first[:] = [x + 0 * x]  # a copy: loops may work in place
            output = denoise(x, *args, **kwargs)
            outputs.append([tensor.clone() for tensor in _vectors(output)])
            if len(outputs) == len(self.grid):
                self.add(outputs, first[0])
                outputs[:] = [None] * len(outputs)  # only their number is needed from now on
            return output

        return recorded

    def add(self, outputs: Sequence[Any], start: Any = None) -> None:
        """Add a stored run.

        Args:
            outputs: the model's output at each of the T steps, arrays or tensors of one shape, or containers of them.
            start: the sample before the first step; needed with a sampler matrix.

        Raises:
            CalibrationError: not T outputs, of different sizes, or no start.
        """
        vectors = [_vectors(output) for output in outputs]
        sizes = sorted({tuple(vector.numel() for vector in tensors) for tensors in vectors})
        if len(vectors) != len(self.grid) or len(sizes) > 1:
            raise CalibrationError(
                f"A run has {len(vectors)} outputs of {sizes} elements; expected {len(self.grid)} of one size."
            )
        features, *further = (list(tensors) for tensors in zip(*vectors, strict=True))
        if self._matrix is not None:
            if start is None:
                raise CalibrationError("With a sampler matrix, give the sample before the first step as start.")
            samples = [_vectors(start)[0].to(features[0]), *features]
            last = np.asarray(self._matrix)[-1]
            self._squares.append(float(last @ gram(samples, samples) @ last))
        self._grams.append(gram(features, features))
        self._further.append(np.array([gram(tensors, tensors) for tensors in further]))

    def _checked(self, matrix: Any) -> np.ndarray:
        samples = len(self.grid) + 1
        try:
            numbers = np.asarray(matrix, np.float64)
        except (TypeError, ValueError) as error:
            raise CalibrationError(f"The sampler matrix is a {type(matrix).__name__}; expected an array.") from error
        if numbers.shape != (samples, samples) or not np.isfinite(numbers).all():
            raise CalibrationError(
                f"The sampler matrix has shape {numbers.shape}; expected finite numbers of shape {samples, samples}."
            )
        return numbers

    def kernel(self) -> Kernel:
        """The kernel of all runs so far, with the typical sensitivity.

        Raises:
            CalibrationError: there is no run yet.
            KernelError: an output was not finite.
        """
        if not self._grams:
            raise CalibrationError(f"No run of {len(self.grid)} steps was recorded.")
        squares = np.array(self._squares) if self._matrix is not None else None
        parts = None
        if self._further[0].size and len({grams.shape for grams in self._further}) == 1:
            further = np.mean(self._further, axis=0)
            parts = Parts(tensor_names(len(further) + 1)[1:], further)
        provenance = self._provenance
        return Kernel(self.grid, np.array(self._grams), self._matrix, squares, provenance=provenance, parts=parts)


def _vectors(output: Any) -> list[Tensor]:
    tensors = flatten(output)
    if not tensors:
        raise CalibrationError("The model returned no array; expected an array or tensor, or a container of them.")
    return [tensor.detach().reshape(-1) for tensor in tensors]
