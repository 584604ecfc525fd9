"""A relay of TCP links between machines that share one computer, with faults on order.

One listener for each ordered pair: A→B is where A connects instead of to B's own door. What
happens to bytes is told by direction, so that the bytes from A to B fare alike on the connections
that A opened and on those that B opened.

Promises: bytes keep their order whatever the delay and its changes; a delay does not limit how
much is under way to less than `WINDOW_BYTES`; a slow reader slows its writer (back-pressure); what
a black hole swallowed is delivered once it is healed, as TCP would; nothing is left on closing.
Refuses UDP, and looks into nothing it carries.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self, cast

import anyio
import anyio.abc
from msgspec import Struct

from kythera.ground.chance import Chance, SystemChance
from kythera.ground.sockets import format_address, parse_address

WINDOW_BYTES = 16 * 1024 * 1024
"""Under way in one direction of one connection: 50 MB/s at 300 ms."""
CONNECT_S = 10.0
RETRANSMISSION_S = 0.2
"""What a lost packet costs beside a round trip: TCP's smallest retransmission time-out."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

OPEN = "open"
SILENT = "silent"
CUT = "cut"

Address = Callable[[], str]
"""Where a machine listens now (`host:port`), empty when it does not."""


class Condition(Struct, frozen=True, kw_only=True):
    """How one direction of a link is: `open`, `silent` (a black hole) or `cut` (reset)."""

    state: str = OPEN
    delay_ms: float = 0.0
    loss: float = 0.0
    """The share of pieces (0..1) that come late by a round trip and a time-out."""


HEALTHY = Condition()


class Direction:
    """What befalls bytes from one machine to another now, and the flows that it befalls."""

    def __init__(self, chance: Chance) -> None:
        self.condition = HEALTHY
        self._chance = chance
        self._flows: set[_Flow] = set()

    def become(self, condition: Condition) -> None:
        """Change; standing connections feel it at once."""
        self.condition = condition
        for flow in list(self._flows):
            flow.condition_changed()

    def lateness_s(self) -> float:
        """Return how long the next piece is under way."""
        late = self.condition.delay_ms / 1000
        if self.condition.loss and self._chance.uniform(0, 1) < self.condition.loss:
            return 3 * late + RETRANSMISSION_S
        return late

    def add(self, flow: "_Flow") -> None:
        """Let a flow be told of changes."""
        self._flows.add(flow)

    def discard(self, flow: "_Flow") -> None:
        """Forget a flow that has ended."""
        self._flows.discard(flow)


class _Flow:
    """The bytes of one connection in one direction: read from `source`, due later at `sink`."""

    def __init__(self, direction: Direction, carried: "_Carried") -> None:
        self._direction = direction
        self._carried = carried
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued = 0
        self._last_due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._sink_is_full = False
        self._reading = False
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self.ended = False
        direction.add(self)

    @property
    def _silent(self) -> bool:
        return self._direction.condition.state == SILENT

    def received(self, data: bytes) -> None:
        """Take a piece from the source; empty is its end."""
        now = self._loop.time()
        due = max(self._last_due, now + self._direction.lateness_s())
        self._last_due = due
        self._queue.append((due, data))
        self._queued += len(data)
        self.go_on()

    def sink_full(self, full: bool) -> None:
        """Note whether the sink takes more."""
        self._sink_is_full = full
        if not full:
            self.go_on()

    def condition_changed(self) -> None:
        """Obey the direction's new condition."""
        if self._direction.condition.state == CUT:
            self._carried.reset()
        else:
            self.go_on()

    def go_on(self) -> None:
        """Hand over what is due, then read more, or wait for the next to be due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.sink is None or self.ended:
            return
        self._hand_over(self.sink)
        self._read_or_pause()

    def _hand_over(self, sink: asyncio.Transport) -> None:
        now = self._loop.time()
        while self._queue and not self._sink_is_full and not self._silent:
            due, data = self._queue[0]
            if due > now:
                self._timer = self._loop.call_at(due, self.go_on)
                return
            self._queue.popleft()
            self._queued -= len(data)
            if not data:
                self._end(sink)
                return
            sink.write(data)

    def _end(self, sink: asyncio.Transport) -> None:
        self.ended = True
        try:
            if not sink.is_closing():
                sink.write_eof()
        except OSError:  # It was reset, which we have not read yet.
            self._carried.reset()
            return
        self._carried.flow_ended()

    def _read_or_pause(self) -> None:
        wanted = not self._silent and not self._sink_is_full and self._queued < WINDOW_BYTES
        if self.source is None or self.source.is_closing() or wanted == self._reading:
            return
        self._reading = wanted
        if wanted:
            self.source.resume_reading()
        else:
            self.source.pause_reading()

    def close(self) -> None:
        """Be told of nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        self.ended = True
        self._queue.clear()
        self._direction.discard(self)


