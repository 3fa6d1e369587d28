"""Moments of branches, and rows fitted on them together."""

import copy
from dataclasses import replace

import numpy as np
import pytest

import foreseer as fs
from foreseer.errors import ForecastError
from foreseer.forecast.kernel_rows import KernelRows
from foreseer.kernel import Branches, Kernel, KernelError
from foreseer.kernel.branches import BranchesError
from foreseer.kernel.expected import final_errors, step_errors
from foreseer.kernel.interpolate import resampled
from foreseer.kernel.kernel_file import KernelFileError
from foreseer.kernel.level_interpolation import interpolation_weights
from foreseer.schedule.search import Search
from tests.unit.kernel.test_kernel import trajectories

NAMES, MIXING = ("cond", "uncond", "skip"), np.array([3.0, -2.5, 0.5])
COMPUTED, STEP, STEPS = (0, 1, 4, 8), 11, 16


def branch_features(prompts=3, size=60, seed=0):
    """Smooth features that differ by little from branch to branch, shape (prompts, branches, steps, size)."""
    common = trajectories(prompts, STEPS, size, seed)
    return np.stack([common + 0.3 * trajectories(prompts, STEPS, size, seed + 1 + b) for b in range(3)], axis=1)


def guided(features):
    return np.einsum("b,pbtd->ptd", MIXING, features)


def gram(features):
    return features @ features.transpose(0, 2, 1) / features.shape[-1]


def kernel_of(features, **options):
    together = features.reshape(len(features), -1, features.shape[-1])
    branches = Branches(NAMES, MIXING, gram(together))
    squares = np.ones(len(features))
    sampler = np.tril(np.ones((STEPS + 1, STEPS + 1)), -1) / STEPS + np.eye(STEPS + 1)
    return Kernel(fs.Grid.uniform(STEPS), gram(guided(features)), sampler, squares, branches=branches, **options)


def stacked(features):
    """(branches, steps, everything else), scaled as moments are."""
    scale = np.sqrt(features.shape[0] * features.shape[-1])
    return features.transpose(1, 2, 0, 3).reshape(*features.shape[1:3], -1) / scale


@pytest.mark.parametrize("ridge", [0.0, 1e-3])
@pytest.mark.parametrize("branch_weight", [0.0, 0.1, 2.0])
def test_rows_of_branches_equal_brute_force_least_squares_on_the_trajectories(ridge, branch_weight):
    features = branch_features()
    one = stacked(features)
    columns = one[:, list(COMPUTED)].reshape(12, -1)  # weights of the guided forecast: k_b w^b, branch by branch
    strength = ridge * np.square(columns).sum() / 12
    blocks, wanted = [columns.T], [MIXING @ one[:, STEP]]
    for b, weight in enumerate(MIXING):
        apart = np.zeros_like(columns)
        apart[4 * b : 4 * b + 4] = columns[4 * b : 4 * b + 4]
        blocks.append(np.sqrt(branch_weight) * apart.T)
        wanted.append(np.sqrt(branch_weight) * weight * one[b, STEP])
    blocks.append(np.sqrt(strength) * np.eye(12))
    found = np.linalg.lstsq(np.vstack(blocks), np.concatenate([*wanted, np.zeros(12)]), rcond=None)[0]
    rows = KernelRows(kernel_of(features), ridge=ridge, branch_weight=branch_weight).branch_rows(
        (*COMPUTED, 12), fs.Grid.uniform(STEPS)
    )
    assert tuple(rows) == NAMES
    for b, name in enumerate(NAMES):
        expected = found[4 * b : 4 * b + 4] / MIXING[b]
        assert rows[name][STEP][list(COMPUTED)] == pytest.approx(expected, abs=1e-6)


def test_rows_of_branches_forecast_the_guided_output_better_than_shared_ones():
    kernel = kernel_of(branch_features())
    forecaster = KernelRows(kernel, ridge=0.0, branch_weight=0.0)
    shared, own_rows = (ask(COMPUTED, kernel.grid) for ask in (forecaster.rows, forecaster.branch_rows))
    skipped = sorted(set(range(STEPS)) - set(COMPUTED))
    together, apart = (np.square(step_errors(kernel, shared, rows)).mean(axis=0)[skipped] for rows in ({}, own_rows))
    assert np.sum(apart) < 0.95 * np.sum(together)


def test_expected_errors_with_rows_of_branches_are_those_of_the_recorded_runs():
    features = branch_features()
    kernel = kernel_of(features, sensitivity=0.0)
    forecaster = KernelRows(kernel)
    shared, own_rows = (ask(COMPUTED, kernel.grid) for ask in (forecaster.rows, forecaster.branch_rows))
    forecast = sum(k * own_rows[name] @ features[:, b] for b, (name, k) in enumerate(zip(NAMES, MIXING, strict=True)))
    missed = guided(features) - forecast
    expected = np.linalg.norm(missed, axis=2) / np.linalg.norm(guided(features), axis=2)
    assert step_errors(kernel, shared, own_rows) == pytest.approx(expected, abs=1e-7)
    final = np.einsum("t,ptd->pd", kernel.final_weights, missed)
    assert final_errors(kernel, shared, own_rows) == pytest.approx(np.sqrt(np.mean(final**2, axis=1)), rel=1e-6)


def test_the_search_costs_what_rows_of_branches_cost():
    kernel = kernel_of(branch_features())
    corrected = [KernelRows(kernel, ridge=1e-5, feedback_gain=gain) for gain in (0.0, 0.5, 1.0)]
    for forecaster in (*corrected, fs.forecast.TaylorSeer(order=2)):
        rows = forecaster.rows(COMPUTED, kernel.grid), forecaster.branch_rows(COMPUTED, kernel.grid)
        expected = np.sqrt(np.mean(final_errors(kernel, *rows) ** 2))
        assert Search(kernel, forecaster).cost(COMPUTED) == pytest.approx(expected, rel=1e-6)


