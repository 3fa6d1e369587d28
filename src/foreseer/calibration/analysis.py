"""What a kernel shows of a model's trajectories, and what the papers' bounds say of their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from foreseer.files.writing import write_figure
from foreseer.forecast.least_squares import ridge_solve
from foreseer.kernel import Kernel
from foreseer.kernel.expected import step_errors
from foreseer.plan import Plan

ROUNDING = 1e-10  # relative: keeps the projection from resolving float32 noise


def projection_fidelity(kernel: Kernel) -> Float64[np.ndarray, " T"]:
    r"""Per step, how much of the feature lies in the span of all earlier ones (L2P, observation 2).

    $\sqrt{1 - \lVert F_i - \Pi_{<i} F_i \rVert^2 / \lVert F_i \rVert^2}$ averaged over prompts, each prompt projected
    on its own features; step 0, which has none before it, is 0.
    """
    fidelity = np.zeros(len(kernel.grid))
    for gram in kernel.grams:
        for step in range(1, len(kernel.grid)):
            system, target = gram[:step, :step], gram[:step, step]
            weights = ridge_solve(system, target, ROUNDING * float(np.trace(system)) / step)
            left = gram[step, step] - 2 * weights @ target + weights @ system @ weights
            fidelity[step] += math.sqrt(max(0.0, 1.0 - left / gram[step, step])) / kernel.prompts
    return fidelity


def principal_components(kernel: Kernel, prompt: int = 0, count: int = 2) -> Float64[np.ndarray, "T count"]:
    """A prompt's trajectory in its principal components (TaylorSeer's figure), from its Gram matrix alone.

    Column k is the trajectory's k-th principal coordinate in units of root mean square per element, signs arbitrary.
    """
    centre = np.eye(len(kernel.grid)) - 1.0 / len(kernel.grid)
    values, vectors = np.linalg.eigh(centre @ kernel.grams[prompt] @ centre)
    return vectors[:, ::-1][:, :count] * np.sqrt(np.maximum(values[::-1][:count], 0.0))


def taylor_bound(derivative: float, differences: list[float], interval: float, distance: float) -> float:
    r"""TaylorSeer's bound on the error at distance k, with interval N (arXiv 2503.06923).

    $E_m(k) \le \frac{M_{m+1}}{(m+1)!} |k|^{m+1} + \sum_{i=1}^m \frac{C_i}{i!\, N^{i-1}} |k|^i$.

    Args:
        derivative: M_{m+1}, a bound on the feature's derivative of order m + 1, per step.
        differences: C_1 to C_m, what each finite difference errs by: $|\Delta^i F / N^i - F^{(i)}| \le C_i / N^{i-1}$.
        interval: N in steps.
        distance: k in steps.
    """
    order = len(differences)
    remainder = derivative / math.factorial(order + 1) * abs(distance) ** (order + 1)
    return remainder + sum(
        bound / (math.factorial(i) * interval ** (i - 1)) * abs(distance) ** i
        for i, bound in enumerate(differences, start=1)
    )


def ideal_taylor_bound(derivative: float, order: int, distance: float) -> float:
    r"""Spectrum's theorem 3.1, the worst case with exact derivatives.

    $\frac{M}{(P+1)!} h^{P+1}$, M bounding the derivative of order P + 1.
    """
    return derivative / math.factorial(order + 1) * abs(distance) ** (order + 1)


def chebyshev_bound(taus: Float64[np.ndarray, " K"], *, degree: int, ridge: float, scale: float, rho: float) -> float:
    r"""Spectrum's theorem 3.3 for one channel: a bound on the ridge forecast's error anywhere in [-1, 1].

    A function analytic in the Bernstein ellipse of parameter rho and bounded there by B has coefficients
    $|c_m| \le 2 B \rho^{-m}$ and truncation error $\epsilon = 2 B \rho^{-M} / (\rho - 1)$ (theorem 3.2). With $\Phi$
    the design matrix at the computed taus and $\sigma$ its least singular value, the error is at most
    $\epsilon + \sqrt{M+1}\,\frac{\sqrt{K (M+1)}\, \sqrt{K}\, \epsilon + \lambda \lVert c \rVert}{\sigma^2 + \lambda}$:
    truncation, its effect on the fit, and the ridge's shrinkage.

    Args:
        taus: the computed steps mapped to [-1, 1].
        degree: M.
        ridge: lambda.
        scale: B.
        rho: parameter of the ellipse, above 1.
    """
    design = np.polynomial.chebyshev.chebvander(taus, degree)
    least = float(np.linalg.svd(design, compute_uv=False)[-1]) if len(taus) > degree else 0.0
    truncation = 2 * scale * rho**-degree / (rho - 1)
    coefficients = 2 * scale * math.sqrt(sum(rho ** (-2 * m) for m in range(degree + 1)))
    fit = math.sqrt(len(taus) * (degree + 1)) * math.sqrt(len(taus)) * truncation
    return truncation + math.sqrt(degree + 1) * (fit + ridge * coefficients) / (least**2 + ridge)


@dataclass(frozen=True)
class Portrait:
    """The pictures of one kernel.

    Args:
        kernel: what is shown.
        plan: a plan on the kernel's grid, whose rows and errors are shown beside it.
    """

    kernel: Kernel
    plan: Plan

    def draw(self, path: Path) -> None:
        """Write one PNG: projection fidelity, expected error per step, the weight map, and trajectories."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 7.5), dpi=110, layout="constrained")
        (fidelity, errors), (weights, paths) = figure.subplots(2, 2)
        steps = np.arange(len(self.kernel.grid))
        fidelity.plot(steps[1:], projection_fidelity(self.kernel)[1:])
        fidelity.set(title="Share of each output in the span of all earlier ones", xlabel="step", ylim=(None, 1.0002))
        plan = self.plan
        found = step_errors(self.kernel, plan.rows, plan.branch_rows, plan.cross_rows)
        found[:, list(self.plan.computed_steps)] = np.nan  # gaps in the curves
        errors.semilogy(steps, found.mean(axis=0), marker=".", label="mean over prompts")
        errors.semilogy(steps, found.max(axis=0), linestyle=":", label="worst prompt")
        errors.set(title=f"Expected error per step, {self.plan.nfe} evaluations", xlabel="step")
        errors.legend(frameon=False)
        largest = float(np.abs(self.plan.rows).max())
        image = weights.imshow(self.plan.rows, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
        weights.set(title="Weights", xlabel="computed step", ylabel="step")
        figure.colorbar(image, ax=weights, shrink=0.8)
        for prompt in range(min(6, self.kernel.prompts)):
            components = principal_components(self.kernel, prompt)
            paths.plot(*components.T, marker=".", linewidth=0.8)
        paths.set(title="Trajectories in their principal components", xlabel="first", ylabel="second")
        write_figure(path, figure)
