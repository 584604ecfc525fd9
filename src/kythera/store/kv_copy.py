"""This machine's copy of KV, in LMDB: reads are answered from it, in microseconds.

Promises: a key shows what the log has last, whichever way that came here first (an acknowledgement
of this machine's own write, or the log's feed); lists are in the order of keys' bytes; a key that
has expired is not shown, and is reclaimed later (`sweep`); damage is reported, never served.
The copy is not synced to the disk, for the log is: it outlives this process, and after a start of
the machine it is in doubt (`in_doubt`) and made anew from the log, as it is when it has not heard of
the log for so long that the log may have forgotten which keys ended. Where the log itself is new, as
in a restored state folder, the copy is what the log is filled from (`everything`).

Rows: `rows` namespace and key → sequence, checksums, entry; `expires` expiration and sequence → key
of the row; `blobs` digest and sequence → nothing; `ended` namespace → sequence; `about` a few facts.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import lmdb

from kythera.model.errors import StoreUnavailable
from kythera.store.kv_entry import (
    Entry,
    Head,
    NotAnEntry,
    Written,
    encode_row,
    row_entry,
    row_head,
    row_seq,
)

FORMAT = b"1"
NAMESPACE_BYTES = 16
PLAIN_KEY_BYTES_MAX = 495
"""With a namespace 511 bytes, the most that LMDB takes."""
CUT_KEY_BYTES = 462
"""A longer key has its row under its beginning, a byte that no key has, and its digest."""
NO_KEYS_BYTE = b"\xff"
_NUMBER = struct.Struct(">Q")
_PAIR = struct.Struct(">QQ")


class Listed(NamedTuple):
    """One key in a list."""

    name: bytes
    expiration: int
    metadata: bytes


class Page(NamedTuple):
    """A part of a list; `cursor` is where the next begins, empty at the end."""

    keys: list[Listed]
    cursor: bytes


def row_key(namespace: bytes, key: bytes) -> bytes:
    """Return where a key's row is (pure)."""
    if len(key) <= PLAIN_KEY_BYTES_MAX:
        return namespace + key
    return namespace + key[:CUT_KEY_BYTES] + NO_KEYS_BYTE + hashlib.sha256(key).digest()


