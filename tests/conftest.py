"""Settings of every test: one thread, reproducible examples, warnings of Foreseer as errors.

With ``FORESEER_CHECKED`` in the environment all annotations are checked at every call, which takes twice the time.
"""

import os

import jaxtyping
import pytest
from hypothesis import settings

from tests.repeats import is_repeated

if os.environ.get("FORESEER_CHECKED"):  # before anything imports foreseer
    jaxtyping.install_import_hook("foreseer", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

settings.register_profile("foreseer", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("foreseer")

try:
    import torch
except ImportError:  # the numerics are tested without it
    pass
else:
    torch.set_num_threads(1)


def pytest_configure(config):
    # Named here and not in pyproject.toml: there pytest would import foreseer before the hook above.
    config.addinivalue_line("filterwarnings", "error::foreseer.errors.ForeseerWarning")
    # beartype draws which item of a list it checks, also while Hypothesis builds an example.
    config.addinivalue_line("filterwarnings", "ignore:Do not use the `random` module")


@pytest.fixture
def as_users_call(monkeypatch):
    """Switch off run-time annotation checks, which users do not have: the code itself must refuse."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def pytest_collection_modifyitems(config, items):
    for item in items:
        if is_repeated(item.name):
            item.add_marker(pytest.mark.slow)
    if not os.environ.get("FORESEER_SLOW"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: run by `make test-matrix` only"))
