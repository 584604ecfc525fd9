"""What this machine's KV store does with a request: checks the pass, reads the copy, writes the log.

Promises: a write is answered when the log has it on the disk and this machine's reads show it; two
writes of one key end as the log has them in order, whichever was answered first; a pass opens its
own namespace and no other.
Refuses: to read before the copy has once had everything, to write when the log is not the one that
the copy was made from.
"""

import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import anyio
import structlog
from anyio import to_thread

from kythera.distribute.blobs import READ_BYTES, Blobs
from kythera.distribute.kv_log import Come, KvLog, Replaced, Stream
from kythera.ground.clock import Clock
from kythera.ground.passes import NotAPass, Pass, check
from kythera.model.errors import KytheraError, StoreUnavailable
from kythera.model.limits import Limits
from kythera.store import kv_protocol as protocol
from kythera.store.kv_copy import KvCopy
from kythera.store.kv_entry import (
    Entry,
    Head,
    NotAnEntry,
    Written,
    decode,
    encode,
    namespace_of,
    subject,
    subjects_of,
)
from kythera.store.kv_http import (
    NOT_FOUND,
    Request,
    failure,
    header_lines,
    ok,
    ok_head,
)
from kythera.store.kv_protocol import Failed
from kythera.store.usage import PATH, Usage, is_agents

STORE = "kv"
HEALTH = b"/healthz"
USAGE = PATH.encode()
PASSES_MAX = 4_096
"""Passes that are remembered as good."""
LIFE_MARGIN_S = 60
"""The log keeps what expires a little longer: its server's clock may be another one."""
SWEPT_AT_ONCE = 1_000
REFILLED_AT_ONCE = 256
WANTED_MAX = 10_000
"""Large values that wait to be fetched; one beyond them is fetched when it is asked for."""
_GONE = "This KV namespace was deleted."
_journal = structlog.get_logger("kv")


class Admitted(NamedTuple):
    """A pass that was checked, and its namespace's bytes."""

    granted: Pass
    namespace: bytes

    @property
    def is_ours(self) -> bool:
        """Tell whether the platform itself asks (its API), no worker."""
        return not self.granted.worker


Fetch = Callable[[list[str]], Awaitable[None]]


