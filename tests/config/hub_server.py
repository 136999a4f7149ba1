"""A hub on loopback: the few requests that huggingface_hub makes to find and download a model."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class HubServer:
    """revisions: commits by branch or tag. files: contents by commit and name. refusal: the status
    and the X-Error-Code of every answer, or None. requests: `METHOD path` of all there were."""

    revisions: dict[str, str]
    files: dict[str, Mapping[str, bytes]]
    refusal: tuple[int, str] | None = None
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def downloads(self) -> set[str]:
        """Names of the files whose contents were asked for."""
        paths = [line.removeprefix("GET ") for line in self.requests if "/resolve/" in line]
        return {path.rpartition("/")[2] for path in paths if path.startswith("/")}

    @contextmanager
    def serving(self) -> Iterator[HubServer]:
        hub = self

        class Handler(_Handler):
            server_of = hub

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_of: HubServer

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server_of, unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        if hub.refusal is not None:
            self.answer(hub.refusal[0], b"{}", {"X-Error-Code": hub.refusal[1]})
            return
        match path.strip("/").split("/", 5):
            case ["api", "models", "org", "name"]:
                self.answer_info("main")
            case ["api", "models", "org", "name", "revision", revision]:
                self.answer_info(revision)
            case ["api", "models", "org", "name", "tree", commit]:
                tree = [
                    {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}
                    for name, data in hub.files[commit].items()
                ]
                self.answer(200, json.dumps(tree).encode())
            case ["org", "name", "resolve", commit, name] if name in hub.files[commit]:
                data = hub.files[commit][name]
                self.answer(200, data, {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": commit})
            case ["org", "name", "resolve", _, _]:
                self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            case _:
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def answer_info(self, revision: str) -> None:
        hub = self.server_of
        commit = hub.revisions.get(revision, revision)
        if commit not in hub.files:
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = [{"rfilename": name} for name in hub.files[commit]]
        info = {"id": "org/name", "modelId": "org/name", "sha": commit, "siblings": siblings}
        self.answer(200, json.dumps(info).encode())

    def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _oid(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
