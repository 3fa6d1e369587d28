"""The page lists the marked tests, all of them and no others."""

from __future__ import annotations

import ast

from tests.hardening.cells import AREAS, OUTCOMES, ROOT, all_cells
from tests.hardening.page import PAGE, page


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text() == page(), "run `make matrix`"


def test_every_cell_has_an_outcome_and_a_test_that_exists() -> None:
    cells = all_cells()
    assert len({(cell.area, cell.what) for cell in cells}) == len(cells) > 40
    for cell in cells:
        assert cell.area in AREAS
        assert cell.outcome in OUTCOMES
        path, name = cell.test.split("::")
        functions = [
            node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)
        ]
        assert name in functions, cell.test


def test_every_test_here_closes_a_cell() -> None:
    closed = {cell.test for cell in all_cells()}
    for path in sorted((ROOT / "tests" / "hardening").glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and path.name != "test_page.py":
                assert f"tests/hardening/{path.name}::{node.name}" in closed, node.name
