"""Measurements of a bench on the bundled pipeline."""

import json
import math

import numpy as np
import pytest
import torch

import foreseer as fs
from foreseer.evaluate.bench.bench import fingerprint
from foreseer.evaluate.bench.result_store import BenchError, ResultStore
from foreseer.evaluate.bench.results import BenchResults
from foreseer.evaluate.metrics.similarity import psnr, relative_error, ssim
from foreseer.evaluate.sampling.cost import count_denoiser, watch_memory
from tests.unit.evaluate.bench_common import OPTIONS, PROMPTS, STEPS, run, small_bench

IMAGE_TOKENS = 64


@pytest.fixture(scope="module")
def results(whole_bench):
    return whole_bench[0]


@pytest.fixture(scope="module")
def folder(whole_bench):
    return whole_bench[1]


def draw(pipe, output_type="np", steps=STEPS):
    generator = torch.Generator().manual_seed(1)
    return pipe(PROMPTS[1], num_inference_steps=steps, output_type=output_type, generator=generator, **OPTIONS).images[
        0
    ]


def by_name(results):
    return {row.method: row for row in results.rows}


def test_the_reference_is_the_first_row_and_every_entry_has_its_nfe(results):
    assert [row.method for row in results.rows] == ["reference", "reuse", "taylorseer", "steps", "all", "foreign"]
    assert [row.nfe for row in results.rows[:5]] == [6, 3, 4, 3, 6]
    assert results.rows[5].nfe == pytest.approx(6)  # by its FLOPs: it left no record
    assert [row.error for row in results.rows] == [None] * 6
    assert results.seeds == [0, 1]


def test_measures_are_those_of_the_float_pictures(results, emoji):
    true = draw(emoji)
    with fs.accelerate(emoji, fs.methods.find("taylorseer").policy(STEPS, 4)):
        mine = draw(emoji)
    row = by_name(results)["taylorseer"]
    assert row.per_prompt["psnr"][1] == pytest.approx(psnr(mine, true), rel=1e-12)  # the order of the sum may differ
    assert row.per_prompt["ssim"][1] == pytest.approx(ssim(mine, true), rel=1e-12)
    assert row.measures["psnr"] == pytest.approx(np.mean(row.per_prompt["psnr"]))
    assert [one.name for one in results.measures] == ["psnr", "ssim"]
    assert all(one.missing is None and one.source.startswith("scikit-image") for one in results.measures)


def test_the_latent_error_is_that_of_the_last_sample(results, emoji, folder):
    true = draw(emoji, "latent").numpy()
    with fs.accelerate(emoji, fs.methods.find("reuse").policy(STEPS, 3)):
        mine = draw(emoji, "latent").numpy()
    cell = next((folder / "cells" / "00001").glob("reuse-3-*.json"))
    found = json.loads(cell.read_text())["latent_error"]
    assert found == {str(STEPS): pytest.approx(relative_error(mine, true), rel=1e-6)}
    assert set(by_name(results)["steps"].latent_error) == {str(STEPS)}


def test_computing_every_step_is_equal_and_costs_the_same(results):
    row, reference = by_name(results)["all"], results.rows[0]
    assert row.measures["psnr"] == math.inf
    assert row.latent_error == {str(STEPS): 0.0}
    assert row.flops == reference.flops
    assert reference.measures == {}
    assert reference.speedup == 1


def test_times_have_their_spread_and_lie_within_the_whole_call(results):
    for row in results.rows:
        assert 0 < row.latency.low <= row.latency.median <= row.latency.high
        assert row.latency.median < row.end_to_end.median
        assert row.peak_memory > results.rows[0].peak_memory * 0.9
        assert row.extra_memory == row.peak_memory - results.rows[0].peak_memory


def test_results_survive_json(results):
    assert BenchResults.from_dict(json.loads(json.dumps(results.to_dict()))) == results


def test_pictures_are_where_the_rows_say(results, folder):
    for row in results.rows:
        assert len(row.pictures) == 2
        assert all((folder / name).read_bytes()[:4] == b"\x89PNG" for name in row.pictures)


def test_samples_of_entries_are_deleted_and_those_of_the_reference_kept(folder, results):
    kept = sorted(file.name.split("-")[0] for file in (folder / "cells").rglob("*.safetensors"))
    assert kept == ["reference", "reference"]


