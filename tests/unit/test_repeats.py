"""Rules for repeated tests name tests that exist, and keep some of them."""

import re
from pathlib import Path

import pytest

from tests.repeats import KEPT, is_repeated

TESTS = Path(__file__).parents[1]


def test_every_rule_names_a_test():
    defined = {
        name for path in TESTS.rglob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert {*KEPT} <= defined


@pytest.mark.parametrize(
    ("name", "repeated"),
    [
        ("test_a_second_run_is_the_first_again[flux-output]", False),
        ("test_a_second_run_is_the_first_again[flux_fill-output]", True),
        ("test_each_branch_computes_the_steps_of_its_plan[flux_fill-output-growing]", False),
        ("test_each_branch_computes_the_steps_of_its_plan[flux_fill-output-uniform]", True),
        ("test_a_changed_setting_is_served_as_by_a_fresh_attachment[sana-last_block-size]", False),
        ("test_an_exception_before_a_call[sd3-2-output]", False),
        ("test_an_exception_before_a_call[sd3-3-output]", True),
        ("test_a_true_row_gives_the_reference[sana-modules]", False),
        ("test_two_denoisers_share_one_budget[5]", False),
    ],
)
def test_representatives_and_other_proofs_stay(name, repeated):
    assert is_repeated(name) == repeated
