"""The one stream that is the log, on the servers of one epoch: its settings, and what state it is in.

A stream is *open* (it takes writes), *frozen* (the log is moving away: what it holds is final) or
*copying* (the log is moving here). At any moment at most one stream of a fleet is open: the next is
opened when the old one was frozen and all of it was copied. Frozen is a thing of the server (its
stream no longer listens to the records' subjects), so that nobody who is connected can write;
copying is a mark that every client looks for when it connects, before it does anything.
"""

import base64
import json
from datetime import datetime
from typing import Any, NamedTuple

from nats.js.api import StorageType, StreamConfig, StreamInfo
from nats.js.errors import APIError, BadRequestError, NotFoundError

from kythera.distribute.link import Link, LinkLost
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits

STREAM = "RECORDS"
PREFIX = "rec."
OPEN_SUBJECTS = [PREFIX + ">"]
FROZEN_SUBJECTS = ["frozen.>"]
FROZEN_MARK = "frozen.mark"
"""The one subject that is written after the freeze; it is no record."""
STATE_MARK = "kythera-state"
COPYING = "copying"
HEADERS_BYTES_MAX = 4_096
DEDUPLICATION_S = 120.0
CONSUMERS_MAX = 5_000
"""Followers of one log; a stream that does not say has 1,000."""
MESSAGE_ID = "Nats-Msg-Id"
FROM = "Kythera-From"
"""On a record that was copied from an older epoch's stream: its sequence there."""
API_MS = 2_000
ATTEMPT_MS = 2_000
STREAM_EXISTS_OTHERWISE = 10_058
NOT_FOUND = (10_037, 10_043, 10_057)
"""No such message, by subject or by sequence."""


class LogMoving(StoreUnavailable):
    """This server's stream takes no writes: the log is moving to other servers, or has moved."""


class StreamState(NamedTuple):
    """What a server says of its stream. `replicas` counts those that have all of it."""

    open: bool
    frozen: bool
    first_seq: int
    last_seq: int
    messages: int
    current: int


def stream_config(
    limits: Limits, machines: int = 1, first_seq: int | None = None, *, copying: bool = False
) -> StreamConfig:
    """Return the settings of the stream on so many machines."""
    return StreamConfig(
        name=STREAM,
        subjects=list(OPEN_SUBJECTS),
        max_msgs_per_subject=1,
        storage=StorageType.FILE,
        num_replicas=machines,
        duplicate_window=DEDUPLICATION_S,
        max_msg_size=limits.record_bytes_max + HEADERS_BYTES_MAX,
        allow_direct=True,
        max_consumers=CONSUMERS_MAX if machines > 1 else None,
        first_seq=first_seq,
        metadata={STATE_MARK: COPYING} if copying else None,
    )


def state_of(info: StreamInfo) -> StreamState:
    """Return a stream's state (pure)."""
    config = info.config
    frozen = config.subjects != OPEN_SUBJECTS
    copying = (config.metadata or {}).get(STATE_MARK) == COPYING
    replicas = (info.cluster.replicas or []) if info.cluster is not None else []
    led = info.cluster is None or bool(info.cluster.leader)
    return StreamState(
        open=not frozen and not copying,
        frozen=frozen,
        first_seq=info.state.first_seq,
        last_seq=info.state.last_seq,
        messages=info.state.messages,
        current=int(led) + sum(1 for replica in replicas if replica.current),
    )


async def stream_state(link: Link) -> StreamState | None:
    """Ask for the stream's state; None when there is no stream."""
    info = await _info(link)
    return None if info is None else state_of(info)


async def _info(link: Link) -> StreamInfo | None:
    with link.guard():
        manager = link.client.jetstream(timeout=API_MS / 1000)
        try:
            return await manager.stream_info(STREAM)
        except NotFoundError:
            return None
    raise LinkLost


async def refuse_moving(link: Link) -> None:
    """Raise LogMoving unless the stream is there and open."""
    state = await stream_state(link)
    if state is None or not state.open:
        raise LogMoving("The log is moving to other servers.", remedy="It takes a few seconds.")


