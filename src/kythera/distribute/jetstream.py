"""The log on NATS JetStream: one compacted stream, written durably, followed by sequence.

Promises what `log.Log` promises. A nats-server that stands alone checks an expected sequence
*before* it looks for a repeated message id (2.15), so a retry after a lost acknowledgement looks
like a conflict; `append` then finds out whether the write was ours (see `_was_ours`).
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import anyio
import structlog
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from kythera.distribute.address import LogAddress, address_at, read_log_address
from kythera.distribute.feed import Broken, Feed
from kythera.distribute.link import Finder, Link, LinkLost, Links, Secure, Supply, keep_linked
from kythera.distribute.log import Entry, LogBehind, refuse_bad_record
from kythera.distribute.stream import (
    MESSAGE_ID,
    PREFIX,
    STREAM,
    ApiRefusal,
    LogMoving,
    ask_api_unless_gone,
    publish,
    refuse_moving,
    stored_message,
    stream_state,
    use_stream,
)
from kythera.ground.chance import Chance, SystemChance
from kythera.model.errors import Conflict, StoreUnavailable
from kythera.model.limits import Limits

__all__ = ["JetStreamLog", "LogAddress", "open_log", "read_log_address"]

RETRY_MS = 50
OPEN_MS_MIN, OPEN_MS_MAX = 750, 6_000
"""How long a feed may take to begin: it doubles, for links that need more."""
STUCK_TIMES = 3
"""A server that answers but gets nothing done for so many of the longest silences is left for
another: it may be cut off from the other servers. An election takes up to 8 s."""

WRONG_LAST_ID = 10_070
WRONG_LAST_SEQUENCE = 10_071
WRITTEN_NOW = 10_164
"""Somebody's write of this key is under way (and, standing alone, a wrong sequence)."""
REPEATED_NOW = 10_158
"""The first attempt of this very write is under way."""
NOBODYS_ID = "kythera.nobody"
"""A message id that no append has."""

TROUBLE = (LinkLost, NatsError, TimeoutError, ApiRefusal)
"""What may go wrong with one attempt and better with the next."""

T = TypeVar("T")
_events = structlog.get_logger()


