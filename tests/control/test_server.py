"""The API as a process: with sockets of its own or passed, before and after its log is there.

Real: nats-server, the copy that an agent would keep, workerd for trials, and HTTP as bytes.
"""

import base64
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import msgspec
import pytest

from kythera.control.server import inherited
from kythera.distribute.copy import Copy
from kythera.distribute.follower import follow_into
from kythera.distribute.jetstream import open_log
from kythera.ground.files import write_atomically, write_private
from kythera.ground.layout import Layout
from kythera.ground.processes import Child, child
from kythera.ground.sockets import address_of, listen_tcp
from kythera.model.limits import Limits
from kythera.model.platform import Platform
from tests.control.world import ACCOUNT, TOKEN, WORKERS, form
from tests.distribute.servers import serving

pytestmark = [pytest.mark.anyio, pytest.mark.real]
READY_S = 10.0
LIMITS = Limits(append_ms=500, read_your_writes_ms=4_000, startup_ms_max=4_000, served_ms=10)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with listen_tcp("127.0.0.1:0") as sock:
        return int(address_of(sock).rpartition(":")[2])


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Return a state folder as `kythera up` makes it."""
    layout = Layout(tmp_path / "state")
    layout.state.mkdir(mode=0o700)
    platform = Platform(
        account_id=ACCOUNT, machine="m", api=f"127.0.0.1:{free_port()}", limits=LIMITS
    )
    write_atomically(layout.platform, msgspec.json.encode(platform))
    write_private(layout.token, TOKEN.encode())
    write_private(layout.secrets_key, base64.b64encode(bytes(32)))
    return layout


@asynccontextmanager
async def api(layout: Layout) -> AsyncIterator[tuple[Child, httpx.AsyncClient]]:
    """Start the API by hand and wait until it answers at all."""
    url = f"http://{layout.read_platform().api}"
    argv = [sys.executable, "-m", "kythera.control.server", "--state", str(layout.state)]
    env = {**os.environ, "PYTHONPATH": "src"}
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with (
        child(argv, env=env, capture=False) as process,
        httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=20) as client,
    ):
        with anyio.fail_after(READY_S):
            while True:
                try:
                    await client.get("/healthz")
                    break
                except httpx.ConnectError:
                    await anyio.sleep(0.01)
        yield process, client
        process.signal(signal.SIGTERM)
        with anyio.fail_after(READY_S):
            assert await process.wait() == 0


@asynccontextmanager
async def platform_behind(layout: Layout) -> AsyncIterator[None]:
    """Run what the agent runs: a log, and the copy that follows it."""
    async with (
        serving(layout.state, LIMITS) as server,
        open_log(server.layout.log_address, LIMITS, within_ms=10_000) as log,
        anyio.create_task_group() as tasks,
    ):
        with Copy(layout.copy) as copy:
            tasks.start_soon(follow_into, log, copy, lambda _: None)
            yield
            tasks.cancel_scope.cancel()


async def healthy(client: httpx.AsyncClient) -> None:
    """Wait until the API can read and write, its account included."""
    with anyio.fail_after(READY_S):
        while True:
            if (await client.get("/healthz")).status_code == 200:
                names = (await client.get(f"{WORKERS}/subdomain")).json()
                if names["success"]:
                    return
            await anyio.sleep(0.02)


async def test_it_answers_before_the_rest_is_there_and_works_once_it_is(layout: Layout) -> None:
    """503 in words, then a deploy with a real trial, then fail static when the log goes."""
    async with api(layout) as (_, client):
        early = await client.get("/healthz")
        assert early.status_code == 503
        assert "copy" in early.json()["reason"]
        async with platform_behind(layout):
            await healthy(client)
            made = await client.put(f"{WORKERS}/scripts/hello", files=form())
            assert made.status_code == 200, made.text
            assert made.json()["result"]["handlers"] == ["fetch"]
            bad = await client.put(f"{WORKERS}/scripts/bad", files=form("export default {"))
            assert bad.json()["errors"][0]["code"] == 10021
            assert "SyntaxError" in bad.text
        assert (await client.get(f"{WORKERS}/services/hello")).json()["success"]
        late = await client.put(f"{WORKERS}/scripts/hello", files=form())
        assert late.status_code == 503


async def test_malformed_http_closes_one_connection_and_nothing_else(layout: Layout) -> None:
    """Bytes that are no HTTP, heads without end, bodies that stop."""
    async with api(layout) as (_, client):
        host, port = layout.read_platform().api.split(":")
        for data in (
            b"\x16\x03\x01\x02\x00",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
            b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
            b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
            b"GET /tails/x HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            b"GET /client/v4/%ff%00 HTTP/1.1\r\nHost: \xff\r\nAuthorization: \xfe\r\n\r\n",
        ):
            with anyio.move_on_after(5):
                async with await anyio.connect_tcp(host, int(port)) as stream:
                    await stream.send(data)
                    await stream.send_eof()
                    with anyio.fail_after(4):
                        answer = b""
                        while len(answer) < 12:
                            try:
                                answer += await stream.receive()
                            except (anyio.EndOfStream, anyio.BrokenResourceError):
                                break
                    assert b" 5" not in answer[:12], (data[:60], answer[:200])
        assert (await client.get("/client/v4/user")).status_code == 200


async def test_a_chunked_body_without_a_length_is_read_and_bounded(layout: Layout) -> None:
    """As single assets come; too much of it is refused in words."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 1024 * 1024

    async with api(layout) as (_, client), platform_behind(layout):
        await healthy(client)
        await client.put(f"{WORKERS}/scripts/hello", files=form())
        refused = await client.put(f"{WORKERS}/scripts/hello/secrets", content=endless())
        assert refused.status_code == 413
        assert refused.json()["errors"][0]["code"] == 10027