async def use_stream(link: Link, limits: Limits) -> None:
    """Make a new connection fit to be used, or raise LogMoving.

    On a server that stands alone the stream is made when it is missing, and brought to the newest
    settings. In a cluster only the move that brings the log there makes it. A frozen stream may be
    read: who has not seen yet where the log goes learns it there."""
    info = await _info(link)
    link.clustered = "cluster" in link.client._server_info
    if info is None and not link.clustered:
        await make_stream(link, stream_config(limits))
        return
    state = None if info is None else state_of(info)
    if info is None or state is None or not (state.open or state.frozen):
        raise LogMoving("The log is moving to this server.", remedy="It takes a few seconds.")
    wanted = stream_config(limits)
    if not link.clustered and state.open and info.config.max_msg_size != wanted.max_msg_size:
        # Only then: an update also names the subjects, and would open what a move froze meanwhile.
        await change_stream(link, wanted)


async def make_stream(link: Link, config: StreamConfig) -> None:
    """Make the stream. No harm when it is there already, whatever its settings."""
    with link.guard():
        manager = link.client.jetstream(timeout=API_MS / 1000)
        try:
            await manager.add_stream(config)
        except BadRequestError as error:
            if error.err_code != STREAM_EXISTS_OTHERWISE:
                raise
        except APIError as error:
            raise StoreUnavailable(f"The log's stream cannot be made: {error}.") from error


async def change_stream(link: Link, config: StreamConfig) -> None:
    """Give the stream other settings."""
    with link.guard():
        manager = link.client.jetstream(timeout=API_MS / 1000)
        try:
            await manager.update_stream(config)
        except APIError as error:
            raise StoreUnavailable(f"The log's stream cannot be changed: {error}.") from error


def read_headers(text: bytes) -> dict[str, str]:
    """Return the headers of a stored message (pure): lines after `NATS/1.0`."""
    lines = text.decode(errors="replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip(): value.strip() for name, _, value in pairs}


class ApiRefusal(Exception):
    """JetStream answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("description", error)))
        self.code = int(error.get("err_code", 0))
        self.passing = error.get("code") in (408, 429, 503)
        """Whether the server itself says that trying again may help."""


async def ask_api(link: Link, what: str, body: dict[str, object]) -> dict[str, Any]:
    """Ask JetStream's API (`STREAM.INFO.RECORDS` …). Raises ApiRefusal."""
    request = json.dumps(body).encode()
    answer: dict[str, Any] = json.loads(await link.request(f"$JS.API.{what}", request, {}, API_MS))
    if "error" in answer:
        raise ApiRefusal(answer["error"])
    return answer


async def ask_api_unless_gone(
    link: Link, what: str, body: dict[str, object]
) -> dict[str, Any] | None:
    """Ask the API; None when what it is about is not there."""
    try:
        return await ask_api(link, what, body)
    except ApiRefusal as refusal:
        if refusal.code not in NOT_FOUND:
            raise
        return None


class Stored(NamedTuple):
    """A message as the stream holds it; `at` in Unix seconds."""

    seq: int
    data: bytes
    at: float
    headers: dict[str, str]


async def stored_message(link: Link, wanted: dict[str, object]) -> Stored | None:
    """Return one message (`last_by_subj`, `seq`, or `seq` with `next_by_subj`); None: there is none."""
    answer = await ask_api_unless_gone(link, f"STREAM.MSG.GET.{STREAM}", wanted)
    if answer is None:
        return None
    found = answer["message"]
    return Stored(
        seq=int(found["seq"]),
        data=base64.b64decode(found.get("data", "")),
        at=datetime.fromisoformat(found["time"]).timestamp(),
        headers=read_headers(base64.b64decode(found.get("hdrs", ""))),
    )


async def publish(link: Link, subject: str, body: bytes, headers: dict[str, str]) -> int:
    """Write one message and return its sequence. Raises ApiRefusal."""
    answer = json.loads(await link.request(subject, body, headers, ATTEMPT_MS))
    if "error" in answer:
        raise ApiRefusal(answer["error"])
    return int(answer["seq"])
