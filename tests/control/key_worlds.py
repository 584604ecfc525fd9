"""Machines whose keys for secrets are changed while everything that can happen happens to them.

A `Host` is a machine's control process with a copy that lags when told, a file of keys on a real
disk, and a fuse: it dies at the n-th thing it does to the world. What was on its disk and in the log
stays. `Hosts.check` holds after every step, `Hosts.settle` brings all back and sees that nothing was
lost and nothing is left of the old key.
"""

import dataclasses
from collections.abc import AsyncGenerator, Callable, Collection
from pathlib import Path
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskGroup

from kythera.control.app import build_peers_app
from kythera.control.fleet import Fleet
from kythera.control.key_rotation import KeyTender, rotate, sealing_key
from kythera.control.publish import publish
from kythera.control.services import OpenSecret, ReadBlob, Services
from kythera.control.store import Store, put
from kythera.deploy.keyring import Keyring
from kythera.deploy.resealing import Step, next_step, sealed_of
from kythera.deploy.upload import Draft
from kythera.deploy.versions import with_secrets
from kythera.distribute.copy import Changes
from kythera.distribute.log import Entry
from kythera.distribute.memory_log import MemoryLog
from kythera.ground.files import write_private
from kythera.ground.key_files import KeyFiles, render
from kythera.model.catalog import Catalog
from kythera.model.envelope import key_id, keys_used
from kythera.model.errors import KytheraError
from kythera.model.limits import Limits
from kythera.model.records import Core, Heartbeat, Machine, Sealing, Version, Worker
from tests.control.fleets import FakeMesh, Network
from tests.control.world import ACCOUNT, Trial, World

LIMITS = Limits(
    append_ms=30, read_your_writes_ms=30, peer_answer_ms=200, key_absent_s=0.0, unfinished_ms=20
)
FIRST = bytes(range(32))
SETTLE_ROUNDS_MAX = 400
Decide = Callable[..., Step]


class DiedError(Exception):
    """The process has ended at this point."""


class Fuse:
    """Counts what a process does to the world, and ends it at one of them."""

    def __init__(self) -> None:
        self.left: int | None = None

    def burn(self) -> None:
        """Do one more thing, or die."""
        if self.left is None:
            return
        if self.left == 0:
            self.left = None
            raise DiedError
        self.left -= 1


class FusedLog:
    """The log as one machine reaches it: it may die before a write, or after it unacknowledged."""

    def __init__(self, log: MemoryLog, fuse: Fuse) -> None:
        self._log = log
        self._fuse = fuse

    async def append(self, key: str, value: bytes | None, **more: Any) -> int:
        """Write."""
        self._fuse.burn()
        seq = await self._log.append(key, value, **more)
        self._fuse.burn()
        return seq

    async def last_seq(self) -> int:
        """Ask."""
        self._fuse.burn()
        return await self._log.last_seq()

    def follow(self, after_seq: int) -> AsyncGenerator[list[Entry], None]:
        """Nobody follows here."""
        return self._log.follow(after_seq)


class FusedFiles(KeyFiles):
    """Files of keys whose owner may die before or after they change."""

    fuse: Fuse

    def add(self, key: bytes) -> None:
        """Keep a key."""
        self.fuse.burn()
        super().add(key)
        self.fuse.burn()

    def keep_only(self, needed: Collection[str]) -> tuple[str, ...]:
        """Drop keys."""
        self.fuse.burn()
        gone = super().keep_only(needed)
        self.fuse.burn()
        return gone


