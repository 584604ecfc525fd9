"""Blobs come to this machine from the nearest one that has them.

Promises: a blob is kept only when its bytes have the digest that was asked for; a machine that
gives others is counted, named in the log, and asked last for a long while. One download for each
blob, however many ask for it at once, and it goes on when they have stopped waiting: the next who
asks finds it done, or further. What one machine began to send another may finish. No more
downloads at once than `blob_transfers_at_once`.
Refuses (StoreUnavailable): blobs that nobody has or can send now; all of them when this disk is
full. Nothing half-written stays.

Use as `async with Fetcher(…) as fetcher`: the downloads are its tasks.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Self

import anyio
import structlog
from anyio import to_thread
from anyio.abc import TaskGroup

from kythera.distribute import pack, replication, transfer
from kythera.distribute.blobs import Blobs, Draft
from kythera.distribute.files import named_blobs, read_manifest
from kythera.distribute.nearness import likely_holders
from kythera.distribute.sources import core_names
from kythera.distribute.transfer import DiskRefused, Mesh, TransferFailed
from kythera.model.catalog import Catalog
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.records import Asset, Machine, Version

ASK_AROUND_MIN = 8
"""From so many blobs on, machines are first asked which of them they have."""
REST_AFTER_LIE = 100
"""Times `blob_peer_rest_s`."""
HOPELESS = ("absent", "wrong")
"""Reasons after which a machine is not asked once more for the same blob."""
NAMED_MAX = 3
LOOKED_AT_ONCE = 32
"""So many files are looked for without a thread: most versions have fewer."""
LOOK_S = 0.5
"""How old our list of machines may be: it is asked for with each blob, and takes a while to make."""

_events = structlog.get_logger("blobs")


class Download:
    """One blob on its way; whoever wants it waits for `done`."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.done = anyio.Event()
        self.error: StoreUnavailable | None = None


class Batch(NamedTuple):
    """Downloads that a worker takes from the queue: one, or many that `peer` said it has."""

    peer: str
    downloads: list[Download]


