"""What forecasting gains at few steps, as in distilled models: the bundled pipeline at 8, 6, 4.

The reference computes every one of the few steps. Step reduction runs the pipeline's own sampler with as many steps as
the plan computes; its best sub-grid is reuse on searched steps, which is the same thing under Euler's method.

    python -m benchmarks.few_steps [--prompts 16] [--calibration 24]
"""

import numpy as np

import foreseer as fs
from benchmarks.common import asked, write
from benchmarks.learning import CALIBRATION_SEED, Bench, captions
from foreseer.evaluate.metrics.similarity import psnr
from foreseer.methods.validate import best_ridge, formula_error
from foreseer.schedule import Optimal

BUDGETS = {8: (7, 6, 5, 4), 6: (5, 4, 3), 4: (3,)}


def policies(pipe, kernel, prompts, nfe, options):
    """Policies by name, and their expected errors where the kernel gives one."""
    reuse, taylor = fs.forecast.Reuse(), fs.forecast.TaylorSeer(order=1)
    for name, rows in (
        ("best sub-grid (reuse, searched steps)", reuse),
        ("TaylorSeer order 1, searched steps", taylor),
    ):
        schedule = Optimal(kernel, nfe, forecaster=rows)
        yield name, fs.Policy(schedule, rows), formula_error(kernel, schedule.on(kernel.grid), rows).mean
    schedule = Optimal(kernel, nfe)
    found = best_ridge(kernel, schedule.on(kernel.grid))
    rows = fs.forecast.KernelRows(kernel, ridge=found.ridge)
    yield "kernel rows, searched steps", fs.Policy(schedule, rows), found.mean
    chosen = fs.learned(kernel, nfe=nfe)
    plain = isinstance(chosen.forecaster, fs.forecast.Reuse)
    steps = chosen.schedule.on(kernel.grid)
    expected = formula_error(kernel, steps, reuse) if plain else best_ridge(kernel, steps)
    yield "fs.learned", chosen, expected.mean
    plan = fs.rollout(pipe, kernel, prompts, nfe=nfe, seed=CALIBRATION_SEED, **options)
    yield "rollout, searched steps", fs.Policy.from_plan(plan), None


def decibels(made, reference):
    """PSNR of each picture against the reference's."""
    return np.array([min(psnr(image, true), 99.0) for (_, image), (_, true) in zip(made, reference, strict=True)])


def main() -> None:
    given, pipe, options = asked(__doc__, prompts=16, calibration=24)
    training, unseen = captions(given.calibration, 0), captions(given.prompts, given.calibration)
    rows = []
    for steps, budgets in BUDGETS.items():
        kernel = fs.calibrate(pipe, training, num_inference_steps=steps, seed=CALIBRATION_SEED, **options)
        bench = Bench(pipe, options, unseen, steps)
        for nfe in budgets:
            made = {f"step reduction to {nfe}": (bench.sample(nfe), None, None)}
            for name, policy, expected in policies(pipe, kernel, training, nfe, options):
                plan = policy.compile(kernel.grid)
                made[name] = bench.sample(steps, policy), expected, plan.computed_steps
            fewer = decibels(made[f"step reduction to {nfe}"][0], bench.reference)
            for name, (drawn, expected, computed) in made.items():
                found = decibels(drawn, bench.reference)
                _, error = bench.score(drawn)
                rows.append(
                    {
                        "steps": steps,
                        "NFE": nfe,
                        "method": name,
                        "PSNR, dB": round(float(found.mean()), 2),
                        "prompts above step reduction": int((found >= fewer).sum()),
                        "latent error": round(error, 5),
                        "expected": None if expected is None else round(expected, 5),
                        "computed": None if computed is None else list(computed),
                    }
                )
                print(rows[-1], flush=True)
    write(
        "few_steps", f"python -m benchmarks.few_steps --prompts {given.prompts} --calibration {given.calibration}", rows
    )


if __name__ == "__main__":
    main()
