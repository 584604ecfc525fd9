"""The log on NATS JetStream: one compacted stream, written durably, followed by sequence.

Promises what `log.Log` promises. nats-server 2.15 checks an expected sequence *before* it looks
for a repeated message id, so a retry after a lost acknowledgement looks like a conflict; `append`
then asks the server whether the write was ours (see `_was_ours`).
"""

import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import anyio
import structlog
from nats.errors import Error as NatsError
from nats.js.api import StorageType, StreamConfig
from nats.js.errors import APIError, BadRequestError, NotFoundError

from kythera.distribute.address import LogAddress, address_at, read_log_address
from kythera.distribute.feed import Broken, Feed
from kythera.distribute.link import Link, LinkLost, Links, keep_linked
from kythera.distribute.log import Entry, LogBehind, refuse_bad_record
from kythera.ground.chance import Chance, SystemChance
from kythera.model.errors import Conflict, StoreUnavailable
from kythera.model.limits import Limits

__all__ = ["JetStreamLog", "LogAddress", "open_log", "read_log_address"]

STREAM = "RECORDS"
PREFIX = "rec."
HEADERS_BYTES_MAX = 4_096
DEDUPLICATION_S = 120.0
ATTEMPT_MS = 2_000
API_MS = 2_000
RETRY_MS = 50

STREAM_EXISTS_OTHERWISE = 10_058
WRONG_LAST_ID = 10_070
WRONG_LAST_SEQUENCE = (10_071, 10_164)
NOT_FOUND = (10_037, 10_043, 10_057)
"""No such message, by subject or by sequence."""
NOBODYS_ID = "kythera.nobody"
"""A message id that no append has."""

T = TypeVar("T")
_events = structlog.get_logger()


