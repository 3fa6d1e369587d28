"""Presets hold the papers' figures, and their schedules compute as many steps as the papers say."""

import re
from types import SimpleNamespace

import pytest
from torch import nn

from foreseer.evaluate.architectures.random_models import RANDOM_MODELS
from foreseer.evaluate.entries.base import PlainEntry, PolicyEntry
from foreseer.evaluate.presets import PRESETS, PresetError, UnavailableEntry, default_prompts, load_preset
from foreseer.evaluate.presets.load import make_preset
from foreseer.forecast import L2P
from foreseer.grid import Grid
from foreseer.site import Residual, Tokens, read_site

ALL = pytest.mark.parametrize("name", PRESETS)
IDENTITY = [[float(i == j) for j in range(50)] for i in range(50)]
TABLES = {
    "l2p": {"flux", "qwen-image", "qwen-image-lightning", "hunyuan", "memory"},
    "taylorseer": {"flux", "dit", "hunyuan"},
    "spectrum": {
        "table-1-flux",
        "table-1-sd3.5-large",
        "table-2-wan",
        "table-2-hunyuan",
        "table-3-sd3.5-large",
        "table-3-wan",
        *(f"table-{number}" for number in range(4, 9)),
        *(f"figure-{number}" for number in (5, 6, 10)),
    },
}
# preset, row, column, value: read off the papers' pages once more.
PRINTED = [
    ("spectrum-table-1-flux", "reference", "Latency (s)", 26.03),
    ("spectrum-table-1-flux", "spectrum-a3", "Speedup", 4.79),
    ("spectrum-table-1-flux", "taylorseer-n4-o1", "PSNR", 22.31),
    ("spectrum-table-1-flux", "taylorseer-n6-o2", "LPIPS", 0.389),
    ("spectrum-table-1-sd3.5-large", "fora-n6", "Image Reward", 0.02),
    ("spectrum-table-1-sd3.5-large", "spectrum-a0.75", "CLIP", 28.61),
    ("spectrum-table-2-wan", "spectrum-a3", "Speedup", 4.67),
    ("spectrum-table-2-hunyuan", "toca-n4", "PSNR", 21.26),
    ("spectrum-table-2-hunyuan", "steps-25", "VBench Quality (%)", 84.78),
    ("spectrum-table-3-sd3.5-large", "taylorseer-n8-o1", "Image Reward", -0.22),
    ("spectrum-table-3-wan", "spectrum-n8", "PSNR", 20.65),
    ("spectrum-table-4", "spectrum-modules", "Latency (s)", 15.44),
    ("spectrum-table-5", "spectrum-a3", "RMSE, step 50", 0.1674),
    ("spectrum-table-7", "taylorseer-n6-o1", "SSIM", 0.782),
    ("spectrum-table-8", "taylorseer-n6-o1", "RMSE, step 10", 0.0047),
    ("l2p-flux", "l2p-n10", "FLOPs speedup", 7.14),
    ("l2p-flux", "l2p-n5", "PSNR (uint8)", 31.459),
    ("l2p-hunyuan", "l2p-n7", "FLOPs (T)", 5359.2),
    ("l2p-hunyuan", "reference", "PSNR", "∞"),
    ("l2p-memory", "taylorseer-n5-o2", "Memory (MiB)", 45473),
    ("taylorseer-flux", "taylorseer-n6-o2", "Image Reward", 1.0039),
    ("taylorseer-dit", "fora-n5", "FID", 6.58),
    ("taylorseer-hunyuan", "teacache-0.4", "VBench (%)", 79.36),
]


def test_every_table_and_figure_is_there():
    assert set(PRESETS) >= {f"{paper}-{table}" for paper, tables in TABLES.items() for table in tables}


@pytest.mark.parametrize(("name", "row", "column", "value"), PRINTED)
def test_published_figures_are_those_of_the_page(name, row, column, value):
    assert load_preset(name).published[row][column] == value


@ALL
def test_every_row_is_an_entry_and_unavailable_ones_give_the_reason(name):
    preset = load_preset(name)
    entries = preset.entries()
    assert [one.name for one in entries] == [row.name for row in preset.rows]
    assert set(preset.published) == {"reference", *(one.name for one in entries)}
    for one, row in zip(entries, preset.rows, strict=True):
        if isinstance(one, UnavailableEntry):
            with pytest.raises(PresetError, match=re.escape(one.reason)), one.attached(None):
                pass
            assert row.not_yet is not None or row.needs_matrix
        elif isinstance(one, PlainEntry):
            assert one.steps == row.fewer
        else:
            assert isinstance(one, PolicyEntry)
            assert one.policy.site == row.site


