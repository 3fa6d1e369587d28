"""The command line: output, exit codes, files."""

import json

import pytest

import foreseer
from foreseer import cli
from foreseer.methods import METHODS


def run(capsys, *arguments):
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(one) for one in arguments])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


def test_the_version_is_that_of_the_package(capsys):
    code, out, _ = run(capsys, "--version")
    assert (code, out) == (0, f"foreseer {foreseer.__version__}\n")


def test_methods_lists_every_method(capsys):
    code, out, _ = run(capsys, "methods", "--json")
    assert code == 0
    assert [one["name"] for one in json.loads(out)] == list(METHODS)
    code, out, _ = run(capsys, "methods")
    assert code == 0
    assert all(name in out for name in METHODS)


def test_explain_a_method_then_the_plan_that_it_saved(capsys, tmp_path):
    file = tmp_path / "ten.plan.safetensors"
    code, out, _ = run(capsys, "plan", "spectrum", "--nfe", "10", "-o", file, "--json")
    assert code == 0
    assert json.loads(out)["computed_steps"] == [0, 1, 2, 3, 4, 6, 11, 19, 30, 44]
    code, again, _ = run(capsys, "plan", "explain", file, "--json")
    assert code == 0
    assert json.loads(again) == json.loads(out)
    code, words, _ = run(capsys, "plan", "explain", file, "--shape", "1,4096,3072", "--dtype", "bfloat16")
    assert code == 0
    assert "10 of 50 steps computed" in words
    assert "240.00 MiB" in words


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["plan", "explain", "nothing"], "Unknown file or method 'nothing'"),
        (["plan", "explain", "spectrum", "--nfe", "51"], "1 to 50"),
        (["plan", "explain", "l2p"], "--matrix"),
        (["plan", "explain", "reuse", "--shape", "a,b"], "1,4096,64"),
        (["plan", "explain", "reuse", "--shape", "0,4"], "positive"),
        (["plan", "explain", "reuse", "--dtype", "int8"], "bfloat16"),
        (["generate", "emoji", "-p", "x", "--method", "magic"], "taylorseer"),
        (["generate", "emoji", "-p", "x", "--dtype", "int3"], "bfloat16"),
        (["generate", "no/such/folder/here", "-p", "x"], "hub id"),
        (["generate", "emoji"], "--prompt"),
        (["generate", "emoji", "-p", " "], "prompt is empty"),
        (["generate", "emoji", "-p", "x", "-o", "x.xyz"], "Name it .png"),
        (["generate", "emoji", "-p", "x", "--method", "reuse", "--nfe", "50"], "save nothing"),
        (["generate", "emojy", "-p", "x"], "did you mean 'emoji'"),
        (["generate", "emoji", "-p", "x", "--method", "reuse", "--plan", "some.file"], "one of"),
        (["generate", "emoji", "-p", "x", "--forward-passes", "5"], "--kernel"),
        (["generate", "emoji", "-p", "x", "--kernel", "none.kernel", "--nfe", "5"], "none.kernel"),
        (["plan", "none.kernel", "--nfe", "5"], "Unknown file or method"),
        (["frontier", "none.kernel"], "none.kernel"),
        (["calibrate", "emoji", "--prompts", "no such file.txt"], "no such file"),
        (["demo", "--nfe", "60"], "--nfe"),
        (["plan", "explain", "taylorseer", "--matrix", "any.txt"], "takes no matrix"),
        (["plan", "spectrum", "--speedup", "5"], "need a kernel"),
        (["generate", "emoji", "-p", "x", "--matrix", "any.txt"], "--method l2p"),
        (["generate", "emoji", "-p", "x", "--device", "nowhere"], "nowhere"),
        (["plan", "spectrum", "-o", "/dev/null/[/such]/folder"], "/dev/null/[/such]"),
        (["nonsense"], "nonsense"),
    ],
)
def test_bad_usage_is_one_readable_error_with_the_remedy_and_exit_code_2(capsys, monkeypatch, arguments, remedy):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert remedy in " ".join((out + err).split())
    assert "Traceback" not in out + err


def test_explain_refuses_a_foreign_file(capsys, tmp_path):
    file = tmp_path / "foreign.safetensors"
    file.write_bytes(b"not a plan at all")
    code, _, err = run(capsys, "plan", "explain", file)
    assert code == 2
    assert "damaged or not a plan" in " ".join(err.split())


