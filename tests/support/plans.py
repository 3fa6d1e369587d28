"""Random plans, and what a plan does found by brute force."""

import numpy as np
from hypothesis import strategies as st

from foreseer.grid import Grid
from foreseer.plan import Plan


def make_plan(seed, steps=12, zeros=0.3, computed_share=0.4, **options):
    """A plan with random levels, steps and weights; some weights and some whole rows are zero."""
    generator = np.random.default_rng(seed)
    levels = np.cumsum(generator.uniform(0.01, 1.0, size=steps))[::-1].copy()
    computed = (0, *(int(j) for j in range(1, steps) if generator.random() < computed_share))
    rows = np.eye(steps)
    for step in set(range(steps)) - set(computed):
        rows[step] = 0.0
        before = [j for j in computed if j < step]
        rows[step, before] = generator.normal(size=len(before)) * (generator.random(len(before)) >= zeros)
    unit = options.pop("unit", "sigma")
    return Plan(Grid(levels, unit, float(levels[-1] * generator.uniform(-1, 1))), computed, rows, **options)


plans = st.builds(
    make_plan,
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 24),
    zeros=st.sampled_from([0.0, 0.3, 0.8]),
    computed_share=st.floats(0.0, 1.0),
    unit=st.sampled_from(["sigma", "timestep"]),
    site=st.sampled_from(["output", "last_block"]),
    provenance=st.dictionaries(st.text(max_size=20), st.text(max_size=40), max_size=4),
)


def needed_after(plan, step):
    """The computed steps up to ``step`` that a row beyond ``step`` gives a weight."""
    later = range(step + 1, len(plan.grid))
    return {j for j in plan.computed_steps if j <= step and any(plan.rows[i, j] != 0 for i in later if i != j)}


def held_during(plan, step):
    """The features that lie in memory while ``step`` runs: those that it or a later step needs."""
    return needed_after(plan, step) | {j for j in plan.computed_steps if j < step and plan.rows[step, j] != 0}