class JetStreamLog:
    """The log of this platform's nats-server. Made by `open_log`."""

    def __init__(self, links: Links, limits: Limits, chance: Chance) -> None:
        self._links = links
        self._limits = limits
        self._chance = chance

    async def append(
        self,
        key: str,
        value: bytes | None,
        *,
        expected_seq: int | None = None,
        message_id: str | None = None,
    ) -> int:
        """Write a record and return its sequence number once it is on the disk."""
        refuse_bad_record(key, value, self._limits.record_bytes_max)
        mark = f"{key}:{message_id or self._chance.uuid()}"

        async def write(link: Link) -> int:
            return await self._write(link, key, value or b"", mark, expected_seq)

        try:
            return await self._asked(write, f"did not acknowledge {key}")
        except ApiRefusal as refusal:
            raise self._failed(f"did not acknowledge {key}", str(refusal)) from None

    async def _asked(self, ask: Callable[[Link], Awaitable[T]], what: str = "did not answer") -> T:
        """Return what `ask` achieves, tried again over cuts and elections until `append_ms`.

        Raises ApiRefusal when the server says no for good."""
        with anyio.move_on_after(self._limits.append_ms / 1000):
            while True:
                link = await self._links.ready()
                try:
                    answer = await ask(link)
                    link.troubled_since = None
                    return answer
                except TROUBLE as error:
                    if isinstance(error, ApiRefusal) and not _passing(error, link):
                        raise
                    await self._troubled(link, error)
                await anyio.sleep(RETRY_MS / 1000)
        raise self._failed(what, self._links.last_error)

    def _failed(self, what: str, why: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"The log {what} within {self._limits.append_ms} ms: {why}.",
            remedy="What was to be written may have been or not: try again; `kythera status` and "
            "nats-server's events tell more.",
        )

    async def _troubled(self, link: Link, error: Exception) -> None:
        """Note why an attempt failed; leave a server that gets nothing done, or whose log moved."""
        self._links.last_error = _why(error)
        now = anyio.current_time()
        if link.troubled_since is None:
            link.troubled_since = now
        stuck_s = self._limits.source_silent_ms_max / 1000 * STUCK_TIMES
        if now - link.troubled_since > stuck_s:
            link.cut()
        elif isinstance(error, NoRespondersError):
            try:
                await refuse_moving(link)
            except LogMoving as moving:
                self._links.last_error = _why(moving)
                link.cut()
            except TROUBLE:
                return  # no leader now, or cut: the next attempt will tell

    async def _write(
        self, link: Link, key: str, body: bytes, mark: str, expected_seq: int | None
    ) -> int:
        try:
            return await _publish(link, key, body, mark, expected_seq)
        except ApiRefusal as refusal:
            if not _contested(refusal, link):
                raise
        ours = await _was_ours(link, key, mark)
        if ours is not None:
            return ours
        if expected_seq == 0:
            ended = await _tombstone_seq(link, key)
            if ended is not None:
                return await self._write(link, key, body, mark, ended)
        raise Conflict(
            f"{key} was changed by somebody else.", remedy="Read the record again and retry."
        )

    async def follow(self, after_seq: int) -> AsyncGenerator[list[Entry], None]:
        """Yield what comes after `after_seq`, in order, in batches; never ends."""
        seq = after_seq
        silent_ms, open_ms = self._limits.source_silent_ms_max, OPEN_MS_MIN
        resumed = False
        while True:
            link = await self._links.ready()
            feed = Feed(link, STREAM, PREFIX, seq, silent_ms)
            try:
                await _refuse_behind(link, seq)
                await feed.open(open_ms)
                open_ms = OPEN_MS_MIN
                if resumed:
                    yield []
                resumed = True
                heard_at = anyio.current_time()
                while True:
                    batch = await feed.next_batch()
                    now = anyio.current_time()
                    if batch:
                        seq, heard_at = batch[-1].seq, now
                        link.troubled_since = None
                        yield batch
                    elif (now - heard_at) * 1000 > silent_ms:
                        await _refuse_stale(link, seq)
                        heard_at = now
            except (Broken, *TROUBLE) as error:
                if isinstance(error, TimeoutError):
                    open_ms = min(open_ms * 2, OPEN_MS_MAX)
                _events.info("log_feed_reopened", after_seq=seq, why=_why(error))
                await self._troubled(link, error)
            except LogMoving as moving:
                self._links.last_error = _why(moving)
                link.cut()
            finally:
                await feed.close()
            await anyio.sleep(RETRY_MS / 1000)

    async def last_seq(self) -> int:
        """Return the newest sequence number, 0 for an empty log."""
        return await self._asked(_last_seq)

    async def newest(self, key: str) -> Entry | None:
        """Return a key's newest entry; None when it never was, or its end is forgotten."""

        async def ask(link: Link) -> Entry | None:
            found = await stored_message(link, {"last_by_subj": PREFIX + key})
            return None if found is None else Entry(found.seq, key, found.data or None)

        return await self._asked(ask)

    async def written_at(self, seq: int) -> float | None:
        """Return when an entry was written, by its server's clock (Unix seconds); None: gone."""

        async def ask(link: Link) -> float | None:
            found = await stored_message(link, {"seq": seq})
            return None if found is None else found.at

        return await self._asked(ask)

    async def erase(self, seq: int) -> None:
        """Forget one entry for good. No harm when it is gone already."""

        async def ask(link: Link) -> None:
            await ask_api_unless_gone(
                link, f"STREAM.MSG.DELETE.{STREAM}", {"seq": seq, "no_erase": True}
            )

        await self._asked(ask)


class _Fixed:
    """A finder with one answer; a path is read anew each time."""

    def __init__(self, where: LogAddress | Path) -> None:
        self._where = where

    def find(self) -> LogAddress | None:
        """Return the address."""
        return address_at(self._where) if isinstance(self._where, Path) else self._where

    def failed(self, address: LogAddress) -> None:
        """There is no other."""

    def worked(self, address: LogAddress) -> None:
        """There is no other."""

    def is_outdated(self, address: LogAddress) -> bool:
        """Tell whether the file names another server now."""
        found = self.find()
        return found is not None and found != address


