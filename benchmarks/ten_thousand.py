"""10,000 prompts through `foreseer generate` on two local workers, disturbed on the way.

The prompts are the captions of the bundled model's vocabulary, repeated with other seeds. One worker is killed after a
quarter of the pictures, and the driver after half; the same command is then started again. At the end every picture
must be there once, with the SHA-256 that the manifest states; pictures from before the second start must not have been
written again, and some are drawn once more in this process and compared byte by byte.

    OMP_NUM_THREADS=1 python -m benchmarks.ten_thousand [--pictures 10000] [--out FOLDER]
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.common import write
from foreseer.evaluate.sampling.generate_many import MANIFEST, Drawing, generate_many
from foreseer.methods import find
from foreseer.scale import Model

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from icons import read_vocabulary
from text_models import all_captions

STEPS, METHOD, NFE, WORKERS = 8, "reuse", 3, 2
DRAWN_AGAIN = 4
PLACE = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def sha256_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def lines_of(folder: Path) -> list[dict]:
    """The manifest; a line that a killed driver cut counts for nothing."""
    text = (folder / MANIFEST).read_text() if (folder / MANIFEST).exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def start(prompts: Path, folder: Path) -> subprocess.Popen:
    """Start the command."""
    command = ["generate", "emoji", "--prompts", str(prompts), "--out", str(folder), "--steps", str(STEPS), "--json"]
    command += ["--method", METHOD, "--nfe", str(NFE), "--workers", str(WORKERS)]
    return subprocess.Popen([sys.executable, "-m", "foreseer", *command], env=PLACE)


def wait_for(driver: subprocess.Popen, folder: Path, count: int) -> None:
    """Wait until ``count`` pictures are in the manifest."""
    manifest = folder / MANIFEST
    while not manifest.exists() or manifest.read_bytes().count(b"\n") < count:
        if driver.poll() is not None:
            raise SystemExit(f"The command ended with exit code {driver.returncode} before {count} pictures.")
        time.sleep(0.5)


def children(process: int) -> list[int]:
    """Processes that ``process`` started."""
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def disturbed(prompts: Path, folder: Path, count: int) -> dict[str, float]:
    """Draw what is missing; kill a worker after a quarter of it, the driver after half, and start again."""
    began, done = time.perf_counter(), len(lines_of(folder))
    driver = start(prompts, folder)
    wait_for(driver, folder, done + (count - done) // 4)
    os.kill(children(driver.pid)[0], signal.SIGKILL)
    wait_for(driver, folder, done + (count - done) // 2)
    workers = children(driver.pid)
    driver.kill()
    driver.wait()
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        time.sleep(0.1)
    kept = lines_of(folder)
    written = {line["file"]: (folder / line["file"]).stat().st_mtime_ns for line in kept}
    driver = start(prompts, folder)
    if driver.wait():
        raise SystemExit(f"The second start ended with exit code {driver.returncode}.")
    seconds = time.perf_counter() - began
    again = sum((folder / name).stat().st_mtime_ns != stamp for name, stamp in written.items())
    return {"in the manifest when the driver was killed": len(kept), "of these drawn again": again, "seconds": seconds}


def check(texts: list[str], folder: Path) -> dict[str, int]:
    """Count what is missing, double, damaged or not in its place."""
    lines = lines_of(folder)
    files = {path.name for path in folder.iterdir()} - {MANIFEST}
    named = [line["file"] for line in lines]
    places, due = [(line["prompt"], line["seed"]) for line in lines], [*zip(texts, range(len(texts)), strict=True)]
    return {
        "lines of the manifest": len(lines),
        "missing": len({*due} - {*places}),
        "double": len(named) - len({*named}) + len(places) - len({*places}),
        "out of order": sum(mine != its for mine, its in zip(places, due, strict=False)),
        "damaged": sum(sha256_of(folder / line["file"]) != line["sha256"] for line in lines),
        "files that no line names": len(files - {*named}),
        "computed against the plan": sum(len(line["failed_open"]) for line in lines),
        "forward passes": sum(line["forward_passes"] for line in lines),
    }


def differing_here(texts: list[str], folder: Path) -> int:
    """How many of some pictures differ from those that this process draws."""
    policy, differing = find(METHOD).policy(STEPS, NFE, "output"), 0
    for index in range(0, len(texts), max(1, len(texts) // DRAWN_AGAIN)):
        with tempfile.TemporaryDirectory() as alone:
            generate_many(Model("emoji"), [texts[index]], Path(alone), Drawing(STEPS, policy, seed=index))
            (picture,) = Path(alone).glob("*.png")
            differing += picture.read_bytes() != (folder / f"{index:05d}-{index}.png").read_bytes()
    return differing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="where a broken-off run goes on; by default a temporary folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    captions = all_captions([name for _, name in read_vocabulary()])
    texts = [captions[index % len(captions)] for index in range(arguments.pictures)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary) / "pictures"
        prompts = Path(temporary) / "prompts.txt"
        prompts.write_text("\n".join(texts))
        row = {"pictures": arguments.pictures, "workers": WORKERS, **disturbed(prompts, folder, arguments.pictures)}
        row |= check(texts, folder) | {"differing from those of one process": differing_here(texts, folder)}
    write("ten_thousand", f"python -m benchmarks.ten_thousand --pictures {arguments.pictures}", [row])
    wrong = ("of these drawn again", "missing", "double", "out of order", "damaged", "files that no line names")
    if any(row[name] for name in (*wrong, "differing from those of one process")):
        raise SystemExit("Pictures were lost, doubled or changed.")


if __name__ == "__main__":
    main()
