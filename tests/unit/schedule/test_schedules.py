"""Schedules name the published steps, hit a budget exactly, and never name a step that does not exist."""

from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreseer.errors import ScheduleError
from foreseer.grid import Grid
from foreseer.schedule import Explicit, Growing, Optimal, Schedule, Uniform, check_computed_steps

PUBLISHED_NFE = {  # of 50 steps; Spectrum's table 6
    "FORA 4": (Uniform(4.0, 1), 13),
    "FORA 6": (Uniform(6.0, 1), 9),
    "ToCa 4": (Uniform(4.0, 3), 14),
    "ToCa 6": (Uniform(6.0, 3), 10),
    "TaylorSeer 4": (Uniform(4.0, 5), 16),
    "TaylorSeer 6": (Uniform(6.0, 5), 12),
    "TaylorSeer 8": (Uniform(8.0, 5), 10),
    "TaylorSeer 2, alpha 3": (Growing(2.0, 5, 3.0), 10),
    "Spectrum 2, alpha 0.75": (Growing(2.0, 5, 0.75), 14),
    "Spectrum 2, alpha 3": (Growing(2.0, 5, 3.0), 10),
}
L2P_STEPS = {  # name in its tables: steps and NFE
    "5": ("0 1 2 4 6 9 14 23 30 37 44", 11),
    "6": ("0 1 2 4 7 14 23 31 38 45", 10),
    "7": ("0 1 2 4 9 17 26 35 43", 9),
    "8": ("0 1 2 4 10 20 31 41", 8),
    "10": ("0 1 2 4 12 24 38", 7),
    "16": ("0 1 2 4 16 32", 6),
}
RUNS = (8, 14, 28, 50, 100)


@pytest.mark.parametrize(("rule", "nfe"), PUBLISHED_NFE.values(), ids=PUBLISHED_NFE)
def test_rules_reproduce_the_published_evaluations(rule, nfe):
    assert len(rule.computed_steps(50)) == nfe


@pytest.mark.parametrize(
    ("alpha", "listed"), [(0.75, "0 1 2 3 4 6 8 11 15 20 25 31 38 46"), (3.0, "0 1 2 3 4 6 11 19 30 44")]
)
def test_growing_reproduces_the_published_steps(alpha, listed):
    assert Growing(2.0, 5, alpha).computed_steps(50) == tuple(map(int, listed.split()))


@pytest.mark.parametrize(("listed", "nfe"), L2P_STEPS.values(), ids=L2P_STEPS)
def test_explicit_serves_the_lists_of_l2p_on_fifty_steps_only(listed, nfe):
    steps = tuple(map(int, listed.split()))
    assert Explicit(steps, of=50).computed_steps(50) == steps
    assert len(steps) == nfe
    with pytest.raises(ScheduleError, match="50 steps"):
        Explicit(steps, of=50).computed_steps(60)
    with pytest.raises(ScheduleError, match=f"Step {steps[-1]} does not exist"):
        Explicit(steps).computed_steps(steps[-1])


@pytest.mark.parametrize("steps", RUNS)
@pytest.mark.parametrize("rule", [Uniform, Growing])
def test_every_budget_is_hit_exactly(rule, steps):
    counts = {}
    for nfe in range(1, steps + 1):
        try:
            counts[nfe] = len(rule.for_nfe(nfe, steps).computed_steps(steps))
        except ScheduleError as error:
            counts[nfe] = str(error)
    assert counts == {nfe: nfe for nfe in range(1, steps + 1)}


@pytest.mark.parametrize("steps", RUNS)
def test_a_uniform_budget_is_spread_evenly(steps):
    for nfe in range(2, steps + 1):
        computed = Uniform.for_nfe(nfe, steps).computed_steps(steps)
        gaps = [later - earlier for earlier, later in zip(computed, (*computed[1:], steps), strict=True)]
        assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(("nfe", "steps"), [(9, 50), (14, 50), (10, 28), (20, 100)])
def test_growing_takes_the_middle_alpha_of_a_budget(nfe, steps):
    rule = Growing.for_nfe(nfe, steps)
    fitting = [k / 64 for k in range(64 * steps + 1) if len(Growing(2.0, 5, k / 64).computed_steps(steps)) == nfe]
    assert (rule.interval, rule.warmup) == (2, 5)
    assert rule.alpha == pytest.approx((fitting[0] + fitting[-1]) / 2, abs=1 / 64)


@given(p=st.integers(1, 60), q=st.integers(1, 60), warmup=st.integers(1, 9), last=st.integers(0, 9), data=st.data())
def test_uniform_is_the_floor_of_exact_multiples(p, q, warmup, last, data):
    interval = 1 + Fraction(p, q)
    steps = data.draw(st.integers(1, 150))
    exact = {warmup - 1 + floor(k * interval) for k in range(1, steps + 1)} | set(range(warmup))
    exact |= set(range(max(0, steps - last), steps))
    expected = tuple(sorted(step for step in exact if step < steps))
    assert Uniform(float(interval), warmup, last).computed_steps(steps) == expected


@given(
    interval=st.fractions(1, 12, max_denominator=8),
    alpha=st.fractions(0, 9, max_denominator=64),
    warmup=st.integers(1, 9),
    steps=st.integers(1, 150),
)
def test_the_kth_growing_gap_is_the_floor_of_n_plus_k_alpha(interval, alpha, warmup, steps):
    computed = Growing(float(interval), warmup, float(alpha)).computed_steps(steps)
    assert computed[0] == 0
    assert computed[-1] < steps
    assert computed[:warmup] == tuple(range(min(warmup, steps)))
    gaps = [later - earlier for earlier, later in zip(computed[warmup - 1 :], computed[warmup:], strict=False)]
    assert gaps == [floor(interval + k * alpha) for k in range(len(gaps))]
    assert steps <= warmup or computed[-1] + floor(interval + len(gaps) * alpha) >= steps


