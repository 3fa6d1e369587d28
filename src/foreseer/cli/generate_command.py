"""``foreseer generate``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from foreseer.checks import one_target
from foreseer.cli.common import (
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
    print_line,
)
from foreseer.cli.pipeline_options import DEFAULT_STEPS, PICTURE, ModelName, Setup, runs_pipeline
from foreseer.cli.policy_request import TARGETS, PolicyRequest
from foreseer.cli.workers import work_bar

Gated = Annotated[
    bool, typer.Option("--gated", help="With a kernel: compute as many steps as each image needs; --nfe is the mean.")
]
MaxNfe = Annotated[int | None, typer.Option(min=1, help="Largest number of computed steps of a gated run.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Go on if every step is computed, or with rows of another network or guidance."),
]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", help="PNG (GIF or MP4 for video), numbered if several; a folder with --prompts."),
]


@runs_pipeline
def generate(
    model: ModelName,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", "-p", help="Prompt; may be repeated.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A text file, one prompt per line; --out is a folder.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="With --prompts: pictures of each prompt.")] = 1,
    method: Annotated[str | None, typer.Option(help="Name of a method (foreseer methods).")] = None,
    profile: Annotated[str | None, typer.Option(help="A profile from foreseer tune: a file, or OWNER/NAME.")] = None,
    kernel: Annotated[Path | None, typer.Option(help="A kernel file: learned rows and steps.")] = None,
    plan: Annotated[Path | None, typer.Option(help="A plan file.")] = None,
    nfe: Nfe = None,
    forward_passes: ForwardPasses = None,
    speedup: Speedup = None,
    max_error: MaxError = None,
    quality: Annotated[
        str | None, typer.Option(help="exact, lossless, high, balanced or fast; but for exact with a profile.")
    ] = None,
    gated: Gated = False,
    max_nfe: MaxNfe = None,
    matrix: Matrix = None,
    site: SiteOption = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the sampler.")] = None,
    seed: Seed = 0,
    out: Out = Path("out.png"),
    force: Force = False,
    as_json: Json = False,
    *,
    setup: Setup,
) -> None:
    """Draw pictures with any diffusers pipeline, by default with generic steps at a speedup of 2.5."""
    one_target(typer.BadParameter, {"--prompt": prompt, "--prompts": prompts}, required=True)
    if prompts is None and setup.place is not None:
        raise typer.BadParameter("workers draw the prompts of a file: give --prompts.", param_hint="--workers")
    targets = dict(zip(TARGETS, (nfe, forward_passes, speedup, max_error, quality), strict=True))
    request = PolicyRequest(method, profile, kernel, plan, targets, gated, max_nfe, matrix, site)
    run_steps = _check_request(model, prompt or [], steps, setup, out if prompts is None else None)
    if prompts is None:
        file_to_write(out)
    else:
        folder_to_write(out)
    if not force:
        request.check_budget(run_steps)
    policy_for = cache(request.policy)
    policy, policy_steps = policy_for(run_steps)
    if not force:
        setup.check_guidance(model, policy)
        if PICTURE not in setup.call:
            request.check_savings(policy, run_steps)
    if prompts is not None:
        settings = {
            "steps": policy_steps,
            "policy": policy,
            "seed": seed,
            "seeds_per_prompt": seeds,
            "fallback": request.fallback,
            "force": force,
        }
        _generate_many(model, prompts, out, setup, settings, as_json)
        return
    from foreseer.evaluate.sampling.generate import PictureRequest, generate_all

    device = (setup.dtype, setup.device)
    pictures = PictureRequest(model, prompt or [], steps, seed, out, setup.call, *device, request.fallback, force)
    for picture in generate_all(pictures, policy_for, quiet=as_json):
        if as_json:
            typer.echo(json.dumps(picture.to_dict()))
        else:
            print_line(picture.summary())


def _generate_many(
    model: str, prompts: Path, folder: Path, setup: Setup, settings: Mapping[str, Any], as_json: bool
) -> None:
    """Draw every prompt of a file into a folder; failures are summed up at the end."""
    from foreseer.pipelines import read_pictures, read_prompts

    texts = read_prompts(prompts)
    from foreseer.evaluate.sampling.generate_many import MANIFEST, Drawing, generate_many
    from foreseer.scale import Failure, Model
    from foreseer.scale.unit import sum_up

    drawing = Drawing(**settings, options=read_pictures(setup.call))
    named = Model(model, setup.dtype, setup.device)
    with work_bar("Drawing", as_json) as progress:
        results = generate_many(named, texts, folder, drawing, workers=setup.place, progress=progress)
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


def _check_request(model: str, prompts: list[str], steps: int | None, setup: Setup, out: Path | None) -> int:
    """Refuse what needs no model to be refused; return the steps of the run."""
    from foreseer import zoo
    from foreseer.evaluate.sampling.picture_files import check_format
    from foreseer.pipelines import draws_pictures

    if any(not text.strip() for text in prompts):
        raise typer.BadParameter("the prompt is empty: describe a picture.", param_hint="--prompt")
    folder = setup.check(model)
    if out is not None:
        check_format(out, picture=draws_pictures(folder))
    return steps or int(zoo.sampling(folder).get("num_inference_steps", DEFAULT_STEPS))
