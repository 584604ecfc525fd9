"""Several machines' APIs in a test's own process: one log, a copy for each, and a mesh between them.

The fake mesh hands requests to the other machine's application, as HAProxy does: with the name of
who asks. A test may cut it, hang it, or let a machine answer something else.
"""

import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
from anyio.abc import TaskStatus
from starlette.types import ASGIApp

from kythera.control.app import build_app, build_peers_app
from kythera.control.audit import Trail
from kythera.control.fleet import Fleet
from kythera.control.peers import PEER_HEADER
from kythera.control.store import Store, put
from kythera.distribute.memory_log import MemoryLog
from kythera.distribute.mesh import PeerUnreachable
from kythera.ground.chance import SeededChance
from kythera.model.limits import Limits
from kythera.model.records import Core, Machine
from tests.control.world import TOKEN, MemoryCopy, World

QUICK = Limits(append_ms=400, read_your_writes_ms=300, fleet_status_ms=1_500, peer_answer_ms=300)
SITES = {"a": "one", "b": "one", "c": "two"}


class Network:
    """Who answers under which name, and what is wrong with the way there."""

    def __init__(self) -> None:
        self.apps: dict[str, ASGIApp] = {}
        self.cut: set[str] = set()
        self.hung: set[str] = set()
        self.poisoned: dict[str, httpx.Response] = {}
        self.calls: list[tuple[str, str, str]] = []
        """(who asked, whom, path)"""


class FakeMesh:
    """What one machine reaches of the network."""

    def __init__(self, network: Network, me: str) -> None:
        self._network = network
        self._me = me

    async def request(
        self, peer: str, recorded: str, method: str, path: str, **more: Any
    ) -> httpx.Response:
        """Ask a machine and return its whole answer."""
        async with self.stream(peer, recorded, method, path, **more) as response:
            await response.aread()
            return response

    def stream(
        self, peer: str, recorded: str, method: str, path: str, **more: Any
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Ask a machine and hand over its answer."""
        return self._stream(peer, method, path, more)

    @contextlib.asynccontextmanager
    async def _stream(
        self, peer: str, method: str, path: str, more: dict[str, Any]
    ) -> AsyncIterator[httpx.Response]:
        network = self._network
        network.calls.append((self._me, peer, path))
        if peer in network.cut or self._me in network.cut:
            raise PeerUnreachable(f"the machine {peer!r} cannot be reached: it is cut off.")
        if peer in network.hung:
            await anyio.sleep_forever()
        if peer in network.poisoned:
            yield network.poisoned[peer]
            return
        headers = {**more.pop("headers", {}), PEER_HEADER: self._me}
        transport = httpx.ASGITransport(network.apps[peer], raise_app_exceptions=True)
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://control.kythera") as client,
            client.stream(method, path, headers=headers, **more) as response,
        ):
            yield response


class Member(World):
    """One machine of a fleet: its API, its copy, its agent's status."""

    def __init__(
        self, folder: Path, name: str, log: MemoryLog, network: Network, limits: Limits
    ) -> None:
        folder.mkdir()
        super().__init__(folder, limits)
        self.name = name
        self.log = log
        self.copy = MemoryCopy(log)
        platform = msgspec.structs.replace(
            self.services.platform, machine=name, site=SITES.get(name, "one")
        )
        self.services = dataclasses.replace(
            self.services,
            platform=platform,
            store=Store(
                log,
                self.copy,
                limits,
                trail=Trail(name, log, limits, self.clock, self.services.journal),
            ),
            chance=SeededChance(sum(name.encode())),
            fleet=Fleet(mesh=FakeMesh(network, name), status_socket=folder / "agent.sock"),
        )
        self.agent: Any = {
            "machines": [{"name": name, "site": "?", "source": "core", "lag_ms": 7, "cells": 1}],
            "cells": [{"worker": "hello", "version": "v1", "state": "ready", "requests": 3}],
        }
        """What its agent tells; bytes go out as they are, None: it hangs."""
        self.app = build_app(self.services)
        self.peers_app = build_peers_app(self.services)
        network.apps[name] = self.peers_app

    def connect(self) -> None:
        """Open the client of this machine's API."""
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=True),
            base_url=f"http://{self.name}.test",
            headers={"authorization": f"Bearer {TOKEN}"},
        )

    async def serve_agent(self, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Tell the agent's status on its socket, for ever; it has started once that is listened to."""
        assert self.services.fleet.status_socket is not None
        listener = await anyio.create_unix_listener(self.services.fleet.status_socket)

        async def tell(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                if self.agent is None:
                    await anyio.sleep_forever()
                told = self.agent
                await stream.send(told if isinstance(told, bytes) else json.dumps(told).encode())

        async with listener:
            task_status.started()
            await listener.serve(tell)

    async def status(self) -> Any:
        """Return the fleet's status as this machine's API tells it."""
        account = self.services.account
        return await self.ok("GET", f"/client/v4/accounts/{account}/kythera/status")


@dataclasses.dataclass
class Machines:
    """The fleet."""

    log: MemoryLog
    network: Network
    all: dict[str, Member]

    def __getitem__(self, name: str) -> Member:
        """Return a machine."""
        return self.all[name]


@contextlib.asynccontextmanager
async def machines(
    folder: Path, names: Iterable[str] = "abc", limits: Limits = QUICK
) -> AsyncIterator[Machines]:
    """Return a fleet that has been started; `a` holds the log."""
    log, network = MemoryLog(limits), Network()
    made = {name: Member(folder / name, name, log, network, limits) for name in names}
    async with contextlib.AsyncExitStack() as stack:
        for member in made.values():
            await member.client.aclose()
            member.connect()
            await stack.enter_async_context(member.client)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        first = next(iter(made.values()))
        await first.start()
        for member in made.values():
            record = Machine(
                name=member.name, site=SITES[member.name], mesh=f"{member.name}.test:7443"
            )
            await first.services.store.write([put(record)])
            await tasks.start(member.serve_agent)
            fleet = member.services.fleet
            tasks.start_soon(fleet.relay.run, fleet.mesh, limits, member.services.journal)
        await first.services.store.write([put(Core(machines=(first.name,)))])
        yield Machines(log, network, made)
        tasks.cancel_scope.cancel()
