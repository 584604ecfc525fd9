"""The Cache API's store: workerd asks it what `caches.default` and `caches.open(name)` are asked.

A match is a GET, answered with `CF-Cache-Status: HIT` or `MISS`; a put is a PUT whose body is a whole
response; a delete is a PURGE. Objects belong to the account of the pass. Promises: what is served is
whole, fresh, chosen for this request and not purged; it survives restarts. It may be lost at any
time, and a put that cannot be kept is answered as one that was not wanted.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import anyio
import msgspec
import structlog

from kythera.ground.chance import SystemChance
from kythera.ground.passes import Pass
from kythera.model.limits import Limits
from kythera.store import cache_rules as rules
from kythera.store.cache_index import CacheIndex, Object, free_bytes
from kythera.store.cache_purges import FILE, PurgeFile, Purges, due
from kythera.store.exchange import BrokenOff, Exchange, TooLarge
from kythera.store.usage import Usage

NAMESPACE_HEADER = "cf-cache-namespace"
SCHEME_HEADER = "x-kythera-scheme"
CHUNK_BYTES = 256 * 1024
SMALL_BYTES = 64 * 1024
"""Read at once, without a thread."""
SWEEP_S = 60.0
URL_BYTES_MAX = 32 * 1024
KEPT, GONE, NOT_KEPT, NOT_THERE = 204, 200, 413, 404
MISSED = (("cf-cache-status", "MISS"),)


@dataclass
class Arriving:
    """A body on its way to the disk."""

    file: BinaryIO
    bytes_max: int
    size: int = 0
    waiting: list[bytes] = field(default_factory=list)
    waits: int = 0

    async def take(self, chunk: bytes) -> None:
        """Write a part. Raises TooLarge."""
        self.size += len(chunk)
        if self.size > self.bytes_max:
            raise TooLarge
        self.waiting.append(chunk)
        self.waits += len(chunk)
        if self.waits >= CHUNK_BYTES:
            await anyio.to_thread.run_sync(self._write)

    async def finish(self) -> None:
        """Have all of it on the disk."""
        await anyio.to_thread.run_sync(self._sync)

    def _write(self) -> None:
        waiting, self.waiting, self.waits = self.waiting, [], 0
        self.file.write(b"".join(waiting))

    def _sync(self) -> None:
        self._write()
        self.file.flush()
        os.fsync(self.file.fileno())


class CacheStore:
    """All of a machine's caches."""

    def __init__(self, folder: Path, limits: Limits, now: Callable[[], float] = time.time) -> None:
        self.index = CacheIndex(folder)
        self.usage = Usage("matches", "hits", "puts", "deletes")
        self._limits = limits
        self._now = now
        self._silent_s = limits.cache_silent_ms / 1000
        self._purges = PurgeFile(folder / FILE, self._purge)
        self._journal = structlog.get_logger("store/cache")

    def close(self) -> None:
        """Let go of files."""
        self.index.close()

    async def keep(self) -> None:
        """Forget what has expired, for ever."""
        while True:
            self.index.expire(self._now())
            await anyio.sleep(SWEEP_S)

    def _purge(self, purges: Purges) -> None:
        for account, asked in purges.items():
            for purge in due(asked, self.index.purged(account)):
                self.index.purge(account, purge)
                self._journal.info("cache_purged", account=account, number=purge.number)

    async def handle(self, exchange: Exchange, granted: Pass) -> None:
        """Answer one request of workerd's."""
        self._purges.look()
        url, key = _named(exchange, granted.account)
        match exchange.method:
            case "GET":
                self.usage.add(granted, "matches")
                self.usage.add(granted, "hits", await self._match(exchange, granted.account, key))
            case "PUT" if len(url) <= URL_BYTES_MAX:
                self.usage.add(granted, "puts")
                await exchange.answer(await self._put(exchange, granted.account, url, key))
            case "PURGE":
                self.usage.add(granted, "deletes")
                there = self.index.find(granted.account, key)
                self.index.remove(each.file for each in there)
                fresh = any(each.expires_at > self._now() for each in there)
                await exchange.answer(GONE if fresh else NOT_THERE)
            case _:
                await exchange.answer(NOT_KEPT)

    # -- match ---------------------------------------------------------------------------------

    async def _match(self, exchange: Exchange, account: str, key: bytes) -> bool:
        """Answer with what is kept; tell whether there was any."""
        found = self._chosen(exchange, account, key)
        file = None if found is None else self._open(found)
        if found is None or file is None:
            await exchange.answer(504, MISSED)
            return False
        with file:
            self.index.used(found.file, self._now())
            await self._answer(exchange, found, file)
        return True

    def _chosen(self, exchange: Exchange, account: str, key: bytes) -> Object | None:
        now = self._now()
        fitting = [
            each
            for each in self.index.find(account, key)
            if each.expires_at > now and each.variant == rules.variant(each.vary, exchange.headers)
        ]
        return max(fitting, key=lambda each: each.stored_at, default=None)

    def _open(self, found: Object) -> BinaryIO | None:
        """Open a body; one that is not what the index says is none."""
        try:
            file = (self.index.bodies / found.file).open("rb")
        except FileNotFoundError:
            self.index.remove([found.file])
            return None
        if os.fstat(file.fileno()).st_size == found.size:
            return file
        file.close()
        self.index.remove([found.file])
        return None

    async def _answer(self, exchange: Exchange, found: Object, file: BinaryIO) -> None:
        head, size = found.head, found.size
        age = max(0, int(self._now() - found.stored_at))
        headers = [*head.headers, ("age", str(age)), ("cf-cache-status", "HIT")]
        if rules.is_unchanged(head, exchange.headers):
            await exchange.begin(304, headers)
            await exchange.send(b"", more=False)
            return
        try:
            part = rules.part_of(head, exchange.headers, size)
        except ValueError:
            await exchange.answer(416, [*headers, ("content-range", f"bytes */{size}")])
            return
        status = head.status
        if part is None:
            part = rules.Part(0, size)
        else:
            status = 206
            last = part.start + part.size - 1
            headers.append(("content-range", f"bytes {part.start}-{last}/{size}"))
        await exchange.begin(status, [*headers, ("content-length", str(part.size))])
        async for chunk in _read(file, part):
            await exchange.send(chunk, more=True)
        await exchange.send(b"", more=False)

    # -- put -----------------------------------------------------------------------------------

    async def _put(self, exchange: Exchange, account: str, url: str, key: bytes) -> int:
        """Take a response in, and tell how that went."""
        purged, now = self.index.purged(account), self._now()
        body = exchange.chunks(self._silent_s)
        try:
            head, first = await _head(body)
        except rules.NotAResponse:
            return NOT_KEPT
        kept_s = rules.kept_for_s(head, now)
        vary = rules.vary_names(head)
        stored = Object(
            file=SystemChance().hex(32),
            url=url,
            vary=vary,
            variant=rules.variant(vary, exchange.headers),
            head=rules.Head(head.status, head.reason, rules.to_keep(head)),
            tags=rules.tags_of(head),
            size=0,
            stored_at=now,
            expires_at=now + kept_s,
        )
        path = self.index.bodies / stored.file
        try:
            if kept_s <= 0 or (head.length or 0) > self._limits.cache_object_bytes_max:
                raise TooLarge
            size = await self._take_in(path, head, first, body)
            self._purges.look()
            if self.index.purged(account) == purged:  # else: made from what was to go, perhaps
                self.index.add(account, key, msgspec.structs.replace(stored, size=size))
                self._make_room()
                return KEPT
        except TooLarge:
            pass
        except (OSError, sqlite3.Error) as error:
            self._journal.warning("cache_not_kept", url=url, error=str(error))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)
        async for _ in body:  # heard out: who is hung up on would think that it broke
            pass
        return NOT_KEPT

    async def _take_in(
        self, path: Path, head: rules.Head, first: bytes, body: AsyncIterator[bytes]
    ) -> int:
        """Have a body on the disk, whole, and return its size. Raises TooLarge, BrokenOff."""
        with path.open("xb") as file:
            arriving = Arriving(file, self._limits.cache_object_bytes_max)
            await arriving.take(first)
            async for chunk in body:
                await arriving.take(chunk)
            if head.length is not None and arriving.size != head.length:
                raise BrokenOff
            await arriving.finish()
        return arriving.size

    def _make_room(self) -> None:
        limits, index = self._limits, self.index
        spare = free_bytes(index.bodies) - limits.disk_free_bytes_min
        bytes_max = max(0, min(limits.cache_bytes_max, index.cost + spare))
        if index.cost > bytes_max:
            index.expire(self._now())
            index.make_room(bytes_max)


