"""What is not a short request and a short answer: streams, upgrades, TLS, odd clients."""

import asyncio
import contextlib
import datetime
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import msgspec
import pytest
import websockets
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kythera.ground import meters
from kythera.ground.processes import child
from kythera.route.refusals import SHOW_REFUSED, parse_refused
from kythera.route.render import FrontOptions
from tests.processes import family
from tests.route.doors import SMALL, Door, cell_released, opened

pytestmark = [pytest.mark.real, pytest.mark.anyio]

HELLO = {"Host": "hello.localhost"}
BODY_MIB = 64
GROWTH_MIB_MAX = 8


async def test_websockets_pass_and_their_bytes_flow_both_ways() -> None:
    """An upgraded connection is a tunnel; it counts as inside its cell."""
    async with opened() as door:
        await _deploy(door)
        url = f"ws://hello.localhost:{door.port}/ws"
        async with websockets.connect(url, host="127.0.0.1", proxy=None) as client:
            for message in ("hello", bytes(range(256)) * 1024):
                await client.send(message)
                assert await client.recv() == message
            assert (await door.front.loads())["c1"].current == 1


async def test_events_arrive_one_by_one() -> None:
    """Nothing is kept back until the answer is whole."""
    async with opened() as door:
        await _deploy(door)
        async with door.client.stream("GET", "/events", headers=HELLO) as answer:
            pieces = answer.aiter_text()
            assert await anext(pieces) == "data: first\n\n"
            cell_released["c1"].set()
            assert await anext(pieces) == "data: second\n\n"


async def test_large_bodies_pass_both_ways_with_flat_memory() -> None:
    """A stream of many times the buffers leaves HAProxy as small as before."""
    async with opened() as door:
        await _deploy(door)
        assert door.process is not None
        before = _front_mib(door.process.pid)

        async def body() -> AsyncIterator[bytes]:
            for _ in range(BODY_MIB):
                yield bytes(1 << 20)

        answer = await door.client.post("/", content=body(), headers=HELLO)
        assert answer.json()["size"] == BODY_MIB << 20
        assert _front_mib(door.process.pid) - before < GROWTH_MIB_MAX
        size = 0
        async with door.client.stream("GET", f"/download?{BODY_MIB}", headers=HELLO) as stream:
            async for piece in stream.aiter_bytes():
                size += len(piece)
        assert size == BODY_MIB << 20
        assert _front_mib(door.process.pid) - before < GROWTH_MIB_MAX


async def test_http2_over_tls_tells_the_worker_so(tmp_path: Path) -> None:
    """ALPN picks HTTP/2; the worker learns scheme, protocol and TLS version."""
    certificate = tmp_path / "site.pem"
    certificate.write_bytes(_self_signed("hello.localhost"))
    options = FrontOptions(limits=SMALL, tls_certificates=str(certificate))
    async with opened(options) as door:
        await _deploy(door)
        url = f"https://hello.localhost:{door.tls_port}/x"
        resolve = f"hello.localhost:{door.tls_port}:127.0.0.1"
        for flag, protocol in (("--http2", "HTTP/2"), ("--http1.1", "HTTP/1.1")):
            argv = ["curl", "-sS", "--max-time", "10", "--cacert", str(certificate), flag]
            told = json.loads(await _output([*argv, "--resolve", resolve, url]))["headers"]
            blob = json.loads(told["cf-blob"])
            assert told["x-forwarded-proto"] == "https"
            assert (blob["httpProtocol"], blob["tlsVersion"]) == (protocol, "TLSv1.3")
            assert blob["tlsCipher"].startswith("TLS_")


async def test_requests_that_share_connections_are_limited_in_all(tmp_path: Path) -> None:
    """Twenty at once, five by each HTTP/2 connection, at a door with room for ten: ten are told so."""
    certificate = tmp_path / "site.pem"
    certificate.write_bytes(_self_signed("hello.localhost"))
    limits = msgspec.structs.replace(SMALL, connections_max=10)
    names = [f"w{number}" for number in range(4)]
    async with opened(FrontOptions(limits=limits, tls_certificates=str(certificate))) as door:
        for name in names:
            door.world.worker(name, {await door.cell(name): 100})
        await door.apply()
        argv = ["curl", "-sSkZ", "--http2", "--parallel-max", "20", "--max-time", "20"]
        for name in names:
            url = f"https://{name}.localhost:{door.tls_port}/slow?[1-5]"
            argv += ["--resolve", f"{name}.localhost:{door.tls_port}:127.0.0.1"]
            argv += ["-o", "/dev/null", "-w", "%{http_code} %{http_version}\\n", url]
        said: list[bytes] = []

        async def ask() -> None:
            said.append(await _output(argv))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            with anyio.fail_after(10):
                while parse_refused(await door.ask(SHOW_REFUSED)) != {"no_connections": 10}:
                    await anyio.sleep(0.05)
            for name in names:
                cell_released[name].set()
        assert Counter(said[0].decode().splitlines()) == {"200 2": 10, "503 2": 10}


