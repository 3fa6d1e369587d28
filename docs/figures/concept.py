"""Draws docs/_static/concept-light.svg and concept-dark.svg: ``python docs/figures/concept.py``.

A sampler in the plane, exact: data are three narrow clusters, the network's output is the velocity E[noise - data | x].
Foreseer computes it at some of 24 Euler steps and forecasts the others with TaylorSeer's rows.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("svg")
import matplotlib.pyplot as plt

import foreseer as fs

OUT = Path(__file__).parent.parent / "_static"
CLUSTERS = np.array([[-2.0, 0.4], [1.2, 1.5], [1.6, -1.1]])
WIDTH = 0.25  # of each cluster
START = np.array([0.15, 1.05])
GRID = fs.Grid.uniform(24)
POLICY = fs.Policy(fs.schedule.Explicit((0, 1, 5, 9, 13, 15)), fs.forecast.TaylorSeer(order=1))
THEMES = {"light": ("#1a1c1e", "#9aa0a6", "#2962ff"), "dark": ("#e8eaed", "#80868b", "#82b1ff")}


def velocity(x: np.ndarray, level: float) -> np.ndarray:
    """E[noise - data | x] at x = (1 - level) data + level noise."""
    variance = (1 - level) ** 2 * WIDTH**2 + level**2
    offsets = x - (1 - level) * CLUSTERS
    logits = -np.sum(offsets**2, axis=1) / (2 * variance)
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    mean_noise = level * offsets / variance
    mean_data = CLUSTERS + (1 - level) * WIDTH**2 * offsets / variance
    return weights @ (mean_noise - mean_data)


def sample(grid: fs.Grid, plan: fs.Plan | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The trajectory and the outputs of one run, by Euler's method; with a plan, its forecasts in between."""
    levels = [*grid, grid.final_level]
    x, outputs, trajectory = START, [], [START]
    for step in range(len(grid)):
        computed = plan is None or step in plan.computed_steps
        outputs.append(velocity(x, levels[step]) if computed else plan.rows[step, :step] @ np.array(outputs))
        x = x + (levels[step + 1] - levels[step]) * outputs[step]
        trajectory.append(x)
    return np.array(trajectory), np.array(outputs)


def draw(theme: str) -> None:
    """One figure."""
    ink, grey, colour = THEMES[theme]
    plan = POLICY.compile(GRID)
    reference, true_outputs = sample(GRID)
    ours, outputs = sample(GRID, plan)
    fewer, _ = sample(fs.Grid.uniform(plan.nfe))
    computed, forecast = list(plan.computed_steps), list(plan.forecast_steps)
    style = {
        "svg.hashsalt": "foreseer",
        "font.family": "sans-serif",
        "svg.fonttype": "path",
        "font.size": 11,
        "legend.fontsize": 9,
    }
    style |= dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), ink)
    with mpl.rc_context(style):
        figure, (plane, course) = plt.subplots(1, 2, figsize=(9.6, 3.9), layout="constrained")
        plane.plot(*reference.T, color=ink, lw=1.4, label="reference: all 24 steps computed")
        plane.plot(*fewer.T, color=grey, lw=1, ls="--", marker="x", ms=5, label="the sampler with 6 steps")
        plane.plot(*ours[forecast].T, "o", color=colour, mfc="none", ms=5, label="forecast step")
        plane.plot(*ours[computed].T, "o", color=colour, ms=6, label="computed step (6 of 24)")
        plane.plot(*START, marker="s", color=ink, ms=6)
        plane.annotate("noise", START, (6, 6), textcoords="offset points")
        plane.plot(*ours[-1], marker="s", color=colour, ms=5)
        plane.annotate("sample", reference[-1], (8, -4), textcoords="offset points")
        plane.set(xlabel="first coordinate", ylabel="second coordinate", title="The sample")
        steps = np.arange(len(GRID))
        course.plot(steps, true_outputs[:, 0], color=ink, lw=1.4)
        course.plot(forecast, outputs[forecast, 0], "o", color=colour, mfc="none", ms=5)
        course.plot(computed, outputs[computed, 0], "o", color=colour, ms=6)
        course.set(xlabel="step", ylabel="first coordinate", title="The network's output")
        for axes in (plane, course):
            axes.spines[["top", "right"]].set_visible(False)
        figure.legend(*plane.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(OUT / f"concept-{theme}.svg", transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(figure)


if __name__ == "__main__":
    for theme in THEMES:
        draw(theme)
