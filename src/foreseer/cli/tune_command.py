"""``foreseer tune``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreseer.checks import one_target
from foreseer.cli.common import Seed, budget_of_speedup, check_budget, no_savings, out_file, print_line
from foreseer.cli.pipeline_options import ModelName, Setup, runs_pipeline
from foreseer.cli.workers import resumable

if TYPE_CHECKING:
    from foreseer.methods.profile import Profile


@runs_pipeline
def tune(
    model: ModelName,
    prompts: Annotated[Path | None, typer.Option(help="A text file with one prompt per line, a dozen or more.")] = None,
    speedup: Annotated[float | None, typer.Option(min=1.0, help="Steps / computed steps of the refined plan.")] = None,
    budgets: Annotated[
        str | None, typer.Option(help="Computed steps of the plans to refine, separated by commas: 14,9,7 (default).")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="Steps of the runs to learn from.")] = None,
    count: Annotated[int | None, typer.Option(min=2, help="Number of prompts to use, from the first.")] = None,
    iterations: Annotated[int, typer.Option(min=0, help="Iterations of refinement for each plan.")] = 2,
    mix: Annotated[bool, typer.Option(help="Mix channels where it helps on held-out prompts.")] = True,
    seed: Seed = 0,
    out: Annotated[Path, out_file("The profile to write.")] = Path("model.profile.safetensors"),
    *,
    setup: Setup,
) -> None:
    """Learn a model once: one file for every budget and step count. It resumes after an interruption."""
    one_target(typer.BadParameter, {"--speedup": speedup, "--budgets": budgets})
    _, texts, _, default_steps = setup.open(model, prompts, load=False)
    texts = texts[:count]
    if len(texts) < 2:
        raise typer.BadParameter("tuning needs two prompts or more: one is held out.", param_hint="--prompts")
    run_steps = steps or default_steps
    chosen = _budgets(budgets, speedup, run_steps)
    from foreseer.calibration.tune import stage_costs
    from foreseer.calibration.tune import tune as run

    pipe, _, options, _ = setup.open(model, prompts)
    with resumable("Tuning", out) as (partial, show):
        costs = stage_costs(len(texts), run_steps, chosen, iterations=iterations, mix=mix)
        profile = run(
            pipe,
            texts,
            budgets=chosen,
            num_inference_steps=run_steps,
            seed=seed,
            iterations=iterations,
            mix=mix,
            checkpoint=partial,
            workers=setup.place,
            progress=_over_stages(costs, show),
            **options,
        )
        profile.save(out)
    _print(profile, model, out)


def _budgets(text: str | None, speedup: float | None, steps: int) -> list[int] | None:
    """Numbers of computed steps, ``None`` for the default; refused unless fewer than the steps."""
    if speedup is not None:
        budgets, option = [budget_of_speedup(steps, speedup)], "--speedup"
        if budgets[0] >= steps:
            raise no_savings(budgets[0], steps, option, "give a larger one")
    elif text is not None:
        option = "--budgets"
        try:
            budgets = [int(number) for number in text.split(",")]
        except ValueError as error:
            raise typer.BadParameter(f"{text!r}: write numbers, as in 14,9,7.", param_hint=option) from error
    else:
        return None
    for nfe in budgets:
        check_budget(nfe, steps, option)
    return budgets


def _over_stages(costs: Mapping[str, int], show: Callable[[int, int, str], None]) -> Callable[[str, int, int], None]:
    """Progress of all stages together, in forward passes, from that of each."""
    before = dict(zip(costs, itertools.accumulate(costs.values(), initial=0), strict=False))
    total = sum(costs.values())

    def report(stage: str, done: int, of: int) -> None:
        share = min(1.0, done / of) if of else 1.0
        show(before[stage] + round(costs[stage] * share), total, stage)

    return report


def _print(profile: Profile, model: str, out: Path) -> None:
    plans = "one refined plan" if len(profile.plans) == 1 else f"{len(profile.plans)} refined plans"
    print_line(f"wrote {out}: a kernel of {len(profile.kernel.grid)} steps and {plans}")
    for plan in profile.plans:
        error = "unknown" if plan.expected_error is None else f"{plan.expected_error:.4f}"
        print_line(f"  {plan.nfe} of {len(plan.grid)} steps computed: expected error {error} of the final latent")
    print_line(f'Use it: foreseer generate {model} --profile {out} --quality high --prompt "..."')
