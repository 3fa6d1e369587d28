"""Rows of branches with separate computed steps, against least squares on trajectories."""

import dataclasses

import numpy as np
import pytest

import foreseer as fs
from foreseer.errors import ForecastError, ScheduleError
from foreseer.forecast import KernelRows
from foreseer.kernel.expected import final_errors
from foreseer.methods.learned import schedule_with_feedback, searches_with_feedback
from foreseer.schedule import Joint, Optimal
from foreseer.schedule.joint import JointSearch
from tests.unit.kernel.test_branches import MIXING, NAMES, STEPS, branch_features, guided, kernel_of, stacked

APART = {"cond": (0, 1, 4, 6, 9), "uncond": (0, 3, 9), "skip": (0, 6)}
COMPUTED = (0, 1, 3, 4, 6, 9)


def fitted(designs, targets, branch_weight, ridge):
    """Least squares over stacked k_b w_b, with each branch's forecast and a ridge as further rows."""
    columns = np.vstack(designs)
    strength = ridge * np.square(columns).sum() / len(columns)
    blocks, wanted, first = [columns.T], [sum(targets)], 0
    for design, target in zip(designs, targets, strict=True):
        apart = np.zeros_like(columns)
        apart[first : first + len(design)] = design
        blocks.append(np.sqrt(branch_weight) * apart.T)
        wanted.append(np.sqrt(branch_weight) * target)
        first += len(design)
    blocks.append(np.sqrt(strength) * np.eye(len(columns)))
    return np.linalg.lstsq(np.vstack(blocks), np.concatenate([*wanted, np.zeros(len(columns))]), rcond=None)[0]


@pytest.mark.parametrize("branch_weight", [0.1, 1.0])
def test_a_branch_left_out_of_a_step_is_fitted_on_its_past_and_on_what_others_gave_until_then(branch_weight):
    features, ridge, step = branch_features(), 1e-3, 6
    one = stacked(features)
    rows, cross = (ask(COMPUTED, kernel_of(features).grid, APART) for ask in both(features, branch_weight, ridge))
    assert rows["cond"][step, step] == rows["skip"][step, step] == 1.0
    design = np.vstack([one[1, [0, 3]], one[0, [0, 1, 4, 6]]])
    found = fitted([design], [MIXING[1] * one[1, step]], branch_weight, ridge) / MIXING[1]
    assert rows["uncond"][step][[0, 3]] == pytest.approx(found[:2], abs=1e-6)
    assert cross["uncond", "cond"][step][[0, 1, 4, 6]] == pytest.approx(found[2:], abs=1e-6)
    assert ("cond", "uncond") not in cross


def test_two_branches_left_out_of_a_step_are_fitted_together():
    features, branch_weight, ridge, step = branch_features(), 0.1, 1e-3, 3
    one = stacked(features)
    rows, cross = (ask(COMPUTED, kernel_of(features).grid, APART) for ask in both(features, branch_weight, ridge))
    designs = [one[0, [0, 1]], np.vstack([one[2, [0]], one[0, [0, 1]], one[1, [0, 3]]])]
    found = fitted(designs, [MIXING[0] * one[0, step], MIXING[2] * one[2, step]], branch_weight, ridge)
    assert rows["cond"][step][[0, 1]] == pytest.approx(found[:2] / MIXING[0], abs=1e-6)
    assert rows["skip"][step][0] == pytest.approx(found[2] / MIXING[2], abs=1e-6)
    assert cross["skip", "cond"][step][[0, 1]] == pytest.approx(found[3:5] / MIXING[2], abs=1e-6)
    assert cross["skip", "uncond"][step][[0, 3]] == pytest.approx(found[5:] / MIXING[2], abs=1e-6)


def both(features, branch_weight, ridge):
    forecaster = KernelRows(kernel_of(features), ridge=ridge, branch_weight=branch_weight)
    return forecaster.branch_rows, forecaster.cross_rows


def test_where_no_branch_computes_each_weighs_its_own_features():
    features, branch_weight, ridge, step = branch_features(), 0.1, 1e-3, 8
    one = stacked(features)
    rows, cross = (ask(COMPUTED, kernel_of(features).grid, APART) for ask in both(features, branch_weight, ridge))
    known = [[0, 1, 4, 6], [0, 3], [0, 6]]
    found = fitted(
        [one[b, k] for b, k in enumerate(known)], [MIXING[b] * one[b, step] for b in range(3)], branch_weight, ridge
    )
    for b, part in enumerate(np.split(found, [4, 6])):
        assert rows[NAMES[b]][step][known[b]] == pytest.approx(part / MIXING[b], abs=1e-6)
    assert not any(matrix[step].any() for matrix in cross.values())


def test_with_every_branch_at_every_computed_step_rows_are_those_of_before():
    kernel, computed = kernel_of(branch_features()), (0, 1, 4, 8)
    forecaster = KernelRows(kernel)
    rows = forecaster.branch_rows(computed, kernel.grid, dict.fromkeys(NAMES, computed))
    plain = forecaster.branch_rows(computed, kernel.grid)
    steps = np.arange(9, STEPS)
    segment = forecaster.branch_segment(np.array(computed), steps, kernel.grid)
    for b, name in enumerate(NAMES):
        assert np.array_equal(rows[name], plain[name])
        assert plain[name][np.ix_(steps, computed)] == pytest.approx(segment[b], abs=1e-12)
    assert not forecaster.cross_rows(computed, kernel.grid)


