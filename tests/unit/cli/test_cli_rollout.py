"""``foreseer plan --method`` and ``foreseer rollout`` as their users meet them."""

import json

import numpy as np
import pytest

from foreseer import cli, zoo
from foreseer.forecast import TaylorSeer
from foreseer.kernel import Kernel
from foreseer.methods.train_l2p import train_l2p
from foreseer.plan import Plan
from foreseer.schedule import Optimal

KERNEL = zoo.kernel_path()


def run(capsys, *arguments):
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(one) for one in arguments])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


def test_a_kernels_steps_are_searched_for_the_rows_that_will_be_used(capsys, tmp_path):
    kernel, file = Kernel.load(KERNEL), tmp_path / "p.safetensors"
    for name, rows in (("taylorseer", TaylorSeer(order=2, first_enhance=3)), ("l2p", train_l2p(kernel))):
        code, out, _ = run(capsys, "plan", KERNEL, "--nfe", 5, "--method", name, "-o", file, "--json")
        assert code == 0
        steps = Optimal(kernel, 5, forecaster=rows).on(kernel.grid)
        plan = Plan.load(file)
        assert tuple(json.loads(out)["computed_steps"]) == plan.computed_steps == steps
        assert np.allclose(plan.rows, rows.rows(steps, kernel.grid), atol=1e-12)


def test_fixed_formulas_and_kernel_rows_serve_other_grids(capsys):
    for name in ("newton", "kernel"):
        code, out, _ = run(capsys, "plan", KERNEL, "--speedup", 4, "--steps", 20, "--method", name, "--json")
        assert code == 0
        assert (json.loads(out)["steps"], len(json.loads(out)["computed_steps"])) == (20, 5)


def test_rollout_writes_a_plan_that_generate_takes(capsys, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red apple on a blue background\na rocket on a white background\n")
    kernel, plan = tmp_path / "k.safetensors", tmp_path / "four.plan.safetensors"
    run(capsys, "calibrate", "emoji", "--prompts", prompts, "--steps", 8, "-o", kernel)
    arguments = ("rollout", "emoji", kernel, "--prompts", prompts, "--nfe", 4)
    code, out, err = run(capsys, *arguments, "-o", plan)
    assert code == 0, err
    assert f"wrote {plan}: computes 4 of 8 steps, fitted on 2 prompts" in out
    same = Plan.load(plan)
    assert same.nfe == 4

    code, out, _ = run(capsys, *arguments, "--teacher-steps", 16, "--count", 1, "-o", tmp_path / "finer.safetensors")
    assert code == 0
    assert "fitted on 1 prompt\n" in out
    assert not np.allclose(Plan.load(tmp_path / "finer.safetensors").rows, same.rows, atol=1e-3)

    drawn = ("generate", "emoji", "-p", "a rocket on a white background", "--steps", 8, "-o", tmp_path / "a.png")
    code, out, _ = run(capsys, *drawn, "--plan", plan, "--json")
    assert code == 0
    assert json.loads(out)["record"]["nfe"] == 4

    picture = tmp_path / "portrait.png"
    shown = ("portrait", kernel, "--nfe", 4, "--model", "emoji", "--prompts", prompts, "--plan", plan, "-o", picture)
    code, out, err = run(capsys, *shown)
    assert code == 0, err
    assert picture.read_bytes()[:4] == b"\x89PNG"
    rows = [line.split()[:2] for line in out.splitlines()]
    for name in ("best scalars", "best channel", "kernel rows,", "four.plan.safetensors, measured"):
        assert name.split() in rows, out

    code, _, err = run(capsys, *arguments, "--teacher-steps", 4)
    assert code == 2
    assert "teacher_steps is 4; expected a whole number of at least 8" in " ".join(err.split())


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["plan", KERNEL, "--nfe", "9", "--method", "rollout"], "foreseer rollout"),
        (["plan", KERNEL, "--nfe", "9", "--method", "magic"], "expected one of kernel, reuse"),
        (["plan", KERNEL, "--nfe", "9", "--method", "steps"], "steps"),
        (["plan", KERNEL, "--nfe", "9", "--method", "l2p", "--steps", "28"], "runs of 50 steps"),
        (["plan", KERNEL, "--nfe", "9", "--method", "l2p", "--matrix", "none.txt"], "none.txt"),
        (["plan", KERNEL, "--nfe", "9", "--matrix", "any.txt"], "--method l2p"),
        (["plan", KERNEL, "--nfe", "9", "--site", "output"], "sets the site"),
        (["plan", KERNEL, "--method", "newton"], "exactly one of"),
        (["plan", "reuse", "--nfe", "9", "--method", "newton"], "kernel"),
        (["rollout", "emoji", KERNEL], "--nfe"),
        (["rollout", "emoji", KERNEL, "--nfe", "51"], "51 computed steps of 50 save nothing"),
        (["rollout", "emoji", "none.kernel", "--nfe", "9"], "none.kernel"),
        (["rollout", "emoji", KERNEL, "--nfe", "9", "--prompts", "no such file.txt"], "no such file"),
        (["rollout", "no/such/folder/here", KERNEL, "--nfe", "9"], "hub id"),
    ],
)
def test_bad_usage_is_one_readable_error_with_the_remedy_and_exit_code_2(capsys, monkeypatch, arguments, remedy):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert remedy in " ".join((out + err).replace("│", " ").split())
    assert "Traceback" not in out + err
