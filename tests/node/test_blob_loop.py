"""Blobs on one machine: there before a cell starts, ahead of need, gone when nobody needs them.

Method: the loop's own steps, over fake machines and a real folder; the clock is moved by hand.
"""

import errno
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from kythera.deploy.seal import Sealer
from kythera.distribute.ahead import ahead_of_need
from kythera.distribute.blobs import Blobs
from kythera.distribute.fetch import Fetcher
from kythera.ground.layout import Layout
from kythera.model.catalog import Catalog
from kythera.model.errors import StoreUnavailable
from kythera.model.platform import Platform
from kythera.model.records import (
    Asset,
    Assets,
    Deployment,
    Module,
    Record,
    Split,
    Version,
    Worker,
    encode,
)
from kythera.node.blob_loop import BlobLoop, Place, running
from kythera.node.cell_maker import CellMaker
from kythera.run.cell import Want
from kythera.run.decide import Cells
from kythera.run.targets import targets
from tests.control.world import Clock
from tests.distribute.blob_peers import QUICK, Answering, FakeMesh, Holder, hangs, lies, machine

pytestmark = pytest.mark.anyio
ACCOUNT = "a" * 32
LIMITS = msgspec.structs.replace(QUICK, blob_grace_s=100, prefetch_bytes_max=1_000)


class Machine:
    """One machine's blob loop and everything around it."""

    def __init__(self, folder: Path, peers: dict[str, Answering], *, bytes_max: int) -> None:
        self.limits = msgspec.structs.replace(LIMITS, blob_bytes_max=bytes_max)
        self.catalog = Catalog()
        self.clock = Clock()
        self.mesh = FakeMesh(peers)
        self.layout = Layout(folder / "state")
        self.blobs = Blobs(self.layout.blobs)
        self.maker = CellMaker(
            layout=self.layout,
            platform=Platform(account_id=ACCOUNT, machine="me", limits=self.limits),
            workerd=Path("workerd"),
            blobs=self.blobs,
            sealer=Sealer(bytes(32)),
            egress=None,
        )
        machines = [machine("me"), *(machine(name) for name in peers)]
        self.fetcher = Fetcher(
            self.blobs, self.mesh, lambda: machines, "me", self.limits, cores=lambda: {"core"}
        )
        self.cells = Cells("run", self.limits, 1)
        self.core = False
        self.fresh = True
        place = Place(
            catalog=lambda: self.catalog,
            cells=self.cells,
            is_core=lambda: self.core,
            is_fresh=lambda: self.fresh,
        )
        self.loop = BlobLoop(self.fetcher, self.maker, place, self.clock, self.limits)

    def apply(self, *records: Record) -> None:
        """Let records arrive."""
        for record in records:
            self.catalog.apply(record.key(), encode(record))

    def has(self, version: Version) -> bool:
        """Tell whether a version's code is here."""
        return all(self.blobs.has(module.digest) for module in version.modules)

    def trees(self) -> list[str]:
        """Return the names of the folders of static files."""
        root = self.layout.asset_trees
        return sorted(path.name for path in root.iterdir()) if root.is_dir() else []

    async def sweep_after(self, seconds: float) -> None:
        """Let time pass, then sweep."""
        self.clock.time += seconds
        await self.loop.sweep_once()


@asynccontextmanager
async def machine_of(
    folder: Path, peers: dict[str, Answering], bytes_max: int = 10**9
) -> AsyncIterator[Machine]:
    """Return a machine whose fetcher runs."""
    made = Machine(folder, peers, bytes_max=bytes_max)
    with anyio.fail_after(20):
        async with made.fetcher:
            yield made


def version_of(
    blobs: Blobs, name: str, code: bytes = b"", files: Sequence[bytes] = (), number: int = 1
) -> Version:
    """Put a version's content somewhere and return its record."""
    data = code or f"export default {{}} // {name}".encode()
    listed = [
        Asset(path=f"/{n}.txt", digest=blobs.put(item), size=len(item))
        for n, item in enumerate(files)
    ]
    return Version(
        account=ACCOUNT,
        worker=name,
        id=f"{name}-{number}",
        number=number,
        created_on="",
        main_module="index.js",
        modules=(Module(name="index.js", type="esm", digest=blobs.put(data), size=len(data)),),
        assets=Assets(manifest=blobs.put(msgspec.json.encode(listed))) if files else None,
    )


