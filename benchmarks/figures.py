"""Tables of the pages, rendered from the committed results: ``python -m benchmarks.figures``.

A page holds ``<!-- table: NAME -->`` and ``<!-- /table -->``; what stands between is rendered from
``results/*.json`` by the function of that name in ``benchmarks/tables.py``. A single figure in a sentence stands
between ``<!-- value: RESULT | METHOD | COLUMN -->`` and ``<!-- /value -->``. ``--check`` only compares. ``--run``
(`make figures`) first runs the command that each result names; interrupted, it resumes. ``--only NAME`` runs one.
``--trial`` runs the same commands with the smallest counts, and writes to ``build/trial``: does each still work?
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import benchmarks.cost_tables
import benchmarks.tables
import benchmarks.use_tables  # noqa: F401  # all three register tables
from benchmarks.rendering import RESULTS, TABLES, commit, decimals, is_made, named, rows_of

ROOT = Path(__file__).parent.parent
STATE = ROOT / "build" / "figures.json"
TRIAL = ROOT / "build" / "trial"
SMALLEST = {"--prompts": 2, "--calibration": 2, "--rollout": 2, "--rounds": 2, "--generations": 40, "--kills": 1}
SMALLEST |= {"--cases": 200, "--pictures": 24, "--fit": 2, "--held-out": 1, "--passes": 300, "--iterations": 6}
MARKED = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)
VALUE = re.compile(r"(<!-- value: ([^|]+?) \| ([^|]+?) \| ([^|]+?) -->)(.*?)(<!-- /value -->)")
LINKED = re.compile(r"results/(\w+)\.json")


def pages() -> list[Path]:
    """Every page that may quote a result."""
    folders = ("docs", "benchmarks", "training", "examples", "src/foreseer/zoo")
    return [*sorted(ROOT.glob("*.md")), *(page for folder in folders for page in sorted((ROOT / folder).rglob("*.md")))]


def rendered(text: str) -> str:
    """A page's text with every marked table and figure rendered.

    Raises:
        KeyError: a marker names no table, result, method or column.
    """
    text = MARKED.sub(lambda match: f"{match[1]}{TABLES[match[2]].render()}\n{match[4]}", text)
    return VALUE.sub(
        lambda match: f"{match[1]}{decimals(named(rows_of(match[2]), match[3])[match[4]])}{match[6]}", text
    )


def quoted_results() -> list[str]:
    """Names of the results that pages link to or render, in order."""
    names: set[str] = set()
    for page in pages():
        text = page.read_text()
        names.update(LINKED.findall(text))
        names.update(result for _, result, *_ in VALUE.findall(text))
        for _, table, _, _ in MARKED.findall(text):
            names.update(TABLES[table].results)
    return sorted(names)


def command_of(result: str) -> list[str]:
    """The command that made a result, for this interpreter; before that, the benchmark of its name."""
    if not is_made(result):
        return [sys.executable, "-m", f"benchmarks.{result}"]
    words = shlex.split(json.loads((RESULTS / f"{result}.json").read_text())["command"])
    return [sys.executable, *words[1:]] if words[0] == "python" else words


def smallest(command: list[str]) -> list[str]:
    """A command with the smallest counts that it can do with."""
    pairs = zip(["", *command], command, strict=False)
    return [str(SMALLEST.get(option, word)) for option, word in pairs]


def run_command(name: str, command: list[str], **options: Any) -> None:
    """Run a result's command in the repository, and say how long it took."""
    print(f"{name}: {shlex.join(command[1:])}", flush=True)
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, **options)
    print(f"{name} took {(time.monotonic() - began) / 60:.1f} min", flush=True)


def run(only: str | None) -> None:
    """Run the commands of the quoted results that have not run at this commit yet."""
    now = commit()
    done = json.loads(STATE.read_text()) if STATE.exists() else {}
    waiting = [name for name in quoted_results() if done.get(name) != now and only in (None, name)]
    for number, name in enumerate(waiting, start=1):
        print(f"{number} of {len(waiting)}", flush=True)
        run_command(name, command_of(name))
        done[name] = now
        STATE.parent.mkdir(exist_ok=True)
        STATE.write_text(json.dumps(done, indent=1) + "\n")


def trial(name: str) -> Path:
    """Run a result's command with the smallest counts; return the file that it wrote, in another folder."""
    TRIAL.mkdir(parents=True, exist_ok=True)
    written = TRIAL / f"{name}.json"
    written.unlink(missing_ok=True)
    run_command(name, smallest(command_of(name)), env={**os.environ, "FORESEER_RESULTS": str(TRIAL)})
    return written


def main() -> int:
    """The exit status: 1 where ``--check`` finds a table that differs from its results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    parser.add_argument("--run", action="store_true", help="run the benchmarks first")
    parser.add_argument("--trial", action="store_true", help="run the benchmarks with the smallest counts, elsewhere")
    parser.add_argument("--only", metavar="NAME", help="with --run or --trial: this result alone")
    options = parser.parse_args()
    if options.trial:
        for name in quoted_results():
            if options.only in (None, name):
                trial(name)
        return 0
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
