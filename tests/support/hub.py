"""Stand-in of the Hugging Face Hub's HTTP interface: files by revision, and uploads."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Repositories:
    """What the stand-in holds.

    Attributes:
        address: of the server.
        files: content by (repository, revision, name).
        created: repositories that were created.
    """

    def __init__(self) -> None:
        self.address = ""
        self.files: dict[tuple[str, str, str], bytes] = {}
        self.created: list[str] = []


def _handler(hub: Repositories) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            """Nothing is printed."""

        def _send(self, code: int, content: bytes, **headers: str) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _json(self, value: Any) -> None:
            self._send(200, json.dumps(value).encode(), Content_Type="application/json")

        def do_GET(self) -> None:
            if self.path.startswith("/api/models/"):
                self._models(self.path.removeprefix("/api/models/"))
                return
            path, _, rest = self.path.strip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            content = hub.files.get((path, revision, name))
            if content is None:
                known = any(repository == path for repository, _, _ in hub.files)
                at = any((repository, tag) == (path, revision) for repository, tag, _ in hub.files)
                error = "EntryNotFound" if at else "RevisionNotFound" if known else "RepoNotFound"
                self._send(404, b"", X_Error_Code=error, X_Error_Message="not found")
                return
            commit = hashlib.sha1(revision.encode(), usedforsecurity=False).hexdigest()
            self._send(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=commit)

        def _models(self, repository: str) -> None:
            names = [name for path, revision, name in hub.files if (path, revision) == (repository, "main")]
            if names:
                self._json({"id": repository, "siblings": [{"rfilename": name} for name in names]})
            else:
                self._send(404, b"", X_Error_Code="RepoNotFound", X_Error_Message="not found")

        do_HEAD = do_GET  # noqa: N815 - http.server's name

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/api/repos/create":
                request = json.loads(body)
                name = "/".join(filter(None, (request.get("organization"), request["name"])))
                hub.created.append(name)
                self._json({"url": f"{hub.address}/{name}", "name": name})
            elif self.path == "/api/validate-yaml":
                self._json({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = json.loads(body)["files"]
                self._json(
                    {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
                )
            elif "/commit/" in self.path:
                path, _, revision = self.path.removeprefix("/api/models/").partition("/commit/")
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        content = base64.b64decode(line["value"]["content"])
                        hub.files[path, revision.partition("?")[0], line["value"]["path"]] = content
                oid = "0" * 40
                self._json({"commitUrl": f"{hub.address}/{path}/commit/{oid}", "commitOid": oid})
            else:
                self._send(404, b"")

    return Handler


@contextmanager
def served_hub() -> Iterator[Repositories]:
    """Serve an empty stand-in in a thread until the context ends."""
    hub = Repositories()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
