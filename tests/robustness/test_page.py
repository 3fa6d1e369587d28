"""The page lists the marked tests, all of them and no others."""

from __future__ import annotations

import ast

from tests.robustness.cells import AREAS, ROOT, Cell, all_cells
from tests.robustness.cells import OUTCOMES as KINDS
from tests.robustness.page import NOT_RUN, PAGE, Results, key, lines_of, schedulers
from tests.robustness.schedulers import OUTCOMES


def test_the_page_has_a_line_for_every_cell_and_no_other() -> None:
    lists = PAGE.read_text().split("## Schedulers")[0].split("\n## ", 1)[1]
    assert sum(line.startswith("- ") for line in lists.splitlines()) == len(all_cells()), "run `make matrix`"
    lines = lines_of(lists)
    for cell in all_cells():
        outcome, _ = lines[key(cell)]
        assert outcome in (cell.outcome, NOT_RUN), "run `make matrix`"


def test_the_page_has_every_scheduler() -> None:
    table = PAGE.read_text().split("## Schedulers")[1]
    assert [line for line in table.splitlines() if line.startswith("| ")][1:] == schedulers(), "run `make matrix`"
    named = [f"{name}Scheduler" for line in schedulers() for name in line.split(" | ")[2].strip(" |").split(", ")]
    assert sorted(named) == sorted(OUTCOMES)


def test_a_cell_is_written_as_its_test_came_out() -> None:
    cell = Cell("runs", "text", "works", "tests/x.py::test_x")
    results = Results()
    assert (results.outcome(cell), results.line(cell)) == ("not run here", "- text")
    results.passed[cell.test] = 3
    assert (results.outcome(cell), results.line(cell)) == ("works", "- text (3)")
    results.skipped[cell.test].append("no torchao")
    assert results.line(cell) == "- text (3; 1 not run here: no torchao)"


def test_every_cell_has_an_outcome_and_a_test_that_exists() -> None:
    cells = all_cells()
    assert len({cell.what for cell in cells}) == len(cells) > 40
    for cell in cells:
        assert cell.area in AREAS
        assert cell.outcome in KINDS
        path, name = cell.test.split("::")
        functions = [
            node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)
        ]
        assert name in functions, cell.test


def test_every_test_here_closes_a_cell() -> None:
    closed = {cell.test for cell in all_cells()}
    for path in sorted((ROOT / "tests" / "robustness").glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and path.name != "test_page.py":
                assert f"tests/robustness/{path.name}::{node.name}" in closed, node.name
