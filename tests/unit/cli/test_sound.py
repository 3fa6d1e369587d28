"""The sound that a model draws is written beside its video, or alone."""

from __future__ import annotations

import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from foreseer.evaluate.sampling.picture_files import write_result

SOUND = np.stack([np.linspace(-1, 1, 40), np.full(40, 2.0)]).astype("float32")  # two channels, one too loud
VOCODER = SimpleNamespace(config=SimpleNamespace(output_sampling_rate=24000))


@pytest.mark.parametrize("sound", [torch.from_numpy(SOUND), SOUND.T], ids=["tensor", "samples first"])
def test_the_sound_is_written_beside_the_video(sound, tmp_path: Path) -> None:
    output = SimpleNamespace(frames=np.zeros((1, 3, 8, 8, 3)), audio=sound[None])
    assert write_result(SimpleNamespace(vocoder=VOCODER), output, tmp_path / "out.gif") == tmp_path / "out.gif"
    with wave.open(str(tmp_path / "out.wav")) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, 24000, 40)
        samples = np.frombuffer(file.readframes(40), "<i2").reshape(40, 2).T
    assert np.abs(samples / 32767 - np.clip(SOUND, -1, 1)).max() < 1e-4


def test_a_model_of_sound_alone_writes_it_alone(tmp_path: Path) -> None:
    pipe = SimpleNamespace(vae=SimpleNamespace(config=SimpleNamespace(sampling_rate=16000)))
    assert write_result(pipe, SimpleNamespace(audios=SOUND[None]), tmp_path / "out.png") == tmp_path / "out.wav"
    assert not (tmp_path / "out.png").exists()


def test_a_video_lasts_as_long_as_its_sound_and_mp4_contains_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def write_frames(path: str, size: tuple[int, int], **options: object) -> Iterator[None]:
        calls.append((size, options))
        Path(path).write_bytes(Path(str(options["audio_path"])).read_bytes())
        while (yield) is not None:
            pass

    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", SimpleNamespace(write_frames=write_frames))
    output = SimpleNamespace(frames=np.random.default_rng(0).random((1, 6, 8, 8, 3)), audio=np.zeros((1, 2, 12000)))
    pipe = SimpleNamespace(vocoder=VOCODER)  # half a second
    write_result(pipe, output, tmp_path / "out.mp4")
    assert calls[0][1]["fps"] == pytest.approx(12.0)
    assert calls[0][1]["audio_codec"] == "aac"
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "out.wav").read_bytes()
    write_result(pipe, output, tmp_path / "out.gif")
    with Image.open(tmp_path / "out.gif") as picture:
        assert picture.info["duration"] == 80  # GIF counts hundredths of a second


def test_a_video_without_a_batch_keeps_all_channels_of_its_sound(tmp_path: Path) -> None:
    pipe = SimpleNamespace(sound_tokenizer=SimpleNamespace(config=SimpleNamespace(sampling_rate=48000)))
    output = SimpleNamespace(video=np.zeros((3, 8, 8, 3)), sound=torch.from_numpy(SOUND))  # as Cosmos 3 returns them
    write_result(pipe, output, tmp_path / "out.gif")
    with wave.open(str(tmp_path / "out.wav")) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, 48000, 40)
