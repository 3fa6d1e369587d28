"""``foreseer generate``."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreseer.cli.common import (
    Device,
    Dtype,
    ForwardPasses,
    Json,
    Matrix,
    MaxError,
    Nfe,
    Seed,
    SiteOption,
    Speedup,
    errors,
    file_to_write,
    folder_to_write,
    gated_policy,
    kernel_policy,
    method_policy,
    print_line,
)
from foreseer.cli.pipeline_options import PICTURE, takes_call_options
from foreseer.cli.workers import GpusPerWorker, RayAddress, Workers, chosen_place, work_bar
from foreseer.methods import find
from foreseer.plan import FixedPlan, Plan

if TYPE_CHECKING:
    from foreseer.plan import Policy
    from foreseer.scale import Place

Gated = Annotated[
    bool, typer.Option("--gated", help="With a kernel: compute as many steps as each image needs; --nfe is the mean.")
]
MaxNfe = Annotated[int | None, typer.Option(min=1, help="Largest number of computed steps of a gated run.")]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", help="PNG (GIF or MP4 for video), numbered if several; a folder with --prompts."),
]


@takes_call_options
def generate(
    model: Annotated[str, typer.Argument(help="'emoji' (bundled), a diffusers folder, or a hub id.")],
    prompt: Annotated[list[str] | None, typer.Option("--prompt", "-p", help="Prompt; may be repeated.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A text file, one prompt per line; --out is a folder.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="With --prompts: pictures of each prompt.")] = 1,
    method: Annotated[str | None, typer.Option(help="Name of a method; without one every step is computed.")] = None,
    nfe: Nfe = None,
    forward_passes: ForwardPasses = None,
    kernel: Annotated[Path | None, typer.Option(help="A kernel file: learned rows and steps.")] = None,
    speedup: Speedup = None,
    max_error: MaxError = None,
    gated: Gated = False,
    max_nfe: MaxNfe = None,
    plan: Annotated[Path | None, typer.Option(help="A plan file.")] = None,
    matrix: Matrix = None,
    site: SiteOption = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the sampler.")] = None,
    seed: Seed = 0,
    out: Out = Path("out.png"),
    dtype: Dtype = None,
    device: Device = None,
    force: Annotated[bool, typer.Option("--force", help="Draw even if the method saves nothing.")] = False,
    workers: Workers = None,
    ray: RayAddress = None,
    gpus_per_worker: GpusPerWorker = None,
    as_json: Json = False,
    *,
    call: dict[str, Any],
) -> None:
    """Draw pictures with any diffusers pipeline, accelerated by a method, a kernel or a plan."""
    if (prompt is None) == (prompts is None):
        raise typer.BadParameter("give --prompt TEXT, or --prompts FILE.", param_hint="--prompt")
    place = chosen_place(workers, ray, gpus_per_worker)
    if prompts is None and place is not None:
        raise typer.BadParameter("workers draw the prompts of a file: give --prompts.", param_hint="--workers")
    _check_learned(kernel, plan, method, site)
    _check_budget(kernel, method, nfe, (forward_passes, speedup, max_error), gated=gated, max_nfe=max_nfe)
    if matrix is not None and method != "l2p":
        raise typer.BadParameter("--matrix belongs to --method l2p.", param_hint="--matrix")
    if prompts is None:
        file_to_write(out)
    else:
        folder_to_write(out)
    run_steps = _check_request(model, prompt or [], steps, dtype, out if prompts is None else None)

    @cache
    def policy_for(run_steps: int) -> tuple[Policy | None, int]:
        if plan is not None:
            return FixedPlan(Plan.load(plan)), run_steps
        if kernel is not None and gated:
            return gated_policy(kernel, nfe, max_error, max_nfe), run_steps
        if kernel is not None:
            return kernel_policy(kernel, nfe, speedup, max_error, forward_passes=forward_passes), run_steps
        if method is None:
            return None, run_steps
        if find(method).reduces_steps:
            return None, nfe or run_steps
        return method_policy(method, run_steps, nfe, site, matrix), run_steps

    policy, policy_steps = policy_for(run_steps)
    if not (force or PICTURE in call):
        _check_savings(policy, run_steps, nfe)
    if prompts is not None:
        _generate_many((model, dtype, device), prompts, out, (policy_steps, policy, seed, seeds, call), place, as_json)
        return
    from foreseer.evaluate.sampling.generate import PictureRequest, generate_all

    request = PictureRequest(model, prompt or [], steps, seed, out, call, dtype, device)
    for picture in generate_all(request, policy_for, quiet=as_json):
        if as_json:
            typer.echo(json.dumps(picture.to_dict()))
        else:
            print_line(picture.summary())


def _generate_many(
    model: tuple[str, str | None, str | None],
    prompts: Path,
    folder: Path,
    settings: tuple[int, Policy | None, int, int, dict[str, Any]],
    place: Place | None,
    as_json: bool,
) -> None:
    """Draw every prompt of a file into a folder; failures are summed up at the end."""
    from foreseer.pipelines import read_pictures, read_prompts

    texts = read_prompts(prompts)
    from foreseer.evaluate.sampling.generate_many import MANIFEST, Drawing, generate_many
    from foreseer.scale import Failure, Model
    from foreseer.scale.unit import sum_up

    *most, call = settings
    drawing = Drawing(*most, options=read_pictures(call))  # pyright: ignore[reportArgumentType]
    with work_bar("Drawing", as_json) as progress:
        results = generate_many(Model(*model), texts, folder, drawing, workers=place, progress=progress)
    failures = [result for result in results if isinstance(result, Failure)]
    drawn = [result for result in results if not isinstance(result, Failure)]
    passes = sum(line["forward_passes"] for line in drawn) / max(1, len(drawn))
    if as_json:
        typer.echo(json.dumps({"pictures": len(drawn), "failed": len(failures), "forward_passes": passes}))
    else:
        print_line(f"wrote {len(drawn)} pictures to {folder} ({MANIFEST}), {passes:.1f} forward passes per picture")
    if failures:
        message = f"{sum_up(failures, len(results))}. The same command tries them again."
        errors.print(message, markup=False, soft_wrap=True)
        raise typer.Exit(1)


def _check_request(model: str, prompts: list[str], steps: int | None, dtype: str | None, out: Path | None) -> int:
    """Refuse what needs no model to be refused; return the steps of the run."""
    from foreseer import zoo
    from foreseer.evaluate.sampling.picture_files import check_format
    from foreseer.pipelines import check_dtype, check_model

    if any(not text.strip() for text in prompts):
        raise typer.BadParameter("the prompt is empty: describe a picture.", param_hint="--prompt")
    check_dtype(dtype)
    if out is not None:
        check_format(out)
    return steps or int(zoo.sampling(check_model(model)).get("num_inference_steps", 50))


def _check_savings(policy: Policy | None, steps: int, nfe: int | None) -> None:
    """Refuse a policy that would compute every step, as far as this is known before the run."""
    remedy = "or give --force to compute every step"
    if policy is None or policy.decides_while_sampling:
        return
    if isinstance(policy, FixedPlan):
        plan_steps = len(policy.plan.grid)
        if plan_steps != steps:
            message = (
                f"the plan is for another grid ({plan_steps} steps, this run has {steps}): give --steps {plan_steps}"
            )
            raise typer.BadParameter(f"{message}, {remedy}.", param_hint="--plan")
    elif nfe is not None and nfe >= steps:
        raise typer.BadParameter(
            f"{nfe} computed steps of {steps} save nothing: give less, {remedy}.", param_hint="--nfe"
        )


def _check_learned(kernel: Path | None, plan: Path | None, method: str | None, site: str | None) -> None:
    """Refuse several ways to sample, and a site beside a file that has one."""
    chosen = [name for name, value in (("--method", method), ("--kernel", kernel), ("--plan", plan)) if value]
    if len(chosen) > 1:
        raise typer.BadParameter(f"give one of {', '.join(chosen)}.", param_hint=chosen[1])
    if site is not None and (kernel or plan):
        raise typer.BadParameter("the kernel or plan sets the site: leave --site out.", param_hint="--site")


def _check_budget(
    kernel: Path | None,
    method: str | None,
    nfe: int | None,
    kernel_budgets: tuple[int | None, float | None, float | None],
    *,
    gated: bool,
    max_nfe: int | None,
) -> None:
    """Refuse a budget beside a method that cannot keep it."""
    forward_passes, speedup, _ = kernel_budgets
    if not kernel and any(value is not None for value in kernel_budgets):
        raise typer.BadParameter("--forward-passes, --speedup and --max-error need --kernel.", param_hint="--kernel")
    if nfe and not (method or kernel):
        raise typer.BadParameter("a budget needs --method or --kernel.", param_hint="--nfe")
    if gated and (kernel is None or speedup is not None or forward_passes is not None):
        raise typer.BadParameter("it needs --kernel, and --nfe or --max-error.", param_hint="--gated")
    if max_nfe is not None and not gated:
        raise typer.BadParameter("it needs --gated; without a gate, give --nfe.", param_hint="--max-nfe")