class Fetcher:
    """Gets, gives and foresees blobs for one process of a machine."""

    def __init__(
        self,
        blobs: Blobs,
        client: Mesh,
        peers: Callable[[], Sequence[Machine]],
        me: str,
        limits: Limits,
        cores: Callable[[], Collection[str]] | None = None,
    ) -> None:
        """`peers` returns all machines of the fleet (this one may be among them), `cores` the names
        of those that hold the log; by default those whose record says so."""
        self.counts: Counter[str] = Counter()
        """How often what happened: `fetched`, and the reasons why a machine was left."""
        self._blobs = blobs
        self._mesh = client
        self._ask_peers = peers
        self._ask_cores = cores or (lambda: {m.name for m in peers() if m.core})
        self._looked: tuple[float, Sequence[Machine], Collection[str]] = (-LOOK_S, (), ())
        self._me = me
        self._limits = limits
        self._downloads: dict[str, Download] = {}
        self._queue: deque[Batch] = deque()
        self._workers = 0
        self._resting: dict[str, float] = {}
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        """Be ready to download."""
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop downloading; what is half there is thrown away."""
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)
        self._tasks = None

    # -- what others ask for -------------------------------------------------------------------

    def is_alone(self) -> bool:
        """Tell whether there is no other machine to ask."""
        return all(machine.name == self._me for machine in self._look()[0])

    async def ensure(self, digests: Iterable[str], *, used: bool = True) -> None:
        """Return when all these blobs are here; if `used`, they count as used now.

        Raises StoreUnavailable when one cannot be had now; the others are fetched all the same."""
        wanted = list(dict.fromkeys(digests))
        if len(wanted) <= LOOKED_AT_ONCE:
            absent = self._absent(wanted, used=used)
        else:
            absent = await to_thread.run_sync(partial(self._absent, wanted, used=used))
        if absent:
            await self._fetched(absent)

    async def ensure_version(self, version: Version, *, used: bool = True) -> None:
        """Return when all blobs of a version are here: modules, manifest and static files."""
        await self.ensure(named_blobs(version), used=used)
        files = await self.manifest(version)
        await self.ensure((asset.digest for asset in files), used=used)

    async def prefetch(self, version: Version) -> None:
        """Fetch all blobs of a version ahead of need, unless they are more than
        `prefetch_bytes_max` together. Raises StoreUnavailable as `ensure` does."""
        left = self._limits.prefetch_bytes_max - sum(module.size for module in version.modules)
        if left < 0:
            return
        await self.ensure(named_blobs(version), used=False)
        files = {asset.digest: asset.size for asset in await self.manifest(version)}
        if sum(files.values()) <= left:
            await self.ensure(files, used=False)

    async def heal(self, digest: str) -> None:
        """Fetch a blob although it is here, because it is damaged."""
        await self._fetched([digest])

    async def replicate(self, digests: Iterable[str]) -> None:
        """Return when these blobs, which are here, are on `blob_copies_min` machines, at least one
        of them core. Raises StoreUnavailable when no core machine has them all."""
        peers, cores = self._look()
        others = [machine for machine in peers if machine.name != self._me]
        if not others:
            return
        await replication.replicate(
            list(dict.fromkeys(digests)),
            replication.Given(
                blobs=self._blobs,
                mesh=self._mesh,
                others=others,
                me=self._here(peers),
                cores=cores,
                limits=self._limits,
                rests=self._rests,
                left=self._leave,
            ),
        )

    async def replicate_version(self, version: Version, known: Collection[str] = ()) -> None:
        """Make a version safe before its record is written; `known` blobs are so already.

        Its static files may have been uploaded to another machine: they are fetched first."""
        if self.is_alone():
            return
        fresh = [digest for digest in named_blobs(version) if digest not in known]
        if version.assets is not None and version.assets.manifest in fresh:
            await self.ensure_version(version)
            fresh += [asset.digest for asset in await self.manifest(version)]
        await self.replicate(fresh)

    async def manifest(self, version: Version) -> list[Asset]:
        """Return a version's static files; its manifest is here."""
        if version.assets is None:
            return []
        return await to_thread.run_sync(read_manifest, self._blobs, version.assets.manifest)

    # -- downloads -----------------------------------------------------------------------------

    def _absent(self, digests: Iterable[str], *, used: bool) -> list[str]:
        here = self._blobs.touch if used else self._blobs.has
        return [digest for digest in digests if not here(digest)]

    def _look(self) -> tuple[Sequence[Machine], Collection[str]]:
        """Return all machines and the names of the core, as of late."""
        now = anyio.current_time()
        if now - self._looked[0] >= LOOK_S:
            self._looked = (now, self._ask_peers(), self._ask_cores())
        return self._looked[1:]

    def _here(self, peers: Iterable[Machine]) -> Machine:
        return next((m for m in peers if m.name == self._me), Machine(name=self._me))

    async def _fetched(self, digests: list[str]) -> None:
        known = await self._located(digests) if len(digests) >= ASK_AROUND_MIN else {}
        downloads = self._begin(digests, known)
        for download in downloads:
            await download.done.wait()
        failed = [download.error for download in downloads if download.error is not None]
        if len(failed) == 1 or any(isinstance(error, DiskRefused) for error in failed):
            raise next((e for e in failed if isinstance(e, DiskRefused)), failed[0])
        if failed:
            raise StoreUnavailable(
                f"{len(failed):,} of {len(downloads):,} blobs cannot be fetched now. {failed[0]}"
            )

    def _begin(self, digests: Iterable[str], known: Mapping[str, str]) -> list[Download]:
        """Return a download for each blob; new ones wait in the queue, those that one machine said
        it has in packs."""
        found: list[Download] = []
        fresh: dict[str, list[Download]] = {}
        for digest in digests:
            download = self._downloads.get(digest)
            if download is None:
                download = self._downloads[digest] = Download(digest)
                fresh.setdefault(known.get(digest, ""), []).append(download)
            found.append(download)
        for name, some in fresh.items():
            length = pack.BLOBS_MAX if name else 1
            for start in range(0, len(some), length):
                self._enqueue(Batch(name, some[start : start + length]))
        return found

    def _enqueue(self, batch: Batch) -> None:
        assert self._tasks is not None, "a Fetcher is entered before it is asked for anything"
        self._queue.append(batch)
        if self._workers < self._limits.blob_transfers_at_once:
            self._workers += 1
            self._tasks.start_soon(self._work)

    async def _work(self) -> None:
        """Download until nothing waits any more."""
        try:
            while self._queue:
                await self._work_on(self._queue.popleft())
        finally:
            self._workers -= 1

    async def _work_on(self, batch: Batch) -> None:
        try:
            if len(batch.downloads) == 1:
                await self._download(batch.downloads[0])
                self._end(batch.downloads[0])
                return
            await self._download_pack(batch)
        except StoreUnavailable as error:
            self._end_rest(batch, error)
        except BaseException:
            self._end_rest(batch, StoreUnavailable("This process is about to end."))
            raise
        for download in batch.downloads:
            if not download.done.is_set():
                self._enqueue(Batch("", [download]))

    def _end(self, download: Download, error: StoreUnavailable | None = None) -> None:
        download.error = error
        del self._downloads[download.digest]
        download.done.set()

    def _end_rest(self, batch: Batch, error: StoreUnavailable) -> None:
        for download in batch.downloads:
            if not download.done.is_set():
                self._end(download, error)

    async def _download_pack(self, batch: Batch) -> None:
        """Get many blobs of one machine; those that do not come this way are left."""
        peers = self._look()[0]
        peer = next((machine for machine in peers if machine.name == batch.peer), None)
        if peer is None:
            return
        by_digest = {download.digest: download for download in batch.downloads}

        def kept(digest: str) -> None:
            self.counts["fetched"] += 1
            self._end(by_digest[digest])

        try:
            await pack.pull_pack(
                self._mesh,
                peer,
                by_digest.keys(),
                self._blobs,
                self._limits,
                within_ms=self._limits.peer_answer_ms,
                kept=kept,
            )
        except TransferFailed as failure:
            self._leave(peer, failure)

    async def _download(self, download: Download) -> None:
        failures: dict[str, TransferFailed] = {}
        with self._blobs.draft() as draft:
            for patient in (False, True):
                if await self._asked_all(download, draft, failures, patient=patient):
                    return
        raise self._nowhere(download.digest, failures)

    async def _asked_all(
        self,
        download: Download,
        draft: Draft,
        failures: dict[str, TransferFailed],
        *,
        patient: bool,
    ) -> bool:
        """Ask one machine after the other; tell whether the blob is here now."""
        for machine in self._order(download.digest):
            if machine.name in failures and failures[machine.name].reason in HOPELESS:
                continue
            try:
                await self._pulled(machine, download.digest, draft, patient=patient)
            except TransferFailed as failure:
                failures[machine.name] = failure
                self._leave(machine, failure)
            else:
                self.counts["fetched"] += 1
                return True
        return False

    async def _pulled(self, machine: Machine, digest: str, draft: Draft, *, patient: bool) -> None:
        """Let one machine complete the draft; when that leads nowhere, begin it anew with this one
        alone: of bytes that came from several, nobody knows who lied."""
        here = self._here(self._look()[0])
        within_ms = transfer.answer_ms(machine, here, self._limits, patient=patient)
        pull = partial(
            transfer.pull, self._mesh, machine, digest, draft, self._limits, within_ms=within_ms
        )
        if draft.size:
            try:
                await pull()
            except TransferFailed as failure:
                if failure.reason not in ("refused", "too_large"):
                    raise
        if draft.size == 0 or draft.digest != digest:
            draft.restart()
            await pull()
        if draft.digest != digest:
            draft.restart()
            raise TransferFailed("wrong", f"{machine.name} gave other bytes than blob {digest} has")
        await to_thread.run_sync(draft.commit)

    def _order(self, digest: str) -> list[Machine]:
        """Return whom to ask, the nearest first; who rests comes last."""
        peers, cores = self._look()
        ordered = likely_holders(peers, self._here(peers), digest, cores)
        return sorted(ordered, key=self._rests)

    def _rests(self, machine: Machine) -> bool:
        """Tell whether a machine failed of late."""
        return self._resting.get(machine.name, 0) > anyio.current_time()

    def _leave(self, machine: Machine, failure: TransferFailed) -> None:
        self.counts[failure.reason] += 1
        rest_s = self._limits.blob_peer_rest_s
        match failure.reason:
            case "absent":
                return
            case "wrong":
                self._resting[machine.name] = anyio.current_time() + rest_s * REST_AFTER_LIE
                _events.error("blob_wrong", peer=machine.name, reason=str(failure))
            case _:
                self._resting[machine.name] = anyio.current_time() + rest_s
                _events.warning("blob_peer_left", peer=machine.name, reason=str(failure))

    def _nowhere(self, digest: str, failures: dict[str, TransferFailed]) -> StoreUnavailable:
        reasons = [str(f) for f in failures.values() if f.reason != "absent"]
        absent = sum(f.reason == "absent" for f in failures.values())
        told = [*reasons[:NAMED_MAX], *([f"{absent} do not have it"] if absent else [])]
        return StoreUnavailable(
            f"Blob {digest} is not on this machine and cannot be fetched from another:"
            f" {'; '.join(told) or 'there is no other'}.",
            remedy="It is tried again; if no machine has it any more, deploy the worker once more.",
        )

    async def _located(self, digests: Collection[str]) -> dict[str, str]:
        """Ask machine after machine which of many blobs it has, until each is found once."""
        found: dict[str, str] = {}
        rest = set(digests)
        for machine in self._order(min(digests)):
            try:
                absent = await transfer.missing(
                    self._mesh, machine, rest, self._limits, within_ms=self._limits.peer_answer_ms
                )
            except TransferFailed as failure:
                self._leave(machine, failure)
                continue
            found.update(dict.fromkeys(rest - absent, machine.name))
            rest = absent
            if not rest:
                break
        return found


def fetcher_of(
    blobs: Blobs, mesh: Mesh, catalog: Callable[[], Catalog], me: str, limits: Limits
) -> Fetcher:
    """Return a Fetcher that knows the fleet from the records."""
    return Fetcher(
        blobs,
        mesh,
        peers=lambda: catalog().machines(),
        me=me,
        limits=limits,
        cores=lambda: core_names(catalog().machines(), catalog().core()),
    )
