"""``foreseer tune``: one file, resumable; and refusals of every command that come before torch."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import foreseer as fs
from foreseer import zoo
from foreseer.attach.run_record import RunRecord
from foreseer.calibration.tune import stage_costs
from foreseer.cli import app
from foreseer.cli.policy_request import PolicyRequest
from foreseer.evaluate.sampling.generate import WrittenPicture
from foreseer.methods.learned import learned
from tests.support.registry import KERNEL as GUIDED_KERNEL
from tests.support.toy_gates import KERNEL as SMALL_KERNEL

STEPS, NFE = 6, 3
KERNEL, PLAN = (zoo.path().with_name(f"{name}.safetensors") for name in ("emoji.kernel", "emoji-10.plan"))


def invoke(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_tuning_is_interrupted_resumed_and_drawn_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, out = tmp_path / "two.txt", tmp_path / "made" / "emoji.profile.safetensors"
    prompts.write_text("a red apple on a blue background\na rocket on a white background\n")
    words = (
        "tune",
        "emoji",
        "--prompts",
        prompts,
        "--steps",
        STEPS,
        "--budgets",
        NFE,
        "--iterations",
        1,
        "--no-mix",
        "-o",
        out,
    )
    module, stages = importlib.import_module("foreseer.calibration.tune"), []

    def stop(*arguments: Any, **options: Any) -> None:
        options["progress"](1, 4)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "refine", stop)
        result = invoke(*words)
    assert result.exit_code == 130
    said = " ".join(result.output.split())
    costs = stage_costs(2, STEPS, [NFE], iterations=1, mix=False)
    percent = 100 * (sum(list(costs.values())[:2]) + round(costs["refine 3"] / 4)) / sum(costs.values())
    assert f"Tuning (refine 3): interrupted at {percent:.0f} %" in said
    assert "the same command continues" in said
    assert not out.exists()

    def recorded(self: Any, stage: str, function: Any, *arguments: Any, **more: Any) -> Any:
        stages.append(stage)
        return run(self, stage, function, *arguments, **more)

    run = module._Stages.run
    monkeypatch.setattr(module._Stages, "run", recorded)
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    assert stages == list(costs)
    assert [path.name for path in out.parent.iterdir()] == [out.name]  # the checkpoint is gone
    profile = fs.Profile.load(out)
    assert profile.budgets == (NFE,)
    assert profile.plans[0].expected_error is not None
    assert profile.thumbnail is not None
    row = np.asarray(Image.open(BytesIO(profile.thumbnail)))
    assert row.shape == (64, 130, 3)  # every step computed, a gap, and three steps
    assert not np.array_equal(row[:, :64], row[:, 66:])
    assert f"3 of 6 steps computed: expected error {profile.plans[0].expected_error:.4f}" in result.output

    drawn = invoke(
        *("generate", "emoji", "-p", "a cat", "--steps", STEPS, "-o", tmp_path / "a.png"),
        *("--profile", out, "--nfe", NFE, "--json"),
    )
    assert drawn.exit_code == 0, drawn.output
    computed = json.loads(drawn.stdout)["record"]["computed"]
    assert np.array_equal(next(iter(computed.values())), profile.plans[0].computed_steps)
    record = RunRecord(steps=STEPS, plans={"cond": profile.plans[0].of_branch("cond")})
    picture = WrittenPicture(tmp_path / "a.png", "a cat", seed=0, steps=STEPS, seconds=1.0, record=record)
    assert f", {profile.plans[0].expected_error:.4f} expected error of the final latent" in picture.summary()


def test_without_a_method_generate_draws_by_the_default(tmp_path: Path) -> None:
    for options, nfe in (((), round(STEPS / 2.5)), (("--speedup", 4), 2), (("--quality", "exact"), STEPS)):
        drawn = invoke(
            *("generate", "emoji", "-p", "a cat", "--steps", STEPS, "-o", tmp_path / "a.png", "--json", *options)
        )
        assert drawn.exit_code == 0, drawn.output
        assert json.loads(drawn.stdout)["record"]["nfe"] == nfe


def test_branches_that_compute_at_different_steps_save(tmp_path: Path) -> None:
    path = tmp_path / "apart.plan"
    plan = learned(GUIDED_KERNEL, forward_passes=21).compile(GUIDED_KERNEL.grid)
    plan.save(path)
    steps = len(plan.grid)
    assert plan.nfe == steps  # at every step one of the branches computes
    request = PolicyRequest(None, None, None, path, {})
    request.check_savings(*request.policy(steps))


# Commands, and a part of the refusal of each; None: the command succeeds.
REFUSED = [
    ("generate emoji -p", "", "prompt is empty"),
    ("generate emoji -p x -o x.mp4", "this model draws pictures, and mp4 is for video"),
    ("generate emoji -p x -o /proc/none/x.png", "Cannot write to the folder /proc/none"),
    ("generate emoji --prompts TWO -o /proc/none", "Cannot write to the folder /proc/none"),
    ("generate emoji -p x --method reuse --nfe 51", "51 computed steps of 50 save nothing"),
    ("generate emoji -p x --plan ALL", "50 computed steps of 50 save nothing"),
    ("generate emoji -p x --steps 16 --kernel SMALL --max-error 1e-9", "16 computed steps of 16 save nothing"),
    ("generate emoji -p x --height 63", "this model draws multiples of 8 pixels: give 56 or 64"),
    ("generate emoji -p x --width 100000", "width is 100000; expected 1 to 16384 pixels"),
    ("generate emoji -p x --option width=wide", "width is 'wide'; expected 1 to 16384 pixels"),
    ("generate emoji -p x --option guidance_scale=high", "guidance_scale is 'high'; FluxPipeline expects a number"),
    ("generate emoji -p x --option return_dict_=1", "takes no return_dict_"),
    ("generate emoji -p x --speedup 100", "100 is out of reach: a run of 50 steps computes one at least"),
    ("generate emoji -p x --kernel KERNEL --gated --max-error 0", "max_error is 0; expected a positive number"),
    ("generate VIDEO -p x --height 24", "this model draws multiples of 16 pixels: give 16 or 32"),
    ("generate emoji -p x --method teacache --nfe 60", "60 computed steps of 50 save nothing"),
    ("generate emoji -p x --method steps --speedup 1", "50 computed steps of 50 save nothing"),
    ("generate emoji -p x --kernel KERNEL --gated --nfe 1", "the mean of a gated run is 2 or more"),
    ("generate nobody/nothing -p x", "'nobody/nothing' is not in the local cache, and the Hub is switched off"),
    ("generate emoji -p x --kernel PLAN --nfe 9", "is a plan; expected a kernel"),
    ("generate emoji -p x --plan KERNEL", "is a kernel; expected a plan"),
    ("generate emoji -p x --profile PLAN", "is a plan; expected a profile"),
    ("generate emoji -p x --quality hihg", "did you mean 'high'"),
    ("generate emoji -p x --device cuba", "did you mean 'cuda'"),
    ("generate emoji -p x --max-error 0.01", "Generic steps cannot predict the error, a kernel or profile can"),
    ("generate emoji -p x --dtype bf61", "did you mean 'bf16'"),
    ("generate emoji -p x --image none.png", "there is no such file"),
    ("generate emoji -p x --image ONE", "FluxPipeline takes no picture"),
    (
        "generate emoji -p x --option tru_cfg_scale=3",
        "takes no tru_cfg_scale: did you mean 'true_cfg_scale'",
    ),
    ("generate emoji --prompts TWO -o drawn --option colour=red", "FluxPipeline takes no colour; leave the option out"),
    ("generate emoji -p x --true-cfg 3", "drops that guidance without a negative prompt"),
    ("generate emoji -p x --kernel SCALED --nfe 9 --guidance 9", "guidance_scale 3.5, and this run has embedded"),
    ("generate emoji -p x --kernel SCALED --nfe 9 --true-cfg 3 --negative x", "give allow_other_guidance=True"),
    ("rollout emoji KERNEL --nfe 9 --option colour=red", "FluxPipeline takes no colour"),
    ("plan spektrum", "did you mean 'spectrum'"),
    ("plan teacache --nfe 10", "teacache is a gate: it decides while sampling and has no plan"),
    ("plan explain teacache", "has no plan"),
    ("plan KERNEL --nfe 9 --method taylorser", "did you mean 'taylorseer'"),
    ("plan KERNEL --nfe 9 --method teacache", "Unknown method with rows 'teacache'"),
    ("plan make reuse --nfe 50", "50 computed steps of 50 save nothing"),
    ("plan make reuse --nfe 50 --force", None),
    ("plan KERNEL --speedup 1", "50 computed steps of 50 save nothing"),
    ("plan GUIDED --forward-passes 24", "save nothing"),
    ("plan GUIDED --forward-passes 21 -o 21.plan", None),  # at every step a branch computes, and the other skips some
    (
        "plan SMALL --max-error 1e-9 -o none.plan",
        "save nothing: ask for fewer steps or a larger error, or give --force",
    ),
    ("portrait KERNEL --nfe 50", "50 computed steps of 50 save nothing: give 1 to 49"),
    ("rollout emoji KERNEL --nfe 50", "50 computed steps of 50 save nothing: give 1 to 49"),
    ("rollout emoji KERNEL --forward-passes 50", "no branches"),
    ("rollout emoji GUIDED --forward-passes 24", "24 forward passes of 24 save nothing: give 1 to 23"),
    ("rollout emoji PLAN --nfe 9", "is a plan; expected a kernel"),
    ("frontier PLAN", "is a plan; expected a kernel"),
    ("portrait PLAN", "is a plan; expected a kernel"),
    ("portrait KERNEL --prompts TWO", "need a model to run: give --model"),
    ("portrait KERNEL --guidance 3", "need a model to run: give --model"),
    ("portrait KERNEL --model emoji --plan PLAN", "computes 10 steps, not 9: give --nfe 10"),
    ("portrait KERNEL --model emoji --plan ALL", "computes 50 steps, not 9: give --nfe 50"),
    ("portrait KERNEL --model emoji --prompts ONE", "two prompts or more are needed"),
    ("portrait KERNEL --model emojy", "did you mean 'emoji'"),
    ("calibrate emojy", "did you mean 'emoji'"),
    ("calibrate emoji --width 20", "give 16 or 24"),
    ("calibrate emoji --option colour=red", "FluxPipeline takes no colour"),
    ("calibrate emoji -o /proc/none/x", "Cannot write to the folder"),
    ("bench emoji --kernel PLAN", "is a plan; expected a kernel"),
    ("tune emoji --budgets 9,50", "50 computed steps of 50 save nothing: give 1 to 49"),
    ("tune emoji --option colour=red", "FluxPipeline takes no colour"),
    ("tune emoji --budgets nine", "write numbers"),
    ("tune emoji --speedup 1", "save nothing: give a larger one"),
    ("tune emoji --speedup 100", "100 is out of reach"),
    ("demo --nfe 50", "50 computed steps of 50 save nothing: give 1 to 49"),
    ("tune emoji --speedup 4 --budgets 9", "Give one of --speedup or --budgets"),
    ("tune emoji --prompts ONE", "two prompts or more"),
    ("tune emojy", "did you mean 'emoji'? Expected one of emoji, an existing folder"),
    ("tune emoji -o /proc/none/x", "Cannot write to the folder"),
    ("tune emoji --dtype fp61", "did you mean 'fp16'"),
    ("generate emoji -p x -o cat.xyz", "Name it .png"),
    ("generate no/such/folder -p x", "hub id"),
    ("bench emojy --methods reuse", "did you mean 'emoji'"),
    ("bench emoji --option colour=red", "FluxPipeline takes no colour"),
    ("bench emoji --height 63", "give 56 or 64"),
    ("bench --preset l2p-flux --random-weights --image none.png", "there is no such file"),
    ("bench emoji --nfe 20,50", "50 computed steps of 50 save nothing: ask for fewer steps, or give --force"),
    ("bench emoji --nfe 50 --workers 2", "50 computed steps of 50 save nothing"),
    ("bench nobody/nothing", "is not in the local cache, and the Hub is switched off"),
    ("bench emoji --nfe 60", "do not fit a run of 50 steps"),
    ("bench emoji --methods unicp", "did you mean 'unipc'"),
    ("bench emoji --methods reuse --measures psnrr", "did you mean 'psnr'"),
    ("bench emoji --methods reuse --dtype fp17", "did you mean 'fp16'"),
    ("bench emoji --methods reuse -o /dev/null/report", "Cannot write to the folder"),
    ("bench --preset l2p-flux --model emoji --methods fora", "fora"),
    ("bench --list-presets --json", None),
    ("bench --list-presets", None),
    ("env", None),
]

SCRIPT = """
import contextlib, io, json, sys
from foreseer import cli

