"""The commands on whole pipelines in folders, from prompt to picture."""

import inspect
import json

import diffusers
import pytest
from PIL import Image
from typer.testing import CliRunner

import foreseer as fs
from foreseer.cli import app
from foreseer.pipelines.call_source import parameters_in_source
from tests.support.folder_commands import calibrate_draw_and_compare, invoke
from tests.support.folder_table import FAMILIES, NFE, PICTURED, SIZE, STEPS, UNBINNED, UNBINNED_ONES, VIDEOS
from tests.support.folders import PARTS

OTHERS = sorted({*PARTS} - {*FAMILIES, *PICTURED, "wan_2_2"})


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_is_calibrated_drawn_from_and_compared(folder, tmp_path, name):
    assert calibrate_draw_and_compare(folder(name), tmp_path, FAMILIES[name]).is_file()


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_folder_is_drawn_from_at_a_budget(folder, tmp_path, name):
    drawn, frames = tmp_path / "drawn.gif", VIDEOS.get(name, 1)
    words = ["generate", folder(name), "-p", "a red apple", "--method", "taylorseer", "--nfe", 3, "--steps", NFE]
    options = ["--option", UNBINNED] if name in UNBINNED_ONES else []
    options += ["--option", f"num_frames={frames}"] if frames > 1 else []
    made = json.loads(invoke(*words, "--height", SIZE, "--width", SIZE, *options, "-o", drawn, "--json"))
    assert made["record"]["nfe"] == 3
    assert made["record"]["failed_open"] == []
    with Image.open(drawn) as picture:
        assert picture.size == (SIZE, SIZE)
        assert 1 <= getattr(picture, "n_frames", 1) <= frames  # equal frames of a GIF are one


def test_a_run_that_begins_from_a_picture_is_calibrated_rolled_out_drawn_and_compared(folder, tmp_path):
    given, prompts = tmp_path / "given.png", tmp_path / "prompts.txt"
    kernel, plan, drawn = (
        tmp_path / "one.kernel.safetensors",
        tmp_path / "four.plan.safetensors",
        tmp_path / "drawn.png",
    )
    Image.linear_gradient("L").resize((SIZE, SIZE)).convert("RGB").save(given)
    prompts.write_text("a red apple\n")
    call = ("--height", SIZE, "--width", SIZE, "--image", given, "--option", "strength=0.75")
    model = folder("flux_img2img")
    invoke("calibrate", model, "--prompts", prompts, "--steps", 8, "-o", kernel, *call)
    assert len(fs.Kernel.load(kernel).grid) == 6  # of the 8 steps, those from the picture on
    invoke("rollout", model, kernel, "--nfe", NFE, "--prompts", prompts, "-o", plan, *call)
    words = ("generate", model, "-p", "a red apple", "--steps", 8, "--plan", plan, "-o", drawn, "--json")
    made = json.loads(invoke(*words, *call))
    record = made["record"]
    assert made["steps"] == 6
    computed = [2 + step for step in fs.Plan.load(plan).computed_steps]
    assert record["computed"] == {"call 1": computed}
    assert record["failed_open"] == []
    bench = ("bench", model, "--prompts", prompts, "--steps", 8, "--nfe", NFE, "--methods", "reuse")
    for _ in range(2):  # the second finds the first one's results: the picture is known by its content
        report = json.loads(
            invoke(*bench, "--plan", plan, "--measures", "psnr", "-o", tmp_path / "report", "--json", *call)
        )
        rows = {row["title"]: row for row in report["rows"]}
        assert rows["Plan"]["measures"]["psnr"] > rows["Reuse"]["measures"]["psnr"]
    Image.new("RGB", (SIZE, SIZE), "red").save(given)
    result = CliRunner().invoke(app, [*map(str, (*bench, "-o", tmp_path / "report", *call))])
    assert "results of another bench (options" in str(result.exception)


