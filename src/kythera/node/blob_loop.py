"""Blobs on this machine: there before a cell starts, ahead of need, and gone when nobody needs them.

Drives `distribute.fetch`, `distribute.ahead` and `distribute.evict`: gathers, lets them decide,
acts, says one sentence. Promises: the start of a cell waits `blob_prepare_ms` at most; what could
not be fetched ahead is tried again each `blob_retry_s`; a folder of static files is removed only in
one step with the look at who needs it. A machine without others fetches nothing.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import structlog
from anyio import to_thread

from kythera.distribute import evict
from kythera.distribute.ahead import ahead_of_need, all_versions, deployed_versions
from kythera.distribute.blobs import Held
from kythera.distribute.fetch import Fetcher
from kythera.distribute.files import named_blobs, read_manifest
from kythera.distribute.transfer import DiskRefused
from kythera.ground.clock import Clock
from kythera.model.catalog import Catalog
from kythera.model.errors import KytheraError, StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.records import Version
from kythera.node.cell_maker import CellMaker
from kythera.run.assets import tree_name
from kythera.run.cell import CellName
from kythera.run.decide import Cells

REST_S = 0.25
"""Between two looks at what to fetch ahead, however often the records change."""
LEAVING = ".leaving-"


@dataclass(frozen=True)
class Place:
    """What the loop looks at."""

    catalog: Callable[[], Catalog]
    cells: Cells
    is_core: Callable[[], bool]
    is_fresh: Callable[[], bool]
    """Whether the copy of the records is about as new as the log."""


@dataclass(frozen=True)
class Gathered:
    """What lies here, and what the versions say about it."""

    held: list[Held]
    referenced: set[str]
    needed: set[str]
    unread: int
    """Manifests that are not on this machine: what they refer to is not known."""
    trees: Mapping[str, str]
    """Names of the needed versions' folders, by manifest."""
    free: int
    """Bytes that the disk has left."""