def deployed(version: Version, number: int = 1) -> list[Record]:
    """Return the records of a worker that serves a version."""
    return [
        Worker(account=ACCOUNT, name=version.worker, tag="", created_on="", modified_on=""),
        version,
        Deployment(
            account=ACCOUNT,
            worker=version.worker,
            id=f"d{number}",
            number=number,
            created_on="",
            versions=(Split(version_id=version.id, percentage=100),),
        ),
    ]


# -- before a cell starts --------------------------------------------------------------------------


async def test_a_cell_finds_its_code_and_its_files_laid_out(tmp_path: Path) -> None:
    """Fetched from another machine, verified, and laid out before the configuration is made."""
    core = Holder(tmp_path / "core")
    version = version_of(core.blobs, "shop", files=[b"one", b"two"])
    async with machine_of(tmp_path, {"core": core}) as here:
        await here.loop.prepare(version)
        tree = here.maker.laid_out(version)
        assert tree is not None
        assert (tree / "1.txt").read_bytes() == b"two"
        here.mesh.log.clear()
        await here.loop.prepare(version)
        assert not here.mesh.log


async def test_tampered_code_on_another_machine_never_reaches_a_cell(tmp_path: Path) -> None:
    """The start fails, nothing is kept; with an honest machine beside the liar it succeeds."""
    core = Holder(tmp_path / "core")
    version = version_of(core.blobs, "shop")
    async with machine_of(tmp_path, {"liar": lies(b"steal()")}) as here:
        with pytest.raises(StoreUnavailable, match="gave other bytes"):
            await here.loop.prepare(version)
        assert [path for path in here.blobs.root.rglob("*") if path.is_file()] == []
    async with machine_of(tmp_path, {"liar": lies(b"steal()"), "core": core}) as here:
        await here.loop.prepare(version)
        assert here.blobs.read(version.modules[0].digest).endswith(b"// shop")


async def test_a_start_waits_only_so_long_and_says_why(tmp_path: Path) -> None:
    """The decision is the mind's: it tries again, and another machine may serve meanwhile."""
    core = Holder(tmp_path / "core")
    version = version_of(core.blobs, "shop")
    async with machine_of(tmp_path, {"core": hangs}) as here:
        here.loop._limits = msgspec.structs.replace(here.limits, blob_prepare_ms=30)
        with pytest.raises(StoreUnavailable, match="within 30 ms; they are still being fetched"):
            await here.loop.prepare(version)


async def test_a_damaged_blob_is_healed_where_there_is_another_machine(tmp_path: Path) -> None:
    """And left alone where there is none."""
    core = Holder(tmp_path / "core")
    version = version_of(core.blobs, "shop")
    (module,) = version.modules
    for peers in ({}, {"core": core}):
        async with machine_of(tmp_path, dict(peers)) as here:
            path = here.blobs.path(version_of(here.blobs, "shop").modules[0].digest)
            path.chmod(0o600)
            path.write_bytes(b"rotten")
            await here.loop.heal(module.digest)
            assert (path.read_bytes() == b"rotten") == (not peers)


# -- ahead of need ---------------------------------------------------------------------------------


async def test_what_is_deployed_is_here_before_anybody_asks(tmp_path: Path) -> None:
    """The small one; the large one when it is needed; the one that serves nobody not at all."""
    core = Holder(tmp_path / "core")
    small, large = version_of(core.blobs, "small"), version_of(core.blobs, "large", b"x" * 2_000)
    unused = version_of(core.blobs, "unused")
    async with machine_of(tmp_path, {"core": core}) as here:
        here.apply(*deployed(small), *deployed(large), unused)
        assert await here.loop.fetch_ahead_once()
        assert [here.has(v) for v in (small, large, unused)] == [True, False, False]
        here.mesh.log.clear()
        assert await here.loop.fetch_ahead_once()
        assert not here.mesh.log


