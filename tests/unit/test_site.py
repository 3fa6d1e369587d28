"""Sites are text: reading inverts writing, and unknown text is refused."""

import pytest

from foreseer.errors import PlanError
from foreseer.site import KINDS, Output, read_site


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_words_and_object_are_one(kind):
    assert read_site(str(kind())) == kind()
    assert read_site(kind()) == kind()
    assert str(kind()) == kind.name


@pytest.mark.parametrize(
    "words",
    ["", "nowhere", "output(", "output)", "output(a=1)", "output(a)", "output(a=)", 'output(a="x" b=1)'],
)
def test_unknown_words_are_refused(words):
    with pytest.raises(PlanError):
        read_site(words)


def test_empty_parentheses_are_no_options():
    assert read_site(" output ( ) ") == Output()
