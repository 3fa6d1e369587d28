"""Measures of quality agree with their packages, or are missing with a reason."""

import dataclasses
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from foreseer.evaluate.entries.base import LazyEntry
from foreseer.evaluate.metrics import QUALITY, MeasureContext, MissingMeasureError, Quality, StoredSample
from foreseer.evaluate.metrics.fidelity import FIDELITY, fidelity_of, latent_errors
from foreseer.evaluate.metrics.similarity import psnr, psnr_uint8_wrapped, temporal_psnr
from foreseer.evaluate.metrics.text_alignment import ClipScore
from foreseer.evaluate.report.bench_report import write_report
from tests.unit.evaluate.bench_common import PROMPTS, STEPS, run


def pictures(frames=1, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (frames, 24, 20, 3), dtype=np.uint8)


def drawn(frames=1):
    return StoredSample(pictures(frames), pictures(frames, seed=1), "a red apple")


def test_the_wrapped_psnr_reads_what_published_scripts_do():
    image, reference = np.zeros((8, 8, 3), np.float32), np.ones((8, 8, 3), np.float32)
    assert psnr(image, reference) == pytest.approx(0, abs=1e-9)
    assert psnr_uint8_wrapped(image, reference) == pytest.approx(20 * np.log10(255))  # (0 - 255)^2 wraps to 1
    assert not FIDELITY["psnr_uint8_wrapped"].default
    assert "wrap" in FIDELITY["psnr_uint8_wrapped"].title


def test_a_constant_error_costs_no_temporal_psnr_and_flicker_does():
    video = np.random.default_rng(0).random((6, 8, 8, 3))
    assert temporal_psnr(video + 0.1, video) > 200
    flicker = video + 0.1 * (-1.0) ** np.arange(6)[:, None, None, None]
    assert temporal_psnr(flicker, video) == pytest.approx(-20 * np.log10(0.2))


def test_measures_of_videos_are_means_over_frames():
    video, other = (pictures(3, seed) / 255 for seed in (0, 1))
    found = fidelity_of(other, video)
    assert found["psnr"] == pytest.approx(np.mean([psnr(a, b) for a, b in zip(other, video, strict=True)]))
    assert "temporal_psnr" in found
    assert "temporal_psnr" not in fidelity_of(other[0], video[0])


def test_non_finite_mismatched_and_too_small_samples_are_not_measured():
    one = pictures()[0] / 255
    assert fidelity_of(np.full_like(one, np.nan), one) == {}
    assert fidelity_of(one[:12], one) == {}
    assert fidelity_of(one[:4, :4], one[:4, :4] * 0.5)["ssim"] is None


