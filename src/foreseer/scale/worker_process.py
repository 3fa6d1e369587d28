"""Program of a worker process: requests on standard input, replies on standard output."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
from typing import IO

from foreseer.scale.unit import Task
from foreseer.scale.worker import Worker, about_this_process, answer

LENGTH_BYTES = 8


def read_frame(stream: IO[bytes]) -> bytes | None:
    """Read a message: 8 bytes of length, little endian, then its bytes; ``None`` at the end of the stream."""
    length = stream.read(LENGTH_BYTES)
    if len(length) < LENGTH_BYTES:
        return None
    size = int.from_bytes(length, "little")
    content = stream.read(size)
    return content if len(content) == size else None


def write_frame(stream: IO[bytes], content: bytes) -> None:
    """Write a message."""
    stream.write(len(content).to_bytes(LENGTH_BYTES, "little") + content)
    stream.flush()


def main() -> None:
    """Answer requests until standard input ends, which it does when the parent process is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the first process decides
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not mix with replies
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    write_frame(replies, pickle.dumps(about_this_process()))
    threading.Thread(target=_receive, args=(requests,), daemon=True).start()
    worker, tasks = Worker(int(sys.argv[1]) or None), dict[str, Task]()
    while True:
        request = pickle.loads(requests.get())  # noqa: S301 - from the process that started this one
        write_frame(replies, pickle.dumps(answer(worker, tasks, request)))


def _receive(requests: queue.SimpleQueue[bytes]) -> None:
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        requests.put(frame)
    os._exit(0)  # whatever the unit: nobody waits for it


if __name__ == "__main__":
    main()
