"""The one port for other machines: who is let in, to what, and until when."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx
import pytest

from kythera.route.mesh import Tunnel
from kythera.route.runtime import processes
from tests.route.doors import Door
from tests.route.fleets import Fleet, Identities, fleet, with_mesh

pytestmark = [pytest.mark.real, pytest.mark.anyio]

OUT_S = 2.0


@dataclass
class Echo:
    """A program that speaks plain TCP: says who it is, then sends back what comes."""

    address: str
    open: set[asyncio.StreamWriter] = field(default_factory=set)


@asynccontextmanager
async def echoing(greeting: bytes) -> AsyncIterator[Echo]:
    """Run one for the length of the block."""
    found = Echo("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.open.add(writer)
        with contextlib.suppress(ConnectionError):
            writer.write(greeting)
            while piece := await reader.read(1024):
                writer.write(piece)
                await writer.drain()
        found.open.discard(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    found.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        server.close()
        for writer in list(found.open):
            writer.transport.abort()
        await server.wait_closed()


@asynccontextmanager
async def spoken(
    door: Door, context: ssl.SSLContext | None, service: str = "log"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a stream to a service of a mesh door."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1",
        door.mesh_port,
        ssl=context,
        server_hostname=f"{service}.kythera" if context else None,
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def answered(door: Door, context: ssl.SSLContext, service: str) -> bytes:
    """Return what a service says to whoever has this certificate; b"" when it says nothing."""
    with contextlib.suppress(OSError, ssl.SSLError):
        async with spoken(door, context, service) as (reader, writer):
            if service in ("http", "control", "data"):
                writer.write(b"GET /x HTTP/1.1\r\nHost: hello.localhost\r\n\r\n")
            with anyio.fail_after(5):
                return await reader.read(1024)
    return b""


async def test_strangers_hear_nothing_from_any_service(tmp_path: Path) -> None:
    """No certificate, one of another fleet, an expired one, a removed machine's, a token's: the
    door closes; so it does for a service that is not offered, and for what is no TLS."""
    async with fleet(a="here", b="here") as machines, echoing(b"hello\n") as echo:
        door = machines.doors["a"]
        with_mesh(door, streams={"log": echo.address, "route": echo.address}, pass_key="key")
        await machines.worker("hello")
        await machines.apply()
        ours = machines.identities
        others = Identities(tmp_path / "others", "another")
        stranger = others.context(others.machine("b"))
        stranger.load_verify_locations(ours.ca)  # It does not mind whom it speaks to.
        member = ours.context(ours.machine("b"))
        strangers = {
            "no certificate": ours.context(None),
            "another fleet's": stranger,
            "expired": ours.context(ours.machine("b", begun=-9000, life_s=10)),
            "not a member": ours.context(ours.machine("c")),
            "a token's": ours.context(ours.joiner("t1")),
        }
        for service in ("http", "control", "data", "log", "route"):
            for context in strangers.values():
                assert await answered(door, context, service) == b""
            assert await answered(door, member, service)
        assert await answered(door, member, "http") != b""
        assert await answered(machines.doors["b"], ours.context(ours.machine("a")), "log") == b""
        async with spoken(door, None) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: hello.localhost\r\n\r\n")
            with anyio.fail_after(10):
                assert await reader.read() == b""


async def test_the_mesh_speaks_tls_1_3_alone() -> None:
    """Both ends are ours: there is no older client to be kind to."""
    async with fleet(a="here", b="here") as machines:
        context = machines.identities.context(machines.identities.machine("b"))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await answered(machines.doors["a"], context, "control") == b""


async def test_the_control_process_learns_who_asks_from_the_certificate() -> None:
    """A client's own claim is taken away; a token opens one door alone."""
    async with fleet(a="here", b="here") as machines:
        door = machines.doors["a"]
        member = machines.identities.context(machines.identities.machine("b"))
        joiner = machines.identities.context(machines.identities.joiner("t1"))
        forged = {"X-Kythera-Peer": "a", "x-kythera-other": "a"}
        for context, path, peer in (
            (member, "/anything", "b"),
            (member, "/join", "b"),
            (joiner, "/join", "join-t1"),
            (joiner, "/join/more", None),
            (joiner, "/JOIN", None),
            (joiner, "/join?x", "join-t1"),
            (joiner, "/", None),
        ):
            async with httpx.AsyncClient(verify=context, timeout=5) as client:
                url = f"https://127.0.0.1:{door.mesh_port}{path}"
                sni = {"sni_hostname": "control.kythera"}
                if peer is None:
                    with pytest.raises(httpx.HTTPError):
                        await client.post(url, content=b"hi", headers=forged, extensions=sni)
                    continue
                answer = await client.post(url, content=b"hi", headers=forged, extensions=sni)
            told = answer.json()
            assert (told["cell"], told["size"]) == ("a-control", 2)
            assert told["headers"]["x-kythera-peer"] == peer
            assert "x-kythera-other" not in told["headers"]


async def test_a_write_to_the_control_process_is_never_repeated() -> None:
    """It ends in the middle: it may have been done."""
    async with fleet(a="here", b="here") as machines:
        door, control = machines.doors["a"], machines.controls["a"]
        context = machines.identities.context(machines.identities.machine("b"))
        async with httpx.AsyncClient(verify=context, timeout=5) as client:
            url = f"https://127.0.0.1:{door.mesh_port}/cut"
            sni = {"sni_hostname": "control.kythera"}
            with contextlib.suppress(httpx.HTTPError):
                assert (await client.post(url, content=b"x", extensions=sni)).status_code >= 500
        assert control.requests == 1


