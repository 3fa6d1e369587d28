"""``python -m examples.serve``: serve the bundled pipeline."""

from __future__ import annotations

import argparse
import dataclasses
import json
import socket

import torch
import uvicorn

from examples.serve.app import create_app
from examples.serve.asked import Limits
from examples.serve.draw import emoji


def main() -> None:
    """Listen, say where, and serve until stopped."""
    parser = argparse.ArgumentParser(description="Serve pictures of the bundled pipeline.")
    parser.add_argument("--host", default="127.0.0.1", help="loopback by default: there is no authentication")
    parser.add_argument("--port", type=int, default=8000, help="0 for a free one")
    parser.add_argument("--queue", type=int, default=Limits.queue, help="requests that may wait")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    limits = dataclasses.replace(Limits(), queue=asked.queue)
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((asked.host, asked.port))
    print(json.dumps({"url": "http://{}:{}".format(*listening.getsockname())}), flush=True)
    config = uvicorn.Config(
        create_app(emoji, limits), log_level="warning", limit_concurrency=256, timeout_graceful_shutdown=10
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
