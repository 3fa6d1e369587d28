"""Parameters of a pipeline's call, read from the source of diffusers, which is slow to import."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def parameters_in_source(name: str) -> Mapping[str, inspect.Parameter] | None:
    """Return the parameters of the call of diffusers' pipeline ``name``, without importing it.

    ``None`` if they cannot be read there: diffusers is not installed, or does not have the class exactly once.
    """
    body = _class_body(name)
    call = next((item for item in body if isinstance(item, ast.FunctionDef) and item.name == "__call__"), None)
    if call is None:
        return None
    named = [*call.args.posonlyargs, *call.args.args, *call.args.kwonlyargs][1:]  # without self
    positional = [*[None] * (len(named) - len(call.args.kwonlyargs) - len(call.args.defaults)), *call.args.defaults]
    return {
        item.arg: inspect.Parameter(item.arg, inspect.Parameter.KEYWORD_ONLY, default=_literal(default))
        for item, default in zip(named, [*positional, *call.args.kw_defaults], strict=True)
    }


def divisors_in_source(name: str) -> set[int]:
    """Return the numbers by which the pipeline's class wants a height to be divisible."""
    tests = [
        node.test
        for item in _class_body(name)
        for node in ast.walk(item)
        if isinstance(node, ast.If) and any(isinstance(line, ast.Raise) for line in node.body)
    ]
    rests = [node for test in tests for node in ast.walk(test) if isinstance(node, ast.BinOp)]
    return {
        node.right.value
        for node in rests
        if isinstance(node.op, ast.Mod)
        and isinstance(node.left, ast.Name)
        and node.left.id == "height"
        and isinstance(node.right, ast.Constant)
        and isinstance(node.right.value, int)
    }


@lru_cache(maxsize=8)
def _class_body(name: str) -> list[ast.stmt]:
    """Find the class in diffusers' pipelines; empty unless it is defined there exactly once."""
    package = find_spec("diffusers")
    if package is None or package.origin is None:
        return []
    files = (Path(package.origin).parent / "pipelines").rglob("*.py")
    defining = [text for file in files if f"class {name}(" in (text := file.read_text("utf-8", "replace"))]
    if len(defining) != 1:
        return []
    classes = (item for item in ast.parse(defining[0]).body if isinstance(item, ast.ClassDef))
    return next((item.body for item in classes if item.name == name), [])


def _literal(default: ast.expr | None) -> Any:
    """Value of a default that is a literal; ``None`` for an expression."""
    if default is None:
        return inspect.Parameter.empty
    try:
        return ast.literal_eval(default)
    except ValueError:
        return None
