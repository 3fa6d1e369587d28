"""Learned and exact solvers beside rollout, from the same prompts: the bundled pipeline, 50 steps.

Every learned solver and the rollout rows get the same captions and seeds to learn from, and are measured on the same
others. A quarter of the calibration captions chooses settings and ends trainings. Fidelity only (no timing).

    python -m benchmarks.learned_solvers [--prompts 8] [--calibration 8] [--budgets 9 5] [--passes 6000]

The defaults take some minutes, and end the trainings before they stop to improve: the table has a column for it. To
train to the end: ``--prompts 64 --calibration 64 --budgets 14 9 7 5 --passes 500000`` (hours). Trainings are kept in
``--folder`` and taken up again; results are written after each budget, and the same command resumes there.
"""

import argparse
import time
from pathlib import Path

import torch

import foreseer as fs
from benchmarks.common import bundled, unfinished_rows, write
from benchmarks.learning import CALIBRATION_SEED, STEPS, Bench, captions
from foreseer.evaluate.peers import PEERS, CalibrationPrompts, PeerError, Probe
from foreseer.evaluate.peers.calibration_runs import HELD_OUT

BUDGETS = (9, 5)
NAMES = ("dpm-solver", "unipc", *(name for name in PEERS if PEERS[name].learns or name in ("deis", "ipndm")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=8, help="captions that are measured")
    parser.add_argument("--calibration", type=int, default=8, help="captions that are learned from")
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--peers", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--passes", type=int, default=6_000, help="limit of each training, in forward passes")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path("build/learned-solvers"), help="where trainings are kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipe, _, options = bundled()
    options.pop("num_inference_steps")
    training = captions(arguments.calibration, 0)
    bench = Bench(pipe, options, captions(arguments.prompts, arguments.calibration))
    calibration = CalibrationPrompts(
        training, CALIBRATION_SEED, batch=arguments.batch, passes=arguments.passes, folder=arguments.folder
    )
    probe = Probe.of(pipe, STEPS, options, calibration_prompts=calibration)
    kernel = fs.calibrate(pipe, training, num_inference_steps=STEPS, seed=CALIBRATION_SEED, **options)
    command = "python -m benchmarks.learned_solvers " + " ".join(
        f"--{name} {getattr(arguments, name)}" for name in ("prompts", "calibration", "passes")
    )
    command += f" --budgets {' '.join(map(str, arguments.budgets))}"
    rows = unfinished_rows("learned_solvers", command)
    done = {row["NFE"] for row in rows}
    for budget in arguments.budgets:
        if budget not in done:
            rows += _own_rows(bench, kernel, training, budget)
            rows += [_peer_row(bench, probe, name, budget) for name in arguments.peers]
            write("learned_solvers", command, rows, unfinished=True)
    write("learned_solvers", command, rows)


def _own_rows(bench, kernel, training, budget):
    """Rollout, and refinement of it with the same captions held out as by the solvers."""
    common = {"seed": CALIBRATION_SEED, **bench.options}
    held_out = max(1, round(HELD_OUT * len(training)))
    began = time.process_time()
    plan = fs.rollout(bench.pipe, kernel, training, nfe=budget, **common)
    yield _row("rollout", budget, *bench.score(bench.sample(STEPS, plan)), time.process_time() - began, {})
    plan = fs.refine(bench.pipe, plan, training, held_out=held_out, **common)
    yield _row("refined", budget, *bench.score(bench.sample(STEPS, plan)), time.process_time() - began, {})


def _peer_row(bench, probe, name, budget):
    began = time.process_time()
    try:
        solver = PEERS[name].make(probe, budget)
    except PeerError as error:
        return _row(name, budget, None, None, time.process_time() - began, {"error": str(error)})
    seconds = time.process_time() - began
    with solver.attached(bench.pipe):
        decibels, latent = bench.score(bench.sample(solver.steps))
    return _row(name, budget, decibels, latent, seconds, dict(solver.settings))


def _row(method, budget, decibels, latent, seconds, settings):
    row = {"method": method, "NFE": budget, "PSNR, dB": decibels, "latent error": latent}
    print(row, settings, flush=True)
    return {**row, "CPU seconds to make": round(seconds, 1), "settings": settings}


if __name__ == "__main__":
    main()
