"""Tries every pipeline of diffusers on upstream's own tiny fixtures.

    python -m benchmarks.sweep --diffusers DIR --out FILE [--only TEXT] [--limit SECONDS] [--page]

DIR is a checkout of huggingface/diffusers at the installed version. Each fixture runs in a separate process with a
time limit. FILE holds one JSON object per line; a fixture that is in it already is not run again. `--page` reads the
checkout's commit and version from DIR/.commit. Some fixtures need the packages parameterized, requests_mock and ftfy.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from benchmarks.sweep.fixtures import Fixture, find_fixtures
from benchmarks.sweep.page import write_page
from benchmarks.sweep.trial import set_up, try_fixture


def in_own_process(fixture: Fixture, limit: int) -> dict[str, Any]:
    """Try a fixture in a fork of this process, which has imported the libraries already."""
    reading, writing = os.pipe()
    began, child = time.monotonic(), os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(limit)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the libraries' chatter
        with os.fdopen(writing, "w") as file:
            file.write(json.dumps(try_fixture(fixture), default=str))
            file.flush()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    if text:
        return json.loads(text)
    seconds = round(time.monotonic() - began, 1)
    reason = f"no result within {limit} s" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM else ""
    outcome = {"outcome": "time limit" if reason else "died", "reason": reason or f"the process ended with {status}"}
    return {"fixture": fixture.key, "pipeline": fixture.pipeline, **outcome, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diffusers", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="fixtures whose name holds this text")
    parser.add_argument("--limit", type=int, default=150, help="seconds for each fixture")
    parser.add_argument("--page", action="store_true", help="only write results/sweep.json and the page from FILE")
    given = parser.parse_args()
    if given.page:
        commit = (given.diffusers / ".commit").read_text().strip()
        write_page(given.out, find_fixtures(given.diffusers), commit, datetime.date.today().isoformat())
        return
    set_up(given.diffusers.resolve())
    lines = given.out.read_text().splitlines() if given.out.exists() else []
    done = {json.loads(line)["fixture"] for line in lines}
    fixtures = [fixture for fixture in find_fixtures(given.diffusers) if given.only.lower() in fixture.key.lower()]
    for number, fixture in enumerate(fixtures):
        if fixture.key in done:
            continue
        seen = in_own_process(fixture, given.limit)
        with given.out.open("a") as file:
            file.write(json.dumps(seen) + "\n")
        sites = {site: each["outcome"] for site, each in seen.get("sites", {}).items()}
        print(
            f"{number + 1}/{len(fixtures)} {fixture.name}: {seen['outcome']} {seen.get('reason', '')} {sites}",
            flush=True,
        )


if __name__ == "__main__":
    main()
