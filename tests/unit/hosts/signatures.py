"""Signatures in the source of a package, which is not imported."""

from __future__ import annotations

import ast
import importlib.util
import os
from pathlib import Path


def source_of(package: str, variable: str) -> Path | None:
    """Folder of the package, below that in ``variable`` (an unpacked wheel) or as installed."""
    folder = os.environ.get(variable)
    if folder:
        return Path(folder) / package
    spec = importlib.util.find_spec(package)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def definition(root: Path, file: str, name: str) -> ast.AST:
    """What ``Class.method``, ``function`` or ``Class`` is in a file."""
    node: ast.AST = ast.parse((root / file).read_text())
    for part in name.split("."):
        node = next(child for child in ast.iter_child_nodes(node) if getattr(child, "name", None) == part)
    return node


def arguments(node: ast.AST) -> list[str]:
    """The names of a function's arguments, with ``*`` and ``**``."""
    assert isinstance(node, ast.FunctionDef)
    spec = node.args
    names = [argument.arg for argument in (*spec.posonlyargs, *spec.args)]
    names += [f"*{spec.vararg.arg}"] if spec.vararg else []
    names += [argument.arg for argument in spec.kwonlyargs]
    return names + ([f"**{spec.kwarg.arg}"] if spec.kwarg else [])


def fields(node: ast.AST) -> list[str]:
    """The annotated names of a class."""
    return [child.target.id for child in ast.iter_child_nodes(node) if isinstance(child, ast.AnnAssign)]
