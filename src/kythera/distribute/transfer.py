"""One blob between this machine and one other: pulled, pushed, or asked after.

Promises: every wait has a deadline, for the first byte, for each next one and for the whole; what
goes wrong is a `TransferFailed` that says which of a few reasons it was; a pull appends to a draft,
so that what one machine began another can finish. Nothing here believes a byte: who pulls compares
the draft's digest with what it asked for.
Refuses: answers that are larger than any blob may be. A full disk here is no machine's fault and
is raised as it is (`StoreUnavailable`).
"""

from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Literal, Protocol

import anyio
import httpx
import msgspec
from anyio import to_thread

from kythera.distribute.blobs import READ_BYTES, Blobs, Draft
from kythera.distribute.nearness import Near, near
from kythera.model.errors import KytheraError, StoreUnavailable
from kythera.model.limits import Limits
from kythera.model.names import DIGEST
from kythera.model.records import Machine

ASKED_AT_ONCE_MAX = 10_000
"""Digests in one question; 670 kB."""
LOOK_MS_EACH = 1
"""What a slow machine may take to look one of them up."""
TRANSPORT = (httpx.HTTPError, anyio.BrokenResourceError, anyio.EndOfStream, OSError)

Reason = Literal["unreachable", "silent", "cut", "absent", "wrong", "refused", "too_large"]


class TransferFailed(KytheraError):
    """One machine could not give or take a blob; `reason` is for counting, the text for reading."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Mesh(Protocol):
    """Other machines, asked over the mesh (`kythera.distribute.mesh.MeshClient`)."""

    async def request(
        self, peer: str, recorded: str, method: str, path: str, **more: Any
    ) -> httpx.Response:
        """Ask a machine and return its whole answer. Raises StoreUnavailable."""
        ...

    def stream(
        self, peer: str, recorded: str, method: str, path: str, **more: Any
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Ask a machine and hand over its answer as it comes. Raises StoreUnavailable."""
        ...


def largest_bytes(limits: Limits) -> int:
    """Return how large a single blob may be."""
    return max(limits.bundle_bytes_max, limits.asset_bytes_max)


def whole_s(size: int, limits: Limits) -> float:
    """Return how many seconds a transfer of `size` bytes may take on the whole."""
    return (
        limits.peer_answer_ms + limits.blob_silent_ms
    ) / 1000 + size / limits.blob_bytes_per_s_min


def answer_ms(peer: Machine, me: Machine, limits: Limits, *, patient: bool) -> int:
    """Return how long to wait until a machine begins to answer; patience is for the second try."""
    if patient or near(peer, me) is not Near.SITE:
        return limits.peer_answer_ms
    return limits.blob_near_answer_ms


async def pull(
    mesh: Mesh, peer: Machine, digest: str, draft: Draft, limits: Limits, *, within_ms: int
) -> None:
    """Append to `draft` what is missing of a blob, from one machine.

    When it fails the draft keeps what came. Raises TransferFailed; StoreUnavailable for a disk
    that takes no more."""
    headers = {"accept-encoding": "identity"}
    if draft.size:
        headers["range"] = f"bytes={draft.size}-"
    with told(peer, "unreachable") as reasons:
        with anyio.fail_after(within_ms / 1000) as answer:
            async with mesh.stream(
                peer.name, peer.mesh, "GET", f"/blobs/{digest}", headers=headers
            ) as response:
                answer.deadline = float("inf")
                reasons.append("cut")
                size = _announced(response, peer, draft, limits)
                with anyio.fail_after(whole_s(size, limits)):
                    await _receive(response, peer, draft, size, limits)


def _announced(response: httpx.Response, peer: Machine, draft: Draft, limits: Limits) -> int:
    """Return how large the blob is to become, having looked at the answer's head."""
    length = response.headers.get("content-length", "")
    if response.status_code == 404:
        raise TransferFailed("absent", f"{peer.name} does not have it")
    if response.status_code not in (200, 206) or not length.isdigit():
        raise TransferFailed("refused", f"{peer.name} answered {response.status_code}")
    if response.status_code == 200:
        draft.restart()
    elif not response.headers.get("content-range", "").startswith(f"bytes {draft.size}-"):
        raise TransferFailed("refused", f"{peer.name} answered with another range")
    size = draft.size + int(length[:18])
    if size > largest_bytes(limits):
        raise TransferFailed("too_large", f"{peer.name} wants to send {size:,} bytes")
    return size