class _Refused(Exception):
    """JetStream answered a publish with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("description", error)))
        self.code = int(error.get("err_code", 0))
        self.passing = error.get("code") in (408, 429, 503)
        """Whether the server itself says that trying again may help."""


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
        with anyio.move_on_after(self._limits.append_ms / 1000):
            while True:
                link = await self._links.ready()
                try:
                    return await self._write(link, key, value or b"", mark, expected_seq)
                except _Refused as refusal:
                    if not refusal.passing:
                        raise self._unwritten(key, str(refusal)) from None
                    self._links.last_error = str(refusal)
                except (LinkLost, NatsError, TimeoutError) as error:
                    self._links.last_error = str(error) or type(error).__name__
                await anyio.sleep(RETRY_MS / 1000)
        raise self._unwritten(key, self._links.last_error)

    def _unwritten(self, key: str, why: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"The log did not acknowledge {key} within {self._limits.append_ms} ms: {why}.",
            remedy="It may have been written or not: try again, or look at nats-server's events.",
        )

    async def _write(
        self, link: Link, key: str, body: bytes, mark: str, expected_seq: int | None
    ) -> int:
        try:
            return await _publish(link, key, body, mark, expected_seq)
        except _Refused as refusal:
            if refusal.code not in WRONG_LAST_SEQUENCE:
                raise
        ours = await self._was_ours(link, key, mark)
        if ours is not None:
            return ours
        if expected_seq == 0:
            ended = await _tombstone_seq(link, key)
            if ended is not None:
                return await self._write(link, key, body, mark, ended)
        raise Conflict(
            f"{key} was changed by somebody else.", remedy="Read the record again and retry."
        )

    async def _was_ours(self, link: Link, key: str, mark: str) -> int | None:
        """Return the sequence under which `mark` was written, None if it never was.

        Publishes once more under a condition that cannot hold. The server looks for a repeated
        message id before it looks at that condition: a repeat is acknowledged with the sequence
        of the first, anything else is refused and nothing is written.
        """
        headers = {"Nats-Msg-Id": mark, "Nats-Expected-Last-Msg-Id": NOBODYS_ID}
        try:
            return await _acknowledged(link, key, b"", headers)
        except _Refused as refusal:
            if refusal.code != WRONG_LAST_ID:
                raise
            return None

    async def follow(self, after_seq: int) -> AsyncGenerator[list[Entry], None]:
        """Yield what comes after `after_seq`, in order, in batches; never ends."""
        seq = after_seq
        while True:
            link = await self._links.ready()
            feed = Feed(link, STREAM, PREFIX, seq)
            try:
                await _refuse_behind(link, seq)
                await feed.open()
                while True:
                    batch = await feed.next_batch()
                    if batch:
                        seq = batch[-1].seq
                        yield batch
            except (Broken, LinkLost, NatsError, TimeoutError) as error:
                _events.info("log_feed_reopened", after_seq=seq, why=_why(error))
            finally:
                await feed.close()
            await anyio.sleep(RETRY_MS / 1000)

    async def last_seq(self) -> int:
        """Return the newest sequence number, 0 for an empty log."""
        with anyio.move_on_after(self._limits.append_ms / 1000):
            while True:
                link = await self._links.ready()
                try:
                    return await _last_seq(link)
                except (LinkLost, NatsError, TimeoutError) as error:
                    self._links.last_error = _why(error)
                await anyio.sleep(RETRY_MS / 1000)
        raise StoreUnavailable(
            f"The log did not answer within {self._limits.append_ms} ms: {self._links.last_error}.",
            remedy="Look at nats-server's events.",
        )

    async def newest(self, key: str) -> Entry | None:
        """Return a key's newest entry; None when it never was, or its end is forgotten."""

        async def ask(link: Link) -> Entry | None:
            found = await _message(link, {"last_by_subj": PREFIX + key})
            return None if found is None else Entry(found.seq, key, found.data or None)

        return await self._asked(ask)

    async def written_at(self, seq: int) -> float | None:
        """Return when an entry was written, by its server's clock (Unix seconds); None: gone."""

        async def ask(link: Link) -> float | None:
            found = await _message(link, {"seq": seq})
            return None if found is None else found.at

        return await self._asked(ask)

    async def erase(self, seq: int) -> None:
        """Forget one entry for good. No harm when it is gone already."""

        async def ask(link: Link) -> None:
            await _managed(link, f"MSG.DELETE.{STREAM}", {"seq": seq, "no_erase": True})

        await self._asked(ask)

    async def _asked(self, ask: Callable[[Link], Awaitable[T]]) -> T:
        """Return what `ask` finds out, tried again over cuts until `append_ms`."""
        with anyio.move_on_after(self._limits.append_ms / 1000):
            while True:
                link = await self._links.ready()
                try:
                    return await ask(link)
                except (LinkLost, NatsError, TimeoutError, _Refused) as error:
                    self._links.last_error = str(error) or type(error).__name__
                await anyio.sleep(RETRY_MS / 1000)
        raise StoreUnavailable(
            f"The log did not answer within {self._limits.append_ms} ms: {self._links.last_error}.",
            remedy="Look at nats-server's events.",
        )


@asynccontextmanager
async def open_log(
    address: LogAddress | Path,
    limits: Limits | None = None,
    *,
    chance: Chance | None = None,
    within_ms: int | None = None,
) -> AsyncIterator[JetStreamLog]:
    """Connect to the log, waiting until it is there, and stay connected until the block ends.

    A path is read anew at each connection (the file may come late, the port may change). After
    `within_ms` (`append_ms` when not given) without a server: StoreUnavailable. With 0 it does
    not wait: the calls do, each with its own deadline.
    """
    limits = limits or Limits()
    deadline_ms = limits.append_ms if within_ms is None else within_ms
    links = Links()

    def find() -> LogAddress | None:
        return address_at(address) if isinstance(address, Path) else address

    async def prepare(link: Link) -> None:
        await _create_stream(link, limits)

    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_linked, links, find, prepare)
        try:
            if deadline_ms:
                await _first_link(links, address, deadline_ms)
            yield JetStreamLog(links, limits, chance or SystemChance())
        except Exception as error:  # noqa: BLE001 (raised again below, outside the group)
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _first_link(links: Links, address: LogAddress | Path, within_ms: int) -> None:
    with anyio.move_on_after(within_ms / 1000):
        await links.ready()
        return
    where = address if isinstance(address, Path) else address.url
    raise StoreUnavailable(
        f"The log at {where} was not there within {within_ms} ms: {links.last_error}.",
        remedy="The agent starts nats-server: look at its events.",
    )


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


