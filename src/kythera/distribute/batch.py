"""What travels between copies: batches of records in frames, made and checked.

Pure. A batch says everything that happened in `(from_seq, to_seq]` of one log: the newest entry of
each key that changed there, if that is not newer still. One without a span (`from_seq == to_seq`)
and records is a sign of life: that sequence is the newest its sender has.
Promises: batches are taken only in order, each beginning where the last one ended; a repeat adds
nothing. Refuses (BadBatch) a gap, a batch out of turn, a digest that does not fit, another log's.

A frame is four bytes of length (big-endian), then the batch as MessagePack; fields may be added at
its end. The digest covers origin, span and records, and leaves room for a signature in its place.
"""

import hashlib
import itertools
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

from kythera.distribute.log import Entry
from kythera.model.errors import StoreUnavailable

ORIGIN = 0
"""This world's log. Other worlds' logs will have other numbers."""
DIGEST_BYTES = 16
ENTRY_BYTES = 32
"""What an entry takes besides its key and value, generously."""

_LENGTH = struct.Struct(">I")
_SPAN = struct.Struct(">QQQ")


class BadBatch(StoreUnavailable):
    """What came is not what comes next; nothing of it was kept."""


class Batch(Struct, frozen=True, array_like=True):
    """A stretch of the log, as it travels; `records` is a MessagePack array of entries."""

    origin: int
    from_seq: int
    to_seq: int
    records: msgspec.Raw
    digest: bytes


class Stretch(NamedTuple):
    """A stretch of the log, as a follower takes it: after it, it has everything up to `to_seq`.

    `newest` is the newest sequence its source is known to have."""

    entries: list[Entry]
    to_seq: int
    newest: int


def frame(from_seq: int, to_seq: int, entries: Sequence[Entry], origin: int = ORIGIN) -> bytes:
    """Return a batch as it goes over the wire."""
    records = msgspec.msgpack.encode(entries)
    digest = _digest(origin, from_seq, to_seq, records)
    batch = Batch(origin, from_seq, to_seq, msgspec.Raw(records), digest)
    body = msgspec.msgpack.encode(batch)
    return _LENGTH.pack(len(body)) + body


def _digest(origin: int, from_seq: int, to_seq: int, records: bytes | memoryview) -> bytes:
    made = hashlib.blake2b(_SPAN.pack(origin, from_seq, to_seq), digest_size=DIGEST_BYTES)
    made.update(records)
    return made.digest()


def entry_bytes(entry: Entry) -> int:
    """Return about how many bytes an entry takes in a frame."""
    return ENTRY_BYTES + len(entry.key) + len(entry.value or b"")


class Frames:
    """Cuts a stream of bytes, in whatever pieces it comes, into frames' bodies."""

    def __init__(self, frame_bytes_max: int) -> None:
        self._bytes_max = frame_bytes_max
        self._held = bytearray()

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Take a piece; yield the bodies that are complete now. BadBatch for one too long."""
        self._held += piece
        while len(self._held) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._held)
            if length > self._bytes_max:
                raise BadBatch(f"A batch of {length:,} bytes came; {self._bytes_max:,} may.")
            end = _LENGTH.size + length
            if len(self._held) < end:
                return
            body = bytes(self._held[_LENGTH.size : end])
            del self._held[:end]
            yield body


class Reading:
    """One stream's batches, checked one after the other from the sequence it was asked for."""

    def __init__(self, after_seq: int) -> None:
        self.seq = after_seq
        self.newest = 0

    def take(self, body: bytes) -> Stretch:
        """Return what a frame's body says. BadBatch when it is damaged or not what comes next."""
        batch, entries = _decoded(body)
        if batch.from_seq == batch.to_seq:
            if entries:
                raise BadBatch(f"A sign of life at {batch.to_seq} carries records.")
            self.newest = max(self.newest, batch.to_seq)
            return Stretch([], self.seq, self.newest)
        if batch.from_seq < batch.to_seq <= self.seq:
            return Stretch([], self.seq, self.newest)
        if batch.from_seq != self.seq or batch.to_seq < batch.from_seq:
            raise BadBatch(
                f"A batch of ({batch.from_seq}, {batch.to_seq}] came where what follows"
                f" {self.seq} should."
            )
        seqs = [batch.from_seq, *(entry.seq for entry in entries), batch.to_seq + 1]
        if any(a >= b for a, b in itertools.pairwise(seqs)):
            raise BadBatch(f"The batch up to {batch.to_seq} is not in order.")
        self.seq = batch.to_seq
        self.newest = max(self.newest, batch.to_seq)
        return Stretch(entries, self.seq, self.newest)


def _decoded(body: bytes) -> tuple[Batch, list[Entry]]:
    try:
        batch = msgspec.msgpack.decode(body, type=Batch)
        if batch.digest != _digest(batch.origin, batch.from_seq, batch.to_seq, batch.records):
            raise BadBatch(f"The batch up to {batch.to_seq} was changed on its way.")
        if batch.origin != ORIGIN:
            raise BadBatch(f"The batch up to {batch.to_seq} is another log's ({batch.origin}).")
        return batch, msgspec.msgpack.decode(batch.records, type=list[Entry])
    except (msgspec.MsgspecError, struct.error) as error:
        raise BadBatch(f"What came is no batch: {error}.") from error