async def test_a_removed_machine_is_out_of_everything_at_once() -> None:
    """Its standing stream and its kept connection end; who stays only has to call again."""
    async with fleet(a="here", b="here", c="here") as machines, echoing(b"hello\n") as echo:
        door = machines.doors["a"]
        with_mesh(door, streams={"log": echo.address})
        await machines.worker("hello")
        await machines.apply()
        await machines.drain("b")
        await machines.until("a", "b", "leaving")
        await door.reload()  # An old process too must forget it.
        b, c = [machines.identities.context(machines.identities.machine(n)) for n in "bc"]
        base = f"https://127.0.0.1:{door.mesh_port}"
        sni = {"sni_hostname": "http.kythera"}
        host = {"Host": "hello.localhost"}
        async with (
            spoken(door, b) as (reader, _),
            httpx.AsyncClient(verify=b, base_url=base) as removed,
            httpx.AsyncClient(verify=c, base_url=base) as staying,
        ):
            assert await reader.readline() == b"hello\n"
            for client in (removed, staying):
                answer = await client.get("/", headers=host, extensions=sni)
                assert answer.json()["cell"] == "a-hello"
            machines.removed.add("b")
            door.world.peers = machines.peers("a")
            await door.apply()
            with anyio.fail_after(OUT_S):
                while echo.open:
                    await anyio.sleep(0.01)
            with pytest.raises(httpx.HTTPError):
                await removed.get("/", headers=host, extensions=sni)
            answer = await staying.get("/", headers=host, extensions=sni)
            assert answer.json()["cell"] == "a-hello"
        assert await answered(door, b, "log") == b""
        assert await answered(door, c, "log") == b"hello\n"


async def test_a_row_of_members_is_taken_away_by_socket() -> None:
    """Machines without an address are let in and out without a reload."""
    async with fleet(a="here", b="here") as machines:
        door = machines.doors["a"]
        context = machines.identities.context(machines.identities.machine("new"))
        for machine in (True, False):
            peers = machines.peers("a")
            extra = (peers.machines[0].__class__(name="new"),) if machine else ()
            door.world.peers = peers.__class__(me="a", machines=(*peers.machines, *extra))
            assert (await door.apply()).startswith("socket")
            assert bool(await answered(door, context, "control")) == machine


async def test_tunnels_carry_plain_tcp_to_a_peers_service() -> None:
    """Who listens behind the peer's `route` hears who speaks into the tunnel here."""
    async with fleet(a="here", b="here") as machines, echoing(b"INFO {}\r\n") as echo:
        await _tunnel(machines, echo)
        host, port = machines.doors["a"].world.tunnels[0].listen.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        assert await reader.readline() == b"INFO {}\r\n"
        for size in (1, 100_000):
            writer.write(b"x" * size + b"\n")
            with anyio.fail_after(5):
                assert (await reader.readexactly(size + 1)).endswith(b"x\n")
        await machines.doors["b"].front.cut_tunnels()
        with anyio.fail_after(OUT_S), contextlib.suppress(OSError):
            assert await reader.read() == b""
        writer.close()
        # One that is no longer asked for is closed.
        machines.doors["a"].world.tunnels = ()
        assert (await machines.doors["a"].apply()).startswith("reload")
        with pytest.raises(OSError):
            await asyncio.open_connection(host, int(port))


async def _tunnel(machines: Fleet, echo: Echo) -> None:
    with_mesh(machines.doors["b"], streams={"route": echo.address})
    assert (await machines.doors["b"].apply()).startswith("reload")
    machines.doors["a"].world.tunnels = (
        Tunnel(
            name="nats-b",
            listen=f"127.0.0.1:{_free_port()}",
            peer="b",
            address=f"127.0.0.1:{machines.doors['b'].mesh_port}",
            service="route",
        ),
    )
    assert (await machines.doors["a"].apply()).startswith("reload")


def _free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def test_streams_do_not_keep_an_old_process_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What drains after a reload ends although a stream between machines stood in it."""
    monkeypatch.setattr("kythera.route.front.STREAMS_REST_S", 0.3)
    async with fleet(a="here", b="here") as machines, echoing(b"hello\n") as echo:
        door = machines.doors["a"]
        with_mesh(door, streams={"log": echo.address})
        await machines.apply()
        context = machines.identities.context(machines.identities.machine("b"))
        async with spoken(door, context) as (reader, _):
            assert await reader.readline() == b"hello\n"
            await door.reload()
            with anyio.fail_after(10), contextlib.suppress(OSError):
                while (await processes(door.folder / "m.sock")).old:
                    await door.front.loads()
                    await anyio.sleep(0.05)
            assert not echo.open


async def test_a_new_certificate_is_read_by_a_reload_and_only_then() -> None:
    """Rotation fails nobody; a front that was not told finds out at its next look."""
    async with fleet(a="here", b="here") as machines:
        door = machines.doors["a"]
        await machines.worker("hello")
        await machines.apply()
        unchanged = await door.front.certificates_changed()
        assert unchanged is not None
        assert not unchanged.reloaded
        before = await _serial(machines)
        machines.identities.machine("a")
        changed = await door.front.certificates_changed()
        assert changed is not None
        assert changed.reloaded
        assert await _serial(machines) != before
        machines.identities.machine("a")
        door.new_front()
        assert (await door.apply()).startswith("reload")
        assert (await door.apply()).startswith("socket")
        await machines.until("b", "a", "up")


async def _serial(machines: Fleet) -> str:
    context = machines.identities.context(machines.identities.machine("b"))
    async with spoken(machines.doors["a"], context, "control") as (_, writer):
        return str(writer.get_extra_info("peercert")["serialNumber"])