def test_generate_writes_pictures_and_says_what_was_computed(capsys, tmp_path):
    out = tmp_path / "pictures" / "one.png"
    arguments = ("-p", "a red apple on a blue background", "-p", "a panda on a red background")
    code, words, _ = run(
        capsys, "generate", "emoji", *arguments, "--method", "newton", "--nfe", 5, "--steps", 10, "-o", out, "--json"
    )
    assert code == 0
    made = [json.loads(line) for line in words.splitlines()]
    assert [one["record"]["nfe"] for one in made] == [5, 5]
    assert [one["seed"] for one in made] == [0, 1]
    assert sorted(file.name for file in out.parent.iterdir()) == ["one-0.png", "one-1.png"]


@pytest.mark.filterwarnings("default:.*another grid")
def test_generate_with_a_plan_for_another_grid_computes_and_says_so(capsys, tmp_path):
    file = tmp_path / "plan.safetensors"
    run(capsys, "plan", "reuse", "--steps", 10, "--nfe", 5, "-o", file)
    arguments = ("generate", "emoji", "-p", "a cat", "--plan", file, "--steps", 8, "-o", tmp_path / "a.png")
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "another grid (10 steps, this run has 8)" in " ".join(err.replace("│", " ").split())
    code, words, err = run(capsys, *arguments, "--force")
    assert code == 0
    assert "another grid" in err
    assert "8 of 8 steps computed" in words
    assert "another grid" in " ".join(words.split())


def test_demo_writes_a_page_a_picture_and_figures(capsys, tmp_path):
    code, out, _ = run(capsys, "demo", "--prompts", 1, "--steps", 10, "--nfe", 4, "-o", tmp_path, "--json")
    assert code == 0
    rows = {row["method"]: row for row in json.loads(out)["rows"]}
    assert list(rows) == ["reference", "kernel:emoji", "taylorseer", "spectrum", "l2p", "steps", "unipc"]
    assert "of 50" in rows.pop("l2p")["error"]  # it publishes steps for runs of 50 only
    assert all(row["nfe"] == pytest.approx(4) for name, row in rows.items() if name != "reference")
    assert all(row["measures"]["psnr"] > 5 for name, row in rows.items() if name != "reference")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["demo.html", "demo.json", "demo.png"]
    page = (tmp_path / "demo.html").read_text()
    assert page.count("<figure data-method") == len(rows)
    assert "http" not in page.replace("http://www.w3.org", "")
    assert (tmp_path / "demo.png").read_bytes()[:4] == b"\x89PNG"


def test_calibrate_then_plan_frontier_and_generate(capsys, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red apple on a blue background\n\na rocket on a white background\n")
    kernel, plan = tmp_path / "k.safetensors", tmp_path / "p.safetensors"
    code, out, _ = run(capsys, "calibrate", "emoji", "--prompts", prompts, "--steps", 10, "-o", kernel)
    assert code == 0
    assert "2 prompts, 10 steps" in " ".join(out.split())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["k.safetensors", "prompts.txt"]

    code, out, _ = run(capsys, "plan", kernel, "--nfe", 4, "-o", plan, "--json")
    assert code == 0
    assert len(json.loads(out)["computed_steps"]) == 4
    code, out, _ = run(capsys, "plan", kernel, "--speedup", 2, "--steps", 8, "--json")
    assert code == 0
    assert (len(json.loads(out)["computed_steps"]), json.loads(out)["steps"]) == (4, 8)
    code, _, err = run(capsys, "plan", kernel)
    assert code == 2
    assert "exactly one" in " ".join(err.split())

    code, out, _ = run(capsys, "frontier", kernel, "--most", 6, "-o", tmp_path / "curve.png", "--json")
    assert code == 0
    points = json.loads(out)
    assert [point["nfe"] for point in points] == [2, 3, 4, 5, 6]
    assert sum(point["knee"] for point in points) == 1
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"

    arguments = ("generate", "emoji", "-p", "a rocket on a white background", "--steps", 10, "-o", tmp_path / "a.png")
    code, out, _ = run(capsys, *arguments, "--kernel", kernel, "--nfe", 4, "--json")
    assert code == 0
    assert json.loads(out)["record"]["nfe"] == 4
    code, out, _ = run(capsys, *arguments, "--plan", plan, "--json")
    assert code == 0
    assert json.loads(out)["record"]["nfe"] == 4
