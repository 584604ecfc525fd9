"""What a simulated machine reaches of others: the log through a core machine, a copy through a relay.

`ReachedLog` is the log as `distribute.direct` and `distribute.pruning` ask it; `RelayClient` is the
mesh client as `distribute.relay.RelayLog` asks it. Behind both are links that lose, delay and cut.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import httpx
from nats.aio.msg import Msg

from kythera.distribute.feed import Broken, Feed
from kythera.distribute.link import Link
from kythera.distribute.log import Entry, LogBehind
from kythera.model.errors import Conflict, StoreUnavailable
from kythera.sim.fleet_decisions import Decisions
from kythera.sim.fleet_ground import Fleet
from kythera.sim.fleet_log import Guarded, Write
from kythera.sim.fleet_machine import Host
from kythera.sim.fleet_serve import Reader, Servers
from kythera.sim.fleet_task import Mailbox, Wait, pause

T = TypeVar("T")
ANSWER_S, RETRY_S, APPEND_S, FEED_SILENT_S = 0.6, 0.2, 6.0, 2.5
GUARDED = -1


@dataclass(frozen=True)
class Delivery:
    """One message as nats-server sends it."""

    reply: str
    subject: str
    data: bytes
    headers: dict[str, str] | None = None


class ReachedLog:
    """The log, for one life of one machine."""

    def __init__(self, fleet: Fleet, decisions: Decisions, servers: Servers, host: Host) -> None:
        self._fleet = fleet
        self._decisions = decisions
        self._servers = servers
        self._host = host
        self._failed_at: dict[str, float] = {}
        self._tries = 0
        self._linked: str | None = None
        """Who has answered last: it is asked until it does not."""

    # -- asking ------------------------------------------------------------------------------------

    async def _at(self, question: Callable[[Host], T | None]) -> T | None:
        """Ask the core machine whose turn it is; note when it does not answer."""
        core = self._linked
        if core is None:
            core = self._decisions.core_to_ask(self._host, self._failed_at, self._tries)
            self._tries += 1
        answer = await Wait[T | None](
            lambda tell: self._fleet.ask(self._host, core, question, tell, ANSWER_S)
        )
        self._linked = None if answer is None else core
        if answer is None:
            self._failed_at[core] = self._fleet.time.now
        else:
            self._failed_at.pop(core, None)
        return answer

    async def _asked(self, question: Callable[[Host], T | None]) -> T:
        """Ask until somebody answers or the deadline has passed."""
        ends_at = self._fleet.time.now + APPEND_S
        while self._fleet.time.now < ends_at:
            answer = await self._at(question)
            if answer is not None:
                return answer
            await pause(self._host, RETRY_S)
        raise StoreUnavailable("The log did not answer in time.")

    def leads(self, core: Host) -> Host | None:
        """Return the leader, if `core` holds the log and reaches it."""
        log = self._fleet.log
        if core.name not in log.cores or log.step_down():
            return None
        assert log.leader is not None
        return self._fleet.hosts[log.leader] if self._fleet.talks(core.name, log.leader) else None

    def _known(self, core: Host, question: Callable[[], T]) -> T | None:
        return None if self.leads(core) is None else question()

    async def last_seq(self) -> int:
        """Return the newest sequence; only the leader says."""
        return await self._asked(lambda core: self._known(core, lambda: self._fleet.log.last_seq))

    async def newest(self, key: str) -> Entry | None:
        """Return a key's newest entry; None when it never was, or its end is forgotten."""
        log = self._fleet.log
        found = await self._asked(lambda core: self._known(core, lambda: [log.held(key)]))
        return found[0]

    async def written_at(self, seq: int) -> float | None:
        """Return when an entry was written; None: it is gone."""
        log = self._fleet.log
        found = await self._asked(lambda core: self._known(core, lambda: [log.written_at(seq)]))
        return found[0]

    async def erase(self, seq: int) -> None:
        """Forget one entry for good."""
        await self._asked(lambda core: self._known(core, lambda: self._fleet.log.erase(seq)))

    async def append(
        self,
        key: str,
        value: bytes | None,
        *,
        expected_seq: int | None = None,
        message_id: str | None = None,
    ) -> int:
        """Write a record, tried with one message id until it is acknowledged or too late."""
        call = message_id or f"{self._host.name}-{self._fleet.next_number()}"
        ends_at, tries = self._fleet.time.now + APPEND_S, 0
        while self._fleet.time.now < ends_at:
            mark = self._decisions.mark(call, tries)
            write = Write(key, value, expected_seq, mark, call)
            seq = await self._at(self._writing(write))
            if seq == GUARDED:
                raise Conflict(f"{key} was changed by somebody else.")
            if seq is not None:
                return seq
            tries += 1
            await pause(self._host, RETRY_S)
        raise StoreUnavailable(f"The log did not acknowledge {key}.")

    def _writing(self, write: Write) -> Callable[[Host], int | None]:
        def at(core: Host) -> int | None:
            try:
                return self._known(core, lambda: self._fleet.log.append(write))
            except Guarded:
                return GUARDED

        return at

    # -- following ---------------------------------------------------------------------------------

    async def follow(self, after_seq: int) -> AsyncGenerator[list[Entry], None]:
        """Yield what comes after `after_seq`, as `JetStreamLog.follow` does: it resumes by itself."""
        seq = after_seq
        resumed = False
        while True:
            mailbox: Mailbox[tuple[int, list[Entry]]] = Mailbox(self._host)
            try:
                await self._open(seq, mailbox)
                if resumed:
                    yield []
                resumed = True
                heard_at = self._fleet.time.now
                feed = Feed(cast("Link", None), "RECORDS", "rec.", seq, int(FEED_SILENT_S * 1000))
                while True:
                    batch = await self._batch(feed, mailbox)
                    if batch:
                        seq, heard_at = batch[-1].seq, self._fleet.time.now
                        yield batch
                    elif self._fleet.time.now - heard_at > FEED_SILENT_S:
                        await self._refuse_stale(seq)
                        heard_at = self._fleet.time.now
            except Broken:
                pass
            finally:
                mailbox.close()
            await pause(self._host, RETRY_S)

    async def _open(self, seq: int, mailbox: Mailbox[tuple[int, list[Entry]]]) -> None:
        last = await self._asked(lambda core: self._known(core, lambda: self._fleet.log.last_seq))
        if last < seq:
            raise LogBehind(f"The log ends at {last}.")
        life = self._host.life
        reader = Reader(
            self._host.name,
            mailbox.put,
            lambda: mailbox.open and self._host.life == life,
        )
        if not await self._at(lambda core: self._consumer(core, reader, seq)):
            raise Broken("no consumer")

    def _consumer(self, core: Host, reader: Reader, seq: int) -> bool | None:
        return self._known(core, lambda: self._servers.consume(core, reader, seq) or None)

    async def _refuse_stale(self, seq: int) -> None:
        """Leave a server that is cut off from the others: its own replica stands still."""
        log = self._fleet.log
        newest = await self._at(lambda core: self._known(core, lambda: log.last_seq))
        if newest is None or newest > seq:
            raise Broken("nothing came though there is something")

    async def _batch(self, feed: Feed, mailbox: Mailbox[tuple[int, list[Entry]]]) -> list[Entry]:
        """Return what one delivery brings; none when it is a heartbeat. Raises Broken."""
        came = await mailbox.get(FEED_SILENT_S)
        if came is None:
            raise Broken("not even a heartbeat")
        before, entries = came
        messages = [_message(e, before + n) for n, e in enumerate(entries, 1)] or [_beat(before)]
        feed._arrived.extend(cast("list[Msg]", messages))
        return await feed.next_batch()


