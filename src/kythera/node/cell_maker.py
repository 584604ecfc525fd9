"""From records to a running cell: argv, configuration on stdin, assets on disk.

Promises that a secret is open only in the bytes handed to the keeper's memory file, never on
disk, in argv or in the environment. Refuses (KytheraError) a version whose blobs are missing or
damaged.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from kythera.deploy.bindings_dispatch import is_outbound
from kythera.deploy.hyperdrive import HYPERDRIVE, password_of
from kythera.deploy.keyring import Keyring
from kythera.deploy.seal import Sealer
from kythera.deploy.shared_secrets import opened, secret_named
from kythera.distribute.blobs import Blobs
from kythera.distribute.files import read_manifest
from kythera.ground.layout import Layout
from kythera.model.catalog import Catalog
from kythera.model.platform import Platform
from kythera.model.records import Version
from kythera.run.assets import materialise
from kythera.run.bindings import FLEET, Database, Databases, SharedSecret, StoreDoors, stores_of
from kythera.run.cell import WORKERD_MARK, CellName
from kythera.run.config import PULSE, CellSettings, cell_config, subrequests_max
from kythera.run.objects import ObjectHome, ObjectsDoor
from kythera.run.outbound import EgressDoor
from kythera.run.sandbox import (
    ASSETS,
    EGRESS_SOCKET,
    OBJECTS_FOLDER,
    OBJECTS_STORAGE,
    STORES_FOLDER,
    TAIL_SOCKET,
    Confined,
    ShutIn,
    confine,
    memory_mib,
    room_mib,
)
from kythera.run.workerd import workerd_argv


def secret_opener(sealer: Keyring | Sealer, version: Version) -> Callable[[str, str], str]:
    """Return a function (binding name, sealed text) → text, bound to the version's worker."""

    def open_secret(name: str, sealed: str) -> str:
        return sealer.open(sealed, f"{version.account}/{version.worker}/{name}")

    return open_secret


