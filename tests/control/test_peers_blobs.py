"""Blobs given to other machines and taken from them: the real application on a real socket, asked by
the same clients that machines use.
"""

import hashlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from kythera.control.app import build_peers_app
from kythera.control.carrier import NoCarrier
from kythera.control.server import server_for
from kythera.control.services import Services
from kythera.distribute import transfer
from kythera.distribute.blobs import Blobs
from kythera.distribute.pack import pull_pack
from kythera.distribute.transfer import TransferFailed
from kythera.ground.sockets import listen_unix
from kythera.model.limits import Limits
from kythera.model.records import Machine
from tests.control.world import World

pytestmark = pytest.mark.anyio
DATA = b"some code\n" * 30_000
DIGEST = hashlib.sha256(DATA).hexdigest()
LIMITS = Limits(bundle_bytes_max=400_000, asset_bytes_max=400_000, blob_silent_ms=300)
PEER = Machine(name="peer", mesh="unused")


class SocketMesh:
    """The mesh, as one unix socket."""

    def __init__(self, path: Path) -> None:
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://peer", timeout=5)

    async def request(
        self, peer: str, recorded: str, method: str, path: str, **more: Any
    ) -> httpx.Response:
        """Ask and return the whole answer."""
        return await self.client.request(method, path, **more)

    @asynccontextmanager
    async def stream(
        self, peer: str, recorded: str, method: str, path: str, **more: Any
    ) -> AsyncIterator[httpx.Response]:
        """Ask and hand over the answer as it comes."""
        async with self.client.stream(method, path, **more) as response:
            yield response


class Healing(NoCarrier):
    """Notes what it is asked to heal."""

    def __init__(self) -> None:
        self.healed: list[str] = []

    async def heal(self, digest: str) -> None:
        """Take note."""
        self.healed.append(digest)


@dataclass
class Peer:
    """Another machine: its blobs, its services, and the way to ask it."""

    blobs: Blobs
    services: Services
    mesh: SocketMesh
    carrier: Healing
    path: Path

    @property
    def files(self) -> list[Path]:
        """All files in its folder, half-written ones too."""
        return [path for path in self.blobs.root.rglob("*") if path.is_file()]


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    """Return a machine that serves on a socket."""
    blobs, carrier = Blobs(tmp_path / "peer"), Healing()
    services = replace(World(tmp_path, LIMITS).services, blobs=blobs, carrier=carrier)
    path = tmp_path / "p.sock"
    server = server_for(build_peers_app(services), services.platform)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            listening: socket.socket = listen_unix(path)
            tasks.start_soon(lambda: server.serve(sockets=[listening]))
            mesh = SocketMesh(path)
            async with mesh.client:
                yield Peer(blobs, services, mesh, carrier, path)
            server.should_exit = True


@pytest.fixture
def mine(tmp_path: Path) -> Blobs:
    """Return this machine's blobs."""
    return Blobs(tmp_path / "mine")


async def test_a_blob_is_pulled_whole_or_from_where_it_was_cut(peer: Peer, mine: Blobs) -> None:
    """The same bytes, the same digest."""
    peer.blobs.put(DATA)
    for begun in (b"", DATA[:100_000], DATA):
        with mine.draft() as draft:
            draft.write(begun)
            await transfer.pull(peer.mesh, PEER, DIGEST, draft, LIMITS, within_ms=5_000)
            assert draft.digest == DIGEST


async def test_a_machine_says_what_it_does_not_have(peer: Peer, mine: Blobs) -> None:
    """404 for what is absent and for what is no digest; 416 beyond the end."""
    with mine.draft() as draft, pytest.raises(TransferFailed) as caught:
        await transfer.pull(peer.mesh, PEER, DIGEST, draft, LIMITS, within_ms=5_000)
    assert caught.value.reason == "absent"
    for name in ("..%2f..%2fetc%2fpasswd", "x", DIGEST.upper()):
        assert (await peer.mesh.client.get(f"/blobs/{name}")).status_code == 404
    peer.blobs.put(b"short")
    with mine.draft() as draft, pytest.raises(TransferFailed) as caught:
        draft.write(b"something longer")
        short = hashlib.sha256(b"short").hexdigest()
        await transfer.pull(peer.mesh, PEER, short, draft, LIMITS, within_ms=5_000)
    assert caught.value.reason == "refused"


async def test_a_head_tells_the_size_alone(peer: Peer) -> None:
    """Without a byte of it."""
    peer.blobs.put(DATA)
    found = await peer.mesh.client.head(f"/blobs/{DIGEST}")
    assert (found.status_code, found.headers["content-length"]) == (200, str(len(DATA)))
    assert found.content == b""


