"""Whole tiny pipelines in folders."""

import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Gives the folder of a pipeline, written once."""
    from tests.support.folders import save

    written = {}

    def of(name):
        if name not in written:
            written[name] = tmp_path_factory.mktemp(name)
            save(name, written[name])
        return written[name]

    return of