@asynccontextmanager
async def open_log(
    where: LogAddress | Path | Finder,
    limits: Limits | None = None,
    *,
    chance: Chance | None = None,
    within_ms: int | None = None,
    secure: Secure | None = None,
) -> AsyncIterator[JetStreamLog]:
    """Connect to the log, waiting until it is there, and stay connected until the block ends.

    A path is read anew at each connection (the file may come late, the port may change); a finder
    says each time whom to try next (`core_finder.CoreFinder`), and for other machines' addresses
    `secure` makes the TLS settings. After `within_ms` (`append_ms` when not given) without a
    server: StoreUnavailable. With 0 it does not wait: the calls do, each with its own deadline.
    """
    limits = limits or Limits()
    deadline_ms = limits.append_ms if within_ms is None else within_ms
    links = Links()
    finder = _Fixed(where) if isinstance(where, LogAddress | Path) else where
    supply = Supply(finder, secure, limits.source_silent_ms_max)

    async def prepare(link: Link) -> None:
        await use_stream(link, limits)

    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_linked, links, supply, prepare)
        try:
            if deadline_ms:
                await _first_link(links, where, deadline_ms)
            yield JetStreamLog(links, limits, chance or SystemChance())
        except Exception as error:  # noqa: BLE001 (raised again below, outside the group)
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _first_link(links: Links, where: LogAddress | Path | Finder, within_ms: int) -> None:
    with anyio.move_on_after(within_ms / 1000):
        await links.ready()
        return
    named = "The log"
    if isinstance(where, LogAddress | Path):
        named += f" at {where.url if isinstance(where, LogAddress) else where}"
    raise StoreUnavailable(
        f"{named} was not there within {within_ms} ms: {links.last_error}.",
        remedy="The agent starts nats-server: look at its events.",
    )


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


def _passing(refusal: ApiRefusal, link: Link) -> bool:
    """Tell whether the same attempt may do better a moment later."""
    if refusal.code == REPEATED_NOW:
        return True
    return refusal.passing or (link.clustered and refusal.code == WRITTEN_NOW)


def _contested(refusal: ApiRefusal, link: Link) -> bool:
    """Tell whether the key has another sequence than was expected."""
    alone = not link.clustered and refusal.code == WRITTEN_NOW
    return refusal.code == WRONG_LAST_SEQUENCE or alone


async def _publish(link: Link, key: str, body: bytes, mark: str, expected_seq: int | None) -> int:
    headers = {MESSAGE_ID: mark}
    if expected_seq is not None:
        headers["Nats-Expected-Last-Subject-Sequence"] = str(expected_seq)
    return await publish(link, PREFIX + key, body, headers)


async def _was_ours(link: Link, key: str, mark: str) -> int | None:
    """Return the sequence under which `mark` was written, None if it never was.

    In a cluster a repeated message id was looked for before the sequence, so only what an earlier
    epoch's servers acknowledged can be ours: the key's newest entry tells. A server that stands
    alone is asked by publishing once more under a condition that cannot hold: a repeat is
    acknowledged with the sequence of the first, anything else is refused and nothing is written.
    (Never ask a cluster so: nats-server 2.15 then stops acknowledging for good.)
    """
    newest = await stored_message(link, {"last_by_subj": PREFIX + key})
    if newest is not None and newest.headers.get(MESSAGE_ID) == mark:
        return newest.seq
    if link.clustered:
        return None
    headers = {MESSAGE_ID: mark, "Nats-Expected-Last-Msg-Id": NOBODYS_ID}
    try:
        return await publish(link, PREFIX + key, b"", headers)
    except ApiRefusal as refusal:
        if refusal.code != WRONG_LAST_ID:
            raise
        return None


async def _tombstone_seq(link: Link, key: str) -> int | None:
    """Return the sequence of the key's tombstone (0: it never was), None when it has a value."""
    newest = await stored_message(link, {"last_by_subj": PREFIX + key})
    if newest is None:
        return 0
    return None if newest.data else newest.seq


async def _last_seq(link: Link) -> int:
    state = await stream_state(link)
    if state is None:
        raise LinkLost
    return state.last_seq


async def _refuse_behind(link: Link, seq: int) -> None:
    last = await _last_seq(link)
    if last < seq:
        raise LogBehind(
            f"The log ends at {last}, but this machine has already applied {seq}.",
            remedy="The log's store was lost or replaced: restore it, or start a new state folder.",
        )


async def _refuse_stale(link: Link, seq: int) -> None:
    """Raise when nothing came for a while though there was something: LogMoving, Broken, or what
    a server raises that is cut off from the others."""
    state = await stream_state(link)
    if state is None or not state.open:
        raise LogMoving("The log has moved to other servers.")
    if state.last_seq > seq:
        raise Broken(f"nothing came though the log is at {state.last_seq}")