def test_a_mask_is_given_as_an_option(folder, tmp_path):
    given, mask, drawn = tmp_path / "given.png", tmp_path / "mask.png", tmp_path / "drawn.png"
    Image.new("RGB", (SIZE, SIZE), "red").save(given)
    Image.new("L", (SIZE, SIZE), 255).save(mask)
    words = ("generate", folder("flux_fill"), "-p", "a red apple", "--steps", STEPS, "-o", drawn)
    sizes = ("--height", SIZE, "--width", SIZE)
    invoke(*words, *sizes, "--image", given, "--option", f"mask_image=@{mask}", "--method", "reuse", "--nfe", NFE)
    with Image.open(drawn) as picture:
        assert picture.size == (SIZE, SIZE)
    result = CliRunner().invoke(app, [*map(str, (*words, *sizes, "--image", given))])
    assert "takes mask_image, none was given" in str(result.exception)


@pytest.mark.parametrize(
    ("name", "options"),
    [("flux_control", []), ("flux_kontext", ["--option", "_auto_resize=false", "--option", f"max_area={SIZE**2}"])],
)
def test_a_picture_is_given_under_the_name_that_the_pipeline_has(folder, tmp_path, name, options):
    given, drawn = tmp_path / "given.png", tmp_path / "drawn.png"
    Image.new("RGB", (SIZE, SIZE), "red").save(given)
    words = ("generate", folder(name), "-p", "a red apple", "--method", "reuse", "--nfe", 3, "--steps", NFE)
    made = json.loads(
        invoke(*words, "--height", SIZE, "--width", SIZE, "--image", given, *options, "-o", drawn, "--json")
    )
    assert made["record"]["nfe"] == 3
    with Image.open(drawn) as picture:
        assert picture.size == (SIZE, SIZE)


def test_several_pictures_are_given(folder, tmp_path):
    pictures = {colour: tmp_path / f"{colour}.png" for colour in ("red", "blue")}
    for colour, path in pictures.items():
        Image.new("RGB", (64, 64), colour).save(path)
    words = ("generate", folder("flux2_klein"), "-p", "a red apple", "--method", "reuse", "--nfe", 2, "--steps", 3)
    drawn = tmp_path / "drawn.png"
    contents = set()
    for shown in (("red",), ("blue",), ("red", "blue")):
        given = [word for colour in shown for word in ("--image", pictures[colour])]
        invoke(*words, "--height", SIZE, "--width", SIZE, *given, "-o", drawn)
        contents.add(drawn.read_bytes())
    assert len(contents) == 3
    result = CliRunner().invoke(app, [*map(str, (*words, "--image", pictures["red"], "--image", "missing.png"))])
    assert "Cannot read the picture missing.png" in str(result.exception)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("strength", "write it as NAME=VALUE"),
        ("num_inference_steps=4", "instead of num_inference_steps give --steps"),
        ("height=64", "height is given twice"),
        ("image=@missing.png", "Cannot read the picture missing.png"),
        ("colour=red", "FluxImg2ImgPipeline takes no colour"),
    ],
)
def test_an_option_that_cannot_be_given_is_refused(folder, words, why):
    command = ("generate", folder("flux_img2img"), "-p", "a red apple", "--height", SIZE, "--option", words)
    result = CliRunner().invoke(app, [*map(str, command)])
    assert result.exit_code != 0
    assert why in f"{' '.join(result.output.split())} {result.exception}"


@pytest.mark.parametrize("name", ["FluxImg2ImgPipeline", "StableDiffusionXLPipeline"])
def test_the_parameters_of_a_call_are_read_from_the_source(name):
    pipeline = getattr(diffusers, name)
    actual = {key: item.default for key, item in inspect.signature(pipeline.__call__).parameters.items()}
    read = parameters_in_source(name)
    assert read is not None
    expected = {key: actual[key] for key in actual if key not in ("self", "kwargs")}
    assert {key: item.default for key, item in read.items()} == expected
    assert parameters_in_source("NoSuchPipeline") is None


