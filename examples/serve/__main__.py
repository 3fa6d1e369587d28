"""``python -m examples.serve``: serve the bundled pipeline."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import socket
from collections.abc import Callable

import torch
import uvicorn

from examples.serve.app import create_app
from examples.serve.asked import Limits
from examples.serve.draw import emoji


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say where once it listens."""
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            print(
                json.dumps({"url": f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"}), flush=True
            )


def _number(least: int, most: int = 2**31) -> Callable[[str], int]:
    def read(words: str) -> int:
        if not words.isdecimal() or not least <= int(words) <= most:
            raise argparse.ArgumentTypeError(f"{words!r} is no whole number from {least} to {most}")
        return int(words)

    return read


def main() -> None:
    """Listen, say where, and serve until stopped."""
    parser = argparse.ArgumentParser(description="Serve pictures of the bundled pipeline.")
    parser.add_argument("--host", default="127.0.0.1", help="loopback by default: there is no authentication")
    parser.add_argument("--port", type=_number(0, 65535), default=8000, help="0 for a free one")
    parser.add_argument("--queue", type=_number(1), default=Limits.queue, help="requests that may wait")
    parser.add_argument("--together", type=_number(1), default=Limits.together, help="pictures drawn side by side")
    parser.add_argument("--batch", action="store_true", help="compute pictures of one size together, for a GPU")
    parser.add_argument("--threads", type=_number(1), default=1, help="CPU threads")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    limits = dataclasses.replace(Limits(), queue=asked.queue, together=asked.together)
    try:
        family = socket.AF_INET6 if ":" in asked.host else socket.AF_INET
        listening = socket.create_server((asked.host, asked.port), family=family)
    except OSError as error:
        parser.error(f"cannot listen on {asked.host} port {asked.port}: {error.strerror or error}")
    config = uvicorn.Config(
        create_app(lambda: emoji(batch=asked.batch), limits),
        log_level="warning",
        limit_concurrency=256,
        timeout_graceful_shutdown=10,
    )
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C, raised again after the shutdown
        _Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
