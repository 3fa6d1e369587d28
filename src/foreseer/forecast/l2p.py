"""L2P: rows from a learned lower-triangular matrix, and the text format of its released weights."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from foreseer.errors import ForecastError
from foreseer.files import read_text, reason
from foreseer.forecast.base import Forecaster
from foreseer.grid import Grid

MOST_STEPS = 1000  # larger weight files are rejected
MOST_BYTES = 32 * MOST_STEPS**2
MOST_DIGITS = 100
MOST_ROWS = 2 * MOST_STEPS  # including empty rows


@dataclass(frozen=True, eq=False, repr=False)
class L2P(Forecaster):
    """Learned linear predictor (arXiv 2604.26365), applied autoregressively as in the released code.

    Row s of the matrix predicts the feature of step s + 1 from those of steps 0 to s, using forecasts at skipped steps.
    Unrolled, this is one row over the computed features.

    Args:
        matrix: shape (T, T), lower triangular, for runs of T steps; the last row is not used.

    Raises:
        ForecastError: the matrix is not square, not lower triangular or not finite; or, in :meth:`row`, the run does
            not have T steps.

    >>> L2P([[2.0, 0.0], [0.0, 1.0]]).row((0,), 1, Grid.uniform(2)).tolist()
    [2.0]
    """

    matrix: Float[np.ndarray, "T T"] | Sequence[Sequence[float]] = field(repr=False)

    def __post_init__(self) -> None:
        try:
            matrix = np.array(self.matrix, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ForecastError(f"The matrix must hold numbers, in rows of one length: {error}.") from error
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
            raise ForecastError(f"The matrix has shape {matrix.shape}; expected (T, T).")
        if not np.all(np.isfinite(matrix)) or np.any(np.triu(matrix, 1)):
            raise ForecastError("The matrix must be finite and lower triangular: a step sees only steps before it.")
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    @classmethod
    def from_text(cls, path: str | os.PathLike[str]) -> L2P:
        """Read a released weight file as text: T rows of numbers, with optional brackets and commas.

        Raises:
            ForecastError: the file cannot be read, contains anything but numbers, or does not hold such a matrix.
        """
        return cls(read_weight_text(path))

    @property
    def ignores_levels(self) -> bool:
        """True."""
        return True

    def _weights(self, computed: np.ndarray, steps: np.ndarray, grid: Grid) -> np.ndarray:
        matrix = np.asarray(self.matrix)
        if len(grid) != matrix.shape[0]:
            raise ForecastError(
                f"This L2P matrix is for runs of {matrix.shape[0]} steps, this run has {len(grid)}. "
                f"Sample with {matrix.shape[0]} steps, or use a forecaster that adapts."
            )
        history = np.zeros((int(steps.max()) + 1, computed.size))
        history[computed, np.arange(computed.size)] = 1.0
        for i in np.setdiff1d(np.arange(history.shape[0]), computed, assume_unique=True).tolist():
            history[i] = matrix[i - 1, :i] @ history[:i]
        return history[steps]

    def __repr__(self) -> str:
        matrix = np.asarray(self.matrix)
        return f"L2P(<{len(matrix)} x {len(matrix)}, sha256 {hashlib.sha256(matrix.tobytes()).hexdigest()[:12]}>)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, L2P) and np.array_equal(np.asarray(self.matrix), np.asarray(other.matrix))

    def __hash__(self) -> int:
        return hash(np.asarray(self.matrix).tobytes())


_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_SEPARATORS = re.compile(r"[\s,;]+")
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_LINE = re.compile(r"([^\r\n]+)")


def read_weight_text(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a (T, T) matrix from text: a row per line or in brackets, full or its lower triangle."""
    name = os.fspath(path)
    try:
        text = read_text(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise ForecastError(f"Cannot read the weight file {name!r}: {reason(error)}.") from error
    rows = [numbers for row in _split_rows(text, name) if (numbers := _parse_numbers(row, name)).size]
    size = len(rows)
    if not 0 < size <= MOST_STEPS:
        raise ForecastError(f"{name} holds {size} rows of numbers; expected 1 to {MOST_STEPS}.")
    matrix = np.zeros((size, size))
    triangular = [len(row) for row in rows] == list(range(1, size + 1))
    for index, row in enumerate(rows):
        if len(row) != size and not triangular:
            raise ForecastError(f"{name}: row {index} holds {len(row)} numbers; the file has {size} rows.")
        matrix[index, : len(row)] = row
    return matrix


def _split_rows(text: str, name: str) -> Iterator[str]:
    """Yield the rows as text: innermost brackets if there are any, else lines."""
    brackets = "[" in text or "]" in text
    frame, end = "", 0
    for count, row in enumerate((_BRACKETS if brackets else _LINE).finditer(text)):
        frame += _SEPARATORS.sub("", text[end : row.start()])
        end = row.end()
        if count >= MOST_ROWS:
            raise ForecastError(f"{name} holds more than {MOST_ROWS} rows; expected 1 to {MOST_STEPS} of numbers.")
        yield row[1]
    frame += _SEPARATORS.sub("", text[end:])
    if frame not in ("", "[]"):
        raise ForecastError(
            f"{name} holds {frame[:20]!r} outside its rows: brackets do not match, or it contains other text."
        )


def _parse_numbers(row: str, name: str) -> np.ndarray:
    numbers = [number for number in _SEPARATORS.split(row, MOST_STEPS + 1) if number]
    if len(numbers) > MOST_STEPS:
        raise ForecastError(f"{name} has a row of more than {MOST_STEPS} numbers.")
    for number in numbers:
        if len(number) > MOST_DIGITS or not _NUMBER.fullmatch(number):
            raise ForecastError(f"{name}: expected a number, found {number[:20]!r}.")
    return np.array([float(number) for number in numbers])
