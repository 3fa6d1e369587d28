"""The bundled pipeline, loaded once."""

import pytest


@pytest.fixture(scope="session")
def emoji():
    from foreseer import zoo

    loaded = zoo.load()
    loaded.set_progress_bar_config(disable=True)
    return loaded
