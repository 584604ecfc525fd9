"""How the API asks this machine's stores: over their sockets, with a pass of the platform's own.

A pass without a worker is the API's; no cell gets one. Promises a deadline for each call, and that a
store that is away is said to be away (StoreUnavailable), never taken for an empty one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio
import httpx

from kythera.ground.layout import Layout
from kythera.ground.passes import PASS_HEADER, Pass, sign, store_key, way_mark
from kythera.model.errors import StoreUnavailable
from kythera.route.mesh_data import AWAY_HEADER
from kythera.run.bindings import FLEET
from kythera.run.objects import WAY_HEADER

LEAVING, LEAVING_LOOK_S = 503, 0.05
"""An object cell that is being replaced lets nobody in, and has done nothing."""


@dataclass(frozen=True)
class Asked:
    """What is meant: a resource in a store of this machine, or of another one of the fleet."""

    store: str
    account: str
    resource: str
    machine: str = ""
    """Which other one; empty: this one."""


@dataclass(frozen=True)
class ObjectCell:
    """Whose object cell is meant."""

    account: str
    worker: str
    machine: str = ""
    """Which other machine of the fleet it runs on; empty: this one."""


class StoreCalls(Protocol):
    """Asks this machine's stores."""

    async def ask(self, asked: Asked, path: str, body: bytes, within_s: float) -> tuple[int, bytes]:
        """Return status and body of an answer. Raises StoreUnavailable."""
        ...

    async def ask_object_cell(
        self, cell: ObjectCell, path: str, body: bytes, within_s: float
    ) -> tuple[int, bytes]:
        """POST to a worker's object cell, likewise. Raises StoreUnavailable."""
        ...

    def folder(self, store: str) -> Path:
        """Return where a store keeps what it is given."""
        ...

    @property
    def transfers(self) -> Path:
        """Return the folder for files on their way into a store."""
        ...


class NoStores:
    """Of a process beside which no stores run (a test's)."""

    async def ask(self, asked: Asked, path: str, body: bytes, within_s: float) -> tuple[int, bytes]:
        """Reach nobody."""
        raise StoreUnavailable(f"The store {asked.store!r} is not here.")

    async def ask_object_cell(
        self, cell: ObjectCell, path: str, body: bytes, within_s: float
    ) -> tuple[int, bytes]:
        """Reach nobody."""
        raise StoreUnavailable(f"The object cell of {cell.worker!r} is not here.")

    def folder(self, store: str) -> Path:
        """Have none."""
        raise StoreUnavailable(f"The store {store!r} is not here.")

    @property
    def transfers(self) -> Path:
        """Have none."""
        raise StoreUnavailable("There are no stores here.")


@dataclass(frozen=True)
class SocketStores:
    """The stores behind the sockets of a state folder."""

    layout: Layout

    async def ask(self, asked: Asked, path: str, body: bytes, within_s: float) -> tuple[int, bytes]:
        """POST a body. A store that is starting is waited for: its socket is the keeper's."""
        granted = Pass(account=asked.account, worker="", store=asked.store, resource=asked.resource)
        key = await anyio.to_thread.run_sync(store_key, self.layout.store_key)
        headers = {PASS_HEADER: sign(granted, key)}
        if asked.machine:
            headers |= await self._way(asked.machine, asked.store)
        socket = self.layout.store_socket(FLEET if asked.machine else asked.store)
        transport = httpx.AsyncHTTPTransport(uds=str(socket))
        try:
            async with httpx.AsyncClient(transport=transport, timeout=within_s) as client:
                answer = await client.post(f"http://store{path}", content=body, headers=headers)
        except httpx.TransportError as error:
            why = str(error) or type(error).__name__
            raise StoreUnavailable(f"The store {asked.store!r} did not answer: {why}.") from None
        if AWAY_HEADER in answer.headers:
            raise StoreUnavailable(f"The store {asked.store!r} did not answer: {_why(answer)}.")
        return answer.status_code, answer.content

    async def ask_object_cell(
        self, cell: ObjectCell, path: str, body: bytes, within_s: float
    ) -> tuple[int, bytes]:
        """POST a body to its watch's socket; while there is none yet, or it is being replaced, until
        the next one answers."""
        watch, headers = self.layout.objects_watch(cell.account, cell.worker), {}
        if cell.machine:
            headers = await self._way(cell.machine, watch.name)
            watch = self.layout.store_socket(FLEET)
        transport = httpx.AsyncHTTPTransport(uds=str(watch))
        end, why = anyio.current_time() + within_s, "there was no time"
        async with httpx.AsyncClient(transport=transport, headers=headers) as client:
            while (left_s := end - anyio.current_time()) > 0:
                try:
                    url = f"http://objects{path}"
                    answer = await client.post(url, content=body, timeout=left_s)
                    if AWAY_HEADER in answer.headers:
                        why = _why(answer)
                        break
                    if answer.status_code != LEAVING:
                        return answer.status_code, answer.content
                    why = "it is being replaced"
                except httpx.ConnectError as error:
                    why = str(error)
                except httpx.TransportError as error:
                    why, end = str(error) or type(error).__name__, 0.0
                await anyio.sleep(LEAVING_LOOK_S)
        raise StoreUnavailable(f"The object cell of Worker {cell.worker!r} did not answer: {why}.")

    async def _way(self, machine: str, name: str) -> dict[str, str]:
        """Return what the fleet's door knows `name` of another machine by."""
        key = await anyio.to_thread.run_sync(store_key, self.layout.store_key)
        return {WAY_HEADER: way_mark(key, machine, name)}

    def folder(self, store: str) -> Path:
        """Return `data/<store>`."""
        return self.layout.data / store

    @property
    def transfers(self) -> Path:
        """Return the folder, made if need be."""
        self.layout.transfers.mkdir(mode=0o700, exist_ok=True)
        return self.layout.transfers


def _why(answer: httpx.Response) -> str:
    """Return what the front says of a home that is away."""
    why: str = answer.json()["error"]
    return why
