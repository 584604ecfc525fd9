"""Blobs from other machines: nearest first, verified, one download each, whatever peers do.

Method: fake machines that lie, hang, stop in the middle, drip, fail, or have nothing.
"""

import errno
import hashlib
import json
import math
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import msgspec
import pytest

from kythera.distribute.blobs import Blobs
from kythera.distribute.fetch import Fetcher
from kythera.distribute.files import read_manifest
from kythera.distribute.pack import BLOBS_MAX, head
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.records import Asset, Assets, Module, Version
from tests.distribute.blob_peers import (
    QUICK,
    Answering,
    FakeMesh,
    Holder,
    answers,
    drips,
    hangs,
    has_nothing,
    is_broken,
    lies,
    machine,
    packed,
    stops_in_the_middle,
)

pytestmark = pytest.mark.anyio
CODE = b"export default { fetch() { return new Response('hello') } }" * 50
DIGEST = hashlib.sha256(CODE).hexdigest()
ME = machine("me")


class Bench:
    """A machine, others around it, and what it asks them."""

    def __init__(self, root: Path, peers: dict[str, Answering], limits: Limits) -> None:
        self.blobs = Blobs(root / "me")
        self.mesh = FakeMesh(peers)
        self.machines = [ME, *(machine(name) for name in peers)]
        self.fetcher = Fetcher(
            self.blobs, self.mesh, lambda: self.machines, "me", limits, cores=lambda: {"core"}
        )

    @property
    def files(self) -> list[Path]:
        """All files in this machine's folder, half-written ones too."""
        return [path for path in self.blobs.root.rglob("*") if path.is_file()]


@asynccontextmanager
async def bench_of(
    root: Path, peers: dict[str, Answering], limits: Limits = QUICK
) -> AsyncIterator[Bench]:
    """Return a bench whose fetcher runs; nothing may take longer than a few seconds."""
    bench = Bench(root, peers, limits)
    with anyio.fail_after(10):
        async with bench.fetcher:
            yield bench


def holder(root: Path, *data: bytes) -> Holder:
    """Return an honest machine with these blobs."""
    made = Holder(root)
    for item in data:
        made.blobs.put(item)
    return made


