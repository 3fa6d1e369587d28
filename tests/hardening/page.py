"""Writes ``docs/hardening.md`` from the marked tests, which it runs: ``python -m tests.hardening.page``.

With ``--only-write`` the tests are not run; ``test_page.py`` holds the page against the marks.
"""

from __future__ import annotations

import sys

import pytest

from tests.hardening.cells import AREAS, ROOT, all_cells
from tests.hardening.schedulers import OUTCOMES

PAGE = ROOT / "docs" / "hardening.md"
TITLES = {
    "runs": "Runs",
    "hosts": "Hosts",
    "concurrency": "Concurrency",
    "numerics": "Numerics",
    "visible": "Fail open is visible",
}
HEAD = """# Hardening

What happens where a sampling run or its surroundings are not plain, and the test that shows it. *Works*: the result is
that of the same run alone, in a clean process. *Fails open*: the step is computed, and the record and one warning say
why. *Refused*: an error names the remedy. Written by `make matrix` from the marked tests; *slow* tests run under
`make test-matrix` only.
"""


def page() -> str:
    """The page."""
    lines = [HEAD]
    for area in AREAS:
        lines += [f"## {TITLES[area]}", "", "| situation | outcome | test |", "|---|---|---|"]
        for cell in all_cells():
            if cell.area == area:
                slow = ", slow" if cell.slow else ""
                lines.append(f"| {cell.what} | {cell.outcome} | `{cell.test.removeprefix('tests/')}`{slow} |")
        lines.append("")
    lines += [
        "## Schedulers",
        "",
        "Every scheduler that diffusers ships, each in the loop of the pipelines that it comes with",
        "(`tests/hardening/loops.py`). Where it works, half of the steps were forecast; where it fails open, the run",
        "is the unattached one's to the last bit, and the record says why. Both draw the same random numbers.",
    ]
    lines += ["", "| scheduler | outcome | why |", "|---|---|---|"]
    lines += [f"| {name} | {outcome} | {why} |" for name, (outcome, why) in sorted(OUTCOMES.items())]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Run the tests, then write the page; a cell whose test fails is not written."""
    if "--only-write" not in arguments:
        failed = pytest.main(["-q", *sorted({cell.test for cell in all_cells()})])
        if failed:
            return int(failed)
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
