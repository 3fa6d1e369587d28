"""Measure accelerated sampling against the run that computes every step.

Each room imports from those listed before it:

- ``architectures``: published networks with random weights, for cost without weights;
- ``entries``: what a bench runs: a policy, fewer steps, a gate tuned to a budget;
- ``sampling``: one run of an entry: its picture, time, floating-point operations and memory;
- ``metrics``: fidelity to the reference, and measures of quality by other packages;
- ``peers``: other packages' caches and solvers as entries;
- ``presets``: tables of papers, and the demo, as lists of entries;
- ``bench``: runs entries on prompts, keeps every result, sums up;
- ``report``: the page, tables and charts of a bench.
"""
