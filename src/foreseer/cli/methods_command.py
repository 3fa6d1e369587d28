"""``foreseer methods``."""

from __future__ import annotations

import json

import typer
from rich.table import Table

from foreseer.cli.common import (
    Json,
    console,
)
from foreseer.methods import METHODS


def methods(as_json: Json = False) -> None:
    """List the methods with their published settings and sources."""
    if as_json:
        listed = [
            {name: getattr(method, name) for name in ("name", "title", "summary", "source", "site")}
            for method in METHODS.values()
        ]
        typer.echo(json.dumps(listed, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("method", "what it does", "source", "site"):
        table.add_column(column, overflow="fold", no_wrap=column == "method")
    for method in METHODS.values():
        site = "-" if method.reduces_steps else method.site
        table.add_row(f"[bold]{method.name}[/]", method.summary, method.source, site)
    console.print(table)
