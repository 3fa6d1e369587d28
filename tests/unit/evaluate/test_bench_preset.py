"""``foreseer bench --preset`` on another pipeline, and on an architecture with random weights."""

import json
from importlib import resources

import numpy as np
import pytest

from foreseer import cli, zoo
from foreseer.evaluate.bench.prepare import BenchRequest, PresetRequest, compare_preset
from foreseer.evaluate.presets import PRESETS, PresetError, load_preset
from foreseer.forecast import L2P
from foreseer.kernel import Kernel
from foreseer.methods.train_l2p import train_l2p


def run(capsys, *arguments):
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", *map(str, arguments)])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


def test_a_preset_on_another_pipeline_has_its_methods_layout_and_published_figures(capsys, tmp_path):
    rows = "taylorseer-n3-o2,fora-n6,duca-n5"
    arguments = ("--preset", "taylorseer-flux", "--model", "emoji", "--methods", rows, "--steps", 6, "--limit", 1)
    code, words, _ = run(capsys, *arguments, "--measures", "psnr", "-o", tmp_path, "--json")
    assert code == 0
    results = json.loads(words)
    assert [row["method"] for row in results["rows"]] == ["reference", "taylorseer-n3-o2", "fora-n6", "duca-n5"]
    assert results["rows"][0]["published"]["CLIP"] == 19.604
    assert results["rows"][1]["published"]["Image Reward"] == 1.0181
    assert results["rows"][1]["measures"]["psnr"] > 15
    assert results["rows"][3]["error"] is None
    assert 1 < results["rows"][3]["flops_speedup"] < results["rows"][2]["flops_speedup"]
    assert results["title"] == "TaylorSeer: FLUX.1-dev (emoji)"
    assert any("Not the paper's model" in note for note in results["notes"])
    assert any("arXiv 2503.06923" in note for note in results["notes"])
    page = (tmp_path / "report.html").read_text()
    assert "Published figures beside ours" in page
    assert "1.0181" in page


def test_random_weights_give_cost_and_no_fidelity(capsys, tmp_path):
    arguments = ("--preset", "l2p-memory", "--random-weights", "--scale", "small", "--steps", 8, "--limit", 1)
    size = ("--height", 64, "--width", 64, "--threads", 1, "-o", tmp_path)
    code, words, _ = run(capsys, *arguments, "--methods", "taylorseer-n5-o2,l2p-n7,toca", *size)
    assert code == 0
    assert "fidelity is not shown" in " ".join(words.split())
    assert "PSNR, dB: missing (the weights are random)" in words
    results = json.loads((tmp_path / "results.json").read_text())
    rows = {row["method"]: row for row in results["rows"]}
    assert rows["taylorseer-n5-o2"]["nfe"] == 4
    assert rows["taylorseer-n5-o2"]["flops_speedup"] > 1.5
    assert rows["taylorseer-n5-o2"]["peak_memory"] > 0
    assert all(row["measures"] == {} and row["latent_error"] == {} for row in rows.values())
    assert "50 steps" in rows["l2p-n7"]["error"]  # its published steps are of 50
    assert "settings of this row" in rows["toca"]["error"]
    assert results["model"] == "FLUX.1-dev, random weights, small size"


def test_l2p_is_trained_from_a_kernel_read_from_a_file_or_absent(tmp_path):
    kernel, text = zoo.kernel_path(), tmp_path / "matrix.txt"
    text.write_text("1 0\n0.5 0.5\n")
    trained = train_l2p(Kernel.load(kernel))
    assert PresetRequest("l2p-flux", "somewhere/else", kernel=kernel).l2p_rows() == trained
    assert PresetRequest("l2p-flux", "emoji").l2p_rows() == trained  # the bundled pipeline comes with its kernel
    assert PresetRequest("l2p-flux", "emoji", matrix=text).l2p_rows() == L2P([[1, 0], [0.5, 0.5]])
    assert PresetRequest("l2p-flux", "somewhere/else").l2p_rows() is None
    made = PresetRequest("l2p-flux", scale="small").l2p_rows()
    assert np.count_nonzero(np.asarray(made.matrix)) == 50 * 51 // 2
    with pytest.raises(PresetError, match="not both"):
        PresetRequest("l2p-flux", "emoji", kernel=kernel, matrix=text)