async def _receive(
    response: httpx.Response, peer: Machine, draft: Draft, size: int, limits: Limits
) -> None:
    pieces = response.aiter_raw()
    while True:
        with anyio.fail_after(limits.blob_silent_ms / 1000):
            piece = await anext(pieces, None)
        if piece is None:
            break
        if draft.size + len(piece) > size:
            raise TransferFailed("too_large", f"{peer.name} sends more than it said")
        try:
            await to_thread.run_sync(draft.write, piece)
        except StoreUnavailable as error:
            raise DiskRefused(error.message, remedy=error.remedy) from error
    if draft.size < size:
        raise TransferFailed("cut", f"{peer.name} sent {draft.size:,} of {size:,} bytes")


class DiskRefused(StoreUnavailable):
    """This machine's own disk takes no more: no other machine can help."""


async def push(mesh: Mesh, peer: Machine, digest: str, blobs: Blobs, limits: Limits) -> None:
    """Give a machine a blob and return when it has it on its disk. Raises TransferFailed; an error
    of this machine's own disk as it is."""
    path = blobs.path(digest)
    try:
        size = (await to_thread.run_sync(path.stat)).st_size
    except FileNotFoundError:
        raise StoreUnavailable(f"Blob {digest} is not on this machine ({path}).") from None

    async def pieces() -> AsyncIterator[bytes]:
        async with await anyio.open_file(path, "rb") as file:
            while piece := await file.read(READ_BYTES):
                yield piece

    headers = {"content-length": str(size)}
    with told(peer, "unreachable"), anyio.fail_after(whole_s(size, limits)):
        response = await mesh.request(
            peer.name, peer.mesh, "PUT", f"/blobs/{digest}", content=pieces(), headers=headers
        )
    if response.status_code not in (200, 201):
        raise TransferFailed(
            "refused", f"{peer.name} answered {response.status_code}: {response.text[:200].strip()}"
        )


async def missing(
    mesh: Mesh, peer: Machine, digests: Collection[str], limits: Limits, *, within_ms: int
) -> set[str]:
    """Return which of these blobs a machine does not have. Raises TransferFailed."""
    found: set[str] = set()
    for some in _in_parts(list(digests), ASKED_AT_ONCE_MAX):
        within_s = (within_ms + len(some) * LOOK_MS_EACH) / 1000
        with told(peer, "unreachable"), anyio.fail_after(within_s):
            response = await mesh.request(
                peer.name, peer.mesh, "POST", "/blobs/missing", json={"digests": some}
            )
        if response.status_code != 200:
            raise TransferFailed("refused", f"{peer.name} answered {response.status_code}")
        try:
            answer = msgspec.json.decode(response.content, type=dict[str, list[str]])
        except msgspec.MsgspecError:
            raise TransferFailed("refused", f"{peer.name} answered nonsense") from None
        found.update(d for d in answer.get("missing", []) if DIGEST.fullmatch(d))
    return found.intersection(digests)


def _in_parts(items: Sequence[str], length: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), length):
        yield items[start : start + length]


@contextmanager
def told(peer: Machine, first: Reason) -> Iterator[list[Reason]]:
    """Turn what may go wrong on the way into a TransferFailed of the last reason in the list."""
    reasons: list[Reason] = [first]
    try:
        yield reasons
    except (DiskRefused, TransferFailed):
        raise
    except TimeoutError as error:
        raise TransferFailed("silent", f"{peer.name} was silent or slow for too long") from error
    except (StoreUnavailable, *TRANSPORT) as error:
        raise TransferFailed(reasons[-1], f"{peer.name}: {error}") from error
