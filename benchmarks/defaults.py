"""What serves a model that nothing was learned on: fixed formulas, and kernels of other models.

Each setting (model and guidance) is judged with nothing learned from its own model. *generic steps* were searched for
the forecaster on the kernels of the other models (the run takes the nearest noise levels), *generic kernel* has rows of
these kernels too. Fidelity only, 50 steps, against the run that computes every step.

    python -m benchmarks.defaults [--prompts 8] [--calibration 6] [--earlier] [--write-generic]

Kernels and figures are kept in ``--folder``; the same command resumes. ``--earlier`` takes the bundled model that the
repository held at an earlier revision as one more model; it needs the history. ``--write-generic`` makes the file
of the method ``generic`` from the kernels of all models.
"""

import argparse
import fcntl
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import foreseer as fs
from benchmarks import learning, video
from benchmarks.common import bundled, guided, write
from benchmarks.learning import CALIBRATION_SEED, STEPS
from benchmarks.rendering import bundled_digest
from foreseer.calibration.identity import fingerprint
from foreseer.forecast import AdamsBashforth, Chebyshev, Forecaster, KernelRows, Reuse, TaylorSeer
from foreseer.methods.generic import FILE, MOST, GenericSteps, generic_kernel, searched_levels
from foreseer.methods.learned import FEEDBACK_GAIN, schedule_with_feedback
from foreseer.pipelines import load_pipeline, split_sampling
from foreseer.schedule import Growing, Uniform

EARLIER = "7dc1710"  # the revision
EARLIER_MODEL = "src/foreseer/zoo/emoji"
BUDGETS = (14, 11, 9, 7)
RIDGE = 1e-4  # of the generic kernel's rows
FORMULAS: dict[str, tuple[Forecaster, Any]] = {
    "TaylorSeer, order 1": (TaylorSeer(order=1), lambda nfe: Uniform.for_nfe(nfe, STEPS, 3)),
    "TaylorSeer, order 2": (TaylorSeer(order=2), lambda nfe: Uniform.for_nfe(nfe, STEPS, 3)),
    "Spectrum": (Chebyshev(), lambda nfe: Growing.for_nfe(nfe, STEPS)),
    "Adams-Bashforth": (AdamsBashforth(), lambda nfe: Uniform.for_nfe(nfe, STEPS, 2)),
}
ON_GENERIC_STEPS = {"reuse": Reuse(), "TaylorSeer, order 1": TaylorSeer(order=1)}


@dataclass(frozen=True)
class Setting:
    """A model with one kind of guidance."""

    name: str
    model: str
    pipe: Any
    options: dict[str, Any]
    room: Any

    def bench(self, prompts: int, offset: int) -> Any:
        """Held-out prompts and their references."""
        make = video.VideoBench if self.room is video else learning.Bench
        return make(self.pipe, self.options, self.room.captions(prompts, offset))

    def kernel(self, count: int, folder: Path) -> fs.Kernel:
        """The kernel of the setting, calibrated once."""
        file = folder / f"{self.name}.kernel.safetensors"
        if not file.exists():
            call = {**self.options, "num_inference_steps": STEPS, "seed": CALIBRATION_SEED, "sensitivity_prompts": 2}
            fs.calibrate(self.pipe, self.room.captions(count, 0), **call).save(file)
        return fs.Kernel.load(file)


def earlier_model(folder: Path) -> Path:
    """The earlier bundled model, taken from the repository's history once."""
    found = folder / EARLIER_MODEL
    if not found.exists():
        archive = ["git", "archive", EARLIER, EARLIER_MODEL]
        content = subprocess.run(archive, cwd=Path(__file__).parent.parent, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(content)) as files:
            files.extractall(folder, filter="data")
    return found


def settings(earlier: Path | None) -> Iterator[Setting]:
    """All models, each with and without guidance.

    Args:
        earlier: folder of the earlier bundled model, if it is to be among them.
    """
    pipe, _, options = bundled()
    options.pop("num_inference_steps")
    for name, cfg in (("picture, guided", None), ("picture", 1.0), ("picture, true CFG 3", 3.0)):
        yield Setting(name, "picture", pipe, guided(options, cfg), learning)
    pipe, sampling = load_pipeline(str(video.FOLDER))
    pipe.set_progress_bar_config(disable=True)
    options = split_sampling(sampling)[1]
    options.pop("num_inference_steps")
    for name, cfg in (("video", 1.0), ("video, CFG 2", 2.0)):
        yield Setting(name, "video", pipe, {**options, "guidance_scale": cfg}, video)
    if earlier is not None:
        pipe, sampling = load_pipeline(str(earlier))
        pipe.set_progress_bar_config(disable=True)
        options = split_sampling(sampling)[1]
        options.pop("num_inference_steps")
        yield Setting("earlier picture model", "earlier", pipe, options, learning)


def policies(generic: fs.Kernel, nfe: int) -> dict[str, fs.Policy]:
    """The candidates at one budget."""
    found = {name: fs.Policy(schedule(nfe), rows) for name, (rows, schedule) in FORMULAS.items()}
    for name, rows in ON_GENERIC_STEPS.items():
        levels = searched_levels(generic, [nfe], rows)[nfe]
        found[f"{name}, generic steps"] = fs.Policy(GenericSteps(nfe, [levels] * nfe), rows)
    rows = KernelRows(generic, ridge=RIDGE, feedback_gain=FEEDBACK_GAIN)
    return {**found, "generic kernel": fs.Policy(schedule_with_feedback(generic, nfe=nfe), rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--calibration", type=int, default=6)
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--earlier", action="store_true")
    parser.add_argument(
        "--folder", type=Path, default=Path("build/defaults"), help="where kernels and figures are kept"
    )
    parser.add_argument("--write-generic", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = given.folder / bundled_digest()  # nothing of other weights is taken
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two runs would overwrite each other's figures
    every = list(settings(earlier_model(folder) if given.earlier else None))
    kernels = {setting.name: setting.kernel(given.calibration, folder) for setting in every}
    if given.write_generic:
        levels = searched_levels(generic_kernel(list(kernels.values())), range(1, MOST + 1))
        FILE.write_text("[\n" + ",\n".join(map(json.dumps, levels.values())) + "\n]\n")
        return
    state = folder / f"cells-{given.prompts}-{given.calibration}.json"
    cells: dict[str, Any] = json.loads(state.read_text()) if state.exists() else {}
    for setting in every:
        others = [kernels[other.name] for other in every if other.model != setting.model]
        generic, bench, grid = generic_kernel(others), None, kernels[setting.name].grid
        for nfe in given.budgets:
            for name, policy in policies(generic, nfe).items():
                key, rows_used = f"{setting.name} | {name} | {nfe}", fingerprint([policy.compile(grid).rows])
                if cells.get(key, {}).get("rows") != rows_used:  # never measured, or with other rows
                    bench = bench or setting.bench(given.prompts, given.calibration)
                    cells[key] = {"dB": bench.score(bench.sample(STEPS, policy))[0], "rows": rows_used}
                    state.write_text(json.dumps(cells, indent=1))
                print(f"{key}: {cells[key]['dB']:.2f} dB", flush=True)
    rows = []
    for key, cell in cells.items():
        name, method, nfe = key.split(" | ")
        rows.append(
            {"setting": name, "method": method, "NFE": int(nfe), "PSNR, dB": round(cell["dB"], 2), "rows": cell["rows"]}
        )
    command = f"python -m benchmarks.defaults --prompts {given.prompts} --calibration {given.calibration}"
    write("defaults", command + (" --earlier" if given.earlier else ""), rows)


if __name__ == "__main__":
    main()