def test_two_denoisers_share_a_budget_and_a_rollout(folder, tmp_path):
    model, kernel, prompts = folder("wan_2_2"), tmp_path / "one.kernel.safetensors", tmp_path / "prompts.txt"
    prompts.write_text("a red apple\n")
    call = ("--height", SIZE, "--width", SIZE, "--option", "num_frames=5")
    invoke("calibrate", model, "--prompts", prompts, "--steps", 8, "-o", kernel, *call)
    words = ("generate", model, "-p", "a red apple", "--steps", 8, "-o", tmp_path / "drawn.gif", "--json", *call)
    for how in (("--kernel", kernel), ("--method", "taylorseer"), ("--method", "spectrum")):
        record = json.loads(invoke(*words, *how, "--nfe", 6))["record"]
        assert record["nfe"] == 6
        assert {name.split()[0] for name in record["computed"]} == {"transformer", "transformer_2"}
        assert record["failed_open"] == []
    invoke("rollout", model, kernel, "--nfe", NFE, "--prompts", prompts, "-o", tmp_path / "p", *call)
    record = json.loads(invoke(*words, "--plan", tmp_path / "p"))["record"]
    assert record["nfe"] == NFE
    assert {name.split()[0] for name in record["computed"]} == {"transformer", "transformer_2"}
    assert {name.split()[0] for name in record["forecast"]} == {"transformer", "transformer_2"}
    assert record["failed_open"] == []


@pytest.fixture(scope="module")
def guided(folder, tmp_path_factory):
    """A kernel with two branches, and the options of its calls."""
    place = tmp_path_factory.mktemp("guided")
    prompts, kernel = place / "prompts.txt", place / "wan.kernel.safetensors"
    prompts.write_text("a red apple\na blue boat\n")
    call = ("--height", SIZE, "--width", SIZE, "--option", "num_frames=5")
    invoke("calibrate", folder("wan"), "--prompts", prompts, "--steps", STEPS, "-o", kernel, *call)
    return kernel, prompts, call


def test_forward_passes_are_a_budget_of_every_command(folder, guided, tmp_path):
    kernel, prompts, call = guided
    calls = 2 * NFE - 1  # odd: the branches compute apart
    plan, rolled, drawn = tmp_path / "apart.plan.safetensors", tmp_path / "rolled.plan.safetensors", tmp_path / "o.gif"
    invoke("plan", kernel, "--forward-passes", calls, "-o", plan)
    invoke("rollout", folder("wan"), kernel, "--forward-passes", calls, "--prompts", prompts, "-o", rolled, *call)
    words = ("generate", folder("wan"), "-p", "a red apple", "--steps", STEPS, "-o", drawn, "--json", *call)
    seen = []
    for how in (("--plan", plan), ("--plan", rolled), ("--kernel", kernel, "--forward-passes", calls)):
        record = json.loads(invoke(*words, *how))["record"]
        assert record["forward_passes"] == calls
        assert record["failed_open"] == []
        seen.append(record["computed"])
    assert seen[0] == seen[2]  # a rollout chooses from several sets of steps
    assert all(len(set(map(len, computed.values()))) == 2 for computed in seen)
    result = CliRunner().invoke(app, [*map(str, (*words, "--method", "reuse", "--forward-passes", calls))])
    assert "needs --kernel" in " ".join(result.output.replace("│", " ").split())


def test_a_frontier_over_forward_passes(folder, guided, tmp_path):
    kernel, _, _ = guided
    curve = tmp_path / "curve.png"
    words = ("frontier", kernel, "--forward-passes", "--most", 2 * STEPS)
    points = json.loads(invoke(*words, "-o", curve, "--json"))
    assert [point["forward_passes"] for point in points] == list(range(2, 2 * STEPS))
    for point in points:
        apart = [len(steps) for steps in point["branch_steps"].values()]
        assert sum(apart) + (2 - len(apart)) * point["nfe"] == point["forward_passes"]
        assert point["speedup"] == pytest.approx(2 * STEPS / point["forward_passes"])
    assert any(point["branch_steps"] for point in points)
    assert points[-1]["error"] < points[0]["error"] / 2
    assert sum(point["knee"] for point in points) == 1
    with Image.open(curve) as picture:
        assert picture.width > 500
    together = json.loads(invoke("frontier", kernel, "--json"))
    assert [point["forward_passes"] for point in together] == [2 * point["nfe"] for point in together]
    assert "passes" in invoke(*words)