async def _publish(link: Link, key: str, body: bytes, mark: str, expected_seq: int | None) -> int:
    headers = {"Nats-Msg-Id": mark}
    if expected_seq is not None:
        headers["Nats-Expected-Last-Subject-Sequence"] = str(expected_seq)
    return await _acknowledged(link, key, body, headers)


async def _acknowledged(link: Link, key: str, body: bytes, headers: dict[str, str]) -> int:
    answer = json.loads(await link.request(PREFIX + key, body, headers, ATTEMPT_MS))
    if "error" in answer:
        raise _Refused(answer["error"])
    return int(answer["seq"])


class _Stored(NamedTuple):
    """A message as the stream holds it; `at` in Unix seconds."""

    seq: int
    data: bytes
    at: float


async def _message(link: Link, wanted: dict[str, object]) -> _Stored | None:
    answer = await _managed(link, f"MSG.GET.{STREAM}", wanted)
    if answer is None:
        return None
    found = answer["message"]
    at = datetime.fromisoformat(found["time"]).timestamp()
    return _Stored(int(found["seq"]), base64.b64decode(found.get("data", "")), at)


async def _managed(link: Link, what: str, body: dict[str, object]) -> dict[str, Any] | None:
    """Ask the stream's API; None when what it is about is not there."""
    request = json.dumps(body).encode()
    answer: dict[str, Any] = json.loads(
        await link.request(f"$JS.API.STREAM.{what}", request, {}, API_MS)
    )
    error = answer.get("error")
    if error is None:
        return answer
    if error.get("err_code") in NOT_FOUND:
        return None
    raise _Refused(error)


async def _tombstone_seq(link: Link, key: str) -> int | None:
    """Return the sequence of the key's tombstone, None when its newest entry is a value."""
    with link.guard():
        manager = link.client.jetstream(timeout=API_MS / 1000)
        try:
            newest = await manager.get_last_msg(STREAM, PREFIX + key)
        except NotFoundError:
            return 0
        return None if newest.data else newest.seq
    raise LinkLost


async def _last_seq(link: Link) -> int:
    with link.guard():
        manager = link.client.jetstream(timeout=API_MS / 1000)
        return int((await manager.stream_info(STREAM)).state.last_seq)
    raise LinkLost


async def _refuse_behind(link: Link, seq: int) -> None:
    last = await _last_seq(link)
    if last < seq:
        raise LogBehind(
            f"The log ends at {last}, but this machine has already applied {seq}.",
            remedy="The log's store was lost or replaced: restore it, or start a new state folder.",
        )


async def _create_stream(link: Link, limits: Limits) -> None:
    """Make the stream, or bring an older one to these settings."""
    config = StreamConfig(
        name=STREAM,
        subjects=[PREFIX + ">"],
        max_msgs_per_subject=1,
        storage=StorageType.FILE,
        num_replicas=1,
        duplicate_window=DEDUPLICATION_S,
        max_msg_size=limits.record_bytes_max + HEADERS_BYTES_MAX,
        allow_direct=True,
    )
    with link.guard():
        manager = link.client.jetstream(timeout=API_MS / 1000)
        try:
            await manager.add_stream(config)
        except BadRequestError as error:
            if error.err_code != STREAM_EXISTS_OTHERWISE:
                raise
            await manager.update_stream(config)
        except APIError as error:
            raise StoreUnavailable(f"The log's stream cannot be made: {error}.") from error
