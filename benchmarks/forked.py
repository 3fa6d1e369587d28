"""Trials that run in a separate process each, with limits; what was seen of each is a line of a file."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from foreseer.errors import in_one_line

NO_MEMORY = ("can't allocate memory", "MemoryError", "bad_alloc")  # torch's allocator, Python's, C++'s

Row = dict[str, Any]


def in_own_process(trial: Callable[[], Row], about: Row, limit: int, gigabytes: float) -> Row:
    """Run a trial in a fork of this process, which has imported the libraries already.

    Returns:
        What the trial returned; ``about``, an outcome and its reason if it exceeded a limit or died.

    Args:
        trial: returns a row.
        about: identifies the trial in its row.
        limit: seconds of processor time; ten times as many in all.
        gigabytes: of memory.
    """
    reading, writing = os.pipe()
    began, child = time.monotonic(), os.fork()
    if child == 0:
        os.close(reading)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        signal.alarm(10 * limit)  # one that waits for ever
        resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 2**30),) * 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the libraries' chatter
        try:
            row = trial()
        except BaseException as error:  # noqa: BLE001 - nothing may go on in this copy of the process
            row = {**about, "outcome": "died", "reason": f"{type(error).__name__}: {in_one_line(error)}"}
        with os.fdopen(writing, "w") as file:
            file.write(json.dumps(row, default=str))
            file.flush()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    row = {**about, "seconds": round(time.monotonic() - began, 1)}
    signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    if signalled in (signal.SIGXCPU, signal.SIGALRM):
        return {**row, "outcome": "time limit", "reason": f"no result within {limit} s of one processor"}
    if signalled == signal.SIGABRT or any(each in text for each in NO_MEMORY):
        return {**row, "outcome": "memory limit", "reason": f"needs more than {gigabytes:g} GB of memory"}
    if text:
        return json.loads(text)
    return {**row, "outcome": "died", "reason": f"the process ended with {status}"}


def rows_of(lines: Path, key: str) -> list[Row]:
    """What the file of earlier trials holds, the last line of each ``key``."""
    rows = map(json.loads, lines.read_text().splitlines() if lines.exists() else [])
    return list({row[key]: row for row in rows}.values())


def try_each(
    trials: Iterable[tuple[Row, Callable[[], Row]]], key: str, lines: Path, limit: int, gigabytes: float
) -> None:
    """Run the trials whose ``key`` the file does not hold yet; append a line for each."""
    done = {row[key] for row in rows_of(lines, key)}
    rest = [(about, trial) for about, trial in trials if about[key] not in done]
    for number, (about, trial) in enumerate(rest):
        seen = in_own_process(trial, about, limit, gigabytes)
        with lines.open("a") as file:
            file.write(json.dumps(seen) + "\n")
        sites = {site: each["outcome"] for site, each in seen.get("sites", {}).items()}
        print(f"{number + 1}/{len(rest)} {about[key]}: {seen['outcome']} {seen.get('reason', '')} {sites}", flush=True)
