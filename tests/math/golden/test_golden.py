"""Rows of published settings, as the second implementations gave them when the file was made."""

import json

import numpy as np
import pytest

import foreseer.forecast
from foreseer.grid import Grid
from tests.math.golden.generate import PATH, golden

CASES = json.loads(PATH.read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['forecaster']}-{len(case['computed'])}-{case['step']}")
def test_rows_are_the_golden_ones(case):
    forecaster = getattr(foreseer.forecast, case["forecaster"])(**case["options"])
    row = forecaster.row(case["computed"], case["step"], Grid.uniform(50))
    assert np.max(np.abs(row - case["row"])) <= 1e-12 * max(1.0, np.abs(case["row"]).sum())


def test_the_golden_file_is_what_the_generator_writes():
    assert golden() == CASES
