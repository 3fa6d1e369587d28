"""Contract of every entry of the peers', measures' and presets' registries, found by walking them."""

import math

import numpy as np
import pytest

from foreseer.errors import ForeseerError
from foreseer.evaluate.entries.base import Entry
from foreseer.evaluate.metrics import FIDELITY, QUALITY, Measure, MeasureContext, MissingMeasureError, check_measures
from foreseer.evaluate.peers import PEERS
from foreseer.evaluate.presets import PRESETS, load_preset
from foreseer.methods import METHODS


def test_names_are_unique_across_methods_and_peers_and_measures():
    names = [*METHODS, *PEERS]
    assert len(names) == len(set(names))
    measures = [*FIDELITY, *QUALITY]
    assert len(measures) == len(set(measures))
    assert not any(":" in name or "," in name for name in (*names, *measures))  # the command line splits at these


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_describes_itself(name):
    peer = PEERS[name]
    assert peer.name == name == name.lower()
    assert len(peer.summary) > 10
    assert not peer.summary.endswith(".")
    assert peer.source
    assert callable(peer.make)


@pytest.mark.parametrize("name", FIDELITY)
def test_a_measure_of_fidelity_falls_with_the_error(name):
    measure = FIDELITY[name]
    generator = np.random.default_rng(0)
    shape = (4, 24, 24, 3) if measure.temporal else (24, 24, 3)
    reference = generator.random(shape)
    noise = generator.standard_normal(shape)
    values = [measure.measure(np.clip(reference + size * noise, 0, 1), reference) for size in (0.0, 0.02, 0.2)]
    assert values[0] > values[1]
    assert values[1] > values[2] or not measure.default  # wrapped differences do not grow with the error
    column = measure.column("a reason")
    assert (column.name, column.better, column.missing) == (name, "higher", "a reason")
    assert measure.applies(video=True) == measure.default


@pytest.mark.parametrize("name", QUALITY)
def test_a_measure_of_quality_has_a_column_and_gives_a_reason_where_it_cannot_be_loaded(name, monkeypatch):
    measure = QUALITY[name]
    column = measure.column()
    assert isinstance(column, Measure)
    assert (column.name, column.title, column.better) == (name, measure.title, measure.better)
    assert column.better in ("higher", "lower")
    assert column.source.startswith(measure.package)
    assert measure.applies(video=True) or measure.applies(video=False)

    def broken(context):
        raise ImportError("no such library\nand more")

    monkeypatch.setattr(type(measure), "_load", lambda self, context: broken(context))
    with pytest.raises(MissingMeasureError, match=r"^ImportError: no such library$"):
        measure.load(MeasureContext(video=True))


def test_a_misspelt_measure_is_refused_with_the_nearest_name():
    check_measures([*FIDELITY, *QUALITY], ForeseerError)
    with pytest.raises(ForeseerError, match="Unknown measure 'lpip': did you mean 'lpips'"):
        check_measures(["psnr", "lpip"], ForeseerError)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_an_entry_for_every_row_at_any_step_count(name):
    preset = load_preset(name)
    for steps in (preset.steps, 20, 2):
        entries = preset.entries(steps)
        assert [entry.name for entry in entries] == [row.name for row in preset.rows]
        assert all(isinstance(entry, Entry) and 1 <= entry.steps <= steps for entry in entries)
    assert preset.title
    assert preset.source
    values = [value for row in preset.published.values() for value in row.values()]
    assert all(isinstance(value, str) or math.isfinite(value) for value in values)
