"""Kernels that count noise of the network's outputs."""

import numpy as np
import pytest

import foreseer as fs
from foreseer.forecast.kernel_rows import KernelRows
from foreseer.kernel import Branches, Kernel, KernelError

STEPS, COMPUTED, NOISE = 16, (0, 1, 3, 6, 10), 0.02
GRID = fs.Grid.uniform(STEPS)


def smooth(prompts=5, size=400):
    """Smooth features without noise, shape (prompts, STEPS, size)."""
    t = GRID.levels
    basis = np.stack([np.ones(STEPS), t, np.exp(-4 * t), np.sin(3 * t), t**3], axis=1)
    return basis @ np.random.default_rng(0).standard_normal((prompts, 5, size))


def gram(features):
    return features @ features.transpose(0, 2, 1) / features.shape[2]


def test_counted_noise_lowers_the_gain_and_the_error_on_noisy_features():
    features = smooth()
    kernel = Kernel(GRID, gram(features), np.eye(STEPS + 1), np.ones(len(features)))
    sizes = np.sqrt((features**2).mean(axis=2, keepdims=True))
    noisy = features + NOISE * sizes * np.random.default_rng(1).standard_normal(features.shape)
    gains, errors = [], []
    for recorded in (kernel, kernel.with_noise(NOISE)):
        plan = fs.Policy(fs.schedule.Explicit(COMPUTED, of=STEPS), KernelRows(recorded)).compile(GRID)
        gains.append(np.mean([forecast.l2_gain for forecast in plan.explain().forecasts]))
        errors.append(np.sqrt(np.mean((plan.rows @ noisy - noisy)[:, list(plan.forecast_steps)] ** 2)))
    assert gains[1] < 0.5 * gains[0]
    assert errors[1] < 0.5 * errors[0]


def test_noise_of_branches_adds_up_in_their_combination():
    features, mixing = smooth(2), np.array([3.0, -2.0])
    pair = np.concatenate([features, 0.9 * features[:, ::-1]], axis=1)
    branches = Branches(("cond", "uncond"), mixing, gram(pair))
    guided = branches.guided @ pair
    kernel = Kernel(GRID, gram(guided), np.eye(STEPS + 1), np.ones(2), branches=branches).with_noise(NOISE)
    assert kernel.branches is not None
    assert kernel.grams == pytest.approx(branches.guided @ kernel.branches.grams @ branches.guided.T, rel=1e-9)
    assert np.diag(kernel.branches.pooled) == pytest.approx((1 + NOISE**2) * np.diag(branches.pooled))


def test_counted_noise_is_recorded_and_kept_apart():
    kernel = Kernel(GRID, gram(smooth()), np.eye(STEPS + 1), np.ones(5))
    twice = kernel.with_noise(0.03).with_noise(0.04)
    assert float(twice.provenance["noise"]) == pytest.approx(0.05)
    with pytest.raises(KernelError, match="noise"):
        kernel.merge(twice, allow_overlap=True)
    with pytest.raises(KernelError, match="noise"):
        kernel.with_noise(-0.1)
