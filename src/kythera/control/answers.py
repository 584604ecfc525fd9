"""Asking another machine for a document, and believing no more of it than was asked.

Promises: an answer has a size limit and a deadline, its parts have types, and a machine speaks for
itself alone. Whatever is wrong with it is a `BadAnswer` or `PeerUnreachable`, both StoreUnavailable.
"""

from typing import TYPE_CHECKING, TypeVar

import anyio
import msgspec

from kythera.model.errors import StoreUnavailable
from kythera.model.records import Machine

if TYPE_CHECKING:
    from kythera.control.fleet import Mesh

T = TypeVar("T")
TOLD_CHARACTERS_MAX = 200


class BadAnswer(StoreUnavailable):
    """Another machine answered with something that is not what was asked for."""


async def ask(
    mesh: "Mesh", machine: Machine, path: str, kind: type[T], *, bytes_max: int, within_ms: int
) -> T:
    """GET a JSON document of another machine's control process, whole or not at all."""
    body = b""
    with anyio.move_on_after(within_ms / 1000) as deadline:
        body = await _read(mesh, machine, path, bytes_max)
    if deadline.cancelled_caught:
        raise BadAnswer(f"The machine {machine.name!r} did not answer within {within_ms} ms.")
    return decoded(body, kind, machine.name)


async def _read(mesh: "Mesh", machine: Machine, path: str, bytes_max: int) -> bytes:
    whole = bytearray()
    headers = {"accept-encoding": "identity"}
    async with mesh.stream(machine.name, machine.mesh, "GET", path, headers=headers) as response:
        # As it came: nothing is unpacked, so that the size limit is one.
        async for chunk in response.aiter_raw():
            whole += chunk
            if len(whole) > bytes_max:
                raise BadAnswer(
                    f"The machine {machine.name!r} answered with more than {bytes_max:,} bytes."
                )
        if response.status_code != 200:
            raise BadAnswer(_told(machine.name, response.status_code, bytes(whole)))
    return bytes(whole)


def _told(name: str, status: int, body: bytes) -> str:
    told = body[:TOLD_CHARACTERS_MAX].decode("utf-8", "replace")
    return f"The machine {name!r} answered HTTP {status}: {printable(told)}"


def decoded(body: bytes, kind: type[T], name: str) -> T:
    """Read an answer as `kind`; unknown fields are another version's business."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        why = printable(str(error))[:TOLD_CHARACTERS_MAX]
        raise BadAnswer(f"The answer of the machine {name!r} cannot be read: {why}.") from None


def printable(text: str) -> str:
    """Return text without what could do something to a terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
