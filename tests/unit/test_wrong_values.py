"""Wrong values that once ended in an error of Python's, or in none: refused by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import foreseer as fs
from foreseer.errors import ForeseerError
from foreseer.evaluate.peers.tableau import Tableau
from foreseer.kernel.kernel_file import load_kernel, save_kernel
from foreseer.methods import policy_for
from foreseer.methods.profile import Profile
from foreseer.scale import Model
from tests.support.toy_gates import KERNEL

PLAN = fs.learned(KERNEL, nfe=4).compile(KERNEL.grid)
TABLEAU = {"times": np.array([1000.0, 500.0]), "start": np.ones(2), "weights": np.array([[-0.5, 0], [-0.5, -0.5]])}
NO_NUMBERS = ("x", {}, [["a"]], [1j, 2], [[1], [2, 3]])
NO_TEXT = (None, 5, {"a": 1}, {1: "a"}, {"a": None}, "x")
NO_PATH = (None, 5, [], PLAN, "", "\0")

WRONG = {
    "a plan's provenance": (lambda value: replace(PLAN, provenance=value), NO_TEXT, "text only"),
    "a kernel's provenance": (lambda value: fs.Kernel(KERNEL.grid, KERNEL.grams, provenance=value), NO_TEXT, "text"),
    "a profile's provenance": (lambda value: Profile(KERNEL, (PLAN,), value), NO_TEXT, "text only"),
    "a profile's plans": (lambda value: Profile(KERNEL, value), (None, 5, PLAN, "x", [None], [KERNEL]), "plan"),
    "a solver's times": (lambda value: Tableau(**{**TABLEAU, "times": value}), (None, *NO_NUMBERS), "times|shapes"),
    "a solver's start": (lambda value: Tableau(**{**TABLEAU, "start": value}), (None, *NO_NUMBERS), "start|shapes"),
    "a solver's weights": (lambda value: Tableau(**{**TABLEAU, "weights": value}), (None, *NO_NUMBERS), "weig|shapes"),
    "a solver's constant": (lambda value: Tableau(**TABLEAU, constant=value), NO_NUMBERS, "constant must|shapes"),
    "a solver's settings": (
        lambda value: Tableau(**TABLEAU, settings=value),
        (None, 5, [1], {"a": np.int64(1)}, {"a": {}.keys()}),
        "settings",
    ),
    "a file to write": (PLAN.save, NO_PATH, "path of a plan is"),
    "a file to read": (fs.Plan.load, NO_PATH, "path of a plan is"),
    "a kernel's file": (load_kernel, NO_PATH, "path of a kernel is"),
    "a kernel's file to write": (lambda value: save_kernel(KERNEL, value), NO_PATH, "path of a kernel is"),
    "a model's name": (Model, (None, 5, b"emoji", Path("emoji")), "name of a model is a"),
    "a level of quality": (lambda value: Profile(KERNEL).policy(quality=value), ([], {}, 5, "best"), "quality"),
    "a site": (lambda value: policy_for("taylorseer", nfe=3, site=value), ("", [], 5), "Unknown site"),
    "a quality without a profile": (lambda value: policy_for(None, quality=value), ([], 5, "best"), "Unknown quality"),
    "a site beside a quality": (lambda value: policy_for(None, quality="exact", site=value), ("", "x"), "site"),
}


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize("where", WRONG)
def test_a_wrong_value_is_named(where):
    call, values, message = WRONG[where]
    for value in values:
        with pytest.raises(ForeseerError, match=message):
            call(value)


def test_a_site_stays_when_every_step_is_computed():
    assert policy_for(None, quality="exact", site="last_block").site == "last_block"


def test_an_empty_name_is_not_the_default_method():
    with pytest.raises(ForeseerError, match="Unknown method ''"):
        policy_for("", speedup=2)
