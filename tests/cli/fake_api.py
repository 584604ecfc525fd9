"""A small stand-in for the control API: keeps what it is told in dictionaries, answers in
Cloudflare's envelope, and writes down each call, so that tests can say what was asked for.

A real HTTP server on loopback, because the client's own HTTP is part of what is tested.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from kythera.ground.layout import Layout
from kythera.model.platform import Platform

ACCOUNT = "0123456789abcdef0123456789abcdef"
TOKEN = "a-token-that-opens-nothing"
VERSION = "21624ea2b94842498a4caaf244ae2692"


@dataclass
class Call:
    """One request as it came."""

    method: str
    path: str
    query: str
    headers: Message
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)

    def form(self) -> dict[str, Message]:
        """Return the parts of a multipart body by file name, else by field name."""
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        message = BytesParser().parsebytes(head + self.body)
        parts = message.get_payload()
        assert isinstance(parts, list)
        named: dict[str, Message] = {}
        for part in parts:
            assert isinstance(part, Message)
            name = part.get_filename() or part.get_param("name", header="content-disposition")
            named[str(name)] = part
        return named


@dataclass
class FakeApi:
    """What the fake knows. `refusals` maps "METHOD /path" to (status, code, message)."""

    calls: list[Call] = field(default_factory=list)
    workers: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: list[dict[str, Any]] = field(default_factory=list)
    deployments: list[dict[str, Any]] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    missing_assets: list[list[str]] = field(default_factory=list)
    refusals: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    tail_url: str = ""
    answers: dict[str, list[Any]] = field(default_factory=dict)
    """Results for "METHOD /path", one after the other; the last one stays."""
    fleet: dict[str, Any] | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    """Said beside each result."""

    def asked(self, method: str, ending: str) -> Call:
        """Return the one call with this method whose path ends so."""
        found = [c for c in self.calls if c.method == method and c.path.endswith(ending)]
        assert len(found) == 1, [f"{c.method} {c.path}" for c in self.calls]
        return found[0]

    def answer(self, call: Call) -> tuple[int, dict[str, Any]]:
        """Return status and envelope for one call."""
        if "/assets/upload" not in call.path and call.headers["authorization"] != f"Bearer {TOKEN}":
            return refused(403, 10000, "Authentication error")
        refusal = self.refusals.get(f"{call.method} {call.path}")
        if refusal:
            return refused(*refusal)
        result = self.result(call)
        return 200, {"success": True, "errors": [], "messages": self.messages, "result": result}

    def result(self, call: Call) -> Any:
        """Return what the API answers when it says yes."""
        answers = self.answers.get(f"{call.method} {call.path}")
        if answers:
            return answers.pop(0) if len(answers) > 1 else answers[0]
        kind = call.path.rpartition("/")[2]
        if call.path.endswith("/workers/scripts"):
            return list(self.workers.values())
        if kind == "assets-upload-session":
            return {"jwt": "session", "buckets": self.missing_assets}
        if kind == "upload":
            return {"jwt": "completed"}
        if call.method == "GET" and kind == "versions":
            return {"items": self.versions}
        if call.method == "GET" and kind == "deployments":
            return {"deployments": self.deployments}
        if call.method == "GET" and kind == "secrets":
            return [{"name": name, "type": "secret_text"} for name in self.secrets]
        if call.path == "/kythera/status":
            return self.fleet
        if kind == "tails":
            return {"id": "t1", "url": self.tail_url, "expires_at": "2026-11-23T04:00:00Z"}
        if call.method == "PUT" and "/scripts/" in call.path:
            return {"deployment_id": VERSION, "startup_time_ms": 3}
        return None


def refused(status: int, code: int, message: str) -> tuple[int, dict[str, Any]]:
    """Return a refusal in the envelope."""
    errors = [{"code": code, "message": message}]
    return status, {"success": False, "errors": errors, "messages": [], "result": None}


def handler_for(api: FakeApi) -> type[BaseHTTPRequestHandler]:
    """Return the request handler that speaks for this fake."""

    class Handler(BaseHTTPRequestHandler):
        """Reads a request, notes it, answers."""

        def handle_any(self) -> None:
            """Answer any method."""
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            url = urlsplit(self.path)
            path = url.path.removeprefix(f"/client/v4/accounts/{ACCOUNT}")
            call = Call(self.command, path, url.query, self.headers, body)
            api.calls.append(call)
            status, envelope = api.answer(call)
            data = json.dumps(envelope).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def serving(api: FakeApi, state: Path) -> Iterator[Layout]:
    """Serve the fake, and make the state folder of a platform whose API it is."""
    layout = Layout(state)
    state.mkdir(mode=0o700)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_for(api)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        platform = Platform(
            account_id=ACCOUNT,
            machine="here",
            api=f"127.0.0.1:{server.server_port}",
            http="127.0.0.1:8080",
        )
        layout.platform.write_bytes(msgspec.json.encode(platform))
        layout.token.write_text(TOKEN)
        layout.token.chmod(0o600)
        try:
            yield layout
        finally:
            server.shutdown()
            thread.join()
