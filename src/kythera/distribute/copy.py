"""This machine's own copy of the records, in LMDB: read in microseconds, there without the log.

Promises: `apply` is atomic and in order; a batch outlives this process at once, and a loss of power
may take back the last one alone (the log gives it again); what was applied before is skipped, so
replays are harmless; readers in other processes see a batch whole, as soon as it is applied. Each row carries a checksum; damage is reported, never served. `replace` puts a snapshot in
the place of all records in one step too: a reader sees the old state or the new one, and by the
copy's generation that it is another one; a crash leaves the old.
A value that nobody here can read (a newer Kythera wrote it) is kept as it is, and beside it the last
one of its key that could be read: that is what a restarted reader still goes by.
Refuses: an older or newer format, a copy whose own bookkeeping is damaged, batches out of order.

Rows: `records` key → sequence, flag, checksum, value; `order` sequence → key; `kept` key → the last
readable row where the newest is not; `about` one row for what was applied, and one each for `generation` and `whole` once they are said.
"""

import contextlib
import itertools
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import anyio
import lmdb

from kythera.distribute.batch import Stretch, entry_bytes
from kythera.distribute.log import Entry
from kythera.model.errors import StoreUnavailable

MAP_BYTES_MAX = 4 * 1024 * 1024 * 1024
"""Address space, not disk: the file grows with what is in it."""
FORMAT = 1
ABOUT = b"about"
KEPT = b"kept"
GENERATION = b"generation"
WHOLE = b"whole"
POLL_MS = 20
REBUILD = "Stop the platform, remove this folder and start again: the log fills a new copy."

_ROW = struct.Struct(">QBI")
_ABOUT = struct.Struct(">4sHQ")
_SEQ = struct.Struct(">Q")
_CHECK = struct.Struct(">I")
_MAGIC = b"KYTH"
_TOMBSTONE, _VALUE = 0, 1


def encode_about(applied_seq: int) -> bytes:
    """Return the copy's bookkeeping: magic, format, applied sequence, checksum (pure)."""
    body = _ABOUT.pack(_MAGIC, FORMAT, applied_seq)
    return body + _CHECK.pack(zlib.crc32(body))


def decode_about(row: bytes | None, path: Path) -> int:
    """Return the applied sequence; StoreUnavailable when the bookkeeping is not what was written."""
    if row is None or len(row) != _ABOUT.size + _CHECK.size:
        raise StoreUnavailable(f"The records' copy at {path} is damaged.", remedy=REBUILD)
    body, check = row[: _ABOUT.size], row[_ABOUT.size :]
    if _CHECK.unpack(check)[0] != zlib.crc32(body):
        raise StoreUnavailable(f"The records' copy at {path} is damaged.", remedy=REBUILD)
    magic, version, applied_seq = _ABOUT.unpack(body)
    if magic != _MAGIC or version != FORMAT:
        raise StoreUnavailable(
            f"The records' copy at {path} has format {version}; this is {FORMAT}.", remedy=REBUILD
        )
    return int(applied_seq)


def encode_row(entry: Entry) -> bytes:
    """Return an entry as its key's row (pure)."""
    flag = _TOMBSTONE if entry.value is None else _VALUE
    value = entry.value or b""
    return _ROW.pack(entry.seq, flag, _checksum(entry.key, entry.seq, flag, value)) + value


def decode_row(key: str, row: bytes, path: Path) -> Entry:
    """Read a row back; StoreUnavailable when it is not what was written."""
    if len(row) >= _ROW.size:
        seq, flag, check = _ROW.unpack_from(row)
        value = row[_ROW.size :]
        if check == _checksum(key, seq, flag, value):
            return Entry(seq, key, value if flag == _VALUE else None)
    raise StoreUnavailable(f"Record {key} in the copy at {path} is damaged.", remedy=REBUILD)


def _checksum(key: str, seq: int, flag: int, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(f"{key} {seq} {flag} ".encode()))


class Changes(NamedTuple):
    """What a reader has missed. `anew`: the records were replaced as a whole since it last looked,
    and `entries` is all there is. `kept`: what could still be read of keys whose newest value cannot
    be, for a reader that begins anew; to be taken before `entries`."""

    generation: int
    applied_seq: int
    anew: bool
    entries: list[Entry]
    kept: Sequence[Entry] = ()


Readable = Callable[[str, bytes], bool]
"""Tells whether this Kythera understands a record's value."""


