"""Fixtures: the bundled pipeline, loaded once; one bench on it, run once; example results."""

import shutil

import pytest


@pytest.fixture(scope="session")
def emoji():
    from foreseer import zoo

    loaded = zoo.load()
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="session")
def whole_bench(emoji, tmp_path_factory):
    """Results and folder of an undisturbed bench: its own entries, every step computed, and a foreign one."""
    import foreseer as fs
    from foreseer.evaluate.entries.base import PolicyEntry
    from tests.unit.evaluate.bench_common import STEPS, Trouble, run

    folder = tmp_path_factory.mktemp("bench")
    everything = fs.Policy(fs.schedule.Explicit(range(STEPS)), fs.forecast.Reuse())
    foreign = Trouble("foreign", "Someone's cache", STEPS, 6, before=lambda pipe: None)
    return run(emoji, folder, PolicyEntry("all", "All", STEPS, policy=everything), foreign), folder


@pytest.fixture
def done_folder(whole_bench, tmp_path):
    """Copy of that bench's folder, to resume in."""
    return shutil.copytree(whole_bench[1], tmp_path / "done")


@pytest.fixture
def results():
    from tests.unit.evaluate.example import example_results

    return example_results()


@pytest.fixture
def folder(results, tmp_path):
    from tests.unit.evaluate.example import draw_pictures

    draw_pictures(results, tmp_path)
    return tmp_path
