"""Tables of the pages, rendered from the committed results: ``python -m benchmarks.figures``.

A page holds ``<!-- table: NAME -->`` and ``<!-- /table -->``; what stands between is rendered from
``results/*.json`` by the function of that name in ``benchmarks/tables.py``. ``--check`` only compares. ``--run``
(`make figures`) first runs the command that each result names; interrupted, it resumes. ``--only NAME`` runs one.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import benchmarks.cost_tables
import benchmarks.tables  # noqa: F401  # both register tables
from benchmarks.rendering import RESULTS, TABLES

ROOT = Path(__file__).parent.parent
STATE = ROOT / "build" / "figures.json"
MARKED = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)
LINKED = re.compile(r"results/(\w+)\.json")


def pages() -> list[Path]:
    """Every page that may quote a result."""
    folders = ("docs", "benchmarks", "training", "examples", "src/foreseer/zoo")
    return [*sorted(ROOT.glob("*.md")), *(page for folder in folders for page in sorted((ROOT / folder).rglob("*.md")))]


def rendered(text: str) -> str:
    """A page's text with every marked table rendered.

    Raises:
        KeyError: a marker names no table.
    """
    return MARKED.sub(lambda match: f"{match[1]}{TABLES[match[2]].render()}\n{match[4]}", text)


def quoted_results() -> list[str]:
    """Names of the results that pages link to or render, in order."""
    names: set[str] = set()
    for page in pages():
        text = page.read_text()
        names.update(LINKED.findall(text))
        for _, table, _, _ in MARKED.findall(text):
            names.update(TABLES[table].results)
    return sorted(name for name in names if (RESULTS / f"{name}.json").exists())


def command_of(result: str) -> list[str]:
    """The command that made a result, for this interpreter."""
    words = shlex.split(json.loads((RESULTS / f"{result}.json").read_text())["command"])
    return [sys.executable, *words[1:]] if words[0] == "python" else words


def run(only: str | None) -> None:
    """Run the commands of the quoted results that have not run at this commit yet."""
    head = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(head, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    done = json.loads(STATE.read_text()) if STATE.exists() else {}
    waiting = [name for name in quoted_results() if done.get(name) != commit and only in (None, name)]
    for number, name in enumerate(waiting, start=1):
        command = command_of(name)
        print(f"{number} of {len(waiting)}: {name}: {shlex.join(command[1:])}", flush=True)
        began = time.monotonic()
        subprocess.run(command, cwd=ROOT, check=True)
        print(f"{name} took {(time.monotonic() - began) / 60:.1f} min", flush=True)
        done[name] = commit
        STATE.parent.mkdir(exist_ok=True)
        STATE.write_text(json.dumps(done, indent=1) + "\n")


def main() -> int:
    """The exit status: 1 where ``--check`` finds a table that differs from its results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    parser.add_argument("--run", action="store_true", help="run the benchmarks first")
    parser.add_argument("--only", metavar="NAME", help="with --run: this result alone")
    options = parser.parse_args()
    if options.run:
        run(options.only)
    changed = [page for page in pages() if rendered(page.read_text()) != page.read_text()]
    for page in changed:
        print(f"{page.relative_to(ROOT)}: {'differs' if options.check else 'rendered'}")
        if not options.check:
            page.write_text(rendered(page.read_text()))
    return int(options.check and bool(changed))


if __name__ == "__main__":
    raise SystemExit(main())
