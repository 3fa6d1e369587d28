"""The command line with pipelines that take no prompt, want a picture, or give none."""

import json
import warnings
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from foreseer import cli
from foreseer.cli import app
from foreseer.errors import ForeseerWarning, PlanError
from foreseer.evaluate.sampling.picture_files import write_picture
from foreseer.pipelines import PICTURE, PipelineError, call_arguments, load_pipeline, run, with_pictures
from tests.support.pipelines import build

STEPS = "8"


@pytest.fixture(scope="module")
def dit(tmp_path_factory):
    """A folder with a pipeline of classes."""
    folder = tmp_path_factory.mktemp("dit")
    pipe = build("dit").pipe
    pipe.labels = {"cat": 1, "kitty": 1, "dog": 2}
    pipe.register_to_config(id2label={1: "cat, kitty", 2: "dog"})
    pipe.save_pretrained(folder)
    return folder


def invoke(*words):
    """What a command prints, once it succeeded."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("label", ["dog", "2"])
def test_classes_are_drawn_by_name_and_by_number(dit, tmp_path, label):
    out = tmp_path / "dog.png"
    words = ("generate", dit, "--prompt", label, "--method", "taylorseer", "--nfe", "5", "--steps", STEPS)
    made = json.loads(invoke(*words, "--out", out, "--json"))
    assert made["record"]["nfe"] == 5
    assert made["record"]["failed_open"] == []
    with Image.open(out) as picture:
        assert picture.size == (16, 16)


def test_a_pipeline_of_classes_is_calibrated_and_served(dit, tmp_path):
    prompts, kernel = tmp_path / "labels.txt", tmp_path / "dit.kernel.safetensors"
    prompts.write_text("cat\n2\n")
    invoke("calibrate", dit, "--prompts", prompts, "--steps", STEPS, "--out", kernel)
    words = ("generate", dit, "--prompt", "dog", "--kernel", kernel, "--nfe", "6", "--steps", STEPS)
    made = json.loads(invoke(*words, "--out", tmp_path / "dog.png", "--json"))
    assert made["record"]["nfe"] == 6


def test_an_unknown_class_is_refused(dit, tmp_path):
    pipe = build("dit").pipe
    with pytest.raises(PipelineError, match="'a red apple' is not one of them; give a name or a number"):
        call_arguments(pipe, "a red apple", {})


class Redraws:
    """A pipeline that redraws a picture."""

    def __call__(self, prompt=None, image=None, mask_image=None, generator=None):
        """Fails without one, as diffusers' do."""
        return SimpleNamespace(images=[image.resize((8, 8))], seed=generator.initial_seed())


def test_a_picture_is_taken_or_asked_for(tmp_path):
    path = tmp_path / "given.png"
    Image.new("RGB", (4, 4), "red").save(path)
    given = with_pictures(Redraws(), {PICTURE: path, "mask_image": path, "strength": 0.5})
    assert given.pop("strength") == 0.5
    assert given.pop("mask_image").size == (4, 4)
    drawn = run(Redraws(), {"prompt": "a word", **given}, seed=3)
    assert drawn.seed == 3
    assert drawn.images[0].getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(PipelineError, match="Redraws takes image and mask_image, none was given, and without it fails"):
        run(Redraws(), {"prompt": "a word"}, seed=3)
    with pytest.raises(PipelineError, match="takes no picture"):
        with_pictures(build("dit").pipe, {PICTURE: path})
    path.write_text("no picture")
    with pytest.raises(PipelineError, match="Cannot read the picture"):
        with_pictures(Redraws(), {PICTURE: path})


def test_a_warning_is_one_line_without_code(monkeypatch, capsys):
    def warn(arguments):
        warnings.warn("the rows are old. Said once.", ForeseerWarning, stacklevel=1)
        warnings.warn("foreign", UserWarning, stacklevel=1)

    monkeypatch.setattr(cli, "app", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        cli.main([])
    own, *foreign = capsys.readouterr().err.splitlines()
    assert own == "Warning: the rows are old. Said once."
    assert "UserWarning: foreign" in foreign[0]


def test_a_device_that_is_not_there_is_refused_before_the_model_is_read(monkeypatch):
    monkeypatch.setattr("foreseer.pipelines.loading._from_pretrained", lambda *request: pytest.fail("read"))
    with pytest.raises(PipelineError, match=r"^The device 'xpu:77' cannot be used here: (?!\w+Error)"):
        load_pipeline("emoji", device="xpu:77")


@pytest.mark.parametrize("command", ["generate", "calibrate"])
def test_refusals_of_the_pipeline_are_quoted(tmp_path, command):
    words = {"generate": ["--prompt", "a red apple", "--steps", "4"], "calibrate": ["--steps", "4"]}[command]
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, [command, "emoji", *words, "--out", str(out), "--option", "max_sequence_length=9999"]
    )
    assert isinstance(result.exception, PipelineError)
    assert "FluxPipeline cannot draw this" in str(result.exception)
    assert "cannot be greater than 512" in str(result.exception)
    assert not out.exists()


