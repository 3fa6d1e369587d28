"""The command line: thin, every command a few lines around the library."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.markup import escape

from foreseer import __version__
from foreseer.cli.bench import bench
from foreseer.cli.common import errors
from foreseer.cli.learning import calibrate, frontier, portrait, rollout
from foreseer.cli.pictures import demo, generate
from foreseer.cli.plans import methods, plan_app
from foreseer.errors import ForeseerError


def _print_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"foreseer {__version__}")
        raise typer.Exit
    return asked


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and stop.")
]
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def options(version: Version = False) -> None:
    """Sample diffusion models faster: compute a few steps, forecast the others."""


for command in (demo, bench, generate, methods, calibrate, frontier, portrait, rollout):
    app.command()(command)
app.add_typer(plan_app, name="plan")


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; errors become one readable line and exit code 2."""
    try:
        return app(arguments)
    except ForeseerError as error:
        errors.print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    except ModuleNotFoundError as error:
        errors.print(
            f"[bold red]Error:[/] {error.name} is not installed: pip install 'foreseer\\[diffusers,report]'.",
            soft_wrap=True,
        )
    except OSError as error:
        words = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        errors.print(f"[bold red]Error:[/] {escape(words)}.", highlight=False)
    except MemoryError:
        errors.print("[bold red]Error:[/] This takes more memory than there is: ask for fewer steps or less.")
    sys.exit(2)
