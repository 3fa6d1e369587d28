"""``foreseer plan``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from foreseer.checks import one_target, unknown_name
from foreseer.cli.common import (
    LESS,
    ForwardPasses,
    Json,
    Matrix,
    MaxError,
    Nfe,
    SiteOption,
    Speedup,
    created,
    no_savings,
    out_file,
)
from foreseer.cli.policy_request import TARGETS
from foreseer.errors import PlanError
from foreseer.grid import Grid
from foreseer.kernel import Kernel
from foreseer.kernel.interpolate import resampled
from foreseer.methods import METHODS, resolve
from foreseer.methods.learned import learned
from foreseer.plan import Plan

if TYPE_CHECKING:
    from foreseer.plan import Policy

# Name of a kernel's own rows among the methods.
KERNEL = "kernel"


class MakeByDefault(TyperGroup):
    """Command group that reads ``foreseer plan FILE ...`` as ``foreseer plan make FILE ...``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the first argument names, else ``make``."""
        return super().resolve_command(ctx, args if args and args[0] in self.commands else ["make", *args])


plan_app = typer.Typer(
    cls=MakeByDefault,
    help="Plans: which steps compute, and the rows that forecast the others.",
    no_args_is_help=True,
)


@plan_app.command("make")
def plan_make(
    what: Annotated[str, typer.Argument(metavar="KERNEL|METHOD", help="A kernel file, or a method's name.")],
    nfe: Nfe = None,
    forward_passes: ForwardPasses = None,
    speedup: Speedup = None,
    max_error: MaxError = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the run; by default the kernel's, or 50.")] = None,
    method: Annotated[
        str | None, typer.Option(help="With a kernel, rows to use: kernel (default), l2p, newton, ...")
    ] = None,
    site: SiteOption = None,
    matrix: Matrix = None,
    out: Annotated[Path | None, out_file("File to write the plan to.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go on even if every step is computed, which saves nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a plan from a kernel or a method, print it, and write it to a file."""
    _check_method(what, method)
    _check_no_gate(what)
    targets = {"--nfe": nfe, "--forward-passes": forward_passes, "--speedup": speedup, "--max-error": max_error}
    policy, grid = _policy_and_grid(what, steps, targets, site, matrix, method=method or KERNEL)
    plan = policy.compile(grid)
    if plan.saves_nothing and not force:
        option = next((option for option, value in targets.items() if value is not None), "--nfe")
        raise no_savings(plan.nfe, len(grid), option, f"{LESS}, or give --force")
    if out is not None:
        plan.save(created(out))
    explanation = plan.explain()
    typer.echo(json.dumps(explanation.to_dict(), indent=1) if as_json else str(explanation))


@plan_app.command("explain")
def plan_explain(
    what: Annotated[str, typer.Argument(metavar="FILE|METHOD", help="A plan file, or a method's name.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of the run, for a method.")] = 50,
    nfe: Nfe = None,
    site: SiteOption = None,
    matrix: Matrix = None,
    shape: Annotated[str | None, typer.Option(help="Feature shape for the memory, as 1,4096,64.")] = None,
    dtype: Annotated[str, typer.Option(help="Feature dtype: float32, bfloat16, float16 or float64.")] = "float32",
    as_json: Json = False,
) -> None:
    """Explain step by step what a plan computes and how it forecasts."""
    _check_no_gate(what)
    if what in METHODS:
        plan = resolve(what, steps=steps, nfe=nfe, site=site, matrix=matrix).compile(Grid.uniform(steps))
    elif Path(what).exists():
        plan = Plan.load(what)
    else:
        raise PlanError(unknown_name("file or method", what, METHODS))
    explanation = plan.explain(_read_shape(shape), dtype)
    typer.echo(json.dumps(explanation.to_dict(), indent=1) if as_json else str(explanation))


def _check_method(what: str, method: str | None) -> None:
    if method is None:
        return
    if what in METHODS:
        raise typer.BadParameter(f"{what!r} is a method itself; --method needs a kernel.", param_hint="--method")
    if method == "rollout":
        raise typer.BadParameter(
            "a rollout runs the network: foreseer rollout MODEL KERNEL --prompts FILE --nfe N.", param_hint="--method"
        )
    with_rows = [KERNEL, *(name for name, entry in METHODS.items() if entry.schedule is not None)]
    if method not in with_rows:
        raise typer.BadParameter(unknown_name("method with rows", method, with_rows), param_hint="--method")


def _policy_and_grid(
    what: str, steps: int | None, targets: Mapping[str, Any], site: str | None, matrix: Path | None, *, method: str
) -> tuple[Policy, Grid]:
    if what in METHODS:
        if any(value is not None for option, value in targets.items() if option != "--nfe"):
            raise typer.BadParameter("--forward-passes, --speedup and --max-error need a kernel; a method takes --nfe.")
        steps = steps or 50
        return resolve(what, steps=steps, nfe=targets["--nfe"], site=site, matrix=matrix), Grid.uniform(steps)
    if not Path(what).exists():
        raise PlanError(unknown_name("file or method", what, METHODS))
    if site is not None:
        raise typer.BadParameter("the kernel sets the site: leave it out.", param_hint="--site")
    kernel = Kernel.load(what)
    grid = kernel.grid if steps in (None, len(kernel.grid)) else resampled(kernel.grid, steps)
    if matrix is not None and method != "l2p":
        raise typer.BadParameter("with a kernel it belongs to --method l2p.", param_hint="--matrix")
    target = one_target(typer.BadParameter, targets, required=True)
    target = {TARGETS[option]: value for option, value in target.items()}
    if "forward_passes" not in target:
        return resolve(method, **target, profile=kernel, matrix=matrix), grid
    if method != KERNEL:
        raise typer.BadParameter(f"it needs the kernel's own rows, not {method}'s.", param_hint="--forward-passes")
    return learned(kernel, **target), grid


def _check_no_gate(what: str) -> None:
    """Refuse a gate, which has no plan, before its module imports torch."""
    if what in METHODS and METHODS[what].gate is not None:
        raise PlanError(f"{what} is a gate: it decides while sampling and has no plan. Read a run's record.")


def _read_shape(text: str | None) -> tuple[int, ...] | None:
    """Read a shape written as 1,4096,64."""
    if text is None:
        return None
    try:
        return tuple(int(size) for size in text.replace("x", ",").split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a shape; write it as 1,4096,64.", param_hint="--shape") from error
