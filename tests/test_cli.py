"""The command line as its users meet it: output, exit codes, files."""

import json

import pytest

from foreseer import cli
from foreseer.plan.methods import METHODS


def run(capsys, *arguments):
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(one) for one in arguments])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


def test_methods_lists_every_method(capsys):
    code, out, _ = run(capsys, "methods", "--json")
    assert code == 0
    assert [one["name"] for one in json.loads(out)] == list(METHODS)
    code, out, _ = run(capsys, "methods")
    assert code == 0
    assert all(name in out for name in METHODS)


def test_explain_a_method_then_the_plan_that_it_saved(capsys, tmp_path):
    file = tmp_path / "ten.plan.safetensors"
    code, out, _ = run(capsys, "plan", "explain", "spectrum", "--nfe", "10", "--save", file, "--json")
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
        (["plan", "explain", "nothing"], "neither a file nor a method"),
        (["plan", "explain", "spectrum", "--nfe", "51"], "1 to 50"),
        (["plan", "explain", "l2p"], "--matrix"),
        (["plan", "explain", "reuse", "--shape", "a,b"], "1,4096,64"),
        (["plan", "explain", "reuse", "--shape", "0,4"], "positive"),
        (["plan", "explain", "reuse", "--dtype", "int8"], "bfloat16"),
        (["generate", "emoji", "-p", "x", "--method", "magic"], "taylorseer"),
        (["generate", "emoji", "-p", "x", "--nfe", "5"], "--method"),
        (["generate", "emoji", "-p", "x", "--dtype", "int3"], "bfloat16"),
        (["generate", "no/such/folder/here", "-p", "x"], "hub id"),
        (["generate", "emoji"], "--prompt"),
        (["demo", "--nfe", "60"], "--nfe"),
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
    assert "damaged or no plan" in " ".join(err.split())


def test_generate_writes_pictures_and_says_what_was_computed(capsys, tmp_path):
    out = tmp_path / "pictures" / "one.png"
    arguments = ("-p", "a red apple on a blue background", "-p", "a panda face on a red background")
    code, words, _ = run(
        capsys, "generate", "emoji", *arguments, "--method", "newton", "--nfe", 5, "--steps", 10, "-o", out, "--json"
    )
    assert code == 0
    made = [json.loads(line) for line in words.splitlines()]
    assert [one["record"]["nfe"] for one in made] == [5, 5]
    assert [one["seed"] for one in made] == [0, 1]
    assert sorted(file.name for file in out.parent.iterdir()) == ["one-0.png", "one-1.png"]


def test_generate_with_a_plan_for_another_grid_computes_and_says_so(capsys, tmp_path):
    file = tmp_path / "plan.safetensors"
    run(capsys, "plan", "explain", "reuse", "--steps", 10, "--nfe", 5, "--save", file)
    with pytest.warns(UserWarning, match="another grid"):
        code, words, _ = run(
            capsys, "generate", "emoji", "-p", "a cat", "--plan", file, "--steps", 8, "-o", tmp_path / "a.png"
        )
    assert code == 0
    assert "8 of 8 steps computed" in words
    assert "another grid" in " ".join(words.split())


def test_demo_writes_a_page_a_picture_and_figures(capsys, tmp_path):
    code, out, _ = run(capsys, "demo", "--prompts", 1, "--steps", 10, "--nfe", 4, "-o", tmp_path, "--json")
    assert code == 0
    figures = json.loads(out)
    methods = [row["method"] for row in figures["rows"]]
    assert methods[0] == "reference"
    assert {"reuse", "taylorseer", "spectrum", "steps"} <= set(methods)
    assert all(row["nfe"] == 4 for row in figures["rows"][1:])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["demo.html", "demo.json", "demo.png"]
