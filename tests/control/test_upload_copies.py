"""An upload is on a core machine before it is stored; without one it is refused, and says so.

Method: the API in the test's process with real blobs, over fake machines that take copies or hang.
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import msgspec
import pytest

from kythera.control.app import build_app
from kythera.control.asset_index import AssetIndex
from kythera.distribute.blobs import Blobs
from kythera.distribute.fetch import Fetcher
from tests.control.world import HELLO, World, form
from tests.distribute.blob_peers import QUICK as QUICK_BLOBS
from tests.distribute.blob_peers import Answering, FakeMesh, Holder, hangs, lies, machine

pytestmark = pytest.mark.anyio
DIGEST = hashlib.sha256(HELLO.encode()).hexdigest()


class FleetWorld(World):
    """A platform's API among other machines; `core` is one of them."""

    def __init__(self, folder: Path, peers: dict[str, Answering]) -> None:
        super().__init__(folder)
        self.mesh = FakeMesh(peers)
        self.files = Blobs(folder / "blobs")
        machines = [machine("m"), *(machine(name) for name in peers)]
        self.fetcher = Fetcher(
            self.files,
            self.mesh,
            lambda: machines,
            "m",
            msgspec.structs.replace(QUICK_BLOBS, peer_answer_ms=300),
            cores=lambda: {"core"},
        )
        self.services = replace(
            self.services,
            blobs=self.files,
            carrier=self.fetcher,
            asset_index=AssetIndex(folder / "asset-hashes", self.files),
        )
        self.client._transport.app = build_app(self.services)  # type: ignore[attr-defined]


@asynccontextmanager
async def fleet_at(folder: Path, peers: dict[str, Answering]) -> AsyncIterator[FleetWorld]:
    """Return a world that has been started."""
    world = FleetWorld(folder, peers)
    with anyio.fail_after(20):
        async with world.client, world.fetcher:
            await world.start()
            yield world


async def test_a_deployed_worker_is_on_a_core_machine_when_the_answer_comes(tmp_path: Path) -> None:
    """Its code is read there, by its hash."""
    core = Holder(tmp_path / "core")
    async with fleet_at(tmp_path, {"core": core}) as world:
        await world.deploy()
        assert core.blobs.read(DIGEST) == HELLO.encode()


@pytest.mark.parametrize("core", [hangs, None], ids=["hangs", "cannot be reached"])
async def test_without_a_core_machine_an_upload_is_refused_and_nothing_is_in_the_log(
    tmp_path: Path, core: Answering | None
) -> None:
    """503 with what to do; the same upload succeeds when the core is back."""
    near = Holder(tmp_path / "near")
    async with fleet_at(tmp_path, {"core": core or hangs, "near": near}) as world:
        if core is None:
            del world.mesh.peers["core"]
        before = world.log._last
        answer = await world.call("PUT", "scripts/hello", files=form())
        (error,) = answer.json()["errors"]
        assert answer.status_code == 503
        assert "no core machine (core)" in error["message"]
        assert "kythera status" in error["message"]
        assert world.log._last == before
        world.mesh.peers["core"] = Holder(tmp_path / "core")
        await world.deploy()


async def test_a_secret_needs_nobody_as_the_code_is_safe_already(tmp_path: Path) -> None:
    """The core is away: what changes is in the record alone."""
    async with fleet_at(tmp_path, {"core": Holder(tmp_path / "core")}) as world:
        await world.deploy()
        world.mesh.peers["core"] = hangs
        world.mesh.asked.clear()
        body = {"name": "KEY", "text": "hush", "type": "secret_text"}
        await world.ok("PUT", "scripts/hello/secrets", body)
        assert not world.mesh.asked


async def test_code_that_is_elsewhere_is_fetched_for_its_trial(tmp_path: Path) -> None:
    """A new secret tries the code again, and this machine has let go of it."""
    async with fleet_at(tmp_path, {"core": Holder(tmp_path / "core")}) as world:
        await world.deploy()
        world.files.remove(DIGEST)
        await world.ok(
            "PUT", "scripts/hello/secrets", {"name": "KEY", "text": "x", "type": "secret_text"}
        )
        assert world.files.read(DIGEST) == HELLO.encode()


async def test_content_that_is_elsewhere_can_be_downloaded_here(tmp_path: Path) -> None:
    """Any machine gives back what was uploaded to any other."""
    async with fleet_at(tmp_path, {"core": Holder(tmp_path / "core")}) as world:
        await world.deploy()
        world.files.remove(DIGEST)
        answer = await world.call("GET", "scripts/hello/content/v2")
        assert answer.status_code == 200
        assert HELLO in answer.text


async def test_tampered_code_from_another_machine_is_never_tried(tmp_path: Path) -> None:
    """The trial does not even begin: 503, and the log is as before."""
    async with fleet_at(tmp_path, {"core": Holder(tmp_path / "core")}) as world:
        await world.deploy()
        world.files.remove(DIGEST)
        world.mesh.peers["core"] = lies(b"export default { fetch() { steal() } }")
        tried, before = list(world.workshop.tried), world.log._last
        answer = await world.call(
            "PUT",
            "scripts/hello/secrets",
            json={"name": "KEY", "text": "x", "type": "secret_text"},
        )
        assert answer.status_code == 503
        assert world.workshop.tried == tried
        assert world.log._last == before
        assert world.fetcher.counts["wrong"] == 1
        assert not world.files.has(DIGEST)