def test_expected_errors_count_what_is_taken_from_other_branches():
    features = branch_features()
    kernel = kernel_of(features, sensitivity=0.0)
    rows, cross = (ask(COMPUTED, kernel.grid, APART) for ask in both(features, 0.1, 1e-6))
    forecast = sum(k * rows[name] @ features[:, b] for b, (name, k) in enumerate(zip(NAMES, MIXING, strict=True)))
    for (branch, other), matrix in cross.items():
        forecast = forecast + MIXING[NAMES.index(branch)] * matrix @ features[:, NAMES.index(other)]
    final = np.einsum("t,ptd->pd", kernel.final_weights, guided(features) - forecast)
    shared = KernelRows(kernel).rows(COMPUTED, kernel.grid)
    assert final_errors(kernel, shared, rows, cross) == pytest.approx(np.sqrt(np.mean(final**2, axis=1)), rel=1e-6)


def test_rows_that_steer_leave_less_of_the_final_error():
    kernel = kernel_of(branch_features(), sensitivity=0.0)
    errors = []
    for feedback_gain in (0.0, 0.5, 1.0):
        forecaster = KernelRows(kernel, feedback_gain=feedback_gain)
        apart = (ask(COMPUTED, kernel.grid, APART) for ask in (forecaster.branch_rows, forecaster.cross_rows))
        found = final_errors(kernel, forecaster.rows(COMPUTED, kernel.grid), *apart)
        errors.append(float(np.sqrt(np.mean(found**2))))
    assert errors[2] < errors[1] < errors[0]
    calls = tuple((step, sum(2**b for b, name in enumerate(NAMES) if step in APART[name])) for step in COMPUTED)
    assert errors[2] == pytest.approx(JointSearch(kernel).cost(calls), rel=0.05)


def test_an_unknown_branch_is_refused():
    kernel = kernel_of(branch_features())
    with pytest.raises(ForecastError, match="third"):
        KernelRows(kernel).branch_rows(COMPUTED, kernel.grid, {"third": (0, 1)})


@pytest.mark.parametrize("evaluations", [3, 7, 12, 20])
def test_the_search_keeps_the_budget_and_is_no_worse_than_all_branches_together(evaluations):
    kernel = kernel_of(branch_features())
    joint, search = Joint(kernel, evaluations), JointSearch(kernel)
    computed, apart = joint.on(kernel.grid), joint.branch_steps(kernel.grid)
    calls = tuple((step, sum(2**b for b, n in enumerate(NAMES) if step in apart.get(n, computed))) for step in computed)
    assert sum(who.bit_count() for _, who in calls) == evaluations
    assert calls[0] == (0, 7)
    together = tuple((step, 7) for step in Optimal(kernel, nfe=evaluations // 3).on(kernel.grid))
    assert search.cost(calls) <= search.cost(together)
    assert joint.computed_steps(STEPS) == computed
    late = joint.on(kernel.grid, 5)
    assert late[0] == 0
    assert late[-1] < STEPS - 5


def test_budgets_and_kernels_that_do_not_fit_are_refused():
    kernel = kernel_of(branch_features())
    with pytest.raises(ScheduleError, match="2 forward passes"):
        Joint(kernel, 2)
    from dataclasses import replace

    with pytest.raises(ScheduleError, match="no branches"):
        Joint(replace(kernel, branches=None), 6)
    assert Joint(kernel, 3 * STEPS + 4).on(kernel.grid) == tuple(range(STEPS))


def test_feedback_without_branches_corrects_the_predicted_part_of_the_error_so_far():
    """By hand: the error of the sample so far, projected on the computed features."""
    features = np.random.default_rng(3).standard_normal((6, 40)) * np.array([4, 3, 2, 2, 1, 1])[:, None]
    grid, computed, gain = fs.Grid.uniform(6), (0, 2, 4), 0.5
    kernel = fs.Kernel(grid, (features @ features.T / 40)[None])
    rows = KernelRows(kernel, ridge=0.0, feedback_gain=gain).rows(computed, grid)
    plain = KernelRows(kernel, ridge=0.0).rows(computed, grid)
    before = list(computed)
    missed = (features - rows @ features)[:4].sum(axis=0) / 6 + (features - plain @ features)[5] / 6
    predicted = np.linalg.lstsq(features[before].T, missed, rcond=None)[0]
    assert rows[5, before] == pytest.approx(plain[5, before] + gain * 6 * predicted, abs=1e-9)
    assert rows[1] == pytest.approx(plain[1], abs=1e-9)  # nothing was missed before
    kernel = dataclasses.replace(kernel, final_squares=np.ones(1))
    errors = [final_errors(kernel, weights)[0] for weights in (plain, rows)]
    assert errors[1] < errors[0]


def test_branches_that_compute_together_have_the_steps_searched_with_feedback(monkeypatch):
    kernel = kernel_of(branch_features())
    together = {share: ((0, 7), (3 + index, 7)) for index, share in enumerate((0.25, 0.0, 0.5, 1.0))}
    whole = kernel.sensitivity
    monkeypatch.setattr(JointSearch, "best", lambda search, passes: together[search._kernel.sensitivity / whole])
    rules = searches_with_feedback(kernel, forward_passes=6)
    assert all(isinstance(rule, Optimal) and not rule.branch_steps(kernel.grid) for rule in rules)
    sets = {rule.on(kernel.grid) for rule in rules}
    expected = {schedule_with_feedback(kernel, nfe=2, share=s, feedback_gain=1.0).on(kernel.grid) for s in together}
    assert (len(rules), sets) == (len(expected), expected)
    policy = fs.learned(kernel, forward_passes=6)
    assert policy.schedule.on(kernel.grid) == schedule_with_feedback(kernel, nfe=2).on(kernel.grid)
    monkeypatch.setattr(JointSearch, "best", lambda search, passes: ((0, 7), (4, 1), (6, 7)))
    rules = searches_with_feedback(kernel, forward_passes=7)
    assert [type(rule) for rule in rules] == [Joint]