def transformer_flops(config, image_tokens, text_tokens):
    """Two operations per multiply-add, over every matrix of one forward pass."""
    width = config.num_attention_heads * config.attention_head_dim
    both = image_tokens + text_tokens
    attention = 2 * both * both * width
    embedders = image_tokens * config.in_channels * width + text_tokens * config.joint_attention_dim * width
    numbers = 1 + config.guidance_embeds  # time, and guidance where it is an input
    conditioning = numbers * (256 * width + width * width) + config.pooled_projection_dim * width + width * width
    double = 2 * 6 * width**2 + both * (4 + 8) * width**2 + attention
    single = 3 * width**2 + both * (3 + 4 + 5) * width**2 + attention
    head = 2 * width**2 + image_tokens * width * config.in_channels
    layers = config.num_layers * double + config.num_single_layers * single
    return 2 * (embedders + conditioning + layers + head)


def test_flops_agree_with_a_hand_count(emoji, results):
    one = transformer_flops(emoji.transformer.config, IMAGE_TOKENS, text_tokens=16)
    assert results.rows[0].flops == pytest.approx(STEPS * one, rel=0.01)
    feature = IMAGE_TOKENS * emoji.transformer.config.in_channels
    reuse = by_name(results)["reuse"]
    assert reuse.flops - 3 * results.rows[0].flops / STEPS == 3 * 2 * feature  # three forecasts of one weight
    assert reuse.flops_speedup == pytest.approx(2, rel=0.01)
    # Heads and embedders run at skipped steps of the last-block site; finding the seam belongs to no run.
    taylorseer = by_name(results)["taylorseer"]
    assert 4 * one < taylorseer.flops < 4.2 * one


def test_the_counter_leaves_no_hook_and_counts_nothing_outside_the_denoiser(emoji):
    with count_denoiser(emoji) as cost:
        emoji.vae.decode(torch.zeros(1, emoji.vae.config.latent_channels, 4, 4))
    assert (cost.flops, cost.calls) == (0, 0)
    assert not emoji.transformer._forward_pre_hooks
    assert not emoji.transformer._forward_hooks


def test_the_peak_of_memory_counts_what_lives_at_once(emoji):
    def peak(work):
        with watch_memory(emoji) as found:
            work()
        return found.bytes

    one, four = peak(lambda: torch.ones(250_000)), peak(lambda: [torch.ones(250_000) for _ in range(4)])
    assert four - one == pytest.approx(3_000_000, abs=100_000)


def test_measures_and_latent_errors_are_missing_if_nothing_is_comparable(emoji, tmp_path):
    results = run(emoji, tmp_path, decode=False, incomparable="the weights are random", prompts=PROMPTS[:1])
    assert {one.missing for one in results.measures} == {"the weights are random"}
    assert all(row.latent_error == {} and row.measures == {} and row.pictures == [""] for row in results.rows)
    assert results.rows[1].speedup > 0
    assert not list(tmp_path.rglob("*.png")) + list(tmp_path.rglob("*.safetensors"))


def test_a_fingerprint_depends_on_the_weights(emoji):
    before = fingerprint(emoji)
    weight = emoji.transformer.proj_out.weight
    with torch.no_grad():
        weight[0, 0] += 1
        changed = fingerprint(emoji)
        weight[0, 0] -= 1
        emoji.vae.decoder.conv_out.bias[0] += 1
        decoder = fingerprint(emoji)
        emoji.vae.decoder.conv_out.bias[0] -= 1
    assert len(before) == 12
    assert len({before, changed, decoder}) == 3


def test_a_fingerprint_depends_on_the_scheduler(emoji, monkeypatch):
    before = fingerprint(emoji)
    monkeypatch.setattr(emoji, "scheduler", type(emoji.scheduler).from_config(emoji.scheduler.config, shift=1.7))
    assert fingerprint(emoji) != before


def test_a_video_is_stored_without_loss(tmp_path):
    video = np.random.default_rng(0).random((4, 12, 10, 3)).astype(np.float32)
    cells = ResultStore(tmp_path)
    video[2] = video[1]  # neighbours that are equal stay two
    for frames in (video, np.zeros_like(video)):
        cells.write_picture("one.png", frames)
        assert np.array_equal(cells.read_picture("one.png"), np.uint8(np.round(255 * frames)))


def test_a_bench_without_prompts_or_with_an_unknown_measure_is_refused():
    with pytest.raises(BenchError, match="list of a few prompts"):
        small_bench(prompts=[])
    with pytest.raises(BenchError, match="'magic': expected one of psnr"):
        small_bench(measures=["magic"])
