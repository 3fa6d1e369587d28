"""Run the marked tests and write ``docs/hardening.md`` from their results; for `make matrix`.

A cell is written as its test came out; one whose test could not run here says why. With a test that fails, nothing is
written. ``test_page.py`` holds the page against the marks.
"""

from __future__ import annotations

import datetime
import os
import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec

import pytest

from tests.robustness.cells import AREAS, ROOT, Cell, all_cells
from tests.robustness.cells import OUTCOMES as KINDS
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

In brackets: how many sites, models or moments were tried, if several.
"""
NOT_RUN = "not run here"
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

    def line(self, cell: Cell) -> str:
        """The cell's line of the list."""
        passed, skipped = self.passed[cell.test], self.skipped[cell.test]
        counts = [str(passed)] if passed > 1 else []
        counts += [f"{len(skipped)} not run here: {skipped[0]}"] if skipped else []
        return key(cell) + (f" ({'; '.join(counts)})" if counts else "")

    def outcome(self, cell: Cell) -> str:
        """The cell's outcome, as its test came out."""
        return cell.outcome if self.passed[cell.test] else NOT_RUN


def key(cell: Cell) -> str:
    """How the cell's line begins, whatever came of it."""
    return f"- {cell.what}"


def lines_of(text: str) -> dict[str, tuple[str, str]]:
    """The outcomes and lines of cells in a page, by how the lines begin."""
    keys = [key(cell) for cell in all_cells()]
    found, outcome = {}, ""
    for line in text.splitlines():
        if heading := re.fullmatch(r"\*\*(.+)\*\*", line):
            outcome = heading[1].lower()
        found |= {start: (outcome, line) for start in keys if f"{line} (".startswith(f"{start} (")}
    return found


def page(results: Results, known: Mapping[str, tuple[str, str]]) -> str:
    """The page; cells in ``known`` keep the line that they have there."""
    installed = [name for name in PACKAGES if find_spec(name)]
    versions = ", ".join(f"{name} {version(name).split('+')[0]}" for name in installed)
    lines = [HEAD, f"Last run on {datetime.date.today().isoformat()}, on a CPU: {versions}.", ""]
    for area in AREAS:
        lines += [f"## {TITLES[area]}", ""]
        cells = [cell for cell in all_cells() if cell.area == area]
        shown = [known.get(key(cell)) or (results.outcome(cell), results.line(cell)) for cell in cells]
        for outcome in (*KINDS, NOT_RUN):
            if listed := [line for came_out, line in shown if came_out == outcome]:
                lines += [f"**{outcome.capitalize()}**", "", *listed, ""]
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