async def test_a_core_machine_gets_every_version_whole(tmp_path: Path) -> None:
    """Large ones and unused ones too; also when it becomes core later."""
    other = Holder(tmp_path / "other")
    large = version_of(other.blobs, "large", b"x" * 2_000)
    unused = version_of(other.blobs, "unused", files=[b"one"])
    async with machine_of(tmp_path, {"other": other}) as here:
        here.apply(*deployed(large), unused)
        await here.loop.fetch_ahead_once()
        assert not here.has(large)
        here.core = True
        assert await here.loop.fetch_ahead_once()
        assert list(here.blobs.digests()) == list(other.blobs.digests())


async def test_what_cannot_be_fetched_is_said_once_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Until it succeeds."""
    core = Holder(tmp_path / "core")
    version = version_of(core.blobs, "shop")
    async with machine_of(tmp_path, {"core": hangs}) as here:
        here.apply(*deployed(version))
        assert not await here.loop.fetch_ahead_once()
        assert not await here.loop.fetch_ahead_once()
        told = "".join(capsys.readouterr())
        assert told.count("blobs_not_fetched") == 1
        here.mesh.peers["core"] = core
        assert await here.loop.fetch_ahead_once()
        assert here.has(version)


async def test_a_machine_alone_fetches_nothing_ahead(tmp_path: Path) -> None:
    """There is nobody to ask, and nothing to complain of."""
    async with machine_of(tmp_path, {}) as here:
        here.apply(*deployed(version_of(Blobs(tmp_path / "lost"), "lost")))
        assert await here.loop.fetch_ahead_once()


def test_versions_that_serve_are_fetched_before_those_that_do_not(tmp_path: Path) -> None:
    """A core machine that has just joined serves first."""
    blobs, catalog = Blobs(tmp_path), Catalog()
    old, new = version_of(blobs, "shop"), version_of(blobs, "shop", b"new", number=2)
    for record in (*deployed(old, 1), *deployed(new, 2)):
        catalog.apply(record.key(), encode(record))
    assert [v.id for v in ahead_of_need(catalog, (), core=True)] == ["shop-2", "shop-1"]
    assert ahead_of_need(catalog, {new.key()}, core=False) == []


# -- letting go ------------------------------------------------------------------------------------


async def test_blobs_of_a_deleted_worker_go_after_a_while(tmp_path: Path) -> None:
    """Code, manifest, files and their folder; what serves stays."""
    async with machine_of(tmp_path, {}) as here:
        gone = version_of(here.blobs, "gone", files=[b"one", b"two"])
        stays = version_of(here.blobs, "stays", files=[b"two", b"three"])
        here.apply(*deployed(gone), *deployed(stays))
        for version in (gone, stays):
            await here.loop.prepare(version)
        await here.sweep_after(500)
        assert (len(list(here.blobs.digests())), len(here.trees())) == (7, 2)
        for key in list(here.catalog.keys_of(ACCOUNT, "gone")):
            here.catalog.apply(key, None)
        await here.sweep_after(0)
        await here.sweep_after(99)
        assert (len(list(here.blobs.digests())), len(here.trees())) == (7, 2)
        await here.sweep_after(1)
        assert (len(list(here.blobs.digests())), len(here.trees())) == (4, 1)
        await here.loop.prepare(stays)
        assert not here.mesh.log


async def test_an_upload_that_is_not_complete_yet_is_not_swept_away(tmp_path: Path) -> None:
    """Its record comes later than its blobs; each question about them begins the time anew."""
    async with machine_of(tmp_path, {}) as here:
        digest = here.blobs.put(b"on its way")
        await here.sweep_after(0)
        await here.sweep_after(60)
        here.blobs.touch(digest)
        await here.sweep_after(60)
        assert here.blobs.has(digest)


@pytest.mark.parametrize("why", ["lags", "does not understand a record", "lacks a manifest"])
async def test_nothing_is_let_go_by_a_machine_that_does_not_know_everything(
    tmp_path: Path, why: str
) -> None:
    """What seems to belong to nobody may belong to what it has not heard of."""
    async with machine_of(tmp_path, {}) as here:
        digest = here.blobs.put(b"whose?")
        version = version_of(here.blobs, "shop", files=[b"whose?"])
        assert version.assets is not None
        if why == "lags":
            here.fresh = False
        elif why == "lacks a manifest":
            here.core = True
            here.blobs.remove(version.assets.manifest)
            here.apply(version)
        else:
            here.catalog.apply(f"version.{ACCOUNT}.shop.x", b'{"schema": 999}')
        for _ in range(3):
            await here.sweep_after(200)
        assert here.blobs.has(digest)


async def test_above_the_limit_old_versions_go_and_those_that_serve_stay(tmp_path: Path) -> None:
    """Least recently used first; a rollback fetches again."""
    core = Holder(tmp_path / "core")
    old = [version_of(core.blobs, "shop", b"%d" % n * 400, number=n + 1) for n in range(3)]
    serving = version_of(core.blobs, "shop", b"s" * 400, number=9)
    async with machine_of(tmp_path, {"core": core}, bytes_max=1_300) as here:
        here.apply(*old, *deployed(serving))
        for version in (serving, *old):
            await here.fetcher.ensure_version(version)
            await anyio.sleep(0.002)
        await here.sweep_after(0)
        assert [here.has(version) for version in (serving, *old)] == [True, False, False, True]
        await here.loop.prepare(old[0])
        assert here.has(old[0])


async def test_who_held_the_log_until_lately_keeps_everything_a_while_longer(
    tmp_path: Path,
) -> None:
    """Those who hold it now may not have fetched yet what was uploaded while it moved."""
    core = Holder(tmp_path / "core")
    old = version_of(core.blobs, "shop", b"o" * 400)
    serving = version_of(core.blobs, "shop", b"s" * 400, number=2)
    async with machine_of(tmp_path, {"core": core}, bytes_max=500) as here:
        here.apply(old, *deployed(serving))
        for version in (old, serving):
            await here.fetcher.ensure_version(version)
        here.core = True
        await here.sweep_after(0)
        here.core = False
        await here.sweep_after(99)
        assert here.has(old)
        await here.sweep_after(1)
        assert not here.has(old)
        assert here.has(serving)


async def test_on_a_disk_that_is_nearly_full_old_versions_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before the limit; a start that finds the disk full begins the sweep at once."""
    core = Holder(tmp_path / "core")
    old = version_of(core.blobs, "shop", b"old" * 100)
    serving = version_of(core.blobs, "shop", b"new" * 100, number=2)
    async with machine_of(tmp_path, {"core": core}) as here:
        here.apply(old, *deployed(serving))
        await here.fetcher.ensure_version(old)

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("kythera.distribute.blobs.os.write", full)
            patch.setattr(BlobLoop, "_free", lambda _: 0)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(here.loop.sweep)
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(StoreUnavailable, match="No space left"):
                    await here.loop.prepare(serving)
                while here.has(old):
                    await anyio.sleep(0.005)
                tasks.cancel_scope.cancel()
        await here.loop.prepare(serving)
        assert here.has(serving)


