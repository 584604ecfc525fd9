"""The records as other machines follow them: the real application on a real socket, a real copy,
and the follower that machines use."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import anyio
import httpx
import msgspec
import pytest

from kythera.control.app import build_peers_app
from kythera.control.copies import LateCopy
from kythera.control.server import server_for
from kythera.distribute.batch import Stretch
from kythera.distribute.copy import Copy
from kythera.distribute.log import Entry, LogPruned
from kythera.distribute.relay import Relay, RelayLog, SourceEnded
from kythera.ground.sockets import listen_unix
from kythera.model.records import Horizon, encode
from tests.control.test_peers_blobs import SocketMesh
from tests.control.world import World
from tests.distribute.relays import QUICK

pytestmark = pytest.mark.anyio
WAIT_S = 20
ENTRIES = [Entry(n, f"worker.a.w{n}", b"x" * 100) for n in range(1, 201)]


class Machine:
    """A machine that serves records on a socket. Its copy is not there at first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "copy"
        self.socket = folder / "r.sock"
        self.relay: Relay | None = None
        self.mesh = SocketMesh(self.socket)
        limits = msgspec.structs.replace(QUICK, batch_bytes_max=2_000)
        self.source = RelayLog(self.mesh, "peer", "", limits)
        self.limits = limits

    def filled(self) -> Copy:
        """Make the copy, whole and with all entries."""
        copy = Copy(self.folder)
        copy.apply(ENTRIES)
        copy.mark_whole()
        return copy

    async def get(self, query: str) -> httpx.Response:
        """Ask with a query of one's own."""
        return await self.mesh.client.get(f"/records?{query}")

    async def taken(self, after_seq: int, until_seq: int) -> list[Stretch]:
        """Follow until a number."""
        found: list[Stretch] = []
        with anyio.fail_after(WAIT_S):
            async with aclosing(self.source.stretches(after_seq)) as stretches:
                async for stretch in stretches:
                    found.append(stretch)
                    if stretch.to_seq >= until_seq:
                        return found
        raise AssertionError("it never ends")


class OtherCopy(LateCopy):
    """A late copy that may be opened beside a writer in one process: it is handed in."""

    given: Copy | None = None

    def _opened(self) -> Copy:
        return self.given if self.given is not None else super()._opened()


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    """Return a machine that answers, and whose copy comes late."""
    machine = Machine(tmp_path)
    copy = OtherCopy(machine.folder)
    machine.relay = Relay(copy, machine.limits)
    services = replace(World(tmp_path).services, relay=machine.relay)
    server = server_for(build_peers_app(services), services.platform)
    listening = listen_unix(machine.socket)
    with anyio.fail_after(WAIT_S * 2):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: server.serve(sockets=[listening]))
            async with machine.mesh.client:
                assert (await machine.get("after=0")).status_code == 503
                with machine.filled() as copy.given:
                    yield machine
                    machine.relay.close()
            server.should_exit = True


async def test_records_are_followed_over_http(machine: Machine) -> None:
    """What is there, in several frames, and what comes later."""
    async with anyio.create_task_group() as tasks:
        found: list[Stretch] = []

        async def follow() -> None:
            found.extend(await machine.taken(7, 201))

        tasks.start_soon(follow)
        assert machine.relay is not None
        while machine.relay.followers == 0:
            await anyio.sleep(0.001)
        copy = machine.relay._copy._opened()  # type: ignore[attr-defined]
        copy.apply([Entry(201, "worker.a.later", b"x")])
    assert found[0] == Stretch([], 7, 200)
    entries = [entry for stretch in found for entry in stretch.entries]
    assert [entry.seq for entry in entries] == list(range(8, 202))
    assert len(found) > 10


async def test_a_follower_that_goes_leaves_nothing_behind(machine: Machine) -> None:
    """The machine notices that nobody listens."""
    await machine.taken(0, 200)
    assert machine.relay is not None
    with anyio.fail_after(WAIT_S):
        while machine.relay.followers:
            await anyio.sleep(0.005)


async def test_a_snapshot_is_an_answer_that_ends(machine: Machine) -> None:
    """All entries, and the end of the response."""
    with anyio.fail_after(WAIT_S):
        found = [stretch async for stretch in machine.source.snapshot(0)]
    assert [entry for stretch in found for entry in stretch.entries] == ENTRIES


async def test_who_comes_too_late_is_told_so(machine: Machine) -> None:
    """410 below the horizon; the follower understands it."""
    assert machine.relay is not None
    copy = machine.relay._copy._opened()  # type: ignore[attr-defined]
    copy.apply([Entry(201, "horizon.log", encode(Horizon(seq=50)))])
    assert (await machine.get("after=49")).status_code == 410
    with pytest.raises(LogPruned):
        await machine.taken(49, 200)


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", "after=1e3", "after=", f"after={'9' * 30}"]
)
async def test_what_is_no_number_is_refused(machine: Machine, query: str) -> None:
    """400, with the reason."""
    answer = await machine.get(query)
    assert answer.status_code == 400
    assert "no sequence number" in answer.text


async def test_a_relay_that_stops_ends_its_answers(machine: Machine) -> None:
    """A control process that stops does not wait for its followers."""
    assert machine.relay is not None
    async with anyio.create_task_group() as tasks:

        async def follow() -> None:
            with pytest.raises(SourceEnded):
                await machine.taken(0, 201)

        tasks.start_soon(follow)
        while machine.relay.followers == 0:
            await anyio.sleep(0.001)
        machine.relay.close()
