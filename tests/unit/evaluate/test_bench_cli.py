"""``foreseer bench``: output, files, refusals."""

import json

import pytest

import foreseer as fs
from foreseer import cli, zoo
from foreseer.errors import PlanError
from foreseer.evaluate.bench.selection import Selection
from foreseer.evaluate.entries.base import PlainEntry
from foreseer.kernel import Kernel
from foreseer.methods import METHODS


def run(capsys, *arguments):
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", *map(str, arguments)])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a red apple on a white background\na rocket on a purple background\n")
    return file


def test_it_writes_a_report_and_prints_what_is_missing(capsys, tmp_path, prompts):
    out = tmp_path / "report"
    arguments = ("emoji", "--prompts", prompts, "--steps", 6, "--methods", "reuse,steps,l2p", "--nfe", "3,published")
    code, words, err = run(capsys, *arguments, "--measures", "psnr,lpips,fid", "--limit", 1, "-o", out)
    assert code == 0
    assert "runs on 1 prompt, about" in " ".join(err.split())
    flat = " ".join(words.split())
    assert "FID: missing (needs real pictures to compare with: --real FOLDER)" in flat
    assert "L2P, published: L2P needs its trained matrix" in flat
    assert {"results.json", "results.csv", "report.html", "table.md", "cells"} <= {one.name for one in out.iterdir()}
    assert "Traceback" not in err
    code, words, _ = run(capsys, *arguments, "--measures", "psnr", "--limit", 1, "-o", out, "--json")
    assert code == 0
    results = json.loads(words)
    assert [(row["method"], row["budget"]) for row in results["rows"]] == [
        ("reference", None),
        ("reuse", 3),
        ("reuse", None),
        ("steps", 3),
        ("l2p", 3),
        ("l2p", None),
    ]
    assert results["rows"][1]["measures"]["psnr"] > 15
    assert results["prompts"] == ["a red apple on a white background"]


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["emoji", "--methods", "magic"], "taylorseer"),
        (["emoji", "--nfe", "ten"], "published"),
        (["emoji", "--nfe", "60"], "do not fit a run of 50 steps"),
        (["emoji", "--nfe", "9", "--forward-passes", "18"], "give computed steps"),
        (["emoji", "--forward-passes", "18,published"], "write numbers of"),
        (["emoji", "--prompts", "no such file.txt"], "no such file"),
        (["emoji", "--kernel", "none.kernel", "--nfe", "9"], "none.kernel"),
        (["emoji", "--plan", "none.plan"], "none.plan"),
        (["emoji", "--methods", "plan:none.plan"], "none.plan"),
        (["emoji", "--measures", "beauty", "--methods", "reuse"], "expected one of psnr"),
        (["no/such/folder/here", "--methods", "reuse"], "hub id"),
        (["emoji", "--methods", ""], "no method"),
    ],
)
def test_bad_usage_is_one_readable_error_with_the_remedy(capsys, monkeypatch, tmp_path, arguments, remedy):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = run(capsys, *arguments, "-o", tmp_path / "report")
    assert code == 2
    assert remedy in " ".join((out + err).split())
    assert "Traceback" not in out + err


def test_an_empty_file_of_prompts_is_refused(capsys, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n  \n")
    code, _, err = run(capsys, "emoji", "--prompts", empty, "-o", tmp_path / "report")
    assert code == 2
    assert "holds no prompt: write one per line" in " ".join(err.split())
    assert not (tmp_path / "report").exists()


def test_limit_uses_the_first_prompts_of_a_long_file(capsys, tmp_path):
    many = tmp_path / "many.txt"
    many.write_text("".join(f"a red apple on a white background {index}\n" for index in range(10_000)))
    out = tmp_path / "report"
    arguments = ("--methods", "reuse", "--nfe", 2, "--steps", 4, "--measures", "psnr")
    code, words, _ = run(capsys, "emoji", "--prompts", many, "--limit", 2, *arguments, "-o", out, "--json")
    assert code == 0
    assert len(json.loads(words)["prompts"]) == 2
    assert len(list((out / "cells").iterdir())) == 2


def test_by_default_a_few_methods_run_at_every_budget():
    made = [(entry.name, entry.budget) for entry in Selection(steps=50, budgets=[14, 9]).entries()]
    assert made == [(name, nfe) for name in ("taylorseer", "spectrum", "steps", "unipc") for nfe in (14, 9)]
    with_kernel = Selection(50, [9], kernels=[zoo.kernel_path()]).names()
    assert with_kernel[1:] == ["taylorseer", "spectrum", "l2p", "steps", "unipc"]  # L2P is trained from the kernel


def test_everything_that_needs_no_file_runs_at_every_budget_if_asked_for():
    made = Selection(steps=50, budgets=[14, 9], everything=True).entries()
    names = {one.name for one in made}
    assert set(METHODS) - {"l2p"} <= names
    assert {"unipc", "dpm-solver", "heun", "diffusers-first-block"} <= names
    assert len(made) == 2 * len(names)
    assert PlainEntry("steps", "Step reduction", 9, 9) in made


def test_a_kernel_and_a_plan_add_their_rows_and_l2p():
    choice = Selection(50, [10, 9], kernels=[zoo.kernel_path()], plans=[zoo.plan_path()])
    made = {(one.name, one.budget): one for one in choice.entries()}
    assert ("plan:emoji-10", 10) in made
    learned = made["kernel:emoji", 9].make(None)
    assert learned.policy.compile(Kernel.load(zoo.kernel_path()).grid).nfe == 9
    assert learned.settings["prompts"] == Kernel.load(zoo.kernel_path()).prompts
    assert made["l2p", 9].make(None).policy.forecaster.matrix.shape == (50, 50)


def test_budgets_in_forward_passes_count_both_branches_of_guidance(capsys, tmp_path, prompts, emoji):
    guided = {"true_cfg_scale": 3.0, "negative_prompt": "a blur"}
    size = {"height": 64, "width": 64, "max_sequence_length": 16}
    kernel = fs.calibrate(emoji, ["a rocket"], num_inference_steps=8, sensitivity_prompts=0, **size, **guided)
    kernel.save(path := tmp_path / "guided.kernel.safetensors")
    arguments = ("emoji", "--prompts", prompts, "--limit", 1, "--steps", 8, "--methods", f"steps,kernel:{path}")
    refused = {(9, 1): "1 forward passes are fewer than", (9, 8): "both 4 computed steps", (17,): r"takes \(16\)"}
    for passes, words in refused.items():
        with pytest.raises(PlanError, match=words):
            Selection(8, (), forward_passes=passes).in_steps(2)
    arguments += ("--true-cfg", 3.0, "--negative", "a blur", "--measures", "psnr", "--forward-passes")
    code, words, _ = run(capsys, *arguments, "9", "-o", tmp_path / "report", "--json")
    assert code == 0
    results = json.loads(words)
    assert results["notes"] == ["Budgets in forward passes, 2 per step: 9 in 4 steps."]
    reference, steps, kernel = results["rows"]
    assert kernel["error"] is None
    assert [(row["method"], row["budget"]) for row in (steps, kernel)] == [("steps", 4), ("kernel:guided", 4)]
    passes = [round(16 * row["flops"] / reference["flops"], 1) for row in (steps, kernel)]
    assert passes == [8.0, 9.0]  # of 16: kernel rows spend the odd pass on one branch
