"""``--workers``, ``--ray`` and ``--gpus-per-worker``: where a command runs its prompts."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreseer.cli.common import created, errors, progress_bar

if TYPE_CHECKING:
    from foreseer.scale import Place
    from foreseer.scale.units import Progress

RAY = "--ray"
ADDRESS = re.compile(r"auto|local|ray://\S+|[\w.\[\]:-]+:\d+")

Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes on this machine; with --ray, workers there."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        RAY,
        metavar="[ADDRESS]",
        help="Run on a Ray cluster: HOST:PORT, auto or local; by default the one here.",
    ),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option("--gpus-per-worker", min=0.0, help="GPUs of each worker; by default one."),
]


def with_address(arguments: list[str]) -> list[str]:
    """The arguments of a command line, with ``auto`` after a ``--ray`` that no address follows.

    >>> with_address(["calibrate", "--ray", "emoji"]), with_address(["--ray", "10.0.0.1:6379"])
    (['calibrate', '--ray', '', 'emoji'], ['--ray', '10.0.0.1:6379'])
    """
    complete = []
    for index, argument in enumerate(arguments):
        complete.append(argument)
        following = arguments[index + 1] if index + 1 < len(arguments) else ""
        if argument == RAY and not ADDRESS.fullmatch(following):
            complete.append("")
    return complete


def chosen_place(workers: int | None, ray: str | None, gpus_per_worker: float | None) -> Place | None:
    """The place that the options name; ``None`` for this process."""
    if ray is not None:
        from foreseer.scale import Ray

        return Ray(workers, ray or None, gpus_per_worker=gpus_per_worker)
    if gpus_per_worker is not None and (workers is None or gpus_per_worker != int(gpus_per_worker)):
        raise typer.BadParameter(
            "it needs --workers or --ray, and with --workers a whole number.", param_hint="--gpus-per-worker"
        )
    if workers is None:
        return None
    from foreseer.scale import Processes

    return Processes(workers, gpus_per_worker=int(gpus_per_worker) if gpus_per_worker else None)


@contextlib.contextmanager
def work_bar(title: str, quiet: bool = False) -> Iterator[Progress]:
    """Show one bar for a job on any number of workers; after Ctrl-C exit with code 130.

    Ray prints a line on standard output for each worker that it loses; the bar counts those, so the lines are dropped.
    """
    stream: Any = _WithoutRay(sys.stdout)
    with contextlib.redirect_stdout(stream), progress_bar(quiet) as bar:
        task = bar.add_task(title, total=None)

        def show(done: int, total: int, state: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{title} ({state})" if state else title)

        try:
            yield show
        except KeyboardInterrupt as error:
            bar.stop()
            doing = bar.tasks[task].description
            at = f" at {bar.tasks[task].percentage:.0f} %" if bar.tasks[task].total else ""
            message = f"{doing}: interrupted{at}. What is done is kept: the same command continues."
            errors.print(message, highlight=False, markup=False)
            raise typer.Exit(130) from error


@contextlib.contextmanager
def resumable(title: str, out: Path) -> Iterator[tuple[Path, Progress]]:
    """Show a bar, and keep what is done in a folder beside ``out`` until the block ends without an error."""
    partial = created(out).with_name(f".{out.name}.partial")
    with work_bar(title) as show:
        yield partial, show
    shutil.rmtree(partial, ignore_errors=True)


class _WithoutRay:
    """A stream that drops the lines that Ray prints about its processes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._dropped = False

    def write(self, text: str) -> int:
        """Write ``text``, unless Ray wrote it, or it ends a line of Ray's."""
        drop = "(raylet" in text or (self._dropped and text == "\n")
        self._dropped = "(raylet" in text and not text.endswith("\n")
        return len(text) if drop else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
