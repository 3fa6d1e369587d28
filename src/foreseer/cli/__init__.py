"""The command line ``foreseer``: one file per command, each a thin layer over the library.

``common`` holds shared options and checks, ``bench_table`` prints the results of ``bench`` and ``demo``.
"""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, Any

import typer
from rich.markup import escape

from foreseer import __version__
from foreseer.cli.bench_command import bench
from foreseer.cli.calibrate_command import calibrate
from foreseer.cli.common import errors
from foreseer.cli.demo_command import demo
from foreseer.cli.env_command import env
from foreseer.cli.frontier_command import frontier
from foreseer.cli.generate_command import generate
from foreseer.cli.methods_command import methods
from foreseer.cli.plan_command import plan_app
from foreseer.cli.portrait_command import portrait
from foreseer.cli.rollout_command import rollout
from foreseer.cli.tune_command import tune
from foreseer.cli.workers import with_address
from foreseer.errors import ForeseerDeprecationWarning, ForeseerError, ForeseerWarning, naming_the_extra


def _print_version(requested: bool) -> bool:
    if requested:
        typer.echo(f"foreseer {__version__}")
        raise typer.Exit
    return requested


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(version: Version = False) -> None:
    """Sample diffusion models faster: compute a few steps, forecast the others."""


for command in (demo, bench, generate, methods, tune, calibrate, frontier, portrait, rollout, env):
    app.command()(command)
app.add_typer(plan_app, name="plan")


def _print_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    """Print Foreseer's warnings without the line of code that gave them; others as Python does."""
    if issubclass(category, ForeseerWarning | ForeseerDeprecationWarning):
        errors.print(f"[bold yellow]Warning:[/] {escape(str(message))}", highlight=False, soft_wrap=True)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, *place[:2]))


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; errors and warnings print one readable line, and errors exit with code 2."""
    try:
        with naming_the_extra(), warnings.catch_warnings():
            warnings.showwarning = _print_warning
            return app(with_address(sys.argv[1:] if arguments is None else arguments))
    except ForeseerError as error:
        errors.print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    except ModuleNotFoundError as error:
        errors.print(f"[bold red]Error:[/] {error.name} is not installed.", soft_wrap=True)
    except OSError as error:
        message = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        errors.print(f"[bold red]Error:[/] {escape(message)}.", highlight=False)
    except MemoryError:
        errors.print("[bold red]Error:[/] Out of memory: ask for fewer steps or a smaller size.")
    sys.exit(2)