class LaggingCopy:
    """Shows what it has applied; applies all there is unless it is frozen."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._applied: list[Entry] = []
        self._seq = 0
        self.frozen = False

    def advance(self, entries_max: int | None = None) -> None:
        """Apply what came since, or some of it."""
        fresh = self._log._after(self._seq)[:entries_max]
        self._applied += fresh
        self._seq = fresh[-1].seq if fresh else self._seq

    def applied_seq(self) -> int:
        """Return the newest sequence that is shown."""
        if not self.frozen:
            self.advance()
        return self._seq

    def is_whole(self) -> bool:
        """Tell that everything was here once."""
        return True

    def changes_since(self, generation: int, seq: int) -> Changes:
        """Return what was applied after."""
        newest = self.applied_seq()
        return Changes(0, newest, False, [entry for entry in self._applied if entry.seq > seq])


@dataclasses.dataclass
class Put:
    """A secret being set: it waits in its trial until it is let go on."""

    worker: str
    name: str
    text: str
    go_on: anyio.Event
    ended: anyio.Event
    tries: int = 0
    acknowledged: bool = False


class Host:
    """One machine: what survives it (its file, its copy), and the process that comes and goes."""

    def __init__(self, folder: Path, name: str, hosts: "Hosts") -> None:
        self.name = name
        self.hosts = hosts
        self.folder = folder / name
        self.world = World(_made(self.folder), LIMITS)
        self.copy = LaggingCopy(hosts.log)
        self.fuse = Fuse()
        self.files = FusedFiles(self.folder / "secrets.key")
        object.__setattr__(self.files, "fuse", self.fuse)
        write_private(self.files.own, render([FIRST]).encode())
        self.under_way: set[anyio.CancelScope] = set()
        self.start()

    def start(self) -> None:
        """Begin as a process does: from the files and the copy."""
        self.fuse.left = None
        store = Store(FusedLog(self.hosts.log, self.fuse), self.copy, LIMITS)
        keyring = Keyring(self.files, lambda: sealing_key(store))
        self.services: Services = dataclasses.replace(
            self.world.services,
            platform=msgspec.structs.replace(self.world.services.platform, machine=self.name),
            store=store,
            seals=keyring,
            keyring=keyring,
            fleet=Fleet(mesh=FakeMesh(self.hosts.network, self.name)),
        )
        self.tender = KeyTender(self.services, keyring, decide=self.hosts.decide)
        self.hosts.network.apps[self.name] = build_peers_app(self.services)

    def crash(self) -> None:
        """End, and what was under way with it; start again."""
        for scope in list(self.under_way):
            scope.cancel()
        self.start()

    async def attempt(self, work: Callable[[], Any]) -> None:
        """Do something that may fail as things fail, or be the process' end."""
        try:
            await work()
        except KytheraError:
            pass
        except DiedError:
            self.crash()

    async def tend(self) -> None:
        """One look of the loop."""
        self.hosts.acting = self.name
        await self.attempt(self.tender.tend)

    async def rotate(self) -> None:
        """What `kythera key rotate` asks for."""
        await self.attempt(lambda: rotate(self.services))

    async def put(self, doing: Put) -> None:
        """Set a secret as the API does; it waits in the trial."""

        async def wait(version: Version, read_blob: ReadBlob, open_secret: OpenSecret) -> Trial:
            for binding in version.bindings:
                open_secret(binding.name, binding.fields["sealed"])
            await doing.go_on.wait()
            return Trial()

        def draft(origin: Any) -> Draft:
            doing.tries += 1
            if origin.previous is None:
                return _first_version(origin, doing)
            return with_secrets({doing.name: doing.text}, origin)

        services = dataclasses.replace(self.services, try_version=wait)
        scope = anyio.CancelScope()
        self.under_way.add(scope)
        try:
            with scope:
                await publish(services, doing.worker, draft, create=True, deploy=True)
                doing.acknowledged = True
        except KytheraError:
            pass
        except DiedError:
            self.crash()
        finally:
            self.under_way.discard(scope)
            doing.ended.set()

    def held(self) -> set[str]:
        """Return the ids of the keys on this machine's disk."""
        return {key_id(key) for key in self.files.read()}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _first_version(origin: Any, doing: Put) -> Draft:
    version = Version(
        account=origin.account,
        worker=origin.worker,
        id="",
        number=0,
        created_on="",
        main_module="w.js",
        bindings=(origin.secret(doing.name, doing.text),),
    )
    return Draft(version=version, blobs={}, settings={})