class BlobLoop:
    """One for each agent. `prepare` and `heal` are for the mind, `changed` for the records."""

    def __init__(
        self, fetcher: Fetcher, maker: CellMaker, place: Place, clock: Clock, limits: Limits
    ) -> None:
        self._fetcher = fetcher
        self._maker = maker
        self._place = place
        self._clock = clock
        self._limits = limits
        self._changed = anyio.Event()
        self._full = anyio.Event()
        self._had: set[str] = set()
        self._failing: set[str] = set()
        self._was_core = False
        self._core_at = float("-inf")
        """When this machine was last seen to hold the log."""
        self._seen: Mapping[str, evict.Seen] = {}
        self._idle_since: Mapping[str, float] = {}
        self._journal = structlog.get_logger("blobs")

    # -- for the mind --------------------------------------------------------------------------

    async def prepare(self, version: Version) -> None:
        """Return when a version's code and static files are here, the files laid out.

        Raises StoreUnavailable; fetching goes on after that, for the next try."""
        with anyio.move_on_after(self._limits.blob_prepare_ms / 1000) as deadline:
            try:
                await self._prepare(version)
            except DiskRefused:
                self._full.set()
                raise
        if deadline.cancelled_caught:
            raise StoreUnavailable(
                f"Code and files of version {version.id} did not come from other machines within"
                f" {self._limits.blob_prepare_ms} ms; they are still being fetched."
            )

    async def _prepare(self, version: Version) -> None:
        await self._fetcher.ensure(named_blobs(version))
        if version.assets is not None and self._maker.laid_out(version) is None:
            files = await self._fetcher.manifest(version)
            await self._fetcher.ensure(asset.digest for asset in files)
            await to_thread.run_sync(self._maker.lay_out, version)

    async def heal(self, digest: str) -> None:
        """Replace a damaged blob by a good one, if anybody has one."""
        if self._fetcher.is_alone():
            return
        try:
            await self._fetcher.heal(digest)
            self._journal.warning("blob_healed", digest=digest)
        except StoreUnavailable as error:
            self._journal.error("blob_not_healed", digest=digest, reason=str(error))

    # -- ahead of need -------------------------------------------------------------------------

    def changed(self) -> None:
        """Take note that the catalogue has changed."""
        self._changed.set()

    async def fetch_ahead(self) -> None:
        """Fetch what is deployed, and on a core machine everything, for ever."""
        while True:
            self._changed = anyio.Event()
            complete = await self.fetch_ahead_once()
            # Joining, promotion and the like change no version: look again in any case.
            wait_s = self._limits.blob_sweep_s if complete else self._limits.blob_retry_s
            with anyio.move_on_after(wait_s):
                await self._changed.wait()
            await anyio.sleep(REST_S)

    async def fetch_ahead_once(self) -> bool:
        """Fetch what is wanted and not had; tell whether nothing is left."""
        if self._fetcher.is_alone():
            return True
        core, catalog = self._place.is_core(), self._place.catalog()
        if core != self._was_core:
            self._had, self._was_core = set(), core
        self._had.intersection_update(catalog.records)
        self._failing.intersection_update(catalog.records)
        wanted = ahead_of_need(catalog, self._had, core=core)
        queue = iter(wanted)
        async with anyio.create_task_group() as tasks:
            for _ in range(min(len(wanted), self._limits.blob_transfers_at_once)):
                tasks.start_soon(self._fetch_each, queue, core)
        return all(version.key() in self._had for version in wanted)

    async def _fetch_each(self, versions: Iterator[Version], core: bool) -> None:
        get = partial(self._fetcher.ensure_version, used=False) if core else self._fetcher.prefetch
        for version in versions:
            key = version.key()
            try:
                await get(version)
            except KytheraError as error:
                if key not in self._failing:
                    self._failing.add(key)
                    self._journal.warning("blobs_not_fetched", version=key, reason=str(error))
            else:
                self._had.add(key)
                self._failing.discard(key)

    # -- letting go ----------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Let go of what nobody needs, for ever."""
        await to_thread.run_sync(self._maker.blobs.finish_leaving)
        while True:
            self._full = anyio.Event()
            with anyio.move_on_after(self._limits.blob_sweep_s):
                await self._full.wait()
            try:
                await self.sweep_once()
            except (KytheraError, OSError) as error:
                self._journal.error("blob_sweep_failed", reason=str(error))
            await anyio.sleep(self._limits.blob_retry_s)

    async def sweep_once(self) -> None:
        """Look at everything once, decide, remove."""
        catalog = self._place.catalog()
        needed = list(self._needed())
        found = await to_thread.run_sync(self._gather, list(all_versions(catalog)), needed)
        core = self._is_or_was_core()
        complete = self._place.is_fresh() and not catalog.unknown and not (core and found.unread)
        now = self._clock.monotonic()
        size = sum(blob.size for blob in found.held)
        bytes_max = evict.room(
            self._limits.blob_bytes_max, size, found.free, self._limits.disk_free_bytes_min
        )
        decision = evict.decide(
            evict.Facts(
                held=found.held,
                referenced=found.referenced,
                needed=found.needed,
                complete=complete,
                core=core,
                bytes_max=bytes_max,
                grace_s=self._limits.blob_grace_s,
                now_s=now,
            ),
            self._seen,
        )
        self._seen = decision.seen
        scarce = not core and size > bytes_max
        await self._remove_trees(found.trees, now, 0.0 if scarce else self._limits.blob_grace_s)
        gone = await to_thread.run_sync(self._let_go, decision.remove)
        if gone:
            self._journal.info("blobs_let_go", blobs=len(gone), bytes=sum(b.size for b in gone))
        if decision.over_bytes:
            self._journal.warning(
                "blobs_over_limit",
                bytes_too_many=decision.over_bytes,
                reason="deployed versions need them: make room, or delete workers",
            )

    def _is_or_was_core(self) -> bool:
        """Tell whether this machine holds the log or did lately: those who hold it now may not have
        fetched yet what was uploaded while it moved."""
        now = self._clock.monotonic()
        if self._place.is_core():
            self._core_at = now
        return now - self._core_at < self._limits.blob_grace_s

    def _needed(self) -> Iterator[Version]:
        """Yield the versions that serve, or whose processes still run."""
        catalog = self._place.catalog()
        yield from deployed_versions(catalog)
        for name in running(self._place.cells):
            version = catalog.version(name.account, name.worker, name.version_id)
            if version is not None:
                yield version

    def _gather(self, versions: Iterable[Version], needed: Iterable[Version]) -> Gathered:
        """Look at the disk; in a thread."""
        blobs = self._maker.blobs
        digests: dict[str, set[str]] = {}
        trees: dict[str, str] = {}
        kept = list(needed)
        kept_manifests = {v.assets.manifest for v in kept if v.assets is not None}
        for version in (*versions, *kept):
            manifest = version.assets.manifest if version.assets is not None else ""
            if not manifest or manifest in digests or not blobs.has(manifest):
                continue
            try:
                files = read_manifest(blobs, manifest)
            except StoreUnavailable:
                continue  # Damaged, or gone just now: it counts as not read.
            digests[manifest] = {asset.digest for asset in files}
            if manifest in kept_manifests:
                trees[manifest] = tree_name(files)

        def of(version: Version) -> set[str]:
            manifest = version.assets.manifest if version.assets is not None else ""
            return {*named_blobs(version), *digests.get(manifest, ())}

        manifests = {v.assets.manifest for v in versions if v.assets is not None}
        return Gathered(
            held=list(blobs.held()),
            referenced=set().union(*map(of, versions)),
            needed=set().union(*map(of, kept)),
            unread=len(manifests - digests.keys()),
            trees=trees,
            free=self._free(),
        )

    def _free(self) -> int:
        return shutil.disk_usage(self._maker.layout.state).free

    def _let_go(self, blobs: Iterable[Held]) -> list[Held]:
        return [blob for blob in blobs if self._maker.blobs.let_go(blob)]

    async def _remove_trees(self, names: Mapping[str, str], now: float, grace_s: float) -> None:
        """Remove folders that no needed version has; between look and rename nothing can start."""
        root = self._maker.layout.asset_trees
        present = [path.name for path in root.iterdir()] if root.is_dir() else []
        manifests = {v.assets.manifest for v in self._needed() if v.assets is not None}
        if any(manifest not in names for manifest in manifests if self._has(manifest)):
            return  # A version came meanwhile; the next sweep knows its folder.
        needed = {names[manifest] for manifest in manifests if manifest in names}
        trees = evict.decide_trees(
            [name for name in present if not name.startswith(LEAVING)],
            needed,
            self._idle_since,
            now,
            grace_s,
        )
        self._idle_since = trees.idle_since
        for name in trees.remove:
            (root / name).rename(root / f"{LEAVING}{name}")
        for path in sorted(root.glob(f"{LEAVING}*")):
            await to_thread.run_sync(_remove_tree, path)

    def _has(self, manifest: str) -> bool:
        return self._maker.blobs.has(manifest)


def _remove_tree(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


def running(cells: Cells) -> Iterator[CellName]:
    """Yield the cells that have processes, starting ones too."""
    for worker in cells.workers.values():
        for cell in worker.cells.values():
            if cell.processes:
                yield cell.name
