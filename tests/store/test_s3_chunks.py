"""Bodies in S3's own chunks."""

from collections.abc import AsyncIterator

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.model.errors import Refusal
from kythera.store.s3_chunks import unchunked


def chunked(chunks: list[bytes]) -> bytes:
    """Return a body as a client sends it."""
    parts = [b"%x;chunk-signature=0\r\n%s\r\n" % (len(one), one) for one in chunks if one]
    return b"".join(parts) + b"0\r\nx-amz-checksum-crc32:AAAA\r\n\r\n"


def read(sent: bytes, size: int, piece_bytes: int) -> bytes:
    """Return the bytes in it; they arrive in pieces of any size."""

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(sent), piece_bytes):
            yield sent[at : at + piece_bytes]

    async def whole() -> bytes:
        return b"".join([piece async for piece in unchunked(pieces(), size)])

    return anyio.run(whole)


@given(chunks=st.lists(st.binary(max_size=9), max_size=5), piece_bytes=st.integers(1, 30))
def test_the_bytes_come_out_however_they_arrive(chunks: list[bytes], piece_bytes: int) -> None:
    """Goal: no border of a piece or chunk is lost, no trailer is taken for bytes."""
    body = b"".join(chunks)
    assert read(chunked(chunks), len(body), piece_bytes) == body


@pytest.mark.parametrize(
    ("sent", "size"),
    [
        (b"5\r\nhe", 5),
        (b"5\r\nhello\r\n0\r\n\r\n", 4),
        (b"0\r\n\r\n", 1),
        (b"x\r\n", 1),
        (b"\r\n\r\n", 0),
    ],
)
def test_a_body_that_is_not_whole_is_refused(sent: bytes, size: int) -> None:
    """Goal: cut short, longer than told, no number."""
    with pytest.raises(Refusal):
        read(sent, size, 100)


def test_a_line_without_an_end_is_refused() -> None:
    """Goal: memory does not follow what somebody sends."""
    with pytest.raises(Refusal):
        read(b"5" * 5_000, 5, 500)
