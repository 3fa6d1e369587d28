"""Write rows.json from the second, exact implementations: ``python -m tests.math.golden.generate``."""

import json
from fractions import Fraction
from pathlib import Path

from tests.math.independent import PublishedTaylorSeer, lagrange_row, moment_row, spectrum_row

PATH = Path(__file__).with_name("rows.json")
UNIFORM_6 = (0, 1, 2, 3, 4, 10, 16, 22, 28, 34, 40, 46)  # TaylorSeer, N = 6
L2P_7 = (0, 1, 2, 4, 9, 17, 26, 35, 43)
L2P_16 = (0, 1, 2, 4, 16, 32)
GROWING_3 = (0, 1, 2, 3, 4, 6, 11, 19, 30, 44)
GROWING_075 = (0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 25, 31, 38, 46)


class Unit:
    """A feature as an exact combination of the computed ones."""

    def __init__(self, weights):
        self.weights = weights

    def __add__(self, other):
        return self if other == 0 else Unit([a + b for a, b in zip(self.weights, other.weights, strict=True)])

    __radd__ = __add__

    def __sub__(self, other):
        return self + other * -1

    def __mul__(self, factor):
        return Unit([weight * factor for weight in self.weights])

    def __truediv__(self, divisor):
        return self * Fraction(1, int(divisor))


def taylor(order, first_enhance):
    def row(computed, step):
        program = PublishedTaylorSeer(order, first_enhance)
        for index, j in enumerate(computed):
            program.compute(j, Unit([Fraction(int(index == k)) for k in range(len(computed))]))
        return program.forecast(step).weights

    return row


def last(order, row_of):
    """Zeros, then the row of the last ``order`` computed steps."""
    return lambda computed, step: (
        [0] * max(0, len(computed) - order) + row_of([Fraction(j) for j in computed[-order:]], step)
    )


CASES = [
    ("TaylorSeer", {"order": 1, "first_enhance": 3}, L2P_7, taylor(1, 3)),
    ("TaylorSeer", {"order": 2, "first_enhance": 3}, UNIFORM_6, taylor(2, 3)),
    ("TaylorSeer", {"order": 2, "first_enhance": 3}, L2P_16, taylor(2, 3)),
    ("TaylorSeer", {"order": 4, "first_enhance": 0}, GROWING_3, taylor(4, 0)),
    ("Newton", {"order": 3, "unit": "step"}, L2P_7, last(4, lagrange_row)),
    ("Newton", {"order": 2, "unit": "noise"}, L2P_16, last(3, lagrange_row)),
    ("AdamsBashforth", {"order": 2}, L2P_7, last(2, lambda nodes, i: moment_row(nodes, i, i + 1))),
    ("AdamsBashforth", {"order": 4}, GROWING_075, last(4, lambda nodes, i: moment_row(nodes, i, i + 1))),
    ("Chebyshev", {"degree": 4, "ridge": 0.1}, GROWING_075, lambda c, i: spectrum_row(c, i, 50, 4, 0.1)),
    ("Chebyshev", {"degree": 4, "ridge": 0.1}, GROWING_3, lambda c, i: spectrum_row(c, i, 50, 4, 0.1)),
]


def golden():
    """On Grid.uniform(50): its levels equal the steps up to a shift and a scale, which rows ignore."""
    cases = []
    for name, options, computed, row_of in CASES:
        for step in sorted({3, 7, 18, 33, 49} - set(computed)):
            before = [j for j in computed if j < step]
            row = [float(weight) for weight in row_of(before, step)]
            cases.append({"forecaster": name, "options": options, "computed": before, "step": step, "row": row})
    return cases


if __name__ == "__main__":
    PATH.write_text("[\n" + ",\n".join(json.dumps(case) for case in golden()) + "\n]\n")