def test_a_picture_is_not_asked_for_where_memory_is_short():
    class Fails(Redraws):
        def __call__(self, prompt=None, image=None, generator=None):
            raise RuntimeError("out of memory")

    with pytest.raises(PipelineError, match=r"^Fails cannot draw this: RuntimeError: out of memory\.$"):
        run(Fails(), {}, seed=0)


def test_an_empty_prompt_is_left_out_where_there_is_none_to_give():
    class Continues:
        def __call__(self, image=None, generator=None):
            return image

    class Draws:
        def __call__(self, prompt=None, prompt_embeds=None, generator=None):
            return prompt_embeds

    assert call_arguments(Continues(), "", {"image": 3}) == {"image": 3}
    assert call_arguments(Draws(), "", {"prompt_embeds": 3}) == {"prompt_embeds": 3}
    with pytest.raises(PipelineError, match="give an empty prompt"):
        call_arguments(Continues(), "a lynx", {})


def test_what_a_pipeline_draws_without_its_generator_is_seeded_too():
    class Rewrites:
        def __call__(self, prompt=None, generator=None):
            return torch.rand(3).tolist()

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (run(Rewrites(), {}, seed=seed) for seed in (1, 1, 2))
    assert first == second != other
    assert torch.equal(torch.rand(3), expected)  # the caller's generator is as it was


def test_foreseers_own_errors_inside_a_call_keep_their_type():
    class Refuses(Redraws):
        def __call__(self, prompt=None, image=None, generator=None):
            raise PlanError("no row")

    with pytest.raises(PlanError, match=r"^no row$"):
        run(Refuses(), {}, seed=0)


def test_an_output_without_picture_or_video_is_refused(tmp_path):
    with pytest.raises(PipelineError, match="holds no picture and no video"):
        write_picture(SimpleNamespace(audios=[0.0]), tmp_path / "sound.png")


@pytest.mark.parametrize("name", ["images", "image", "rgb", "frames", "video"])
def test_an_output_is_read_by_every_name_that_diffusers_has_for_it(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    value = [frames] if name == "frames" else frames  # Cosmos 3's `video` has no batch
    write_picture(SimpleNamespace(**{name: value}), tmp_path / "drawn.gif")
    with Image.open(tmp_path / "drawn.gif") as drawn:
        assert getattr(drawn, "n_frames", 1) == (2 if name in ("frames", "video") else 1)
        assert drawn.convert("RGB").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--true-cfg", "nan", "--negative", "x"], "true_cfg_scale is nan"),
        (["--guidance", "inf"], "guidance_scale is inf"),
        (["--seed", "99999999999999999999"], "less than or equal"),
        (["--out", "out.xyz", "--steps", "1"], "is not a picture format"),
        (["--negative", "blue"], "drops it where true_cfg_scale is 1"),
    ],
)
def test_values_that_draw_nothing_sensible_are_refused(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["generate", "emoji", "--prompt", "a red apple", *words])
    assert result.exit_code != 0
    assert said in result.output + str(result.exception)
    assert not list(tmp_path.iterdir())


def test_a_repository_of_a_modular_pipeline_alone_is_loaded_as_one(monkeypatch):
    def no_index(*_, **__):
        raise OSError("no model_index.json")

    loaded = []
    modular = SimpleNamespace(load_components=lambda **options: loaded.append(options), to=lambda device: modular)
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", no_index)
    monkeypatch.setattr("diffusers.ModularPipeline.from_pretrained", lambda model: modular)
    assert load_pipeline("owner/name", "bfloat16", "cpu")[0] is modular
    assert [str(*options.values()) for options in loaded] == ["torch.bfloat16"]
    monkeypatch.setattr("diffusers.ModularPipeline.from_pretrained", no_index)
    with pytest.raises(PipelineError, match="Cannot load 'owner/name'"):
        load_pipeline("owner/name", "bfloat16", "cpu")