answers = []
for words in json.loads(sys.argv[1]):
    text, code = io.StringIO(), 0
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            cli.main(words)
        except SystemExit as stop:
            code = stop.code
    answers.append([code, text.getvalue(), words[0] != "env" and "torch" in sys.modules])
print(json.dumps(answers))
"""


def test_what_can_be_refused_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    files = {"KERNEL": KERNEL, "PLAN": PLAN, "ALL": tmp_path / "all.plan", "TWO": tmp_path / "2", "ONE": tmp_path / "1"}
    files["VIDEO"] = Path(__file__).parents[3] / "examples" / "emoji-video"
    files["TWO"].write_text("a\nb\n")
    files["ONE"].write_text("a\n")
    files["SMALL"] = tmp_path / "small.kernel"
    SMALL_KERNEL.save(files["SMALL"])
    files["SCALED"] = tmp_path / "scaled.kernel"
    scaled = fs.Kernel.load(KERNEL)
    replace(scaled, provenance={**scaled.provenance, "guidance": '{"embedded": 3.5}'}).save(files["SCALED"])
    files["GUIDED"] = tmp_path / "guided.kernel"
    GUIDED_KERNEL.save(files["GUIDED"])
    fs.Policy(fs.schedule.Uniform(interval=1), fs.forecast.Reuse()).compile(fs.Grid.uniform(50)).save(files["ALL"])
    commands = []
    for line, *rest in REFUSED:
        words = [str(files.get(word, word)) for word in line.split()]
        commands.append([*words, ""] if len(rest) == 2 else words)
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    for (line, *rest), (code, text, torch) in zip(REFUSED, json.loads(result.stdout), strict=True):
        said = " ".join(text.replace("│", " ").split())
        assert not torch, line
        assert code == (2 if rest[-1] else 0), (line, said)
        assert (rest[-1] or "") in said, line
