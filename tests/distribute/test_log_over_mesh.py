"""The log from machines that do not hold it: through another's mesh door, by mutual TLS.

Method: a real nats-server behind a small listener that terminates TLS as HAProxy does.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import msgspec
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSListener

from kythera.distribute import membership
from kythera.distribute.address import LogAddress, mesh_log_address
from kythera.distribute.core_finder import CoreFinder, mesh_secure
from kythera.distribute.jetstream import open_log
from kythera.ground.files import write_private
from kythera.ground.layout import Layout
from kythera.model.catalog import Catalog
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.membership import Membership, Peer
from kythera.model.records import Core, Machine, encode
from tests.distribute.identities import Authority, door_context
from tests.distribute.servers import Server, serving

pytestmark = [pytest.mark.anyio, pytest.mark.real]
LIMITS = Limits(append_ms=8_000)
KEY = b"a key that all machines of the fleet have"


GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError, OSError)
"""What a connection ends with whose other side is gone."""


async def pump(source: ByteStream, to: ByteStream, scope: anyio.CancelScope) -> None:
    """Carry bytes one way until either side ends."""
    with suppress(*GONE):
        async for chunk in source:
            await to.send(chunk)
    scope.cancel()


@asynccontextmanager
async def mesh_door(layout: Layout, server: LogAddress) -> AsyncIterator[str]:
    """Lead whoever shows a certificate of the fleet to the nats-server; return where."""
    to = int(server.url.rpartition(":")[2])

    async def carry(caller: ByteStream) -> None:
        # A caller who hangs up ends its own connection, not the door.
        with suppress(*GONE):
            async with caller, await anyio.connect_tcp("127.0.0.1", to) as inside:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(pump, caller, inside, tasks.cancel_scope)
                    await pump(inside, caller, tasks.cancel_scope)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    secured = TLSListener(listener, door_context(layout), standard_compatible=False)
    async with secured, anyio.create_task_group() as tasks:
        tasks.start_soon(secured.serve, carry)
        yield f"127.0.0.1:{port}"
        tasks.cancel_scope.cancel()


class Fleet:
    """A core machine `a` with its door, and a machine `far` that holds nothing."""

    def __init__(self, core: Layout, far: Layout, server: Server, door: str) -> None:
        self.core = core
        self.far = far
        self.server = server
        self.door = door
        self.catalog = Catalog()

    def know(self, *machines: Machine, core: Core | None = None) -> None:
        """Let `far` have records."""
        for record in (*machines, *([core] if core else [])):
            self.catalog.apply(record.key(), encode(record))

    def finder(self, layout: Layout | None = None, me: str = "far") -> CoreFinder:
        """Return what finds the log for a machine."""
        return CoreFinder(layout or self.far, me, lambda: self.catalog)


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """Return a running core machine and another one of its fleet."""
    authority = Authority()
    core = authority.certify(tmp_path / "a", "a")
    far = authority.certify(tmp_path / "far", "far")
    for layout in (core, far):
        write_private(layout.secrets_key, KEY)
    async with serving(core.state, LIMITS) as server, mesh_door(core, server.address) as door:
        peer = Peer(name="a", mesh=door)
        membership.write(far, Membership(founder=False, peers=(peer,)))
        yield Fleet(core, far, server, door)


async def test_a_machine_that_joined_reads_and_writes_the_log(fleet: Fleet) -> None:
    """With nothing but its certificate, the fleet's key and whom it was told to ask."""
    secure = mesh_secure(fleet.far)
    async with open_log(fleet.finder(), LIMITS, secure=secure) as log:
        seq = await log.append("worker.a.w", b"1", expected_seq=0)
        async with open_log(fleet.server.address, LIMITS) as near:
            assert await near.last_seq() == seq


async def test_a_stranger_and_a_wrong_name_get_nothing(fleet: Fleet, tmp_path: Path) -> None:
    """Another fleet's certificate, another machine's name, another fleet's key: each is refused."""
    stranger = Authority("other").certify(tmp_path / "stranger", "far")
    write_private(stranger.secrets_key, KEY)
    membership.write(stranger, Membership(founder=False, peers=(Peer(name="a", mesh=fleet.door),)))
    with pytest.raises(StoreUnavailable, match=r"certificate|closed|EOF"):
        finder = fleet.finder(stranger)
        async with open_log(finder, LIMITS, within_ms=700, secure=mesh_secure(stranger)):
            raise AssertionError
    address = mesh_log_address("b", fleet.door, fleet.server.address.password)
    with pytest.raises(StoreUnavailable, match="machine 'a'"):
        async with open_log(address, LIMITS, within_ms=700, secure=mesh_secure(fleet.far)):
            raise AssertionError
    wrong = msgspec.structs.replace(address, peer="a", password="x" * 40)
    with pytest.raises(StoreUnavailable, match="Authorization"):
        async with open_log(wrong, LIMITS, within_ms=700, secure=mesh_secure(fleet.far)):
            raise AssertionError


async def test_a_core_machine_that_is_dead_or_hangs_is_left_for_the_next(fleet: Fleet) -> None:
    """First in the records one that refuses, then one that accepts and says nothing."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as silent:
        quiet = f"127.0.0.1:{silent.extra(SocketAttribute.local_port)}"
        fleet.know(
            Machine(name="far"),
            Machine(name="dead", mesh="127.0.0.1:1", site="x"),
            Machine(name="hung", mesh=quiet, site="x"),
            Machine(name="a", mesh=fleet.door, site="y", region="z"),
            core=Core(machines=("a", "dead", "hung"), epoch=2),
        )
        secure = mesh_secure(fleet.far)
        with anyio.fail_after(2 * LIMITS.source_silent_ms_max / 1000):
            async with open_log(fleet.finder(), LIMITS, secure=secure) as log:
                assert await log.last_seq() == 0


async def test_a_core_machine_prefers_its_own_server(fleet: Fleet) -> None:
    """Its own while that answers; another's while it does not."""
    fleet.know(
        Machine(name="a"),
        Machine(name="b", mesh="127.0.0.1:1"),
        core=Core(machines=("a", "b"), epoch=1),
    )
    membership.write(fleet.core, Membership(founder=True))
    finder = fleet.finder(fleet.core, "a")
    own = finder.find()
    assert own == fleet.server.address
    finder.failed(own)
    other = finder.find()
    assert other is not None
    assert other.peer == "b"
    finder.failed(other)
    assert finder.find() == own
    finder.worked(own)
    assert finder.find() == own