def test_another_matrix_is_another_entry():
    preset = load_preset("l2p-flux")
    by_matrix = [
        {one.name: one.settings for one in preset.entries(matrix=L2P(np.eye(50) * size))} for size in (1.0, 2.0)
    ]
    assert by_matrix[0]["l2p-n5"] != by_matrix[1]["l2p-n5"]
    assert by_matrix[0]["fora-n5"] == by_matrix[1]["fora-n5"]


def test_another_model_keeps_its_own_options_and_prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a red apple\n")
    prepared = compare_preset(
        BenchRequest(prompts=file), PresetRequest("spectrum-table-1-flux", "emoji", rows=["fora-n6"])
    )
    assert prepared.bench.options["height"] == 64
    assert prepared.bench.prompts == ["a red apple"]
    assert prepared.bench.steps == 50
    assert prepared.bench.decode
    assert prepared.bench.incomparable is None
    assert [one.name for one in prepared.entries] == ["fora-n6"]


def test_presets_are_listed(capsys):
    code, words, _ = run(capsys, "--list-presets", "--json")
    assert code == 0
    listed = {one["name"]: one for one in json.loads(words)}
    assert tuple(listed) == PRESETS
    assert listed["taylorseer-dit"]["random_weights"] is None
    assert listed["l2p-hunyuan"]["random_weights"] == "hunyuan-video"
    code, words, _ = run(capsys, "--list-presets")
    assert code == 0
    assert all(name in words for name in PRESETS)


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ([], "--preset"),
        (["--preset", "l2p-flux-2"], "did you mean 'l2p-flux'"),
        (["--preset", "l2p-flux", "emoji", "--model", "emoji"], "given twice"),
        (["--preset", "l2p-flux", "emoji", "--random-weights"], "not both"),
        (["--preset", "l2p-flux", "emoji", "--scale", "small"], "--random-weights"),
        (["--preset", "l2p-flux", "--random-weights", "--scale", "tiny"], "small"),
        (["--preset", "l2p-flux", "--random-weights", "--device", "nowhere"], "nowhere"),
        (["--preset", "l2p-flux", "--random-weights", "--scale", "small", "--dtype", "int3"], "bfloat16"),
        (["--preset", "taylorseer-dit", "--random-weights"], "taylorseer-flux"),
        (["--preset", "l2p-flux", "emoji", "--nfe", "9"], "the preset decides"),
        (["--preset", "l2p-flux", "emoji", "--methods", "magic"], "expected one of fora-n5"),
        (["--preset", "l2p-flux", "emoji", "--methods", ""], "expected some of fora-n5"),
        (["--preset", "l2p-flux", "emoji", "--matrix", "none.txt"], "none.txt"),
        (["--preset", "l2p-flux", "emoji", "--kernel", "none.kernel"], "none.kernel"),
        (["--preset", "l2p-flux", "emoji", "--kernel", zoo.kernel_path(), "--kernel", zoo.kernel_path()], "one kernel"),
        (["emoji", "--random-weights"], "--preset"),
        (["--model", "emoji"], "--preset"),
    ],
)
def test_bad_usage_is_one_readable_error_with_the_remedy(capsys, monkeypatch, tmp_path, arguments, remedy):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = run(capsys, *arguments, "-o", tmp_path / "report")
    assert code == 2
    assert remedy in " ".join((out + err).replace("│", " ").split())
    assert "Traceback" not in out + err
    assert not (tmp_path / "report").exists()


def test_presets_templates_and_weights_are_data_of_the_package():
    package = resources.files("foreseer")
    assert {f"{name}.toml" for name in PRESETS} < {
        one.name for one in (package / "evaluate" / "presets").iterdir() if one.name.endswith(".toml")
    }
    assert (package / "evaluate" / "report" / "templates" / "bench.html").is_file()
    assert (package / "zoo" / "emoji.kernel.safetensors").is_file()
