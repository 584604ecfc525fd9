"""One key of a KV namespace, as the log and this machine's copy hold it. Pure.

An entry is a head (all but the value) and the value, so that a list reads heads alone. A value above
`kv_inline_bytes_max` is a blob, which the head names. The end of a key is an entry too, and so is
the end of a whole namespace (`key` empty: no key of a worker is).
"""

import hashlib
import struct
import zlib
from typing import NamedTuple

import msgspec
from msgspec import Struct

SUBJECTS = "kv."
"""Of the log: `kv.<namespace>.<digest of the key>`."""
ENDED = "ended"
"""`kv.ended.<namespace>` is the end of a namespace; none has that id."""
_SIZES = struct.Struct(">I")
_ROW = struct.Struct(">QII")


class Head(Struct, frozen=True, array_like=True):
    """What a key has beside its value. `expiration` in Unix seconds, 0: never. `metadata` is JSON,
    as the worker wrote it; empty: none. `blob` is a digest, empty: the value is inline."""

    key: bytes
    expiration: int = 0
    metadata: bytes = b""
    blob: str = ""
    size: int = 0
    ended: bool = False

    def is_over(self, now: float) -> bool:
        """Tell whether the key is not there any more."""
        return self.ended or (self.expiration != 0 and self.expiration <= now)


class Entry(NamedTuple):
    """A key and its value (empty for a blob's)."""

    head: Head
    value: bytes = b""


class Written(NamedTuple):
    """An entry as it stands in the log."""

    seq: int
    namespace: str
    entry: Entry


class NotAnEntry(Exception):
    """Bytes that are no entry, or not the one that was written."""


_heads = msgspec.msgpack.Decoder(Head)


def subject(namespace: str, key: bytes) -> str:
    """Return where in the log a key is; for the empty key the namespace's own end."""
    if not key:
        return f"{SUBJECTS}{ENDED}.{namespace}"
    return f"{SUBJECTS}{namespace}.{hashlib.sha256(key).hexdigest()[:40]}"


def subjects_of(namespace: str) -> str:
    """Return where all keys of a namespace are."""
    return f"{SUBJECTS}{namespace}.>"


def namespace_of(told: str) -> str:
    """Return whose a subject is."""
    first, _, rest = told.removeprefix(SUBJECTS).partition(".")
    return rest if first == ENDED else first


def encode(entry: Entry) -> bytes:
    """Return an entry as the log holds it."""
    head = msgspec.msgpack.encode(entry.head)
    return b"".join((_SIZES.pack(len(head)), head, entry.value))


def decode(body: bytes | memoryview) -> Entry:
    """Read an entry of the log. Raises NotAnEntry."""
    try:
        (size,) = _SIZES.unpack_from(body)
        rest = _SIZES.size + size
        return Entry(_heads.decode(body[_SIZES.size : rest]), bytes(body[rest:]))
    except (struct.error, msgspec.MsgspecError) as error:
        raise NotAnEntry(str(error)) from None


def encode_row(seq: int, entry: Entry) -> bytes:
    """Return an entry as the copy holds it: with its sequence, and a checksum of each part."""
    body = encode(entry)
    cut = len(body) - len(entry.value)
    return _ROW.pack(seq, _of_head(seq, body[:cut]), zlib.crc32(entry.value)) + body


def _of_head(seq: int, head: bytes | memoryview) -> int:
    return zlib.crc32(head, zlib.crc32(seq.to_bytes(8, "big")))


def row_seq(row: bytes | memoryview) -> int:
    """Return the sequence of a row."""
    return int(_ROW.unpack_from(row)[0])


def row_head(row: bytes | memoryview) -> Head:
    """Return a row's head. Raises NotAnEntry when it is not what was written."""
    return _checked_head(row)[0]


def row_entry(row: bytes | memoryview) -> Entry:
    """Return a whole row. Raises NotAnEntry when it is not what was written."""
    head, rest, check = _checked_head(row)
    value = bytes(row[rest:])
    if zlib.crc32(value) != check:
        raise NotAnEntry("the value's checksum is another one")
    return Entry(head, value)


def _checked_head(row: bytes | memoryview) -> tuple[Head, int, int]:
    try:
        seq, of_head, of_value = _ROW.unpack_from(row)
        (size,) = _SIZES.unpack_from(row, _ROW.size)
        rest = _ROW.size + _SIZES.size + size
        if _of_head(seq, row[_ROW.size : rest]) != of_head:
            raise NotAnEntry("the head's checksum is another one")
        return _heads.decode(row[_ROW.size + _SIZES.size : rest]), rest, of_value
    except (struct.error, msgspec.MsgspecError) as error:
        raise NotAnEntry(str(error)) from None