async def test_sockets_are_taken_over_as_systemd_passes_them(layout: Layout) -> None:
    """LISTEN_FDS, by name; the door that was open before the API stays the same."""
    with listen_tcp("127.0.0.1:0") as door, socket.socket(socket.AF_UNIX) as tail:
        tail.bind(str(layout.state / "t.sock"))
        tail.listen()
        url = f"http://{address_of(door)}"
        # Puts the descriptors where systemd would, and keeps its pid for the API.
        launcher = (
            f"import os, sys; os.dup2({door.fileno()}, 3); os.dup2({tail.fileno()}, 4);"
            " os.environ['LISTEN_PID'] = str(os.getpid());"
            " os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
        )
        state = str(layout.state)
        argv = [sys.executable, "-c", launcher, "-m", "kythera.control.server", "--state", state]
        env = {
            **os.environ,
            "PYTHONPATH": "src",
            "LISTEN_FDS": "2",
            "LISTEN_FDNAMES": "api:tail",
        }
        descriptors = (door.fileno(), tail.fileno())
        async with child(argv, env=env, pass_fds=descriptors) as process:
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=READY_S) as client:
                began = time.monotonic()
                assert (await client.get("/client/v4/user")).status_code == 401
                assert time.monotonic() - began < READY_S
            transport = httpx.AsyncHTTPTransport(uds=str(layout.state / "t.sock"))
            async with httpx.AsyncClient(transport=transport, base_url="http://tail") as client:
                sent = await client.post(f"/{ACCOUNT}/hello/v", json=[])
                assert sent.status_code == 204
            process.signal(signal.SIGTERM)
            with anyio.fail_after(READY_S):
                assert await process.wait() == 0


def test_sockets_meant_for_another_process_are_left_alone() -> None:
    """LISTEN_PID tells whose they are; the variables are taken out in any case."""
    environment = {"LISTEN_FDS": "2", "LISTEN_PID": "1", "LISTEN_FDNAMES": "api:tail"}
    assert inherited(environment) == {}
    assert environment == {}
