"""Tableau of a solver: times given to the network and weights of each sample, as frozen data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foreseer.checks import check_kind, frozen
from foreseer.errors import in_one_line
from foreseer.evaluate.peers.base import PeerError
from foreseer.files import Artifact, read_json

MOST_BYTES = 2**32  # of a file: weights per element of a large latent
_FILE = Artifact(
    "solver",
    version=1,
    arrays={"times": (np.float64, "N"), "start": (np.float64, None), "weights": (np.float64, None),
            "constant": (np.float64, None)},
    optional=("constant",),
    metadata=("settings",),
    error=PeerError,
    most_bytes=MOST_BYTES,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Tableau:
    r"""Coefficients of a solver of N steps, one network call per step.

    $$x_{i+1} = a_i x_0 + \sum_{j \le i} b_{ij} F_j + c_i, \qquad F_i = F(x_i, t_i)$$

    Explicit Runge-Kutta, multistep and exponential solvers, with or without a corrector, are such tableaus. So are all
    solvers with learned coefficients here.

    Args:
        times: shape (N,): $t_i$, in the unit of the scheduler's ``timesteps``.
        start: shape (N, *E): $a_i$. E is empty, or the shape of a sample without its batch axis.
        weights: shape (N, N, *E): $b_{ij}$, zero for j > i.
        constant: shape (N, *E): $c_i$; ``None`` for zero.
        settings: where the numbers come from, as reports show it; by name, values that JSON can hold.

    Raises:
        PeerError: shapes that do not belong together, numbers that are not finite, weights on later outputs, or
            settings that JSON cannot hold.

    >>> weights = np.array([[-0.5, 0], [-0.5, -0.5]])
    >>> euler = Tableau(np.array([1000.0, 500.0]), np.ones(2), weights)
    >>> euler.solve(lambda sample, time: sample, 1.0)  # dx/ds = x from s = 1 to 0 in two steps
    0.25

    Source: Shaul et al., "Bespoke Non-Stationary Solvers", arXiv 2403.01329, Section 3 (the family and its
    completeness).
    """

    times: np.ndarray
    start: np.ndarray
    weights: np.ndarray
    constant: np.ndarray | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("times", "start", "weights", "constant"):
            if name != "constant" or self.constant is not None:
                object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        _check_settings(self.settings)
        steps, element = self.times.size, self.start.shape[1:]
        shapes = [self.times.shape, self.start.shape, self.weights.shape]
        expected = [(steps,), (steps, *element), (steps, steps, *element)]
        if self.constant is not None:
            shapes, expected = [*shapes, self.constant.shape], [*expected, (steps, *element)]
        if not steps or shapes != expected:
            raise PeerError(f"A solver's arrays have the shapes {shapes}; expected {expected} for at least one step.")
        arrays = [self.times, self.start, self.weights, *([] if self.constant is None else [self.constant])]
        if not all(np.isfinite(array).all() for array in arrays):
            raise PeerError("A solver's coefficients must be finite numbers.")
        if any(self.weights[step, step + 1 :].any() for step in range(steps)):
            raise PeerError("A solver's weights[i, j] must be zero for j > i: output j is computed after sample i + 1.")

    @property
    def steps(self) -> int:
        """N, the number of network calls."""
        return self.times.size

    @property
    def element(self) -> tuple[int, ...]:
        """Shape of the samples that the weights fit; empty for weights that fit every shape."""
        return self.start.shape[1:]

    def solve(self, model: Callable[[Any, float], Any], start: Any) -> Any:
        """Final sample of a plain function.

        Args:
            model: from (sample, time) to the output.
            start: $x_0$: a number or an array.
        """
        sample, outputs = start, []
        for step, time in enumerate(self.times):
            outputs.append(model(sample, float(time)))
            sample = self.start[step] * start
            for weight, output in zip(self.weights[step], outputs, strict=False):
                sample = sample + weight * output
            if self.constant is not None:
                sample = sample + self.constant[step]
        return float(sample) if np.ndim(sample) == 0 else sample

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tableau as safetensors.

        Raises:
            PeerError: it cannot be written.
        """
        arrays = {"times": self.times, "start": self.start, "weights": self.weights}
        if self.constant is not None:
            arrays["constant"] = self.constant
        _FILE.save(path, arrays, {"settings": json.dumps(dict(self.settings))})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tableau:
        """Read a tableau.

        Raises:
            PeerError: the file cannot be read, is damaged or holds something else.
        """
        arrays, metadata = _FILE.load(path)
        try:
            settings = read_json(metadata["settings"])
        except ValueError:
            settings = None
        if not isinstance(settings, dict):
            raise PeerError(f"{os.fspath(path)} is damaged: its settings are no JSON object.")
        return cls(**arrays, settings=settings)


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        return frozen(values)
    except (TypeError, ValueError) as error:
        raise PeerError(f"A solver's {name} must be an array of real numbers: {in_one_line(error)}.") from error


def _check_settings(settings: Any) -> None:
    check_kind("settings", settings, Mapping, PeerError)
    try:
        json.dumps(dict(settings))
    except (TypeError, ValueError) as error:
        raise PeerError(f"A solver's settings must be values that JSON can hold: {in_one_line(error)}.") from error