class KvCopy:
    """One open copy, of one process."""

    def __init__(self, path: Path, *, boot: str, bytes_max: int) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._environment = lmdb.open(
                str(path), map_size=bytes_max, max_dbs=5, mode=0o600, sync=False
            )
            self._environment.reader_check()
            names = (b"rows", b"expires", b"blobs", b"ended", b"about")
            self._rows, self._expires, self._blobs, self._ended, self._about = (
                self._environment.open_db(name) for name in names
            )
        except (lmdb.Error, OSError) as error:
            raise StoreUnavailable(f"KV's copy at {path} cannot be opened: {error}.") from error
        self._gone: dict[bytes, int] = {}
        self._boot = boot.encode()
        if self._fact(b"format") != FORMAT:
            self.clear()
        self._gone = self._read_ended()

    def close(self) -> None:
        """Close it."""
        self._environment.close()

    # -- what is known of the log --------------------------------------------------------------

    def applied_seq(self) -> int:
        """Return up to where the log's feed has been applied."""
        found = self._fact(b"applied")
        return 0 if found is None else int(_NUMBER.unpack(found)[0])

    def source(self) -> str:
        """Return which stream the copy is made from; empty: none yet."""
        return (self._fact(b"source") or b"").decode()

    def note_source(self, source: str) -> None:
        """Note which stream the copy is made from."""
        with self._writing() as transaction:
            transaction.put(b"source", source.encode(), db=self._about)

    def heard_at(self) -> float:
        """Return when it was last noted that the copy is in step with the log (Unix seconds)."""
        found = self._fact(b"heard")
        return 0.0 if found is None else float(_NUMBER.unpack(found)[0])

    def note_heard(self, now: float) -> None:
        """Note that the copy is in step with the log, and therefore whole."""
        with self._writing() as transaction:
            transaction.put(b"heard", _NUMBER.pack(int(now)), db=self._about)

    def in_doubt(self) -> bool:
        """Tell whether a loss of power may have damaged the copy."""
        return self._fact(b"boot") != self._boot

    def is_whole(self) -> bool:
        """Tell whether the copy has once had everything, and may be relied on."""
        return self._fact(b"heard") is not None and not self.in_doubt()

    def refilled(self) -> str:
        """Return which stream is being filled from this copy; empty: none."""
        return (self._fact(b"refilled") or b"").decode()

    def note_refilled(self, source: str) -> None:
        """Note which stream is being filled from this copy."""
        with self._writing() as transaction:
            transaction.put(b"refilled", source.encode(), db=self._about)

    def clear(self) -> None:
        """Forget everything; the log gives it again."""
        with self._writing() as transaction:
            for table in (self._rows, self._expires, self._blobs, self._ended, self._about):
                transaction.drop(table, delete=False)
            transaction.put(b"format", FORMAT, db=self._about)
            transaction.put(b"boot", self._boot, db=self._about)
        self._gone = {}

    # -- reading -------------------------------------------------------------------------------

    def has_ended(self, namespace: bytes) -> bool:
        """Tell whether a namespace was deleted."""
        return namespace in self._gone

    def get(self, namespace: bytes, key: bytes, now: float) -> Entry | None:
        """Return a key; None when it is not there (any more)."""
        with self._reading() as transaction:
            row = transaction.get(row_key(namespace, key), db=self._rows)
            if row is None:
                return None
            entry = row_entry(row)
        return None if entry.head.is_over(now) else entry

    def page(self, namespace: bytes, prefix: bytes, cursor: bytes, limit: int, now: float) -> Page:
        """Return up to `limit` keys that begin with `prefix`, after `cursor`, in order."""
        begin = namespace + prefix[:CUT_KEY_BYTES]
        found: list[Listed] = []
        last = b""
        with self._reading() as transaction:
            for place, row in self._from(transaction, begin, namespace + cursor):
                head = row_head(row)
                if head.is_over(now) or not head.key.startswith(prefix):
                    continue
                if len(found) == limit:
                    return Page(found, last)
                found.append(Listed(head.key, head.expiration, head.metadata))
                last = place[NAMESPACE_BYTES:]
        return Page(found, b"")

    def _from(
        self, transaction: "lmdb.Transaction[memoryview]", begin: bytes, after: bytes
    ) -> Iterator[tuple[bytes, memoryview]]:
        """Yield rows whose place begins with `begin`, after `after`."""
        cursor = transaction.cursor(db=self._rows)
        there = cursor.set_range(max(begin, after))
        while there:
            place = bytes(cursor.key())
            if not place.startswith(begin):
                return
            if place > after:
                yield place, cursor.value()
            there = cursor.next()

    def blobs_named(self) -> set[str]:
        """Return the digests of all values that are blobs."""
        with self._reading() as transaction:
            cursor = transaction.cursor(db=self._blobs)
            return {bytes(place[:32]).hex() for place in cursor.iternext(values=False)}

    def everything(self, now: float) -> Iterator[tuple[str, Entry]]:
        """Yield what there is, as it would have to be written to a new log: by namespace; first the
        namespaces that have ended."""
        for namespace in self._gone:
            yield namespace.hex(), Entry(Head(b"", ended=True))
        with self._reading() as transaction:
            for place, row in transaction.cursor(db=self._rows):
                entry = row_entry(row)
                if not entry.head.is_over(now):
                    yield bytes(place[:NAMESPACE_BYTES]).hex(), entry

    # -- writing -------------------------------------------------------------------------------

    def take(self, written: Written) -> None:
        """Take one write that the log has acknowledged; older news than is known change nothing."""
        with self._writing() as transaction:
            if written.seq > self._number(transaction, b"applied"):
                self._put(transaction, written, keep_end=True)

    def apply(self, batch: Sequence[Written], to_seq: int) -> None:
        """Take what the log's feed brings, in order: all of it, up to `to_seq`, or nothing."""
        with self._writing() as transaction:
            for written in batch:
                self._put(transaction, written, keep_end=False)
            if to_seq > self._number(transaction, b"applied"):
                transaction.put(b"applied", _NUMBER.pack(to_seq), db=self._about)

    def sweep(self, now: float, keys_max: int) -> int:
        """Reclaim keys that have expired, `keys_max` at most; return how many."""
        with self._writing() as transaction:
            cursor = transaction.cursor(db=self._expires)
            due: list[tuple[bytes, bytes]] = []
            for expires, row in cursor:
                if _PAIR.unpack(expires)[0] > now or len(due) == keys_max:
                    break
                due.append((bytes(expires), bytes(row)))
            for when, place in due:
                self._remove(transaction, place, only_seq=_PAIR.unpack(when)[1])
                transaction.delete(when, db=self._expires)
        return len(due)

    def _put(
        self, transaction: "lmdb.Transaction[memoryview]", written: Written, *, keep_end: bool
    ) -> None:
        namespace, head = bytes.fromhex(written.namespace), written.entry.head
        if not head.key:
            self._end(transaction, namespace, written.seq)
            return
        if namespace in self._gone:
            return
        place = row_key(namespace, head.key)
        before = transaction.get(place, db=self._rows)
        if before is not None and row_seq(before) > written.seq:
            return
        self._remove(transaction, place)
        if head.ended and not keep_end:
            return  # the feed is past everything that came before this end
        transaction.put(place, encode_row(written.seq, written.entry), db=self._rows)
        if head.expiration:
            transaction.put(_PAIR.pack(head.expiration, written.seq), place, db=self._expires)
        if head.blob:
            transaction.put(_blob_place(head, written.seq), b"", db=self._blobs)

    def _remove(
        self, transaction: "lmdb.Transaction[memoryview]", place: bytes, only_seq: int | None = None
    ) -> None:
        row = transaction.get(place, db=self._rows)
        if row is None or only_seq not in (None, row_seq(row)):
            return
        head, seq = row_head(row), row_seq(row)
        if head.expiration:
            transaction.delete(_PAIR.pack(head.expiration, seq), db=self._expires)
        if head.blob:
            transaction.delete(_blob_place(head, seq), db=self._blobs)
        transaction.delete(place, db=self._rows)

    def _end(self, transaction: "lmdb.Transaction[memoryview]", namespace: bytes, seq: int) -> None:
        """Forget a namespace and note that it has ended: its id is never given again."""
        places = [place for place, _ in self._from(transaction, namespace, b"")]
        for place in places:
            self._remove(transaction, place)
        transaction.put(namespace, _NUMBER.pack(seq), db=self._ended)
        self._gone[namespace] = seq

    # -- LMDB ----------------------------------------------------------------------------------

    def _read_ended(self) -> dict[bytes, int]:
        with self._reading() as transaction:
            rows: Iterable[tuple[memoryview, memoryview]] = transaction.cursor(db=self._ended)
            return {bytes(place): int(_NUMBER.unpack(row)[0]) for place, row in rows}

    def _fact(self, name: bytes) -> bytes | None:
        with self._reading() as transaction:
            found = transaction.get(name, db=self._about)
            return None if found is None else bytes(found)

    def _number(self, transaction: "lmdb.Transaction[memoryview]", name: bytes) -> int:
        row = transaction.get(name, db=self._about)
        return 0 if row is None else int(_NUMBER.unpack(row)[0])

    @contextmanager
    def _reading(self) -> Iterator["lmdb.Transaction[memoryview]"]:
        try:
            with self._environment.begin(buffers=True) as transaction:
                yield transaction
        except (lmdb.Error, NotAnEntry) as error:
            raise self._damaged("read", error) from error

    @contextmanager
    def _writing(self) -> Iterator["lmdb.Transaction[memoryview]"]:
        try:
            with self._environment.begin(write=True, buffers=True) as transaction:
                yield transaction
        except (lmdb.Error, NotAnEntry, OSError) as error:
            raise self._damaged("written", error) from error

    def _damaged(self, what: str, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(
            f"KV's copy at {self.path} cannot be {what}: {error}.",
            remedy="Free space on its disk; or remove the folder: the log fills a new copy.",
        )


def _blob_place(head: Head, seq: int) -> bytes:
    return bytes.fromhex(head.blob) + _NUMBER.pack(seq)
