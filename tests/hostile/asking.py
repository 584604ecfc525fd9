"""How a hostile worker is asked: a POST, a WebSocket, bodies without an end, readers who do not read.

Each way has a deadline and leaves by itself; what it saw is (status, text, ray id), the status
None when no whole answer came.
"""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import urlsplit

import httpx

from tests.platforms import Doors

Answered = tuple[int | None, str, str]
PATIENCE_S = 12.0
"""For what has to come to an end."""
IMPATIENCE_S = 1.5
"""For what has none: whoever asked leaves after this."""
BODY_S = 4.0
BODY_BYTES_MAX = 512 << 20
MANY, FEW = 24, 5
PIECE = b"x" * 65_536
MASKED_TEXT = bytes((0x81, 0x82, 0, 0, 0, 0)) + b"go"
"""A WebSocket's frame: one whole text, `go`, masked by zeroes."""
HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def post(doors: Doors, host: str) -> Answered:
    """Send one request and read the whole answer."""
    return _asked(doors, host, PATIENCE_S)


def impatient(doors: Doors, host: str) -> Answered:
    """Send one request and soon lose interest."""
    return _asked(doors, host, IMPATIENCE_S)


def many(doors: Doors, host: str, requests: int = MANY) -> Answered:
    """Send many requests, a few at a time; return the answer that says most."""
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: _asked(doors, host, PATIENCE_S), range(requests)))
    return max(answers, key=lambda answer: ("reached" in answer[1], answer[0] or 0))


def few(doors: Doors, host: str) -> Answered:
    """Send a few requests, where each one costs a process."""
    return many(doors, host, FEW)


def endless_body(doors: Doors, host: str) -> Answered:
    """Send a body that has no end; hang up in the middle of it when all are tired."""
    end = time.monotonic() + BODY_S

    def pieces() -> Iterator[bytes]:
        sent = 0
        while sent < BODY_BYTES_MAX and time.monotonic() < end:
            sent += len(PIECE)
            yield PIECE
        raise httpx.WriteError("enough")

    return _asked(doors, host, BODY_S, pieces())


def read(doors: Doors, host: str) -> Answered:
    """Read what comes, as fast as it comes; then leave."""
    with _connected(doors, IMPATIENCE_S) as stream:
        stream.sendall(_head(host))
        return None, _received(stream, IMPATIENCE_S), ""


def unread(doors: Doors, host: str) -> Answered:
    """Ask and read nothing; then leave."""
    with _connected(doors, IMPATIENCE_S) as stream:
        stream.sendall(_head(host))
        with suppress(TimeoutError):
            while stream.recv(1, socket.MSG_PEEK) and not _waited(IMPATIENCE_S):
                continue
    return None, "", ""


def websocket(doors: Doors, host: str) -> Answered:
    """Open a WebSocket, say a word and read until it is closed, or for a while."""
    with _connected(doors, IMPATIENCE_S) as stream:
        stream.sendall(HANDSHAKE.format(host=host).encode())
        head = stream.recv(4096).decode("latin-1")
        stream.sendall(MASKED_TEXT)
        status = int(head.split(" ", 2)[1]) if head.startswith("HTTP/") else None
        _received(stream, IMPATIENCE_S)
    return status, "", ""


WAYS: dict[str, Callable[[Doors, str], Answered]] = {
    "post": post,
    "websocket": websocket,
    "endless_body": endless_body,
    "read": read,
    "unread": unread,
    "many": many,
    "few": few,
    "impatient": impatient,
}


def _asked(
    doors: Doors, host: str, patience_s: float, body: Iterator[bytes] | bytes = b"attack"
) -> Answered:
    headers = {"Host": host, "Accept": "text/plain"}
    end = time.monotonic() + patience_s
    text = b""
    try:
        with (
            httpx.Client(trust_env=False, timeout=patience_s) as client,
            client.stream("POST", doors.http, headers=headers, content=body) as answer,
        ):
            for piece in answer.iter_raw():
                text = (text + piece)[:65_536]
                if time.monotonic() > end:
                    return None, text.decode("latin-1"), ""
            return answer.status_code, text.decode("latin-1"), answer.headers.get("cf-ray", "")
    except httpx.HTTPError as error:
        return None, f"{text[:500]!r} {type(error).__name__}", ""


def _connected(doors: Doors, timeout_s: float) -> socket.socket:
    parts = urlsplit(doors.http)
    assert parts.hostname is not None
    return socket.create_connection((parts.hostname, parts.port or 80), timeout=timeout_s)


def _head(host: str) -> bytes:
    return f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 6\r\n\r\nattack".encode()


def _received(stream: socket.socket, seconds: float) -> str:
    """Return the beginning of what came within a while."""
    end, kept = time.monotonic() + seconds, b""
    with suppress(OSError):
        while time.monotonic() < end and (piece := stream.recv(65_536)):
            kept = (kept + piece)[:4096]
    return kept.decode("latin-1")


def _waited(seconds: float) -> bool:
    time.sleep(seconds)
    return True