@dataclass(frozen=True)
class CellMaker:
    """Builds what the keeper needs to start one process of a cell."""

    layout: Layout
    platform: Platform
    workerd: Path
    blobs: Blobs
    sealer: Keyring | Sealer
    egress: EgressDoor | None
    programs: Mapping[str, Path] = field(default_factory=dict)
    """Where the workerd of each mark is; a process is named by the mark of its own."""
    stores: StoreDoors | None = None
    """This machine's stores, by where they are outside of a sandbox."""
    catalog: Catalog = field(default_factory=Catalog)
    """Where the secrets of stores are found, sealed."""
    objects: Callable[[Version], Mapping[str, ObjectsDoor]] = lambda _: {}
    located: Callable[[Version], Version] = lambda version: version
    """A version whose bindings lead to where classes of objects are now."""
    """How a version's cells reach Durable Objects, by where they are outside of a sandbox."""
    homes: Callable[[Version], Mapping[str, str]] = lambda _: {}
    """By `store/resource`: which other machine keeps what a version is bound to."""
    _trees: dict[str, Path] = field(default_factory=dict)
    """Of manifests whose trees were laid out since this agent started."""

    def confined(self, cell: CellName, version: Version, pulse: str) -> Confined:
        """Return what to spawn: workerd in its sandbox, with the keeper's placeholders for
        descriptors; `pulse` is the keeper's name of the process's own socket."""
        sockets = {"http": f"{{socket:{cell.socket}}}", PULSE: f"{{socket:{pulse}}}"}
        program = self.programs.get(pulse.partition(WORKERD_MARK)[2], self.workerd)
        return self._confined(program, sockets, version, self._folders(version, cell.observed))

    def home_confined(
        self, version: Version, program: Path, sockets: Mapping[str, str], storage: Path
    ) -> Confined:
        """Return what to spawn for an object cell; it alone may write, and into `storage` alone."""
        folders = self._folders(version, observed=True)
        return self._confined(program, sockets, version, folders, {OBJECTS_STORAGE: storage})

    def _folders(self, version: Version, observed: bool) -> dict[Path, Path]:
        folders: dict[Path, Path] = {}
        if (assets := self._assets(version)) is not None:
            folders[ASSETS] = assets
        if observed:
            folders[TAIL_SOCKET] = self.layout.tail_socket
        if self.egress is not None and version.confinement.egress != "none":
            folders[EGRESS_SOCKET] = self.egress.socket
        if self.stores is not None:
            for store in stores_of(version) & self.stores.sockets.keys():
                folders[STORES_FOLDER / store] = self.stores.sockets[store]
            if self.homes(version):
                folders[STORES_FOLDER / FLEET] = self.stores.sockets[FLEET]
        for script, door in self.objects(version).items():
            if door.socket is not None:
                folders[OBJECTS_FOLDER / script] = door.socket
        return folders

    def _confined(
        self,
        program: Path,
        sockets: Mapping[str, str],
        version: Version,
        folders: Mapping[Path, Path],
        writable: Mapping[Path, Path] | None = None,
    ) -> Confined:
        shut_in = ShutIn(
            program=program,
            arguments=workerd_argv(sockets, "{control}"),
            account=version.account,
            memory_mib=room_mib(version, self.platform.limits),
            folders=folders,
            writable=writable or {},
            file_bytes_max=self.platform.limits.object_bytes_max if writable else 0,
        )
        return confine(shut_in, self.platform.isolation, self.platform.limits)

    def environment(self) -> dict[str, str]:
        """Return the child's whole environment: nothing of ours leaks into a cell."""
        return {
            "TZ": "UTC",
            "LANG": "C.UTF-8",
            # glibc would take what workerd's allocator needs to keep a cache for each CPU; with
            # it a hello costs 5 % less.
            "GLIBC_TUNABLES": "glibc.pthread.rseq=0",
        }

    def config(self, cell: CellName, version: Version) -> bytes:
        """Return the binary configuration for workerd's stdin."""
        return self._config(version, observed=cell.observed)

    def home_config(self, version: Version, home: ObjectHome) -> bytes:
        """Return the same for an object cell."""
        seen = self._seen(OBJECTS_STORAGE, home.folder)
        assert seen is not None, "what is there is seen somewhere"
        return self._config(version, observed=True, home=replace(home, folder=seen))

    def _config(self, version: Version, *, observed: bool, home: ObjectHome | None = None) -> bytes:
        settings = CellSettings(
            tail_url_socket=self._seen(TAIL_SOCKET, self.layout.tail_socket) if observed else None,
            assets_dir=self._seen(ASSETS, self._assets(version)),
            egress=self._egress(),
            heap_mib_max=memory_mib(version, self.platform.limits),
            stores=self._stores(),
            shared_secret=self._shared_secrets(version),
            database=self._databases(version),
            service_calls_max=self.platform.limits.service_calls,
            dispatch_told_bytes_max=self.platform.limits.dispatch_told_bytes_max,
            subrequests=subrequests_max(version, self.platform.limits),
            is_outbound=is_outbound(self.catalog, version.account, version.worker),
            objects=self._objects(version),
            home=home,
            homes=self.homes(version),
        )
        return cell_config(
            self.located(version),
            read_blob=self.blobs.read,
            open_secret=secret_opener(self.sealer, version),
            settings=settings,
        )

    def _shared_secrets(self, version: Version) -> SharedSecret:
        def text_of(store: str, name: str) -> str | None:
            found = secret_named(self.catalog, version.account, store, name)
            return None if found is None else opened(found, self.sealer)

        return text_of

    def _databases(self, version: Version) -> Databases:
        def database(config_id: str) -> Database | None:
            found = self.catalog.resource(version.account, HYPERDRIVE, config_id)
            if found is None:
                return None
            named = {
                name: found.fields[name] for name in ("host", "port", "sslmode", "connections")
            }
            return Database(
                origin=msgspec.json.encode({"id": config_id, **named}).decode(),
                database=found.fields["database"],
                user=found.fields["user"],
                password=password_of(found, self.sealer),
            )

        return database

    def _egress(self) -> EgressDoor | None:
        if self.egress is None:
            return None
        seen = self._seen(EGRESS_SOCKET, self.egress.socket)
        assert seen is not None, "what is there is seen somewhere"
        return replace(self.egress, socket=seen)

    def _objects(self, version: Version) -> dict[str, ObjectsDoor]:
        found = self.objects(version)
        return {
            script: replace(door, socket=self._seen(OBJECTS_FOLDER / script, door.socket))
            for script, door in found.items()
        }

    def _stores(self) -> StoreDoors | None:
        if self.stores is None or not self.platform.isolation.bubblewrap:
            return self.stores
        inside = {store: STORES_FOLDER / store for store in self.stores.sockets}
        return replace(self.stores, sockets=inside)

    def _seen(self, inside: Path, outside: Path | None) -> Path | None:
        """Return where a cell finds what is there."""
        sandboxed = self.platform.isolation.bubblewrap and outside is not None
        return inside if sandboxed else outside

    def _assets(self, version: Version) -> Path | None:
        return self.laid_out(version) or self.lay_out(version)

    def laid_out(self, version: Version) -> Path | None:
        """Return the folder of a version's static files, if it was laid out before."""
        tree = self._trees.get(version.assets.manifest) if version.assets is not None else None
        return tree if tree is not None and tree.is_dir() else None

    def lay_out(self, version: Version) -> Path | None:
        """Lay a version's static files out, which takes a while for many of them; None without any.
        Safe to call in a thread. Raises KytheraError when blobs are missing."""
        if version.assets is None:
            return None
        digest = version.assets.manifest
        tree = materialise(
            read_manifest(self.blobs, digest), self.blobs.path, self.layout.asset_trees
        )
        self._trees[digest] = tree
        return tree
