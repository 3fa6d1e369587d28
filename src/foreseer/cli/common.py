"""Options, consoles and checks that several commands share."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foreseer.errors import PlanError
from foreseer.schedule.base import budget_at
from foreseer.site import SITES, read_site

if TYPE_CHECKING:
    from rich.progress import Progress

console = Console()
errors = Console(stderr=True)


def print_line(text: str) -> None:
    """Print one line without markup, highlighting or wrapping."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


# Remedy where a target leaves no step to forecast.
LESS = "ask for fewer steps or a larger error"


def _check_site(text: str | None) -> str | None:
    try:
        return None if text is None else str(read_site(text))
    except PlanError as error:
        raise typer.BadParameter(str(error)) from error


# Half of a generator's range, which leaves room for the seeds of the next prompts.
Seed = Annotated[int, typer.Option(min=0, max=2**62, help="Seed of the first prompt; each next prompt adds one.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SiteOption = Annotated[
    str | None,
    typer.Option("--site", metavar="SITE", callback=_check_site, help=f"Site of the features: {', '.join(SITES)}."),
]
Matrix = Annotated[Path | None, typer.Option("--matrix", help="L2P's weight file (text).")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16, float16; or fp32, bf16, fp16.")]
Nfe = Annotated[int | None, typer.Option(min=1, help="Computed steps of a run (NFE).")]
ForwardPasses = Annotated[
    int | None,
    typer.Option(min=1, help="Calls of the network under guidance; each branch computes its own steps."),
]
Speedup = Annotated[float | None, typer.Option(min=1.0, help="Steps / NFE, instead of --nfe.")]
MaxError = Annotated[float | None, typer.Option(min=0.0, help="Expected relative final error (kernel, profile).")]


def file_to_write(path: Path | None) -> Path | None:
    """Return ``path``; refuse a folder, or a path that cannot be written, before any work."""
    if path is not None:
        if not path.name or path.is_dir():
            raise typer.BadParameter(f"{path} is a folder; name a file.")
        folder_to_write(path.parent)
    return path


def folder_to_write(folder: Path) -> None:
    """Refuse a folder that cannot be created or written to; it is created when a file is written."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        reason = error.strerror if existing.is_dir() else f"{existing} is a file"
        raise typer.BadParameter(f"Cannot write to the folder {folder}: {reason}.", param_hint="--out") from error


def out_file(help: str) -> Any:
    """Make the option ``--out`` of a command that writes one file."""
    return typer.Option("--out", "-o", callback=file_to_write, help=help)


def plural(count: int, what: str) -> str:
    """Write a count and its noun, as in "2 prompts"."""
    return f"{count} {what}{'s' if count != 1 else ''}"


def created(path: Path) -> Path:
    """Create the folder of ``path`` and return ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def no_savings(computed: int, of: int, option: str, remedy: str, unit: str = "computed steps") -> typer.BadParameter:
    """Make the refusal of a budget, given as ``option``, that leaves no step to forecast."""
    return typer.BadParameter(f"{computed} {unit} of {of} save nothing: {remedy}.", param_hint=option)


def budget_of_speedup(steps: int, speedup: float) -> int:
    """Return the computed steps of a run that ``--speedup`` asks for.

    Raises:
        BadParameter: fewer than one step would have to be computed.
    """
    if speedup > steps:
        raise typer.BadParameter(
            f"{speedup:g} is out of reach: a run of {steps} steps computes one at least. Give at most {steps}.",
            param_hint="--speedup",
        )
    return budget_at(steps, None, speedup)


def check_budget(computed: int, of: int, option: str, unit: str = "computed steps") -> None:
    """Raise BadParameter unless ``computed`` is at least 1 and less than ``of``."""
    if not 1 <= computed < of:
        raise no_savings(computed, of, option, f"give 1 to {of - 1}", unit)


def progress_bar(disable: bool = False) -> Progress:
    """Make a progress bar on standard error with a description, a count and the time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=errors, disable=disable)


@contextmanager
def bench_progress(disable: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar for a bench; yields its progress function (runs done, runs in all, title)."""
    with progress_bar(disable) as bar:
        task = bar.add_task("Preparing", total=None)

        def report(done: int, total: int, title: str) -> None:
            bar.update(task, completed=done, total=total, description=title[:40])

        yield report
