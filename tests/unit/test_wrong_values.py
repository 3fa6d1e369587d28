"""Wrong values that once ended in an error of Python's, or in none: refused by name."""

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import foreseer as fs
from foreseer.errors import ForeseerError
from foreseer.evaluate.peers.tableau import Tableau
from foreseer.kernel.kernel_file import save_kernel
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
    "a kernel's file": (fs.Kernel.load, NO_PATH, "path of a kernel is"),
    "a kernel's file to write": (lambda value: save_kernel(KERNEL, value), NO_PATH, "path of a kernel is"),
    "a model's name": (Model, (None, 5, b"emoji", Path("emoji")), "name of a model is a"),
    "a level of quality": (lambda value: Profile(KERNEL).policy(quality=value), ([], {}, 5, "best"), "quality"),
    "a site": (lambda value: policy_for("taylorseer", nfe=3, site=value), ("", [], 5), "Unknown site"),
    "a quality without a profile": (lambda value: policy_for(None, quality=value), ([], 5, "best"), "Unknown quality"),
    "a site beside a quality": (lambda value: policy_for(None, quality="exact", site=value), ("", "x"), "site"),
}


FLAGS = {
    "accelerate": (
        lambda **flag: fs.accelerate(object(), **flag),
        ("strict", "allow_other_network", "allow_other_guidance"),
    ),
    "Run": (lambda **flag: fs.Run(PLAN, PLAN.grid, **flag), ("warn", "parallel")),
    "tune": (lambda **flag: fs.tune(object(), ["a", "b"], **flag), ("mix",)),
    "Kernel.merge": (lambda **flag: KERNEL.merge(KERNEL, **flag), ("allow_overlap",)),
    "KernelRows": (lambda **flag: fs.forecast.KernelRows(KERNEL, **flag), ("sum_to_one",)),
    "Tokens": (fs.site.Tokens, ("alternate",)),
}
NOT_CALLED = {"Handle", "Failure"}  # made by Foreseer


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize("where", FLAGS)
def test_text_in_place_of_a_flag_is_named(where):
    call, names = FLAGS[where]
    for name in names:
        for value in ("no", 0, None):
            with pytest.raises(ForeseerError, match=f"^{name} is {value!r}; expected True or False"):
                call(**{name: value})


def test_every_flag_of_a_public_call_is_tried():
    rooms = [fs, fs.forecast, fs.schedule, fs.gate, fs.methods, fs.scale, fs.site]
    public = {name: getattr(room, name) for room in rooms for name in getattr(room, "__all__", vars(room))}
    public |= {f"Kernel.{name}": value for name, value in vars(fs.Kernel).items() if callable(value)}
    flags = {
        (name, parameter.name)
        for name, value in public.items()
        if callable(value) and getattr(value, "__module__", "").startswith("foreseer") and name not in NOT_CALLED
        if not (isinstance(value, type) and issubclass(value, BaseException))
        for parameter in inspect.signature(value).parameters.values()
        if parameter.annotation in (bool, "bool")
    }
    assert flags == {(name, flag) for name, (_, names) in FLAGS.items() for flag in names}


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
