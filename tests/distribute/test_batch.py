"""What travels between copies: taken in order, and refused when anything was done to it.

Method: Hypothesis makes histories and cuts the stream into any pieces; then each kind of fault is
planted in turn.
"""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.distribute.batch import BadBatch, Frames, Reading, Stretch, frame
from kythera.distribute.log import Entry

FRAME_BYTES_MAX = 10_000
ENTRIES = st.lists(
    st.tuples(st.sampled_from(["a.b", "c", "d.e.f"]), st.none() | st.binary(min_size=1)),
    max_size=20,
)


def bodies(stream: bytes, piece_bytes: int = 1 << 20) -> list[bytes]:
    """Cut a stream, arriving in pieces, into frames' bodies."""
    frames = Frames(FRAME_BYTES_MAX)
    pieces = (stream[at : at + piece_bytes] for at in range(0, len(stream), piece_bytes))
    return [body for piece in pieces for body in frames.feed(piece)]


def read(stream: bytes, after_seq: int = 0) -> list[Stretch]:
    """Read a whole stream."""
    reading = Reading(after_seq)
    return [reading.take(body) for body in bodies(stream)]


@given(history=ENTRIES, gaps=st.lists(st.integers(1, 5), min_size=20), piece=st.integers(1, 99))
def test_what_was_sent_arrives_whatever_the_pieces(
    history: list[tuple[str, bytes | None]], gaps: list[int], piece: int
) -> None:
    """Batches with holes in their numbers, signs of life between: all entries, in order."""
    seq, entries, stream = 0, [], b""
    for (key, value), gap in zip(history, gaps, strict=False):
        entry = Entry(seq + gap, key, value)
        stream += frame(seq, entry.seq + 1, [entry]) + frame(entry.seq + 1, entry.seq + 1, [])
        entries.append(entry)
        seq = entry.seq + 1
    reading = Reading(0)
    taken = [reading.take(body) for body in bodies(stream, piece)]
    assert [entry for stretch in taken for entry in stretch.entries] == entries
    assert reading.seq == reading.newest == seq


A = frame(0, 2, [Entry(1, "a", b"1"), Entry(2, "b", b"2")])
B = frame(2, 5, [Entry(4, "a", None)])
C = frame(5, 6, [Entry(6, "c", b"3")])


def test_a_repeat_adds_nothing() -> None:
    """The same frame again gives no entries and moves nothing."""
    assert [stretch.to_seq for stretch in read(A + B + A + B + C)] == [2, 5, 5, 5, 6]
    assert read(A + A)[1].entries == []


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("a dropped frame", A + C),
        ("swapped frames", A + C + B),
        ("a first frame that does not begin where was asked", B),
        ("a frame that overlaps", A + frame(1, 4, [Entry(3, "a", b"x")])),
        ("entries out of order", frame(0, 5, [Entry(3, "a", b"x"), Entry(2, "b", b"x")])),
        ("one entry twice", frame(0, 5, [Entry(3, "a", b"x"), Entry(3, "a", b"x")])),
        ("an entry before the span", A + frame(2, 5, [Entry(2, "a", b"x")])),
        ("an entry beyond the span", frame(0, 5, [Entry(6, "a", b"x")])),
        ("a span that runs backwards", A + frame(2, 1, [])),
        ("a sign of life with records", frame(0, 0, [Entry(0, "a", b"x")])),
        ("another world's log", frame(0, 2, [Entry(1, "a", b"x")], origin=1)),
        ("no batch at all", b"\0\0\0\5hello"),
        ("a number for a key", b"\0\0\0\1\xc0"),
    ],
)
def test_a_planted_fault_is_refused(name: str, stream: bytes) -> None:
    """Each kind of damage to a stream raises, and nothing of the bad frame is given out."""
    with pytest.raises(BadBatch):
        read(stream)


@given(at=st.integers(4, len(A) - 1), flip=st.integers(1, 255))
def test_a_flipped_byte_is_refused(at: int, flip: int) -> None:
    """Anywhere in the body: the digest, the span, a key, a value."""
    damaged = bytearray(A)
    damaged[at] ^= flip
    with pytest.raises(BadBatch):
        read(bytes(damaged) + B)


def test_a_frame_over_the_limit_is_refused_before_it_is_held() -> None:
    """A length nobody would send does not fill the memory."""
    with pytest.raises(BadBatch, match="may"):
        bodies(b"\x7f\0\0\0")


def test_a_newer_writer_may_add_fields_at_the_end() -> None:
    """What it adds is ignored: machines of two versions follow each other."""
    fields = msgspec.msgpack.decode(bodies(A)[0])
    grown = msgspec.msgpack.encode([*fields, "something newer"])
    assert Reading(0).take(grown).to_seq == 2
