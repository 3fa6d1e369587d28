"""Analysis of a kernel's trajectories, and kernel plots."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from foreseer.files.writing import write_figure
from foreseer.forecast.least_squares import ridge_solve
from foreseer.kernel import Kernel
from foreseer.kernel.expected import step_errors
from foreseer.plan import Plan

ROUNDING = 1e-10  # relative ridge, so that the projection does not fit float32 rounding


def projection_fidelity(kernel: Kernel) -> Float64[np.ndarray, " T"]:
    r"""Return the share of each step's feature in the span of earlier ones (L2P, observation 2).

    $\sqrt{1 - \lVert F_i - \Pi_{<i} F_i \rVert^2 / \lVert F_i \rVert^2}$ averaged over prompts, each prompt projected
    on its own features; 0 at step 0.
    """
    fidelity = np.zeros(len(kernel.grid))
    for gram in kernel.grams:
        for step in range(1, len(kernel.grid)):
            system, target = gram[:step, :step], gram[:step, step]
            weights = ridge_solve(system, target, ROUNDING * float(np.trace(system)) / step)
            residual = gram[step, step] - 2 * weights @ target + weights @ system @ weights
            fidelity[step] += math.sqrt(max(0.0, 1.0 - residual / gram[step, step])) / kernel.prompts
    return fidelity


def principal_components(kernel: Kernel, prompt: int = 0, count: int = 2) -> Float64[np.ndarray, "T count"]:
    """Return a prompt's trajectory in its principal components (TaylorSeer's figure), from its Gram.

    Column k is the k-th principal coordinate in units of root mean square per element; signs are arbitrary.
    """
    centre = np.eye(len(kernel.grid)) - 1.0 / len(kernel.grid)
    values, vectors = np.linalg.eigh(centre @ kernel.grams[prompt] @ centre)
    return vectors[:, ::-1][:, :count] * np.sqrt(np.maximum(values[::-1][:count], 0.0))


def plot_kernel(
    kernel: Kernel, plan: Plan, path: Path, curves: Mapping[str, Float64[np.ndarray, " T"]] | None = None
) -> None:
    """Plot projection fidelity, expected error per step, weights and trajectories into one image file.

    Args:
        kernel: second moments.
        plan: a plan on the kernel's grid.
        path: file to write; the suffix names the format.
        curves: more errors per step for the panel of expected errors, by label; drawn where they are above 0.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.5), dpi=110, layout="constrained")
    (fidelity, errors), (weights, paths) = figure.subplots(2, 2)
    steps = np.arange(len(kernel.grid))
    fidelity.plot(steps[1:], projection_fidelity(kernel)[1:])
    fidelity.set(title="Share of each output in the span of all earlier ones", xlabel="step", ylim=(None, 1.0002))
    expected = step_errors(kernel, plan.rows, plan.branch_rows, plan.cross_rows)
    expected[:, list(plan.computed_steps)] = np.nan  # gaps in the curves
    errors.semilogy(steps, expected.mean(axis=0), marker=".", label="mean over prompts")
    errors.semilogy(steps, expected.max(axis=0), linestyle=":", label="worst prompt")
    for label, curve in (curves or {}).items():
        errors.semilogy(steps, np.where(curve > 0, curve, np.nan), linestyle="--", marker=".", label=label)
    errors.set(title=f"Expected error per step, NFE {plan.nfe}", xlabel="step")
    errors.legend(frameon=False)
    largest = float(np.abs(plan.rows).max())
    image = weights.imshow(plan.rows, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
    weights.set(title="Weights", xlabel="computed step", ylabel="step")
    figure.colorbar(image, ax=weights, shrink=0.8)
    for prompt in range(min(6, kernel.prompts)):
        components = principal_components(kernel, prompt)
        paths.plot(*components.T, marker=".", linewidth=0.8)
    paths.set(title="Trajectories in their principal components", xlabel="first", ylabel="second")
    write_figure(path, figure)