def test_latent_errors_are_taken_where_the_steps_are_the_same():
    one = {10: np.ones(3), 20: np.full(3, 2.0), 25: np.ones(3)}
    assert latent_errors(one, one) == {"10": 0, "20": 0, "25": 0}
    assert latent_errors({10: np.zeros(3)}, one) == {"25": 1}
    assert latent_errors({25: np.full(3, np.nan)}, one) == {}


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """A CLIP model of random weights, as a folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clip")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    text = {**small, "vocab_size": 8, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 12}
    vision = {**small, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "a": 4, "red": 5, "apple": 6}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def test_clip_score_is_the_cosine_that_transformers_gives(tiny_clip):
    pytest.importorskip("torchmetrics.multimodal")
    from transformers import CLIPModel, CLIPProcessor

    sample = drawn(2)
    frames = [torch.from_numpy(frame).permute(2, 0, 1) for frame in sample.frames]
    inputs = CLIPProcessor.from_pretrained(tiny_clip)(text=[sample.prompt], images=frames, return_tensors="pt")
    with torch.no_grad():
        found = CLIPModel.from_pretrained(tiny_clip)(**inputs)
    expected = 100 * float((found.image_embeds @ found.text_embeds.T).mean())
    score = ClipScore(model=str(tiny_clip)).load(MeasureContext())
    assert score(sample) == pytest.approx(max(expected, 0), abs=1e-4)
    assert score(sample) == score(sample)  # nothing of one sample stays for the next
    assert expected > 1


def stand_in(monkeypatch, name, **content):
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**content))


def test_lpips_gets_both_pictures_between_minus_one_and_one(monkeypatch):
    class LPIPS(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()
            assert net == "alex"

        def forward(self, first, second):
            assert first.shape == second.shape == (1, 3, 24, 20)
            assert -1 <= first.min() < -0.9
            assert 0.9 < first.max() <= 1
            return (first - second).abs().mean()

    stand_in(monkeypatch, "lpips", LPIPS=LPIPS)
    sample = drawn(2)
    expected = np.abs(sample.frames / 127.5 - sample.reference / 127.5).mean()
    assert QUALITY["lpips"].load(MeasureContext())(sample) == pytest.approx(expected, rel=1e-5)


def test_image_reward_is_the_mean_over_frames(monkeypatch):
    model = types.SimpleNamespace(score=lambda prompt, image: len(prompt) + np.asarray(image).mean())
    stand_in(monkeypatch, "ImageReward", load=lambda name, device: model)
    sample = drawn(2)
    assert QUALITY["image_reward"].load(MeasureContext())(sample) == pytest.approx(11 + sample.frames.mean())


def test_fid_and_inception_score_see_every_picture(monkeypatch, tmp_path):
    def calculate(input1, cuda, verbose, input2=None, fid=False, isc=False, isc_splits=1):
        brightness = float(np.mean([picture.float().mean() for picture in (input1[i] for i in range(len(input1)))]))
        assert input1[0].shape == (3, 24, 20)
        return {"frechet_inception_distance": brightness, "inception_score_mean": brightness, "input2": input2}

    stand_in(monkeypatch, "torch_fidelity", calculate_metrics=calculate)
    samples = [lambda seed=seed: StoredSample(pictures(seed=seed), pictures(), "") for seed in (0, 1)]
    expected = np.mean([pictures(seed=seed).mean() for seed in (0, 1)])
    assert QUALITY["is"].load(MeasureContext())(samples) == pytest.approx(expected, rel=1e-5)
    assert QUALITY["fid"].load(MeasureContext(real=tmp_path))(samples) == pytest.approx(expected, rel=1e-5)


def test_vbench_runs_in_the_python_that_is_named(monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "some words"\necho 0.75\n')
    python.chmod(0o755)
    monkeypatch.setenv("FORESEER_VBENCH_PYTHON", str(python))
    monkeypatch.setattr("foreseer.evaluate.metrics.vbench.write_video", lambda drawn, folder: folder / "video.mp4")
    score = QUALITY["vbench_motion_smoothness"].load(MeasureContext(video=True))
    assert score(drawn(2)) == 0.75
    python.write_text("#!/bin/sh\necho 'no weights' >&2; exit 1\n")
    with pytest.raises(MissingMeasureError, match=r"^vbench fails: no weights$"):
        score(drawn(2))
    python.write_text("#!/bin/sh\necho 'No module named vbench' >&2; exit 1\n")
    with pytest.raises(MissingMeasureError, match="No module named vbench"):
        QUALITY["vbench_motion_smoothness"].load(MeasureContext(video=True))


@pytest.mark.parametrize("name", QUALITY)
def test_every_measure_that_cannot_be_loaded_says_why(name, monkeypatch):
    for package in ("lpips", "torchmetrics.multimodal", "ImageReward", "torch_fidelity"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delenv("FORESEER_VBENCH_PYTHON", raising=False)
    with pytest.raises(MissingMeasureError, match=r"pip install|no package|needs real pictures"):
        QUALITY[name].load(MeasureContext(video=True))


class Brightness(Quality):
    """A measure that counts how often it is taken."""

    name, title, package = "brightness", "Brightness", "numpy"

    def __init__(self):
        self.taken = 0

    def _load(self, setting):
        def score(sample):
            self.taken += 1
            return float(sample.frames.mean())

        return score


class Broken(Brightness):
    """Fails at the first sample, as weights do that cannot be downloaded then."""

    name, title = "broken", "Broken"

    def _load(self, setting):
        def score(sample):
            raise OSError("no such host\nand more")

        return score


class Speechless(Brightness):
    """Fails at the second entry, and does not say why."""

    name, title = "speechless", "Speechless"

    def _load(self, setting):
        def score(sample):
            self.taken += 1
            assert self.taken <= len(PROMPTS)
            return 1.0

        return score


class Together(Brightness):
    """One number of all pictures, of at least one."""

    name, title, of_sets = "together", "Together", True

    def _load(self, setting):
        def score(samples):
            return float(np.mean([samples[index]().frames.mean() for index in range(len(samples))]))

        return score


def test_each_measure_is_taken_once_and_failures_are_shown_as_missing(emoji, done_folder, monkeypatch):
    brightness = Brightness()
    monkeypatch.setitem(QUALITY, "brightness", brightness)
    monkeypatch.setitem(QUALITY, "broken", Broken())
    monkeypatch.setitem(QUALITY, "speechless", Speechless())
    monkeypatch.setitem(QUALITY, "together", Together())
    asked = ["psnr", "brightness", "broken", "speechless", "together"]
    failing = LazyEntry("early", "Early", STEPS, 5, make=lambda pipe: 1 / 0)
    results = run(emoji, done_folder, failing, measures=asked)
    assert brightness.taken == 4 * len(PROMPTS)
    row = results.rows[0]
    stored = [np.asarray(Image.open(done_folder / name)).mean() for name in row.pictures]
    assert row.per_prompt["brightness"] == pytest.approx(stored)
    assert row.measures["brightness"] == pytest.approx(np.mean(stored))
    missing = {one.name: one.missing for one in results.measures}
    assert missing["broken"] == "OSError: no such host"
    assert missing["speechless"].startswith("AssertionError: ")
    assert [missing[name] for name in ("psnr", "brightness", "together")] == [None] * 3
    assert all("broken" not in one.measures and "speechless" not in one.measures for one in results.rows)
    assert row.measures["together"] == pytest.approx(row.measures["brightness"])
    assert "together" not in results.rows[-1].measures  # it drew nothing, which spoils no other's figure
    again = run(emoji, done_folder, measures=["psnr", "brightness"])
    assert brightness.taken == 4 * len(PROMPTS)
    assert again.rows[0].per_prompt == row.per_prompt
    paths = write_report(dataclasses.replace(results), done_folder)
    assert "no such host" in paths["page"].read_text()


def test_lpips_of_its_package_with_random_features(monkeypatch):
    pytest.importorskip("lpips")
    alexnet = pytest.importorskip("torchvision.models").alexnet
    monkeypatch.setattr("torchvision.models.alexnet", lambda pretrained: alexnet())  # its weights are not bundled
    noisy, plain = (np.repeat(np.repeat(pictures(2, seed), 4, 1), 4, 2) for seed in (0, 1))
    score = QUALITY["lpips"].load(MeasureContext())
    assert score(StoredSample(plain, plain, "")) == 0
    assert score(StoredSample(noisy, plain, "")) > 0


def test_fid_and_inception_score_of_their_package_with_random_features(monkeypatch, tmp_path):
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.setattr(extractor, "load_state_dict_from_url", lambda *args, **kwargs: {})
    monkeypatch.setattr(extractor.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)

    def scores(name, seeds):
        torch.manual_seed(0)  # of the extractor's weights
        score = QUALITY[name].load(MeasureContext(real=tmp_path))
        return score([lambda seed=seed: StoredSample(pictures(1, seed), pictures(1, seed), "") for seed in seeds])

    for seed in range(3):
        Image.fromarray(pictures(1, seed)[0]).save(tmp_path / f"{seed}.png")
    same, other = scores("fid", range(3)), scores("fid", range(10, 13))
    assert abs(same) < 0.01 * other
    assert 1 <= scores("is", range(3)) <= 3
