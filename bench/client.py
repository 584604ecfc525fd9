"""A small HTTP/1.1 client that knows exactly what happened to each request.

Libraries retry and pool behind one's back; here every request that does not end in a whole answer
is one failure, with the moment it was sent and the moment it failed. No request is ever repeated.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import anyio
import anyio.abc

Address = tuple[str, int]
REQUEST_S = 30.0
PIECE_BYTES = 256 * 1024
HEAD_BYTES_MAX = 64 * 1024


class Broken(Exception):
    """The connection ended before the answer was whole."""


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    body: bytes
    closes: bool


@dataclass(frozen=True)
class Asked:
    """One request, from its first byte sent (monotonic seconds) to its end."""

    began: float
    ended: float
    status: int
    """0 when there was no whole answer."""
    trouble: str = ""

    @property
    def failed(self) -> bool:
        """Anything but a whole answer of 2xx."""
        return bool(self.trouble) or not 200 <= self.status < 300


class Connection:
    """One TCP connection, one request at a time."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream
        self._buffer = b""

    @classmethod
    async def open(cls, address: Address) -> Self:
        """Connect, or raise Broken."""
        try:
            return cls(await anyio.connect_tcp(*address))
        except OSError as error:
            raise Broken(f"cannot connect: {error}") from error

    async def ask(self, host: str, method: str, path: str, body: bytes = b"") -> Answer:
        """Send one request and read the whole answer. Raises Broken."""
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n"
        if body or method == "POST":
            head += f"Content-Length: {len(body)}\r\n"
        try:
            with anyio.fail_after(REQUEST_S):
                await self._stream.send(head.encode() + b"\r\n" + body)
                return await self._answer()
        except TimeoutError:
            raise Broken(f"no answer in {REQUEST_S:.0f} s") from None
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            seen = (
                f"after {len(self._buffer)} bytes of the answer" if self._buffer else "unanswered"
            )
            raise Broken(f"connection ended {seen}: {type(error).__name__}") from error

    async def _answer(self) -> Answer:
        head = await self._until(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ", 2)[1])
        fields = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        if "chunked" in fields.get("transfer-encoding", ""):
            body = await self._chunks()
        else:
            body = await self._exactly(int(fields.get("content-length", "0")))
        return Answer(status, body, fields.get("connection", "").lower() == "close")

    async def _chunks(self) -> bytes:
        body = b""
        while size := int((await self._until(b"\r\n")).partition(b";")[0], 16):
            body += await self._exactly(size)
            await self._exactly(2)
        await self._until(b"\r\n")
        return body

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise Broken("the answer's head never ends")
            self._buffer += await self._stream.receive()
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    async def _exactly(self, size: int) -> bytes:
        found = bytearray(self._buffer[:size])
        self._buffer = self._buffer[size:]
        while len(found) < size:  # what a large body costs here would be put down to who sends it
            found += await self._stream.receive(min(PIECE_BYTES, size - len(found)))
        return bytes(found)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._stream.aclose()


async def fetch(address: Address, host: str, path: str = "/") -> Answer:
    """GET over a fresh connection. Raises Broken."""
    async with await Connection.open(address) as connection:
        return await connection.ask(host, "GET", path)


@dataclass
class Load:
    """Steady requests from several clients at once, and a record of every one of them.

    `kept` clients hold their connection; `fresh` ones open one for each request. Each client
    sends GET and POST in turn, `pause_ms` after the last answer."""

    address: Address
    host: str
    kept: int = 8
    fresh: int = 4
    pause_ms: float = 8.0
    path: str = "/"
    check: Callable[[Answer, bytes], bool] | None = None
    asked: list[Asked] = field(default_factory=list)
    _under_way: dict[int, float] = field(default_factory=dict)

    async def run(self) -> None:
        """Ask until cancelled."""
        async with anyio.create_task_group() as clients:
            for number in range(self.kept):
                clients.start_soon(self._client, number, True)
            for number in range(self.kept, self.kept + self.fresh):
                clients.start_soon(self._client, number, False)

    def failures(self) -> list[Asked]:
        """Return what failed so far."""
        return [asked for asked in self.asked if asked.failed]

    def under_way(self) -> int:
        """Return how many requests have been sent and not answered."""
        return len(self._under_way)

    async def _client(self, number: int, keeps: bool) -> None:
        connection: Connection | None = None
        turn = number
        try:
            while True:
                turn += 1
                connection = await self._turn(number, turn, connection, keeps)
                await anyio.sleep(self.pause_ms / 1000)
        finally:
            if connection is not None:
                await connection.__aexit__(None, None, None)

    async def _turn(
        self, number: int, turn: int, connection: Connection | None, keeps: bool
    ) -> Connection | None:
        method, body = ("POST", b"x" * (turn % 4096)) if turn % 2 else ("GET", b"")
        began = self._under_way[number] = time.monotonic()
        status, trouble, closes = 0, "", True
        try:
            connection = connection or await Connection.open(self.address)
            answer = await connection.ask(self.host, method, self.path, body)
            status, closes = answer.status, answer.closes
            if not 200 <= status < 300:
                trouble = f"{method}: status {status}: {answer.body[:80]!r}"
            elif self.check is not None and not self.check(answer, body):
                trouble = f"{method}: wrong answer {answer.body[:80]!r}"
        except Broken as error:
            trouble = f"{method}{' on a kept connection' if keeps else ''}: {error}"
        del self._under_way[number]
        self.asked.append(Asked(began, time.monotonic(), status, trouble))
        if connection is not None and (closes or not keeps):
            await connection.__aexit__(None, None, None)
            return None
        return connection