@dataclass
class KvService:
    """The store. One for each process."""

    copy: KvCopy
    blobs: Blobs
    log: KvLog
    fetch: Fetch
    """Brings a blob from another machine. Raises StoreUnavailable."""
    key: str
    limits: Limits
    clock: Clock
    holds_log: Callable[[], bool] = lambda: True
    """Tells whether the log is on this machine: one machine alone may fill a new one."""
    refused: str = "KV's log has not answered yet: try again."
    """Why nothing can be written now; empty: it can."""
    met: anyio.Event = field(default_factory=anyio.Event)
    """It is known whether the log may be written: who writes before that waits."""
    ready: anyio.Event = field(default_factory=anyio.Event)
    wanted: set[str] = field(default_factory=set)
    """Values that are to be fetched before anybody asks for them."""
    usage: Usage = field(default_factory=lambda: Usage("reads", "writes", "deletes", "lists"))
    """What each worker asked, since this process started."""
    _passes: dict[bytes, Admitted] = field(default_factory=dict)

    # -- requests ------------------------------------------------------------------------------

    def answer(self, request: Request) -> bytes | None:
        """Answer what the copy alone can answer; None: it takes longer."""
        try:
            if request.target == HEALTH and not request.granted:
                return self._health()
            admitted = self._admit(request.granted)
            if request.target == USAGE and is_agents(admitted.granted):
                return ok(self.usage.told())
            if request.method != b"GET" or not self.ready.is_set():
                return None
            return self._read(admitted, protocol.read_target(request.target))
        except Failed as error:
            return failure(error)
        except KytheraError as error:
            return failure(_unavailable(error))

    async def answer_later(self, request: Request) -> AsyncIterator[bytes]:
        """Answer what has to wait for the log, a disk, or the start's end."""
        begun = False
        try:
            async for piece in self._later(request):
                yield piece
                begun = True
        except KytheraError as error:
            known = error if isinstance(error, Failed) else _unavailable(error)
            yield b"" if begun else failure(known)
        except Exception:  # noqa: BLE001 (it is one request's, and in the journal)
            _journal.exception("kv_request_failed", target=request.target[:100].decode("latin-1"))
            yield b"" if begun else failure(Failed(500, "Internal error"))

    async def _later(self, request: Request) -> AsyncIterator[bytes]:
        admitted, target = self._admit(request.granted), protocol.read_target(request.target)
        await self._when_ready()
        match request.method:
            case b"GET":
                found = self._read(admitted, target)
                if found is not None:
                    yield found
                    return
                async for piece in self._pieces(admitted, target):
                    yield piece
            case b"PUT":
                yield await self._put(admitted, target, request)
            case b"DELETE" if target.path == b"/" and admitted.is_ours:
                yield await self._end(admitted)
            case b"DELETE":
                yield await self._delete(admitted, target)
            case b"POST" if target.path == protocol.BULK_GET:
                yield await self._bulk(admitted, request)
            case _:
                raise Failed(405, "Method Not Allowed")

    async def _when_ready(self) -> None:
        with anyio.move_on_after(self.limits.kv_catch_up_ms / 1000):
            await self.ready.wait()
        if not self.copy.is_whole():
            raise Failed(503, "This machine's copy of KV is not complete yet: try again.")

    def _admit(self, told: bytes) -> Admitted:
        found = self._passes.get(told)
        if found is None:
            try:
                granted = check(told.decode("ascii", "replace"), self.key, STORE)
                found = Admitted(granted, bytes.fromhex(granted.resource))
            except (NotAPass, ValueError):
                raise Failed(403, "This is no pass to this store.") from None
            if len(self._passes) >= PASSES_MAX:
                self._passes.clear()
            self._passes[told] = found
        if self.copy.has_ended(found.namespace):
            raise Failed(400, _GONE)
        return found

    def _health(self) -> bytes:
        state = self.refused or ("up" if self.ready.is_set() else "catching up")
        return ok(f"{state}\n".encode())

    # -- reading -------------------------------------------------------------------------------

    def _read(self, admitted: Admitted, target: protocol.Target) -> bytes | None:
        """Answer a GET; None: the value is a blob."""
        now = self.clock.now()
        if target.path == b"/":
            self.usage.add(admitted.granted, "lists")
            asked = protocol.listing(target.parameters, self.limits)
            page = self.copy.page(admitted.namespace, *asked, now)
            return ok(protocol.page_json(page))
        protocol.check_cache_ttl(target.parameters.get("cache_ttl"), self.limits)
        entry = self.copy.get(admitted.namespace, self._key(target), now)
        if entry is not None and entry.head.blob:
            return None
        self.usage.add(admitted.granted, "reads")
        if entry is None:
            return NOT_FOUND
        return ok(entry.value, header_lines(protocol.head_of_answer(entry)))

    def _key(self, target: protocol.Target) -> bytes:
        key = target.key
        protocol.check_key(key, self.limits)
        return key

    async def _pieces(self, admitted: Admitted, target: protocol.Target) -> AsyncIterator[bytes]:
        """Send a value that is a blob; an empty piece: it is not what was put there."""
        self.usage.add(admitted.granted, "reads")
        entry = self.copy.get(admitted.namespace, self._key(target), self.clock.now())
        if entry is None:
            yield NOT_FOUND
            return
        await self._have([entry])
        file = await anyio.open_file(self.blobs.path(entry.head.blob), "rb")
        async with file:
            piece = await file.read(READ_BYTES)
            seen = hashlib.sha256()
            yield ok_head(entry.head.size, header_lines(protocol.head_of_answer(entry)))
            while piece:
                await to_thread.run_sync(seen.update, piece)
                following = await file.read(READ_BYTES)
                if not following and seen.hexdigest() != entry.head.blob:
                    _journal.error("kv_value_damaged", blob=entry.head.blob)
                    yield b""
                    return
                yield piece
                piece = following

    async def _have(self, entries: Iterable[Entry | None]) -> None:
        """Fetch values that are on another machine. Raises Failed (503)."""
        digests = [entry.head.blob for entry in entries if entry is not None and entry.head.blob]
        absent = [digest for digest in digests if not self.blobs.has(digest)]
        if absent:
            try:
                await self.fetch(absent)
            except StoreUnavailable as error:
                told = f"This machine has not got this value: {error.message}"
                raise Failed(503, told) from None

    async def _bulk(self, admitted: Admitted, request: Request) -> bytes:
        asked, now = protocol.bulk(bytes(request.body), self.limits), self.clock.now()
        self.usage.add(admitted.granted, "reads", len(asked.keys))
        found = {
            key: self.copy.get(admitted.namespace, key.encode(errors="replace"), now)
            for key in asked.keys
        }
        make = partial(protocol.bulk_json, asked, found, self._value, self.limits)
        if all(entry is None or not entry.head.blob for entry in found.values()):
            return ok(make())
        await self._have(found.values())
        return ok(await to_thread.run_sync(make))

    def _value(self, entry: Entry) -> bytes:
        return self.blobs.read(entry.head.blob) if entry.head.blob else entry.value

    # -- writing -------------------------------------------------------------------------------

    async def _put(self, admitted: Admitted, target: protocol.Target, request: Request) -> bytes:
        self.usage.add(admitted.granted, "writes")
        key, now = self._key(target), self.clock.now()
        protocol.check_value(request.size, self.limits)
        protocol.check_metadata(request.metadata, self.limits)
        expires = protocol.expiration(target.parameters, now, self.limits)
        head = Head(key, expires, request.metadata, "", request.size)
        value = bytes(request.body)
        request.body = bytearray()
        if len(value) > min(self.limits.kv_inline_bytes_max, self.limits.record_bytes_max):
            digest = await to_thread.run_sync(self.blobs.put, value)
            head, value = Head(key, expires, request.metadata, digest, request.size), b""
        life_s = int(expires - now) + LIFE_MARGIN_S if expires else 0
        await self._write(admitted, Entry(head, value), life_s)
        return ok(b"")

    async def _delete(self, admitted: Admitted, target: protocol.Target) -> bytes:
        self.usage.add(admitted.granted, "deletes")
        end = Entry(Head(self._key(target), ended=True))
        await self._write(admitted, end, int(self.limits.tombstones_kept_s))
        return ok(b"")

    async def _end(self, admitted: Admitted) -> bytes:
        """End a namespace: it takes no writes any more, and the log forgets its keys."""
        namespace = admitted.granted.resource
        await self._write(admitted, Entry(Head(b"", ended=True)), 0)
        await self.log.purge(subjects_of(namespace))
        _journal.info("kv_namespace_ended", namespace=namespace)
        return ok(b"")

    async def _write(self, admitted: Admitted, entry: Entry, life_s: int) -> None:
        with anyio.move_on_after(self.limits.kv_write_ms / 1000):
            await self.met.wait()
        if self.refused:
            raise Failed(503, self.refused)
        namespace = admitted.granted.resource
        where = subject(namespace, entry.head.key)
        seq = await self.log.append(where, encode(entry), life_s)
        self.copy.take(Written(seq, namespace, entry))

    # -- the log --------------------------------------------------------------------------------

    async def meet(self) -> None:
        """Find out whether the log is the one this copy was made from; fill a new one from the copy.

        Raises Replaced when it is another one, and StoreUnavailable."""
        stream, source = await self.log.stream(), self.copy.source()
        if source in {"", stream.created}:
            if self.copy.in_doubt():
                _journal.info("kv_copy_made_anew", why="the machine was started")
                self._begin_anew()
        elif self.holds_log() and stream.created in {self.copy.refilled(), _new(stream)}:
            self.copy.note_refilled(stream.created)
            await self._refill()
            self._begin_anew()
        else:
            raise Replaced(
                f"KV's log is not the one that {self.copy.path} was made from.",
                remedy="Restore a backup; or remove that folder to go on with what the log has.",
            )
        self.refused = ""
        self.met.set()

    def refuse(self, why: str) -> None:
        """Refuse writes, until the log has been met (again)."""
        self.refused = why
        self.met.set()

    def _begin_anew(self) -> None:
        """Forget the copy; who reads waits until the log has filled it, also where it was served already,
        because the log had stayed away: nothing may be said to be absent."""
        if self.ready.is_set():
            self.ready = anyio.Event()
        self.copy.clear()

    async def _refill(self) -> None:
        """Write all that the copy has to the log."""
        now, written = self.clock.now(), 0

        async def write(namespace: str, entry: Entry) -> None:
            expires = entry.head.expiration
            life_s = int(expires - now) + LIFE_MARGIN_S if expires else 0
            await self.log.append(subject(namespace, entry.head.key), encode(entry), life_s)

        everything = self.copy.everything(now)
        while batch := list(itertools.islice(everything, REFILLED_AT_ONCE)):
            async with anyio.create_task_group() as tasks:
                for namespace, entry in batch:
                    tasks.start_soon(write, namespace, entry)
            written += len(batch)
        _journal.info("kv_log_filled_from_copy", keys=written)

    # -- the log's feed ------------------------------------------------------------------------

    def position(self) -> tuple[str, int]:
        """Return up to where the copy has which stream."""
        return self.copy.source(), self.copy.applied_seq()

    def take(self, come: Come) -> None:
        """Take what the feed brings."""
        if come.source != self.copy.source():
            self.copy.note_source(come.source)
        if come.messages or come.to_seq > self.copy.applied_seq():
            written = [_written(m.seq, m.subject, m.data) for m in come.messages]
            self.copy.apply([each for each in written if each is not None], come.to_seq)
            self._want(each.entry.head.blob for each in written if each is not None)
        if come.in_step:
            now = self.clock.now()
            if now - self.copy.heard_at() > self.limits.kv_sweep_s or not self.ready.is_set():
                self.copy.note_heard(now)
            self.ready.set()

    def _want(self, digests: Iterable[str]) -> None:
        """Have values fetched that other machines wrote."""
        for digest in digests:
            if digest and not self.blobs.has(digest) and len(self.wanted) < WANTED_MAX:
                self.wanted.add(digest)

    def sweep(self) -> None:
        """Reclaim what has expired."""
        while self.copy.sweep(self.clock.now(), SWEPT_AT_ONCE) == SWEPT_AT_ONCE:
            pass

    def sweep_blobs(self) -> int:
        """Remove blobs that nothing names any more; return how many. Blocks."""
        before = self.blobs.now_ns() - int(self.limits.kv_blob_grace_s * 1e9)
        held = [blob for blob in self.blobs.held() if blob.used_ns < before]
        named = self.copy.blobs_named() if held else set()
        return sum(self.blobs.let_go(blob) for blob in held if blob.digest not in named)


def _new(stream: Stream) -> str:
    """Return a stream's name if nothing was ever written to it."""
    return "" if stream.last_seq else stream.created


def _written(seq: int, told: str, body: bytes) -> Written | None:
    try:
        return Written(seq, namespace_of(told), decode(body))
    except NotAnEntry as error:
        _journal.error("kv_entry_unreadable", seq=seq, why=str(error))
        return None


def _unavailable(error: KytheraError) -> Failed:
    assert isinstance(error, StoreUnavailable), f"a store raises nothing else: {error!r}"
    return Failed(503, str(error))
