"""Two worker processes for all tests of this folder: loading torch costs more than what the tests do."""

import pytest

from foreseer.scale import Processes
from tests.unit.scale.tasks import DEATHS


@pytest.fixture(scope="session")
def deaths(tmp_path_factory):
    """A folder: a file with a prompt's number as its name kills the worker that next runs the prompt."""
    folder = tmp_path_factory.mktemp("deaths")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DEATHS, str(folder))
        yield folder


@pytest.fixture(scope="session")
def two(deaths):
    with Processes(2, threads=1) as place:
        yield place


@pytest.fixture
def attempts(tmp_path):
    folder = tmp_path / "attempts"
    folder.mkdir()
    return folder