class Hosts:
    """All machines and the log between them."""

    def __init__(self, folder: Path, names: str = "abc", decide: Decide = next_step) -> None:
        self.log = MemoryLog(LIMITS)
        self.network = Network()
        self.decide = decide
        self.beats = 0
        self.all = {name: Host(folder, name, self) for name in names}
        self.puts: list[Put] = []
        self.active = key_id(FIRST)
        self.once: set[str] = set()
        self.acting = ""
        """Whose look it was last: a driver that is cut off reaches nobody."""

    async def begin(self, core: str) -> None:
        """Write who the machines are and which of them hold the log."""
        store = self.all["a"].services.store
        store.catalog()
        for name in self.all:
            await store.write([put(Machine(name=name, mesh=f"{name}:1"))])
        await store.write([put(Core(machines=tuple(core)))])
        await self.beat("a")

    async def beat(self, name: str) -> None:
        """Let a core machine be the one that drives."""
        self.beats += 1
        value = msgspec.json.encode(Heartbeat(machine=name, number=self.beats, at_ms=1))
        await self.log.append("heartbeat.fleet", value)

    def catalog(self) -> Catalog:
        """Return what the log holds."""
        found = Catalog()
        for entry in self.log._after(0):
            found.apply(entry.key, entry.value)
        return found

    def start_put(self, tasks: TaskGroup, host: str, worker: str, text: str) -> Put:
        """Begin to set a secret of its own on a machine."""
        name = f"S{len(self.puts)}"
        doing = Put(worker, name, text, anyio.Event(), anyio.Event())
        self.puts.append(doing)
        tasks.start_soon(self.all[host].put, doing)
        return doing

    def check(self) -> None:
        """See that what is sealed can be opened by somebody, and that a new key was everywhere."""
        on_disks: set[str] = set().union(*(host.held() for host in self.all.values()))
        catalog = self.catalog()
        for version in sealed_of(catalog):
            lost = keys_used(version) - on_disks
            assert not lost, f"nobody holds {lost}, with which {version.key()} is sealed"
        sealing = catalog.sealing()
        assert sealing is None or sealing.wanted not in self.once, "an old key is to seal again"
        if sealing is not None and sealing.active != self.active:
            self._check_activation(sealing)

    def _check_activation(self, sealing: Sealing) -> None:
        self.once.add(self.active)
        self.active = sealing.active
        lacking = {
            host.name
            for host in self.all.values()
            if sealing.active not in host.held() and not self.network.cut & {host.name, self.acting}
        }
        assert not lacking, f"{lacking} were given no key before it was used"

    async def settle(self) -> None:
        """Bring everybody back, let everything end, and see what is left."""
        self.network.cut.clear()
        for doing in self.puts:
            doing.go_on.set()
        for host in self.all.values():
            host.copy.frozen = False
            host.fuse.left = None
        for doing in self.puts:
            await doing.ended.wait()
        for _ in range(SETTLE_ROUNDS_MAX):
            for host in self.all.values():
                await host.tend()
                self.check()
            if self._is_over():
                break
            await anyio.sleep(0.005)
        self._check_end()

    def _is_over(self) -> bool:
        sealing = self.catalog().sealing()
        over = sealing is not None and not sealing.wanted and not sealing.retiring
        return sealing is None or (
            over and all(host.held() == {sealing.active} for host in self.all.values())
        )

    def _check_end(self) -> None:
        catalog = self.catalog()
        sealing = catalog.sealing() or Sealing(active=key_id(FIRST))
        assert not sealing.wanted, "the new key is still being introduced"
        assert not sealing.retiring, "the old key is still kept"
        for host in self.all.values():
            assert host.held() == {sealing.active} or catalog.sealing() is None, host.name
        for version in sealed_of(catalog):
            assert keys_used(version) <= {sealing.active}, version.key()
        for doing in self.puts:
            if doing.acknowledged:
                self._check_secret(catalog, doing)

    def _check_secret(self, catalog: Catalog, doing: Put) -> None:
        """Each secret has a name of its own, so every later version has it."""
        worker = catalog.worker(ACCOUNT, doing.worker)
        assert isinstance(worker, Worker)
        newest = catalog.versions(ACCOUNT, doing.worker)[0]
        sealed = {binding.name: binding.fields["sealed"] for binding in newest.bindings}
        for host in self.all.values():
            keyring = host.services.keyring
            assert keyring is not None
            place = f"{ACCOUNT}/{doing.worker}/{doing.name}"
            assert keyring.open(sealed[doing.name], place) == doing.text
