"""Wrong values of shared calibration options are refused before the network runs."""

import math
from pathlib import Path

import numpy as np
import pytest

import foreseer as fs
from foreseer.calibration.fit_teacache import fit_teacache
from foreseer.errors import CalibrationError
from foreseer.evaluate.sampling.generate_many import Drawing, generate_many
from tests.unit.calibration.conftest import STEPS, TRAINING
from tests.unit.calibration.test_refine import CountedCalls

COMMANDS = {
    "calibrate": (fs.calibrate, {"num_inference_steps": STEPS}),
    "rollout": (fs.rollout, {"kernel": None, "nfe": 4}),
    "rollout by schedule": (fs.rollout, {"kernel": None}),
    "refine": (fs.refine, {"plan": None}),
    "mix_channels": (fs.mix_channels, {"plan": None}),
    "move_steps": (fs.move_steps, {"plan": None, "kernel": None, "max_passes": 100}),
    "tune": (fs.tune, {"budgets": [4], "num_inference_steps": STEPS}),
    "fit_teacache": (fit_teacache, {"num_inference_steps": STEPS}),
}
JOBS = [name for name in COMMANDS if name != "rollout by schedule"]
FITS = ("rollout", "refine", "mix_channels", "move_steps")
NOT_TEXTS = (None, 5, b"a word", [], {"a", "b"}, np.array(["a", "b"]), (text for text in "ab"), [5, 6], ["a", b"b"])
NOT_COUNTS = (0, -1, True, 1.5, math.nan, "x")
WRONG = [
    *[(name, "prompts", NOT_TEXTS, "prompts") for name in JOBS],
    *[(name, "seed", (None, "x", 1.5, True, -1, 2**70), "seed is") for name in JOBS],
    *[(name, "checkpoint", (5, "\0", "/dev/null/x"), "checkpoint in") for name in JOBS if name != "fit_teacache"],
    *[(name, "teacher_steps", (*NOT_COUNTS, STEPS - 1), f"teacher_steps is .* at least {STEPS}") for name in FITS],
    *[(name, "plan", (None, 5, "a.plan", {}), "plan is a .* expected a Plan") for name in FITS[1:]],
    *[(name, "kernel", (None, 5, "a.kernel"), "kernel is a .* a Kernel") for name in ("rollout", "move_steps")],
    *[(name, "held_out", (0, 1.5, "x", [], [5], len(TRAINING)), "held") for name in FITS[1:]],
    ("refine", "max_passes", NOT_COUNTS, "max_passes is"),
    ("rollout", "ridge", (None, -1, math.nan, "x"), "ridge is"),
    ("rollout by schedule", "schedule", ("x", 5, fs.schedule.Uniform), "schedule is a"),
    ("mix_channels", "channel_axis", (0, 5, 1.0, True, "x"), "channel axis is"),
    ("tune", "budgets", (5, {}, {4}, [0], ["4"], [STEPS + 1]), "budget"),
]


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize(("command", "option", "values", "message"), WRONG, ids=lambda value: str(value)[:20])
def test_a_wrong_value_is_refused_before_the_network_runs(loop, kernel, command, option, values, message):
    plan = fs.learned(kernel, nfe=4).compile(kernel.grid)
    function, arguments = COMMANDS[command]
    right = {name: {"plan": plan, "kernel": kernel}.get(name, value) for name, value in arguments.items()}
    calls = CountedCalls(loop.transformer)
    for value in values:
        with pytest.raises(CalibrationError, match=message):
            function(loop, **{"prompts": TRAINING[:4], **right, option: value})
    calls.remove()
    assert calls.count == 0


@pytest.mark.usefixtures("as_users_call")
def test_pictures_are_drawn_of_a_list_of_prompts_and_a_seed(tmp_path):
    for prompts in NOT_TEXTS:
        with pytest.raises(CalibrationError, match="prompts"):
            generate_many("nothing", prompts, Path(tmp_path), Drawing(4))
    with pytest.raises(CalibrationError, match="seed is"):
        Drawing(4, seed=2**70)


@pytest.mark.usefixtures("as_users_call")
def test_numpys_whole_numbers_count_as_pythons(loop, kernel):
    plan = fs.learned(kernel, nfe=4).compile(kernel.grid)
    found = fs.calibrate(loop, TRAINING[:1], num_inference_steps=STEPS, sensitivity_prompts=0, seed=np.int64(3))
    assert found.provenance["seed"] == "3"
    refined = [fs.refine(loop, plan, TRAINING[:2], max_passes=1, held_out=one, seed=one) for one in (1, np.int64(1))]
    assert refined[0].provenance == refined[1].provenance
