"""Machines that have blobs, in a test's own process: honest ones, and some of each bad kind.

A `Mesh` of fakes: what a peer does with a question is one small function. The honest one keeps
blobs in a real folder and speaks as `control.peers_blobs` does (its tests run these same clients
against the real application).
"""

import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx

from kythera.distribute.blobs import Blobs
from kythera.distribute.pack import head
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.records import Machine

QUICK = Limits(
    blob_near_answer_ms=200,
    peer_answer_ms=1_000,
    blob_silent_ms=200,
    blob_peer_rest_s=1_000,
    bundle_bytes_max=100_000,
    asset_bytes_max=100_000,
)
"""Real time is short here; a machine that failed is last for as long as a test lasts."""

Answering = Callable[[httpx.Request], Awaitable[httpx.Response]]


class Pieces(httpx.AsyncByteStream):
    """A body that comes piece by piece, as the peer likes."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the pieces."""
        async for piece in self._pieces:
            yield piece


class FakeMesh:
    """Other machines by name. `asked` counts what each was asked: (name, method)."""

    def __init__(self, peers: Mapping[str, Answering]) -> None:
        self.peers = dict(peers)
        self.asked: Counter[tuple[str, str]] = Counter()
        self.log: list[tuple[str, str, str]] = []
        """(name, method, path) of each question, in order."""

    async def request(
        self, peer: str, recorded: str, method: str, path: str, **more: Any
    ) -> httpx.Response:
        """Ask a fake and return its whole answer."""
        async with self.stream(peer, recorded, method, path, **more) as response:
            await response.aread()
            return response

    @asynccontextmanager
    async def stream(
        self, peer: str, recorded: str, method: str, path: str, **more: Any
    ) -> AsyncIterator[httpx.Response]:
        """Ask a fake and hand over its answer as it comes."""
        self.asked[peer, method] += 1
        self.log.append((peer, method, path))
        if peer not in self.peers:
            raise StoreUnavailable(f"the machine {peer!r} cannot be reached")
        request = httpx.Request(method, f"http://{peer}{path}", **more)
        try:
            yield await self.peers[peer](request)
        except httpx.HTTPError as error:
            # As MeshClient does.
            raise StoreUnavailable(f"the machine {peer!r} cannot be reached: {error}") from error


def answers(status: int, body: bytes = b"", **headers: str) -> httpx.Response:
    """Return an answer with its length."""
    return httpx.Response(status, stream=Pieces(_in_two(body)), headers=_length(body, headers))


def _length(body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"content-length": str(len(body)), **named}


async def _in_two(body: bytes) -> AsyncIterator[bytes]:
    middle = len(body) // 2
    for piece in (body[:middle], body[middle:]):
        if piece:
            yield piece


def packed(blobs: Iterable[bytes], lie: bytes = b"") -> httpx.Response:
    """Return many blobs in one answer; a lie instead of the last one's bytes."""
    listed = list(blobs)
    digests = [hashlib.sha256(data).hexdigest() for data in listed]
    if lie:
        listed[-1] = lie
    pairs = zip(digests, listed, strict=True)
    return answers(200, b"".join(head(digest, len(data)) + data for digest, data in pairs))


def _rest(request: httpx.Request, data: bytes) -> httpx.Response:
    wanted = request.headers.get("range")
    if wanted is None:
        return answers(200, data)
    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    if start > len(data):
        return answers(416)
    content_range = f"bytes {start}-{len(data) - 1}/{len(data)}"
    return answers(206, data[start:], content_range=content_range)


class Holder:
    """An honest machine: a real folder of blobs."""

    def __init__(self, root: Path) -> None:
        self.blobs = Blobs(root)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer as the real application does."""
        name = request.url.path.rpartition("/")[2]
        if request.method == "POST":
            asked = json.loads(await request.aread())["digests"]
            if name == "pack":
                return packed(self.blobs.read(digest) for digest in asked if self.blobs.has(digest))
            absent = [digest for digest in asked if not self.blobs.has(digest)]
            return answers(200, json.dumps({"missing": absent}).encode())
        if request.method == "PUT":
            data = await request.aread()
            with self.blobs.draft() as draft:
                draft.write(data)
                if draft.digest != name:
                    return answers(422)
                draft.commit()
            return answers(201)
        if not self.blobs.has(name):
            return answers(404)
        return _rest(request, self.blobs.read(name))


def lies(data: bytes) -> Answering:
    """Return a machine that gives these bytes, whatever it is asked for."""

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/blobs/pack":
            asked = json.loads(await request.aread())["digests"]
            lied = b"".join(head(digest, len(data)) + data for digest in asked)
            return answers(200, lied)
        if request.method == "POST":
            return answers(200, b'{"missing": []}')
        return _rest(request, data)

    return answer


async def hangs(request: httpx.Request) -> httpx.Response:
    """Never answer."""
    await anyio.sleep_forever()
    raise AssertionError


async def has_nothing(request: httpx.Request) -> httpx.Response:
    """Have no blob at all."""
    if request.method == "POST":
        asked = json.loads(await request.aread())["digests"]
        return answers(200, json.dumps({"missing": asked}).encode())
    return answers(404)


async def is_broken(request: httpx.Request) -> httpx.Response:
    """Fail inside."""
    return answers(500, b"oops")


def stops_in_the_middle(data: bytes, *, silent: bool) -> Answering:
    """Return a machine that gives the first half; then it is cut off, or says nothing more."""

    async def half() -> AsyncIterator[bytes]:
        yield data[: len(data) // 2]
        if silent:
            await anyio.sleep_forever()
        raise httpx.ReadError("cut")

    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Pieces(half()), headers=_length(data, {}))

    return answer


def drips(data: bytes, every_s: float) -> Answering:
    """Return a machine that gives a byte at a time, never silent for long."""

    async def slowly() -> AsyncIterator[bytes]:
        for index in range(len(data)):
            yield data[index : index + 1]
            await anyio.sleep(every_s)

    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Pieces(slowly()), headers=_length(data, {}))

    return answer


def machine(name: str, site: str = "here", **more: Any) -> Machine:
    """Return a machine's record."""
    return Machine(name=name, site=site, mesh=f"{name}:1", **more)
