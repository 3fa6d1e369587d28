"""A plan's rows as expansions in backward differences, and back (L2P's supplement, section E)."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import comb
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

if TYPE_CHECKING:
    from foreseer.plan.plan import Plan


@dataclass(frozen=True)
class DifferenceExpansion:
    r"""A plan's rows as weights of backward differences: $\hat F_i = \sum_k \omega_{ik} \nabla^k F$.

    With $f$ the computed features before step i, newest first, the differences are $\nabla = P f$, where
    $P_{km} = (-1)^m \binom{k}{m}$ is the Pascal matrix with alternating signs, its own inverse, so
    $\omega^T = w^T P$ and $w^T = \omega^T P$. The coefficients are exact fractions: over many computed steps the
    binomials reach 1e13, and floats would not convert back to the same weights.

    Attributes:
        plan: the plan that was expanded.
        terms: for each forecast step its coefficients, order 0 first, one per computed step before it.
    """

    plan: Plan = field(repr=False)
    terms: dict[int, tuple[Fraction, ...]] = field(repr=False)

    @classmethod
    def of(cls, plan: Plan) -> DifferenceExpansion:
        """Expand every forecast row of ``plan``."""
        terms = {}
        for step in plan.forecast_steps:
            newest_first = [plan.rows[step, j] for j in reversed(plan.computed_steps) if j < step]
            terms[step] = pascal_product([Fraction(float(weight)) for weight in newest_first])
        return cls(plan, terms)

    @cached_property
    def coefficients(self) -> Float64[np.ndarray, "T K"]:
        """The coefficients rounded to float64, shape (T, NFE): row i of a computed step is zero."""
        table = np.zeros((len(self.plan.grid), self.plan.nfe))
        for step, terms in self.terms.items():
            table[step, : len(terms)] = [float(term) for term in terms]
        return table

    def to_plan(self) -> Plan:
        """Convert the coefficients back to a plan; its rows equal the original rows bit for bit."""
        rows = np.eye(len(self.plan.grid))
        for step, terms in self.terms.items():
            before = [j for j in reversed(self.plan.computed_steps) if j < step]
            rows[step] = 0.0
            rows[step, before] = [float(weight) for weight in pascal_product(list(terms))]
        plan = self.plan
        return type(plan)(plan.grid, plan.computed_steps, rows, plan.site, plan.provenance, start_row=plan.start_row)


def pascal_product(values: list[Fraction]) -> tuple[Fraction, ...]:
    r"""$v^T P$ with $P_{km} = (-1)^m \binom{k}{m}$, exactly."""
    size = len(values)
    return tuple(
        Fraction((-1) ** m) * sum((values[k] * comb(k, m) for k in range(m, size)), start=Fraction(0))
        for m in range(size)
    )
