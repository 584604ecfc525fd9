"""Many small blobs in one answer: a site of thousands of files would else be thousands of questions.

Promises: each blob is verified and kept on its own as it comes, so what came before a cut stays;
what was not asked for, is wrong or too large ends the pack. What is left is asked for one by one
(`Fetcher`). Every wait has a deadline.

On the wire each blob is its digest (32 bytes), its size (8 bytes, big-endian) and its bytes. A blob
that the other machine does not have is left out.
"""

import struct
from collections.abc import AsyncIterator, Callable, Collection

import anyio
from anyio import to_thread

from kythera.distribute.blobs import Blobs
from kythera.distribute.transfer import DiskRefused, Mesh, TransferFailed, largest_bytes, told
from kythera.distribute.transfer import whole_s as time_for
from kythera.model.errors import StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.records import Machine

HEAD = struct.Struct("!32sQ")
BLOBS_MAX = 32
"""In one pack: small enough for several to be on their way at once."""


def head(digest: str, size: int) -> bytes:
    """Return what goes before a blob's bytes."""
    return HEAD.pack(bytes.fromhex(digest), size)


class Incoming:
    """A body, read to the byte; each wait for more has a deadline."""

    def __init__(self, pieces: AsyncIterator[bytes], silent_ms: int) -> None:
        self._pieces = pieces
        self._rest = b""
        self._silent_s = silent_ms / 1000

    async def some(self, bytes_max: int) -> bytes:
        """Return at least one byte; nothing at the end."""
        if not self._rest:
            with anyio.fail_after(self._silent_s):
                self._rest = await anext(self._pieces, b"")
        found, self._rest = self._rest[:bytes_max], self._rest[bytes_max:]
        return found

    async def exactly(self, count: int) -> bytes:
        """Return so many bytes; fewer where the body ends."""
        whole = b""
        while len(whole) < count and (piece := await self.some(count - len(whole))):
            whole += piece
        return whole


async def pull_pack(
    mesh: Mesh,
    peer: Machine,
    digests: Collection[str],
    blobs: Blobs,
    limits: Limits,
    *,
    within_ms: int,
    kept: Callable[[str], None],
) -> None:
    """Get those of many blobs that a machine has; `kept` is told each one that is here now.

    Raises TransferFailed; StoreUnavailable for a disk that takes no more."""
    with told(peer, "unreachable") as reasons:
        with anyio.fail_after(within_ms / 1000) as answer:
            async with mesh.stream(
                peer.name, peer.mesh, "POST", "/blobs/pack", json={"digests": list(digests)}
            ) as response:
                answer.deadline = float("inf")
                reasons.append("cut")
                if response.status_code != 200:
                    raise TransferFailed("refused", f"{peer.name} answered {response.status_code}")
                body = Incoming(response.aiter_raw(), limits.blob_silent_ms)
                wanted = set(digests)
                while found := await body.exactly(HEAD.size):
                    await _one(peer, found, body, wanted, blobs, limits)
                    digest = found[:32].hex()
                    wanted.discard(digest)
                    kept(digest)


async def _one(
    peer: Machine,
    found: bytes,
    body: Incoming,
    wanted: Collection[str],
    blobs: Blobs,
    limits: Limits,
) -> None:
    if len(found) < HEAD.size:
        raise TransferFailed("cut", f"{peer.name} stopped between two blobs")
    raw, size = HEAD.unpack(found)
    digest = raw.hex()
    if digest not in wanted:
        raise TransferFailed("wrong", f"{peer.name} gave blob {digest}, which nobody asked for")
    if size > largest_bytes(limits):
        raise TransferFailed("too_large", f"{peer.name} wants to send {size:,} bytes")
    with blobs.draft() as draft, anyio.fail_after(time_for(size, limits)):
        while draft.size < size:
            piece = await body.some(size - draft.size)
            if not piece:
                raise TransferFailed("cut", f"{peer.name} stopped in the middle of a blob")
            await _write(draft.write, piece)
        if draft.digest != digest:
            raise TransferFailed("wrong", f"{peer.name} gave other bytes than blob {digest} has")
        await _write(draft.commit)


async def _write(step: Callable[..., object], *arguments: bytes) -> None:
    """Do something with the disk; its refusal is no machine's fault."""
    try:
        await to_thread.run_sync(step, *arguments)
    except StoreUnavailable as error:
        raise DiskRefused(error.message, remedy=error.remedy) from error
