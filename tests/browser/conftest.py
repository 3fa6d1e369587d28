"""Fixture: a headless browser, or the reason for skipping."""

import pytest

from tests.support.browser import PROGRAMS, Browser, program


@pytest.fixture(scope="session")
def browser():
    if program() is None:
        pytest.skip(f"no browser is installed: none of {', '.join(PROGRAMS)} is on the PATH")
    opened = Browser()
    yield opened
    opened.close()
