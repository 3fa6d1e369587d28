"""Tries every pipeline of diffusers on upstream's own tiny fixtures.

    python -m benchmarks.sweep --diffusers DIR --out FILE [--only TEXT ...] [--limit SECONDS] [--memory GB]
    python -m benchmarks.sweep --diffusers DIR --out FILE --page [--other]

DIR is a checkout of huggingface/diffusers at the installed version, or near it: the oldest that works, the newest, or
main; `--other` keeps its results beside those of the page's version. Each fixture runs in a separate process with a
limit of processor time and of memory. FILE holds one JSON object per line; a fixture that is in it already is not run
again, and fixtures of folders that were quick come first. `--page` reads the checkout's commit and version from
DIR/.commit. Pipelines without a fixture are made of the components of others. Some fixtures need the packages
parameterized, requests_mock and ftfy.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.forked import rows_of, try_each
from benchmarks.sweep.fixtures import Fixture, borrowed_fixtures, find_fixtures, own_fixtures
from benchmarks.sweep.own import use_tests_of
from benchmarks.sweep.page import tried, without_fixture, write_page
from benchmarks.sweep.trial import set_up, try_fixture


def in_order(fixtures: list[Fixture], rows: list[dict[str, Any]]) -> list[Fixture]:
    """Fixtures of folders whose earlier fixtures were quick come first."""
    seconds = defaultdict(list)
    for row in rows:
        seconds[str(Path(row["fixture"]).parent)].append(row.get("seconds", 0.0))
    usual = statistics.median([row.get("seconds", 0.0) for row in rows] or [0.0])
    return sorted(fixtures, key=lambda each: statistics.mean(seconds[str(Path(each.file).parent)] or [usual]))


def try_all(fixtures: list[Fixture], given: argparse.Namespace) -> None:
    """Try the fixtures that the file does not hold yet; append a line for each."""
    trials = [
        ({"fixture": each.key, "pipeline": each.pipeline}, partial(try_fixture, each))
        for each in fixtures
        if any(text.lower() in each.key.lower() for text in given.only)
    ]
    try_each(trials, "fixture", given.out, given.limit, given.memory)


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
        try_all(in_order(upstream, rows_of(given.out, "fixture")), given)
        if not given.other:
            try_all(own_fixtures(tried(rows_of(given.out, "fixture"))), given)
            use_tests_of(given.diffusers.resolve())
            try_all(borrowed_fixtures(without_fixture(upstream) - tried(rows_of(given.out, "fixture"))), given)
        return
    commit = (given.diffusers / ".commit").read_text().strip()
    own = [] if given.other else own_fixtures(tried(rows_of(given.out, "fixture"), upstream))
    made = set() if given.other else without_fixture(upstream) - {each.pipeline for each in own}
    fixtures = [*upstream, *own, *borrowed_fixtures(made)]
    write_page(rows_of(given.out, "fixture"), fixtures, commit, datetime.date.today().isoformat(), given.other)


if __name__ == "__main__":
    main()