class _End(asyncio.Protocol):
    """One end of a carried connection: bytes that come here flow `out`, `into` is what we write."""

    def __init__(self, carried: "_Carried", out: _Flow, into: _Flow) -> None:
        self._carried = carried
        self._out = out
        self._into = into

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)
        stream.pause_reading()
        self._out.source = stream
        self._into.sink = stream
        self._carried.ends.append(stream)
        if self._carried.over:
            _reset(stream)

    def data_received(self, data: bytes) -> None:
        self._out.received(data)

    def eof_received(self) -> bool:
        self._out.received(b"")
        return True

    def pause_writing(self) -> None:
        self._into.sink_full(True)

    def resume_writing(self) -> None:
        self._into.sink_full(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._carried.reset()


class _Carried:
    """One connection: the near end is the caller's, the far end is at the target's door."""

    def __init__(self, link: "Link") -> None:
        self._link = link
        self._forth = _Flow(link.forth, self)
        self._back = _Flow(link.back, self)
        self.ends: list[asyncio.Transport] = []
        self.over = False

    def near(self) -> asyncio.Protocol:
        """Return the protocol of the caller's end."""
        return _End(self, self._forth, self._back)

    def far(self) -> asyncio.Protocol:
        """Return the protocol of the target's end."""
        return _End(self, self._back, self._forth)

    async def open(self) -> None:
        """Connect to the target, no sooner than packets could have gone there and back."""
        try:
            with anyio.fail_after(CONNECT_S):
                await anyio.sleep(self._link.forth.lateness_s() + self._link.back.lateness_s())
                host, port = parse_address(self._link.target())
                await asyncio.get_running_loop().create_connection(self.far, host, port)
        except Exception:  # noqa: BLE001 - no target, no such host, refused, late: all the same
            self.reset()
            return
        for flow in (self._forth, self._back):
            flow.condition_changed()

    def flow_ended(self) -> None:
        """Close both ends once both directions have ended."""
        if self._forth.ended and self._back.ended:
            self._close()
            for end in self.ends:
                end.close()

    def reset(self) -> None:
        """End it at once, so that both sides notice; harmless when it is over."""
        if self.over:
            return
        self._close()
        for end in self.ends:
            _reset(end)

    def _close(self) -> None:
        self.over = True
        self._forth.close()
        self._back.close()
        self._link.forget(self)


def _reset(end: asyncio.Transport) -> None:
    if not end.is_closing():
        sock = end.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    end.abort()


class Link:
    """One ordered pair: a listener for the caller, and where it leads."""

    def __init__(
        self,
        target: Address,
        forth: Direction,
        back: Direction,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        self.target = target
        self.forth = forth
        self.back = back
        self.address = ""
        self._tasks = tasks
        self._carried: set[_Carried] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, host: str) -> None:
        """Listen on a free port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accepted, host, 0)
        found = self._server.sockets[0].getsockname()
        self.address = format_address(found[0], found[1])

    def _accepted(self) -> asyncio.Protocol:
        carried = _Carried(self)
        near = carried.near()
        if CUT in (self.forth.condition.state, self.back.condition.state):
            carried.over = True  # reset as soon as there is something to reset
            carried._close()
        else:
            self._carried.add(carried)
            self._tasks.start_soon(carried.open)
        return near

    def forget(self, carried: _Carried) -> None:
        """Drop a connection that is over."""
        self._carried.discard(carried)

    def close(self) -> None:
        """Listen no more and end what is carried."""
        if self._server is not None:
            self._server.close()
        for carried in list(self._carried):
            carried.reset()


class Relay:
    """All links among some machines. Use as `async with`; closing it resets what it carries."""

    def __init__(
        self, machines: dict[str, Address], host: str = "127.0.0.1", chance: Chance | None = None
    ) -> None:
        chance = chance or SystemChance()
        self._machines = machines
        self._host = host
        self._directions = {pair: Direction(chance) for pair in self._pairs()}
        self._links: dict[tuple[str, str], Link] = {}
        self._tasks = anyio.create_task_group()

    def _pairs(self) -> Iterable[tuple[str, str]]:
        return ((a, b) for a in self._machines for b in self._machines if a != b)

    async def __aenter__(self) -> Self:
        """Listen for every pair."""
        await self._tasks.__aenter__()
        for a, b in self._pairs():
            forth, back = self._directions[a, b], self._directions[b, a]
            link = Link(self._machines[b], forth, back, self._tasks)
            await link.listen(self._host)
            self._links[a, b] = link
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        """Close all."""
        for link in self._links.values():
            link.close()
        self._tasks.cancel_scope.cancel()
        return await self._tasks.__aexit__(kind, error, trace)

    def addresses(self, name: str) -> dict[str, str]:
        """Return where a machine finds the others, by name."""
        return {b: link.address for (a, b), link in self._links.items() if a == name}

    def become(self, a: str, b: str, condition: Condition) -> None:
        """Change one direction: what is said by `a` to `b`."""
        self._directions[a, b].become(condition)

    def conditions(self) -> dict[tuple[str, str], Condition]:
        """Return the directions that are not healthy."""
        found = {pair: each.condition for pair, each in self._directions.items()}
        return {pair: each for pair, each in found.items() if each != HEALTHY}

    def condition(self, a: str, b: str) -> Condition:
        """Return how one direction is."""
        return self._directions[a, b].condition
