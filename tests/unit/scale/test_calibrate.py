"""Kernels and plans are equal bit for bit wherever they are made and whichever workers die."""

import numpy as np
import pytest

import foreseer as fs
from foreseer.errors import CalibrationError, ScaleError
from foreseer.kernel.kernel_file import encode_kernel
from foreseer.methods.learned import searches_with_feedback
from foreseer.plan.file import digest_of
from foreseer.scale import Here
from tests.unit.scale.loopback import Loopback
from tests.unit.scale.models import loop

PROMPTS = [f"training prompt {index}" for index in range(3)]
OPTIONS = {"num_inference_steps": 8, "guidance_scale": 3.0, "sensitivity_prompts": 1}
LOOP = "tests.unit.scale.models:loop"


@pytest.fixture(scope="module")
def local():
    return fs.calibrate(loop(), PROMPTS, **OPTIONS)


@pytest.fixture(scope="module")
def rolled(local):
    return fs.rollout(loop(), local, PROMPTS, nfe=3, guidance_scale=3.0)


def rows_of(plan):
    return [plan.rows, *plan.branch_rows.values(), *plan.cross_rows.values()]


def equal(plan, other):
    return (
        plan.computed_steps == other.computed_steps
        and [*plan.branch_rows] == [*other.branch_rows]
        and plan.provenance == other.provenance
        and all(np.array_equal(mine, its) for mine, its in zip(rows_of(plan), rows_of(other), strict=True))
    )


def test_a_worker_that_dies_at_any_unit_changes_no_bit_of_a_kernel(local):
    undisturbed = Loopback(2)
    assert encode_kernel(fs.calibrate(LOOP, PROMPTS, workers=undisturbed, **OPTIONS)) == encode_kernel(local)
    assert undisturbed.requests == 2 + 3 + 1  # identities, prompts, the response
    for death in range(1, undisturbed.requests + 1):
        place = Loopback(2, [death], seed=death)
        assert encode_kernel(fs.calibrate(LOOP, PROMPTS, workers=place, **OPTIONS)) == encode_kernel(local)
        assert place.requests == undisturbed.requests + 1


def test_a_worker_that_dies_at_any_unit_changes_no_bit_of_a_rollout(local, rolled):
    undisturbed = Loopback(2)
    assert equal(fs.rollout(LOOP, local, PROMPTS, nfe=3, workers=undisturbed, guidance_scale=3.0), rolled)
    sets = len(searches_with_feedback(local, nfe=3))
    assert undisturbed.requests == 2 + 1 + 3 + sets * 3 * 3  # identities, the matrix, references, segments
    for death in range(1, undisturbed.requests + 1):
        place = Loopback(2, [death], seed=death)
        assert equal(fs.rollout(LOOP, local, PROMPTS, nfe=3, workers=place, guidance_scale=3.0), rolled)
        assert place.requests == undisturbed.requests + 1
    assert rolled.branch_rows


@pytest.mark.parametrize(("fit", "more"), [(fs.refine, {"iterations": 1}), (fs.mix_channels, {})])
def test_workers_that_die_change_no_bit_of_a_refinement_nor_of_mixed_channels(rolled, fit, more):
    here = fit(loop(), rolled, PROMPTS, guidance_scale=3.0, **more)
    undisturbed = Loopback(2)
    assert digest_of(fit(LOOP, rolled, PROMPTS, workers=undisturbed, guidance_scale=3.0, **more)) == digest_of(here)
    for first in (1, 3):
        place = Loopback(2, range(first, undisturbed.requests, 4), seed=first)
        assert digest_of(fit(LOOP, rolled, PROMPTS, workers=place, guidance_scale=3.0, **more)) == digest_of(here)
        assert place.requests > undisturbed.requests
    assert digest_of(here) != digest_of(rolled)


def test_a_worker_that_dies_anywhere_changes_no_bit_of_a_profile():
    options = {"budgets": (3,), "num_inference_steps": 6, "iterations": 1, "guidance_scale": 3.0, "mix": False}
    here = fs.tune(loop(), PROMPTS, **options)
    undisturbed = Loopback(2)
    tuned = fs.tune(LOOP, PROMPTS, workers=undisturbed, **options)
    place = Loopback(2, range(5, undisturbed.requests, 9), seed=3)
    disturbed = fs.tune(LOOP, PROMPTS, workers=place, **options)
    for profile in (tuned, disturbed):
        assert encode_kernel(profile.kernel) == encode_kernel(here.kernel)
        assert equal(profile.plans[0], here.plans[0])
    assert "1 iterations on 2 prompts" in here.plans[0].provenance["refined"]