@ALL
def test_schedules_compute_as_often_as_published(name):
    preset = load_preset(name)
    matrix = L2P(IDENTITY)
    for one, row in zip(preset.entries(matrix=matrix), preset.rows, strict=True):
        if not isinstance(one, PolicyEntry):
            continue
        nfe = one.policy.compile(Grid.uniform(preset.steps)).nfe
        published = preset.published[row.name]
        assert nfe == published.get("NFE", nfe)
        # The cost of ToCa's and DuCa's skipped steps does not follow from the schedule.
        if "FLOPs speedup" in published and not isinstance(read_site(one.policy.site), Tokens):
            # TaylorSeer's N = 3 on FLUX.1 counts its forecasts otherwise: 17.7 of 50, where 18 compute.
            site = read_site(one.policy.site)
            outside = 1 - (site.blocks[1] - site.blocks[0]) if isinstance(site, Residual) else 0  # runs at every step
            cost = nfe + outside * (preset.steps - nfe)
            assert cost == pytest.approx(preset.steps / published["FLOPs speedup"], rel=0.02)


def test_l2p_runs_once_its_matrix_is_given_and_other_step_counts_keep_the_share():
    preset = load_preset("l2p-hunyuan")
    assert {type(one) for one in preset.entries() if one.name.startswith("l2p")} == {UnavailableEntry}
    with_matrix = {one.name: one for one in preset.entries(matrix=L2P(IDENTITY))}
    assert with_matrix["l2p-n7"].policy.compile(Grid.uniform(50)).computed_steps == (0, 1, 2, 4, 9, 17, 26, 35, 43)
    short = {one.name: one for one in preset.entries(steps=20)}
    assert short["steps-11"].steps == 4
    assert short["fora-n5"].policy.compile(Grid.uniform(20)).nfe == 4


@ALL
def test_options_hold_for_the_papers_model_only(name):
    preset = load_preset(name)

    def call(self, prompt=None, height=None, width=None, num_frames=None, guidance_scale=None, true_cfg_scale=None):
        return None

    kind = type(preset.pipeline, (), {"__call__": call})
    pipe = kind()
    pipe.transformer = nn.Module()
    pipe.transformer.config = dict(preset.identity)
    assert preset.apply_to(pipe) == {key: value for key, value in preset.options.items() if key != "negative_prompt"}
    pipe.transformer.config = dict.fromkeys(preset.identity, 1)
    assert preset.apply_to(pipe) == {}
    assert preset.apply_to(SimpleNamespace()) == {}


@ALL
def test_presets_name_architectures_that_can_be_built_and_have_prompts(name):
    preset = load_preset(name)
    assert preset.random_weights is None or preset.random_weights in RANDOM_MODELS
    if preset.random_weights is not None:
        config = RANDOM_MODELS[preset.random_weights]
        assert preset.pipeline == config.pipeline
        assert {key: config.config.get(key, value) for key, value in preset.identity.items()} == preset.identity
    assert len(default_prompts(preset)) >= 4


def changed(**values):
    """A minimal preset with something else in it."""
    row = {"name": "a", "title": "A", "fewer": 5}
    content = {
        "title": "t",
        "source": "s",
        "model": "m",
        "pipeline": "P",
        "kind": "image",
        "steps": 50,
        "options": {},
        "prompts": "p",
        "rows": [row],
    }
    return {**content, **values}


def test_an_invalid_preset_is_refused(as_users_call):
    row = {"name": "a", "title": "A", "fewer": 5}
    uniform, reuse = {"rule": "uniform", "interval": 4}, {"rule": "reuse"}
    assert make_preset("x", changed()).entries()[0].steps == 5
    wrong = [
        ({"kind": "sound"}, "unknown kind"),
        ({"rows": []}, "no rows"),
        ({"rows": [row, row]}, "same name"),
        ({"rows": [{**row, "fewer": None}]}, "one way to sample"),
        ({"rows": [{**row, "not_yet": "TeaCache"}]}, "one way to sample"),
        ({"rows": [{"name": "a", "title": "A", "not_yet": "Magic"}]}, "known reason"),
        ({"rows": [{"name": "a", "title": "A", "schedule": {"rule": "often"}, "forecast": reuse}]}, "Unknown rule"),
        ({"rows": [{"name": "a", "title": "A", "schedule": uniform, "forecast": {**reuse, "order": 2}}]}, "order"),
        ({"rows": [{**row, "published": [1.0]}], "columns": ["PSNR", "SSIM"]}, "1 figures in 2 columns"),
        ({"colour": "red"}, "colour"),
    ]
    for values, words in wrong:
        with pytest.raises(PresetError, match=words):
            make_preset("x", changed(**values))
    with pytest.raises(PresetError, match="Unknown preset 'spectrum-table-9': did you mean"):
        load_preset("spectrum-table-9")
