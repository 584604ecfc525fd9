"""A real egress cell, and servers on loopback for it to reach, for tests that look at what passes.

The operator's own block is loopback here, so that nothing but this machine is ever spoken to.
"""

import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx

from kythera.ground.processes import Child, child, read_some
from kythera.model.limits import Limits
from kythera.run.config import OWN_COMPATIBILITY_DATE, encode
from kythera.run.egress import COUNTERS, EgressSettings, egress_config
from kythera.run.outbound import EgressDoor
from kythera.run.workerd import find_workerd, workerd_argv
from tests.run.pipes import Pipe
from tests.run.starting import START_S_MAX, listening_on

KEY = "k" * 40
ALLOW = ("public", "127.0.0.0/8")
ORIGIN = Path(__file__).parent / "origin.js"


@asynccontextmanager
async def workerd(config: bytes, sockets: dict[str, socket.socket]) -> AsyncIterator[Child]:
    """Run a workerd on sockets until the block ends; it listens when the block begins."""
    with Pipe() as control:
        numbers = {name: str(sock.fileno()) for name, sock in sockets.items()}
        argv = [str(find_workerd()), *workerd_argv(numbers, str(control.write_end))]
        passed = [*(sock.fileno() for sock in sockets.values()), control.write_end]
        async with child(argv, pass_fds=passed, stdin=config) as process:
            control.close_write_end()
            async with anyio.create_task_group() as tasks:
                for stream in (process.stdout, process.stderr):
                    assert stream is not None
                    tasks.start_soon(_drain, stream)
                with anyio.fail_after(START_S_MAX):
                    said = b""
                    while b'"listen"' not in said and (more := await control.read()):
                        said += more
                assert b'"listen"' in said, "workerd does not start"
                yield process
                tasks.cancel_scope.cancel()


async def _drain(stream: int) -> None:
    while chunk := await read_some(stream):
        if os.environ.get("SHOW"):
            print(chunk.decode(errors="replace"))  # noqa: T201


@dataclass
class Egress:
    """An egress cell that runs, and a server that it may reach."""

    door: EgressDoor
    counters_path: Path
    origin: str
    """`127.0.0.1:PORT` of a server whose paths do what their names say."""
    process: Child

    async def counters(self) -> dict[str, Any]:
        """Return all that it has counted."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.counters_path))
        async with httpx.AsyncClient(transport=transport, base_url="http://egress") as client:
            found: dict[str, Any] = (await client.get("/")).json()
            return found

    async def counted(self) -> dict[str, Any]:
        """Return what it has counted of the one worker."""
        (worker,) = (await self.counters())["workers"]
        found: dict[str, Any] = worker
        return found

    async def settles(self, name: str, value: object) -> None:
        """Wait until one of its counters of the worker is this."""
        with anyio.fail_after(START_S_MAX):
            while (await self.counted())[name] != value:
                await anyio.sleep(0.02)


@asynccontextmanager
async def egress_running(
    folder: Path, limits: Limits | None = None, **settings: Any
) -> AsyncIterator[Egress]:
    """Run an egress cell and an origin."""
    limits = limits or Limits()
    door = EgressDoor(folder / "egress.sock", KEY, limits)
    settings.setdefault("allow", ALLOW)
    settings.setdefault("ca_available", False)
    config = egress_config(EgressSettings(key=KEY, limits=limits, **settings))
    with (
        listening_on(door.socket) as http,
        listening_on(folder / "counters.sock") as counted,
        socket.socket() as tcp,
    ):
        door.socket.chmod(0o666)
        tcp.bind(("127.0.0.1", 0))
        tcp.listen(1024)
        origin = f"127.0.0.1:{tcp.getsockname()[1]}"
        async with (
            workerd(origin_config(), {"http": tcp}),
            workerd(config, {"http": http, COUNTERS: counted}) as process,
        ):
            yield Egress(door, folder / "counters.sock", origin, process)


def origin_config() -> bytes:
    """Return the configuration of the server."""
    worker = {
        "modules": [{"name": "origin.js", "esModule": ORIGIN.read_text(encoding="utf-8")}],
        "compatibilityDate": OWN_COMPATIBILITY_DATE,
        "compatibilityFlags": ["enable_request_signal", "nodejs_compat"],
        "globalOutbound": {"name": "internet"},
    }
    services = [
        {"name": "internet", "network": {"allow": []}},
        {"name": "origin", "worker": worker},
    ]
    sockets = [{"name": "http", "http": {}, "service": {"name": "origin"}}]
    return encode({"services": services, "sockets": sockets})


def asked(origin: str) -> str:
    """Return the module that tests' workers import: where the origin is."""
    return f"export default {json.dumps(origin)};"