def _message(entry: Entry, delivery: int) -> Delivery:
    reply = f"$JS.ACK.RECORDS.c.1.{entry.seq}.{delivery}.0.0"
    return Delivery(reply, f"rec.{entry.key}", entry.value or b"")


def _beat(deliveries: int) -> Delivery:
    return Delivery("", "", b"", {"Status": "100", "Nats-Last-Consumer": str(deliveries)})


@dataclass
class Answer:
    """A relay's answer: a status, then pieces as they come."""

    status_code: int
    mailbox: Mailbox[bytes]
    silent_s: float

    async def aread(self) -> bytes:
        """Return what a refusal says."""
        return b"refused"

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        """Yield pieces until the stream has ended or nothing came for too long."""
        while True:
            piece = await self.mailbox.get(self.silent_s)
            if not piece:
                return
            yield piece


class RelayClient:
    """Asks other machines for their records."""

    def __init__(self, fleet: Fleet, servers: Servers, host: Host, silent_s: float) -> None:
        self._fleet = fleet
        self._servers = servers
        self._host = host
        self._silent_s = silent_s

    @asynccontextmanager
    async def stream(
        self, peer: str, recorded: str, method: str, path: str, **more: Any
    ) -> AsyncIterator[httpx.Response]:
        """Open `GET /records?after=…` at a machine."""
        after = int(path.partition("after=")[2].partition("&")[0])
        mailbox: Mailbox[bytes] = Mailbox(self._host)
        life = self._host.life
        reader = Reader(
            self._host.name, mailbox.put, lambda: mailbox.open and self._host.life == life
        )
        snapshot = "snapshot" in path
        status = await Wait[int | None](
            lambda tell: self._fleet.ask(
                self._host,
                peer,
                lambda host: self._servers.open(host, reader, after, snapshot=snapshot),
                tell,
                ANSWER_S,
            )
        )
        try:
            if status is None:
                raise StoreUnavailable(f"{peer} does not answer.")
            yield cast("httpx.Response", Answer(status, mailbox, self._silent_s))
        finally:
            mailbox.close()