BAD: dict[str, tuple[Answering, str]] = {
    "lies": (lies(b"throw 'tampered'"), "wrong"),
    "hangs": (hangs, "silent"),
    "is cut in the middle": (stops_in_the_middle(CODE, silent=False), "cut"),
    "falls silent in the middle": (stops_in_the_middle(CODE, silent=True), "silent"),
    "tampers with the first half, then is cut": (
        stops_in_the_middle(b"x" * len(CODE), silent=False),
        "cut",
    ),
    "sends half of a longer lie": (stops_in_the_middle(b"x" * 9 * len(CODE), silent=False), "cut"),
    "has nothing": (has_nothing, "absent"),
    "fails inside": (is_broken, "refused"),
    "sends too much": (lies(b"x" * 200_000), "too_large"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_machine_is_left_for_the_next_and_counted(tmp_path: Path, kind: str) -> None:
    """Whatever it does: the blob comes from another, whole; the bad one is counted by reason."""
    bad, reason = BAD[kind]
    async with bench_of(tmp_path, {"bad": bad}) as bench:
        bench.mesh.peers["good"] = holder(tmp_path / "good", CODE)
        bench.machines.append(machine("good", "elsewhere"))
        await bench.fetcher.ensure([DIGEST])
        assert bench.blobs.read(DIGEST) == CODE
        assert bench.files == [bench.blobs.path(DIGEST)]
        assert bench.fetcher.counts == {"fetched": 1, reason: 1}


@pytest.mark.parametrize("kind", BAD)
async def test_without_a_good_machine_nothing_is_kept(tmp_path: Path, kind: str) -> None:
    """An error with a reason and a remedy; no half blob, no wrong one."""
    async with bench_of(tmp_path, {"bad": BAD[kind][0]}) as bench:
        with pytest.raises(StoreUnavailable, match="cannot be fetched from another") as caught:
            await bench.fetcher.ensure([DIGEST])
        assert caught.value.remedy
        assert bench.files == []


async def test_a_machine_that_drips_is_left_when_the_whole_takes_too_long(tmp_path: Path) -> None:
    """Never silent, and yet it may not hold a download for ever."""
    limits = msgspec.structs.replace(QUICK, blob_bytes_per_s_min=1_000_000, peer_answer_ms=100)
    async with bench_of(tmp_path, {"slow": drips(CODE, 0.01)}, limits) as bench:
        bench.mesh.peers["good"] = holder(tmp_path / "good", CODE)
        bench.machines.append(machine("good", "elsewhere"))
        await bench.fetcher.ensure([DIGEST])
        assert bench.fetcher.counts == {"fetched": 1, "silent": 1}


async def test_a_second_machine_goes_on_where_the_first_was_cut(tmp_path: Path) -> None:
    """Over a bad link each half travels once."""
    async with bench_of(tmp_path, {"cut": stops_in_the_middle(CODE, silent=False)}) as bench:
        good = holder(tmp_path / "good", CODE)
        ranges: list[str | None] = []

        async def noted(request: httpx.Request) -> httpx.Response:
            ranges.append(request.headers.get("range"))
            return await good(request)

        bench.mesh.peers["good"] = noted
        bench.machines.append(machine("good", "elsewhere"))
        await bench.fetcher.ensure([DIGEST])
        assert ranges == [f"bytes={len(CODE) // 2}-"]


async def test_however_many_ask_there_is_one_download(tmp_path: Path) -> None:
    """Twenty cells at once: the blob comes once."""
    async with bench_of(tmp_path, {"core": holder(tmp_path / "core", CODE)}) as bench:
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(bench.fetcher.ensure, [DIGEST])
        assert bench.mesh.asked["core", "GET"] == 1


async def test_a_download_goes_on_when_nobody_waits_any_more(tmp_path: Path) -> None:
    """The start of a cell gave up; its next try finds the blob."""
    gate = anyio.Event()
    good = holder(tmp_path / "core", CODE)

    async def late(request: httpx.Request) -> httpx.Response:
        await gate.wait()
        return await good(request)

    limits = msgspec.structs.replace(QUICK, blob_near_answer_ms=5_000)
    async with bench_of(tmp_path, {"core": late}, limits) as bench:
        with anyio.move_on_after(0.02):
            await bench.fetcher.ensure([DIGEST])
        assert not bench.blobs.has(DIGEST)
        gate.set()
        await bench.fetcher.ensure([DIGEST])
        assert bench.mesh.asked["core", "GET"] == 1


async def test_no_more_downloads_at_once_than_the_limit_says(tmp_path: Path) -> None:
    """A thousand files must not open a thousand streams."""
    contents = [b"%d" % number for number in range(40)]
    good = holder(tmp_path / "core", *contents)
    now, most = 0, 0

    async def counted(request: httpx.Request) -> httpx.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await anyio.sleep(0.001)
        now -= 1
        return await good(request)

    limits = msgspec.structs.replace(QUICK, blob_transfers_at_once=3)
    async with bench_of(tmp_path, {"core": counted}, limits) as bench:
        async with anyio.create_task_group() as tasks:
            for data in contents:
                tasks.start_soon(bench.fetcher.ensure, [hashlib.sha256(data).hexdigest()])
        assert most == 3
        assert bench.fetcher.counts["fetched"] == 40


MANY = [b"file %d" % number for number in range(250)]
MANY_DIGESTS = [hashlib.sha256(data).hexdigest() for data in MANY]


async def test_many_blobs_come_in_few_answers_from_a_machine_that_has_them(tmp_path: Path) -> None:
    """Not each of a site's files is asked of each machine that has none of them."""
    peers: dict[str, Answering] = {f"empty{n}": has_nothing for n in range(3)}
    async with bench_of(tmp_path, peers) as bench:
        bench.mesh.peers["core"] = holder(tmp_path / "core", *MANY)
        bench.machines.append(machine("core", "elsewhere"))
        await bench.fetcher.ensure(MANY_DIGESTS)
        assert sorted(bench.blobs.digests()) == sorted(MANY_DIGESTS)
        assert bench.mesh.asked["core", "POST"] == 1 + math.ceil(250 / BLOBS_MAX)
        assert bench.fetcher.counts == {"fetched": 250}
        assert all(bench.mesh.asked[name, "POST"] <= 1 for name in peers)
        assert bench.mesh.asked["core", "GET"] == 0


Packing = Callable[[list[bytes]], httpx.Response]


def _unasked(data: list[bytes]) -> httpx.Response:
    return packed([*data[:3], b"a present"])


BAD_PACKS: dict[str, tuple[Packing, str]] = {
    "lies in the last": (lambda data: packed(data, lie=b"steal()"), "wrong"),
    "gives what nobody asked for": (_unasked, "wrong"),
    "announces too much": (
        lambda data: answers(200, head(hashlib.sha256(data[0]).hexdigest(), 200_000)),
        "too_large",
    ),
    "knows no packs": (lambda _: answers(404), "refused"),
    "leaves some out": (lambda data: packed(data[:2]), ""),
}


@pytest.mark.parametrize("kind", BAD_PACKS)
async def test_a_bad_pack_keeps_what_was_good_and_the_rest_comes_otherwise(
    tmp_path: Path, kind: str
) -> None:
    """Every blob is verified on its own; nothing unasked or wrong stays."""
    packing, reason = BAD_PACKS[kind]
    good = holder(tmp_path / "bad", *MANY[:20])

    async def bad(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/blobs/pack":
            asked = json.loads(await request.aread())["digests"]
            return packing([good.blobs.read(digest) for digest in asked])
        return await good(request)

    async with bench_of(tmp_path, {"bad": bad}) as bench:
        await bench.fetcher.ensure(MANY_DIGESTS[:20])
        assert sorted(bench.blobs.digests()) == sorted(MANY_DIGESTS[:20])
        assert len(bench.files) == 20
        expected = {"fetched": 20, **({reason: 1} if reason else {})}
        assert bench.fetcher.counts == expected


@pytest.mark.parametrize("silent", [True, False])
async def test_a_pack_that_stops_is_finished_by_another_machine(
    tmp_path: Path, *, silent: bool
) -> None:
    """What came before the cut stays."""
    good = holder(tmp_path / "good", *MANY[:20])

    async def bad(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/blobs/pack":
            return answers(200, b'{"missing": []}') if request.method == "POST" else answers(404)
        whole = await packed(MANY[:20]).aread()
        return await stops_in_the_middle(whole, silent=silent)(request)

    async with bench_of(tmp_path, {"bad": bad}) as bench:
        bench.mesh.peers["good"] = good
        bench.machines.append(machine("good", "elsewhere"))
        await bench.fetcher.ensure(MANY_DIGESTS[:20])
        assert sorted(bench.blobs.digests()) == sorted(MANY_DIGESTS[:20])
        assert 5 <= bench.mesh.asked["good", "GET"] <= 15


async def test_a_full_disk_ends_a_pack_and_blames_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error for each that waits, in the disk's own words."""
    async with bench_of(tmp_path, {"core": holder(tmp_path / "core", *MANY[:20])}) as bench:

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("kythera.distribute.blobs.os.write", full)
            with pytest.raises(StoreUnavailable, match="No space left"):
                await bench.fetcher.ensure(MANY_DIGESTS[:20])
        assert (bench.files, dict(bench.fetcher.counts)) == ([], {})


async def test_who_failed_is_asked_last_the_next_time(tmp_path: Path) -> None:
    """A hung machine next door must not delay each cold start."""
    async with bench_of(tmp_path, {"hung": hangs}) as bench:
        bench.mesh.peers["core"] = holder(tmp_path / "core", CODE, b"more", b"yet more")
        bench.machines.append(machine("core", "elsewhere"))
        for data in (CODE, b"more", b"yet more"):
            await bench.fetcher.ensure([hashlib.sha256(data).hexdigest()])
        assert bench.mesh.asked["hung", "GET"] == 1


async def test_a_slow_answer_counts_when_nobody_is_quicker(tmp_path: Path) -> None:
    """A loaded machine that alone has the blob gets a second, patient question."""
    good = holder(tmp_path / "core", CODE)

    async def slow(request: httpx.Request) -> httpx.Response:
        await anyio.sleep(0.4)
        return await good(request)

    async with bench_of(tmp_path, {"core": slow}) as bench:
        await bench.fetcher.ensure([DIGEST])
        assert bench.blobs.read(DIGEST) == CODE


async def test_what_is_here_is_not_asked_for_and_counts_as_used(tmp_path: Path) -> None:
    """No question; the time of last use moves, unless it was only a look ahead."""
    async with bench_of(tmp_path, {"core": hangs}) as bench:
        bench.blobs.put(CODE)
        path = bench.blobs.path(DIGEST)
        os.utime(path, ns=(1, path.stat().st_mtime_ns))
        await bench.fetcher.ensure([DIGEST], used=False)
        assert path.stat().st_atime_ns == 1
        await bench.fetcher.ensure([DIGEST])
        assert path.stat().st_atime_ns > 1
        assert not bench.mesh.log


async def test_a_full_disk_is_told_and_the_next_try_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other machine is blamed, nothing half-written stays, and room mends it."""
    async with bench_of(tmp_path, {"core": holder(tmp_path / "core", CODE)}) as bench:

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("kythera.distribute.blobs.os.write", full)
            with pytest.raises(StoreUnavailable, match=r"No space left.*Free space on this disk"):
                await bench.fetcher.ensure([DIGEST])
        assert bench.files == []
        assert not bench.fetcher.counts
        await bench.fetcher.ensure([DIGEST])
        assert bench.blobs.read(DIGEST) == CODE


async def test_a_damaged_blob_is_replaced_by_a_good_one(tmp_path: Path) -> None:
    """Bit rot on one machine is mended from another."""
    async with bench_of(tmp_path, {"core": holder(tmp_path / "core", CODE)}) as bench:
        path = bench.blobs.path(bench.blobs.put(CODE))
        path.chmod(0o600)
        path.write_bytes(b"rotten")
        await bench.fetcher.heal(DIGEST)
        assert bench.blobs.read(DIGEST) == CODE


# -- whole versions --------------------------------------------------------------------------------


def version_of(blobs: Blobs, *modules: bytes, files: Sequence[bytes] = ()) -> Version:
    """Put a version's content somewhere and return its record."""
    listed = [
        Asset(path=f"/{n}.txt", digest=blobs.put(data), size=len(data))
        for n, data in enumerate(files)
    ]
    manifest = blobs.put(msgspec.json.encode(listed)) if files else ""
    return Version(
        account="a",
        worker="w",
        id="v",
        number=1,
        created_on="",
        modules=tuple(
            Module(name=f"{n}.js", type="esm", digest=blobs.put(data), size=len(data))
            for n, data in enumerate(modules)
        ),
        assets=Assets(manifest=manifest) if files else None,
    )


async def test_a_small_version_is_fetched_whole_ahead_of_need(tmp_path: Path) -> None:
    """Modules, manifest, static files."""
    core = Holder(tmp_path / "core")
    version = version_of(core.blobs, CODE, b"two", files=[b"one", b"two", b"three"])
    async with bench_of(tmp_path, {"core": core}) as bench:
        await bench.fetcher.prefetch(version)
        assert list(bench.blobs.digests()) == list(core.blobs.digests())


@pytest.mark.parametrize(
    ("bytes_max", "files_here"), [(40, False), (41, False), (42, True), (6, False)]
)
async def test_a_large_version_waits_until_it_is_needed(
    tmp_path: Path, bytes_max: int, files_here: bool
) -> None:
    """The sum of modules and files decides, to the byte."""
    core = Holder(tmp_path / "core")
    version = version_of(core.blobs, b"1234567", files=[b"x" * 20, b"y" * 15])
    limits = msgspec.structs.replace(QUICK, prefetch_bytes_max=bytes_max)
    async with bench_of(tmp_path, {"core": core}, limits) as bench:
        await bench.fetcher.prefetch(version)
        assert bench.blobs.has(version.modules[0].digest) == (bytes_max >= 7)
        assert all(bench.blobs.has(f.digest) == files_here for f in files_of(core, version))
        await bench.fetcher.ensure_version(version)
        assert all(bench.blobs.has(f.digest) for f in files_of(core, version))


def files_of(core: Holder, version: Version) -> list[Asset]:
    """Return a version's static files."""
    assert version.assets is not None
    return read_manifest(core.blobs, version.assets.manifest)


# -- copies before the acknowledgement -------------------------------------------------------------


async def replicated(bench: Bench) -> list[str]:
    """Replicate a blob from here; return who has it then."""
    await bench.fetcher.replicate([bench.blobs.put(CODE)])
    holders = [(name, peer) for name, peer in bench.mesh.peers.items() if isinstance(peer, Holder)]
    return [name for name, peer in holders if peer.blobs.has(DIGEST)]


async def test_a_machine_alone_replicates_nothing(tmp_path: Path) -> None:
    """A fleet of one is its own core."""
    async with bench_of(tmp_path, {}) as bench:
        assert await replicated(bench) == []
        assert not bench.mesh.log


async def test_a_copy_goes_to_a_core_machine_and_to_no_more_than_asked(tmp_path: Path) -> None:
    """Two copies in all: here, and on the core, though others are there."""
    peers: dict[str, Answering] = {name: Holder(tmp_path / name) for name in ("near", "core")}
    async with bench_of(tmp_path, peers) as bench:
        assert await replicated(bench) == ["core"]


async def test_a_core_machine_gives_its_copy_to_another(tmp_path: Path) -> None:
    """Alone it would be lost with its disk."""
    async with bench_of(tmp_path, {"near": Holder(tmp_path / "near")}) as bench:
        fetcher = Fetcher(
            bench.blobs, bench.mesh, lambda: bench.machines, "me", QUICK, cores=lambda: {"me"}
        )
        async with fetcher:
            await fetcher.replicate([bench.blobs.put(CODE)])
        assert bench.mesh.asked["near", "PUT"] == 1


async def test_three_copies_are_three_machines(tmp_path: Path) -> None:
    """The limit says how many."""
    peers: dict[str, Answering] = {n: Holder(tmp_path / n) for n in ("core", "b", "c", "d")}
    limits = msgspec.structs.replace(QUICK, blob_copies_min=3)
    async with bench_of(tmp_path, peers, limits) as bench:
        holders = await replicated(bench)
        assert "core" in holders
        assert len(holders) == 2


async def test_what_the_other_has_is_not_sent_again(tmp_path: Path) -> None:
    """It is asked once, and sends nothing."""
    async with bench_of(tmp_path, {"core": holder(tmp_path / "core", CODE)}) as bench:
        assert await replicated(bench) == ["core"]
        assert bench.mesh.asked == {("core", "POST"): 1}


@pytest.mark.parametrize("core", [hangs, is_broken], ids=["hangs", "is broken"])
async def test_without_a_core_machine_it_is_refused(tmp_path: Path, core: Answering) -> None:
    """A copy on some other machine is not enough, and is not even made."""
    peers: dict[str, Answering] = {"core": core, "near": Holder(tmp_path / "near")}
    async with bench_of(tmp_path, peers) as bench:
        with pytest.raises(StoreUnavailable, match=r"no core machine \(core\)") as caught:
            await replicated(bench)
        assert "kythera status" in caught.value.remedy
        assert bench.mesh.asked["near", "PUT"] == 0


async def test_with_a_core_copy_but_too_few_others_it_is_accepted_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Loudly: which machines have it, how many were wanted, and why there are fewer."""
    peers: dict[str, Answering] = {"core": Holder(tmp_path / "core"), "gone": hangs}
    limits = msgspec.structs.replace(QUICK, blob_copies_min=3)
    async with bench_of(tmp_path, peers, limits) as bench:
        assert await replicated(bench) == ["core"]
    told = capsys.readouterr()
    line = next(line for line in (told.out + told.err).splitlines() if "blob_copies_few" in line)
    assert "gone" in line
    assert "wanted=3" in line.replace(" ", "").replace('"', "").replace(":", "=")


async def test_a_second_core_machine_takes_it_when_the_first_does_not(tmp_path: Path) -> None:
    """One core of several may be gone."""
    peers: dict[str, Answering] = {"core": hangs, "core2": Holder(tmp_path / "core2")}
    async with bench_of(tmp_path, peers) as bench:
        fetcher = Fetcher(
            bench.blobs,
            bench.mesh,
            lambda: bench.machines,
            "me",
            QUICK,
            cores=lambda: {"core", "core2"},
        )
        async with fetcher:
            await fetcher.replicate([bench.blobs.put(CODE)])
        assert bench.mesh.asked["core2", "PUT"] == 1


async def test_static_files_that_are_elsewhere_are_fetched_before_a_version_is_made_safe(
    tmp_path: Path,
) -> None:
    """They were uploaded through another machine; here only the record is about to be written."""
    other = Holder(tmp_path / "other")
    version = version_of(other.blobs, files=[b"one", b"two"])
    core = Holder(tmp_path / "core")
    async with bench_of(tmp_path, {"other": other, "core": core}) as bench:
        await bench.fetcher.replicate_version(version)
        assert list(core.blobs.digests()) == list(other.blobs.digests())


async def test_blobs_that_are_safe_already_are_not_asked_after(tmp_path: Path) -> None:
    """A new secret is no reason to reach anybody."""
    async with bench_of(tmp_path, {"core": hangs}) as bench:
        version = version_of(bench.blobs, CODE, files=[b"one"])
        assert version.assets is not None
        await bench.fetcher.replicate_version(version, {DIGEST, version.assets.manifest})
        assert not bench.mesh.log
