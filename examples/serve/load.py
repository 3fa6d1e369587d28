"""Load test of a server in a separate process.

Clients ask, ask wrongly, ask too much, or leave; every picture is compared with a serial run.

    python -m examples.serve.load --requests 200 --clients 16 --out examples/serve/load.json

The server is a process on a free loopback port. Afterwards this process, where nothing was interrupted, draws each
request that was asked for by itself; the files must be equal bit for bit.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import itertools
import json
import platform
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import torch

import foreseer
from examples.serve.asked import Limits, asked_within
from examples.serve.draw import Painter, emoji

PROMPTS = ("a red apple on a white background", "a panda", "a rocket on a purple background", "a slice of pizza")
PATIENCE = 900.0  # seconds for one request, on a busy machine
GOOD, LEAVE = "good", "leaves"
Case = tuple[str, Any]  # what kind of request, and its body


def good(rng: random.Random, most_steps: int) -> dict[str, Any]:
    """A request within the limits; few in number, so that some are asked for by several clients at once."""
    size = rng.choice(((64, 64), (64, 64), (32, 64), (96, 48)))
    return {
        "prompt": rng.choice(PROMPTS),
        "seed": rng.randrange(8),
        "steps": rng.randint(4, most_steps),
        "speedup": rng.choice((1.0, 2.0, 3.5, 5.0)),
        "height": size[0],
        "width": size[1],
    }


WRONG: dict[str, tuple[Callable[[dict[str, Any]], bytes], int]] = {
    "no JSON": (lambda one: b'{"prompt": "a', 422),
    "no UTF-8": (lambda one: b'{"prompt": "\xff"}', 422),
    "a list": (lambda one: b"[1]", 422),
    "empty": (lambda one: b"", 422),
    "no prompt": (lambda one: b'{"seed": 1}', 422),
    "blank prompt": (lambda one: json.dumps({**one, "prompt": "  "}).encode(), 422),
    "long prompt": (lambda one: json.dumps({**one, "prompt": "x" * 301}).encode(), 422),
    "too many steps": (lambda one: json.dumps({**one, "steps": 65}).encode(), 422),
    "negative steps": (lambda one: json.dumps({**one, "steps": -1}).encode(), 422),
    "steps as words": (lambda one: json.dumps({**one, "steps": "50"}).encode(), 422),
    "huge size": (lambda one: json.dumps({**one, "height": 2**40}).encode(), 422),
    "odd size": (lambda one: json.dumps({**one, "width": 65}).encode(), 422),
    "NaN speedup": (lambda one: b'{"prompt": "a", "speedup": NaN}', 422),
    "speedup below 1": (lambda one: json.dumps({**one, "speedup": 0.0}).encode(), 422),
    "huge seed": (lambda one: json.dumps({**one, "seed": 2**63}).encode(), 422),
    "unknown option": (lambda one: json.dumps({**one, "__class__": "x"}).encode(), 422),
    "deep": (lambda one: b"[" * 4000, 422),
    "too long": (lambda one: json.dumps({**one, "prompt": "x" * 100_000}).encode(), 413),
}


def make_cases(count: int, rng: random.Random, most_steps: int) -> list[Case]:
    """Two thirds good ones, some of whose clients leave; the rest wrong, each kind in turn."""
    wrong = itertools.cycle(WRONG)
    cases: list[Case] = []
    for index in range(count):
        kind = (GOOD, GOOD, next(wrong) if index % 2 else GOOD, GOOD, "too long, in pieces", LEAVE)[index % 6]
        if index % 6 == 4 and index % 4:
            kind = next(wrong)
        cases.append((kind, good(rng, most_steps)))
    rng.shuffle(cases)
    return cases


@contextlib.contextmanager
def server(queue: int) -> Iterator[str]:
    """Start a server in a separate process; yields its address."""
    command = [sys.executable, "-m", "examples.serve", "--port", "0", "--queue", str(queue)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = json.loads(process.stdout.readline())["url"]
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                    break
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


class Client(threading.Thread):
    """Sends cases one after another and keeps the answers.

    Args:
        url: of the server.
        cases: what it takes from, with others.
        seed: of its moments of leaving.
    """

    def __init__(self, url: str, cases: collections.deque[Case], seed: int) -> None:
        super().__init__()
        self.url, self.cases, self.rng = url, cases, random.Random(seed)
        self.answers: list[tuple[str, Any, int, bytes, dict[str, str]]] = []
        self.retries = 0
        self.errors: list[str] = []

    def run(self) -> None:
        """Until there are no cases left."""
        with httpx.Client(base_url=self.url, timeout=PATIENCE) as http:
            while True:
                try:
                    kind, one = self.cases.popleft()
                except IndexError:
                    return
                try:
                    self._send(http, kind, one)
                except Exception as error:  # noqa: BLE001
                    self.errors.append(f"{kind}: {error!r}")

    def _send(self, http: httpx.Client, kind: str, one: dict[str, Any]) -> None:
        if kind == LEAVE:
            self._leave(json.dumps(one).encode())
            self.answers.append((kind, one, 0, b"", {}))
            return
        content: Any = WRONG[kind][0](one) if kind in WRONG else json.dumps(one).encode()
        while True:
            pieces = (b"x" * 1000 for _ in range(100)) if kind == "too long, in pieces" else content
            answer = http.post("/generate", content=pieces)
            if answer.status_code != 503:
                break
            self.retries += 1
            time.sleep(min(2.0, float(answer.headers["retry-after"])) * self.rng.uniform(0.5, 1.0))
        self.answers.append((kind, one, answer.status_code, answer.content, dict(answer.headers)))

    def _leave(self, content: bytes) -> None:
        """Ask and hang up: within the request, while it waits, or while it is drawn."""
        host, port = self.url.removeprefix("http://").split(":")
        head = f"POST /generate HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as line:
            line.sendall((head + content)[: None if self.rng.random() < 0.8 else -5])
            time.sleep(self.rng.uniform(0.0, 1.5))


def check(clients: list[Client], painter: Painter) -> tuple[dict[str, int], list[str]]:
    """Answers by kind and status, and what is wrong with them."""
    model, serial = asked_within(Limits()), dict[str, bytes]()
    counts, faults = collections.Counter[str](), [error for one in clients for error in one.errors]
    for kind, one, status, content, headers in (answer for client in clients for answer in client.answers):
        counts[f"{kind}: {status or 'nobody waits'}"] += 1
        expected = 0 if kind == LEAVE else 200 if kind == GOOD else WRONG[kind][1] if kind in WRONG else 413
        if status != expected:
            faults.append(f"{kind}: {status}, expected {expected}")
        elif kind == GOOD:
            key, asked = json.dumps(one, sort_keys=True), model.model_validate(one)
            if key not in serial:
                drawn = painter.draw(asked)
                serial[key] = drawn.png
            if content != serial[key]:
                faults.append(f"another picture than that of the serial run: {key}")
            if headers["x-foreseer-nfe"] != str(asked.nfe) or headers["x-foreseer-seed"] != str(asked.seed):
                faults.append(f"headers of another request: {key}")
    pictures = {hashlib.sha256(content).digest() for content in serial.values()}
    if len(pictures) < len({(one["prompt"], one["seed"]) for one in map(json.loads, serial)}):
        faults.append("requests give the same picture: the comparison shows nothing")
    counts["distinct good requests"] = len(serial)
    return dict(sorted(counts.items())), faults


def figures(url: str) -> dict[str, float]:
    """The server's own counters."""
    lines = httpx.get(f"{url}/metrics", timeout=PATIENCE).text.splitlines()
    names = ("foreseer_nfe", "foreseer_fail_opens_total", "foreseer_queue_length", "foreseer_request_seconds_count")
    return {
        line.split()[0]: float(line.split()[1]) for line in lines if line.startswith(names) and "_created" not in line
    }