def test_branches_shrink_toward_the_prior_and_constants_are_kept():
    kernel = kernel_of(branch_features())
    prior = fs.forecast.Newton(order=1)
    strong = KernelRows(kernel, ridge=1e9, prior=prior).branch_rows(COMPUTED, kernel.grid)
    expected = prior.rows(COMPUTED, kernel.grid)
    constant = KernelRows(kernel, ridge=1e-3, sum_to_one=True).branch_rows(COMPUTED, kernel.grid)
    free = KernelRows(kernel, ridge=1e-3).branch_rows(COMPUTED, kernel.grid)
    for name in NAMES:
        assert strong[name] == pytest.approx(expected, abs=1e-6)
        assert constant[name].sum(axis=1) == pytest.approx(1.0, abs=1e-9)
        assert np.abs(free[name].sum(axis=1) - 1).max() > 1e-4
    with pytest.raises(ForecastError, match="branch_weight"):
        KernelRows(kernel, branch_weight=-1.0)


def test_branches_are_interpolated_each_along_the_noise_level():
    features = branch_features()
    kernel = kernel_of(features)
    grid = resampled(kernel.grid, 11)
    moved = kernel.on(grid)
    weights = interpolation_weights(kernel.grid.levels, grid.levels)
    there = gram((weights @ features).reshape(len(features), 33, -1))
    unsure = moved.branches.grams - there
    assert np.linalg.eigvalsh(unsure[0]).min() > -1e-12
    assert 0 < np.linalg.norm(unsure) < 0.02 * np.linalg.norm(there)
    assert moved.grams == pytest.approx(
        moved.branches.guided @ moved.branches.grams @ moved.branches.guided.T, abs=1e-9
    )
    rows = KernelRows(kernel).branch_rows((0, 3, 6), grid)
    assert [rows[name].shape for name in NAMES] == [(11, 11)] * 3


def test_branches_are_merged_and_parted_with_their_prompts():
    features = branch_features()
    kernel, other = kernel_of(features[:2]), replace(kernel_of(features[2:]), drift=4.0)
    merged = kernel.merge(other)
    assert merged.drift == pytest.approx((2 * kernel.drift + len(features[2:]) * 4) / len(features))
    assert merged.branches.grams == pytest.approx(kernel_of(features).branches.grams)
    assert np.array_equal(merged.subset([2]).branches.grams, other.branches.grams)
    without = kernel.merge(replace(other, branches=None))
    assert without.branches is None
    assert "share their rows" in without.provenance["branches"]


def test_branches_under_other_guidance_are_not_merged():
    features = branch_features()
    kernel, added = kernel_of(features[:2]), kernel_of(features[2:])
    mixing = MIXING * 1.05
    scale = np.repeat(MIXING / mixing, STEPS)
    other = Branches(NAMES, mixing, added.branches.grams * np.multiply.outer(scale, scale))
    merged = kernel.merge(replace(added, branches=other))
    assert merged.branches is None
    assert "share their rows" in merged.provenance["branches"]


def test_branches_come_back_from_files_and_copies(tmp_path):
    kernel, file = kernel_of(branch_features()), tmp_path / "a.kernel.safetensors"
    kernel.save(file)
    for again in (Kernel.load(file), copy.deepcopy(kernel)):
        assert again.branches.names == NAMES
        assert np.array_equal(again.branches.mixing, MIXING)
        assert np.array_equal(again.branches.grams, kernel.branches.grams)
    content, generator = file.read_bytes(), np.random.default_rng(1)
    for _ in range(50):
        damaged = bytearray(content)
        damaged[int(generator.integers(8, len(content)))] ^= 1 << int(generator.integers(8))
        file.write_bytes(bytes(damaged))
        with pytest.raises(KernelFileError):
            Kernel.load(file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": ("cond",)}, "two distinct names"),
        ({"names": ("cond", "cond", "skip")}, "distinct"),
        ({"mixing": MIXING[:2]}, "finite numbers"),
        ({"mixing": np.array([1.0, 0.0, 1.0])}, "other than 0"),
        ({"mixing": np.array([1.0, np.nan, 1.0])}, "finite numbers"),
        ({"grams": np.zeros((2, 3 * STEPS, 3 * STEPS - 1))}, "shape"),
        ({"grams": np.zeros((2, 3 * STEPS - 1, 3 * STEPS - 1))}, "shape"),
        ({"grams": np.full((2, 3 * STEPS, 3 * STEPS), np.inf)}, "finite"),
        ({"grams": np.triu(np.ones((2, 3 * STEPS, 3 * STEPS)))}, "symmetric"),
    ],
)
def test_branches_that_do_not_belong_together_are_refused(as_users_call, change, words):
    with pytest.raises(BranchesError, match=words):
        replace(kernel_of(branch_features()).branches, **change)


def test_branches_of_other_runs_are_refused():
    kernel = kernel_of(branch_features())
    for branches in (
        kernel.branches.subset([0]),
        replace(kernel.branches, grams=kernel.branches.grams[:, : 3 * 9, : 3 * 9]),
    ):
        with pytest.raises(KernelError, match="expected 3 of 16"):
            replace(kernel, branches=branches)
    with pytest.raises(KernelError, match="combined"):
        replace(kernel, branches=replace(kernel.branches, mixing=2 * MIXING))
