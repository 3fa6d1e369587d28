"""Pictures and videos that a call is given as files, and what a pipeline does with a call."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from foreseer.cli import app
from foreseer.errors import MissingPackageError
from foreseer.pipelines import PICTURE, PipelineError, check_finite, read_pictures, run, with_pictures
from tests.support.folder_commands import given_files
from tests.support.folders import whole


class Taking:
    """A pipeline that is given pictures, and an autoencoder of as many channels as asked."""

    def __init__(self, channels):
        self.components = {"scheduler": SimpleNamespace(timesteps=None, step_index=None)}
        self.vae = SimpleNamespace(config={"in_channels": channels})

    def __call__(self, image=None, video=None, pose_video=None, mask=None, generator=None, output_type="pil"):
        if output_type == "latent":
            self.components["scheduler"] = SimpleNamespace(timesteps=[2, 1], step_index=image)
            raise ValueError("no latents here")
        if mask == "text":
            return ftfy.fix_text(mask)
        return image


def test_a_file_with_frames_is_a_video_except_as_the_picture(tmp_path):
    files = given_files(tmp_path)
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no picture")
    options = {"video": files["video"], "mask": files["picture"], "pose_video": files["picture"]}
    read = with_pictures(Taking(3), {**options, PICTURE: files["video"]})
    assert [type(read[name]) is list for name in ("video", "mask", "pose_video", "image")] == [True, False, True, False]
    assert (len(read["video"]), len(read["pose_video"])) == (5, 1)
    frames = read_pictures({"video": folder})["video"]
    assert [frame.getpixel((0, 0)) for frame in frames] == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]
    with pytest.raises(PipelineError, match="the folder holds no picture"):
        read_pictures({"video": tmp_path / "empty" if (tmp_path / "empty").mkdir() is None else None})


def test_alpha_is_kept_for_an_autoencoder_that_encodes_it(tmp_path):
    path = tmp_path / "clear.png"
    Image.new("RGBA", (8, 8), (255, 0, 0, 64)).save(path)
    modes = [with_pictures(Taking(channels), {PICTURE: path})["image"].mode for channels in (3, 4)]
    assert modes == ["RGB", "RGBA"]
    given = Image.new("L", (8, 8))
    assert with_pictures(Taking(4), {"image": given})["image"] is given


def test_a_package_that_a_pipeline_needs_is_named():
    with pytest.raises(MissingPackageError, match="Taking needs the package ftfy: pip install ftfy"):
        run(Taking(3), {"mask": "text"}, 0)


def test_a_run_whose_latents_are_not_returned_is_a_run():
    assert run(Taking(3), {"output_type": "latent", "image": 2}, 0) is None
    with pytest.raises(PipelineError, match="no latents here"):
        run(Taking(3), {"output_type": "latent", "image": 1}, 0)


@pytest.mark.parametrize(
    "output",
    [
        SimpleNamespace(images=np.full((1, 2, 2, 3), np.nan, np.float32)),
        SimpleNamespace(frames=[[torch.zeros(3), torch.full((3,), torch.inf)]]),
        SimpleNamespace(frames=[[Image.new("RGB", (2, 2))]], audio=torch.full((1, 2, 4), torch.nan)),
    ],
)
def test_an_output_that_is_not_finite_is_refused(output):
    with pytest.raises(PipelineError, match=r"SimpleNamespace drew values that are not finite \(NaN\)"):
        check_finite(SimpleNamespace(), output)


def test_a_decoder_that_overflows_leaves_no_black_picture(tmp_path):
    pipe, drawn = whole("sd3"), tmp_path / "drawn.png"
    pipe.vae.decoder.conv_out.bias.data.fill_(torch.nan)
    pipe.save_pretrained(tmp_path / "model")
    words = ("generate", tmp_path / "model", "-p", "a red apple", "--steps", 2, "--nfe", 2, "--method", "reuse")
    result = CliRunner().invoke(app, [*map(str, (*words, "--force", "--height", 32, "--width", 32, "-o", drawn))])
    assert result.exit_code != 0
    assert "StableDiffusion3Pipeline drew values that are not finite" in str(result.exception)
    assert not drawn.exists()


def test_frames_of_a_video_file_are_those_that_ffmpeg_decodes(tmp_path, monkeypatch):
    path = tmp_path / "moving.mp4"
    path.touch()
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(PipelineError, match="that needs pip install imageio-ffmpeg"):
        read_pictures({"video": path})
    decoded = [{"size": (2, 1)}, bytes([9, 0, 0] * 2), bytes([0, 9, 0] * 2)]
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", SimpleNamespace(read_frames=lambda _: iter(decoded)))
    frames = read_pictures({"video": path})["video"]
    assert [(frame.size, frame.getpixel((1, 0))) for frame in frames] == [((2, 1), (9, 0, 0)), ((2, 1), (0, 9, 0))]
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", SimpleNamespace(read_frames=lambda _: iter(())))
    with pytest.raises(PipelineError, match="Cannot read the video"):
        read_pictures({"video": path})
