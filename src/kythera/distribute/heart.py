"""The heartbeat: one core machine writes a record each second, by whose age every machine knows how
far behind it is. When the writer falls silent the next in line begins, without being told.

A machine alone writes none. Each beat is written over the one before it that this machine has
seen, so that two who both think it is their turn do not both write; who comes second waits again.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import anyio
import msgspec
import structlog

from kythera.distribute.cores import heartbeat_writer
from kythera.distribute.log import Entry
from kythera.ground.clock import Clock
from kythera.model.errors import Conflict, StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.records import Heartbeat, UnknownSchema, decode, encode

KEY = "heartbeat.fleet"
LOOKS = 10
"""In the time between two beats."""
GIVE_UP_BEATS = 2
"""A beat that is not acknowledged for so long would tell an old time: a new one is made."""

_events = structlog.get_logger()


class Written(Protocol):
    """The log, as far as a heart needs it (`JetStreamLog`, `MemoryLog`)."""

    async def append(
        self, key: str, value: bytes | None, *, expected_seq: int | None = None
    ) -> int:
        """Write a record over the one with that sequence."""
        ...

    async def newest(self, key: str) -> Entry | None:
        """Return a key's newest entry."""
        ...


class Copied(Protocol):
    """This machine's copy of the records (`Copy`), to read."""

    def get(self, key: str) -> tuple[int, bytes | None] | None:
        """Return a record's sequence and value."""
        ...


class Turn(NamedTuple):
    """Who holds the log, and whether there is anybody to whom a heartbeat tells something."""

    cores: tuple[str, ...]
    others: bool


class Heart:
    """One machine's part in the fleet's heartbeat."""

    def __init__(self, log: Written, copy: Copied, me: str, limits: Limits, clock: Clock) -> None:
        self._log = log
        self._copy = copy
        self._me = me
        self._limits = limits
        self._clock = clock
        self._newest = Heartbeat(machine="", number=0, at_ms=0)
        self._seq = 0
        self._seen_at = clock.monotonic()
        self._writing = False

    async def beat(self, turn: Callable[[], Turn]) -> None:
        """Write whenever it is this machine's turn, for ever."""
        while True:
            now = turn()
            if now.others and self.is_due(now.cores):
                await self._write()
            await anyio.sleep(self._limits.heartbeat_ms / LOOKS / 1000)

    def is_due(self, cores: tuple[str, ...]) -> bool:
        """Look at the newest heartbeat in the copy; tell whether this machine is to write one."""
        self._look()
        silent_ms = (self._clock.monotonic() - self._seen_at) * 1000
        writer = self._newest.machine
        due = heartbeat_writer(cores, writer, silent_ms, self._me, self._limits.heartbeat_ms)
        if due != self._writing and (due or writer != self._me):
            self._writing = due
            if due:
                _events.info("heartbeat_begun", before=writer, silent_ms=round(silent_ms))
        return due

    def _look(self) -> None:
        found = self._copy.get(KEY)
        if found is None or found[0] <= self._seq:
            return  # the copy may not show yet what we have just written
        self._seq = found[0]
        self._seen_at = self._clock.monotonic()
        if found[1] is None:
            return
        try:
            self._newest = decode(Heartbeat, found[1])
        except (msgspec.MsgspecError, UnknownSchema):
            return  # a newer Kythera writes it: nobody else's turn, then

    async def _write(self) -> None:
        """Write one beat over the newest that we know, or find that somebody else was first."""
        beat = Heartbeat(
            machine=self._me,
            number=self._newest.number + 1,
            at_ms=round(self._clock.now() * 1000),
        )
        begun = self._clock.monotonic()
        with anyio.move_on_after(self._limits.heartbeat_ms * GIVE_UP_BEATS / 1000):
            try:
                self._seq = await self._log.append(KEY, encode(beat), expected_seq=self._seq)
            except Conflict:
                await self._read_anew()
            except StoreUnavailable:
                return
            else:
                self._newest, self._seen_at = beat, begun

    async def _read_anew(self) -> None:
        """Learn what was written before us, even where the copy does not show it yet."""
        newest = await self._log.newest(KEY)
        if newest is not None and newest.seq > self._seq:
            self._seq = newest.seq
            self._seen_at = self._clock.monotonic()
            if newest.value is not None:
                self._newest = decode(Heartbeat, newest.value)