async def test_what_a_running_process_was_made_of_stays_though_it_serves_no_more(
    tmp_path: Path,
) -> None:
    """Its last requests may want a static file; and it may be started again by a rollback."""
    async with machine_of(tmp_path, {}, bytes_max=1) as here:
        draining = version_of(here.blobs, "shop", files=[b"one"])
        here.apply(*deployed(draining))
        wanted = targets(here.catalog, "2026")
        here.cells.want(wanted, 0)
        (cell,) = here.cells.workers[ACCOUNT, "shop"].cells.values()
        here.cells.socket_opened(cell.name, 0)
        here.cells.connection_waiting(cell.name, 0)
        assert [name.version_id for name in running(here.cells)] == [draining.id]
        await here.loop.prepare(draining)
        newer = version_of(here.blobs, "shop", b"newer", number=2)
        here.apply(*deployed(newer, 2))
        here.cells.want({(ACCOUNT, "shop"): {newer.id: Want(100)}}, 1)
        await here.sweep_after(0)
        assert here.has(draining)
        assert len(here.trees()) == 1


async def test_what_a_crash_left_of_a_removed_folder_goes_with_the_next_sweep(
    tmp_path: Path,
) -> None:
    """Renamed and not yet removed; a half-made one after its grace."""
    async with machine_of(tmp_path, {}) as here:
        for name in (".leaving-abc", ".unfinished-x"):
            (here.layout.asset_trees / name / "deep").mkdir(parents=True)
        await here.sweep_after(0)
        assert here.trees() == [".unfinished-x"]
        await here.sweep_after(100)
        assert here.trees() == []
