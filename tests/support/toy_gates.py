"""A toy world for gates: features that are smooth along the noise level, and a kernel of some of them."""

import numpy as np

import foreseer as fs

STEPS = 16
GRID = fs.Grid.uniform(STEPS)


def trajectories(prompts, wiggle=1.0, seed=0, width=64):
    """Features (prompts, T, width): a linear part, plus a Matern process (5/2) of size ``wiggle``."""
    numbers = np.random.default_rng(seed)
    t = GRID.levels
    distance = np.sqrt(5.0) * np.abs(t[:, None] - t) / 0.4
    root = np.linalg.cholesky((1 + distance + distance**2 / 3) * np.exp(-distance) + 1e-12 * np.eye(STEPS))
    straight = numbers.normal(size=(prompts, 1, width)) * (1 - t[None, :, None])
    sizes = wiggle * np.exp(0.4 * numbers.normal(size=(prompts, 1, 1)))
    return straight + sizes * (root @ numbers.normal(size=(prompts, STEPS, width)))


def kernel(prompts=12, sensitivity=2.0):
    """Second moments of toy features under Euler's method."""
    features = trajectories(prompts)
    grams = np.einsum("pid,pjd->pij", features, features) / features.shape[-1]
    lengths = -np.diff(np.append(GRID.levels, 0.0))
    finals = np.mean(np.einsum("i,pid->pd", lengths, features) ** 2, axis=1)
    sampler = np.eye(STEPS + 1)
    sampler[:, 0] = 1.0
    sampler[:, 1:] = np.tril(np.ones((STEPS + 1, STEPS)), -1) * lengths
    return fs.Kernel(GRID, grams, sampler, finals, sensitivity=sensitivity)


KERNEL = kernel()
