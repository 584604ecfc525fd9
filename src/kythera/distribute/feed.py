"""A follower's ordered stream of entries from one connection, and how a gap in it is noticed.

An ephemeral push consumer without acknowledgements: its own sequence counts deliveries, so a
message that was lost on the way shows as a hole there, whatever the compaction of the log left
out. Idle heartbeats show that the consumer still exists. On any doubt `Broken` is raised and the
follower opens the next feed after the last entry it gave out.
"""

import json
from collections import deque
from typing import NamedTuple

import anyio
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from kythera.distribute.link import Link
from kythera.distribute.log import Entry

API_MS = 2_000
CLOSE_MS = 500
HEARTBEATS = 4
"""In the longest silence that is borne."""
INACTIVE_S = 10.0
"""nats-server forgets a consumer nobody listens to after this."""
BATCH_ENTRIES_MAX = 1_000


class Broken(Exception):
    """The feed cannot go on without the risk of a gap; open another."""


class Position(NamedTuple):
    """Where a delivered message stands: in the stream, and among this consumer's deliveries."""

    seq: int
    delivery: int


def position(reply: str) -> Position:
    """Read a delivery's position from its reply subject (pure).

    `$JS.ACK.<stream>.<consumer>.<tries>.<stream seq>.<delivery>.<time>.<pending>`, or with
    `<domain>.<account hash>` before the stream and a token at the end.
    """
    tokens = reply.split(".")
    if tokens[:2] != ["$JS", "ACK"] or len(tokens) not in (9, 11, 12):
        raise Broken(f"a message came with the reply subject {reply!r}")
    shift = 0 if len(tokens) == 9 else 2
    return Position(seq=int(tokens[5 + shift]), delivery=int(tokens[6 + shift]))


class Arrived(NamedTuple):
    """A delivered message, whole."""

    seq: int
    subject: str
    data: bytes
    headers: dict[str, str]


class Feed:
    """One consumer's deliveries, from `open` to `close`."""

    def __init__(
        self, link: Link, stream: str, prefix: str, after_seq: int, silent_ms_max: int
    ) -> None:
        self._link = link
        self._stream = stream
        self._prefix = prefix
        self._seq = after_seq
        self._silent_s_max = silent_ms_max / 1000
        self._deliveries = 0
        self._arrived: deque[Msg] = deque()
        self._arrival = anyio.Event()
        self._subscription: Subscription | None = None
        self._consumer = ""

    async def open(self, within_ms: int = API_MS) -> None:
        """Subscribe, then create the consumer that sends to the subscription.

        A cluster may place the consumer on a server that hangs, without noticing; who tries again
        after TimeoutError gets another."""
        inbox = self._link.client.new_inbox()
        config = ConsumerConfig(
            deliver_subject=inbox,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._seq + 1,
            ack_policy=AckPolicy.NONE,
            max_deliver=1,
            idle_heartbeat=self._silent_s_max / HEARTBEATS,
            flow_control=True,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=INACTIVE_S,
        )
        with self._link.guard(), anyio.fail_after(within_ms / 1000):
            self._subscription = await self._link.client.subscribe(inbox, cb=self._take)
            manager = self._link.client.jetstream(timeout=API_MS / 500)
            self._consumer = (await manager.add_consumer(self._stream, config)).name

    async def _take(self, message: Msg) -> None:
        self._arrived.append(message)
        self._arrival.set()

    async def next_batch(self) -> list[Entry]:
        """Return the records among `next_messages` as entries."""
        return [
            Entry(arrived.seq, arrived.subject.removeprefix(self._prefix), arrived.data or None)
            for arrived in await self.next_messages()
            if arrived.subject.startswith(self._prefix)
        ]

    async def next_messages(self) -> list[Arrived]:
        """Wait for what comes next and return all that has arrived, up to a full batch.

        May be empty (heartbeats alone). Raises Broken or LinkLost."""
        if not self._arrived:
            await self._wait()
        messages: list[Arrived] = []
        while self._arrived and len(messages) < BATCH_ENTRIES_MAX:
            message = self._arrived.popleft()
            if message.headers and "Status" in message.headers:
                await self._obey(message, message.headers)
            else:
                messages.append(self._checked(message))
        return messages

    async def _wait(self) -> None:
        self._arrival = anyio.Event()
        with self._link.guard(), anyio.move_on_after(self._silent_s_max):
            await self._arrival.wait()
        if not self._arrived:
            raise Broken(f"not even a heartbeat for {self._silent_s_max} s")

    def _checked(self, message: Msg) -> Arrived:
        seq, delivery = position(message.reply)
        if delivery != self._deliveries + 1 or seq <= self._seq:
            raise Broken(f"delivery {delivery} came after {self._deliveries}")
        self._deliveries, self._seq = delivery, seq
        return Arrived(seq, message.subject, message.data, message.headers or {})

    async def _obey(self, message: Msg, headers: dict[str, str]) -> None:
        """Answer flow control once all before it was taken; compare heartbeats' counts."""
        delivered = headers.get("Nats-Last-Consumer")
        if delivered is not None and int(delivered) != self._deliveries:
            raise Broken(f"{delivered} were delivered, {self._deliveries} arrived")
        answer_to = message.reply or headers.get("Nats-Consumer-Stalled", "")
        if answer_to:
            with self._link.guard():
                await self._link.client.publish(answer_to)

    async def close(self) -> None:
        """Tell the server that nobody listens any more; no harm when it cannot be reached."""
        if self._subscription is None or self._link.lost.is_set():
            return
        with anyio.move_on_after(CLOSE_MS / 1000, shield=True):
            try:
                await self._subscription.unsubscribe()
                if self._consumer:
                    subject = f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._consumer}"
                    await self._link.client.publish(subject, json.dumps({}).encode())
            except NatsError:
                return
