"""KV without processes: a log in memory, and a store around it that a test asks directly.

The log honours the real one's contract (tests/distribute/test_kv_log.py holds both to it).
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx

from kythera.control.kv_store import KvStore
from kythera.distribute.blobs import Blobs
from kythera.distribute.feed import Arrived
from kythera.distribute.kv_log import Come, Replaced, Stream
from kythera.ground.passes import Pass, sign
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits
from kythera.node.kv_service import KvService
from kythera.store.kv_copy import KvCopy
from kythera.store.kv_http import Request

KEY = "the-key-of-this-machine"
SPACE = "0" * 31 + "1"
OTHER = "0" * 31 + "2"


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = 1_795_000_000.0

    def now(self) -> float:
        """Return Unix time."""
        return self.time

    def monotonic(self) -> float:
        """Return the same."""
        return self.time


class MemoryKvLog:
    """A log in memory; a test may hold its acknowledgements back, or make it fail."""

    def __init__(self, created: str = "first") -> None:
        self.created = created
        self.last = 0
        self.kept: dict[str, tuple[int, bytes]] = {}
        self.lives: dict[str, int] = {}
        self.away = False
        self.acknowledge = anyio.Event()
        self.acknowledge.set()
        self._grown = anyio.Event()

    async def append(self, subject: str, body: bytes, life_s: int = 0) -> int:
        """Keep the newest entry of a subject."""
        if self.away:
            raise StoreUnavailable("KV's log did not acknowledge a write within 1 ms: away.")
        self.last += 1
        seq = self.last
        self.kept[subject] = (seq, body)
        self.lives[subject] = life_s
        self._grown.set()
        self._grown = anyio.Event()
        await self.acknowledge.wait()
        return seq

    async def purge(self, subjects: str) -> None:
        """Forget subjects."""
        beginning = subjects.removesuffix(">")
        self.kept = {s: e for s, e in self.kept.items() if not s.startswith(beginning)}

    async def stream(self) -> Stream:
        """Return what the log is."""
        if self.away:
            raise StoreUnavailable("KV's log did not answer within 1 ms: away.")
        return Stream(self.created, self.last)

    async def follow(self, after: Callable[[], tuple[str, int]]) -> AsyncGenerator[Come, None]:
        """Yield what comes."""
        source, seq = after()
        if source not in ("", self.created) or seq > self.last:
            raise Replaced("KV's log is another one.")
        while True:
            entries = sorted((n, s, body) for s, (n, body) in self.kept.items() if n > seq)
            messages = [Arrived(n, s, body, {}) for n, s, body in entries]
            seq = self.last
            yield Come(messages, seq, in_step=True, source=self.created)
            if seq == self.last:
                await self._grown.wait()


class KvWorld:
    """One machine's store."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder = folder
        self.limits = limits or Limits(kv_catch_up_ms=200, kv_write_ms=200)
        self.clock = Clock()
        self.log = MemoryKvLog()
        self.elsewhere: dict[str, bytes] = {}
        """Blobs of another machine."""
        self.service = self.started()

    def started(self, boot: str = "boot") -> KvService:
        """Return the store, as after a start."""
        return KvService(
            copy=KvCopy(self.folder / "copy", boot=boot, bytes_max=64 * 1024 * 1024),
            blobs=Blobs(self.folder / "blobs", clock=self.clock),
            log=self.log,  # type: ignore[arg-type]
            fetch=self.fetch,
            key=KEY,
            limits=self.limits,
            clock=self.clock,
        )

    async def fetch(self, digests: list[str]) -> None:
        """Bring blobs from another machine, if a test gave them to one."""
        for digest in digests:
            if digest not in self.elsewhere:
                raise StoreUnavailable(f"Blob {digest} is not on this machine.")
            self.service.blobs.put(self.elsewhere[digest])

    def restart(self, boot: str = "boot") -> None:
        """End the process and start another."""
        self.service.copy.close()
        self.service = self.started(boot)

    async def follow(self) -> None:
        """Follow the log, until cancelled."""
        await self.service.meet()
        async for come in self.service.log.follow(self.service.position):
            self.service.take(come)

    async def ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        space: str = SPACE,
        worker: str = "w",
        metadata: bytes = b"",
    ) -> tuple[int, str, bytes, dict[str, str]]:
        """Ask as a cell does; return status, its words, the body and the headers."""
        request = Request()
        request.method, request.target = method.encode(), target.encode()
        granted = Pass(account="a", worker=worker, store="kv", resource=space)
        request.granted = sign(granted, KEY).encode()
        request.metadata, request.size = metadata, len(body)
        request.body += body
        return await self.answered(request)

    async def answered(self, request: Request) -> tuple[int, str, bytes, dict[str, str]]:
        """Return a request's answer, whole."""
        answer = self.service.answer(request)
        if answer is None:
            answer = b"".join([piece async for piece in self.service.answer_later(request)])
        head, _, rest = answer.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        _, status, words = first.split(" ", 2)
        headers = dict(line.split(": ", 1) for line in lines)
        assert int(headers["Content-Length"]) == len(rest)
        return int(status), words, rest, headers


@asynccontextmanager
async def kv_world(folder: Path, limits: Limits | None = None) -> AsyncIterator[KvWorld]:
    """Run a store that follows its log."""
    world = KvWorld(folder, limits)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.follow)
            with anyio.fail_after(5):
                await world.service.ready.wait()
            yield world
            tasks.cancel_scope.cancel()
    finally:
        world.service.copy.close()


class ServiceTransport(httpx.AsyncBaseTransport):
    """Brings the API's requests to a store in the same process."""

    def __init__(self, world: KvWorld) -> None:
        self._world = world

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one."""
        asked = Request()
        asked.method, asked.target = request.method.encode(), request.url.raw_path
        headers = {name.lower(): value for name, value in request.headers.raw}
        asked.granted = headers.get(b"x-kythera-pass", b"")
        asked.metadata = headers.get(b"cf-kv-metadata", b"")
        asked.body += await request.aread()
        asked.size = len(asked.body)
        status, words, body, told = await self._world.answered(asked)
        raw = [(name.encode(), value.encode()) for name, value in told.items()]
        return httpx.Response(
            status,
            headers=raw,
            stream=httpx.ByteStream(body),
            extensions={"reason_phrase": words.encode()},
        )


def kv_store_of(world: KvWorld, account: str) -> KvStore:
    """Return the API's way to this store."""
    return KvStore(account, lambda: KEY, ServiceTransport(world), world.limits)