def test_a_worker_that_dies_anywhere_moves_the_same_steps(local):
    options = {"max_passes": 42, "guidance_scale": 3.0}
    bad = fs.rollout(loop(), local, PROMPTS[:2], schedule=fs.schedule.Explicit((0, 1, 7), of=8), guidance_scale=3.0)
    here, undisturbed = fs.move_steps(loop(), bad, local, PROMPTS, **options), Loopback(2)
    assert here.computed_steps != bad.computed_steps
    assert equal(fs.move_steps(LOOP, bad, local, PROMPTS, workers=undisturbed, **options), here)
    place = Loopback(2, range(3, undisturbed.requests, 5), seed=4)
    assert equal(fs.move_steps(LOOP, bad, local, PROMPTS, workers=place, **options), here)
    assert place.requests > undisturbed.requests


def test_branches_at_steps_of_their_own_and_a_finer_teacher(local):
    options = {"guidance_scale": 3.0, "teacher_steps": 16}
    here = fs.rollout(loop(), local, PROMPTS, forward_passes=7, **options)
    there = fs.rollout(LOOP, local, PROMPTS, forward_passes=7, workers=Loopback(3, [6, 10, 14]), **options)
    assert equal(here, there)
    unguided = fs.calibrate(loop(), PROMPTS, num_inference_steps=8)
    here = fs.rollout(loop(), unguided, PROMPTS, nfe=3)
    assert equal(here, fs.rollout(LOOP, unguided, PROMPTS, nfe=3, workers=Loopback(2, [7, 9])))
    assert not here.branch_rows


class BrokenOffError(Exception):
    """Stands for Ctrl-C, or the death of the driver: nothing after it runs."""


def test_a_driver_that_is_broken_off_anywhere_continues_in_another_place(local, rolled, tmp_path):
    sets = len(searches_with_feedback(local, nfe=3))
    total = 3 * 8 + sets * 3 * 3
    for number, stop in enumerate((8, 24, 25, 28, total - 1)):
        folder = tmp_path / str(stop)

        def progress(done, whole, stop=stop):
            assert whole == total
            if done == stop:
                raise BrokenOffError

        options = {"nfe": 3, "guidance_scale": 3.0, "checkpoint": folder}
        with pytest.raises(BrokenOffError):
            fs.rollout(LOOP, local, PROMPTS, workers=Loopback(2, seed=number), progress=progress, **options)
        kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.unit")}
        assert len(kept) >= (stop // 8 if stop <= 24 else 3 + stop - 24)
        elsewhere = Loopback(3) if number % 2 else Here()
        model = LOOP if number % 2 else loop()
        assert equal(fs.rollout(model, local, PROMPTS, workers=elsewhere, **options), rolled)
        assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
        assert len(list(folder.glob("*.unit"))) == 3 + sets * 9


def test_a_calibration_continues_in_another_place(local, tmp_path):
    def progress(done, total):
        if done == 2:
            raise BrokenOffError

    with pytest.raises(BrokenOffError):
        fs.calibrate(LOOP, PROMPTS, workers=Loopback(2), checkpoint=tmp_path, progress=progress, **OPTIONS)
    seen = []
    kernel = fs.calibrate(loop(), PROMPTS, checkpoint=tmp_path, progress=lambda *done: seen.append(done), **OPTIONS)
    assert seen == [(2, 4), (3, 4), (4, 4)]
    assert encode_kernel(kernel) == encode_kernel(local)


def test_workers_need_a_name_and_one_model():
    with pytest.raises(ScaleError, match="give its name, its folder, or 'module:function'"):
        fs.calibrate(loop(), PROMPTS, workers=Loopback(), **OPTIONS)
    with pytest.raises(ScaleError, match=r"Cannot find 'tests\.unit\.scale\.models:nothing'"):
        fs.calibrate("tests.unit.scale.models:nothing", PROMPTS, workers=Loopback(), **OPTIONS)
    with pytest.raises(CalibrationError, match=r"workers' pipelines differ \(weights; on "):
        fs.calibrate("tests.unit.scale.models:different", PROMPTS, workers=Loopback(), **OPTIONS)


def test_a_place_that_is_entered_keeps_its_workers_for_all_calls(local, rolled):
    with Loopback(2) as place:
        kernel = fs.calibrate(LOOP, PROMPTS, workers=place, **OPTIONS)
        workers = dict(place._pool.workers)
        for _ in range(2):
            assert equal(fs.rollout(LOOP, kernel, PROMPTS, nfe=3, workers=place, guidance_scale=3.0), rolled)
        assert place._pool.workers == workers
    assert place._pool is None


@pytest.mark.slow
def test_processes_that_are_killed_give_the_same_kernel(local, two, deaths):
    for prompt in ("0", "2"):
        (deaths / prompt).touch()
    kernel = fs.calibrate("tests.unit.scale.models:mortal", PROMPTS, workers=two, **OPTIONS)
    assert encode_kernel(kernel) == encode_kernel(local)
    assert not list(deaths.iterdir())
