"""Run the marked tests and write ``docs/hardening.md`` from their results; for `make matrix`.

A cell is written as its test came out; one whose test could not run here says why. With a test that fails, nothing is
written. ``test_page.py`` holds the page against the marks.
"""

from __future__ import annotations

import datetime
import os
import sys
from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec

import pytest

from tests.robustness.cells import AREAS, ROOT, Cell, all_cells
from tests.robustness.schedulers import OUTCOMES

PAGE = ROOT / "docs" / "hardening.md"
TITLES = {
    "runs": "Runs and pipelines",
    "hosts": "Models, adapters, offload, compilation",
    "concurrency": "Concurrency",
    "numerics": "Numerics",
    "visible": "Warnings",
    "files": "Files",
    "serving": "The example server",
}
HEAD = """# Unusual situations

Aborted runs, offload, compilation, LoRA, threads, half precision, damaged files: what happens, as tests found it.

- *works*: the result is that of the same run alone in a clean process;
- *fails open*: the step is computed, and the record and one warning say why;
- *refused*: an error names the remedy.

*Settings* counts the sites, models and moments tried.
"""
PACKAGES = ("diffusers", "torch", "transformers", "accelerate", "peft", "torchao", "bitsandbytes")


class Results:
    """Outcomes and reasons of skips that pytest reported, by test without its parameters."""

    def __init__(self) -> None:
        self.passed: dict[str, int] = defaultdict(int)
        self.skipped: dict[str, list[str]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of one test."""
        test = report.nodeid.split("[")[0]
        if report.skipped:
            words = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.skipped[test].append(words.removeprefix("Skipped: "))
        elif report.when == "call" and report.passed:
            self.passed[test] += 1

    def row(self, cell: Cell) -> str:
        """The cell's line of the table."""
        passed, skipped = self.passed[cell.test], self.skipped[cell.test]
        outcome = cell.outcome if passed else "not run here"
        ran = str(passed)
        if skipped:
            ran += f"; {len(skipped)} not run here: {skipped[0]}"
        return f"{key(cell)} {outcome} | {ran} |"


def key(cell: Cell) -> str:
    """How the cell's line begins, whatever came of it."""
    return f"| {cell.what} |"


def lines_of(text: str) -> dict[str, str]:
    """The lines of cells in a page, by how they begin."""
    keys = [key(cell) for cell in all_cells()]
    return {start: line for line in text.splitlines() for start in keys if line.startswith(start)}


def page(results: Results, known: Mapping[str, str]) -> str:
    """The page; cells in ``known`` keep the line that they have there."""
    installed = [name for name in PACKAGES if find_spec(name)]
    versions = ", ".join(f"{name} {version(name).split('+')[0]}" for name in installed)
    lines = [HEAD, f"Last run on {datetime.date.today().isoformat()}, on a CPU: {versions}.", ""]
    for area in AREAS:
        lines += [f"## {TITLES[area]}", "", "| situation | outcome | settings |", "|---|---|---|"]
        lines += [known.get(key(cell)) or results.row(cell) for cell in all_cells() if cell.area == area]
        lines.append("")
    lines += [
        "## Schedulers",
        "",
        "Every scheduler of diffusers in the loop of its pipelines. *Works*: half of the steps were",
        "forecast. *Fails open*: every step was computed; the run equals the unattached run to the last bit.",
        "",
        "| outcome | why | schedulers |",
        "|---|---|---|",
        *schedulers(),
    ]
    return "\n".join(lines) + "\n"


def schedulers() -> list[str]:
    """Lines of the table of schedulers: each outcome and reason with the schedulers that have it."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, result in sorted(OUTCOMES.items()):
        groups[result].append(name.removesuffix("Scheduler"))
    ordered = sorted(groups.items(), key=lambda item: (item[0][0] != "works", -len(item[1]), item[0]))
    return [f"| {outcome} | {why} | {', '.join(names)} |" for (outcome, why), names in ordered]


def main(arguments: list[str]) -> int:
    """Run all tests, or with ``--new`` the missing ones, and write the page; returns the exit status."""
    known = lines_of(PAGE.read_text()) if "--new" in arguments else {}
    os.environ["FORESEER_SLOW"] = "1"  # read by every worker
    results = Results()
    tests = sorted({cell.test for cell in all_cells() if key(cell) not in known})
    failed = pytest.main(["-q", "-n", "logical", "--dist", "loadfile", *tests], plugins=[results])
    if not failed:
        PAGE.write_text(page(results, known))
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
