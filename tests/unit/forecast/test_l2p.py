"""L2P's row is its autoregressive loop unrolled, and its weight files are read as data only."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreseer.errors import ForecastError
from foreseer.forecast import L2P, Reuse
from foreseer.grid import Grid
from tests.math.independent import rollout


@st.composite
def matrices(draw):
    steps = draw(st.integers(2, 16))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    random = np.tril(generator.normal(size=(steps, steps)))
    return random / np.sqrt(steps) if draw(st.booleans()) else np.eye(steps) + 0.1 * random


@given(matrix=matrices(), chosen=st.sets(st.integers(1, 15)), seed=st.integers(0, 2**32))
def test_rows_are_the_rollout_on_features(matrix, chosen, seed):
    steps = len(matrix)
    features = np.random.default_rng(seed).normal(size=(steps, 5))
    forecaster = L2P(matrix)
    for step in sorted(set(range(1, steps)) - chosen):
        computed = [0, *sorted(j for j in chosen if j < step)]
        expected = rollout(matrix, computed, features[computed], step)
        row = forecaster.row(computed, step, Grid.uniform(steps))
        assert np.allclose(row @ features[computed], expected, rtol=1e-11, atol=1e-11 * np.abs(row).sum())


def test_the_identity_reuses_the_last_computed_feature():
    grid = Grid.uniform(12)
    for step in (1, 5, 11):
        computed = [j for j in (0, 3, 4) if j < step]
        assert L2P(np.eye(12)).row(computed, step, grid).tolist() == Reuse().row(computed, step, grid).tolist()


def test_a_run_of_another_length_is_refused():
    with pytest.raises(ForecastError, match="8 steps, this run has 9"):
        L2P(np.eye(8)).row((0,), 1, Grid.uniform(9))


def test_the_matrix_is_copied_and_read_only():
    values = np.eye(3)
    forecaster = L2P(values)
    values[0, 0] = 7.0
    assert forecaster == L2P(np.eye(3))
    with pytest.raises(ValueError, match="read-only"):
        forecaster.matrix[0, 0] = 2.0
    assert forecaster != L2P(2 * np.eye(3))


@pytest.fixture
def read(tmp_path):
    def read(content):
        path = tmp_path / "weights.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return L2P.from_text(path)

    return read


MATRIX = np.array([[0.5, 0.0, 0.0], [-1e-3, 2.0, 0.0], [3.0, -4.25, 1e20]])


@pytest.mark.parametrize(
    "text",
    [
        "0.5 0 0\n-1e-3 2 0\n3 -4.25 1e20\n",
        "0.5,0,0\r\n-1e-3,2.,0\r\n3,-4.25,1E+20",
        "\n 0.5\t0 0 \n\n-.1e-2; +2.0; 0\n3 -4.25 1e20\n\n",
        "[[0.5, 0, 0], [-0.001, 2, 0], [3, -4.25, 1e20]]",
        "[[0.5 0 0]\n [-1e-3 2\n 0]\n [3 -4.25 1e20]]",
        "[0.5, 0, 0]\n[-1e-3, 2, 0]\n[3, -4.25, 1e20]\n",
        "0.5\n-1e-3 2\n3 -4.25 1e20",
        "[[0.5], [-1e-3, 2], [3, -4.25, 1e20]]",
    ],
)
def test_lines_brackets_and_triangles_are_read(read, text):
    assert np.array_equal(read(text).matrix, MATRIX)


@given(matrix=matrices(), triangular=st.booleans(), nested=st.booleans())
def test_written_matrices_come_back_to_the_last_bit(tmp_path_factory, matrix, triangular, nested):
    rows = [row[: index + 1] if triangular else row for index, row in enumerate(matrix.tolist())]
    text = repr(rows) if nested else "\n".join(" ".join(map(repr, row)) for row in rows)
    path = tmp_path_factory.mktemp("text") / "weights.txt"
    path.write_text(text)
    assert L2P.from_text(path) == L2P(matrix)


HOSTILE = {
    "empty": "",
    "blank": " \n\t\n",
    "brackets only": "[[]]",
    "python": "__import__('os').system('touch owned')",
    "python row": "[[1, 0], [0, exit(1)]]",
    "call around": "numpy.array([[1, 0], [0, 1]])",
    "words": "one two\nthree four",
    "header": "step weight\n1 0\n0 1",
    "nan": "1 0\nnan 1",
    "infinite": "1 0\ninf 1",
    "overflow": "1 0\n1e999 1",
    "hexadecimal": "0x1 0\n0 1",
    "underscore": "1_0 0\n0 1",
    "complex": "1j 0\n0 1",
    "ragged": "1 0 0\n0 1\n0 0 1",
    "one row too many": "1 0\n0 1\n1 1",
    "upper triangle": "1 2\n0 1",
    "three levels": "[[[1, 0], [0, 1]], [[1, 0], [0, 1]]]",
    "open bracket": "[[1, 0], [0, 1",
    "unbalanced": "[1, 0] ] [0, 1] [",
    "cut after a row": "[[1], [0, 1], [0, 0, 1],",
    "binary": bytes(range(256)),
    "utf-16": "1 0\n0 1".encode("utf-16"),
    "zero bytes": b"1 0\n0 1\x00",
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00]\x94K\x01a.",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_file_of_anything_else_is_refused(read, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ForecastError):
        read(content)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.txt"]


def test_a_nested_file_cut_anywhere_is_refused(read):
    text = repr([[0.5], [0.25, 1.5], [0.125, 2.5, 3.5]])
    for length in range(len(text)):
        with pytest.raises(ForecastError):
            read(text[:length])


@pytest.mark.parametrize("path", ["missing.txt", "", ".", "nul\0byte.txt"])
def test_a_path_that_cannot_be_read_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ForecastError):
        L2P.from_text(path)


MEGABYTES = {
    "words": "x" * 10_000_000,
    "digits": "1" * 10_000_000,
    "opening brackets": "[" * 10_000_000,
    "closing brackets": "]" * 10_000_000,
    "open rows": "[1" * 5_000_000,
    "spaces": " " * 10_000_000,
    "short rows": "1\n" * 5_000_000,
    "a long word of digits": "1" * 20_000 + "x",  # quadratic matching takes five seconds and more
}


@pytest.mark.parametrize("content", MEGABYTES.values(), ids=MEGABYTES)
def test_megabytes_of_junk_are_refused_quickly(read, content, as_users_call):
    began = time.process_time()
    with pytest.raises(ForecastError):
        read(content)
    assert time.process_time() - began < 3.0