class Copy:
    """One open copy: one writer (the agent), any number of readers. Not opened twice in a process."""

    def __init__(
        self,
        path: Path,
        *,
        readonly: bool = False,
        map_bytes_max: int = MAP_BYTES_MAX,
        readable: Readable | None = None,
    ) -> None:
        self.path = path
        self._readable = readable
        self._readonly = readonly
        self._kept: lmdb._Database | None = None
        try:
            if not readonly:
                path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._environment = lmdb.open(
                str(path),
                map_size=map_bytes_max,
                max_dbs=4,
                readonly=readonly,
                create=not readonly,
                mode=0o600,
                metasync=False,
            )
        except (lmdb.Error, OSError) as error:
            raise StoreUnavailable(
                f"The records' copy at {path} cannot be opened: {error}."
            ) from error
        try:
            self._prepare()
        except BaseException:
            self._environment.close()
            raise

    def _prepare(self) -> None:
        try:
            if not self._readonly:
                self._environment.reader_check()
                self._create()
            self._records = self._environment.open_db(b"records", create=False)
            self._order = self._environment.open_db(b"order", create=False)
            self._about = self._environment.open_db(ABOUT, create=False)
        except (lmdb.Error, OSError) as error:
            raise StoreUnavailable(
                f"The records' copy at {self.path} cannot be read: {error}."
            ) from error
        self.applied_seq()
        with contextlib.suppress(lmdb.NotFoundError):  # its writer is older than we are
            self._kept = self._environment.open_db(KEPT, create=False)

    def _create(self) -> None:
        with self._environment.begin(write=True) as transaction:
            rows = 0
            for name in (b"records", b"order", ABOUT):
                made = self._environment.open_db(name, txn=transaction)
                rows += transaction.stat(made)["entries"]
            if rows == 0:
                transaction.put(ABOUT, encode_about(0), db=made)
            self._environment.open_db(KEPT, txn=transaction)

    @contextmanager
    def _reading(self) -> Iterator["lmdb.Transaction[bytes]"]:
        try:
            with self._environment.begin() as transaction:
                yield transaction
        except lmdb.Error as error:
            raise StoreUnavailable(
                f"The records' copy at {self.path} cannot be read: {error}."
            ) from error

    def applied_seq(self) -> int:
        """Return the newest sequence number that has been applied, 0 for an empty copy."""
        with self._reading() as transaction:
            return decode_about(transaction.get(ABOUT, db=self._about), self.path)

    def get(self, key: str) -> tuple[int, bytes | None] | None:
        """Return a record's sequence and value (None: it has ended), or None if it never was."""
        with self._reading() as transaction:
            row = transaction.get(key.encode(), db=self._records)
        if row is None:
            return None
        entry = decode_row(key, row, self.path)
        return entry.seq, entry.value

    def changes_after(self, seq: int) -> list[Entry]:
        """Return the current entries with a sequence above `seq`, in order, tombstones included."""
        with self._reading() as transaction:
            return list(self._after(transaction, seq))

    def changes_since(self, generation: int, seq: int) -> Changes:
        """Return what a reader has missed that had folded `generation` up to `seq`."""
        with self._reading() as transaction:
            current = self._number(transaction, GENERATION)
            done = decode_about(transaction.get(ABOUT, db=self._about), self.path)
            anew = current != generation or done < seq
            entries = list(self._after(transaction, 0 if anew else seq))
            kept = self._still_kept(transaction) if anew or seq == 0 else []
            return Changes(current, done, anew, entries, kept)

    def _still_kept(self, transaction: "lmdb.Transaction[bytes]") -> list[Entry]:
        if self._kept is None:
            return []
        rows = transaction.cursor(db=self._kept)
        return [decode_row(key.decode(errors="replace"), row, self.path) for key, row in rows]

    def batch_after(self, seq: int, bytes_max: int) -> Stretch:
        """Return what follows `seq`, up to about `bytes_max` (one entry at least): for relaying."""
        with self._reading() as transaction:
            done = decode_about(transaction.get(ABOUT, db=self._about), self.path)
            found: list[Entry] = []
            size = 0
            for entry in self._after(transaction, seq):
                size += entry_bytes(entry)
                if found and size > bytes_max:
                    return Stretch(found, found[-1].seq, done)
                found.append(entry)
        return Stretch(found, max(seq, done), done)

    def _after(self, transaction: "lmdb.Transaction[bytes]", seq: int) -> Iterator[Entry]:
        cursor = transaction.cursor(db=self._order)
        if not cursor.set_range(_SEQ.pack(seq + 1)):
            return
        for _, key in cursor.iternext():
            row = transaction.get(key, db=self._records)
            name = key.decode(errors="replace")  # a damaged key fails its row's checksum
            yield decode_row(name, row or b"", self.path)

    def entries(self) -> Iterator[Entry]:
        """Yield all current entries in order, tombstones included, as of one moment."""
        with self._reading() as transaction:
            yield from self._after(transaction, 0)

    def generation(self) -> int:
        """Return how often the records were replaced as a whole."""
        with self._reading() as transaction:
            return self._number(transaction, GENERATION)

    def is_whole(self) -> bool:
        """Tell whether this copy has once had everything its source had: it may be relied on."""
        with self._reading() as transaction:
            return transaction.get(WHOLE, db=self._about) is not None

    def mark_whole(self) -> None:
        """Note for ever that this copy has once had everything."""
        with self._writing() as transaction:
            transaction.put(WHOLE, b"1", db=self._about)

    def apply(self, entries: Sequence[Entry], to_seq: int = 0) -> list[Entry]:
        """Take a batch of the log: all of it or nothing. Returns what had not been applied before.

        Entries come in ascending order of `seq`; those at or below `applied_seq` are skipped.
        `to_seq`: the batch says all that happened up to there, whether or not an entry has just
        that number.
        """
        assert all(a.seq < b.seq for a, b in itertools.pairwise(entries)), "disordered"
        with self._writing() as transaction:
            done = decode_about(transaction.get(ABOUT, db=self._about), self.path)
            fresh = [entry for entry in entries if entry.seq > done]
            for entry in fresh:
                self._put(transaction, entry)
            now = max(to_seq, fresh[-1].seq if fresh else 0)
            if now > done:
                transaction.put(ABOUT, encode_about(now), db=self._about)
        return fresh

    def replace(self, entries: Iterable[Entry], applied_seq: int) -> None:
        """Forget all records and take these, which are everything up to `applied_seq`, instead."""
        with self._writing() as transaction:
            for table in (self._records, self._order):
                transaction.drop(table, delete=False)
            for entry in entries:
                assert entry.seq <= applied_seq, "a snapshot that holds more than it says"
                self._put(transaction, entry)
            for kept in self._still_kept(transaction):
                if transaction.get(kept.key.encode(), db=self._records) is None:
                    transaction.delete(kept.key.encode(), db=self._kept)
            transaction.put(ABOUT, encode_about(applied_seq), db=self._about)
            generation = self._number(transaction, GENERATION) + 1
            transaction.put(GENERATION, _SEQ.pack(generation), db=self._about)

    def prune(self, horizon: int) -> int:
        """Forget the ends of records (tombstones) at or below `horizon`; return how many."""
        with self._writing() as transaction:
            ended = [
                entry
                for entry in itertools.takewhile(
                    lambda entry: entry.seq <= horizon, self._after(transaction, 0)
                )
                if entry.value is None
            ]
            for entry in ended:
                transaction.delete(entry.key.encode(), db=self._records)
                transaction.delete(_SEQ.pack(entry.seq), db=self._order)
        return len(ended)

    def _number(self, transaction: "lmdb.Transaction[bytes]", name: bytes) -> int:
        row = transaction.get(name, db=self._about)
        return 0 if row is None else int(_SEQ.unpack(row)[0])

    @contextmanager
    def _writing(self) -> Iterator["lmdb.Transaction[bytes]"]:
        try:
            with self._environment.begin(write=True) as transaction:
                yield transaction
        except (lmdb.Error, OSError) as error:
            raise StoreUnavailable(
                f"The records' copy at {self.path} could not be written: {error}.",
                remedy="Free space on its disk; nothing of this batch was kept, it comes again.",
            ) from error

    def _put(self, transaction: "lmdb.Transaction[bytes]", entry: Entry) -> None:
        key = entry.key.encode()
        older = transaction.get(key, db=self._records)
        if older is not None:
            transaction.delete(older[: _SEQ.size], db=self._order)
        self._keep(transaction, entry, older)
        transaction.put(key, encode_row(entry), db=self._records)
        last = transaction.put(_SEQ.pack(entry.seq), key, db=self._order, append=True)
        assert last, "an entry below one that is there"

    def _keep(
        self, transaction: "lmdb.Transaction[bytes]", entry: Entry, older: bytes | None
    ) -> None:
        """Keep what could be read last when the new value cannot be; forget it when it can."""
        if self._readable is None:
            return
        key = entry.key.encode()
        if entry.value is None or self._readable(entry.key, entry.value):
            transaction.delete(key, db=self._kept)
            return
        before = None if older is None else decode_row(entry.key, older, self.path).value
        if older is not None and before is not None and self._readable(entry.key, before):
            transaction.put(key, older, db=self._kept)

    def close(self) -> None:
        """Let go of the files. Nothing is lost."""
        if not self._readonly:
            self._environment.sync(True)
        self._environment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


async def open_for_reading(path: Path, within_ms: int) -> Copy:
    """Open a copy that another process writes, waiting for that process to have made it."""
    failure: StoreUnavailable | None = None
    with anyio.move_on_after(within_ms / 1000):
        while True:
            try:
                return Copy(path, readonly=True)
            except StoreUnavailable as error:
                failure = error
            await anyio.sleep(POLL_MS / 1000)
    raise StoreUnavailable(
        f"This machine's copy of the records was not there within {within_ms} ms: {failure}",
        remedy="The agent makes it when it starts: look at its events.",
    )


async def wait_applied(copy: Copy, seq: int, within_ms: int) -> None:
    """Wait until the copy has applied `seq`, so that what was just written can be read."""
    pause_ms = 0.5
    with anyio.move_on_after(within_ms / 1000):
        while copy.applied_seq() < seq:
            await anyio.sleep(pause_ms / 1000)
            pause_ms = min(pause_ms * 1.5, POLL_MS)
        return
    raise StoreUnavailable(
        f"This machine's copy has not caught up with record {seq} within {within_ms} ms.",
        remedy="The write is safe in the log. Look at the agent's events.",
    )
