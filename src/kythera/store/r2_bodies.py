"""A body on its way through: never whole in memory, and checked before its end is passed on.

A body that is not what its checksum says must not become an object. Its last piece is held back until
the digest is known; without it the engine keeps nothing, for it was told how long the body is.
"""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from kythera.model.errors import Refusal
from kythera.store.r2_errors import bad_digest
from kythera.store.r2_objects import Found

PIECE_BYTES = 256 * 1024


@dataclass(frozen=True)
class Opened:
    """An object with its bytes, or with a part of them."""

    found: Found
    length: int
    """Of what there is to read."""
    pieces: AsyncIterator[bytes]
    whole: bytes | None = None
    """All of it, where it is short."""
    status: int = 200
    content_range: str = ""
    """What part it is, as HTTP says it."""


async def one_piece(body: bytes) -> AsyncIterator[bytes]:
    """Yield a body that is there already."""
    if body:
        yield body


class Checked:
    """A body with the digest that it must have, or none."""

    def __init__(self, pieces: AsyncIterator[bytes], checksum: tuple[str, bytes] | None) -> None:
        self.refused: Refusal | None = None
        """Why the body was not passed on to its end."""
        self.bytes = 0
        self._pieces = pieces
        self._checksum = checksum

    async def whole(self) -> bytes:
        """Return a short body. Raises Refusal: it is not what its checksum says."""
        return b"".join([piece async for piece in self])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._checksum is None:
            async for piece in self._pieces:
                self.bytes += len(piece)
                yield piece
            return
        name, wanted = self._checksum
        digest, held = hashlib.new(name, usedforsecurity=False), b""
        async for piece in self._pieces:
            if held:
                yield held
            digest.update(piece)
            self.bytes += len(piece)
            held = piece
        if digest.digest() != wanted:
            self.refused = bad_digest(name, wanted, digest.digest())
            raise self.refused
        if held:
            yield held
