"""Tries every pipeline of diffusers on upstream's own tiny fixtures.

    python -m benchmarks.sweep --diffusers DIR --out FILE [--only TEXT ...] [--limit SECONDS] [--memory GB]
    python -m benchmarks.sweep --diffusers DIR --out FILE --page [--other]

DIR is a checkout of huggingface/diffusers at the installed version, or near it: the oldest that works, the newest, or
main; `--other` keeps its results beside those of the page's version. Each fixture runs in a separate process with a
limit of processor time and of memory. FILE holds one JSON object per line; a fixture that is in it already is not run
again, and fixtures of folders that were quick come first. `--page` reads the checkout's commit and version from
DIR/.commit. Some fixtures need the packages parameterized, requests_mock and ftfy.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import signal
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.sweep.fixtures import Fixture, borrowed_fixtures, find_fixtures, own_fixtures
from benchmarks.sweep.own import use_tests_of
from benchmarks.sweep.page import tried, without_fixture, write_page
from benchmarks.sweep.trial import set_up, try_fixture

NO_MEMORY = ("can't allocate memory", "MemoryError", "bad_alloc")  # torch's allocator, Python's, C++'s


def in_own_process(fixture: Fixture, limit: int, gigabytes: float) -> dict[str, Any]:
    """Try a fixture in a fork of this process, which has imported the libraries already."""
    reading, writing = os.pipe()
    began, child = time.monotonic(), os.fork()
    if child == 0:
        os.close(reading)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        signal.alarm(10 * limit)  # one that waits for ever
        resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 2**30),) * 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the libraries' chatter
        with os.fdopen(writing, "w") as file:
            file.write(json.dumps(try_fixture(fixture), default=str))
            file.flush()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    seconds = round(time.monotonic() - began, 1)
    row = {"fixture": fixture.key, "pipeline": fixture.pipeline, "seconds": seconds}
    signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    if signalled in (signal.SIGXCPU, signal.SIGALRM):
        return {**row, "outcome": "time limit", "reason": f"no result within {limit} s of one processor"}
    if signalled == signal.SIGABRT or any(each in text for each in NO_MEMORY):
        return {**row, "outcome": "memory limit", "reason": f"needs more than {gigabytes:g} GB of memory"}
    if text:
        return json.loads(text)
    return {**row, "outcome": "died", "reason": f"the process ended with {status}"}


def rows_of(lines: Path) -> list[dict[str, Any]]:
    """What the file of earlier runs holds, the last line of each fixture."""
    rows = map(json.loads, lines.read_text().splitlines() if lines.exists() else [])
    return list({row["fixture"]: row for row in rows}.values())


def in_order(fixtures: list[Fixture], rows: list[dict[str, Any]]) -> list[Fixture]:
    """Fixtures of folders whose earlier fixtures were quick come first."""
    seconds = defaultdict(list)
    for row in rows:
        seconds[str(Path(row["fixture"]).parent)].append(row.get("seconds", 0.0))
    usual = statistics.median([row.get("seconds", 0.0) for row in rows] or [0.0])
    return sorted(fixtures, key=lambda each: statistics.mean(seconds[str(Path(each.file).parent)] or [usual]))


def try_all(fixtures: list[Fixture], given: argparse.Namespace) -> None:
    """Try the fixtures that the file does not hold yet; append a line for each."""
    done = {row["fixture"] for row in rows_of(given.out)}
    for number, fixture in enumerate(fixtures):
        if fixture.key in done or not any(text.lower() in fixture.key.lower() for text in given.only):
            continue
        seen = in_own_process(fixture, given.limit, given.memory)
        with given.out.open("a") as file:
            file.write(json.dumps(seen) + "\n")
        sites = {site: each["outcome"] for site, each in seen.get("sites", {}).items()}
        print(
            f"{number + 1}/{len(fixtures)} {fixture.name}: {seen['outcome']} {seen.get('reason', '')} {sites}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diffusers", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=[""], help="fixtures whose name holds one of these texts")
    parser.add_argument("--limit", type=int, default=150, help="processor seconds for each fixture")
    parser.add_argument("--memory", type=float, default=6, help="gigabytes for each fixture")
    parser.add_argument("--page", action="store_true", help="only write results/sweep.json and the page from FILE")
    parser.add_argument("--other", action="store_true", help="another version of diffusers beside the page's")
    given = parser.parse_args()
    upstream = find_fixtures(given.diffusers)
    if not given.page:
        set_up(given.diffusers.resolve())
        try_all(in_order(upstream, rows_of(given.out)), given)
        if not given.other:
            try_all(own_fixtures(tried(rows_of(given.out))), given)
            use_tests_of(given.diffusers.resolve())
            try_all(borrowed_fixtures(without_fixture(upstream) - tried(rows_of(given.out))), given)
        return
    commit = (given.diffusers / ".commit").read_text().strip()
    own = [] if given.other else own_fixtures(tried(rows_of(given.out), upstream))
    made = set() if given.other else without_fixture(upstream) - {each.pipeline for each in own}
    fixtures = [*upstream, *own, *borrowed_fixtures(made)]
    write_page(rows_of(given.out), fixtures, commit, datetime.date.today().isoformat(), given.other)


if __name__ == "__main__":
    main()
