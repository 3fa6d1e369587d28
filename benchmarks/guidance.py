"""Guidance as a second axis: branches computed together, or each at separate steps.

The bundled pipeline, 50 steps, guidance 3, on unseen captions and seeds; equal calls of the network.

    python -m benchmarks.guidance [--prompts 16] [--calibration 24] [--rollout 6]
"""

import argparse
import tempfile
from dataclasses import replace

import torch

import foreseer as fs
from benchmarks.common import bundled, guided, write
from benchmarks.learning import CALIBRATION_SEED, STEPS, Bench, captions
from foreseer.methods.learned import rows_with_feedback
from foreseer.methods.validate import best_ridge
from foreseer.schedule import Optimal, Schedule

BUDGETS = (28, 18, 14, 12)
GUIDANCE = 3.0


class EverySecond(Schedule):
    """Searched steps for the conditional branch; the unconditional one computes at every second.

    Args:
        kernel: what the steps are searched on.
        forward_passes: calls in all.
    """

    def __init__(self, kernel: fs.Kernel, forward_passes: int) -> None:
        # Both branches compute at (n + 1) // 2 of n steps.
        self._calls = forward_passes
        self._steps = Optimal(
            kernel, nfe=max(n for n in range(1, forward_passes) if n + (n + 1) // 2 <= forward_passes)
        )

    def _computed_steps(self, steps):
        return self._steps.computed_steps(steps)

    def branch_steps(self, grid, first_step=0):
        """Those of the unconditional branch; a call left over goes to its second step."""
        steps = self._steps.on(grid, first_step)
        seconds = steps[::2]
        left = self._calls - len(steps) - len(seconds)
        return {"uncond": tuple(sorted({*seconds, *steps[1 : 1 + left]}))}


def policies(pipe, options, kernel, prompts, budget, folder):
    """By name: rows of the kernel, and of a rollout."""
    seconds, rows = EverySecond(kernel, budget), rows_with_feedback(kernel)
    apart = {"branch_steps": seconds.branch_steps(kernel.grid), "feedback_gain": rows.feedback_gain}
    ridge = best_ridge(kernel, seconds.on(kernel.grid), **apart).ridge
    yield "kernel rows, both branches", fs.learned(kernel, nfe=budget // 2)
    yield "kernel rows, uncond at every second step", fs.Policy(seconds, replace(rows, ridge=ridge))
    yield "kernel rows, planned together", fs.learned(kernel, forward_passes=budget)
    for name, target in (
        ("both branches", {"nfe": budget // 2}),
        ("uncond at every second step", {"schedule": seconds}),
        ("planned together", {"forward_passes": budget}),
    ):
        made = fs.rollout(pipe, kernel, prompts, seed=CALIBRATION_SEED, checkpoint=folder, **target, **options)
        yield f"rollout, {name}", fs.Policy.from_plan(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--calibration", type=int, default=24)
    parser.add_argument("--rollout", type=int, default=6)
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--kernel", default=None, help="a kernel file of the same calibration, not to record it again")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pipe, _, options = bundled()
    options.pop("num_inference_steps")
    options = guided(options, GUIDANCE)
    training = captions(given.calibration, 0)
    call = {**options, "num_inference_steps": STEPS, "seed": CALIBRATION_SEED}
    kernel = fs.Kernel.load(given.kernel) if given.kernel else fs.calibrate(pipe, training, **call)
    bench = Bench(pipe, options, captions(given.prompts, given.calibration))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for budget in given.budgets:
            for name, policy in policies(pipe, options, kernel, training[: given.rollout], budget, folder):
                decibels, latent = bench.score(bench.sample(STEPS, policy))
                plan = policy.compile(kernel.grid)
                steps = {branch: plan.of_branch(branch).computed_steps for branch in plan.branch_rows}
                row = {"forward_passes": budget, "method": name, "PSNR, dB": decibels, "latent": latent}
                assert sum(map(len, steps.values())) <= budget
                rows.append({**row, "computed": sum(map(len, steps.values())), "steps": str(steps)})
                print(f"{budget:>3}  {name:<55} {decibels:6.2f} dB  latent {latent:.4f}  {steps}", flush=True)
    command = f"python -m benchmarks.guidance --prompts {given.prompts} --calibration {given.calibration}"
    write("guidance", f"{command} --rollout {given.rollout}", rows)


if __name__ == "__main__":
    main()