def _named(exchange: Exchange, account: str) -> tuple[str, bytes]:
    """Return the URL that is asked for, and the key of what is stored for it."""
    headers = exchange.headers
    scheme = headers.get(SCHEME_HEADER, "http")
    url = f"{scheme}://{headers.get('host', '')}{exchange.target}"
    named = f"{account}\0{headers.get(NAMESPACE_HEADER, '')}\0{url}"
    return url, hashlib.sha256(named.encode()).digest()


async def _head(body: AsyncIterator[bytes]) -> tuple[rules.Head, bytes]:
    """Read a response's head and the beginning of its body. Raises NotAResponse."""
    raw = bytearray()
    async for chunk in body:
        raw += chunk
        if (found := rules.split_head(bytes(raw))) is not None:
            return rules.read_head(found[0]), found[1]
        if len(raw) > rules.HEAD_BYTES_MAX:
            break
    raise rules.NotAResponse


async def _read(file: BinaryIO, part: rules.Part) -> AsyncIterator[bytes]:
    file.seek(part.start)
    left = part.size
    while left > 0:
        wanted = min(left, CHUNK_BYTES)
        small = wanted <= SMALL_BYTES
        chunk = file.read(wanted) if small else await anyio.to_thread.run_sync(file.read, wanted)
        assert chunk, "a body has the size that the index says, and never changes"
        left -= len(chunk)
        yield chunk
