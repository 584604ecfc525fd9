"""Several front doors that know each other: real HAProxies with certificates of one authority."""

import os
import shutil
import signal
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio

from kythera.distribute import authority
from kythera.route.mesh import MeshFiles, PeerDoor, Peers
from kythera.route.render import FrontOptions
from tests.processes import family
from tests.route.doors import SMALL, Cell, Door

LIFE_S = 3600.0


class Identities:
    """An authority and what it has signed, in a folder."""

    def __init__(self, folder: Path, mark: str = "test") -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._ca, self._key = authority.make_authority(time.time(), mark)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self._ca)

    def machine(self, name: str, *, begun: float = 0.0, life_s: float = LIFE_S) -> Path:
        """Issue a machine's certificate, `begun` seconds from now; return its file."""
        key = authority.make_key()
        request = authority.make_request(key, name)
        now = time.time() + begun
        path = self.folder / f"{name}.pem"
        path.write_bytes(authority.issue(self._ca, self._key, name, request, now, life_s) + key)
        return path

    def joiner(self, token: str) -> Path:
        """Issue a token's certificate; return its file."""
        key = authority.make_key()
        path = self.folder / f"join-{token}.pem"
        path.write_bytes(
            authority.issue_joiner(self._ca, self._key, token, key, time.time(), LIFE_S) + key
        )
        return path

    def context(self, certificate: Path | None) -> ssl.SSLContext:
        """Return how Python speaks to a mesh door with this certificate, or with none."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if certificate is not None:
            context.load_cert_chain(certificate)
        return context


class Fleet:
    """Doors by name. `site` holds those that are not of the site `here`."""

    def __init__(self, folder: Path, sites: dict[str, str]) -> None:
        self.folder = folder
        self.sites = sites
        self.identities = Identities(folder / "identities")
        self.doors: dict[str, Door] = {}
        self.controls: dict[str, Cell] = {}
        self.removed: set[str] = set()

    async def start(self, name: str) -> Door:
        """Start one machine's door, with a control process behind it that echoes."""
        folder = self.folder / name
        folder.mkdir()
        control = await Cell(folder / "control.sock", f"{name}-control").start()
        self.controls[name] = control
        mesh = MeshFiles(
            certificate=str(self.identities.machine(name)),
            authority=str(self.identities.ca),
            control_socket=str(control.path),
        )
        door = Door(folder, FrontOptions(limits=SMALL, site=self.sites[name], mesh=mesh))
        self.doors[name] = door
        return door

    def peers(self, name: str, *, draining: bool = False, overloaded: bool = False) -> Peers:
        """Return the fleet as one machine sees it."""
        return Peers(
            me=name,
            draining=draining,
            overloaded=overloaded,
            machines=tuple(
                PeerDoor(
                    name=other,
                    address=f"127.0.0.1:{door.mesh_port}",
                    site=self.sites[other],
                    near=0 if self.sites[other] == self.sites[name] else 2,
                )
                for other, door in self.doors.items()
                if other != name and other not in self.removed
            ),
        )

    async def worker(self, worker: str, *, on: Iterable[str] = ()) -> None:
        """Deploy a worker with a cell of its own on each machine (or on some)."""
        for name in on or self.doors:
            cell = await self.doors[name].cell(f"{name}-{worker}")
            self.doors[name].world.worker(worker, {cell: 100})

    async def drain(self, name: str, draining: bool = True) -> str:
        """Have a machine send all its workers' visitors to others, and say so."""
        door = self.doors[name]
        door.world.peers = self.peers(name, draining=draining)
        workers = [worker.name for worker in door.world.catalog.workers()]
        door.world.where = dict.fromkeys(workers, "away" if draining else "local")
        return await door.apply()

    async def apply(self) -> None:
        """Apply every machine's world."""
        for door in self.doors.values():
            await door.apply()

    def cell(self, name: str, worker: str) -> Cell:
        """Return a worker's cell on a machine."""
        return next(c for c in self.doors[name].cells if c.name == f"{name}-{worker}")

    def signal(self, name: str, signum: int) -> None:
        """Send all processes of one machine's HAProxy a signal."""
        process = self.doors[name].process
        assert process is not None
        for pid in {process.pid, *family(process.pid)}:
            os.kill(pid, signum)

    async def states(self, name: str) -> dict[str, str]:
        """Return what a door thinks of its peers."""
        front = self.doors[name].front
        await front.loads()
        return {peer: seen.state for peer, seen in (await front.forwarding()).items()}

    async def until(self, name: str, peer: str, state: str, within_s: float = 5.0) -> None:
        """Wait until a door thinks this of a peer."""
        with anyio.fail_after(within_s):
            while (await self.states(name)).get(peer) != state:
                await anyio.sleep(0.02)

    async def close(self) -> None:
        """End all."""
        for name, door in self.doors.items():
            if door.process is not None:
                self.signal(name, signal.SIGCONT)
            await door.close()
        for control in self.controls.values():
            await control.stop()
            control.listening.close()


@asynccontextmanager
async def fleet(**sites: str) -> AsyncIterator[Fleet]:
    """Run a door for each machine (name=site) for the length of the block; all are up."""
    folder = Path(tempfile.mkdtemp(prefix="fleet of x "))
    found = Fleet(folder, sites)
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        stack.push_async_callback(found.close)
        for name in sites:
            await found.start(name)
        for name, door in found.doors.items():
            door.world.peers = found.peers(name)
            door.front.prepare(door.world.plan(None))
            door.start()
        for door in found.doors.values():
            await door.front.ready()
        with anyio.fail_after(120):
            for name in sites:
                for other in sites:
                    if other != name:
                        await found.until(name, other, "up")
            yield found


def with_mesh(door: Door, **fields: object) -> None:
    """Change what a door knows of its own mesh."""
    assert door.options.mesh is not None
    mesh = MeshFiles(
        **{  # type: ignore[arg-type]
            "certificate": door.options.mesh.certificate,
            "authority": door.options.mesh.authority,
            "control_socket": door.options.mesh.control_socket,
            "streams": door.options.mesh.streams,
        }
        | fields
    )
    door.options = replace(door.options, mesh=mesh)
    door.front.options = door.options