@given(interval=st.integers(1, 20), warmup=st.integers(1, 12), steps=st.integers(1, 150))
def test_growing_without_growth_is_uniform(interval, warmup, steps):
    growing = Growing(float(interval), warmup, 0.0)
    assert growing.computed_steps(steps) == Uniform(float(interval), warmup).computed_steps(steps)


@given(steps=st.integers(1, 80), data=st.data())
def test_explicit_gives_back_any_valid_list(steps, data):
    chosen = (0, *sorted(data.draw(st.sets(st.integers(1, 79))) & set(range(steps))))
    assert Explicit(chosen).computed_steps(steps) == Explicit(list(chosen), of=steps).computed_steps(steps) == chosen
    assert eval(repr(Explicit(chosen, of=steps)), {"Explicit": Explicit}) == Explicit(chosen, of=steps)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Uniform(0.5),
        lambda: Uniform(float("nan")),
        lambda: Uniform(float("inf")),
        lambda: Uniform(2.0, 0),
        lambda: Uniform(2.0, 1, -1),
        lambda: Growing(0.0),
        lambda: Growing(2.0, 0),
        lambda: Growing(2.0, 5, -0.5),
        lambda: Growing(2.0, 5, float("nan")),
        lambda: Uniform.for_nfe(0, 50),
        lambda: Uniform.for_nfe(51, 50),
        lambda: Growing.for_nfe(0, 50),
        lambda: Growing.for_nfe(51, 50),
        lambda: Uniform(2.0).computed_steps(0),
        lambda: Growing().computed_steps(-3),
        lambda: Explicit(()),
        lambda: Explicit((1, 2)),
        lambda: Explicit((0, 2, 2)),
        lambda: Explicit((0, 4, 2)),
        lambda: Explicit((0, -1)),
        lambda: Explicit((0, 9), of=9),
        lambda: Explicit((0, 1.5)),
        lambda: Explicit((0, float("nan"))),
        lambda: Explicit((0, "two")),
        lambda: check_computed_steps((0, None), 9),
    ],
)
def test_what_is_no_schedule_is_refused(make, as_users_call):
    with pytest.raises(ScheduleError):
        make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Uniform("a"), "interval is 'a'; expected a finite number of at least 1"),
        (lambda: Uniform(None), "interval is None"),
        (lambda: Uniform(4, warmup="2"), "warmup is '2'; expected a whole number of at least 1"),
        (lambda: Uniform(4, warmup=True), "warmup is True"),
        (lambda: Uniform(4, last=1.5), "last is 1.5; expected a whole number of at least 0"),
        (lambda: Uniform.for_nfe("9", 50), "nfe is '9'"),
        (lambda: Uniform.for_nfe(9.5, 50), "nfe is 9.5"),
        (lambda: Uniform.for_nfe(9, None), "steps is None"),
        (lambda: Uniform.for_nfe(9, 50, "2"), "warmup is '2'"),
        (lambda: Growing("a"), "interval is 'a'"),
        (lambda: Growing(2, 5.0), "warmup is 5.0"),
        (lambda: Growing(2, 5, [1]), r"alpha is \[1\]; expected a finite number of at least 0"),
        (lambda: Growing.for_nfe(None, 50), "nfe is None"),
        (lambda: Growing.for_nfe(9, 50, interval="a"), "interval is 'a'"),
        (lambda: Explicit(5), "must be integers"),
        (lambda: Explicit((0, 1), of="50"), "of is '50'"),
        (lambda: Uniform(4).computed_steps("50"), "steps is '50'; expected a whole number of at least 1"),
        (lambda: Uniform(4).computed_steps(2.5), "steps is 2.5"),
        (lambda: Optimal("kernel", 9), "kernel is a str; expected a Kernel"),
    ],
)
def test_arguments_of_a_wrong_kind_are_refused_by_name(make, words, as_users_call):
    with pytest.raises(ScheduleError, match=words):
        make()


def test_whole_numbers_of_numpy_are_whole_numbers(as_users_call):
    assert Uniform(np.int64(4), np.int64(5)).computed_steps(np.int64(20)) == Uniform(4, 5).computed_steps(20)


def test_a_rule_of_ones_own_is_checked_like_the_others():
    class Backwards(Schedule):
        def _computed_steps(self, steps):
            return range(steps - 1, -1, -1)

    with pytest.raises(ScheduleError, match="ascend"):
        Backwards().computed_steps(4)
    assert Backwards().computed_steps(1) == (0,)


@pytest.mark.parametrize("rule", [Uniform.for_nfe(10, 50, 3), Growing.for_nfe(10, 50)])
def test_a_budget_of_which_some_is_spent_has_the_rest(rule):
    grid = Grid.uniform(50)
    assert rule.on(grid) == rule.computed_steps(50)
    for begun in (1, 10, 45):
        for spent in range(1, 12):
            assert len(rule.on(grid, begun, spent)) == min(max(1, 10 - spent), 50 - begun)
    anew = replace(rule, nfe=None)
    assert anew != rule  # equal rules do the same
    assert anew.on(grid, 10, 3) == rule.computed_steps(40)