def run(requests: int, clients: int, *, seed: int = 1, most_steps: int = 10, queue: int = 6) -> dict[str, Any]:
    """Load a server; what came back, and what was wrong."""
    rng = random.Random(seed)
    cases = collections.deque(make_cases(requests, rng, most_steps))
    with server(queue) as url:
        threads = [Client(url, cases, rng.randrange(2**32)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until = time.monotonic() + PATIENCE
        while (health := httpx.get(f"{url}/health", timeout=PATIENCE).json())["waiting"] and time.monotonic() < until:
            time.sleep(0.2)
        counted = figures(url)
    torch.set_num_threads(1)
    answers, faults = check(threads, emoji())
    lost = requests - sum(len(thread.answers) for thread in threads)
    if lost or health["status"] != "ok" or health["waiting"]:
        faults.append(f"{lost} requests without an answer; health {health}")
    return {
        "requests": requests,
        "clients": clients,
        "seed": seed,
        "queue": queue,
        "answers": answers,
        "told_to_come_again": sum(thread.retries for thread in threads),
        "server": counted,
        "versions": {"foreseer": foreseer.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "faults": faults,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Load a server and compare every picture with a serial run.")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found = run(asked.requests, asked.clients, seed=asked.seed)
    words = f"--requests {asked.requests} --clients {asked.clients} --seed {asked.seed}"
    text = json.dumps({"command": f"python -m examples.serve.load {words}", **found}, indent=1) + "\n"
    if asked.out is not None:
        asked.out.write_text(text)
    print(text)
    sys.exit(bool(found["faults"]))


if __name__ == "__main__":
    main()
