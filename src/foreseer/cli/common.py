"""Options, consoles and choices that several commands share."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foreseer.errors import PlanError
from foreseer.methods import find
from foreseer.site import SITES, read_site

if TYPE_CHECKING:
    from rich.progress import Progress

    from foreseer.grid import Grid
    from foreseer.plan import Plan, Policy

console = Console()
errors = Console(stderr=True)

# The method that is no formula: a kernel's own rows.
KERNEL = "kernel"
# Stands for the name under which a pipeline takes a picture.
PICTURE = "picture"


def _known_site(words: str | None) -> str | None:
    try:
        return None if words is None else str(read_site(words))
    except PlanError as error:
        raise typer.BadParameter(str(error)) from error


# Generators take twice as many; the next pictures have the next seeds.
Seed = Annotated[int, typer.Option(min=0, max=2**62, help="Seed of the first prompt; the next has the next.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
SiteOption = Annotated[
    str | None,
    typer.Option("--site", metavar="SITE", callback=_known_site, help=f"Where features are taken: {', '.join(SITES)}."),
]
Matrix = Annotated[Path | None, typer.Option("--matrix", help="L2P's weight file (text).")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")]
Height = Annotated[int | None, typer.Option(min=8)]
Width = Annotated[int | None, typer.Option(min=8)]
Guidance = Annotated[float | None, typer.Option(help="guidance_scale of the pipeline.")]
TrueCfg = Annotated[float | None, typer.Option(help="true_cfg_scale, where the pipeline has it.")]
Negative = Annotated[str | None, typer.Option(help="Negative prompt.")]
Picture = Annotated[
    Path | None, typer.Option("--image", help="A picture to begin from or refer to, where one is taken.")
]
Others = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="Of the pipeline's call: num_frames=49, mask_image=@FILE."),
]
Nfe = Annotated[int | None, typer.Option(min=1, help="Network evaluations of a run.")]
Evaluations = Annotated[
    int | None, typer.Option(min=1, help="Calls of the network under guidance, each branch at steps of its own.")
]
Speedup = Annotated[float | None, typer.Option(min=1.0, help="T / NFE, instead of --nfe (with a kernel).")]
MaxError = Annotated[float | None, typer.Option(min=0.0, help="Expected relative final error (with a kernel).")]


# Of a pipeline's call, what commands fill in, and how they are told.
DECIDED = {
    "prompt": "a prompt",
    "class_labels": "a prompt",
    "num_inference_steps": "--steps",
    "generator": "--seed",
    "num_images_per_prompt": "a prompt for each picture",
    "output_type": "nothing: the command decides it",
    "return_dict": "nothing: the command decides it",
}


def call_options(
    height: int | None,
    width: int | None,
    guidance: float | None,
    *,
    true_cfg: float | None,
    negative: str | None,
    image: Path | None,
    others: list[str] | None,
) -> dict[str, Any]:
    """The options that were given, by the names that pipelines' calls have for them; pictures as their paths."""
    named = {
        "height": height,
        "width": width,
        "guidance_scale": guidance,
        "true_cfg_scale": true_cfg,
        "negative_prompt": negative,
        PICTURE: image,
    }
    given = {name: value for name, value in named.items() if value is not None}
    for name, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise typer.BadParameter(f"{name} is {value}; expected a finite number.")
    for words in others or ():
        name, value = _read_option(words)
        if name in given:
            raise typer.BadParameter(f"{name} is given twice.", param_hint="--option")
        given[name] = value
    return given


def file_to_write(path: Path | None) -> Path | None:
    """``path``, refused before any work is done where it names a folder."""
    if path is not None and (not path.name or path.is_dir()):
        raise typer.BadParameter(f"{path} is a folder; name a file.")
    return path


def _read_option(words: str) -> tuple[str, Any]:
    """A name and a value written as NAME=VALUE: JSON, else the words themselves; @FILE is a picture's path."""
    name, sign, value = words.partition("=")
    if not sign or not name.isidentifier():
        raise typer.BadParameter(f"{words!r}: write it as NAME=VALUE.", param_hint="--option")
    if name in DECIDED:
        raise typer.BadParameter(f"instead of {name} give {DECIDED[name]}.", param_hint="--option")
    if value.startswith("@"):
        return name, Path(value[1:])
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def method_policy(method: str, steps: int, nfe: int | None, site: str | None, matrix: Path | None) -> Policy:
    """A method by name as a policy."""
    chosen = find(method)
    if matrix is not None:
        chosen = chosen.with_matrix(matrix)
    return chosen.policy(steps, nfe, site)


def kernel_policy(
    kernel: Path,
    nfe: int | None,
    speedup: float | None,
    max_error: float | None,
    *,
    evaluations: int | None = None,
    method: str = KERNEL,
    matrix: Path | None = None,
) -> Policy:
    """Steps searched on a kernel file, and a method's rows: the kernel's own, L2P's or a fixed formula's."""
    from foreseer.kernel import Kernel
    from foreseer.methods.learned import learned
    from foreseer.plan import Policy
    from foreseer.schedule import Optimal

    if matrix is not None and method != "l2p":
        raise typer.BadParameter("with a kernel it belongs to --method l2p.", param_hint="--matrix")
    chosen = find(method) if method != KERNEL else None
    targets = (
        ("--nfe", nfe),
        ("--evaluations", evaluations),
        ("--speedup", speedup),
        ("--max-error", max_error),
    )
    given = [name for name, value in targets if value is not None]
    if len(given) != 1:
        raise typer.BadParameter(
            f"a kernel takes exactly one of {', '.join(name for name, _ in targets)}; "
            f"received {', '.join(given) or 'none'}.",
            param_hint="--nfe",
        )
    loaded = Kernel.load(kernel)
    if chosen is None:
        return learned(loaded, nfe=nfe, forward_passes=evaluations, speedup=speedup, max_error=max_error)
    if evaluations is not None:
        raise typer.BadParameter(f"it is for the kernel's own rows, not {method}'s.", param_hint="--evaluations")
    if matrix is not None:
        chosen = chosen.with_matrix(matrix)
    elif chosen.name == "l2p":
        from foreseer.methods.train_l2p import train_l2p

        chosen = replace(chosen, forecaster=train_l2p(loaded))
    rows = chosen.policy().forecaster
    return Policy(Optimal(loaded, nfe, speedup, max_error, rows), rows, loaded.site)


def gated_policy(kernel: Path, nfe: float | None, max_error: float | None, max_nfe: int | None) -> Policy:
    """The forecast-error gate on a kernel file."""
    from foreseer.kernel import Kernel
    from foreseer.methods.gated import gated

    return gated(Kernel.load(kernel), nfe=nfe, max_error=max_error, max_nfe=max_nfe)


def planned(policy: Policy, grid: Grid) -> Plan:
    """The plan of a policy that has one beforehand."""
    if policy.decides_while_sampling:
        raise PlanError("A gate decides while sampling: it has no plan beforehand. Its record holds what came out.")
    return policy.compile(grid)


def progress_bar(disable: bool = False) -> Progress:
    """A bar with a description, a count and the time left, on standard error."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=errors, disable=disable)


def parse_shape(words: str | None) -> tuple[int, ...] | None:
    """A shape written as 1,4096,64."""
    if words is None:
        return None
    try:
        return tuple(int(word) for word in words.replace("x", ",").split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{words!r} is no shape; write it as 1,4096,64.", param_hint="--shape") from error
