"""Machines that follow each other in one process: copies on the disk, relays, and a mesh between
them that a test can cut, silence, or let damage what it carries."""

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx

from kythera.distribute.copy import Copy
from kythera.distribute.direct import DirectLog, Followed, Readable
from kythera.distribute.follower import Follower
from kythera.distribute.log import LogPruned
from kythera.distribute.mesh import PeerUnreachable
from kythera.distribute.relay import PRUNED_STATUS, Relay, RelayLog
from kythera.distribute.sources import LOG, Facts, Source, standing
from kythera.ground.clock import SystemClock
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.records import Machine

WAIT_S = 20
QUICK = Limits(
    heartbeat_ms=50,
    source_silent_ms_max=400,
    source_stalled_ms_max=1_500,
    source_rest_ms_min=200,
    source_rest_ms_max=800,
    records_poll_ms=2,
    records_pace_ms=5,
)
Mangle = Callable[[Iterator[int], bytes], list[bytes]]
"""Gets a counter of frames and each frame; returns what arrives instead."""


class Pieces(httpx.AsyncByteStream):
    """A response's body from a generator."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            yield piece

    async def aclose(self) -> None:
        """End the generator."""
        close = getattr(self._pieces, "aclose", None)
        if close is not None:
            await close()


class Mesh:
    """Carries streams of records from relays to whoever asks (`relay.Caller`)."""

    def __init__(self) -> None:
        self.relays: dict[str, Relay] = {}
        self.cut: set[str] = set()
        """Who cannot be reached; streams that stand are cut too."""
        self.silent: set[str] = set()
        """Whose connections stand, and carry nothing."""
        self.mangle: Mangle | None = None
        self.asked: list[tuple[str, str]] = []

    @asynccontextmanager
    async def stream(
        self, peer: str, recorded: str, method: str, path: str, **more: Any
    ) -> AsyncIterator[httpx.Response]:
        """Ask a relay."""
        self.asked.append((peer, path))
        if peer in self.cut or peer not in self.relays:
            raise PeerUnreachable(f"the machine {peer!r} cannot be reached.")
        query = parse_qs(urlsplit(path).query)
        after, snapshot = int(query["after"][0]), query.get("snapshot") == ["1"]
        relay = self.relays[peer]
        try:
            relay.refuse(after)
        except LogPruned as error:
            yield httpx.Response(PRUNED_STATUS, text=str(error))
            return
        except StoreUnavailable as error:
            yield httpx.Response(503, text=str(error))
            return
        pieces = self._carried(peer, relay.serve(after, snapshot=snapshot))
        answer = httpx.Response(200, stream=Pieces(pieces))
        try:
            yield answer
        finally:
            await answer.aclose()

    async def _carried(self, peer: str, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        numbers = itertools.count()
        async for frame in frames:
            if peer in self.cut:
                return
            while peer in self.silent:
                await anyio.sleep(0.01)
            for piece in [frame] if self.mangle is None else self.mangle(numbers, frame):
                yield piece


class Node:
    """One machine: a copy, a relay of it, a follower into it."""

    def __init__(self, fleet: "Fleet", machine: Machine, copy: Copy) -> None:
        self.machine = machine
        self.name = machine.name
        self.copy = copy
        self.seqs: list[int] = []
        self.silent: frozenset[str] = frozenset()
        self._fleet = fleet
        self._scope: anyio.CancelScope | None = None
        self.follower = self._made()

    def _made(self) -> Follower:
        return Follower(self.copy, self._facts, self._open, self._fleet.limits, SystemClock())

    def _facts(self) -> Facts:
        return Facts(
            me=self.machine,
            machines=tuple(node.machine for node in self._fleet.nodes.values()),
            core=self._fleet.core,
            silent=self.silent,
        )

    def _open(self, source: Source) -> Followed:
        if source == LOG:
            return DirectLog(self._fleet.log)
        return RelayLog(self._fleet.mesh, source.relay, "", self._fleet.limits)

    async def run(self) -> None:
        """Follow until stopped; may be started again."""
        self.follower = self._made()
        with anyio.CancelScope() as self._scope:
            await self.follower.run(self.seqs.append)

    def stop(self) -> None:
        """End the follower, as a crash of the agent would."""
        assert self._scope is not None
        self._scope.cancel()

    async def reached(self, seq: int) -> None:
        """Wait until the copy has everything up to a sequence."""
        with anyio.fail_after(WAIT_S):
            while self.copy.applied_seq() < seq:
                await anyio.sleep(0.005)

    async def follows(self, *wanted: Source) -> None:
        """Wait until it follows one of these."""
        with anyio.fail_after(WAIT_S):
            while self.follower.state.source not in wanted:
                await anyio.sleep(0.005)


class Fleet:
    """Machines by name; `first`, `second` … in the order in which they become relay."""

    def __init__(self, log: Readable, limits: Limits, core: frozenset[str]) -> None:
        self.log = log
        self.limits = limits
        self.core = core
        self.mesh = Mesh()
        self.nodes: dict[str, Node] = {}

    def in_order(self, site: str) -> list[Node]:
        """Return a site's machines, the relay first."""
        found = [node for node in self.nodes.values() if node.machine.site == site]
        return sorted(found, key=lambda node: standing(node.name))


@contextmanager
def fleet_of(
    folder: Path,
    log: Readable,
    sites: dict[str, int],
    limits: Limits = QUICK,
    core: frozenset[str] = frozenset(),
) -> Iterator[Fleet]:
    """Make machines, none of which follows yet: `sites` says how many in each."""
    fleet = Fleet(log, limits, core)
    with ExitStack() as stack:
        for site, count in sites.items():
            for n in range(count):
                machine = Machine(name=f"{site}{n}", site=site)
                copy = stack.enter_context(Copy(folder / machine.name))
                node = Node(fleet, machine, copy)
                fleet.nodes[node.name] = node
                fleet.mesh.relays[node.name] = Relay(copy, limits)
        yield fleet


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    """Let machines follow for the length of the block."""
    async with anyio.create_task_group() as tasks:
        for node in nodes:
            tasks.start_soon(node.run)
        yield
        tasks.cancel_scope.cancel()