CLOSE = b"Connection: close\r\n\r\n"


async def test_old_tls_is_refused(tmp_path: Path) -> None:
    """Below 1.2 there is no handshake."""
    certificate = tmp_path / "site.pem"
    certificate.write_bytes(_self_signed("hello.localhost"))
    async with opened(FrontOptions(limits=SMALL, tls_certificates=str(certificate))) as door:
        context = ssl.create_default_context(cafile=str(certificate))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        _, writer = await asyncio.open_connection(
            "127.0.0.1", door.tls_port, ssl=context, server_hostname="hello.localhost"
        )
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        argv = ["curl", "-sS", "-k", "--tls-max", "1.1", f"https://127.0.0.1:{door.tls_port}/"]
        async with child(argv) as process:
            assert await process.wait() != 0


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.0\r\nHost: hello.localhost\r\n\r\n", 200),
        (b"GET / HTTP/1.0\r\n\r\n", 404),
        (b"HEAD / HTTP/1.1\r\nHost: hello.localhost\r\nConnection: close\r\n\r\n", 200),
        (b"HEAD /boom HTTP/1.1\r\nHost: hello.localhost\r\nConnection: close\r\n\r\n", 500),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 14_800 + b"\r\n" + CLOSE, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 400),
        (
            b"GET http://hello.localhost/ HTTP/1.1\r\nHost: hello.localhost\r\n" + CLOSE,
            200,
        ),
        (b"BREW /pot HTTP/1.1\r\nHost: hello.localhost\r\nConnection: close\r\n\r\n", 200),
    ],
)
async def test_odd_requests_get_their_status(sent: bytes, status: int) -> None:
    """Old, short, long and wrong requests are answered, and HEAD never has a body."""
    async with opened() as door:
        await _deploy(door)
        answer = await _raw(door, sent)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert b"x-kythera" not in answer
        if sent.startswith(b"HEAD"):
            assert answer.endswith(b"\r\n\r\n")


async def test_a_head_that_never_ends_is_told_408() -> None:
    """A slow client is sent away at the limit, by HAProxy's own page: no rule has run yet."""
    limits = SMALL.__class__(request_head_s=1)
    async with opened(FrontOptions(limits=limits)) as door:
        answer = await _raw(door, b"GET / HTTP/1.1\r\nHost: he")
        assert answer.startswith(b"HTTP/1.1 408 ")


async def test_state_folders_and_route_patterns_may_hold_odd_characters() -> None:
    """What the socket was told is what the files say: asked of HAProxy itself."""
    async with opened() as door:
        await _deploy(door)
        for patterns in (
            ["*.example.com/a;b'\"\\#$(1){2}%20*", "x.example.com/a;b'\"\\#$(1){2}*"],
            ["*.example.com/a;b'\"\\#$(1){2}%20*"],
            ["x.example.com/;*", "*-y.example.com/{*", "x.example.com/#"],
            [],
        ):
            door.world.routes("hello", *patterns)
            assert (await door.apply()).startswith("socket")
            for name, rows in door.world.plan(door.front.saved_plan()).maps.items():
                if name in ("members", "services", "lanes", "lane_servers", "ways", "data"):
                    continue  # HAProxy has read it only where there is a mesh or an inner door.
                shown = await door.ask(f"show map {name}.map")
                told = [line.split(" ", 2)[1:] for line in shown.splitlines() if line]
                assert sorted(told) == sorted([key, value] for key, value in rows.items())


async def _deploy(door: Door) -> None:
    door.world.worker("hello", {await door.cell("c1"): 100})
    await door.apply()


async def _raw(door: Door, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(sent)
    with anyio.fail_after(15):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def _output(argv: list[str]) -> bytes:
    async with child(argv) as process:
        output = await process.read_output()
        assert await process.wait() == 0, output
        return output.stdout


def _front_mib(master: int) -> float:
    return sum(meters.private_bytes(pid) for pid in family(master)) / (1 << 20)


def _self_signed(host: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + private
