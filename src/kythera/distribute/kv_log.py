"""The log of Workers KV: a stream of its own beside the records', on the same nats-server.

Promises: an acknowledged write survives a loss of power (`sync_interval: always`), and one order
holds for all machines; a write that is tried again after a cut is made once; `follow` resumes after
any cut without a gap. Of each key the newest entry is kept; what has a life (`life_s`) is forgotten
by the server itself afterwards.
Refuses: to write where the log has moved to several machines (a cluster): the stream does not move
with the records' yet. Copies serve on there, and say that they are no longer in step.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

import anyio
import structlog

from kythera.distribute.feed import Arrived, Broken, Feed
from kythera.distribute.jetstream import OPEN_MS_MAX, OPEN_MS_MIN, RETRY_MS, TROUBLE
from kythera.distribute.link import Finder, Link, Links, Secure, Supply, keep_linked
from kythera.distribute.stream import (
    CONSUMERS_MAX,
    DEDUPLICATION_S,
    HEADERS_BYTES_MAX,
    MESSAGE_ID,
    ApiRefusal,
    LogMoving,
    ask_api,
    ask_api_unless_gone,
    publish,
)
from kythera.ground.chance import Chance, SystemChance
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits

STREAM = "KV"
SUBJECTS = "kv.>"
LIFE = "Nats-TTL"
NO_STREAM = 10_059
FULL = (10_077, 10_047, 10_023)
"""The stream or the server has no room left."""
T = TypeVar("T")
_events = structlog.get_logger("kv-log")


class LogFull(StoreUnavailable):
    """There is no room for more keys."""


class Come(NamedTuple):
    """What the feed brings: messages in order; up to where that is everything (0: not yet known);
    and which stream it is, for one that was lost and made anew begins with the same numbers."""

    messages: list[Arrived]
    to_seq: int
    in_step: bool
    source: str


class Stream(NamedTuple):
    """Which stream the log is, and where it ends; `last_seq` 0: nothing was ever written to it."""

    created: str
    last_seq: int


class Replaced(StoreUnavailable):
    """The log is not the one that this copy was made from."""


def stream_settings(limits: Limits) -> dict[str, Any]:
    """Return the stream's settings, as JetStream's API takes them (pure)."""
    return {
        "name": STREAM,
        "subjects": [SUBJECTS],
        "retention": "limits",
        "storage": "file",
        "num_replicas": 1,
        "max_consumers": CONSUMERS_MAX,
        "max_msgs": -1,
        "max_bytes": limits.kv_log_bytes_max,
        "max_age": 0,
        "max_msgs_per_subject": 1,
        "max_msg_size": limits.record_bytes_max + HEADERS_BYTES_MAX,
        "discard": "new",
        "duplicate_window": int(DEDUPLICATION_S * 1e9),
        "allow_direct": True,
        "allow_msg_ttl": True,
    }


class KvLog:
    """The log. Made by `open_kv_log`."""

    def __init__(self, links: Links, limits: Limits, chance: Chance) -> None:
        self._links = links
        self._limits = limits
        self._chance = chance
        self._room = anyio.Semaphore(limits.kv_writes_at_once)

    async def append(self, subject: str, body: bytes, life_s: int = 0) -> int:
        """Write an entry and return its sequence once it is on the disk. `life_s` 0: for ever.

        Raises StoreUnavailable after `kv_write_ms`: it may have been written, or not."""
        headers = {MESSAGE_ID: self._chance.hex(32)}
        if life_s:
            headers[LIFE] = f"{life_s}s"

        async def write(link: Link) -> int:
            return await publish(link, subject, body, headers)

        async with self._room:
            return await self._asked(write, "did not acknowledge a write")

    async def purge(self, subjects: str) -> None:
        """Forget all entries of some subjects for good."""

        async def ask(link: Link) -> None:
            await ask_api(link, f"STREAM.PURGE.{STREAM}", {"filter": subjects})

        await self._asked(ask, "did not forget what was deleted")

    async def stream(self) -> Stream:
        """Return which stream the log is."""
        return await self._asked(_stream, "did not answer")

    async def _asked(self, ask: Callable[[Link], Awaitable[T]], what: str) -> T:
        with anyio.move_on_after(self._limits.kv_write_ms / 1000):
            while True:
                link = await self._links.ready()
                try:
                    return await ask(link)
                except TROUBLE as error:
                    self._links.last_error = str(error) or type(error).__name__
                    if isinstance(error, ApiRefusal) and (error.code in FULL or not error.passing):
                        raise self._refused(error) from None
                await anyio.sleep(RETRY_MS / 1000)
        raise StoreUnavailable(
            f"KV's log {what} within {self._limits.kv_write_ms} ms: {self._links.last_error}.",
            remedy="It may have been done or not: try again. If the log's disk is full, make room.",
        )

    def _refused(self, error: ApiRefusal) -> StoreUnavailable:
        if error.code in FULL:
            return LogFull(
                f"KV's log is full ({self._limits.kv_log_bytes_max:,} bytes).",
                remedy="Delete keys, or raise the limit kv_log_bytes_max.",
            )
        return StoreUnavailable(f"KV's log refuses: {error}.")

    async def follow(self, after: Callable[[], tuple[str, int]]) -> AsyncGenerator[Come, None]:
        """Yield what comes after a stream's sequence, in order; never ends. `after` is asked at
        each new feed; an empty stream's name stands for any.

        Raises Replaced when the log is another stream, or ends before that."""
        open_ms = OPEN_MS_MIN
        while True:
            link = await self._links.ready()
            source, seq = after()
            feed = Feed(link, STREAM, SUBJECTS[:-1], seq, self._limits.source_silent_ms_max)
            try:
                found = await _stream(link)
                _refuse_replaced(found, source, seq)
                await feed.open(open_ms)
                open_ms = OPEN_MS_MIN
                last = found.last_seq
                while True:
                    yield Come([], seq, seq >= last, found.created)
                    while not (messages := await feed.next_messages()) and seq >= last:
                        yield Come([], seq, in_step=True, source=found.created)
                    if messages:
                        seq = messages[-1].seq
                        yield Come(messages, seq, seq >= last, found.created)
                    elif await _is_dry(link, seq):
                        seq = last  # what was between has been forgotten since
            except (Broken, *TROUBLE) as error:
                open_ms = min(open_ms * 2, OPEN_MS_MAX)
                self._links.last_error = str(error) or type(error).__name__
                _events.info("kv_feed_reopened", after_seq=seq, why=self._links.last_error)
            finally:
                await feed.close()
            await anyio.sleep(RETRY_MS / 1000)


async def _stream(link: Link) -> Stream:
    info = await ask_api(link, f"STREAM.INFO.{STREAM}", {})
    return Stream(info["created"], int(info["state"]["last_seq"]))


def _refuse_replaced(found: Stream, source: str, seq: int) -> None:
    if found.created != source != "" or found.last_seq < seq:
        raise Replaced(
            f"KV's log (made {found.created}, at {found.last_seq}) is not the one that this"
            f" machine's copy was made from ({source}, at {seq}).",
            remedy="Restore the log; or remove the copy to begin with what the log has.",
        )


async def _is_dry(link: Link, seq: int) -> bool:
    """Tell whether the stream holds nothing after `seq`."""
    found = await ask_api_unless_gone(
        link, f"STREAM.MSG.GET.{STREAM}", {"seq": seq + 1, "next_by_subj": SUBJECTS}
    )
    return found is None


async def use_kv_stream(link: Link, limits: Limits) -> None:
    """Make a new connection fit to be used: the stream is there, with the newest settings."""
    link.clustered = "cluster" in link.client._server_info
    if link.clustered:
        raise LogMoving(
            "KV's log does not run on several machines yet.",
            remedy="Move the log to one machine to write keys again.",
        )
    wanted = stream_settings(limits)
    try:
        info = await ask_api(link, f"STREAM.INFO.{STREAM}", {})
    except ApiRefusal as refusal:
        if refusal.code != NO_STREAM:
            raise
        await ask_api(link, f"STREAM.CREATE.{STREAM}", wanted)
        return
    if any(info["config"].get(name) != value for name, value in wanted.items()):
        await ask_api(link, f"STREAM.UPDATE.{STREAM}", wanted)


@asynccontextmanager
async def open_kv_log(
    finder: Finder, limits: Limits, *, chance: Chance | None = None, secure: Secure | None = None
) -> AsyncIterator[KvLog]:
    """Stay connected to KV's log until the block ends. Does not wait: each call has its deadline."""
    links = Links()
    supply = Supply(finder, secure, limits.source_silent_ms_max)

    async def prepare(link: Link) -> None:
        try:
            await use_kv_stream(link, limits)
        except ApiRefusal as refusal:
            raise StoreUnavailable(f"KV's stream cannot be used: {refusal}.") from refusal

    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_linked, links, supply, prepare)
        try:
            yield KvLog(links, limits, chance or SystemChance())
        except Exception as error:  # noqa: BLE001 (raised again below, outside the group)
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
