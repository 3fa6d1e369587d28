"""This project's tiny pipelines as fixtures, where upstream has none that can be built."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
FILE = "tests/support/pipelines.py"


def use_tests_of(folder: Path) -> None:
    """Let ``tests`` be the package in ``folder``: this project and diffusers both have one."""
    package = sys.modules.get("tests")
    if package is not None and str(folder / "tests") in package.__path__:
        return
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    sys.path[:] = [str(folder), *(path for path in sys.path if path != str(folder))]


def rows() -> Mapping[str, Any]:
    """The tables' rows by name."""
    use_tests_of(ROOT)
    return importlib.import_module("tests.support.pipelines").ROWS


class Case:
    """A row in the form of upstream's test classes."""

    def __init__(self, name: str) -> None:
        self._row = rows()[name]
        self._tiny = importlib.import_module("tests.support.pipelines").build(name)

    def pipeline_class(self) -> Any:
        """The pipeline."""
        return self._tiny.pipe

    def get_dummy_components(self) -> dict[str, Any]:
        """No components: the pipeline is whole."""
        return {}

    def get_dummy_inputs(self, seed: int = 0) -> dict[str, Any]:
        """The arguments of a call for one picture."""
        arguments = self._row.arguments(1, self._tiny.size)
        return {**arguments, "generator": torch.Generator().manual_seed(seed)}
