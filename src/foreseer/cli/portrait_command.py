"""``foreseer portrait``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from foreseer.cli.common import Seed, check_budget, console, created, out_file, plural, print_line
from foreseer.cli.pipeline_options import Prompts, Setup, runs_pipeline
from foreseer.cli.workers import resumable
from foreseer.kernel import Kernel
from foreseer.methods.learned import learned, rows_on
from foreseer.plan import Plan
from foreseer.schedule import Explicit

if TYPE_CHECKING:
    from foreseer.calibration.ceilings import Ceilings
    from foreseer.methods.validate import ExpectedError


@runs_pipeline
def portrait(
    kernel: Annotated[Path, typer.Argument(help="A kernel file.")],
    nfe: Annotated[int, typer.Option(min=1, help="Computed steps of the plan that is shown.")] = 9,
    out: Annotated[Path, out_file("The PNG to write.")] = Path("portrait.png"),
    model: Annotated[
        str | None, typer.Option(help="Also run this model: the least errors that rows can reach, and those of plans.")
    ] = None,
    prompts: Prompts = None,
    plan: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="With --model: a plan to measure; may be repeated.")
    ] = None,
    seed: Seed = 0,
    *,
    setup: Setup,
) -> None:
    """Draw a kernel: projection fidelity, expected error per step, weights, trajectories."""
    loaded = Kernel.load(kernel)
    check_budget(nfe, len(loaded.grid), "--nfe")
    if model is None:
        if prompts is not None or plan or seed or setup != Setup({}):
            raise typer.BadParameter(
                "--prompts, --plan, --seed and options of a pipeline need a model to run: give --model.",
                param_hint="--model",
            )
        shown, curves = learned(loaded, nfe=nfe).compile(loaded.grid), {}
    else:
        plans = [(path.name, _read_plan(path, loaded, nfe)) for path in plan or ()]
        if loaded.site != "output" or not loaded.has_final_error:
            raise typer.BadParameter(
                "the least errors need a kernel of the output site and of a deterministic scheduler.",
                param_hint="--model",
            )
        _, texts, _, _ = setup.open(model, prompts, load=False)
        if len(texts) < 2:
            raise typer.BadParameter("two prompts or more are needed: one is held out.", param_hint="--prompts")
        policy = rows_on(loaded, Explicit(plans[0][1].computed_steps, of=len(loaded.grid))) if plans else None
        shown = (policy or learned(loaded, nfe=nfe)).compile(loaded.grid)
        plans = [("kernel rows", shown), *plans]
        limits = _measure(loaded, [plan for _, plan in plans], model, prompts, seed, out, setup)
        console.print(_table(limits, plans))
        count = f"{len(limits.mixed_steps)} of {len(limits.skipped_steps)} skipped steps"
        print_line(f"Channel mixing helps at {count} on the held-out prompts.")
        curves = {"best scalars": limits.scalar.step_errors, "best channel mixing": limits.mixing.step_errors}
    from foreseer.calibration.analysis import plot_kernel

    plot_kernel(loaded, shown, created(out), curves)
    print_line(f"wrote {out}")


def _read_plan(path: Path, kernel: Kernel, nfe: int) -> Plan:
    """Read a plan that can be compared with the kernel's at ``nfe`` computed steps."""
    plan = Plan.load(path)
    if plan.site != "output" or not plan.grid.matches(kernel.grid):
        raise typer.BadParameter(
            f"{path} is for {len(plan.grid)} steps at the site {plan.site!r}; expected the kernel's "
            f"{len(kernel.grid)} noise levels at 'output'.",
            param_hint="--plan",
        )
    if plan.nfe != nfe:
        raise typer.BadParameter(
            f"{path} computes {plan.nfe} steps, not {nfe}: give --nfe {plan.nfe}.", param_hint="--plan"
        )
    return plan


def _measure(
    kernel: Kernel, plans: list[Plan], model: str, prompts: Path | None, seed: int, out: Path, setup: Setup
) -> Ceilings:
    from foreseer.calibration.ceilings import ceilings

    pipe, texts, options, _ = setup.open(model, prompts)
    steps = kernel.provenance.get("steps", "")
    if steps.isdecimal():
        options = {"num_inference_steps": int(steps), **options}
    with resumable("Measuring", out) as (partial, progress):
        return ceilings(
            pipe,
            plans,
            texts,
            checkpoint=partial,
            seed=seed,
            workers=setup.place,
            progress=lambda done, total: progress(done, total, ""),
            **options,
        )


def _table(limits: Ceilings, plans: Sequence[tuple[str, Plan]]) -> Table:
    title = f"Relative errors, {plural(limits.held_out, 'held-out prompt')}; best rows are open loop, on full runs"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("rows", "outputs", "final sample", "worst prompt", "final, fitted whole"):
        table.add_column(column, justify="left" if column == "rows" else "right", no_wrap=column == "rows")
    for name, ceiling in (("best scalars", limits.scalar), ("best channel mixing", limits.mixing)):
        outputs = ceiling.step_errors[list(limits.skipped_steps)].mean()
        table.add_row(name, f"{outputs:.4f}", *_cells(ceiling.carried), f"{ceiling.final.mean:.4f}")
    for (name, plan), error in zip(plans, limits.measured, strict=True):
        moved = "" if plan.computed_steps == plans[0][1].computed_steps else ", other steps"
        table.add_row(escape(f"{name}, measured{moved}"), "", *_cells(error), "")
    return table


def _cells(error: ExpectedError) -> Sequence[str]:
    from foreseer.methods.validate import plus_minus

    return plus_minus(error.mean, error.spread), f"{error.worst:.4f}"
