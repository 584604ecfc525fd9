"""Bodies in S3's own chunks (`aws-chunked`), taken out of them.

A chunk is `<size in hex>[;chunk-signature=…]`, a line's end, its bytes, a line's end; one of no bytes is
the last, and trailers may follow. Signatures of single chunks are not checked: what they would guard
is guarded by TLS, or is on this machine.
"""

import re
from collections.abc import AsyncIterator

from kythera.model.errors import Refusal
from kythera.store.r2_errors import invalid_argument

LINE_BYTES_MAX = 1_024
HEX = re.compile(rb"[0-9A-Fa-f]{1,15}")


async def unchunked(pieces: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """Yield a body's own bytes, of which there must be `size`. Raises Refusal."""
    held, left, total = b"", 0, 0
    async for piece in pieces:
        held += piece
        while held:
            if left:
                part, held = held[:left], held[left:]
                left -= len(part)
                total += len(part)
                if total > size:
                    raise _wrong_length()
                yield part
                continue
            line, end, rest = held.removeprefix(b"\r\n").partition(b"\r\n")
            if not end:
                if len(line) > LINE_BYTES_MAX:
                    raise invalid_argument("The chunks of the body cannot be read.")
                break
            held, left = rest, _size(line)
            if left == 0:
                held = b""
                async for _ in pieces:
                    """Trailers: read, not believed."""
                break
    if total != size or left:
        raise _wrong_length()


def _size(line: bytes) -> int:
    text = line.partition(b";")[0]
    if HEX.fullmatch(text) is None:
        raise invalid_argument("The chunks of the body cannot be read.")
    return int(text, 16)


def _wrong_length() -> Refusal:
    return invalid_argument("The body is not as long as X-Amz-Decoded-Content-Length says.")