async def test_a_blob_that_was_pushed_is_on_the_other_disk(peer: Peer, mine: Blobs) -> None:
    """Pushed, then pushed again: kept once."""
    mine.put(DATA)
    for _ in range(2):
        await transfer.push(peer.mesh, PEER, DIGEST, mine, LIMITS)
        assert peer.blobs.read(DIGEST) == DATA
        assert peer.files == [peer.blobs.path(DIGEST)]


async def test_other_bytes_than_promised_are_refused_and_not_kept(peer: Peer, mine: Blobs) -> None:
    """A damaged blob does not spread."""
    path = mine.path(mine.put(DATA))
    path.chmod(0o600)
    path.write_bytes(b"other bytes")
    with pytest.raises(TransferFailed, match="422"):
        await transfer.push(peer.mesh, PEER, DIGEST, mine, LIMITS)
    assert peer.files == []


async def test_a_blob_over_the_limit_is_refused_and_not_kept(peer: Peer, mine: Blobs) -> None:
    """At the first byte too many."""
    digest = mine.put(b"x" * 400_001)
    with pytest.raises(TransferFailed, match="413"):
        await transfer.push(peer.mesh, PEER, digest, mine, LIMITS)
    assert peer.files == []
    await transfer.push(peer.mesh, PEER, mine.put(b"x" * 400_000), mine, LIMITS)


async def test_a_blob_that_stops_coming_leaves_nothing(peer: Peer) -> None:
    """Cut in the middle, or silent for too long."""
    head = f"PUT /blobs/{DIGEST} HTTP/1.1\r\nhost: peer\r\ncontent-length: {len(DATA)}\r\n\r\n"
    async with await anyio.connect_unix(peer.path) as cut:
        await cut.send(head.encode() + DATA[:1000])
    async with await anyio.connect_unix(peer.path) as silent:
        await silent.send(head.encode() + DATA[:1000])
        assert b" 408 " in await silent.receive()
    while peer.files:
        await anyio.sleep(0.01)


async def test_a_full_disk_is_told(
    peer: Peer, mine: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """507, in words, and nothing half-written."""
    mine.put(DATA)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("kythera.distribute.blobs.os.write", full)
        with pytest.raises(TransferFailed, match=r"507.*No space left"):
            await transfer.push(peer.mesh, PEER, DIGEST, mine, LIMITS)
    assert peer.files == []


async def test_what_is_missing_is_told_at_once_for_many(peer: Peer) -> None:
    """Those that are there count as used."""
    peer.blobs.put(DATA)
    absent = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(2_000)]
    asked = [*absent[:1_000], DIGEST, *absent[1_000:]]
    before = next(peer.blobs.held()).used_ns
    found = await transfer.missing(peer.mesh, PEER, asked, LIMITS, within_ms=5_000)
    assert found == set(absent)
    assert next(peer.blobs.held()).used_ns > before


async def test_many_blobs_are_given_in_one_answer(peer: Peer, mine: Blobs) -> None:
    """Those that are there, each verified as it comes."""
    contents = [b"", b"one", DATA, *(b"%d" % n for n in range(50))]
    digests = [peer.blobs.put(data) for data in contents]
    kept: list[str] = []
    asked = [*digests, hashlib.sha256(b"absent").hexdigest()]
    await pull_pack(peer.mesh, PEER, asked, mine, LIMITS, within_ms=5_000, kept=kept.append)
    assert sorted(kept) == sorted(digests) == sorted(mine.digests())


@pytest.mark.parametrize("body", [b"", b"[]", b'{"digests": [1]}', b'{"digests": ["../x"]}'])
async def test_a_question_that_makes_no_sense_is_refused(peer: Peer, body: bytes) -> None:
    """400, whatever it is."""
    assert (await peer.mesh.client.post("/blobs/missing", content=body)).status_code == 400


async def test_a_blob_that_is_found_damaged_while_it_is_given_is_healed(
    peer: Peer, mine: Blobs
) -> None:
    """Who asked sees other bytes; the machine fetches good ones for the next who asks."""
    path = peer.blobs.path(peer.blobs.put(DATA))
    path.chmod(0o600)
    path.write_bytes(b"rotten")
    with mine.draft() as draft:
        await transfer.pull(peer.mesh, PEER, DIGEST, draft, LIMITS, within_ms=5_000)
        assert draft.digest != DIGEST
    while not peer.carrier.healed:
        await anyio.sleep(0.01)
    assert peer.carrier.healed == [DIGEST]
