"""``foreseer generate --prompts`` on workers: every picture once, the same everywhere, resumable."""

import json

import pytest

from foreseer import cli, zoo
from foreseer.evaluate.sampling.generate_many import Drawing, Manifest, generate_many
from foreseer.methods import find
from foreseer.scale import Failure, Model, ScaleError
from tests.unit.scale.loopback import Loopback

PROMPTS = ["a red apple", "a rocket", "a panda"]
SIZE = {"height": 32, "width": 32, "max_sequence_length": 16}
EMOJI = Model(str(zoo.path()), "float32", "cpu")


def drawing(nfe=2, **more):
    return Drawing(4, find("reuse").policy(4, nfe, "output"), seeds_per_prompt=2, options={**SIZE, **more})


def lines_of(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def pictures(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    generate_many(EMOJI, PROMPTS, folder, drawing())
    return folder


def test_workers_that_die_draw_what_one_process_draws(local, tmp_path):
    generate_many(EMOJI, PROMPTS, tmp_path, drawing(), workers=Loopback(2, [1, 5]))
    assert pictures(tmp_path) == pictures(local)
    assert len(pictures(tmp_path)) == 6
    mine, theirs = lines_of(tmp_path), lines_of(local)
    for line in (*mine, *theirs):
        assert line.pop("seconds") > 0
    assert mine == theirs
    assert [(line["file"], line["prompt"], line["seed"]) for line in mine[:3]] == [
        ("00000-0.png", "a red apple", 0),
        ("00001-1.png", "a red apple", 1),
        ("00002-2.png", "a rocket", 2),
    ]
    assert {(line["steps"], line["nfe"], line["forward_passes"], *line["failed_open"]) for line in mine} == {(4, 2, 2)}


def test_only_what_is_missing_or_changed_is_drawn(local, tmp_path):
    for path in local.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = tmp_path / "manifest.jsonl"
    *whole, last = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(whole) + last[:40])  # as a crash leaves it
    (tmp_path / "00001-1.png").unlink()
    seen = []
    generate_many(EMOJI, PROMPTS, tmp_path, drawing(), progress=lambda done, total, state: seen.append((done, total)))
    assert seen == [(4, 6), (5, 6), (6, 6)]
    assert pictures(tmp_path) == pictures(local)
    assert [line["file"] for line in lines_of(tmp_path)] == [line["file"] for line in lines_of(local)]
    seen.clear()
    generate_many(EMOJI, PROMPTS, tmp_path, drawing(3), progress=lambda done, total, state: seen.append((done, total)))
    assert seen[0] == (0, 6)
    assert pictures(tmp_path) != pictures(local)


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-9] + b"x" + content[-8:]])
def test_a_damaged_picture_or_a_line_that_lacks_an_entry_is_drawn_again(local, tmp_path, damage):
    for path in local.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    lines = lines_of(tmp_path)
    picture = tmp_path / lines[1]["file"]
    picture.write_bytes(damage(picture.read_bytes()))
    del lines[4]["forward_passes"]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    seen = []
    generate_many(EMOJI, PROMPTS, tmp_path, drawing(), progress=lambda done, total, state: seen.append(done))
    assert seen == [4, 5, 6]
    assert pictures(tmp_path) == pictures(local)
    assert [line["forward_passes"] for line in lines_of(tmp_path)] == [2] * 6


def test_a_folder_that_cannot_be_used_is_refused_before_anything_is_loaded(capsys, tmp_path):
    taken, folder = tmp_path / "taken", tmp_path / "folder"
    taken.write_text("a file")
    (folder / "manifest.jsonl").mkdir(parents=True)
    for out, why in ((taken, "File exists"), (taken / "below", "Not a directory"), (folder, "Is a directory")):
        with pytest.raises(ScaleError, match=f"Cannot use .*manifest.jsonl: .*{why}"):
            generate_many(Model("nothing"), PROMPTS, out, drawing())
    (tmp_path / "prompts.txt").write_text("a rocket")
    code, _, err = run(capsys, "generate", "emoji", "--prompts", tmp_path / "prompts.txt", "-o", taken)
    assert code == 2
    assert "Cannot write to the folder" in " ".join(err.replace("│", " ").split())


def test_a_cut_line_is_mended_before_the_next_one(tmp_path):
    (tmp_path / "manifest.jsonl").write_text('{"file": "a.png"}\n{"file": ')
    from foreseer.scale import Unit

    Manifest(tmp_path).put(Unit("picture-00000", ("x", 0)), b'{"file": "00000-0.png"}')
    lines = (tmp_path / "manifest.jsonl").read_text().splitlines()
    assert [line[:9] for line in lines] == ['{"file": ', '{"file": ', '{"file": ']
    assert json.loads(lines[2])["file"] == "00000-0.png"


def test_a_picture_that_cannot_be_drawn_leaves_the_others(tmp_path):
    results = generate_many(EMOJI, ["a rocket"], tmp_path, Drawing(2, options={**SIZE, "true_cfg_scale": 4.0}))
    assert [isinstance(result, Failure) for result in results] == [True]
    assert "PipelineError" not in results[0].reason
    assert lines_of(tmp_path) == []


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


def test_the_command_draws_a_file_of_prompts(capsys, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS[:2]))
    size = ("--height", 32, "--width", 32, "--dtype", "float32", "--device", "cpu", "--steps", 3)
    command = ("generate", "emoji", "--prompts", prompts, "-o", tmp_path / "out", "--quality", "exact", *size)
    code, out, err = run(capsys, *command)
    assert code == 0, err
    assert "wrote 2 pictures" in " ".join(out.split())
    assert "3.0 forward passes per picture" in " ".join(out.split())
    code, out, _ = run(capsys, *command, "--json")
    assert json.loads(out) == {"pictures": 2, "failed": 0, "forward_passes": 3.0}
    code, _, err = run(capsys, *command, "--option", "max_sequence_length=9999")
    assert code == 1
    assert "2 of 2 units failed: " in err


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["generate", "emoji"], "--prompt"),
        (["generate", "emoji", "-p", "x", "--prompts", "f.txt"], "--prompt"),
        (["generate", "emoji", "-p", "x", "--workers", "2"], "give --prompts"),
        (["generate", "emoji", "--prompts", "none.txt", "--ray"], "none.txt"),
        (["generate", "emoji", "--prompts", "none.txt", "--workers", "0"], "--workers"),
        (["calibrate", "emoji", "--gpus-per-worker", "1"], "it needs --workers or --ray"),
        (["calibrate", "emoji", "--workers", "1", "--gpus-per-worker", "0.5"], "whole number"),
    ],
)
def test_bad_usage_is_one_readable_error(capsys, arguments, remedy):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert remedy in " ".join((out + err).replace("│", " ").split())
    assert "Traceback" not in out + err


def test_ctrl_c_says_that_the_same_command_continues(capsys, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        print("(raylet) a line of Ray's")
        raise KeyboardInterrupt

    monkeypatch.setattr("foreseer.calibration.jobs.run_units", interrupted)
    (tmp_path / "prompts.txt").write_text("a rocket")
    code, out, err = run(capsys, "generate", "emoji", "--prompts", tmp_path / "prompts.txt", "-o", tmp_path / "out")
    assert code == 130
    assert "the same command continues" in " ".join(err.split())
    assert "Traceback" not in err
    assert out == ""
